//! The load: closed loops through the public client library, counted over one common window.
//!
//! 1. Every client is a handle with its own connections; its window is as many tasks, each with
//!    one operation in flight.
//! 2. Warm-up and window are one uninterrupted load. An operation counts when its answer comes
//!    within the window; machine and processes are sampled at the window's two ends.
//! 3. An operation that ends in an error is counted as an error and as nothing else.

use crate::error::Error;
use crate::keys::Keys;
use crate::machine::{self, MachineTime};
use crate::processes::{Sample, Server, Usage};
use crate::workload::{BATCH_OPS_MAX, Rpc, Workload};
use bytes::Bytes;
use flotilla_client::Client;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Pause of a loop after an error, so that refusals do not become the load.
const ERROR_PAUSE: Duration = Duration::from_millis(5);
/// How long after the window a loop may wait for its last answer.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Latencies above this are recorded as this, in microseconds.
const LATENCY_MAX_US: u64 = 120_000_000;

/// What a run measured.
#[derive(Debug)]
pub struct Measured {
    /// Operations that succeeded within the window.
    pub ops: u64,
    /// Operations that failed within the window.
    pub errors: u64,
    /// The commonest error texts, with how often each came.
    pub error_texts: Vec<(String, u64)>,
    /// Latencies of the successful ones, in microseconds.
    pub latency_us: Histogram<u64>,
    /// The window's true length.
    pub window: Duration,
    /// Use of each server, and of this process.
    pub processes: Vec<Usage>,
    /// Share of the machine's processors that was busy, in percent.
    pub cpu_percent: f64,
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
}

/// Connects a client handle with connections of its own.
pub async fn connect(addresses: &[String], workload: &Workload) -> Result<Client, Error> {
    Client::builder()
        .batching(workload.batching)
        .batch_ops_max(BATCH_OPS_MAX)
        .rpc(match workload.rpc {
            Rpc::Stream => flotilla_client::Rpc::Stream,
            Rpc::Unary => flotilla_client::Rpc::Unary,
        })
        .connect(addresses)
        .await
        .map_err(|error| Error::Cluster(format!("cannot connect to the cluster: {error}")))
}

/// Runs `workload` with `clients` (one handle each) over `keys` and measures `servers` beside it.
pub async fn run(
    workload: &Workload,
    clients: Vec<Client>,
    keys: Keys,
    servers: &[Server],
    mut progress: impl FnMut(Progress),
) -> Result<Measured, Error> {
    let began = Instant::now();
    let window =
        Window { start: began + workload.warmup, end: began + workload.warmup + workload.seconds };
    let plan = Arc::new(Plan {
        write_percent: workload.write_percent,
        value_bytes: workload.value_bytes,
        keys,
        window,
    });
    let mut counters = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let counter = Arc::new(Mutex::new(Counter::default()));
        for _ in 0..workload.window_of(number) {
            let seed = rand::random();
            tasks.spawn(closed_loop(client.clone(), plan.clone(), counter.clone(), seed));
        }
        counters.push(counter);
    }

    report_until(window.start, began, workload, &counters, &mut progress).await;
    let (before, machine_before) = (Sample::take(servers), MachineTime::now()?);
    report_until(window.end, began, workload, &counters, &mut progress).await;
    let (after, machine_after) = (Sample::take(servers), MachineTime::now()?);
    let load_average = machine::load_average()?;
    let drained = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_MAX, drained).await;

    let mut sum = Counter::default();
    for counter in &counters {
        sum.add(&lock(counter));
    }
    let mut error_texts: Vec<_> = sum.errors.into_iter().collect();
    error_texts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(Measured {
        ops: sum.latency_us.len(),
        errors: error_texts.iter().map(|(_, count)| count).sum(),
        error_texts,
        latency_us: sum.latency_us,
        window: workload.seconds,
        processes: after.since(&before, servers),
        cpu_percent: machine_after.percent_since(machine_before),
        load_average,
    })
}

#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    end: Instant,
}

/// What all loops of a run share.
struct Plan {
    write_percent: u32,
    value_bytes: usize,
    keys: Keys,
    window: Window,
}

/// One client's operations within the window.
struct Counter {
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Default for Counter {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .expect("bounds and digits are legal constants");
        Counter { latency_us, errors: BTreeMap::new() }
    }
}

impl Counter {
    fn add(&mut self, other: &Counter) {
        self.latency_us.add(&other.latency_us).expect("both have the same bounds");
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
    }
}

fn lock(counter: &Mutex<Counter>) -> MutexGuard<'_, Counter> {
    counter.lock().expect("no loop panics while it counts")
}

/// One operation in flight, again and again, until the window ends.
async fn closed_loop(client: Client, plan: Arc<Plan>, counter: Arc<Mutex<Counter>>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let values = Values::new(plan.value_bytes, &mut rng);
    loop {
        let key = plan.keys.pick(&mut rng);
        let write = rng.random_range(0..100) < plan.write_percent;
        let began = Instant::now();
        if began >= plan.window.end {
            return;
        }
        let result = if write {
            client.put(key, values.pick(&mut rng)).await.map(drop)
        } else {
            client.get(key).await.map(drop)
        };
        let ended = Instant::now();
        if (plan.window.start..plan.window.end).contains(&ended) {
            let latency_us = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
            let mut counter = lock(&counter);
            match &result {
                Ok(()) => counter.latency_us.saturating_record(latency_us.max(1)),
                Err(error) => *counter.errors.entry(error_kind(error)).or_default() += 1,
            }
        }
        if result.is_err() {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}

/// An error's text without its numbers, so that equal causes count together.
fn error_kind(error: &flotilla_client::Error) -> String {
    error.to_string().chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
}

/// Values cut from a few random bytes: no copy an operation, and no two alike in a row.
struct Values {
    pool: Bytes,
    value_bytes: usize,
}

impl Values {
    const SLACK: usize = 1 << 10;

    fn new(value_bytes: usize, rng: &mut SmallRng) -> Self {
        let mut pool = vec![0; value_bytes + Self::SLACK];
        rng.fill_bytes(&mut pool);
        Values { pool: Bytes::from(pool), value_bytes }
    }

    fn pick(&self, rng: &mut SmallRng) -> Bytes {
        let at = rng.random_range(0..Self::SLACK);
        self.pool.slice(at..at + self.value_bytes)
    }
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
        });
        (last, last_ops) = (now, ops);
    }
}
