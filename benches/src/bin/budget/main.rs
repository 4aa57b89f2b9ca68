//! `budget`: what one put costs, stage by stage and process by process.
//!
//! Runs puts only over three stores on RocksDB, once batched and once one put a message, and looks
//! from outside:
//! 1. `threads.rs`: processor time and context switches of every thread, from `/proc`;
//! 2. `calls.rs`: system calls of every thread, and syncs, counted by `perf stat` in a window of
//!    its own, because counting costs;
//! 3. `report.rs` divides by the puts of the window and prints Markdown: the section "The budget of
//!    one put" of `ARCHITECTURE.md`.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod calls;
mod report;
mod threads;

use clap::Parser;
use flotilla_benches::loaded::{Load, Loaded};
use flotilla_benches::machine;
use flotilla_benches::{Error, status};
use report::{Budget, Stage};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use threads::Sample;

const WARMUP: Duration = Duration::from_secs(4);
/// Between a window of the load and what is sampled within it.
const MARGIN: Duration = Duration::from_millis(500);
const ALLOCATIONS: &str = "process_heap_allocations_total";

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
    calls::check()?;
    let batched = Load {
        storage: "rocksdb",
        clients: 8,
        batching: true,
        in_flight: 4_096,
        write_percent: 100,
    };
    let single = Load { clients: 2, batching: false, in_flight: 512, ..batched };
    let budgets = [measure("batched", &batched, time)?, measure("one a message", &single, time)?];
    Ok(report::markdown(&budgets, &machine::describe()))
}

fn measure(name: &'static str, load: &Load, time: Duration) -> Result<Budget, Error> {
    eprintln!("puts, {name}: {} s", (WARMUP + 2 * time).as_secs());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot start the runtime"))?;
    let loaded = Loaded::start(load, WARMUP, 2 * (time + MARGIN))?;
    let stores = loaded.stores()?;
    let allocations = || -> Option<f64> {
        let read =
            |(_, address): &(u64, String)| runtime.block_on(status::metric(address, ALLOCATIONS));
        stores.iter().map(read).sum()
    };
    std::thread::sleep(WARMUP);

    let allocated_before = allocations();
    let (began, before) = (Instant::now(), Sample::take(&loaded.processes)?);
    std::thread::sleep(time);
    let (after, window) = (Sample::take(&loaded.processes)?, began.elapsed());
    let allocated = allocations().zip(allocated_before).map(|(after, before)| after - before);
    let used = after.since(&before);

    let counted = calls::count(&loaded.processes, time)?;
    let row = loaded.finish()?;
    let ops_per_s = row["ops_per_s"]
        .as_f64()
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| Error::Cluster(format!("the load's row has no rate: {row}")))?;
    // The load's own window holds both of ours; its rate is taken for each.
    let puts = ops_per_s * window.as_secs_f64();
    let puts_counted = ops_per_s * counted.window.as_secs_f64();

    let mut stages: BTreeMap<Stage, report::Cost> = BTreeMap::new();
    for (thread, use_of) in used.threads {
        let cost = stages.entry(Stage::of(&thread)).or_default();
        cost.cpu_us += use_of.cpu_ns as f64 / 1_000.0 / puts;
        cost.switches += use_of.switches as f64 / puts;
    }
    for (thread, calls) in counted.calls {
        stages.entry(Stage::of(&thread)).or_default().calls += calls as f64 / puts_counted;
    }
    Ok(Budget {
        name,
        ops_per_s,
        stages,
        syncs: counted.syncs as f64 / puts_counted,
        allocations: allocated.map(|count| count / puts),
        loopback_bytes: used.loopback_bytes as f64 / puts,
        disk_bytes: used.disk_bytes as f64 / puts,
    })
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
