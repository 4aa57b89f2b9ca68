//! How fast a checkpoint goes: it takes seconds of work that nobody waits for, beside requests
//! that somebody waits for.
//!
//! It rests between short slices of work; and what cannot be cut into slices (a group's records are sorted
//! at once) it does with the lowest priority, so that a core is left to whoever serves requests. Only where
//! the thread may take its priority back, and never with a lock that others want.

use rustix::process::{Resource, geteuid, getpriority_process, getrlimit, setpriority_process};
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Work between two rests.
const SLICE: Duration = Duration::from_millis(1);
/// A rest is so many times as long as the work before it: a checkpoint takes a sixth of a core.
const REST: u32 = 5;
/// No rest is longer: the thread may have been away from its core while it worked.
const REST_MAX: Duration = Duration::from_millis(20);
/// The nice value that leaves a core to everybody else.
const LOWEST: i32 = 19;
/// A checkpoint that takes longer goes on with the usual priority: what is written meanwhile is what a crash
/// would have to replay.
const LOW_MAX: Duration = Duration::from_secs(3);

/// Makes a checkpoint rest between short slices of work, unless it is in a hurry.
pub struct Pace<'a> {
    hurry: Option<&'a dyn Fn() -> bool>,
    begun: Instant,
    slice: Cell<Instant>,
    /// The thread's priority is the lowest.
    low: Cell<bool>,
}

impl<'a> Pace<'a> {
    /// Never rests.
    #[must_use]
    pub fn full() -> Self {
        Pace::new(None)
    }

    /// Rests until `hurry` says that somebody waits for the checkpoint, or nobody for the core.
    #[must_use]
    pub fn gentle(hurry: &'a dyn Fn() -> bool) -> Self {
        Pace::new(Some(hurry))
    }

    fn new(hurry: Option<&'a dyn Fn() -> bool>) -> Self {
        let begun = Instant::now();
        Pace { hurry, begun, slice: Cell::new(begun), low: Cell::new(false) }
    }

    /// Does `work` with the lowest priority, as long as nobody waits for the checkpoint. It must hold no lock
    /// that others want.
    pub fn quietly<T>(&self, work: impl FnOnce() -> T) -> T {
        self.lower(self.hurry.is_some_and(|hurry| !hurry()));
        let done = work();
        self.lower(false);
        done
    }

    fn lower(&self, low: bool) {
        let Some(usual) = *usual_priority() else { return };
        let low = low && self.begun.elapsed() < LOW_MAX;
        if self.low.get() != low {
            let priority = if low { LOWEST } else { usual };
            match setpriority_process(None, priority) {
                Ok(()) => self.low.set(low),
                Err(error) => tracing::debug!(%error, priority, "the priority stays as it is"),
            }
        }
    }

    /// To be called after every small piece of work, holding no lock that readers want. May block
    /// for some milliseconds.
    pub fn step(&self) {
        let Some(hurry) = self.hurry else { return };
        let worked = self.slice.get().elapsed();
        if worked < SLICE {
            return;
        }
        let hurried = hurry();
        if self.low.get() {
            self.lower(!hurried);
        }
        if !hurried {
            std::thread::sleep((worked * REST).min(REST_MAX));
        }
        self.slice.set(Instant::now());
    }
}

/// The nice value that threads of this process have, if one that was lowered may come back to it.
fn usual_priority() -> &'static Option<i32> {
    static USUAL: OnceLock<Option<i32>> = OnceLock::new();
    USUAL.get_or_init(|| {
        let usual = getpriority_process(None).ok()?;
        // What the limit allows is counted from 20 downwards; none means no limit.
        let least = getrlimit(Resource::Nice).current.map_or(-20, |limit| 20 - limit as i64);
        (geteuid().is_root() || least <= i64::from(usual)).then_some(usual)
    })
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
    fn quiet_work_has_the_lowest_priority_until_there_is_a_hurry() {
        let Some(usual) = *usual_priority() else { return };
        let now = || getpriority_process(None).expect("a thread of its own");
        let hurry = Cell::new(false);
        let hurried = || hurry.get();
        let pace = Pace::gentle(&hurried);
        pace.quietly(|| {
            // Root without the capability may not do either.
            let lowered = now();
            assert!([usual, LOWEST].contains(&lowered), "{lowered}");
            hurry.set(true);
            let begin = Instant::now();
            while begin.elapsed() < 2 * SLICE {}
            pace.step();
            assert_eq!(now(), usual);
        });
        assert_eq!(pace.quietly(now), usual, "somebody waits for it");
        assert_eq!(Pace::full().quietly(now), usual);
    }
}
