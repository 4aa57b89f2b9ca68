//! A finished row: the stores' tallies added up, as text and as a JSON object.
//!
//! The field names are those of the throughput table's rows; `rpc` is `none`.

use crate::cluster::{Measured, is_even};
use crate::drive::VALUE_BYTES;
use crate::protocol::Work;
use flotilla_benches::keys::SPREAD_KEY_BYTES;
use flotilla_benches::machine;
use flotilla_benches::processes::Usage;
use flotilla_benches::report::thousands;
use flotilla_kvserver::config::Storage;
use hdrhistogram::Histogram;
use serde::Serialize;

/// More errors than this share of all operations make a row invalid.
const ERRORS_MAX: f64 = 0.001;

/// See the module.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    clients: usize,
    batching: bool,
    rpc: &'static str,
    storage: Storage,
    write_percent: u32,
    key_bytes: usize,
    value_bytes: usize,
    keys: String,
    regions: usize,
    pipeline: bool,
    sync: bool,
    in_flight: usize,
    seconds: f64,
    ops: u64,
    ops_per_s: f64,
    errors: u64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    processes: Vec<Usage>,
    ops_per_core_s: f64,
    load_average: f64,
    cpu_percent: f64,
    machine: String,
    /// Why the row does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

impl Row {
    /// Adds up what the stores counted.
    pub fn new(
        name: &str,
        work: Work,
        in_flight: usize,
        storage: Storage,
        measured: Measured,
    ) -> Self {
        let mut latency = Histogram::<u64>::new(3).expect("three digits are legal");
        for (value, count) in measured.tallies.iter().flat_map(|tally| &tally.latency_us) {
            latency.record_n(*value, *count).expect("an unbounded histogram takes every value");
        }
        let ops = latency.len();
        let errors = measured.tallies.iter().map(|tally| tally.errors).sum();
        let cpu_s: f64 = measured.processes.iter().map(|process| process.cpu_s).sum();
        let seconds = measured.window.as_secs_f64();
        let at = |percent| latency.value_at_percentile(percent);
        Row {
            name: name.to_owned(),
            clients: measured.tallies.len(),
            batching: false,
            rpc: "none",
            storage,
            write_percent: if work == Work::Puts { 100 } else { 0 },
            key_bytes: SPREAD_KEY_BYTES,
            value_bytes: VALUE_BYTES,
            keys: format!("spread:{}", measured.keys),
            regions: measured.regions,
            // The stores run with the defaults.
            pipeline: flotilla_raftstore::Config::default().pipeline,
            sync: flotilla_kvserver::config::LogSettings::default().sync,
            in_flight,
            seconds,
            ops,
            ops_per_s: round(ops as f64 / seconds),
            errors,
            p50_us: at(50.0),
            p95_us: at(95.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: latency.max(),
            ops_per_core_s: if cpu_s > 0.0 { round(ops as f64 / cpu_s) } else { 0.0 },
            load_average: round(measured.load_average),
            cpu_percent: round(measured.cpu_percent),
            machine: machine::describe(),
            invalid: why_invalid(&measured, ops, errors),
            processes: measured.processes,
        }
    }

    /// Two lines for a terminal.
    pub fn text(&self) -> String {
        let ms = |us: u64| format!("{:.2}", us as f64 / 1_000.0);
        let mut text = format!(
            "{} on {}: {} ops/s ({} ops in {:.1} s, {} errors), p50 {} p95 {} p99 {} p99.9 {} \
             max {} ms\n  {} ops a core-second, CPU {:.0} %, load average {:.1}; {}\n",
            self.name,
            self.storage,
            thousands(self.ops_per_s as u64),
            self.ops,
            self.seconds,
            self.errors,
            ms(self.p50_us),
            ms(self.p95_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us),
            thousands(self.ops_per_core_s as u64),
            self.cpu_percent,
            self.load_average,
            self.processes
                .iter()
                .map(|p| format!("{} {:.2} s {} MiB", p.name, p.cpu_s, p.rss_mib))
                .collect::<Vec<_>>()
                .join(", "),
        );
        if let Some(reason) = &self.invalid {
            text.push_str(&format!("  INVALID: {reason}\n"));
        }
        text
    }

    /// The JSON object, in one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a row has only text keys and finite numbers")
    }
}

fn why_invalid(measured: &Measured, ops: u64, errors: u64) -> Option<String> {
    for (at, when) in ["start", "end"].into_iter().enumerate() {
        let led: Vec<usize> = measured.tallies.iter().map(|tally| tally.led[at]).collect();
        if !is_even(&led, measured.regions) {
            return Some(format!("at its {when} the stores led {led:?} groups"));
        }
    }
    if ops == 0 || errors as f64 > (ops + errors) as f64 * ERRORS_MAX {
        let text = measured.tallies.iter().find_map(|tally| tally.error.clone());
        let text = text.unwrap_or_else(|| "nothing was answered".to_owned());
        return Some(format!("{errors} errors beside {ops} operations: {text}"));
    }
    None
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Tally;
    use std::time::Duration;

    fn measured(led: usize, errors: u64) -> Measured {
        let tally = |led| Tally {
            ops: 1_000,
            errors,
            error: Some("busy".to_owned()),
            latency_us: vec![(100, 990), (5_000, 10)],
            led: [8, led],
        };
        Measured {
            tallies: vec![tally(8), tally(8), tally(led)],
            window: Duration::from_secs(2),
            processes: Vec::new(),
            cpu_percent: 1.0,
            load_average: 1.0,
            regions: 24,
            keys: 10,
        }
    }

    #[test]
    fn tallies_add_up() {
        let row = Row::new("r", Work::Puts, 4_000, Storage::Memory, measured(8, 0));
        assert_eq!((row.ops, row.errors, row.ops_per_s), (3_000, 0, 1_500.0));
        assert_eq!((row.p50_us, row.p99_us), (100, 100));
        assert!((5_000..5_010).contains(&row.max_us));
        assert_eq!(row.invalid, None);
        let json: serde_json::Value = serde_json::from_str(&row.json()).unwrap();
        assert_eq!(
            (json["rpc"].as_str(), json["keys"].as_str()),
            (Some("none"), Some("spread:10"))
        );
    }

    #[test]
    fn rows_with_errors_or_moved_leaders_do_not_count() {
        let row = |led, errors| {
            Row::new("r", Work::Reads, 512, Storage::Memory, measured(led, errors)).invalid
        };
        assert!(row(8, 1).is_none());
        assert!(row(8, 4).unwrap().contains("busy"));
        assert!(row(7, 0).unwrap().contains("[8, 8, 7]"));
    }
}
