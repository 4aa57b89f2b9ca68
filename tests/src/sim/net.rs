//! The simulated network between stores: delay, loss, duplicates, reordering and cuts.
//!
//! A batch of envelopes travels as one frame. The product's transport never reorders frames of
//! one direction; with a reorder rate above 0 this one does, which Raft tolerates as well.

use super::clock::{MICROS, MILLIS, SECONDS};
use rand::Rng;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHashSet};

/// Share of copies that are stale, and how late those may be: longer than an election, so that a
/// leader which does not know its successor yet hears answers from before.
const STALE: f64 = 0.2;
const STALE_MAX: u64 = 4 * SECONDS;

/// How bad the network is, apart from cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Share of frames that are lost, 0 to 0.3.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplicate: f64,
    /// Share of frames that do not wait for earlier ones, and are late.
    pub reorder: f64,
    /// Longest delay of an ordinary frame, in nanoseconds.
    pub delay_max: u64,
}

/// What became of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Arrives then, and a second time if it is duplicated.
    Arrives(u64, Option<u64>),
    /// Arrives then, after frames that were sent later.
    Late(u64),
    /// Lost by chance.
    Lost,
    /// Lost because the direction is cut.
    Cut,
}

/// All directions between stores.
#[derive(Default)]
pub struct Net {
    /// Now in force.
    pub weather: Weather,
    cuts: FxHashSet<(u64, u64)>,
    last_arrival: FxHashMap<(u64, u64), u64>,
}

impl Net {
    /// All directions open.
    #[must_use]
    pub fn new(weather: Weather) -> Self {
        Net { weather, ..Net::default() }
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    /// Whether a direction is cut.
    #[must_use]
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Mends one direction.
    pub fn mend(&mut self, from: u64, to: u64) {
        self.cuts.remove(&(from, to));
    }

    /// Mends everything, good weather.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather =
            Weather { delay_max: self.weather.delay_max.min(MILLIS), ..Weather::default() };
    }

    /// Decides about a frame that leaves now.
    pub fn send(&mut self, rng: &mut SmallRng, now: u64, from: u64, to: u64) -> Fate {
        if self.cuts.contains(&(from, to)) {
            return Fate::Cut;
        }
        let Weather { loss, duplicate, reorder, delay_max } = self.weather;
        if rng.random_bool(loss) {
            return Fate::Lost;
        }
        let delay = rng.random_range(50 * MICROS..=delay_max.max(100 * MICROS));
        if rng.random_bool(reorder) {
            return Fate::Late(now + delay + rng.random_range(0..=10 * delay_max));
        }
        let last = self.last_arrival.entry((from, to)).or_default();
        let at = (now + delay).max(*last + 1);
        *last = at;
        let again = rng.random_bool(duplicate).then(|| {
            let longest = if rng.random_bool(STALE) { STALE_MAX } else { 5 * delay_max };
            at + rng.random_range(0..=longest)
        });
        Fate::Arrives(at, again)
    }
}
