//! How fast a checkpoint or a load goes: it takes seconds of work that nobody waits for, beside requests
//! that somebody waits for.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Work between two rests.
const SLICE: Duration = Duration::from_micros(300);
/// A rest is so many times as long as the work before it: a checkpoint takes a sixth of a core.
const REST: u32 = 5;
/// No rest is longer: the thread may have been away from its core while it worked.
const REST_MAX: Duration = Duration::from_millis(20);

/// Without a write for so long a store has nothing to do.
const LULL: Duration = Duration::from_millis(100);

/// Makes a checkpoint or a load rest between short slices of work, unless it is in a hurry.
pub struct Pace<'a> {
    hurry: Option<&'a dyn Fn() -> bool>,
    slice: Cell<Instant>,
}

impl<'a> Pace<'a> {
    /// Never rests.
    #[must_use]
    pub fn full() -> Self {
        Pace { hurry: None, slice: Cell::new(Instant::now()) }
    }

    /// Rests until `hurry` says that somebody waits for the checkpoint, or nobody for the core.
    #[must_use]
    pub fn gentle(hurry: &'a dyn Fn() -> bool) -> Self {
        Pace { hurry: Some(hurry), slice: Cell::new(Instant::now()) }
    }

    /// To be called after every small piece of work, holding no lock that readers want. May block
    /// for some milliseconds.
    pub fn step(&self) {
        let Some(hurry) = self.hurry else { return };
        let worked = self.slice.get().elapsed();
        if worked < SLICE {
            return;
        }
        if !hurry() {
            std::thread::sleep((worked * REST).min(REST_MAX));
        }
        self.slice.set(Instant::now());
    }
}

/// Whether nobody writes, by a counter of writes.
pub struct Lull {
    /// The counter, and since when it has been so.
    seen: Cell<(u64, Instant)>,
}

impl Lull {
    /// Begins to look.
    #[must_use]
    pub fn new(writes: u64) -> Self {
        Lull { seen: Cell::new((writes, Instant::now())) }
    }

    /// Whether there was no write for a while.
    pub fn is_on(&self, writes: u64) -> bool {
        let (before, since) = self.seen.get();
        if writes != before {
            self.seen.set((writes, Instant::now()));
        }
        writes == before && since.elapsed() >= LULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gentle_pace_rests_until_there_is_a_hurry() {
        let hurry = Cell::new(false);
        let hurried = || hurry.get();
        let work = |pace: &Pace<'_>| {
            let begin = Instant::now();
            while begin.elapsed() < 2 * SLICE {}
            pace.step();
            begin.elapsed()
        };
        assert!(work(&Pace::gentle(&hurried)) >= 2 * SLICE * (REST + 1));
        let pace = Pace::gentle(&hurried);
        hurry.set(true);
        // Quick on its own, but the machine may be busy: one of many is enough.
        assert!((0..100).any(|_| work(&pace) < 2 * SLICE * (REST + 1)));
        assert!((0..100).any(|_| work(&Pace::full()) < 2 * SLICE * (REST + 1)));
    }

    #[test]
    fn a_lull_begins_a_while_after_the_last_write() {
        let lull = Lull::new(7);
        assert!(!lull.is_on(7));
        std::thread::sleep(LULL);
        assert!(lull.is_on(7) && lull.is_on(7));
        assert!(!lull.is_on(8) && !lull.is_on(8));
        std::thread::sleep(LULL);
        assert!(lull.is_on(8));
    }
}
