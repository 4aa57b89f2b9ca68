//! `throughput`: one measured load (`run`), the whole table over clusters of its own (`table`), a
//! page and plots from earlier rows (`report`), and, with the feature `peers`, the same load on
//! another system (`peers`).
//!
//! Exit codes: 0 done, 1 no result (an invalid row is none, nor a table of which a row failed), 2 wrong usage.

mod args;
mod record;
mod show;

use args::{Cli, Command, ReportArgs, RunArgs, Suite, TableArgs, TimesArgs};
use clap::Parser;
use flotilla_benches::interrupt::or_interrupted;
use flotilla_benches::report::Row;
use flotilla_benches::suite::{INSIDE_ROWS, Kind};
use flotilla_benches::table::{self, SPREAD_MAX, Times};
use flotilla_benches::{Error, document, machine};
use record::{Record, open, write_line};
use show::Show;
use std::process::ExitCode;
use std::time::Duration;

// What the load costs is taken from the servers: 3.3 µs of CPU an operation with this allocator,
// 4.8 with the system's (batched row, spread keys, a future for each operation).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Half of the cores: servers run beside it, and fewer threads wake each other less.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(2))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::system("cannot start the runtime")(error)),
    };
    let result = runtime.block_on(async {
        match &cli.command {
            Command::Run(args) => or_interrupted(run(args)).await,
            Command::Table(args) => run_table(args).await,
            Command::Report(args) => report(args),
            Command::Peers(args) => run_peers(args).await,
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

async fn run(args: &RunArgs) -> Result<(), Error> {
    let workload = args.workload();
    workload.validate()?;
    let mut json = args.json.as_deref().map(|path| open(path, true)).transpose()?;
    let mut show = Show::new();
    let marks = args.marks.as_deref().map(|path| open(path, false)).transpose()?;
    let mut watch = show::Watch { show: &mut show, marks };
    let row = table::run_row("run", &workload, &args.placement, SPREAD_MAX, &mut watch).await?;
    show.clear();
    print!("{}", row.text());
    if let Some(json) = &mut json {
        write_line(json, &row.json())?;
    }
    if row.ops == 0 {
        let first = row.error_texts.first().map_or("no answer came", |(text, _)| text.as_str());
        return Err(Error::Cluster(format!("not one operation succeeded: {first}")));
    }
    if let Some(reason) = &row.invalid {
        return Err(Error::Cluster(format!("the row is invalid, which is no result: {reason}")));
    }
    Ok(())
}

async fn run_table(args: &TableArgs) -> Result<(), Error> {
    let kinds: Vec<Kind> = args.kinds();
    if kinds.is_empty() {
        return Err(Error::Invalid("--rows and --storage together leave no row".to_owned()));
    }
    let mut times = times(&args.times);
    if args.quick {
        (times.seconds, times.warmup) = (Duration::from_secs(3), Duration::from_secs(1));
    }
    let name = if args.suite == Suite::Full { "full" } else { "short" };
    let partial = args.is_partial();
    let whole = args.suite == Suite::Full && args.rows.is_empty() && args.storage.is_none();
    let rows = kinds.len() + if whole { INSIDE_ROWS } else { 0 };
    let mut record = Record::new(name, &args.times, partial, times.passes, rows)?;
    println!("{}", machine::here());
    let result = or_interrupted(async {
        table::run(&kinds, times, &mut record).await?;
        if whole { record.run_inside(times).await } else { Ok(()) }
    })
    .await;
    let finished = record.finish(result.is_ok());
    result.and(finished)
}

#[cfg(feature = "peers")]
async fn run_peers(args: &args::PeersArgs) -> Result<(), Error> {
    use flotilla_benches::peers::run;
    let times = times(&args.times);
    let mut record = Record::new("peers", &args.times, false, times.passes, run::ROWS_A_PASS)?;
    println!("{}", machine::here());
    let result = or_interrupted(run::run(times, &mut record)).await;
    let finished = record.finish(result.is_ok());
    result.and(finished)
}

/// The client of the other system is not in every build: its own build needs `protoc`.
#[cfg(not(feature = "peers"))]
async fn run_peers(_: &args::PeersArgs) -> Result<(), Error> {
    Err(Error::Invalid(
        "peers: this program was built without them; run `make bench-peers`, or build it with \
         `--features flotilla-benches/peers`"
            .to_owned(),
    ))
}

fn times(args: &TimesArgs) -> Times {
    Times { seconds: args.seconds, warmup: args.warmup, passes: usize::from(args.repeats) }
}

fn report(args: &ReportArgs) -> Result<(), Error> {
    let mut rows: Vec<Row> = Vec::new();
    for path in &args.json {
        rows.extend(document::read(path)?);
    }
    if rows.is_empty() {
        return Err(Error::Invalid("--json: the files hold no row".to_owned()));
    }
    if let Some(path) = &args.readme {
        document::write_readme(&rows, path)?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    document::write(&rows, &args.out)?;
    println!("wrote {}", args.out.display());
    Ok(())
}
