//! `budget`: what one put costs, stage by stage and process by process.
//!
//! Runs puts only over three stores on RocksDB, once batched and once one put a message, and looks
//! from outside, in three windows one after the other:
//! 1. `threads.rs`: processor time and context switches of every thread, from `/proc`, over a time
//!    in which every store made a checkpoint;
//! 2. `calls.rs`: system calls of every thread, and syncs, counted by `perf stat`, because counting
//!    costs;
//! 3. `stage.rs`: stacks sampled by `perf record`, which split a thread's processor time by stage:
//!    on few cores most of a store is one thread.
//!
//! `report.rs` divides by the puts that the load counted in that very window and prints Markdown:
//! the section "The budget of one put" of `ARCHITECTURE.md`.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod calls;
mod report;
mod stage;
mod threads;

use clap::Parser;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::loaded::{Load, Loaded};
use flotilla_benches::marks::now_ns;
use flotilla_benches::perf::{self, Recording};
use flotilla_benches::processes::LOAD;
use flotilla_benches::{Error, machine, status};
use report::{Budget, Cost};
use stage::{Shares, Stage};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use threads::{Sample, Used};

const WARMUP: Duration = Duration::from_secs(4);
/// Between the ends of the load and what is sampled within it, and for perf's starts.
const MARGIN: Duration = Duration::from_secs(1);
/// How much longer than asked the first window may be, for every store to make a checkpoint.
const CHECKPOINT_MAX: Duration = Duration::from_secs(20);
const CHECKPOINT_POLL: Duration = Duration::from_millis(200);
const ALLOCATIONS: &str = "process_heap_allocations_total";
const CHECKPOINTS: &str = "flotilla_kv_checkpoint_seconds_count";

/// Prints what one put costs in CPU, switches, system calls, allocations and bytes.
#[derive(Debug, Parser)]
#[command(name = "budget", version)]
struct Cli {
    /// How long to measure each load, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let time = Duration::from_secs(cli.seconds);
    match run(time) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("budget: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(time: Duration) -> Result<String, Error> {
    check()?;
    let interrupt = Interrupt::listen()?;
    let batched = Load {
        storage: "rocksdb",
        clients: 8,
        batching: true,
        in_flight: 4_096,
        write_percent: 100,
    };
    let single = Load { clients: 2, batching: false, in_flight: 512, ..batched };
    let budgets = [
        measure("batched", &batched, time, &interrupt)?,
        measure("one a message", &single, time, &interrupt)?,
    ];
    Ok(report::markdown(&budgets, &machine::describe()))
}

/// A budget without stages would look like one with them: none is printed.
fn check() -> Result<(), Error> {
    perf::check().and_then(|()| calls::check()).map_err(|error| {
        Error::Cluster(format!(
            "without perf stages cannot be split, nor system calls counted: {error}"
        ))
    })
}

/// The stores' own figures.
struct Metrics {
    runtime: tokio::runtime::Runtime,
    stores: Vec<(u64, String)>,
}

impl Metrics {
    /// One figure of every store; `None` where one does not tell it.
    fn read(&self, name: &str) -> Option<Vec<f64>> {
        let read =
            |(_, address): &(u64, String)| self.runtime.block_on(status::metric(address, name));
        self.stores.iter().map(read).collect()
    }
}

fn measure(
    name: &'static str,
    load: &Load,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Budget, Error> {
    let total = CHECKPOINT_MAX + 3 * (time + MARGIN);
    eprintln!("puts, {name}: {} s", (WARMUP + total).as_secs());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot start the runtime"))?;
    let loaded = Loaded::start(load, WARMUP, total)?;
    let metrics = Metrics { runtime, stores: loaded.stores()? };
    loaded.wait_counting(interrupt)?;

    let window = first_window(&loaded, &metrics, time, interrupt)?;
    let counted = calls::count(&loaded.processes, time, interrupt)?;
    let stores: Vec<i32> =
        loaded.processes.iter().filter(|p| p.name != LOAD).map(|p| p.pid).collect();
    let mut recording = Recording::start(&stores, time)?;
    recording.wait(interrupt)?;
    let (row, marks) = loaded.finish(interrupt)?;
    let shares = stage::shares(&recording.stacks()?);

    let puts = marks.within(window.start_ns..window.end_ns)?;
    let puts_counted = marks.within(counted.window.clone())?;
    let ops_per_s = row["ops_per_s"]
        .as_f64()
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| Error::Cluster(format!("the load's row has no rate: {row}")))?;
    let mut threads: BTreeMap<String, Cost> = BTreeMap::new();
    let mut stages: BTreeMap<Stage, f64> = BTreeMap::new();
    for (thread, used) in &window.used.threads {
        let cpu_us = used.cpu_ns as f64 / 1_000.0 / puts;
        let cost = threads.entry(report::thread_title(thread)).or_default();
        cost.cpu_us += cpu_us;
        cost.switches += used.switches as f64 / puts;
        let whole = |stage| Shares::from([(stage, 1.0)]);
        let shares = match shares.get(&thread.name) {
            _ if thread.process == LOAD => whole(Stage::Client),
            Some(shares) => shares.clone(),
            // It was not met on a processor: it hardly costs anything.
            None => whole(Stage::of_thread(&thread.name)),
        };
        for (stage, share) in shares {
            *stages.entry(stage).or_default() += cpu_us * share;
        }
    }
    for (thread, calls) in &counted.calls {
        let cost = threads.entry(report::thread_title(thread)).or_default();
        cost.calls += *calls as f64 / puts_counted;
    }
    Ok(Budget {
        name,
        ops_per_s,
        stages,
        threads,
        checkpoints: window.checkpoints,
        syncs: counted.syncs as f64 / puts_counted,
        allocations: window.allocations.map(|count| count / puts),
        loopback_bytes: window.used.loopback_bytes as f64 / puts,
        disk_bytes: window.used.disk_bytes as f64 / puts,
    })
}

/// What `/proc` and the stores say of the first window.
struct Window {
    start_ns: u64,
    end_ns: u64,
    used: Used,
    /// Of all stores; `None` where they do not tell.
    allocations: Option<f64>,
    /// Of all stores.
    checkpoints: u64,
}

/// Samples for `time`, and on until every store has made a checkpoint, which is a part of what puts
/// cost that comes in lumps.
fn first_window(
    loaded: &Loaded,
    metrics: &Metrics,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Window, Error> {
    let checkpoints_of = || {
        metrics
            .read(CHECKPOINTS)
            .ok_or_else(|| Error::Cluster(format!("a store does not tell {CHECKPOINTS}")))
    };
    let allocations = || metrics.read(ALLOCATIONS).map(|counts| counts.iter().sum::<f64>());
    let (allocated_before, made_before) = (allocations(), checkpoints_of()?);
    let (started, start_ns) = (Instant::now(), now_ns());
    let before = Sample::take(&loaded.processes)?;
    interrupt.sleep(time)?;
    let mut made = checkpoints_of()?;
    while made.iter().zip(&made_before).any(|(now, then)| now <= then)
        && started.elapsed() < time + CHECKPOINT_MAX
    {
        interrupt.sleep(CHECKPOINT_POLL)?;
        made = checkpoints_of()?;
    }
    let (after, end_ns) = (Sample::take(&loaded.processes)?, now_ns());
    let allocations = allocations().zip(allocated_before).map(|(now, then)| now - then);
    let checkpoints = (made.iter().sum::<f64>() - made_before.iter().sum::<f64>()) as u64;
    Ok(Window { start_ns, end_ns, used: after.since(&before), allocations, checkpoints })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
