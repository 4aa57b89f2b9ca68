//! The seam to time. Only this file touches the system's clock.

use crate::types::Nanos;

/// Monotonic time.
///
/// To be correct, an implementation must never go back, and must run on while the machine is
/// suspended (a lease that slept is a lease that has run out).
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary start. Never blocks.
    fn now(&self) -> Nanos;
}

/// `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }
}
