//! How fast a checkpoint goes: it takes seconds of work that nobody waits for, beside requests
//! that somebody waits for.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Work between two rests.
const SLICE: Duration = Duration::from_micros(300);
/// A rest is so many times as long as the work before it: a checkpoint takes a sixth of a core.
const REST: u32 = 5;
/// No rest is longer: the thread may have been away from its core while it worked.
const REST_MAX: Duration = Duration::from_millis(20);

/// Makes a checkpoint rest between short slices of work, unless it is in a hurry.
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
}
