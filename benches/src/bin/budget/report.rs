//! The budget as Markdown.

use crate::stage::Stage;
use crate::stores::Counts;
use crate::threads::Thread;
use flotilla_benches::built;
use flotilla_benches::processes::LOAD;
use flotilla_benches::report::{Row, maybe, mix, on_off, thousands};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The row of a thread.
pub fn thread_title(thread: &Thread) -> String {
    match &*thread.process {
        LOAD => "client program".to_owned(),
        process if process.starts_with("placement") => "placement".to_owned(),
        _ => format!("`{}`", thread.name),
    }
}

/// What the design asks of a thread of a store besides processor time. One turn is what a thread
/// does between two looks at its sockets or its queue; under load many puts share it.
fn thread_floor(title: &str) -> &'static str {
    match title {
        "client program" => "a turn: one read and one write for each store",
        "placement" => "0 an operation",
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

/// One load's budget, everything for an operation.
pub struct Budget {
    /// The load, as a row of the table.
    pub row: Row,
    /// Operations a second over the window of `/proc`.
    pub ops_per_s: f64,
    /// Microseconds on a processor by stage.
    pub stages: BTreeMap<Stage, f64>,
    /// By thread, those of equal names in all stores together.
    pub threads: BTreeMap<String, Cost>,
    /// Checkpoints of all stores within the window of `/proc`.
    pub checkpoints: u64,
    /// Sync calls of all stores.
    pub syncs: f64,
    /// What the stores count, all together.
    pub counts: Counts,
    /// Over the loopback device.
    pub loopback_bytes: f64,
    /// To disks, all stores.
    pub disk_bytes: f64,
}

impl Budget {
    /// The share of the CPU that is in no known stage.
    pub fn rest_percent(&self) -> f64 {
        let rest = self.stages.get(&Stage::Rest).copied().unwrap_or_default();
        100.0 * rest / self.stages.values().sum::<f64>().max(f64::MIN_POSITIVE)
    }

    /// Log entries, each counted once.
    fn entries(&self) -> f64 {
        self.counts.entries / REPLICAS
    }

    /// Bytes that an operation must send and write at least.
    fn bytes_min(&self) -> (f64, f64) {
        let record = (self.row.sent.key_bytes + self.row.sent.value_bytes + OVERHEAD_BYTES) as f64;
        let writes = f64::from(self.row.sent.write_percent) / 100.0;
        (record * (REPLICAS * writes + (1.0 - writes)), record * 2.0 * REPLICAS * writes)
    }
}

const REPLICAS: f64 = 3.0;
/// A put's lengths, kind and the like beside key and value, wherever it goes.
const OVERHEAD_BYTES: usize = 10;
/// A row that costs less than this, in microseconds, in every load is not shown.
const SHOWN_MIN_US: f64 = 0.005;

/// The section's tables.
pub fn markdown(budgets: &[Budget]) -> String {
    let machine = budgets.first().map_or("", |budget| &budget.row.machine);
    let commit = built::commit().unwrap_or_else(|| "not noted".to_owned());
    let mut text = format!("{machine}. Commit of the programs: {commit}. Printed by `budget`.\n\n");
    for budget in budgets {
        let _ = writeln!(text, "- {}", load(&budget.row));
    }
    text.push('\n');
    text += &stages(budgets);
    text += "\nThe same by thread, with context switches and system calls:\n\n";
    text += &threads(budgets);
    text.push('\n');
    text += &others(budgets);
    if budgets.iter().all(|budget| budget.row.sent.write_percent == 100) {
        text += COPIES;
    }
    text
}

/// A load in words.
fn load(row: &Row) -> String {
    format!(
        "`{}`: {} clients, batching {}, rpc {}, {} in flight, {}, {} B + {} B, keys {}, {} groups, {}, \
         log sync {}",
        row.name,
        row.sent.clients,
        on_off(row.sent.batching),
        row.sent.rpc,
        thousands(row.sent.in_flight as u64),
        mix(row.sent.write_percent),
        row.sent.key_bytes,
        row.sent.value_bytes,
        row.sent.keys,
        row.setup.regions,
        row.storage(),
        maybe(row.setup.sync),
    )
}

const COPIES: &str = "\nWithin the processes a put's bytes, with what wraps them, are copied 17 times, counted in the code:\n\
twice in the client (request, frame), once into its log command, once into its entry, twice a\n\
follower on the way (message, frame), and in each store once into the log's batch, once into the\n\
record and once into the table. The floor is one a table.\n";

/// What is counted beside CPU.
fn others(budgets: &[Budget]) -> String {
    let names: Vec<&str> = budgets.iter().map(|b| &*b.row.name).collect();
    let mut text = format!("| an operation, all stores | {} | floor |\n", names.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "--:|".repeat(budgets.len()));
    let each = |of: &dyn Fn(&Budget) -> f64, between: &str| {
        budgets.iter().map(|b| figure(of(b))).collect::<Vec<_>>().join(between)
    };
    let mut row = |what: &str, of: &dyn Fn(&Budget) -> f64, floor: &str| {
        let _ = writeln!(text, "| {what} | {} | {floor} |", each(of, " | "));
    };
    row("operations in a log entry", &|b| one_in(b.entries()), "");
    row("operations in a round of a shard", &|b| one_in(b.counts.rounds), "");
    row("operations in a log write of a store", &|b| one_in(b.counts.log_writes), "");
    row("operations in a message between stores", &|b| one_in(b.counts.messages), "");
    let floor = format!("{} log writes: one each", each(&|b| b.counts.log_writes, " / "));
    row("sync calls", &|b| b.syncs, &floor);
    let floor = "a few a message, none an operation";
    row("allocations (without RocksDB's own)", &|b| b.counts.allocations, floor);
    let floor = each(&|b| b.bytes_min().0, " / ");
    let floor = format!("{floor}: a put once from the client and once to each follower");
    row("bytes over the loopback", &|b| b.loopback_bytes, &floor);
    let floor = each(&|b| 2.0 * b.bytes_min().0 + b.bytes_min().1, " / ");
    row(
        "bytes copied between user and kernel (computed: twice those over the loopback, once those to disks)",
        &|b| 2.0 * b.loopback_bytes + b.disk_bytes,
        &floor,
    );
    let floor = format!(
        "{}: log and data of each store; less where a key is overwritten between two checkpoints",
        each(&|b| b.bytes_min().1, " / ")
    );
    row("bytes written to disks", &|b| b.disk_bytes, &floor);
    text
}

/// How many operations share what each has `part` of.
fn one_in(part: f64) -> f64 {
    if part > 0.0 { 1.0 / part } else { 0.0 }
}

fn stages(budgets: &[Budget]) -> String {
    let mut text = "| CPU µs an operation, three stores together".to_owned();
    for budget in budgets {
        let rate = thousands(budget.ops_per_s as u64);
        let _ = write!(text, " | {} ({rate}/s)", budget.row.name);
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
            let floors = budgets.iter().filter_map(|b| stage.floor_us(&b.row, b.entries()));
            let floors: Vec<String> = floors.map(figure).collect();
            let parts = [floors.join(" / "), stage.floor().to_owned()];
            let floor = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            let (title, floor) = (stage.title(), floor.join(": "));
            let _ = writeln!(text, "| {title} | {} | {floor} |", line(&costs));
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
        let _ = write!(text, " | {}: CPU µs | switches | system calls", budget.row.name);
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
        let row = |name: &str| -> Row {
            let text = r#"{"clients":2,"batching":true,"rpc":"stream","write_percent":100,
                "key_bytes":16,"value_bytes":16,"keys":"spread:10","in_flight":512,"seconds":1.0,
                "storage":"rocksdb","pipeline":true,"sync":true,"regions":24,"ops":1,"name":"",
                "ops_per_s":1.0,"errors":0,"p50_us":1,"p95_us":1,"p99_us":1,"p999_us":1,"max_us":1,
                "processes":[],"ops_per_core_s":1.0,"load_average":1.0,"cpu_percent":1.0,
                "machine":"a machine"}"#;
            Row { name: name.to_owned(), ..serde_json::from_str(text).unwrap() }
        };
        let budget = |name, stages: &[Stage], threads: &[&str]| Budget {
            row: row(name),
            ops_per_s: 1_000.0,
            stages: stages.iter().map(|stage| (*stage, 1.5)).collect(),
            threads: threads.iter().map(|title| ((*title).to_owned(), cost)).collect(),
            checkpoints: 3,
            syncs: 0.001,
            counts: Counts { entries: 0.3, rounds: 0.02, ..Counts::default() },
            loopback_bytes: 120.0,
            disk_bytes: 250.0,
        };
        let budgets = [
            budget("one", &[Stage::Client, Stage::Shard], &["client program", "`net`"]),
            budget("two", &[Stage::Shard, Stage::Rest], &["`net`", "`ticker`"]),
        ];
        let text = markdown(&budgets);
        let tables: Vec<&str> = text.split("\n\n").filter(|part| part.starts_with('|')).collect();
        assert_eq!(tables.len(), 3, "{text}");
        for table in tables {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.len() > 4 && cells.windows(2).all(|w| w[0] == w[1]), "{table}");
        }
        assert!(text.contains("| **all** | 3.00 | 3.00 | |"), "{text}");
        assert!(text.contains("| **all** | 3.00 | 0.0200 | 0.40 | 3.00 |"), "{text}");
        assert!(text.contains("in that time: 3 and 3."), "{text}");
        assert!(text.contains("once those to disks) | 490 | 490 | 504 / 504 |"), "{text}");
        assert!(text.contains("| operations in a log entry | 10.0 | 10.0 |  |"), "{text}");
        assert!(text.contains("| operations in a round of a shard | 50.0 | 50.0 |  |"), "{text}");
        assert!(text.contains("| 1.50 | 1.50 | 0.55 / 0.55: raft-rs"), "{text}");
        assert_eq!((budgets[0].rest_percent(), budgets[1].rest_percent()), (0.0, 50.0));
        assert!(text.contains("- `one`: 2 clients, batching on"), "{text}");
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
