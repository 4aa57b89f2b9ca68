//! How fast a checkpoint or a load goes: it takes seconds of work that nobody waits for, beside requests
//! that somebody waits for.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Work between two rests.
const SLICE: Duration = Duration::from_micros(300);
/// No rest is longer: the thread may have been away from its core while it worked.
const REST_MAX: Duration = Duration::from_millis(20);

/// Without a write for so long a store has nothing to do.
const LULL: Duration = Duration::from_millis(100);

/// How long a rest is, by the work before it; the shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// None, and what need not be done is left out: requests wait for the end.
    Hurry,
    /// None: nobody waits for the core.
    None,
    /// Five times as long, a sixth of a core: the end is waited for, but not by requests.
    Short,
    /// Twenty times as long: nobody waits for the end.
    Long,
}

impl Rest {
    const fn times(self) -> u32 {
        match self {
            Rest::Long => 20,
            Rest::Short => 5,
            Rest::None | Rest::Hurry => 0,
        }
    }
}

/// Makes a checkpoint or a load rest between short slices of work.
pub struct Pace<'a> {
    rest: &'a dyn Fn() -> Rest,
    slice: Cell<Instant>,
    hurries: Cell<bool>,
}

impl<'a> Pace<'a> {
    /// Never rests.
    #[must_use]
    pub fn full() -> Self {
        Pace::gentle(&|| Rest::None)
    }

    /// Rests after every slice as `rest` says then.
    #[must_use]
    pub fn gentle(rest: &'a dyn Fn() -> Rest) -> Self {
        Pace { rest, slice: Cell::new(Instant::now()), hurries: Cell::new(false) }
    }

    /// To be called after every small piece of work, holding no lock that readers want. May block
    /// for some milliseconds.
    pub fn step(&self) {
        let worked = self.slice.get().elapsed();
        if worked < SLICE {
            return;
        }
        let rest = (self.rest)();
        self.hurries.set(rest == Rest::Hurry);
        let times = rest.times();
        if times > 0 {
            std::thread::sleep((worked * times).min(REST_MAX));
        }
        self.slice.set(Instant::now());
    }

    /// Whether requests wait for the end, as of the last slice: what need not be done is left out.
    #[must_use]
    pub fn hurries(&self) -> bool {
        self.hurries.get()
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

    /// The rest of work that others wait for, but nobody who writes.
    pub fn rest(&self, writes: u64) -> Rest {
        if self.is_on(writes) { Rest::None } else { Rest::Short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_work_is_followed_by_the_rest_that_is_asked_for() {
        let rest = Cell::new(Rest::Short);
        let asked = || rest.get();
        let work = |pace: &Pace<'_>| {
            let begin = Instant::now();
            while begin.elapsed() < 2 * SLICE {}
            pace.step();
            begin.elapsed()
        };
        let after = |rest: Rest| 2 * SLICE * (rest.times() + 1);
        let pace = Pace::gentle(&asked);
        assert!(work(&pace) >= after(Rest::Short));
        rest.set(Rest::Long);
        assert!(work(&pace) >= after(Rest::Long));
        assert!(!pace.hurries());
        rest.set(Rest::Hurry);
        work(&pace);
        assert!(pace.hurries());
        rest.set(Rest::None);
        work(&pace);
        assert!(!pace.hurries());
        // Quick on its own, but the machine may be busy: one of many is enough.
        assert!((0..100).any(|_| work(&pace) < after(Rest::Short)));
        assert!((0..100).any(|_| work(&Pace::full()) < after(Rest::Short)));
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
