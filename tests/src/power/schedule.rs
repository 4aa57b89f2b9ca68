//! Which processes are cut, and after how much time.

use crate::cluster::{PLACEMENT, store_name};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Time under load before a cut.
const LOAD_MS: std::ops::Range<u64> = 20..800;
/// From a start to a cut in the middle of it.
const START_MS: std::ops::Range<u64> = 0..1_500;
/// One cut in so many comes while the processes of the cut before it are still starting.
const DURING_START: u64 = 5;

/// How many stores lose power together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AtOnce {
    /// All of them and placement in every second cut; one or two in the others.
    Mixed,
    /// One.
    One,
    /// Two, which is a majority.
    Two,
    /// All, and placement.
    All,
}

/// One cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Counted from 1.
    pub number: u64,
    /// Whether placement and all stores are in it.
    pub all: bool,
    /// Indexes of the stores, from 0.
    pub stores: Vec<u16>,
    /// It comes while those before it start, so long after their start; otherwise under load.
    pub during_start: bool,
    /// So long after that.
    pub after: Duration,
}

impl Cut {
    /// Names of the processes that lose power.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let stores = self.stores.iter().map(|index| store_name(index + 1));
        stores.chain(self.all.then(|| PLACEMENT.to_owned())).collect()
    }
}

/// `count` cuts of a cluster of so many stores.
#[must_use]
pub fn draw(seed: u64, count: u64, stores: u16, at_once: AtOnce) -> Vec<Cut> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let draw_one = |number| {
        let all = match at_once {
            AtOnce::Mixed => number % 2 == 1,
            AtOnce::All => true,
            AtOnce::One | AtOnce::Two => false,
        };
        let few = match at_once {
            AtOnce::One => 1,
            AtOnce::Two => 2,
            AtOnce::Mixed | AtOnce::All => rng.random_range(1..=2),
        };
        let mut left: Vec<u16> = (0..stores).collect();
        while !all && left.len() > few {
            left.remove(rng.random_range(0..left.len()));
        }
        let during_start = number > 1 && rng.random_range(0..DURING_START) == 0;
        let range = if during_start { START_MS } else { LOAD_MS };
        let after = Duration::from_millis(rng.random_range(range));
        Cut { number, all, stores: left, during_start, after }
    };
    (1..=count).map(draw_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cuts_hit_all_stores_and_placement() {
        let cuts = draw(1, 100, 3, AtOnce::Mixed);
        let (all, few): (Vec<_>, Vec<_>) = cuts.iter().partition(|cut| cut.all);
        assert_eq!((all.len(), few.len()), (50, 50));
        for cut in all {
            assert_eq!(cut.names(), ["store-1", "store-2", "store-3", "placement"]);
        }
        for count in [1, 2] {
            assert!(few.iter().any(|cut| cut.stores.len() == count), "{count} at once");
        }
        for store in 0..3 {
            assert!(few.iter().any(|cut| cut.stores.contains(&store)), "store {store}");
        }
        let during = cuts.iter().filter(|cut| cut.during_start).count();
        assert!((5..50).contains(&during) && !cuts[0].during_start, "{during}");
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(draw(7, 20, 3, AtOnce::Mixed), draw(7, 20, 3, AtOnce::Mixed));
        assert_ne!(draw(7, 20, 3, AtOnce::Mixed), draw(8, 20, 3, AtOnce::Mixed));
        assert!(draw(7, 20, 3, AtOnce::Two).iter().all(|cut| cut.stores.len() == 2 && !cut.all));
        assert!(draw(7, 20, 3, AtOnce::One).iter().all(|cut| cut.stores.len() == 1 && !cut.all));
    }
}
