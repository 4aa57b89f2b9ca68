//! `sim`: runs seeds of the deterministic simulator and prints what happened.
//!
//! Exits with 1 when a seed shows a violation, or when a fault never happened in a sweep that is
//! long enough to tell.

use clap::Parser;
use flotilla_tests::sim::run::{Report, run};
use flotilla_tests::sim::sweep::{Sweep, sweep};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Deterministic simulation of whole clusters: real shards, log writer, apply and KV state
/// machine on simulated disks, network and time.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Seeds to run, as FIRST..LAST (both included) or one seed.
    #[arg(long, value_name = "FIRST..LAST", value_parser = seeds, conflicts_with = "seconds")]
    seeds: Option<(u64, u64)>,
    /// Run fresh seeds for so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// First seed of --seconds; without it one is taken from the clock and printed.
    #[arg(long, requires = "seconds")]
    start_seed: Option<u64>,
    /// Seeds at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Print every event of a single seed.
    #[arg(long)]
    trace: bool,
    /// With --trace: plant this bug.
    #[cfg(feature = "mutants")]
    #[arg(long, requires = "trace")]
    mutant: Option<String>,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let parse = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    match text.split_once("..") {
        Some((first, last)) => Ok((parse(first)?, parse(last.trim_start_matches('='))?)),
        None => parse(text).map(|seed| (seed, seed)),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {})); // A panic is a violation of its seed.
    if args.trace {
        let (seed, _) = args.seeds.unwrap_or((1, 1));
        #[cfg(feature = "mutants")]
        flotilla_raftstore::mutant::plant(args.mutant.map(|name| &*name.leak()));
        let report = run(seed, true);
        println!("seed {seed}: trace {:016x}", report.trace_hash);
        report.violations.iter().for_each(|v| println!("  {v}"));
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let sum = match args.seeds {
        Some((first, last)) => sweep(first, args.threads, |seed| seed <= last, failed),
        None => {
            let limit = Duration::from_secs(args.seconds.unwrap_or(60));
            let first = args.start_seed.unwrap_or_else(fresh_seed);
            println!("first seed {first}");
            sweep(first, args.threads, |_| wall.elapsed() < limit, failed)
        }
    };
    print_sum(&sum, wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    if sum.failed.is_empty() && sum.toothless().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |t| t.as_millis() as u64)
}

/// Shows a failed seed as it happens: the seed, its last events, what is wrong.
fn failed(report: &Report) {
    if report.violations.is_empty() {
        return;
    }
    println!("seed {} FAILED", report.seed);
    report.last_events.iter().for_each(|event| println!("  {event}"));
    for violation in report.violations.iter().take(5) {
        println!("seed {}: {violation}", report.seed);
    }
}

fn print_sum(sum: &Sweep, wall: f64, cpu: f64) {
    let per_cpu_hour = sum.cluster_hours / (cpu / 3_600.0);
    println!("seeds                 {}", sum.seeds);
    println!("simulated hours       {:.2}", sum.simulated as f64 / 3.6e12);
    println!(
        "cluster-hours         {:.2}  (1 = an hour of 3 stores × 8 groups)",
        sum.cluster_hours
    );
    println!("cpu, wall             {cpu:.1} s, {wall:.1} s");
    println!("cluster-hours per CPU-hour  {per_cpu_hour:.0}");
    println!("events                {}", sum.events);
    println!("what happened:");
    for (what, count) in sum.counts.iter() {
        println!("  {count:>10}  {what}");
    }
    for what in sum.toothless() {
        println!("NEVER HAPPENED: {what}");
    }
    println!("not run: bit flips, full disk, wiped store");
    let seeds: Vec<u64> = sum.failed.iter().map(|r| r.seed).collect();
    if seeds.is_empty() {
        println!("violations            0");
    } else {
        println!("violations            {} seeds: {seeds:?}", seeds.len());
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
