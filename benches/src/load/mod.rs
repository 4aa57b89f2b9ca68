//! The load: closed or open loops, counted over one common window.
//!
//! 1. Every client is a handle with its own connections and one task ([`drive`](self)), which keeps the
//!    client's share of the operations in flight (closed loop) or submits at the times of a
//!    schedule whatever the answers do (open loop).
//! 2. Warm-up and window are one uninterrupted load; machine and processes are sampled at the
//!    window's two ends.
//! 3. Closed loop: an operation counts when its answer comes within the window. Open loop: when its
//!    intended start lies within the window, whenever the answer comes; its latency counts from
//!    the intended start, so that time in the client's own queue is in it.
//! 4. An operation that ends in an error is counted as an error and as nothing else; in a closed
//!    loop also when it began within the window and failed after it, or never ended.

mod drive;
mod pace;
mod target;

pub use target::{Call, Ended, Flotilla, Target};

use crate::error::Error;
use crate::keys::Keys;
use crate::machine::{self, MachineTime, Shares};
use crate::processes::{Sample, Server, Usage};
use crate::workload::Workload;
use hdrhistogram::Histogram;
use pace::Pacer;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// How long after the window an answer may come.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Latencies above this are recorded as this, in microseconds.
pub const LATENCY_MAX_US: u64 = 120_000_000;
/// Pause of whoever was refused, so that refusals do not become the load.
pub const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// What a run measured.
#[derive(Debug)]
pub struct Measured {
    /// Operations that succeeded.
    pub ops: u64,
    /// Operations that failed.
    pub errors: u64,
    /// The commonest error texts, with how often each came.
    pub error_texts: Vec<(String, u64)>,
    /// Latencies of the successful ones, in microseconds.
    pub latency_us: Histogram<u64>,
    /// How long it took to do `ops`: the window; in an open loop, until the last answer to them if
    /// that came after it.
    pub took: Duration,
    /// Use of each server, and of this process.
    pub processes: Vec<Usage>,
    /// What the machine's processors did.
    pub shares: Shares,
    /// Load average of the last minute at the end.
    pub load_average: f64,
}

/// Where a run is, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time since the load began.
    pub elapsed: Duration,
    /// Warm-up and window together.
    pub total: Duration,
    /// Operations a second since the last report; 0 while warming up.
    pub ops_per_s: f64,
    /// Operations that have succeeded, of those that count.
    pub ops: u64,
}

/// Runs `workload` with `targets` (one a client) over `keys` and measures `servers` beside it.
pub async fn run<T: Target>(
    workload: &Workload,
    targets: Vec<T>,
    keys: Keys,
    servers: &[Server],
    progress: impl FnMut(Progress),
) -> Result<Measured, Error> {
    let never = std::future::pending();
    run_and_drain(workload, targets, keys, servers, never, DRAIN_MAX, progress).await
}

/// The same, for an open loop, with a window that ends as soon as `ended` does, if that comes before its
/// own end.
pub async fn run_until<T: Target>(
    workload: &Workload,
    targets: Vec<T>,
    keys: Keys,
    servers: &[Server],
    ended: impl Future<Output = ()>,
) -> Result<Measured, Error> {
    run_and_drain(workload, targets, keys, servers, ended, DRAIN_MAX, |_| {}).await
}

/// The same; answers may come for `drain` after the window.
async fn run_and_drain<T: Target>(
    workload: &Workload,
    targets: Vec<T>,
    keys: Keys,
    servers: &[Server],
    ended: impl Future<Output = ()>,
    drain: Duration,
    mut progress: impl FnMut(Progress),
) -> Result<Measured, Error> {
    let began = Instant::now();
    let start = began + workload.warmup;
    let plan = Arc::new(Plan {
        write_percent: workload.write_percent,
        value_bytes: workload.value_bytes,
        keys,
        start,
        counted_ns: AtomicU64::new(nanos(workload.seconds)),
    });
    let pacer = workload.rate.map(|rate| Pacer::start(rate, workload.clients, began));
    let mut counters = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, target) in targets.into_iter().enumerate() {
        let counter = Arc::new(Mutex::new(Counter::default()));
        let in_flight = workload.window_of(number);
        let driver = drive::Driver::new(target, plan.clone(), counter.clone(), in_flight);
        match &pacer {
            None => tasks.spawn(driver.closed_loop()),
            Some(pacer) => tasks.spawn(driver.open_loop(pacer.schedule(number))),
        };
        counters.push(counter);
    }

    report_until(start, began, workload, &counters, &mut progress).await;
    let (before, machine_before) = (Sample::take(servers), MachineTime::now()?);
    tokio::select! {
        () = report_until(plan.window().end, began, workload, &counters, &mut progress) => {}
        () = ended => plan.end_now(),
    }
    let window = plan.window();
    let (after, machine_after) = (Sample::take(servers), MachineTime::now()?);
    let load_average = machine::load_average()?;
    let drained = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(drain, drained).await;
    tasks.shutdown().await;

    let mut sum = Counter::default();
    for counter in &counters {
        sum.add(&lock(counter));
    }
    // What began within the window, or should have, and has neither succeeded nor failed by now.
    let missing = match &pacer {
        None => sum.waiting,
        Some(pacer) => {
            let due: u64 = (0..counters.len()).map(|i| pacer.schedule(i).due_within(window)).sum();
            due.saturating_sub(sum.ended())
        }
    };
    if missing > 0 {
        let text = format!("no answer {} s after the window", drain.as_secs_f64());
        sum.errors.insert(text, missing);
    }
    let last = sum.last_ended.map_or(window.end, |last| last.max(window.end));
    let mut error_texts: Vec<_> = sum.errors.into_iter().collect();
    error_texts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(Measured {
        ops: sum.latency_us.len(),
        errors: error_texts.iter().map(|(_, count)| count).sum(),
        error_texts,
        latency_us: sum.latency_us,
        took: last - window.start,
        processes: after.since(&before, servers),
        shares: machine_after.since(machine_before),
        load_average,
    })
}

/// The time that is counted.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn contains(&self, at: Instant) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// What all drivers of a run share.
struct Plan {
    write_percent: u32,
    value_bytes: usize,
    keys: Keys,
    /// Of the window.
    start: Instant,
    /// Its length: may become less.
    counted_ns: AtomicU64,
}

impl Plan {
    fn window(&self) -> Window {
        let counted = Duration::from_nanos(self.counted_ns.load(Ordering::Relaxed));
        Window { start: self.start, end: self.start + counted }
    }

    fn end_now(&self) {
        self.counted_ns.fetch_min(nanos(self.start.elapsed()), Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One client's operations that count.
struct Counter {
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    /// Those under way that began within the window.
    waiting: u64,
    /// When the last one succeeded.
    last_ended: Option<Instant>,
}

impl Default for Counter {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .expect("bounds and digits are legal constants");
        Counter { latency_us, errors: BTreeMap::new(), waiting: 0, last_ended: None }
    }
}

impl Counter {
    fn add(&mut self, other: &Counter) {
        self.latency_us.add(&other.latency_us).expect("both have the same bounds");
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
        self.waiting += other.waiting;
        self.last_ended = self.last_ended.max(other.last_ended);
    }

    fn ended(&self) -> u64 {
        self.latency_us.len() + self.errors.values().sum::<u64>()
    }
}

fn lock(counter: &Mutex<Counter>) -> MutexGuard<'_, Counter> {
    counter.lock().expect("no driver panics while it counts")
}

async fn report_until(
    until: Instant,
    began: Instant,
    workload: &Workload,
    counters: &[Arc<Mutex<Counter>>],
    progress: &mut impl FnMut(Progress),
) {
    let count = || counters.iter().map(|counter| lock(counter).latency_us.len()).sum::<u64>();
    let (mut last, mut last_ops) = (Instant::now(), count());
    while last < until {
        tokio::time::sleep_until((last + PROGRESS_INTERVAL).min(until).into()).await;
        let (now, ops) = (Instant::now(), count());
        progress(Progress {
            elapsed: now - began,
            total: workload.warmup + workload.seconds,
            ops_per_s: (ops - last_ops) as f64 / (now - last).as_secs_f64().max(1e-3),
            ops,
        });
        (last, last_ops) = (now, ops);
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod tests;
