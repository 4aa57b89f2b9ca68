//! `sim`: runs seeds of the deterministic simulator and prints what happened.
//!
//! Exits with 1 when a seed shows a violation, or when a fault never happened in a sweep that is
//! long enough to tell.

use clap::Parser;
use flotilla_tests::sim::ledger::{self, Ledger, Line};
use flotilla_tests::sim::run::{Report, run};
use flotilla_tests::sim::scenarios::{SCENARIOS, Scenario};
use flotilla_tests::sim::sweep::{Sweep, sweep};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// What no seed does.
const NOT_RUN: &str = "bit flips (unit tests damage every byte of the real files)";

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
    /// Run this course of events instead of a mix that each seed draws; `list` prints all of them.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Write the run into this page. For programs that `make` built from a commit without changes.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    ledger: Option<PathBuf>,
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
    if args.scenario.as_deref() == Some("list") {
        SCENARIOS.iter().for_each(|s| println!("{:<20} {}", s.name, s.about));
        return ExitCode::SUCCESS;
    }
    match simulate(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("sim: {why}");
            ExitCode::from(2)
        }
    }
}

/// Whether all went well; an error is about the arguments.
fn simulate(args: Args) -> Result<bool, String> {
    let scenario = args.scenario.as_deref().map(scenario).transpose()?;
    let ledger = args.ledger.as_deref().map(open_ledger).transpose()?;
    std::panic::set_hook(Box::new(|_| {})); // A panic is a violation of its seed.
    let one = |seed, loud| match scenario {
        Some(scenario) => scenario.run(seed, loud),
        None => run(seed, loud),
    };
    if args.trace {
        let (seed, _) = args.seeds.unwrap_or((1, 1));
        #[cfg(feature = "mutants")]
        flotilla_raftstore::mutant::plant(args.mutant.map(|name| &*name.leak()));
        let report = one(seed, true);
        println!("seed {seed}: trace {:016x}", report.trace_hash);
        report.violations.iter().for_each(|v| println!("  {v}"));
        return Ok(report.violations.is_empty());
    }
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let limit = args.seeds.is_none().then(|| Duration::from_secs(args.seconds.unwrap_or(60)));
    let (first, last) = args.seeds.unwrap_or_else(|| {
        let first = args.start_seed.unwrap_or_else(fresh_seed);
        println!("first seed {first}");
        (first, u64::MAX)
    });
    let go_on = || limit.is_none_or(|limit| wall.elapsed() < limit);
    let sum = sweep(first..=last, args.threads, |seed| one(seed, false), go_on, failed);
    let cpu = cpu_seconds() - cpu;
    // A scenario says by itself whether it was one.
    let toothless = if scenario.is_none() { sum.toothless() } else { Vec::new() };
    print_sum(&sum, &toothless, wall.elapsed().as_secs_f64(), cpu);
    if let (Some(mut ledger), true) = (ledger, sum.seeds > 0) {
        ledger.runs.add(Line {
            commit: ledger.commit.clone(),
            date: ledger::date(since_1970().as_secs()),
            what: scenario.map_or("swarm", |scenario| scenario.name).to_owned(),
            first,
            last: first + sum.seeds - 1,
            cluster_hours: sum.cluster_hours,
            cpu_hours: cpu / 3_600.0,
            violations: sum.failed.len() as u64,
        });
        fs::write(&ledger.path, ledger.runs.page())
            .map_err(|e| format!("--ledger {}: {e}", ledger.path.display()))?;
        println!("{}", ledger.runs.total());
    }
    Ok(sum.failed.is_empty() && toothless.is_empty())
}

fn scenario(name: &str) -> Result<&'static Scenario, String> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.ok_or(format!("--scenario {name}: there is none of that name; `list` prints all"))
}

/// A ledger that a run may be written into.
struct OpenLedger {
    path: PathBuf,
    commit: String,
    runs: Ledger,
}

fn open_ledger(path: &Path) -> Result<OpenLedger, String> {
    let page = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        page => page.map_err(|e| format!("--ledger {}: {e}", path.display()))?,
    };
    let runs = Ledger::parse(&page).map_err(|e| format!("--ledger {}: {e}", path.display()))?;
    let own =
        std::env::current_exe().map_err(|e| format!("cannot tell this program's file: {e}"))?;
    let note = own.with_file_name("commit");
    let commit = fs::read_to_string(&note).unwrap_or_default().trim().to_owned();
    if commit.is_empty() || commit.contains(' ') {
        return Err(format!(
            "--ledger: {} does not name a commit without changes: commit, then `make build`",
            note.display()
        ));
    }
    Ok(OpenLedger { path: path.to_owned(), commit, runs })
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn fresh_seed() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(1)
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

fn print_sum(sum: &Sweep, toothless: &[&str], wall: f64, cpu: f64) {
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
    for what in toothless {
        println!("NEVER HAPPENED: {what}");
    }
    println!("not run: {NOT_RUN}");
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
