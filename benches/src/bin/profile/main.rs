//! `profile`: where the time goes, as flame graphs of a store and of the load.
//!
//! For each storage: a playground under the batched load, `perf record` over one store and over
//! the load program at the same time, and a flame graph of each. Prints the files' paths and, of
//! each process, the functions that it spends most time in.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod flame;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::loaded::{Load, Loaded};
use flotilla_benches::perf::{self, Recording};
use flotilla_benches::processes::LOAD;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const WARMUP: Duration = Duration::from_secs(4);
/// Functions printed of each process.
const TOP: usize = 12;

/// Draws flame graphs of a store and of the load program under the batched load.
#[derive(Debug, Parser)]
#[command(name = "profile", version)]
struct Cli {
    /// Only this storage.
    #[arg(long, value_parser = ["rocksdb", "memory"])]
    storage: Option<String>,
    /// How long to record, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Where the SVG files go; created when it is missing.
    #[arg(long, value_name = "DIR", default_value = "profiles")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("profile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Error> {
    perf::check()?;
    let interrupt = Interrupt::listen()?;
    std::fs::create_dir_all(&cli.out)
        .map_err(Error::system(format!("cannot create --out {}", cli.out.display())))?;
    for storage in ["memory", "rocksdb"] {
        if cli.storage.as_deref().is_none_or(|only| only == storage) {
            profile(storage, Duration::from_secs(cli.seconds), &cli.out, &interrupt)?;
        }
    }
    Ok(())
}

fn profile(
    storage: &'static str,
    time: Duration,
    out: &Path,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    eprintln!("batched load on {storage}: recording for {} s", time.as_secs());
    let load = Load { storage, clients: 8, batching: true, in_flight: 4_096, write_percent: 90 };
    let loaded = Loaded::start(&load, WARMUP, time + Duration::from_secs(1))?;
    loaded.wait_counting(interrupt)?;
    let watched = loaded.processes.iter().filter(|p| p.name == "store-1" || p.name == LOAD);
    let mut recordings = Vec::new();
    for process in watched {
        recordings.push((process.name.clone(), Recording::start(&[process.pid], time)?));
    }
    for (_, recording) in &mut recordings {
        recording.wait(interrupt)?;
    }
    let (row, _) = loaded.finish(interrupt)?;
    println!("{storage}: {} ops/s while it was recorded", row["ops_per_s"]);
    for (name, recording) in recordings {
        let stacks = recording.stacks()?;
        let path = out.join(format!("{storage}-{name}.svg"));
        let title = format!("{name}, batched load on {storage}");
        std::fs::write(&path, flame::draw(&stacks, &title))
            .map_err(Error::system(format!("cannot write {}", path.display())))?;
        println!("{}: {:.2} s of CPU", path.display(), stacks.total_ns as f64 / 1e9);
        for (function, share) in stacks.top(TOP) {
            println!("  {share:5.1} %  {function}");
        }
    }
    Ok(())
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
