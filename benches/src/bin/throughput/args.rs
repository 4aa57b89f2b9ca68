//! The command line of `throughput`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use flotilla_benches::keys::KeyMode;
use flotilla_benches::table::KINDS;
use flotilla_benches::workload::{Rpc, Workload};
use std::path::PathBuf;
use std::time::Duration;

/// Measures Flotilla: operations a second with latencies, errors, CPU and memory beside them.
#[derive(Debug, Parser)]
#[command(name = "throughput", version)]
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
    /// Operations in flight, in total over all clients.
    #[arg(long, default_value_t = 512)]
    pub in_flight: usize,
    /// Whether a request message carries up to 100 operations, or one.
    #[arg(long, value_enum, default_value = "on")]
    pub batching: Batching,
    /// One stream a store with many requests in flight, or one call a request.
    #[arg(long, value_enum, default_value = "stream")]
    pub rpc: Rpc,
    /// Share of puts; the rest are linearizable gets.
    #[arg(long, default_value_t = 90)]
    pub write_percent: u32,
    /// Bytes of a key: 16 for `spread`; a shorter start key is filled up with zero bytes.
    #[arg(long, default_value_t = 16)]
    pub key_bytes: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 16)]
    pub value_bytes: usize,
    /// Which keys: `startkey` (each region's first key) or `spread:N` (N keys, uniform over the
    /// byte space).
    #[arg(long, default_value = "spread:1000000")]
    pub keys: KeyMode,
    /// Length of the counted window, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Load before the window, not counted, in seconds.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Append the row as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl RunArgs {
    pub fn workload(&self) -> Workload {
        Workload {
            clients: self.clients,
            batching: self.batching == Batching::On,
            rpc: self.rpc,
            write_percent: self.write_percent,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            keys: self.keys,
            in_flight: self.in_flight,
            seconds: self.seconds,
            warmup: self.warmup,
        }
    }
}

#[derive(Debug, Args)]
pub struct TableArgs {
    /// Length of each row's counted window, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Load before each window, in seconds.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub warmup: Duration,
    /// Only these rows, separated by commas.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = row_names())]
    pub rows: Vec<String>,
    /// Only rows on this storage.
    #[arg(long, value_parser = ["rocksdb", "memory"])]
    pub storage: Option<String>,
    /// Windows of 3 seconds after 1 second, spread keys only.
    #[arg(long, conflicts_with_all = ["seconds", "warmup"])]
    pub quick: bool,
    /// Write the rows to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn row_names() -> clap::builder::PossibleValuesParser {
    KINDS.map(|kind| kind.name).into()
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
            "",
        ] {
            let arguments = std::iter::once("throughput").chain(line.split_whitespace());
            let error = Cli::try_parse_from(arguments).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
