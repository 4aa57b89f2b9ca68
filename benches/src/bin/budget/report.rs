//! The budget as Markdown.

use crate::stage::Stage;
use crate::threads::Thread;
use flotilla_benches::processes::LOAD;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The row of a thread.
pub fn thread_title(thread: &Thread) -> String {
    if thread.process == LOAD { "client program".to_owned() } else { format!("`{}`", thread.name) }
}

/// What the design asks of a thread of a store besides processor time. One turn is what a thread
/// does between two looks at its sockets or its queue; under load many puts share it.
fn thread_floor(title: &str) -> &'static str {
    match title {
        "client program" => "a turn: one read and one write for each store",
        "`kvserver`" | "`net`" => {
            "no switch while there is work; a turn: one wait, one read and one write for each \
             client and follower that has something; a log write that it makes itself: one write, \
             one sync, two switches"
        }
        "`shard`" => "a round: one switch, no call",
        "`log`" => "a batch of rounds: one wake-up; one write, one sync, two switches",
        "`apply`" => "a batch of rounds: one wake-up, no other call",
        "`ticker`" => "one wake-up a tick (a hundred or fewer a second)",
        _ => "0 a put: its work is shared by all puts of a checkpoint or a file",
    }
}

/// What one put costs in one thread.
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
    /// Microseconds on a processor by stage.
    pub stages: BTreeMap<Stage, f64>,
    /// By thread, those of equal names in all stores together.
    pub threads: BTreeMap<String, Cost>,
    /// Checkpoints of all stores within the window of `/proc`.
    pub checkpoints: u64,
    /// Sync calls of all stores.
    pub syncs: f64,
    /// Allocations of all stores; `None` where they do not tell.
    pub allocations: Option<f64>,
    /// Over the loopback device.
    pub loopback_bytes: f64,
    /// To disks, all stores.
    pub disk_bytes: f64,
}

/// A row that costs less than this, in microseconds, in every load is not shown.
const SHOWN_MIN_US: f64 = 0.005;

/// The section's tables.
pub fn markdown(budgets: &[Budget], machine: &str) -> String {
    let mut text = format!(
        "Puts only, 16 B + 16 B, 1 M spread keys, 24 groups, RocksDB, log synced; {machine}. Printed by `make budget`.\n\n"
    );
    text += &stages(budgets);
    text += "\nThe same by thread, with context switches and system calls:\n\n";
    text += &threads(budgets);

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

fn stages(budgets: &[Budget]) -> String {
    let mut text = "| CPU µs a put, three stores together".to_owned();
    for budget in budgets {
        let rate = flotilla_benches::report::thousands(budget.ops_per_s as u64);
        let _ = write!(text, " | {} ({rate}/s)", budget.name);
    }
    let _ = writeln!(text, " | floor, µs |\n|---|{}---|", "--:|".repeat(budgets.len()));
    let mut stages: Vec<Stage> = budgets.iter().flat_map(|b| b.stages.keys().copied()).collect();
    stages.sort();
    stages.dedup();
    let line = |costs: &[f64]| costs.iter().map(|us| figure(*us)).collect::<Vec<_>>().join(" | ");
    for stage in stages {
        let costs: Vec<f64> =
            budgets.iter().map(|b| b.stages.get(&stage).copied().unwrap_or_default()).collect();
        if costs.iter().any(|us| *us >= SHOWN_MIN_US) {
            let _ = writeln!(text, "| {} | {} | {} |", stage.title(), line(&costs), stage.floor());
        }
    }
    let sums: Vec<f64> = budgets.iter().map(|b| b.stages.values().sum()).collect();
    let _ = writeln!(text, "| **all** | {} | |", line(&sums));
    let made: Vec<String> = budgets.iter().map(|b| b.checkpoints.to_string()).collect();
    let _ = writeln!(
        text,
        "\nStages are those of stacks that perf sampled, a stack being of the innermost function that is\n\
         known, scaled to the threads' processor time. Checkpoints of the three stores in that time: {}.",
        made.join(" and ")
    );
    text
}

fn threads(budgets: &[Budget]) -> String {
    let mut text = "| thread".to_owned();
    for budget in budgets {
        let _ = write!(text, " | {}: CPU µs | switches | system calls", budget.name);
    }
    let columns = "--:|".repeat(3 * budgets.len());
    let _ = writeln!(text, " | floor of switches and calls |\n|---|{columns}---|");
    let mut titles: Vec<&String> = budgets.iter().flat_map(|b| b.threads.keys()).collect();
    titles.sort();
    titles.dedup();
    for title in titles {
        let costs: Vec<Cost> =
            budgets.iter().map(|b| b.threads.get(title).copied().unwrap_or_default()).collect();
        if costs.iter().any(|cost| cost.cpu_us >= SHOWN_MIN_US) {
            let _ = writeln!(text, "| {title}{} | {} |", cells(&costs), thread_floor(title));
        }
    }
    let sums: Vec<Cost> = budgets.iter().map(|b| sum(b.threads.values())).collect();
    let _ = writeln!(text, "| **all**{} | |", cells(&sums));
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
    fn every_line_of_a_table_has_as_many_cells() {
        let cost = Cost { cpu_us: 1.5, switches: 0.01, calls: 0.2 };
        let budget = |name, stages: &[Stage], threads: &[&str]| Budget {
            name,
            ops_per_s: 1_000.0,
            stages: stages.iter().map(|stage| (*stage, 1.5)).collect(),
            threads: threads.iter().map(|title| ((*title).to_owned(), cost)).collect(),
            checkpoints: 3,
            syncs: 0.001,
            allocations: None,
            loopback_bytes: 120.0,
            disk_bytes: 250.0,
        };
        let budgets = [
            budget("one", &[Stage::Client, Stage::Network], &["client program", "`net`"]),
            budget("two", &[Stage::Network, Stage::Rest], &["`net`", "`ticker`"]),
        ];
        let text = markdown(&budgets, "a machine");
        let tables: Vec<&str> = text.split("\n\n").filter(|part| part.starts_with('|')).collect();
        assert_eq!(tables.len(), 3, "{text}");
        for table in tables {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.len() > 4 && cells.windows(2).all(|w| w[0] == w[1]), "{table}");
        }
        assert!(text.contains("| **all** | 3.00 | 3.00 | |"), "{text}");
        assert!(text.contains("| **all** | 3.00 | 0.0200 | 0.40 | 3.00 |"), "{text}");
        assert!(text.contains("in that time: 3 and 3."), "{text}");
        assert!(text.contains("| bytes copied between user and kernel | 490 | 490 |"), "{text}");
    }

    #[test]
    fn threads_of_the_load_are_one_row() {
        let title = |process: &str| {
            thread_title(&Thread { process: process.to_owned(), name: "net".to_owned() })
        };
        assert_eq!(
            (title("load"), title("store-2")),
            ("client program".to_owned(), "`net`".to_owned())
        );
    }
}
