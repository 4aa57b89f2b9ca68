//! Many seeds on a few threads, and the sum of what happened.

use super::counts::{Counts, SWEEP_SEEDS};
use super::run::{Report, run};
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

/// Runs seeds from `first` on, in order, on `threads` threads, while `go_on` says so of the next
/// seed; `each` hears every report.
pub fn sweep(
    first: u64,
    threads: usize,
    go_on: impl Fn(u64) -> bool + Sync,
    mut each: impl FnMut(&Report),
) -> Sweep {
    let next = AtomicU64::new(first);
    let (sender, reports) = mpsc::channel();
    let mut sum = Sweep::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, go_on) = (sender.clone(), &next, &go_on);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !go_on(seed) || sender.send(run(seed, false)).is_err() {
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
