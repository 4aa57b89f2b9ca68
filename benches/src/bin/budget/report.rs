//! The budget as Markdown.

use crate::threads::Thread;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A row of the table, in the order of a put's way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The load program with the client library.
    Load,
    /// Network threads of the stores.
    Net,
    /// Shards, with what they write and apply by themselves when little is under way.
    Shard,
    /// Log writers.
    Log,
    /// Apply workers.
    Apply,
    /// Checkpoints: the table's content goes to the storage library.
    Sync,
    /// The storage library's flushes and compactions.
    Background,
    /// Everything else, by the thread's name.
    Other(String),
}

impl Stage {
    /// Where a thread belongs.
    pub fn of(thread: &Thread) -> Self {
        if thread.process == flotilla_benches::processes::LOAD {
            return Stage::Load;
        }
        match thread.name.as_str() {
            "net" => Stage::Net,
            "shard" => Stage::Shard,
            "log" => Stage::Log,
            "apply" => Stage::Apply,
            "sync" => Stage::Sync,
            name if name.starts_with("rocksdb") => Stage::Background,
            name => Stage::Other(name.to_owned()),
        }
    }

    fn title(&self) -> String {
        match self {
            Stage::Load => "load program, all threads".to_owned(),
            Stage::Net => "stores: `net` (gRPC, both ways)".to_owned(),
            Stage::Shard => "stores: `shard` (consensus, small writes)".to_owned(),
            Stage::Log => "stores: `log`".to_owned(),
            Stage::Apply => "stores: `apply`".to_owned(),
            Stage::Sync => "stores: `sync` (checkpoints)".to_owned(),
            Stage::Background => "stores: `rocksdb:*` (flush, compaction)".to_owned(),
            Stage::Other(name) => format!("stores: `{name}`"),
        }
    }

    /// What physics or the library sets on such a machine, for three stores, in microseconds of
    /// CPU.
    fn floor(&self) -> &'static str {
        match self {
            Stage::Load => {
                "0.15 / 4.4: half of a gRPC stream's echo (6.9 M/s batched, 226 k/s one by one, 2 cores)"
            }
            Stage::Net => "0.15 / 4.4 for the client's stream, and two followers' frames a round",
            Stage::Shard => {
                "raft-rs alone: 5.5 µs an entry on three replicas, divided by the puts in it"
            }
            Stage::Log => "3 × 0.1 with raft-engine, 3 × 0.4 with RocksDB, at 20 puts an entry",
            Stage::Apply => "3 × 0.17 for a hash map of 1 M keys, 3 × 2.6 for RocksDB's memtable",
            Stage::Sync => {
                "each changed key once a checkpoint, in order: 0.25 to sort, 0.34 to write"
            }
            Stage::Background => "each put written once and, when it is compacted, again",
            Stage::Other(_) => "0",
        }
    }
}

/// What one put costs in one stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Microseconds on a processor.
    pub cpu_us: f64,
    /// Context switches.
    pub switches: f64,
    /// System calls.
    pub calls: f64,
}

/// One load's budget, everything per put.
pub struct Budget {
    /// The load's name.
    pub name: &'static str,
    /// Its rate.
    pub ops_per_s: f64,
    /// By stage.
    pub stages: BTreeMap<Stage, Cost>,
    /// Sync calls of all stores.
    pub syncs: f64,
    /// Allocations of all stores; `None` where they do not tell.
    pub allocations: Option<f64>,
    /// Over the loopback device.
    pub loopback_bytes: f64,
    /// To disks, all stores.
    pub disk_bytes: f64,
}

/// A stage that costs less than this, in microseconds, in every load is not shown.
const SHOWN_MIN_US: f64 = 0.005;

/// The section's tables.
pub fn markdown(budgets: &[Budget], machine: &str) -> String {
    let mut text = format!(
        "Puts only, 16 B + 16 B, 1 M spread keys, 24 groups, RocksDB, log synced; {machine}. Printed by `make budget`.\n\n"
    );
    let mut head = "| CPU µs a put, three stores together".to_owned();
    let mut rule = "|---".to_owned();
    for budget in budgets {
        let rate = flotilla_benches::report::thousands(budget.ops_per_s as u64);
        let _ = write!(head, " | {} ({rate}/s): CPU µs | switches | system calls", budget.name);
        rule.push_str("|--:|--:|--:");
    }
    let _ = writeln!(text, "{head} | floor, µs |\n{rule}|---|");
    let mut stages: Vec<&Stage> = budgets.iter().flat_map(|b| b.stages.keys()).collect();
    stages.sort();
    stages.dedup();
    for stage in stages {
        let costs: Vec<Cost> =
            budgets.iter().map(|b| b.stages.get(stage).copied().unwrap_or_default()).collect();
        if costs.iter().any(|cost| cost.cpu_us >= SHOWN_MIN_US) {
            let _ = writeln!(text, "| {}{} | {} |", stage.title(), cells(&costs), stage.floor());
        }
    }
    let sums: Vec<Cost> = budgets.iter().map(|b| sum(b.stages.values())).collect();
    let _ = writeln!(text, "| **all** |{} | |", cells(&sums).trim_start_matches(" |"));

    let names: Vec<&str> = budgets.iter().map(|b| b.name).collect();
    let _ = writeln!(text, "\n| a put, all stores | {} | floor |", names.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "--:|".repeat(budgets.len()));
    let mut row = |what: &str, of: &dyn Fn(&Budget) -> Option<f64>, floor: &str| {
        let cells: Vec<String> =
            budgets.iter().map(|b| of(b).map_or("–".to_owned(), figure)).collect();
        let _ = writeln!(text, "| {what} | {} | {floor} |", cells.join(" | "));
    };
    row(
        "sync calls",
        &|b| Some(b.syncs),
        "one a log write of each store, shared by all that is in flight",
    );
    row("allocations (without RocksDB's own)", &|b| b.allocations, "a few a message, none a put");
    row(
        "bytes over the loopback",
        &|b| Some(b.loopback_bytes),
        "3 × 42: once from the client, once to each follower",
    );
    row(
        "bytes copied between user and kernel",
        &|b| Some(2.0 * b.loopback_bytes + b.disk_bytes),
        "each byte sent is copied twice, each written once",
    );
    row(
        "bytes written to disks",
        &|b| Some(b.disk_bytes),
        "3 × 2 × 42: log and data of each store",
    );
    text
}

fn cells(costs: &[Cost]) -> String {
    let cell = |c: &Cost| {
        format!(" | {} | {} | {}", figure(c.cpu_us), figure(c.switches), figure(c.calls))
    };
    costs.iter().map(cell).collect()
}

fn sum<'a>(costs: impl Iterator<Item = &'a Cost>) -> Cost {
    costs.fold(Cost::default(), |a, b| Cost {
        cpu_us: a.cpu_us + b.cpu_us,
        switches: a.switches + b.switches,
        calls: a.calls + b.calls,
    })
}

/// Three digits, more or less.
fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v if v >= 0.000_05 => format!("{v:.4}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_find_their_stage() {
        let stage = |process: &str, name: &str| {
            Stage::of(&Thread { process: process.to_owned(), name: name.to_owned() })
        };
        assert_eq!(stage("load", "net"), Stage::Load);
        assert_eq!(stage("store-2", "net"), Stage::Net);
        assert_eq!(stage("store-2", "rocksdb:low"), Stage::Background);
        assert_eq!(stage("store-2", "sync"), Stage::Sync);
        assert_eq!(stage("store-2", "ticker"), Stage::Other("ticker".to_owned()));
    }

    #[test]
    fn every_line_of_a_table_has_as_many_cells() {
        let cost = Cost { cpu_us: 1.5, switches: 0.01, calls: 0.2 };
        let budget = |name, stages: &[Stage]| Budget {
            name,
            ops_per_s: 1_000.0,
            stages: stages.iter().map(|stage| (stage.clone(), cost)).collect(),
            syncs: 0.001,
            allocations: None,
            loopback_bytes: 120.0,
            disk_bytes: 250.0,
        };
        let budgets = [
            budget("one", &[Stage::Load, Stage::Net]),
            budget("two", &[Stage::Net, Stage::Other("ticker".to_owned())]),
        ];
        let text = markdown(&budgets, "a machine");
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.len() > 4 && cells.windows(2).all(|w| w[0] == w[1]), "{table}");
        }
        assert!(text.contains("| **all** | 3.00 | 0.0200 | 0.40 | 3.00 |"), "{text}");
        assert!(text.contains("| bytes copied between user and kernel | 490 | 490 |"), "{text}");
    }
}
