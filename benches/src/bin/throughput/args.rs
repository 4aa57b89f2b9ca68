//! The command line of `throughput`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use flotilla_benches::keys::KeyMode;
use flotilla_benches::suite::{self, Kind};
use flotilla_benches::workload::{Rpc, VALUE_BYTES_MAX, Workload};
use flotilla_client::Consistency;
use std::path::PathBuf;
use std::time::Duration;

/// Measures Flotilla: operations a second with latencies, errors, CPU and memory beside them.
#[derive(Debug, Parser)]
#[command(name = "throughput", version, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One load against a cluster that is already running.
    Run(RunArgs),
    /// The published rows and ours, over clusters that it starts and stops itself.
    Table(TableArgs),
    /// A page with plots, from the JSON lines of earlier runs.
    Report(ReportArgs),
    /// The same load on Flotilla and on etcd, which it starts and stops itself.
    Peers(PeersArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Batching {
    On,
    Off,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Addresses of placement members or stores, separated by commas.
    #[arg(long, env = "FLOTILLA_PLACEMENT", default_value = "127.0.0.1:7100")]
    #[arg(value_name = "HOST:PORT,…", value_delimiter = ',', value_parser = address)]
    pub placement: Vec<String>,
    /// Client handles, each with its own connections, all in this process.
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Operations in flight, in total over all clients; with --rate at most.
    #[arg(long, default_value_t = 512)]
    pub in_flight: usize,
    /// Whether a request message carries up to 100 operations, or one.
    #[arg(long, value_enum, default_value = "on")]
    pub batching: Batching,
    /// One stream a store with many requests in flight, or one call a request.
    #[arg(long, value_enum, default_value = "stream")]
    pub rpc: Rpc,
    /// Share of puts; the rest are gets.
    #[arg(long, default_value_t = 90, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    pub write_percent: u32,
    /// What gets must see: `linearizable`, `lease`, `follower` or `stale=MS`.
    #[arg(long, value_name = "HOW", default_value_t = Consistency::Linearizable)]
    pub consistency: Consistency,
    /// Bytes of a key: 16 for `spread`; a shorter start key is filled up with zero bytes.
    #[arg(long, default_value_t = 16)]
    pub key_bytes: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 16, allow_negative_numbers = true, value_parser = value_bytes)]
    pub value_bytes: usize,
    /// Which keys: `startkey` (each region's first key) or `spread:N` (N keys, uniform over the
    /// byte space).
    #[arg(long, default_value = "spread:1000000")]
    pub keys: KeyMode,
    /// Open loop: start so many operations a second, whatever the answers do; latencies count from
    /// the intended starts.
    #[arg(long, value_name = "OPS", allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// Length of the counted window, in seconds.
    #[arg(long, default_value = "10", value_parser = window, allow_negative_numbers = true)]
    pub seconds: Duration,
    /// Load before the window, not counted, in seconds.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    pub warmup: Duration,
    /// Append the row as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write to this file four times a second how many operations have succeeded, as JSON lines
    /// with the boot clock's nanoseconds.
    #[arg(long, value_name = "FILE")]
    pub marks: Option<PathBuf>,
}

impl RunArgs {
    pub fn workload(&self) -> Workload {
        Workload {
            clients: self.clients,
            batching: self.batching == Batching::On,
            rpc: self.rpc,
            write_percent: self.write_percent,
            consistency: self.consistency,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            keys: self.keys,
            in_flight: self.in_flight,
            rate: self.rate,
            seconds: self.seconds,
            warmup: self.warmup,
        }
    }
}

/// Which rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The published rows and the latencies.
    Short,
    /// Everything.
    Full,
}

/// How long rows run, how often, and where results go.
#[derive(Debug, Args)]
pub struct TimesArgs {
    /// Length of each row's counted window, in seconds.
    #[arg(long, default_value = "8", value_parser = window, allow_negative_numbers = true)]
    pub seconds: Duration,
    /// Load before each window, in seconds.
    #[arg(long, default_value = "3", value_parser = seconds, allow_negative_numbers = true)]
    pub warmup: Duration,
    /// Passes over all rows; the median of a row's repetitions is shown.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub repeats: u16,
    /// Write rows (JSON lines), page and plots into this folder. A run with --rows, --storage or
    /// --quick, or one that is cut short or in which a row cannot be measured, writes into
    /// `partial` below it: the last whole result stays.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write the rows to this file too, one JSON object a line, each as soon as it is measured.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    /// Which rows.
    #[arg(long, value_enum, default_value = "short")]
    pub suite: Suite,
    /// Only these rows, of whichever suite, separated by commas.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = row_names())]
    pub rows: Vec<String>,
    /// Only rows on this storage.
    #[arg(long, value_parser = ["rocksdb", "memory"])]
    pub storage: Option<String>,
    /// Windows of 3 seconds after 1 second, spread keys only.
    #[arg(long, conflicts_with_all = ["seconds", "warmup"])]
    pub quick: bool,
    #[command(flatten)]
    pub times: TimesArgs,
}

impl TableArgs {
    /// Whether some rows of the suite are left out, or its windows are shortened.
    pub fn is_partial(&self) -> bool {
        !self.rows.is_empty() || self.storage.is_some() || self.quick
    }

    /// The rows that are wanted.
    pub fn kinds(&self) -> Vec<Kind> {
        let all = if self.suite == Suite::Full || !self.rows.is_empty() {
            suite::full()
        } else {
            suite::short()
        };
        let wanted = all
            .into_iter()
            .filter(|kind| self.rows.is_empty() || self.rows.iter().any(|name| name == kind.name))
            .filter(|kind| self.storage.as_deref().is_none_or(|s| s == kind.servers.storage))
            .filter(|kind| !self.quick || kind.keys != KeyMode::StartKey)
            .collect();
        suite::with_maximum(wanted)
    }
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Files of JSON lines, as `table --json` writes them.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub json: Vec<PathBuf>,
    /// Write the page and its plots into this folder.
    #[arg(long, value_name = "DIR", default_value = "docs")]
    pub out: PathBuf,
    /// Write the short table into this file instead, between the lines that mark it there.
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub readme: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PeersArgs {
    #[command(flatten)]
    pub times: TimesArgs,
}

fn row_names() -> clap::builder::PossibleValuesParser {
    suite::names().into()
}

fn value_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX);
    bytes.ok_or_else(|| format!("expected a whole number from 0 to {VALUE_BYTES_MAX}"))
}

fn window(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(100);
    let long_enough = seconds(text).ok().filter(|time| *time >= least);
    long_enough.ok_or_else(|| "expected a number of seconds from 0.1 to 86400".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "expected a number of seconds, up to a day".to_owned())
}

fn address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("expected HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_of_the_makefile_gives_way_to_one_that_follows() {
        let line = ["throughput", "table", "--repeats", "3", "--seconds", "6", "--repeats", "1"];
        let Command::Table(args) = Cli::parse_from(line).command else { panic!("another command") };
        assert_eq!((args.times.repeats, args.times.seconds), (1, Duration::from_secs(6)));
    }

    #[test]
    fn wrong_arguments_are_refused_with_exit_code_two() {
        for line in [
            "run --keys spread:0",
            "run --batching maybe",
            "run --rpc http",
            "run --seconds -1",
            "run --placement nowhere",
            "run --write-percent many",
            "table --rows none-such",
            "table --quick --seconds 3",
            "table --repeats 0",
            "report",
            "",
        ] {
            let arguments = std::iter::once("throughput").chain(line.split_whitespace());
            let error = Cli::try_parse_from(arguments).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
