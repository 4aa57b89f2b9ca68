//! Whether the stores share the work: a row over stores that lead unequally many groups says
//! little, and a leader that moves while it is measured is a pause.

use crate::status;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How often the stores are asked while they spread their leaders.
const POLL: Duration = Duration::from_millis(250);

/// Which regions each store leads, store by store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders(Vec<BTreeSet<u64>>);

impl FromIterator<BTreeSet<u64>> for Leaders {
    fn from_iter<T: IntoIterator<Item = BTreeSet<u64>>>(stores: T) -> Self {
        Leaders(stores.into_iter().collect())
    }
}

impl Leaders {
    /// Asks every store; `None` when one does not answer.
    pub async fn read(stores: &[(u64, String)]) -> Option<Self> {
        let mut leaders = Vec::new();
        for (_, address) in stores {
            leaders.push(led(&status::read(address).await?));
        }
        Some(Leaders(leaders))
    }

    /// Asks until they are even, at most `time`.
    pub async fn wait_even(
        stores: &[(u64, String)],
        regions: usize,
        time: Duration,
    ) -> Option<Self> {
        let deadline = Instant::now() + time;
        loop {
            let leaders = Self::read(stores).await;
            let even = leaders.as_ref().is_some_and(|leaders| leaders.uneven(regions).is_none());
            if even || Instant::now() >= deadline {
                return leaders;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why these are not `regions` leaders spread as evenly as possible.
    #[must_use]
    pub fn uneven(&self, regions: usize) -> Option<String> {
        let led: Vec<usize> = self.0.iter().map(BTreeSet::len).collect();
        (!is_even(&led, regions)).then(|| format!("the stores lead {led:?} of {regions} groups"))
    }

    /// How many regions have another leader in `later`.
    #[must_use]
    pub fn moved(&self, later: &Leaders) -> usize {
        self.0.iter().zip(&later.0).map(|(before, after)| after.difference(before).count()).sum()
    }
}

/// Whether `led`, one number a store, is all of `regions`, and no store leads two more than another.
#[must_use]
pub fn is_even(led: &[usize], regions: usize) -> bool {
    let (low, high) = (led.iter().min(), led.iter().max());
    led.iter().sum::<usize>() == regions && high.zip(low).is_some_and(|(high, low)| high - low <= 1)
}

/// Why a row does not count whose leaders were `before` and `after`.
#[must_use]
pub fn why_invalid(
    before: Option<&Leaders>,
    after: Option<&Leaders>,
    regions: usize,
) -> Option<String> {
    let (Some(before), Some(after)) = (before, after) else {
        return Some("a store did not tell its leaders".to_owned());
    };
    let uneven = before.uneven(regions).map(|text| format!("before: {text}"));
    uneven.or_else(|| after.uneven(regions).map(|text| format!("after: {text}"))).or_else(|| {
        let moved = before.moved(after);
        (moved > 0).then(|| format!("{moved} of {regions} groups changed their leader"))
    })
}

fn led(status: &Value) -> BTreeSet<u64> {
    let regions = status["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
    regions
        .iter()
        .filter(|region| region["role"].as_str().is_some_and(|r| r.eq_ignore_ascii_case("leader")))
        .filter_map(|region| region["region"].as_u64())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn leaders(stores: &[&[u64]]) -> Leaders {
        Leaders(stores.iter().map(|led| led.iter().copied().collect()).collect())
    }

    #[test]
    fn a_status_tells_what_a_store_leads() {
        let status = json!({"regions": [
            {"region": 3, "role": "leader"}, {"region": 4, "role": "follower"}, {"role": "leader"},
        ]});
        assert_eq!(led(&status), BTreeSet::from([3]));
        assert!(led(&json!({})).is_empty());
    }

    #[test]
    fn leaders_are_even_when_all_are_there_and_none_has_two_more() {
        assert!(is_even(&[8, 8, 8], 24));
        assert!(is_even(&[9, 8, 8], 25));
        assert!(!is_even(&[9, 8, 7], 24));
        assert!(!is_even(&[8, 8, 7], 24));
        assert!(!is_even(&[], 24));
    }

    #[test]
    fn only_even_and_settled_leaders_count() {
        let even = leaders(&[&[1, 2], &[3], &[4]]);
        assert_eq!(why_invalid(Some(&even), Some(&even), 4), None);
        let one = leaders(&[&[1], &[], &[]]);
        assert_eq!(why_invalid(Some(&one), Some(&one), 1), None);
        for (later, word) in [
            (Some(leaders(&[&[1, 2, 3], &[], &[4]])), "after"),
            (Some(leaders(&[&[1, 2], &[3], &[]])), "after"),
            (Some(leaders(&[&[1, 3], &[2], &[4]])), "2 of 4 groups changed"),
            (None, "did not tell"),
        ] {
            let reason = why_invalid(Some(&even), later.as_ref(), 4).unwrap();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
