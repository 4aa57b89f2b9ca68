//! `inside`: what the engine does without a client network.
//!
//! Starts a placement and three copies of itself, each a whole store (`flotilla_kvserver` as a
//! library: the same threads, gRPC between the stores, every log write synced) with a load thread
//! of its own that submits to the groups which its store leads. Rows that differ from the
//! throughput table's in nothing but this show what the gRPC layer costs.
//!
//! 1. `cluster.rs` starts the processes and waits until the leaders are spread evenly.
//! 2. For each row it sends an [`protocol::Order`] to every store: what to submit, how much of it
//!    in flight, and one window for all, in nanoseconds of the machine's boot clock.
//! 3. A store (`store.rs`, `drive.rs`) answers with a [`protocol::Tally`]; `row.rs` adds them up.
//!
//! Exit codes: 0 done, 1 no result or an invalid row (with `--json -` the row says so, and it is 0), 2 wrong usage.

mod cluster;
mod drive;
mod protocol;
mod row;
mod store;

use clap::{Args, Parser, Subcommand};
use cluster::Cluster;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::report::Row;
use flotilla_kvserver::config::{RunArgs, Storage};
use protocol::Work;
use row::row;
use std::fs::File;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

// As in `kvserver`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the engine alone: proposals made inside three store processes.
#[derive(Debug, Parser)]
#[command(name = "inside", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    rows: RowArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One store of the measured cluster; started by this program itself.
    #[command(hide = true)]
    Store(Box<RunArgs>),
}

#[derive(Debug, Args)]
struct RowArgs {
    /// Only rows on this storage.
    #[arg(long)]
    storage: Option<Storage>,
    /// Only these rows, separated by commas.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = row_names())]
    rows: Vec<String>,
    /// Groups, a third of them led by each store.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(3..=65_536))]
    regions: u32,
    /// Length of each row's counted window, in seconds.
    #[arg(long, default_value_t = 8.0, value_parser = seconds)]
    seconds: f64,
    /// Load before each window, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    warmup: f64,
    /// Write the rows to this file, one JSON object a line, each as soon as it is measured;
    /// `-`: to standard output, and nothing else there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A row's settings.
struct Kind {
    name: &'static str,
    work: Work,
    in_flight: usize,
}

const KINDS: [Kind; 4] = [
    Kind { name: "inside-puts-4000", work: Work::Puts, in_flight: 4_000 },
    Kind { name: "inside-puts-20000", work: Work::Puts, in_flight: 20_000 },
    Kind { name: "inside-barriers-512", work: Work::Barriers, in_flight: 512 },
    Kind { name: "inside-barriers-4000", work: Work::Barriers, in_flight: 4_000 },
];

const STORAGES: [Storage; 2] = [Storage::Memory, Storage::Rocksdb];

fn row_names() -> clap::builder::PossibleValuesParser {
    KINDS.map(|kind| kind.name).into()
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| "expected a number of seconds from 0.1 to 3600".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Store(args)) => store::run(*args),
        None => run(&cli.rows),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inside: {error}");
            ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
        }
    }
}

fn run(args: &RowArgs) -> Result<(), Error> {
    let interrupt = Interrupt::listen()?;
    let mut output = Output::open(args.json.as_deref())?;
    let mut invalid = Vec::new();
    for storage in STORAGES {
        if args.storage.is_none_or(|only| only == storage) {
            measure(args, storage, &interrupt, &mut output, &mut invalid)?;
        }
    }
    // Whoever reads the rows sees it in them.
    if invalid.is_empty() || matches!(output, Output::Lines) {
        return Ok(());
    }
    Err(Error::Cluster(format!("rows that do not count: {}", invalid.join(", "))))
}

/// Where rows go.
enum Output {
    /// As text to standard output.
    Text,
    /// The same, and as JSON lines to a file.
    File(File),
    /// As JSON lines to standard output.
    Lines,
}

impl Output {
    fn open(json: Option<&Path>) -> Result<Self, Error> {
        match json {
            None => Ok(Output::Text),
            Some(path) if path.as_os_str() == "-" => Ok(Output::Lines),
            Some(path) => File::create(path)
                .map(Output::File)
                .map_err(Error::system(format!("cannot write --json {}", path.display()))),
        }
    }

    fn write(&mut self, row: &Row) -> Result<(), Error> {
        match self {
            Output::Text => write!(stdout(), "{}", row.text()),
            Output::File(file) => {
                write!(stdout(), "{}", row.text()).and_then(|()| writeln!(file, "{}", row.json()))
            }
            Output::Lines => writeln!(stdout(), "{}", row.json()),
        }
        .map_err(Error::system("cannot write a row"))
    }
}

/// All rows on one storage, over one cluster.
fn measure(
    args: &RowArgs,
    storage: Storage,
    interrupt: &Interrupt,
    output: &mut Output,
    invalid: &mut Vec<String>,
) -> Result<(), Error> {
    eprintln!("starting 1 placement and 3 stores with a load inside: {storage}");
    let mut cluster = Cluster::start(storage, args.regions)?;
    let wanted = |kind: &&Kind| args.rows.is_empty() || args.rows.iter().any(|n| n == kind.name);
    for kind in KINDS.iter().filter(wanted) {
        cluster.wait_even(interrupt)?;
        let warmup = Duration::from_secs_f64(args.warmup);
        let window = Duration::from_secs_f64(args.seconds);
        let measured = cluster.run(kind.work, kind.in_flight, warmup, window, interrupt)?;
        let row = row(kind.name, kind.work, kind.in_flight, storage, measured);
        if let Some(reason) = &row.invalid {
            invalid.push(format!("{} on {storage} ({reason})", kind.name));
        }
        output.write(&row)?;
    }
    cluster.stop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use flotilla_benches::suite;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_table_knows_how_many_rows_there_are() {
        assert_eq!(suite::INSIDE_ROWS, KINDS.len() * STORAGES.len());
    }

    #[test]
    fn wrong_arguments_are_refused_with_exit_code_two() {
        for line in ["--rows none-such", "--seconds 0", "--storage disk", "--regions 2"] {
            let arguments = std::iter::once("inside").chain(line.split_whitespace());
            let error = Cli::try_parse_from(arguments).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
