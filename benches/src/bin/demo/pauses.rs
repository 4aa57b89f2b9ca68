//! How long writes paused: gaps between acknowledged commits. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// When the answer came.
    pub at: Instant,
    /// The region that answered.
    pub region: u64,
}

/// What a store's death did to the writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The longest time without any acknowledged commit in the whole cluster.
    pub overall: Duration,
    /// The longest in one region, for the regions that the dead store led.
    pub affected_longest: Duration,
    /// The median over these regions of each one's longest.
    pub affected_median: Duration,
    /// The longest in one region, for all the others.
    pub others_longest: Duration,
    /// Affected regions in which writes never resumed.
    pub not_resumed: Vec<u64>,
}

/// Looks at `acknowledged` (any order) from just before `killed` on. `affected` are the regions
/// that the dead store led.
pub fn measure(acknowledged: &[Acknowledged], killed: Instant, affected: &[u64]) -> Pauses {
    let mut by_region: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    let mut all = Vec::with_capacity(acknowledged.len());
    for one in acknowledged {
        by_region.entry(one.region).or_default().push(one.at);
        all.push(one.at);
    }
    let longest = |region: &u64| {
        by_region.get(region).map_or(Duration::ZERO, |times| longest_gap(times.clone(), killed))
    };
    let mut affected_gaps: Vec<Duration> = affected.iter().map(longest).collect();
    affected_gaps.sort_unstable();
    let resumed = |region: &u64| {
        by_region.get(region).is_some_and(|times| times.iter().any(|at| *at > killed))
    };
    Pauses {
        overall: longest_gap(all, killed),
        affected_longest: affected_gaps.last().copied().unwrap_or_default(),
        affected_median: affected_gaps.get(affected_gaps.len() / 2).copied().unwrap_or_default(),
        others_longest: by_region
            .keys()
            .filter(|region| !affected.contains(region))
            .map(longest)
            .max()
            .unwrap_or_default(),
        not_resumed: affected.iter().copied().filter(|region| !resumed(region)).collect(),
    }
}

/// The longest gap between neighbours that ends after `killed`.
fn longest_gap(mut times: Vec<Instant>, killed: Instant) -> Duration {
    times.sort_unstable();
    let gaps = times.windows(2).filter(|pair| pair[1] > killed);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_told_apart_by_region() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ack = |region, ms| Acknowledged { at: at(ms), region };
        // Region 1 loses its leader at 100 and resumes at 1,300; region 2 goes on.
        let acks = [
            ack(1, 0),
            ack(1, 90),
            ack(1, 1300),
            ack(2, 0),
            ack(2, 500),
            ack(2, 600),
            ack(2, 1310),
        ];
        let pauses = measure(&acks, at(100), &[1]);
        assert_eq!(pauses.overall, Duration::from_millis(700));
        assert_eq!(pauses.affected_longest, Duration::from_millis(1210));
        assert_eq!(pauses.affected_median, Duration::from_millis(1210));
        assert_eq!(pauses.others_longest, Duration::from_millis(710));
        assert!(pauses.not_resumed.is_empty());
    }

    #[test]
    fn a_region_without_later_commits_has_not_resumed() {
        let start = Instant::now();
        let acks = [Acknowledged { at: start, region: 7 }];
        let pauses = measure(&acks, start + Duration::from_millis(1), &[7, 8]);
        assert_eq!(pauses.not_resumed, [7, 8]);
        assert_eq!(pauses.overall, Duration::ZERO);
    }
}
