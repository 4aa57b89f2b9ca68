//! `powercuts`: a real cluster of three stores under load, each on a file system of its own, which loses
//! power again and again. Nothing acknowledged may be lost, every start must work without help.
//!
//! Needs root, loop devices and ext4; where the machine does not allow that it says *not run*. Mounts are
//! made in a mount namespace of its own: they end with this program, however it ends.
//!
//! Exit codes: 0 done or not run, 1 a violation (or not run, with --required), 2 wrong usage.

use clap::Parser;
use flotilla_kvserver::process::Stop;
use flotilla_tests::power::disks;
use flotilla_tests::power::run::{Kind, Report, run};
use flotilla_tests::power::schedule::{AtOnce, draw};
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const STORES: u16 = 3;
/// Set for the run of this program inside its namespace.
const INSIDE: &str = "FLOTILLA_POWERCUTS_INSIDE";

/// Cuts the power of real stores under load and checks that nothing acknowledged is lost.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Cuts in all, shared by the log engines
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    cuts: u64,
    /// Draws who is cut when; without it one is taken from the system and printed
    #[arg(long)]
    seed: Option<u64>,
    /// Stores that lose power together
    #[arg(long, value_enum, default_value = "mixed")]
    at_once: AtOnce,
    /// What holds the data
    #[arg(long, default_value = "rocksdb", value_parser = ["rocksdb", "memory"])]
    storage: String,
    /// What keeps the log, separated by commas: a cluster each
    #[arg(long, value_delimiter = ',', default_value = "raft-engine,rocksdb",
          value_parser = ["raft-engine", "rocksdb"])]
    log_engine: Vec<String>,
    /// Where the images of the file systems lie; else where temporary files do
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// End with 1 where the machine does not allow power cuts
    #[arg(long)]
    required: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match possible(&args) {
        Ok(()) => {}
        Err(reason) => {
            println!("powercuts: not run: {reason}");
            return ExitCode::from(u8::from(args.required));
        }
    }
    // What a panic says goes to standard error; it is a violation like any other.
    match std::panic::catch_unwind(AssertUnwindSafe(|| run_all(&args))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("powercuts: FAILED: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("powercuts: FAILED");
            ExitCode::FAILURE
        }
    }
}

/// Enters a mount namespace, which begins this program again, and tries a cut there.
fn possible(args: &Args) -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return disks::probe(args.images.as_deref());
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).env(INSIDE, "1");
        command
    };
    let allowed = unshare().arg("true").stdin(Stdio::null()).output();
    let allowed = allowed.map_err(|e| format!("unshare: {e}"))?;
    if !allowed.status.success() {
        return Err(String::from_utf8_lossy(&allowed.stderr).trim().to_owned());
    }
    let own = std::env::current_exe().map_err(|e| format!("this program's file: {e}"))?;
    // Comes back only if it failed.
    Err(format!("unshare: {}", unshare().arg(own).args(std::env::args_os().skip(1)).exec()))
}

fn run_all(args: &Args) -> Result<(), String> {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("the runtime: {e}"))?;
    runtime.block_on(async {
        let stop = Stop::listen().map_err(|e| format!("listening to signals: {e}"))?;
        let clusters = args.log_engine.len() as u64;
        for (number, log_engine) in (0..).zip(&args.log_engine) {
            let count = args.cuts / clusters + u64::from(number < args.cuts % clusters);
            let cuts = draw(seed.wrapping_add(number), count, STORES, args.at_once);
            let kind = Kind {
                storage: args.storage.clone().leak(),
                log_engine: log_engine.clone().leak(),
            };
            let begun = Instant::now();
            let told = |line: &str| println!("{line}");
            let images = args.images.as_deref();
            println!("{count} cuts: storage {}, log {}", kind.storage, kind.log_engine);
            let report = tokio::select! {
                report = run(kind, STORES, &cuts, images, told) => report?,
                reason = stop.requested() => return Err(format!("interrupted: {reason}")),
            };
            print(&report, begun.elapsed());
            if count >= 10 && report.adds.unknown + report.registers.unknown == 0 {
                return Err("no write was under way in any cut: nothing was tested".to_owned());
            }
        }
        Ok(())
    })
}

fn print(report: &Report, took: Duration) {
    let Report { adds, registers, served_after, .. } = report;
    println!("cuts of all stores and placement  {}", report.cuts_of_all);
    println!("cuts of one or two stores         {}", report.cuts_of_some);
    println!("  of them while starting          {}", report.during_start);
    if let (Some(median), Some(most)) =
        (served_after.get(served_after.len() / 2), served_after.last())
    {
        let (median, most) = (median.as_secs_f64(), most.as_secs_f64());
        println!("whole again after                 {median:.1} s (median), {most:.1} s (most)");
    }
    println!("unique keys, acknowledged         {}", adds.acknowledged);
    println!("unique keys, unknown              {}", adds.unknown);
    println!("unique keys, refused              {}", adds.refused);
    println!("registers: {registers:?}");
    println!("acknowledged writes lost          0");
    println!("starts that took help             0");
    println!("wall                              {:.0} s", took.as_secs_f64());
}
