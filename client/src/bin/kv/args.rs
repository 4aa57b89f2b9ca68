//! The command line: flags, arguments, help texts.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use flotilla_client::Consistency;

use crate::admin::GroupCommand;
use crate::escape;
use crate::failure::Failure;

/// Reads and writes a Flotilla cluster.
#[derive(Parser, Debug)]
#[command(name = "kv", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Keys and values understand \\n \\t \\\\ \\xNN; with --hex they are hexadecimal.

Exit codes:
  0  done (deleting an absent key too)
  1  not found
  2  wrong usage (an empty or too long key or value too), or an input file that cannot be read
  3  refused, not applied
  4  outcome unknown: sent, no answer in time; read before writing again
  5  not reachable in time: never sent, or a read without an answer

Example:
  kv --placement 127.0.0.1:7100 put greeting hello && kv get greeting";

/// Flags of every subcommand.
#[derive(Args, Debug)]
pub struct Common {
    /// Addresses of placement members or stores, separated by commas
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        env = "FLOTILLA_PLACEMENT",
        default_value = "127.0.0.1:7100"
    )]
    pub placement: Vec<String>,

    /// Print JSON: one object a line on standard output, errors as an object on standard error
    #[arg(long, global = true, env = "FLOTILLA_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub json: bool,

    /// Take and print keys and values in hexadecimal
    #[arg(long, global = true, env = "FLOTILLA_HEX", value_parser = clap::builder::FalseyValueParser::new())]
    pub hex: bool,

    /// Deadline of each operation: 5s, 250ms, 2m; a bare number is seconds
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "FLOTILLA_TIMEOUT",
        default_value = "5s",
        value_parser = parse_timeout
    )]
    pub timeout: Duration,
}

impl Common {
    /// A key or value of the command line as bytes.
    pub fn bytes(&self, text: &str) -> Result<Bytes, Failure> {
        let bytes = if self.hex { escape::from_hex(text) } else { escape::unescape(text) };
        bytes.map(Bytes::from).map_err(Failure::Usage)
    }

    /// A bound of a range; none means no bound, which is empty on the wire.
    pub fn bound(&self, text: Option<&str>) -> Result<Bytes, Failure> {
        text.map_or(Ok(Bytes::new()), |text| self.bytes(text))
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Set KEY to VALUE; prints the region and its revision
    #[command(after_help = "\
Examples:
  kv put greeting hello
  kv put 'line\\x00two' 'a\\tb'
  kv put picture --file picture.png
  date | kv put now -")]
    Put(Put),
    /// Print the value of KEY and a newline; exit code 1 if it does not exist
    #[command(
        after_help = "Examples:\n  kv get greeting\n  kv get greeting --consistency stale=500"
    )]
    Get(Get),
    /// Remove KEY; also well if it does not exist
    #[command(after_help = "Example:\n  kv delete greeting")]
    Delete(Key),
    /// Print the records with START <= key < END as KEY, a tab and VALUE, in key order
    #[command(after_help = "\
The pages of a scan are reads of their own; the scan as a whole is not one moment.

Example:
  kv scan user/ user0 --limit 20")]
    Scan(Scan),
    /// Put every record of JSON-lines files, as `dump` or `scan --json` writes them
    #[command(after_help = "\
Each line is an object with `key` or `key_b64` and `value` or `value_b64`; other fields are
ignored. Records of one key are put in the order of their lines. After the first error no further
line is started; the lines before it may be put or not, and loading again is always allowed.

Example:
  kv dump > backup.jsonl && kv load backup.jsonl")]
    Load(Load),
    /// Print the records of a range (default: all) as JSON lines for `load`
    #[command(after_help = "Example:\n  kv dump user/ user0 > users.jsonl")]
    Dump(Range),
    /// Write the metadata files of another system as records
    #[command(after_help = "\
Reads every file of DIR (not its folders, not README files). One record a topic, group, consumer
offset, rule and so on, under /mq/NAME/: all offsets of a group start with
/mq/NAME/offset/GROUP/TOPIC/. Whatever is not understood is kept as it is.

Nobody else may write these records meanwhile: a put whose outcome is unknown is settled by reading
the record, and put again only if it is not there as it should be. Importing again puts the records
of the files again and removes none. A file that cannot be read stops the import before it starts.

Examples:
  kv import rocketmq ~/store/config --cluster prod-a
  kv scan /mq/prod-a/offset/ /mq/prod-a/offset0 --limit 10")]
    Import(Foreign),
    /// Write such records back as the same files
    #[command(after_help = "\
Makes DIR and writes the files that were imported, equal as data (integer map keys are quoted, the
order of maps may differ). Files of the same names are replaced. Exit code 1 if there are none.

Example:
  kv export rocketmq /tmp/config --cluster prod-a")]
    Export(Foreign),
    /// Print the cluster's id and how many stores and regions are well
    #[command(after_help = "Example:\n  kv status")]
    Status,
    /// Print every region: range, epoch, leader, replicas
    #[command(after_help = "Example:\n  kv --json regions")]
    Regions,
    /// Print every store: address, state, leaders, replicas
    #[command(after_help = "Example:\n  kv stores")]
    Stores,
    /// What an operator does: look at a group's replicas, change them, move its leadership
    #[command(subcommand, after_help = "Example:\n  kv admin group describe 1")]
    Admin(AdminCommand),
}

#[derive(Subcommand, Debug)]
pub enum AdminCommand {
    /// One Raft group; `kv regions` lists the groups
    #[command(subcommand, after_help = "Example:\n  kv admin group describe 1")]
    Group(GroupCommand),
}

#[derive(Args, Debug)]
pub struct Key {
    /// 1 byte to 4 KiB
    #[arg(allow_negative_numbers = true)]
    pub key: String,
}

/// How a read is served.
#[derive(Args, Debug)]
pub struct Reading {
    /// What the read must see: `linearizable` (every write that ended before; the leader asks a
    /// quorum), `lease` (the same by the leader's lease, rests on clocks), `follower` (the same at any
    /// replica), `stale=MS` (every write that ended so many milliseconds before, at any replica)
    #[arg(
        long,
        value_name = "HOW",
        env = "FLOTILLA_CONSISTENCY",
        default_value_t = Consistency::Linearizable
    )]
    pub consistency: Consistency,
}

#[derive(Args, Debug)]
pub struct Get {
    /// 1 byte to 4 KiB
    #[arg(allow_negative_numbers = true)]
    pub key: String,
    #[command(flatten)]
    pub reading: Reading,
}

#[derive(Args, Debug)]
pub struct Put {
    /// 1 byte to 4 KiB
    #[arg(allow_negative_numbers = true)]
    pub key: String,
    /// At most 1 MiB; `-` reads standard input as it is
    #[arg(required_unless_present = "file", allow_negative_numbers = true)]
    pub value: Option<String>,
    /// Take the value from this file as it is (arguments end at 128 KiB)
    #[arg(long, value_name = "PATH", conflicts_with = "value")]
    pub file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Range {
    /// First key; none = from the first of all
    #[arg(allow_negative_numbers = true)]
    pub start: Option<String>,
    /// The key before which to stop; none = to the end
    #[arg(allow_negative_numbers = true)]
    pub end: Option<String>,
}

#[derive(Args, Debug)]
pub struct Scan {
    /// First key; an empty one means from the first of all
    #[arg(allow_negative_numbers = true)]
    pub start: String,
    /// The key before which to stop; none = to the end
    #[arg(allow_negative_numbers = true)]
    pub end: Option<String>,
    /// Records at most; none = all
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub reading: Reading,
}

#[derive(Args, Debug)]
pub struct Load {
    /// Files of JSON lines; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Puts in flight at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub in_flight: usize,
}

/// The systems whose metadata is understood.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum System {
    /// Apache RocketMQ's broker and name-server files (config folder)
    Rocketmq,
}

#[derive(Args, Debug)]
pub struct Foreign {
    /// The other system
    pub system: System,
    /// The folder with its files
    pub dir: PathBuf,
    /// The name of the queue cluster: everything lies under the prefix /mq/NAME/
    #[arg(long, value_name = "NAME", env = "FLOTILLA_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Operations in flight at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub in_flight: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let timeout = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    match timeout {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        _ if timeout > TIMEOUT_MAX => Err("must be at most a day".to_owned()),
        timeout => Ok(timeout),
    }
}

const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn timeouts_are_read_with_units_and_without() {
        assert_eq!(parse_timeout("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_timeout("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "0", "-1", "soon", "1e99", "inf", "nan", "2 days"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_may_stand_before_and_after_the_subcommand() {
        let cli = Cli::parse_from(["kv", "--json", "put", "a", "-5", "--timeout", "2m"]);
        assert!(cli.common.json && cli.common.timeout == Duration::from_secs(120));
        let cli = Cli::parse_from(["kv", "get", "a", "--placement", "h:1,h:2", "--hex"]);
        assert_eq!(cli.common.placement, ["h:1", "h:2"]);
    }

    /// A line that is cut where it is printed must be a whole paragraph: else its end stands alone.
    #[test]
    fn every_help_wraps_well() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                let lines: Vec<&str> = help.lines().collect();
                let cut = |pair: &&[&str]| pair[0].chars().count() > 100 && !pair[1].is_empty();
                let found = lines.windows(2).find(cut);
                assert!(found.is_none(), "{}: {found:?}", command.get_name());
                check(command);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn every_help_has_an_example() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{}", command.get_name());
                check(command);
            }
        }
        check(&Cli::command());
    }
}
