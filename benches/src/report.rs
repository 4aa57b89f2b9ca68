//! A finished row: as text, as a JSON object, as a line of the Markdown table.

use crate::load::Measured;
use crate::machine;
use crate::processes::{LOAD, Usage};
use crate::workload::Workload;
use serde::Serialize;
use std::fmt::Write as _;

/// How the servers are set up, as the first store's `/status` says; `None` where it says nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// `rocksdb` or `memory`.
    pub storage: Option<String>,
    /// Several appends in flight to a follower, or one.
    pub pipeline: Option<bool>,
    /// Every log write is synced.
    pub sync: Option<bool>,
    /// Number of regions.
    pub regions: usize,
}

/// One row; its field names are the contract of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The row's name in the table; `run` otherwise.
    pub row: String,
    /// What was sent.
    #[serde(flatten)]
    pub workload: Workload,
    /// To what.
    #[serde(flatten)]
    pub setup: Setup,
    /// Operations that succeeded within the window.
    pub ops: u64,
    /// The same a second.
    pub ops_per_s: f64,
    /// Operations that failed within the window; not among `ops`.
    pub errors: u64,
    /// Median latency, in microseconds; the next ones likewise.
    pub p50_us: u64,
    /// 95 of 100 were as fast or faster.
    pub p95_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Every server, and `load`, the clients.
    pub processes: Vec<Usage>,
    /// Operations for each processor second of the servers.
    pub ops_per_core_s: f64,
    /// Load average of the last minute.
    pub load_average: f64,
    /// Share of the machine's processors that was busy, servers and clients together.
    pub cpu_percent: f64,
    /// The machine in one line.
    pub machine: String,
    /// What the errors said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_texts: Vec<(String, u64)>,
}

impl Row {
    /// Puts settings and measurement together.
    #[must_use]
    pub fn new(row: &str, workload: &Workload, setup: Setup, measured: Measured) -> Self {
        let servers_cpu_s: f64 =
            measured.processes.iter().filter(|p| p.name != LOAD).map(|p| p.cpu_s).sum();
        let latency = |percent: f64| measured.latency_us.value_at_percentile(percent);
        Row {
            row: row.to_owned(),
            workload: workload.clone(),
            setup,
            ops: measured.ops,
            ops_per_s: round(measured.ops as f64 / measured.window.as_secs_f64()),
            errors: measured.errors,
            p50_us: latency(50.0),
            p95_us: latency(95.0),
            p99_us: latency(99.0),
            p999_us: latency(99.9),
            max_us: measured.latency_us.max(),
            ops_per_core_s: if servers_cpu_s > 0.0 {
                round(measured.ops as f64 / servers_cpu_s)
            } else {
                0.0
            },
            processes: measured.processes,
            load_average: measured.load_average,
            cpu_percent: round(measured.cpu_percent),
            machine: machine::describe(),
            error_texts: measured.error_texts,
        }
    }

    /// Several lines for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let w = &self.workload;
        let mut text = format!(
            "{}: {} clients, batching {}, rpc {}, storage {}, write:read {}, {} B + {} B, \
             pipeline {}, sync {}, keys {}, {} regions, {} in flight\n",
            self.row,
            w.clients,
            on_off(w.batching),
            w.rpc.name(),
            self.storage(),
            mix(w.write_percent),
            w.key_bytes,
            w.value_bytes,
            maybe(self.setup.pipeline),
            maybe(self.setup.sync),
            w.keys,
            self.setup.regions,
            w.in_flight,
        );
        let _ = writeln!(
            text,
            "  {} ops/s over {:.1} s ({} ops, {} errors)   p50 {} p95 {} p99 {} p99.9 {} max {} ms",
            thousands(self.ops_per_s as u64),
            w.seconds.as_secs_f64(),
            self.ops,
            self.errors,
            ms(self.p50_us),
            ms(self.p95_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us),
        );
        let _ = writeln!(
            text,
            "  load average {:.1}, CPU {:.0} %, {} ops per server core-second; {}",
            self.load_average,
            self.cpu_percent,
            thousands(self.ops_per_core_s as u64),
            self.processes
                .iter()
                .map(|p| format!("{} {:.2} s {} MiB", p.name, p.cpu_s, p.rss_mib))
                .collect::<Vec<_>>()
                .join(", "),
        );
        for (error, count) in self.error_texts.iter().take(3) {
            let _ = writeln!(text, "  {count} times: {error}");
        }
        text
    }

    /// The JSON object, in one line.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a row has only text keys and finite numbers")
    }

    /// Cells of [`HEADER`]; `published` is the figure to stand beside.
    #[must_use]
    pub fn markdown(&self, published: Option<&str>) -> String {
        let w = &self.workload;
        let servers: Vec<_> = self.processes.iter().filter(|p| p.name != LOAD).collect();
        let cells = [
            w.clients.to_string(),
            format!("{}, {}", on_off(w.batching), w.rpc.name()),
            w.in_flight.to_string(),
            self.storage().to_owned(),
            mix(w.write_percent),
            format!("{} B, {} B", w.key_bytes, w.value_bytes),
            maybe(self.setup.pipeline).to_owned(),
            maybe(self.setup.sync).to_owned(),
            w.keys.to_string(),
            self.setup.regions.to_string(),
            format!("**{}**", thousands(self.ops_per_s as u64)),
            self.errors.to_string(),
            [self.p50_us, self.p95_us, self.p99_us, self.p999_us, self.max_us].map(ms).join(" / "),
            format!("{:.1}, {:.0} %", self.load_average, self.cpu_percent),
            format!(
                "{:.1} s, {} MiB",
                servers.iter().map(|p| p.cpu_s).sum::<f64>(),
                servers.iter().map(|p| p.rss_mib).sum::<u64>()
            ),
            thousands(self.ops_per_core_s as u64),
            published.unwrap_or("–").to_owned(),
        ];
        format!("| {} |", cells.join(" | "))
    }

    fn storage(&self) -> &str {
        self.setup.storage.as_deref().unwrap_or("unknown")
    }
}

/// Head of the Markdown table.
pub const HEADER: &str = "\
| clients | batching, rpc | in flight | storage | write:read | key, value | pipeline | sync | keys \
| regions | ops/s | errors | p50 / p95 / p99 / p99.9 / max, ms | load average, CPU \
| servers' CPU, memory | ops per server core-second | published |
|--:|---|--:|---|---|---|---|---|---|--:|--:|--:|---|---|---|--:|---|";

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn maybe(on: Option<bool>) -> &'static str {
    on.map_or("unknown", on_off)
}

fn mix(write_percent: u32) -> String {
    match write_percent {
        0 => "reads only".to_owned(),
        100 => "writes only".to_owned(),
        percent if percent % 10 == 0 => format!("{}:{}", percent / 10, 10 - percent / 10),
        percent => format!("{percent}:{}", 100 - percent),
    }
}

fn ms(us: u64) -> String {
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
