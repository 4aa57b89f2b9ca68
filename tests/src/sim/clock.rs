//! Simulated time: true time, which only the world moves, and what each machine's clocks make of it.
//!
//! A machine has two sources of time, one of which is right (its rate differs from the true one by
//! 4 % at most), as the product assumes. The other one may be set forward and back, run at half or
//! double the rate, or stand still while the machine is suspended.

use flotilla_raftstore::{Moment, Nanos};
use rand::Rng;
use rand::rngs::SmallRng;

/// One microsecond in nanoseconds.
pub const MICROS: u64 = 1_000;
/// One millisecond in nanoseconds.
pub const MILLIS: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SECONDS: u64 = 1_000_000_000;

/// Parts in a million.
const PPM: u64 = 1_000_000;
/// How much the rate of a right source may differ.
const DRIFT_PPM: u64 = 40_000;
/// What clocks show at the beginning: far from nothing, since they may be set back.
const START: u64 = 1_000 * SECONDS;

/// One source of time.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// True time when it was changed last.
    since: u64,
    /// What it showed then.
    shown: u64,
    rate_ppm: u64,
}

impl Source {
    fn new(rate_ppm: u64) -> Self {
        Source { since: 0, shown: START, rate_ppm }
    }

    fn read(&self, now: u64) -> u64 {
        let passed = u128::from(now - self.since) * u128::from(self.rate_ppm) / u128::from(PPM);
        self.shown + u64::try_from(passed).expect("simulations are short")
    }

    fn change(&mut self, now: u64, rate_ppm: u64, by: i64) {
        let shown = self.read(now).saturating_add_signed(by);
        *self = Source { since: now, shown, rate_ppm };
    }
}

/// The two sources of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    now: Source,
    hardware: Source,
    /// The hardware's is the right one.
    hardware_is_right: bool,
}

impl Default for Clocks {
    fn default() -> Self {
        Clocks { now: Source::new(PPM), hardware: Source::new(PPM), hardware_is_right: false }
    }
}

impl Clocks {
    /// Sources that differ from true time, one of them right.
    pub fn draw(rng: &mut SmallRng) -> Self {
        let mut rate = || rng.random_range(PPM - DRIFT_PPM..=PPM + DRIFT_PPM);
        let (now, hardware) = (Source::new(rate()), Source::new(rate()));
        Clocks { now, hardware, hardware_is_right: rng.random() }
    }

    /// What they show at the true time `now`.
    #[must_use]
    pub fn read(&self, now: u64) -> Moment {
        Moment { now: Nanos(self.now.read(now)), hardware: Nanos(self.hardware.read(now)) }
    }

    /// How long `nanos` of the right source are in true time.
    #[must_use]
    pub fn true_span(&self, nanos: u64) -> u64 {
        let right = if self.hardware_is_right { self.hardware } else { self.now };
        nanos * PPM / right.rate_ppm
    }

    /// The source that need not be right is set, or runs at another rate from now on.
    pub fn disturb(&mut self, now: u64, rng: &mut SmallRng) -> &'static str {
        let wrong = if self.hardware_is_right { &mut self.now } else { &mut self.hardware };
        let by = rng.random_range(0..10 * SECONDS).cast_signed();
        match rng.random_range(0..4) {
            0 => {
                wrong.change(now, wrong.rate_ppm, by);
                "clocks set forward"
            }
            1 => {
                wrong.change(now, wrong.rate_ppm, -by);
                "clocks set back"
            }
            2 => {
                wrong.change(now, rng.random_range(PPM / 2..2 * PPM), 0);
                "clocks of another rate"
            }
            _ => {
                wrong.change(now, PPM, 0);
                "clocks of the true rate again"
            }
        }
    }

    /// The machine is suspended for `length`, beginning now; `false` if its hardware's clock must be right.
    pub fn suspend(&mut self, now: u64, length: u64) -> bool {
        let rate = self.hardware.rate_ppm;
        if !self.hardware_is_right {
            self.hardware.change(now, rate, -(length * rate / PPM).cast_signed());
        }
        !self.hardware_is_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn one_source_is_right_whatever_happens_to_the_other() {
        for seed in 0..100 {
            let rng = &mut SmallRng::seed_from_u64(seed);
            let mut clocks = Clocks::draw(rng);
            let before = clocks.read(0);
            for second in 1..=20 {
                clocks.disturb(second * SECONDS, rng);
                clocks.suspend(second * SECONDS, 100 * MILLIS);
            }
            let (after, passed) = (clocks.read(30 * SECONDS), 30 * SECONDS);
            let right = |before: Nanos, after: Nanos| {
                (after.0.saturating_sub(before.0)).abs_diff(passed) <= passed / 25
            };
            assert!(
                right(before.now, after.now) || right(before.hardware, after.hardware),
                "seed {seed}: {before:?} {after:?}"
            );
        }
    }
}
