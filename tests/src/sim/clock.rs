//! Simulated time: one number that only the world moves.

use flotilla_raftstore::{Clock, Nanos};
use std::sync::atomic::{AtomicU64, Ordering};

/// One microsecond in nanoseconds.
pub const MICROS: u64 = 1_000;
/// One millisecond in nanoseconds.
pub const MILLIS: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SECONDS: u64 = 1_000_000_000;

/// The clock that every component of a simulated cluster reads.
#[derive(Debug, Default)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// Moves time forward.
    pub fn advance_to(&self, now: Nanos) {
        self.0.fetch_max(now.0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}
