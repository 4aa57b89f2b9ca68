//! `budget`: what one operation costs, stage by stage and process by process.
//!
//! Runs loads of the throughput table, by default puts only over three stores on RocksDB, once
//! batched and once one put a message, and looks from outside, in three windows one after the other:
//! 1. `threads.rs`: processor time and context switches of every thread, from `/proc`, and
//!    `stores.rs`: what the stores count, over a time in which every store made a checkpoint;
//! 2. `calls.rs`: system calls of every thread, and syncs, counted by `perf stat`, because counting
//!    costs;
//! 3. `stage.rs`: stacks sampled by `perf record`, which split a thread's processor time by stage:
//!    on few cores most of a store is one thread.
//!
//! `report.rs` divides by the operations that the load counted in that very window and prints
//! Markdown: the section "The budget of one put" of `ARCHITECTURE.md`.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod calls;
mod report;
mod stage;
mod stores;
mod threads;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::loaded::{Loaded, row_names};
use flotilla_benches::marks::now_ns;
use flotilla_benches::perf::{self, Recording};
use flotilla_benches::processes::LOAD;
use flotilla_benches::report::Row;
use flotilla_benches::suite::{self, Kind};
use report::{Budget, Cost};
use stage::{Shares, Stage};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use stores::{Counts, Stores};
use threads::{Sample, Used};

const WARMUP: Duration = Duration::from_secs(4);
/// Between the ends of the load and what is sampled within it, and for perf's starts.
const MARGIN: Duration = Duration::from_secs(1);
/// How much longer than asked the first window may be, for every store to make a checkpoint.
const CHECKPOINT_MAX: Duration = Duration::from_secs(20);
const CHECKPOINT_POLL: Duration = Duration::from_millis(200);
/// With more of the CPU than this, in percent, in no stage that is known, the stages say little.
const REST_MAX_PERCENT: f64 = 15.0;

/// Prints what one operation costs in CPU, switches, system calls, allocations and bytes.
#[derive(Debug, Parser)]
#[command(name = "budget", version)]
struct Cli {
    /// Rows of the throughput table, with spread keys.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = row_names())]
    #[arg(visible_alias = "row", default_value = "puts-4096-batched,puts-512")]
    rows: Vec<String>,
    /// What open-loop rows take their share of: operations a second of `batched-rocksdb`.
    #[arg(long, value_name = "OPS")]
    maximum: Option<f64>,
    /// How long to measure each load, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("budget: {error}");
            ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> Result<String, Error> {
    check()?;
    let interrupt = Interrupt::listen()?;
    let mut budgets = Vec::new();
    for kind in cli.rows.iter().filter_map(|name| suite::find(name)) {
        let budget = measure(&kind, cli, &interrupt)?;
        let percent = budget.rest_percent();
        if percent > REST_MAX_PERCENT {
            eprintln!(
                "warning: {}: {percent:.0} % of the CPU is in no stage that is known: names of \
                 functions in stage.rs may be out of date",
                kind.name
            );
        }
        budgets.push(budget);
    }
    Ok(report::markdown(&budgets))
}

/// A budget without stages would look like one with them: none is printed.
fn check() -> Result<(), Error> {
    perf::check().and_then(|()| calls::check()).map_err(|error| {
        Error::Cluster(format!(
            "without perf stages cannot be split, nor system calls counted: {error}"
        ))
    })
}

fn measure(kind: &Kind, cli: &Cli, interrupt: &Interrupt) -> Result<Budget, Error> {
    let time = Duration::from_secs(cli.seconds);
    let total = CHECKPOINT_MAX + 3 * (time + MARGIN);
    eprintln!("{}: {} s", kind.name, (WARMUP + total).as_secs());
    let mut loaded = Loaded::start(kind, WARMUP, total, cli.maximum, interrupt)?;
    let stores = Stores::new(loaded.stores()?)?;
    loaded.wait_counting(interrupt)?;

    let window = first_window(&loaded, &stores, time, interrupt)?;
    let counted = calls::count(&loaded.processes, time, interrupt)?;
    let servers: Vec<i32> = loaded
        .processes
        .iter()
        .filter(|process| process.name.starts_with("store-"))
        .map(|process| process.pid)
        .collect();
    let mut recording = Recording::start(&servers, time)?;
    recording.wait(interrupt)?;
    let (row, marks) = loaded.finish(interrupt)?;
    let shares = stage::shares(&recording.stacks()?);

    let row: Row = serde_json::from_value(row)
        .map_err(|error| Error::Cluster(format!("the load gave no row: {error}")))?;
    let ops = marks.within(window.start_ns..window.end_ns)?;
    let ops_counted = marks.within(counted.window.clone())?;
    let mut threads: BTreeMap<String, Cost> = BTreeMap::new();
    let mut stages: BTreeMap<Stage, f64> = BTreeMap::new();
    for (thread, used) in &window.used.threads {
        let cpu_us = used.cpu_ns as f64 / 1_000.0 / ops;
        let cost = threads.entry(report::thread_title(thread)).or_default();
        cost.cpu_us += cpu_us;
        cost.switches += used.switches as f64 / ops;
        let whole = |stage| Shares::from([(stage, 1.0)]);
        let shares = match shares.get(&thread.name) {
            _ if thread.process == LOAD => whole(Stage::Client),
            _ if thread.process.starts_with("placement") => whole(Stage::Placement),
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
        cost.calls += *calls as f64 / ops_counted;
    }
    Ok(Budget {
        row: Row { name: kind.name.to_owned(), ..row },
        ops_per_s: ops * 1e9 / (window.end_ns - window.start_ns).max(1) as f64,
        stages,
        threads,
        checkpoints: window.counts.checkpoints as u64,
        syncs: counted.syncs as f64 / ops_counted,
        counts: window.counts.each(ops),
        loopback_bytes: window.used.loopback_bytes as f64 / ops,
        disk_bytes: window.used.disk_bytes as f64 / ops,
    })
}

/// What `/proc` and the stores say of the first window.
struct Window {
    start_ns: u64,
    end_ns: u64,
    used: Used,
    counts: Counts,
}

/// Samples for `time`, and on until every store has made a checkpoint, which is a part of what puts
/// cost that comes in lumps.
fn first_window(
    loaded: &Loaded,
    stores: &Stores,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Window, Error> {
    let (counted, made_before) = (stores.counts()?, stores.checkpoints()?);
    let (started, start_ns) = (Instant::now(), now_ns());
    let before = Sample::take(&loaded.processes)?;
    interrupt.sleep(time)?;
    while stores.checkpoints()?.iter().zip(&made_before).any(|(now, then)| now <= then)
        && started.elapsed() < time + CHECKPOINT_MAX
    {
        interrupt.sleep(CHECKPOINT_POLL)?;
    }
    let (after, end_ns) = (Sample::take(&loaded.processes)?, now_ns());
    let counts = stores.counts()?.since(&counted);
    Ok(Window { start_ns, end_ns, used: after.since(&before), counts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(Cli::parse_from(["budget"]).rows, ["puts-4096-batched", "puts-512"]);
        assert!(Cli::try_parse_from(["budget", "--seconds", "61"]).is_err());
    }
}
