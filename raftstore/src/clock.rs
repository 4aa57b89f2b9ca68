//! The seam to time. Only this file touches the system's clock.
//!
//! Leases and bounded reads rest on time, and a clock can be wrong: set back, slewed, or stopped
//! while the machine slept. So there are two sources that do not fail together, and `Elapsed`
//! counts time twice: never behind the truth for what a leader holds, never ahead of it for what a
//! follower has promised, as long as one of the two sources is right.

use crate::types::Nanos;

/// Monotonic time.
///
/// To be correct, an implementation must never go back, and must run on while the machine is
/// suspended (a lease that slept is a lease that has run out).
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary start. Never blocks.
    fn now(&self) -> Nanos;

    /// The same from a source that nobody sets or slews; it may stand still in suspend. Never blocks.
    fn hardware(&self) -> Nanos;

    /// Both.
    fn moment(&self) -> Moment {
        Moment { now: self.now(), hardware: self.hardware() }
    }
}

/// One moment, by two sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// [`Clock::now`].
    pub now: Nanos,
    /// [`Clock::hardware`].
    pub hardware: Nanos,
}

impl From<Nanos> for Moment {
    /// Both sources agree.
    fn from(now: Nanos) -> Self {
        Moment { now, hardware: now }
    }
}

/// `CLOCK_BOOTTIME`, and `CLOCK_MONOTONIC_RAW` beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        read(rustix::time::ClockId::Boottime)
    }

    fn hardware(&self) -> Nanos {
        read(rustix::time::ClockId::MonotonicRaw)
    }
}

fn read(clock: rustix::time::ClockId) -> Nanos {
    let t = rustix::time::clock_gettime(clock);
    Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// A moment as a shard reckons with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// For deadlines.
    pub(crate) now: Nanos,
    /// Grows by at least what has passed: how old something is at most.
    pub(crate) ahead: Nanos,
    /// Grows by at most what has passed: how old something is at least.
    pub(crate) behind: Nanos,
}

/// Counts the time that passes, see the module. Both counts begin with the first moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elapsed {
    last: Option<Moment>,
    time: Time,
}

impl Elapsed {
    /// The time at `moment`, which comes after every earlier one.
    pub(crate) fn advance(&mut self, moment: Moment) -> Time {
        self.time = self.at(moment);
        self.last = Some(moment);
        self.time
    }

    /// What [`Self::advance`] would say.
    pub(crate) fn at(&self, moment: Moment) -> Time {
        let last = self.last.unwrap_or(moment);
        // A source that goes back says that nothing has passed; the other one decides.
        let one = moment.now.0.saturating_sub(last.now.0);
        let two = moment.hardware.0.saturating_sub(last.hardware.0);
        let alone = crate::mutant::active("one_clock_trusted");
        let (most, least) = if alone { (one, one) } else { (one.max(two), one.min(two)) };
        Time {
            now: moment.now,
            ahead: Nanos(self.time.ahead.0 + most),
            behind: Nanos(self.time.behind.0 + least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(now: u64, hardware: u64) -> Moment {
        Moment { now: Nanos(now), hardware: Nanos(hardware) }
    }

    #[test]
    fn one_wrong_source_makes_neither_count_wrong() {
        let mut elapsed = Elapsed::default();
        let mut passed = 0;
        elapsed.advance(moment(1_000, 5_000));
        let mut check = |elapsed: &mut Elapsed, now: u64, hardware: u64, true_step: u64| {
            passed += true_step;
            let time = elapsed.advance(moment(now, hardware));
            assert!(time.ahead.0 >= passed && time.behind.0 <= passed, "{time:?}, {passed} passed");
            assert_eq!(time.now, Nanos(now));
        };
        check(&mut elapsed, 1_100, 5_100, 100);
        // Set back, and forward.
        check(&mut elapsed, 200, 5_200, 100);
        check(&mut elapsed, 9_000, 5_300, 100);
        // Slewed.
        check(&mut elapsed, 9_050, 5_400, 100);
        // Asleep: only one source runs on.
        check(&mut elapsed, 19_150, 5_500, 10_100);
    }

    #[test]
    fn both_sources_of_the_system_run() {
        let (before, after) = (SystemClock.moment(), SystemClock.moment());
        assert!(after.now >= before.now && after.hardware >= before.hardware);
        assert!(before.now.0 > 0 && before.hardware.0 > 0);
    }
}
