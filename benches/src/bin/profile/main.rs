//! `profile`: where the time goes, as flame graphs of a store and of the load.
//!
//! For each row of the throughput table that is asked for: its cluster under its load, `perf
//! record` over one store and over the load program at the same time, and a flame graph of each.
//! Prints the files' paths and, of each process, the functions that it spends most time in.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod flame;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::loaded::{Loaded, row_names};
use flotilla_benches::perf::{self, Recording};
use flotilla_benches::processes::LOAD;
use flotilla_benches::suite::{self, Kind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const WARMUP: Duration = Duration::from_secs(4);
/// For perf's starts within the load, on a machine that is busy.
const MARGIN: Duration = Duration::from_secs(4);
/// Functions printed of each process.
const TOP: usize = 12;

/// Draws flame graphs of a store and of the load program under loads of the throughput table.
#[derive(Debug, Parser)]
#[command(name = "profile", version)]
struct Cli {
    /// Rows of the throughput table, with spread keys.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = row_names())]
    #[arg(visible_alias = "row", default_value = "batched-memory,batched-rocksdb")]
    rows: Vec<String>,
    /// What open-loop rows take their share of: operations a second of `batched-rocksdb`.
    #[arg(long, value_name = "OPS")]
    maximum: Option<f64>,
    /// How long to record, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
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
            ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> Result<(), Error> {
    perf::check()?;
    let interrupt = Interrupt::listen()?;
    std::fs::create_dir_all(&cli.out)
        .map_err(Error::system(format!("cannot create --out {}", cli.out.display())))?;
    for kind in cli.rows.iter().filter_map(|name| suite::find(name)) {
        profile(&kind, cli, &interrupt)?;
    }
    Ok(())
}

fn profile(kind: &Kind, cli: &Cli, interrupt: &Interrupt) -> Result<(), Error> {
    let (name, time) = (kind.name, Duration::from_secs(cli.seconds));
    eprintln!("{name}: recording for {} s", time.as_secs());
    let mut loaded = Loaded::start(kind, WARMUP, time + MARGIN, cli.maximum, interrupt)?;
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
    println!("{name}: {} ops/s while it was recorded", row["ops_per_s"]);
    for (process, recording) in recordings {
        let stacks = recording.stacks()?;
        let path = cli.out.join(format!("{name}-{process}.svg"));
        let title = format!("{process}, load {name}, {}", kind.servers.text());
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
        let rows = |line: &[&str]| Cli::parse_from(line).rows;
        assert_eq!(rows(&["profile"]), ["batched-memory", "batched-rocksdb"]);
        assert_eq!(rows(&["profile", "--row", "one-put,one-get"]), ["one-put", "one-get"]);
        assert!(Cli::try_parse_from(["profile", "--rows", "none-such"]).is_err());
    }
}
