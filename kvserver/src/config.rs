//! Settings of `kvserver run`: flags over environment `FLOTILLA_<FLAG>` over TOML file over
//! defaults.
//!
//! [`RunArgs`] is what clap takes from the command line and the environment, [`File`] what the
//! TOML file may hold, [`Settings`] the checked result. Nothing here touches the data folder.

use crate::process;
use crate::service::{Limits, MESSAGE_BYTES_MAX};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use flotilla_raftstore::log::LogEngine;
use flotilla_raftstore::transport::grpc::GrpcConfig;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

pub use flotilla_placement::config::{Address, LogFormat};

/// Smaller tables make a checkpoint of a few writes.
pub(crate) const TABLE_BYTES_LEAST: usize = 1 << 20;
/// Places in a table have 32 bits.
const TABLE_BYTES_MOST: usize = 2 << 30;
const TABLE_MIB_MOST: i64 = (TABLE_BYTES_MOST >> 20) as i64;
/// More than any disk: what an operator means is another unit.
const DISK_RESERVE_MIB_MOST: u64 = 1 << 30;

/// Why the settings cannot be used; every variant names the field and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("config file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not TOML, or holds an unknown field or a value of the wrong type.
    #[error("config file {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, field and what was expected.
        reason: String,
    },
    /// A value that is out of range.
    #[error("setting {0}")]
    OutOfRange(String),
    /// A setting without default that nobody gave.
    #[error(
        "--{flag} is missing: give the flag, the variable FLOTILLA_{variable} or `{field}` in the config file"
    )]
    Missing {
        /// As a flag.
        flag: &'static str,
        /// As an environment variable, without its prefix.
        variable: &'static str,
        /// As a field of the file.
        field: &'static str,
    },
}

/// What holds the data of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// RocksDB: data on disk.
    Rocksdb,
    /// Data in memory, dumped to files from time to time; the log is on disk all the same.
    Memory,
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Storage::Rocksdb => "rocksdb",
            Storage::Memory => "memory",
        })
    }
}

/// Reads the name of a log engine; help lists them all.
pub fn log_engine_parser() -> impl TypedValueParser<Value = LogEngine> {
    PossibleValuesParser::new(LogEngine::ALL.map(LogEngine::name))
        .try_map(|name| name.parse::<LogEngine>())
}

/// Flags of `kvserver run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Data folder; created when it is missing. Holds the store's identity, log and data
    #[arg(long, env = "FLOTILLA_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Address to listen on, for gRPC and HTTP alike
    #[arg(long, env = "FLOTILLA_ADDR", value_name = "HOST:PORT")]
    pub addr: Option<Address>,
    /// Address that clients and other stores use, where it is not --addr
    #[arg(long, env = "FLOTILLA_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub advertise_addr: Option<Address>,
    /// Members of the placement driver, comma-separated
    #[arg(long, env = "FLOTILLA_PLACEMENT", value_name = "HOST:PORT[,…]", value_delimiter = ',')]
    pub placement: Vec<Address>,
    /// What holds the data; an existing folder keeps its own [default: rocksdb]
    #[arg(long, env = "FLOTILLA_STORAGE")]
    pub storage: Option<Storage>,
    /// What keeps the Raft log; an existing folder keeps its own [default: raft-engine]
    #[arg(long, env = "FLOTILLA_LOG_ENGINE", value_parser = log_engine_parser())]
    pub log_engine: Option<LogEngine>,
    /// MiB of applied writes held in a table before the storage gets them; 0: RocksDB gets every
    /// applied write at once, storage memory after 1 MiB [default: 128]
    #[arg(long, env = "FLOTILLA_KV_TABLE_MIB", value_name = "MIB",
          value_parser = clap::value_parser!(u32).range(..=TABLE_MIB_MOST))]
    pub kv_table_mib: Option<u32>,
    /// TOML file with any of these settings and the tables raft, log, kv,
    /// transport, limits, server
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or filters such as info,flotilla_raftstore=debug
    /// [default: info]
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", value_name = "LEVEL", value_parser = process::level)]
    pub log_level: Option<String>,
    /// How log lines on standard error look [default: text]
    #[arg(long, env = "FLOTILLA_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// What the TOML file may hold. Unknown fields are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// As `--dir`.
    pub dir: Option<PathBuf>,
    /// As `--addr`.
    pub addr: Option<Address>,
    /// As `--advertise-addr`.
    pub advertise_addr: Option<Address>,
    /// As `--placement`, a list.
    pub placement: Vec<Address>,
    /// As `--storage`.
    pub storage: Option<Storage>,
    /// As `--log-level`.
    pub log_level: Option<String>,
    /// As `--log-format`.
    pub log_format: Option<LogFormat>,
    /// The engine of the Raft groups.
    pub raft: flotilla_raftstore::Config,
    /// The log on disk.
    pub log: LogSettings,
    /// The data.
    pub kv: KvSettings,
    /// Messages between stores.
    pub transport: GrpcConfig,
    /// What one client connection may have under way.
    pub limits: Limits,
    /// The port and its threads.
    pub server: ServerSettings,
}

/// The table `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// As `--log-engine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<LogEngine>,
    /// Sync every log write before it counts. Default on. Off: a power cut may lose what was
    /// acknowledged; for measurements only.
    pub sync: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { engine: None, sync: true }
    }
}

/// The table `[kv]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvSettings {
    /// Bytes of applied writes that are held in a table in memory and given to the storage as
    /// sorted checkpoints; the log replays them after a crash. Default 128 MiB. More absorbs more
    /// overwrites and takes longer to replay. 0: RocksDB gets every applied write at once, which
    /// costs several times more CPU a write; storage `memory` takes the smallest table, 1 MiB.
    pub table_bytes_max: usize,
}

impl Default for KvSettings {
    fn default() -> Self {
        KvSettings { table_bytes_max: 128 << 20 }
    }
}

/// The table `[server]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Threads for network and requests. 1: the shard, when there is one, runs on that thread too,
    /// and a request passes fewer threads. Default 1 on up to 4 cores, 4 above.
    pub worker_threads: usize,
    /// HTTP/2 streams (calls) at once on one connection. Default 4096.
    pub streams_max: u32,
    /// MiB that are to stay free on the disks of the data folder. With less, writes are refused with
    /// `disk_full` until there is a quarter more; reads, deletes, changes of the members, compaction
    /// and the start go on. 0: never. Default: a twentieth of the disk, from 512 MiB to 4 GiB, at most a
    /// quarter of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_reserve_mib: Option<u64>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        ServerSettings {
            worker_threads: if cores <= 4 { 1 } else { 4 },
            streams_max: 4_096,
            disk_reserve_mib: None,
        }
    }
}

/// The settings of one store, merged and checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data folder.
    pub dir: PathBuf,
    /// Where to listen.
    pub addr: Address,
    /// Where others reach this store.
    pub advertise: Address,
    /// Placement members, at least one.
    pub placement: Vec<Address>,
    /// As asked for; `None` = what the folder holds, RocksDB for a new one.
    pub storage: Option<Storage>,
    /// Filter of log lines.
    pub log_level: String,
    /// Look of log lines.
    pub log_format: LogFormat,
    /// The engine of the Raft groups.
    pub raft: flotilla_raftstore::Config,
    /// The log on disk.
    pub log: LogSettings,
    /// The data.
    pub kv: KvSettings,
    /// Messages between stores.
    pub transport: GrpcConfig,
    /// What one client connection may have under way.
    pub limits: Limits,
    /// The port and its threads.
    pub server: ServerSettings,
}

impl Settings {
    /// Reads the file that `args` names, if any, lays flags and environment over it and checks
    /// everything.
    pub fn load(args: RunArgs) -> Result<Settings, SettingsError> {
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        Settings::merge(args, file)
    }

    fn merge(args: RunArgs, file: File) -> Result<Settings, SettingsError> {
        let missing = |flag, variable, field| SettingsError::Missing { flag, variable, field };
        let dir = args.dir.or(file.dir).ok_or(missing("dir", "DIR", "dir"))?;
        let addr = args.addr.or(file.addr).ok_or(missing("addr", "ADDR", "addr"))?;
        let advertise = args.advertise_addr.or(file.advertise_addr).unwrap_or_else(|| addr.clone());
        if !advertise.reaches_one_host() {
            return Err(SettingsError::OutOfRange(format!(
                "addr = {advertise}: others cannot reach a store there; \
                 give --advertise-addr HOST:PORT as well"
            )));
        }
        let placement = if args.placement.is_empty() { file.placement } else { args.placement };
        if placement.is_empty() {
            return Err(missing("placement", "PLACEMENT", "placement"));
        }
        let mut kv = file.kv;
        if let Some(mib) = args.kv_table_mib {
            kv.table_bytes_max = (mib as usize) << 20;
        }
        let settings = Settings {
            dir,
            addr,
            advertise,
            placement,
            storage: args.storage.or(file.storage),
            log_level: args.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            raft: file.raft,
            log: LogSettings { engine: args.log_engine.or(file.log.engine), ..file.log },
            kv,
            transport: file.transport,
            limits: file.limits,
            server: file.server,
        };
        settings.validate().map_err(SettingsError::OutOfRange)?;
        Ok(settings)
    }

    /// Checks ranges and relations; the error names table and field, the value and what is
    /// allowed.
    fn validate(&self) -> Result<(), String> {
        process::level(&self.log_level).map_err(|e| format!("log_level = {e}"))?;
        self.raft.validate().map_err(|e| format!("raft.{e}"))?;
        self.transport.validate().map_err(|e| format!("transport.{e}"))?;
        let ranges = [
            ("server.worker_threads", self.server.worker_threads, 1, 256),
            ("server.streams_max", self.server.streams_max as usize, 1, 1 << 20),
            ("limits.requests_max", self.limits.requests_max, 1, 1 << 20),
            ("limits.bytes_max", self.limits.bytes_max, MESSAGE_BYTES_MAX, 1 << 40),
        ];
        if let Some(mib) = self.server.disk_reserve_mib
            && mib > DISK_RESERVE_MIB_MOST
        {
            return Err(format!(
                "server.disk_reserve_mib = {mib}: must be from 0 to {DISK_RESERVE_MIB_MOST}"
            ));
        }
        let table = self.kv.table_bytes_max;
        if table != 0 && !(TABLE_BYTES_LEAST..=TABLE_BYTES_MOST).contains(&table) {
            return Err(format!(
                "kv.table_bytes_max = {table}: must be 0, for no table, or from {TABLE_BYTES_LEAST} \
                 to {TABLE_BYTES_MOST}"
            ));
        }
        match ranges.iter().find(|(_, value, low, high)| value < low || value > high) {
            Some((field, value, low, high)) => {
                Err(format!("{field} = {value}: must be from {low} to {high}"))
            }
            None => Ok(()),
        }
    }
}

/// The tables of the file with their defaults, for `--help`.
#[must_use]
pub fn tables_help() -> String {
    #[derive(Serialize)]
    struct Tables {
        raft: flotilla_raftstore::Config,
        log: LogSettings,
        kv: KvSettings,
        transport: GrpcConfig,
        limits: Limits,
        server: ServerSettings,
    }
    let File { raft, log, kv, transport, limits, server, .. } = File::default();
    let text = toml::to_string(&Tables { raft, log, kv, transport, limits, server })
        .expect("plain structs of numbers are TOML");
    format!("Tables of the --config file, with their defaults:\n\n{text}")
}

/// Reads and checks the fields of a TOML file.
pub fn read_file(path: &Path) -> Result<File, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| SettingsError::Malformed {
        path: path.to_owned(),
        reason: one_line(&error, &text),
    })
}

/// toml's own text spans several lines with a drawing; an operator greps one line.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: {}", error.message().trim())
        }
        None => error.message().trim().to_owned(),
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
