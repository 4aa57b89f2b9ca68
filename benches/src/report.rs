//! A finished row: as text and as a JSON object, which can be read back.

use crate::load::Measured;
use crate::machine;
use crate::processes::{LOAD, Usage};
use crate::workload::Workload;
use flotilla_client::Consistency;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// More errors than this share of all operations make a row invalid.
const ERRORS_MAX: f64 = 0.001;
/// File systems in memory, where a sync does nothing.
const UNSYNCED: [&str; 2] = ["tmpfs", "ramfs"];

/// How the servers are set up, as the first store's `/status` says; `None` where it says nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    /// `rocksdb` or `memory`.
    pub storage: Option<String>,
    /// Several appends in flight to a follower, or one.
    pub pipeline: Option<bool>,
    /// Every log write is synced.
    pub sync: Option<bool>,
    /// Number of regions, one group each.
    pub regions: usize,
    /// What holds the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_engine: Option<String>,
    /// MiB of applied writes held in memory before RocksDB; 0: it gets every write at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_table_mib: Option<u64>,
    /// What the first store's folder lies on, where that is on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
}

/// What was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// Client handles, each with its own connections.
    pub clients: usize,
    /// Whether a message may carry many operations.
    pub batching: bool,
    /// `stream`, `unary`, or `none`: proposals made inside the servers.
    pub rpc: String,
    /// Share of puts; the rest are gets.
    pub write_percent: u32,
    /// What the gets must see, as for `kv get --consistency`; absent: linearizable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<String>,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Which keys.
    pub keys: String,
    /// Operations in flight, in total over all clients; in an open loop at most.
    pub in_flight: usize,
    /// Length of the counted window.
    pub seconds: f64,
    /// Open loop: operations that were to start a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_rate: Option<f64>,
    /// Open loop: which percent of the maximum that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_percent: Option<u32>,
}

impl Sent {
    /// Puts and gets, and what the gets must see if that is not everything.
    #[must_use]
    pub fn work(&self) -> String {
        let mix = mix(self.write_percent);
        match &self.consistency {
            Some(consistency) => format!("{mix}, reads {consistency}"),
            None => mix,
        }
    }

    /// Open loop: the rate that the offered one is a share of.
    #[must_use]
    pub fn maximum(&self) -> Option<f64> {
        let (rate, percent) = self.offered_rate.zip(self.offered_percent)?;
        Some(rate * 100.0 / f64::from(percent))
    }
}

/// Latencies in microseconds; in an open loop from the intended start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_us: u64,
    /// 95 of 100 were as fast or faster.
    pub p95_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// How a row came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The commit that the programs were built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What was typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Which pass over the table, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<usize>,
    /// Of how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<usize>,
    /// How many rows a whole pass has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
}

/// One row; its field names are the contract of `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The row's name in the table; `run` otherwise.
    pub name: String,
    /// A peer and its version; absent: Flotilla.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What was sent.
    #[serde(flatten)]
    pub sent: Sent,
    /// To what.
    #[serde(flatten)]
    pub setup: Setup,
    /// Operations that succeeded.
    pub ops: u64,
    /// The same a second: over the window, or over `took_s`.
    pub ops_per_s: f64,
    /// Open loop: until the last answer, where that came after the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_s: Option<f64>,
    /// Operations that failed; not among `ops`.
    pub errors: u64,
    /// How long they took.
    #[serde(flatten)]
    pub latency: Latency,
    /// Every server, and `load`, the clients.
    pub processes: Vec<Usage>,
    /// Operations for each processor second of the servers.
    pub ops_per_core_s: f64,
    /// Load average of the last minute.
    pub load_average: f64,
    /// Share of the machine's processors that was busy, servers and clients together.
    pub cpu_percent: f64,
    /// Share that the machine's host took away meanwhile; absent in old rows, in which it is part
    /// of `cpu_percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_percent: Option<f64>,
    /// The machine in one line.
    pub machine: String,
    /// Why the row does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    /// What the errors said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_texts: Vec<(String, u64)>,
    /// How it came about.
    #[serde(flatten)]
    pub origin: Origin,
}

impl Row {
    /// Puts settings and measurement together; `invalid`: a reason known already why the row does
    /// not count.
    #[must_use]
    pub fn new(
        name: &str,
        sent: Sent,
        setup: Setup,
        measured: Measured,
        invalid: Option<String>,
    ) -> Self {
        let servers_cpu_s: f64 =
            measured.processes.iter().filter(|p| p.name != LOAD).map(|p| p.cpu_s).sum();
        let at = |percent: f64| measured.latency_us.value_at_percentile(percent);
        let too_many = || {
            let all = measured.ops + measured.errors;
            let first = measured.error_texts.first().map_or("", |(text, _)| text);
            (all == 0 || measured.errors as f64 > ERRORS_MAX * all as f64)
                .then(|| format!("{} of {all} operations failed: {first}", measured.errors))
        };
        let in_memory = setup.file_system.clone().filter(|name| UNSYNCED.contains(&&**name));
        let unsynced = in_memory.filter(|_| setup.sync == Some(true)).map(|name| {
            format!("data on {name}, where a sync does nothing: set TMPDIR to a folder on a disk")
        });
        let longer = measured.took.as_secs_f64() > sent.seconds;
        Row {
            name: name.to_owned(),
            system: None,
            machine: machine::describe(setup.file_system.as_deref()),
            took_s: longer.then_some(measured.took.as_secs_f64()),
            sent,
            setup,
            ops: measured.ops,
            ops_per_s: round(measured.ops as f64 / measured.took.as_secs_f64()),
            errors: measured.errors,
            latency: Latency {
                p50_us: at(50.0),
                p95_us: at(95.0),
                p99_us: at(99.0),
                p999_us: at(99.9),
                max_us: measured.latency_us.max(),
            },
            ops_per_core_s: if servers_cpu_s > 0.0 {
                round(measured.ops as f64 / servers_cpu_s)
            } else {
                0.0
            },
            load_average: round(measured.load_average),
            cpu_percent: round(measured.shares.busy_percent),
            steal_percent: Some(round(measured.shares.steal_percent)),
            invalid: invalid.or(unsynced).or_else(too_many),
            processes: measured.processes,
            error_texts: measured.error_texts,
            origin: Origin::default(),
        }
    }

    /// Several lines for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let s = &self.sent;
        let mut text = format!(
            "{}: {} clients, batching {}, rpc {}, storage {}, write:read {}, {} B + {} B, \
             pipeline {}, sync {}, keys {}, {} regions, {} in flight",
            self.name,
            s.clients,
            on_off(s.batching),
            s.rpc,
            self.storage(),
            s.work(),
            s.key_bytes,
            s.value_bytes,
            maybe(self.setup.pipeline),
            maybe(self.setup.sync),
            s.keys,
            self.setup.regions,
            s.in_flight,
        );
        if let Some(rate) = s.offered_rate {
            let _ = write!(text, " at most, {} ops/s offered", thousands(rate as u64));
        }
        text.push('\n');
        match &self.invalid {
            // Its figures would be read as results.
            Some(reason) => {
                let _ = writeln!(text, "  INVALID: {reason}");
            }
            None => text += &self.figures(),
        }
        for (error, count) in self.error_texts.iter().take(3) {
            let _ = writeln!(text, "  {count} times: {error}");
        }
        text
    }

    fn figures(&self) -> String {
        let mut text = String::new();
        let l = &self.latency;
        let _ = writeln!(
            text,
            "  {} ops/s over {:.1} s ({} ops, {} errors)   p50 {} p95 {} p99 {} p99.9 {} max {} ms",
            thousands(self.ops_per_s as u64),
            self.took_s.unwrap_or(self.sent.seconds),
            self.ops,
            self.errors,
            ms(l.p50_us),
            ms(l.p95_us),
            ms(l.p99_us),
            ms(l.p999_us),
            ms(l.max_us),
        );
        let _ = writeln!(
            text,
            "  load average {:.1}, CPU {:.0} %, stolen {:.0} %, {} ops per server core-second; {}",
            self.load_average,
            self.cpu_percent,
            self.steal_percent.unwrap_or_default(),
            thousands(self.ops_per_core_s as u64),
            self.processes
                .iter()
                .map(|p| format!("{} {:.2} s {} MiB", p.name, p.cpu_s, p.rss_mib))
                .collect::<Vec<_>>()
                .join(", "),
        );
        text
    }

    /// The JSON object, in one line.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a row has only text keys and finite numbers")
    }

    /// What holds the data.
    #[must_use]
    pub fn storage(&self) -> &str {
        self.setup.storage.as_deref().unwrap_or("unknown")
    }

    /// Rows of equal identity are repetitions of one another.
    #[must_use]
    pub fn identity(&self) -> [&str; 5] {
        let system = self.system.as_deref().unwrap_or_default();
        [&self.name, &self.sent.keys, &self.sent.rpc, self.storage(), system]
    }

    /// Processor microseconds of the load program for each operation.
    #[must_use]
    pub fn load_us_per_op(&self) -> Option<f64> {
        let load = self.processes.iter().find(|process| process.name == LOAD)?;
        (self.ops > 0).then(|| load.cpu_s * 1e6 / self.ops as f64)
    }
}

impl From<&Workload> for Sent {
    fn from(workload: &Workload) -> Self {
        Sent {
            clients: workload.clients,
            batching: workload.batching,
            rpc: workload.rpc.name().to_owned(),
            write_percent: workload.write_percent,
            consistency: (workload.consistency != Consistency::default())
                .then(|| workload.consistency.to_string()),
            key_bytes: workload.key_bytes,
            value_bytes: workload.value_bytes,
            keys: workload.keys.to_string(),
            in_flight: workload.in_flight,
            seconds: workload.seconds.as_secs_f64(),
            offered_rate: workload.rate.map(round),
            offered_percent: None,
        }
    }
}

/// `on` or `off`.
#[must_use]
pub fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// [`on_off`], or `unknown`.
#[must_use]
pub fn maybe(on: Option<bool>) -> &'static str {
    on.map_or("unknown", on_off)
}

/// `9:1`, `writes only`, `reads only`.
#[must_use]
pub fn mix(write_percent: u32) -> String {
    match write_percent {
        0 => "reads only".to_owned(),
        100 => "writes only".to_owned(),
        percent if percent % 10 == 0 => format!("{}:{}", percent / 10, 10 - percent / 10),
        percent => format!("{percent}:{}", 100 - percent),
    }
}

/// Milliseconds with as many digits as tell something.
#[must_use]
pub fn ms(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
