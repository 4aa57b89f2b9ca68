//! Settings of `placement run`: flags over environment `FLOTILLA_<FLAG>` over TOML file over
//! defaults.
//!
//! [`RunArgs`] is what clap takes from the command line and the environment, [`File`] what the
//! TOML file may hold, [`Settings`] the checked result. Nothing here touches the data folder.

use crate::keys;
use crate::process;
use crate::regions::{Layout, REGIONS_MAX};
use clap::{Args, ValueEnum};
use flotilla_raftstore::Config as RaftConfig;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const STORES: RangeInclusive<i64> = 1..=1_000;
const STORE_DOWN_AFTER_MS: RangeInclusive<u64> = 1_500..=3_600_000;
const LEADER_SETTLE_MS: RangeInclusive<u64> = 0..=3_600_000;

/// Why the settings cannot be used: names the field, its value and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// `HOST:PORT`, where the host is a name or an IP address (IPv6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

impl Address {
    /// As text, `HOST:PORT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, without brackets.
    fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether others can use it: not "every interface of this machine" (`0.0.0.0`, `[::]`).
    #[must_use]
    pub fn reaches_one_host(&self) -> bool {
        !self.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("address '{text}' {why}: write HOST:PORT"));
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("has no port");
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return wrong("has no valid host");
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return wrong("has an IPv6 host without brackets");
        }
        match port.parse::<u16>() {
            Ok(0) | Err(_) => wrong("has no port from 1 to 65535"),
            Ok(_) => Ok(Address(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.0
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Command line and environment.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Data folder: created when missing; holds the member's identity, its log and its state
    #[arg(long, env = "FLOTILLA_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Address to listen on, gRPC and HTTP (/status, /metrics, /healthz) on one port
    #[arg(long, env = "FLOTILLA_ADDR", value_name = "HOST:PORT")]
    pub addr: Option<Address>,

    /// Address that others must use, when it is not the one of --addr [default: --addr]
    #[arg(long, env = "FLOTILLA_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    pub advertise_addr: Option<Address>,

    /// TOML file with the same settings, spelled with _ for -, and the engine's in a table `raft`;
    /// unknown fields are refused
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The first regions are created once so many stores have joined, with 3 replicas each (fewer
    /// on fewer stores). Used once, when a cluster begins [default: 3]
    #[arg(long, env = "FLOTILLA_STORES", value_name = "N",
          value_parser = clap::value_parser!(u32).range(STORES))]
    pub stores: Option<u32>,

    /// Number of first regions, cut evenly over the byte space, 1 to 65536. Used once
    /// [default: 24]
    #[arg(long, env = "FLOTILLA_REGIONS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(REGIONS_MAX)))]
    pub regions: Option<u32>,

    /// Cut the first regions at these keys instead; \n \t \\ \xNN are understood (\x2c for a
    /// comma). Used once
    #[arg(long, env = "FLOTILLA_SPLIT_AT", value_name = "KEY,…", value_delimiter = ',')]
    pub split_at: Option<Vec<String>>,

    /// A store that is silent for so many milliseconds counts as down [default: 5000]
    #[arg(long, env = "FLOTILLA_STORE_DOWN_AFTER_MS", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(STORE_DOWN_AFTER_MS))]
    pub store_down_after_ms: Option<u64>,

    /// Leaders are moved only after all of them, and all stores, have stayed the same for so many
    /// milliseconds [default: 2000]
    #[arg(long, env = "FLOTILLA_LEADER_SETTLE_MS", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(LEADER_SETTLE_MS))]
    pub leader_settle_ms: Option<u64>,

    /// Log lines from this level on, to standard error: error, warn, info, debug, trace, or
    /// target=level,… [default: info]
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", value_name = "LEVEL", value_parser = process::level)]
    pub log_level: Option<String>,

    /// Form of log lines [default: text]
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The TOML file: every setting of the command line but the file itself, and the engine's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// See [`RunArgs::dir`].
    pub dir: Option<PathBuf>,
    /// See [`RunArgs::addr`].
    pub addr: Option<Address>,
    /// See [`RunArgs::advertise_addr`].
    pub advertise_addr: Option<Address>,
    /// See [`RunArgs::stores`].
    pub stores: Option<u32>,
    /// See [`RunArgs::regions`].
    pub regions: Option<u32>,
    /// See [`RunArgs::split_at`].
    pub split_at: Option<Vec<String>>,
    /// See [`RunArgs::store_down_after_ms`].
    pub store_down_after_ms: Option<u64>,
    /// See [`RunArgs::leader_settle_ms`].
    pub leader_settle_ms: Option<u64>,
    /// See [`RunArgs::log_level`].
    pub log_level: Option<String>,
    /// See [`RunArgs::log_format`].
    pub log_format: Option<LogFormat>,
    /// Settings of the engine that replicates the state: the fields of
    /// [`flotilla_raftstore::Config`]; those left out are as in [`raft_defaults`].
    pub raft: toml::Table,
}

/// The engine's settings for a group of little load on few members: ticks of 50 ms instead of
/// 100 ms, so that a leader is found in half the time (0.5 s to 1 s).
#[must_use]
pub fn raft_defaults() -> RaftConfig {
    RaftConfig { tick_interval_ms: 50, ..RaftConfig::default() }
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data folder.
    pub dir: PathBuf,
    /// Where to listen.
    pub addr: Address,
    /// Where others reach it.
    pub advertise_addr: Address,
    /// Stores that must have joined before the first regions are created.
    pub stores: u32,
    /// The first regions.
    pub layout: Layout,
    /// Silence of a store that means down, in milliseconds.
    pub store_down_after_ms: u64,
    /// How long leaders must have been stable before any is moved, in milliseconds.
    pub leader_settle_ms: u64,
    /// Filter of log lines.
    pub log_level: String,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// The engine's settings.
    pub raft: RaftConfig,
}

impl Settings {
    /// Puts flags and environment (`args`) over the file that they name over the defaults.
    pub fn load(args: RunArgs) -> Result<Settings, SettingsError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let missing = |flag: &str, field: &str| {
            let variable = field.to_uppercase();
            SettingsError(format!(
                "--{flag} is missing: give the flag, the variable FLOTILLA_{variable} or \
                 `{field}` in the config file"
            ))
        };
        let addr = args.addr.or(file.addr).ok_or_else(|| missing("addr", "addr"))?;
        let settings = Settings {
            dir: args.dir.or(file.dir).ok_or_else(|| missing("dir", "dir"))?,
            advertise_addr: args.advertise_addr.or(file.advertise_addr).unwrap_or(addr.clone()),
            addr,
            stores: args.stores.or(file.stores).unwrap_or(3),
            layout: layout(args.regions.or(file.regions), args.split_at.or(file.split_at))?,
            store_down_after_ms: args
                .store_down_after_ms
                .or(file.store_down_after_ms)
                .unwrap_or(5_000),
            leader_settle_ms: args.leader_settle_ms.or(file.leader_settle_ms).unwrap_or(2_000),
            log_level: args.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            raft: raft(file.raft)?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let wrong = |text: String| Err(SettingsError(format!("setting {text}")));
        if !self.advertise_addr.reaches_one_host() {
            return wrong(format!(
                "advertise_addr = {}: others cannot use it; give --advertise-addr HOST:PORT",
                self.advertise_addr
            ));
        }
        if !STORES.contains(&self.stores.into()) {
            let (least, most) = STORES.into_inner();
            return wrong(format!("stores = {}: must be {least} to {most}", self.stores));
        }
        let times = [
            ("store_down_after_ms", self.store_down_after_ms, STORE_DOWN_AFTER_MS),
            ("leader_settle_ms", self.leader_settle_ms, LEADER_SETTLE_MS),
        ];
        for (field, value, allowed) in times {
            if !allowed.contains(&value) {
                let (least, most) = allowed.into_inner();
                return wrong(format!("{field} = {value}: must be {least} to {most}"));
            }
        }
        if let Err(e) = process::level(&self.log_level) {
            return wrong(format!("log_level = {e}"));
        }
        self.raft.validate().or_else(|e| wrong(format!("raft.{e}")))
    }
}

fn raft(over: toml::Table) -> Result<RaftConfig, SettingsError> {
    let mut fields = toml::Table::try_from(raft_defaults()).expect("numbers have a TOML form");
    fields.extend(over);
    fields.try_into().map_err(|e| SettingsError(format!("setting [raft]: {}", e.message())))
}

fn layout(regions: Option<u32>, keys: Option<Vec<String>>) -> Result<Layout, SettingsError> {
    let Some(keys) = keys else {
        return Layout::even(regions.unwrap_or(24))
            .map_err(|e| SettingsError(format!("setting regions = {e}")));
    };
    let parsed: Result<Vec<_>, _> = keys.iter().map(|key| keys::parse(key)).collect();
    parsed.and_then(Layout::at).map_err(|e| SettingsError(format!("setting split_at: {e}")))
}

fn read(path: &Path) -> Result<File, SettingsError> {
    let wrong = |e: String| SettingsError(format!("config file {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_string()))
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
