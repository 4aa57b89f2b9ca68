//! What a store tells placement of its regions: everything once, then what has changed.

use crate::kv::{Epoch, KvStateMachine};
use flotilla_placement::pb;
use flotilla_raftstore::Store;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The regions of a store at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// Those that it leads, with term and epoch.
    leading: BTreeMap<u64, (u64, Epoch)>,
    /// Those that it holds a replica of.
    hosted: BTreeSet<u64>,
}

/// Counters of what [`Regions::of`] looks at: the same while nothing is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    groups: u64,
    regions: u64,
}

impl Version {
    /// To be read before the regions are: what changes in between is seen next time.
    pub fn of(store: &Store, machine: &KvStateMachine) -> Version {
        Version { groups: store.changes(), regions: machine.changes() }
    }
}

impl Regions {
    /// As they are now. Goes through all of them.
    pub fn of(store: &Store, machine: &KvStateMachine) -> Regions {
        let known: FxHashMap<_, _> = machine
            .epochs()
            .into_iter()
            .map(|(group, region, epoch)| (group, (region, epoch)))
            .collect();
        let mut regions = Regions::default();
        for view in store.groups() {
            let Some((region, epoch)) = known.get(&view.record.desc.group) else { continue };
            regions.hosted.insert(*region);
            if view.leading {
                regions.leading.insert(*region, (view.term, *epoch));
            }
        }
        regions
    }

    /// Whether it leads otherwise than `before`: news that placement waits for.
    pub fn leads_like(&self, before: &Regions) -> bool {
        self.leading == before.leading
    }

    /// Whether it leads `region`.
    pub fn leads(&self, region: u64) -> bool {
        self.leading.contains_key(&region)
    }

    /// A heartbeat that tells all of this, or what is other than `before`. Without the rest.
    pub fn heartbeat(&self, before: Option<&Regions>) -> pb::HeartbeatRequest {
        let nothing = Regions::default();
        let known = before.unwrap_or(&nothing);
        let news =
            self.leading.iter().filter(|(region, led)| known.leading.get(region) != Some(*led));
        let gone = known.leading.keys().filter(|region| !self.leads(**region));
        pb::HeartbeatRequest {
            leading: news.map(|(region, (term, epoch))| leading(*region, *term, *epoch)).collect(),
            hosted: self.hosted.difference(&known.hosted).copied().collect(),
            partial: before.is_some(),
            led_no_longer: gone.copied().collect(),
            hosted_no_longer: known.hosted.difference(&self.hosted).copied().collect(),
            ..pb::HeartbeatRequest::default()
        }
    }
}

fn leading(region: u64, term: u64, Epoch { version, members }: Epoch) -> pb::Leading {
    pb::Leading { region, term, epoch: Some(pb::Epoch { version, members }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(leading: &[(u64, u64, u64)], hosted: &[u64]) -> Regions {
        let led = |(region, term, members): &(u64, u64, u64)| {
            (*region, (*term, Epoch { version: 1, members: *members }))
        };
        Regions {
            leading: leading.iter().map(led).collect(),
            hosted: hosted.iter().copied().collect(),
        }
    }

    fn ids(leading: &[pb::Leading]) -> Vec<u64> {
        leading.iter().map(|led| led.region).collect()
    }

    #[test]
    fn everything_is_told_once_and_then_what_has_changed() {
        let before = regions(&[(1, 5, 1), (2, 5, 1), (3, 5, 1)], &[1, 2, 3, 4]);
        let whole = before.heartbeat(None);
        assert_eq!((ids(&whole.leading), whole.hosted.len()), (vec![1, 2, 3], 4));
        assert!(!whole.partial);

        let same = before.heartbeat(Some(&before));
        assert_eq!(same, pb::HeartbeatRequest { partial: true, ..Default::default() });

        // 1 is as it was, 2 has a later term, 3 other members, 4 is led now, 5 is new.
        let now = regions(&[(1, 5, 1), (2, 6, 1), (3, 5, 2), (4, 9, 1)], &[1, 2, 3, 4, 5]);
        let news = now.heartbeat(Some(&before));
        assert_eq!((ids(&news.leading), news.hosted), (vec![2, 3, 4], vec![5]));
        assert_eq!((news.led_no_longer.len(), news.hosted_no_longer.len()), (0, 0));
        assert!(!now.leads_like(&before));

        let less = regions(&[(1, 5, 1)], &[1, 2]).heartbeat(Some(&before));
        assert_eq!((less.led_no_longer, less.hosted_no_longer), (vec![2, 3], vec![3, 4]));
        assert_eq!((ids(&less.leading), less.hosted.len()), (vec![], 0));
    }
}
