//! `throughput`: one measured load (`run`), or the whole table over clusters of its own (`table`).
//!
//! Exit codes: 0 done, 1 no result (or not one operation succeeded), 2 wrong usage.

mod args;
mod show;

use args::{Cli, Command, RunArgs, TableArgs};
use clap::Parser;
use flotilla_benches::table::{self, KINDS, Kind, Modes, Times};
use flotilla_benches::{Error, machine};
use show::Show;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

// What the load costs is taken from the servers: 3.3 µs of CPU an operation with this allocator,
// 4.8 with the system's (batched row, spread keys).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::system("cannot start the runtime")(error)),
    };
    let work = async {
        match &cli.command {
            Command::Run(args) => run(args).await,
            Command::Table(args) => run_table(args).await,
        }
    };
    let result = runtime.block_on(async {
        // A dropped future drops its playground, which stops its servers.
        tokio::select! {
            result = work => result,
            () = interrupted() => Err(Error::Cluster("interrupted".to_owned())),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(25));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("throughput: {error}");
    ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
}

/// SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

async fn run(args: &RunArgs) -> Result<(), Error> {
    let workload = args.workload();
    workload.validate()?;
    let mut json = args.json.as_deref().map(|path| open(path, true)).transpose()?;
    let mut show = Show::new();
    let row = table::run_row("run", &workload, &args.placement, &mut show).await?;
    show.clear();
    print!("{}", row.text());
    if let Some(json) = &mut json {
        write_line(json, &row.json())?;
    }
    if row.ops == 0 {
        let first = row.error_texts.first().map_or("no answer came", |(text, _)| text.as_str());
        return Err(Error::Cluster(format!("not one operation succeeded: {first}")));
    }
    Ok(())
}

async fn run_table(args: &TableArgs) -> Result<(), Error> {
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|kind| args.rows.is_empty() || args.rows.iter().any(|name| name == kind.name))
        .filter(|kind| args.storage.as_deref().is_none_or(|storage| storage == kind.storage()))
        .collect();
    if kinds.is_empty() {
        return Err(Error::Invalid("--rows and --storage together leave no row".to_owned()));
    }
    let mut json = args.json.as_deref().map(|path| open(path, false)).transpose()?;
    let (modes, times) = if args.quick {
        let times = Times { seconds: Duration::from_secs(3), warmup: Duration::from_secs(1) };
        (Modes::SpreadOnly, times)
    } else {
        (Modes::Both, Times { seconds: args.seconds, warmup: args.warmup })
    };
    println!("{}", machine::describe());
    let mut show = Show::new();
    let rows = table::run(&kinds, modes, times, &mut show).await?;
    show.clear();
    if let Some(json) = &mut json {
        for (row, _) in &rows {
            write_line(json, &row.json())?;
        }
    }
    println!("\n{}", table::markdown(&rows));
    println!("\nMachine of these rows: {}.", machine::describe());
    println!(
        "Published: 3 servers of 16 cores each, and 2 or 8 clients of 8 cores, one row's keys = startkey."
    );
    Ok(())
}

fn open(path: &Path, append: bool) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .append(append)
        .truncate(!append)
        .open(path)
        .map_err(Error::system(format!("cannot write --json {}", path.display())))
}

fn write_line(file: &mut File, line: &str) -> Result<(), Error> {
    writeln!(file, "{line}").map_err(Error::system("cannot write --json"))
}
