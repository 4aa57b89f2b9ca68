//! Many seeds on a few threads, and the sum of what happened.

use super::counts::{Counts, SWEEP_SEEDS};
use super::run::Report;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// The sum over many seeds.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Seeds that ran.
    pub seeds: u64,
    /// Events.
    pub events: u64,
    /// Simulated nanoseconds.
    pub simulated: u64,
    /// Cluster-hours.
    pub cluster_hours: f64,
    /// What happened.
    pub counts: Counts,
    /// Runs with a violation, by seed.
    pub failed: Vec<Report>,
}

impl Sweep {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.events += report.events;
        self.simulated += report.simulated;
        self.cluster_hours += report.cluster_hours;
        self.counts.merge(&report.counts);
        if !report.violations.is_empty() {
            self.failed.push(report);
            self.failed.sort_by_key(|r| r.seed);
        }
    }

    /// What should have happened and did not, when the sweep was long enough to tell.
    #[must_use]
    pub fn toothless(&self) -> Vec<&'static str> {
        if self.seeds < SWEEP_SEEDS { Vec::new() } else { self.counts.missing().collect() }
    }
}

/// Runs `seeds` in order on `threads` threads while `go_on` says so; `each` hears every report. What ran
/// is a range without holes.
pub fn sweep(
    seeds: RangeInclusive<u64>,
    threads: usize,
    run: impl Fn(u64) -> Report + Sync,
    go_on: impl Fn() -> bool + Sync,
    mut each: impl FnMut(&Report),
) -> Sweep {
    let (next, last) = (AtomicU64::new(*seeds.start()), *seeds.end());
    let (sender, reports) = mpsc::channel();
    let mut sum = Sweep::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, run, go_on) = (sender.clone(), &next, &run, &go_on);
            scope.spawn(move || {
                while go_on() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || sender.send(run(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in reports {
            each(&report);
            sum.add(report);
        }
    });
    sum
}
