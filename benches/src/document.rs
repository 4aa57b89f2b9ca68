//! The report: one Markdown page and its plots, from the JSON lines of one or more runs.

use crate::error::Error;
use crate::keys::KeyMode;
use crate::median::{self, Repeated};
use crate::peers;
use crate::plots;
use crate::processes::LOAD;
use crate::report::{Row, maybe, ms, on_off, thousands};
use crate::suite::{self, Published, SECTIONS};
use flotilla_raftstore::log::LogEngine;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const PAGE: &str = "throughput.md";
/// Lines of the README around its table.
const MARKS: [&str; 2] = ["<!-- table: `make bench-report` -->", "<!-- end of the table -->"];

/// Reads rows from JSON lines, naming the line that is none.
pub fn read(path: &Path) -> Result<Vec<Row>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(Error::system(format!("cannot read --json {}", path.display())))?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                let at = number + 1;
                Error::Invalid(format!("--json {}, line {at}: no row: {error}", path.display()))
            })
        })
        .collect()
}

/// Writes the page and its plots into `out`; returns the page's text.
pub fn write(rows: &[Row], out: &Path) -> Result<String, Error> {
    std::fs::create_dir_all(out)
        .map_err(Error::system(format!("cannot make {}", out.display())))?;
    let repeated = median::of(rows);
    let plots = plots::draw(&repeated, out)?;
    let page = page(rows, &repeated, &plots);
    let path = out.join(PAGE);
    std::fs::write(&path, &page)
        .map_err(Error::system(format!("cannot write {}", path.display())))?;
    Ok(page)
}

fn page(rows: &[Row], repeated: &[Repeated], plots: &[plots::Plot]) -> String {
    let ours: Vec<&Repeated> = repeated.iter().filter(|r| !peers::is_peers_row(&r.row)).collect();
    let mut page = head(rows);
    if ours.iter().any(|r| published(&r.row).is_some()) {
        page += "\n## In short\n\n";
        page += &short(&ours);
    }
    for plot in plots {
        let _ = write!(page, "\n## {}\n\n![{}]({})\n", plot.question, plot.question, plot.file);
    }
    for (key, title) in SECTIONS {
        let rows: Vec<&Repeated> =
            ours.iter().copied().filter(|r| section(&r.row) == Some(key)).collect();
        if !rows.is_empty() {
            let _ = write!(page, "\n## {title}\n\n{}\n\n", passes(&rows));
            page += section_note(key);
            page += &table(&rows);
        }
    }
    let other: Vec<&Repeated> =
        ours.iter().copied().filter(|r| section(&r.row).is_none()).collect();
    if !other.is_empty() {
        let _ = write!(page, "\n## Other rows\n\n{}\n\n{}", passes(&other), table(&other));
    }
    page += &peers::compare(repeated);
    page
}

/// What holds for all rows, and the words of the tables.
const HEAD: &str = "\
Everything runs on this one machine: three stores, the placement driver and all clients.
Each row is one common window of steady load after a warm-up. Every get goes
through ReadIndex (with hundreds of busy groups also on the commit of a write that came with
it): linearizable, without a lease, but for the rows that say *reads lease*. \"ok\" to a put means synced on a majority
and applied, except where a row says sync off. Errors are counted apart, among them what began in
the window and failed or never ended after it; a row with more than 0.1 % of them is marked
invalid and is no result, as is one whose leaders were uneven or moved, whose servers were not all
measured, or whose synced log was on a file system in memory. Of rows that ran several times the
repetition of median operations a second is shown (open loop: of median p99), of two the worse.

The words:
- *keys*: `startkey` puts and gets only the first key of each region, as many keys as groups;
  `spread:N` takes N keys of 16 bytes, uniform over all regions.
- *batching*: `on` lets a message carry up to 100 operations, `off` one. *rpc*: `stream` is one
  bidirectional stream a client and store with many messages under way, `unary` a call for each
  message, `none` no client network: requests are made inside the store processes.
- *in flight*: operations that are under way at once, over all clients; an open loop starts them at
  a fixed rate instead, and latencies count from the intended starts.
- *pipeline*: `off` allows one append in flight to each follower of a group.
- *ops per server core-second*: operations for each second of CPU of stores and placement.
- *stolen*: the share of the processors that the machine's host gave to others meanwhile; it is not
  in *CPU*.
- *most memory*: the most that a store held in RAM since it began, over the rows before it too.

Rows next to each other that need the same servers share one cluster, in the order of
`throughput table --help`'s names: writes before the reads of what they wrote (where too few were, batched
puts that are not in the table come before the first row that only reads), one put at a time
before loads that leave much to compact, open loops after all others on clusters of their own,
the slowest first. Every row ran once before any ran again. What was aimed at and what limits a row:
[ARCHITECTURE.md](../ARCHITECTURE.md#speed-what-is-reached-what-is-not-and-why).
";

/// What to know of a section's rows.
fn section_note(key: &str) -> &'static str {
    match key {
        "inside" => {
            "`inside-barriers` are read barriers (ReadIndex), nothing is read after them. The load runs in\n\
             the stores' processes: its CPU is in theirs, and in the operations per core-second.\n\n"
        }
        _ => "",
    }
}

fn head(rows: &[Row]) -> String {
    let set = |of: fn(&Row) -> Option<&str>| -> String {
        let values: BTreeSet<&str> = rows.iter().filter_map(of).collect();
        values.into_iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ")
    };
    let machines = set(|row| Some(&row.machine));
    let commits = set(|row| row.origin.commit.as_deref());
    let commands = set(|row| row.origin.command.as_deref());
    let commits = if commits.is_empty() { "not noted".to_owned() } else { commits };
    let mut text = format!(
        "# Throughput\n\n\
         <!-- Made by `throughput report`; change that program, not this page. -->\n\n\
         Machine: {machines}. Commit of the programs: {commits}. Command: {commands} \
         (`make bench-full`, `make bench-peers`, then `make bench-report`).\n\n"
    );
    text += HEAD;
    if is_incomplete(rows) {
        text += "\n**Not every row was measured equally often: some were repeated, a run was cut short, or servers did not start.**\n";
    }
    text
}

/// How often rows ran.
#[must_use]
pub fn passes(rows: &[&Repeated]) -> String {
    let counts = || rows.iter().map(|repeated| repeated.all.len());
    match (counts().min().unwrap_or(0), counts().max().unwrap_or(0)) {
        (1, 1) => "One pass.".to_owned(),
        (least, most) if least == most => format!("{most} passes."),
        (least, most) => format!("{least} to {most} passes: see the column of all runs."),
    }
}

/// Whether a command left fewer rows than it set out to measure.
fn is_incomplete(rows: &[Row]) -> bool {
    let commands: BTreeSet<Option<&str>> =
        rows.iter().map(|row| row.origin.command.as_deref()).collect();
    commands.into_iter().any(|command| {
        let rows: Vec<&Row> =
            rows.iter().filter(|row| row.origin.command.as_deref() == command).collect();
        let planned = |row: &&Row| Some(row.origin.passes? * row.origin.rows?);
        rows.iter().find_map(planned).is_some_and(|planned| rows.len() < planned)
    })
}

/// The published figure beside a row, if it has one.
#[must_use]
pub fn published(row: &Row) -> Option<Published> {
    suite::full().into_iter().find(|kind| kind.name == row.name).and_then(|kind| kind.published)
}

fn section(row: &Row) -> Option<&'static str> {
    if row.sent.rpc == "none" {
        return Some("inside");
    }
    suite::full().into_iter().find(|kind| kind.name == row.name).map(|kind| kind.section)
}

/// Writes the short table of all rows that were measured into the file at `path`, in the place of the
/// one that is there.
pub fn write_readme(rows: &[Row], path: &Path) -> Result<(), Error> {
    let text = std::fs::read_to_string(path)
        .map_err(Error::system(format!("cannot read --readme {}", path.display())))?;
    let repeated = median::of(rows);
    let ours: Vec<&Repeated> = repeated.iter().filter(|r| !peers::is_peers_row(&r.row)).collect();
    let text = between_marks(&text, &short(&ours)).ok_or_else(|| {
        let [from, to] = MARKS;
        Error::Invalid(format!("--readme {}: no `{from}` with `{to}` below it", path.display()))
    })?;
    std::fs::write(path, text)
        .map_err(Error::system(format!("cannot write --readme {}", path.display())))
}

/// `text` with `table` alone between the marks.
fn between_marks(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    Some(format!("{before}{}\n{table}{}{after}", MARKS[0], MARKS[1]))
}

fn short(rows: &[&Repeated]) -> String {
    let mut text = "\
| clients | batching | in flight | storage | work | pipeline | keys | ops/s | p50 / p99, ms \
| ops per server core-second | published (48 server cores) |
|--:|---|--:|---|---|---|---|--:|--:|--:|--:|
"
    .to_owned();
    let names: BTreeSet<&str> = suite::short().iter().map(|kind| kind.name).collect();
    for repeated in rows {
        let row = &repeated.row;
        if !names.contains(row.name.as_str()) {
            continue;
        }
        let cells = [
            row.sent.clients.to_string(),
            on_off(row.sent.batching).to_owned(),
            in_flight(row),
            storage(row),
            row.sent.work(),
            maybe(row.setup.pipeline).to_owned(),
            keys(row),
            rate(repeated),
            figure(row, format!("{} / {}", ms(row.latency.p50_us), ms(row.latency.p99_us))),
            figure(row, thousands(row.ops_per_core_s as u64)),
            published(row).map_or("–", |published| published.text).to_owned(),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Which keys, in words.
fn keys(row: &Row) -> String {
    match row.sent.keys.parse() {
        Ok(KeyMode::StartKey) => format!("{} start keys", thousands(row.setup.regions as u64)),
        Ok(KeyMode::Spread(count)) if count % 1_000_000 == 0 => {
            format!("{} M, spread", thousands(count / 1_000_000))
        }
        Ok(KeyMode::Spread(count)) => format!("{}, spread", thousands(count)),
        Err(_) => row.sent.keys.clone(),
    }
}

/// Which operations.
fn work(row: &Row) -> String {
    if row.sent.rpc == "none" && row.sent.write_percent == 0 {
        return "read barriers".to_owned();
    }
    row.sent.work()
}

fn rate(repeated: &Repeated) -> String {
    let row = &repeated.row;
    match &row.invalid {
        None => format!("**{}**{}", thousands(row.ops_per_s as u64), repeated.how_many()),
        Some(reason) => format!("invalid: {reason}"),
    }
}

/// An invalid row has no figures: they would be read as results.
fn figure(row: &Row, text: String) -> String {
    if row.invalid.is_none() { text } else { "–".to_owned() }
}

fn in_flight(row: &Row) -> String {
    match row.sent.offered_rate {
        None => thousands(row.sent.in_flight as u64),
        Some(rate) => {
            let rate = thousands(rate as u64);
            let of = row.sent.offered_percent.zip(row.sent.maximum()).map(|(percent, maximum)| {
                format!(", {percent} % of {}", thousands(maximum.round() as u64))
            });
            format!("open loop, {rate}/s{}", of.unwrap_or_default())
        }
    }
}

const HEADER: &str = "\
| row | clients | batching, rpc | in flight | storage | write:read | value | pipeline | sync | keys \
| groups | ops/s | all runs, k/s | errors | p50 / p95 / p99 / p99.9 / max, ms | CPU, load average \
| stolen | servers' CPU, most memory | load's CPU an operation | ops per server core-second | published |
|---|--:|---|--:|---|---|--:|---|---|---|--:|--:|---|--:|---|---|--:|---|--:|--:|--:|
";

/// All that is known of `rows`, one a line.
#[must_use]
pub fn table(rows: &[&Repeated]) -> String {
    let mut text = HEADER.to_owned();
    for repeated in rows {
        let _ = writeln!(text, "| {} |", cells(repeated).join(" | "));
    }
    text
}

/// A store of ours or a node of etcd.
fn is_server(process: &str) -> bool {
    process != LOAD && !process.starts_with("placement")
}

/// What holds the data, and the log where that is not in the default engine.
fn storage(row: &Row) -> String {
    let other = row.setup.log_engine.as_ref().filter(|log| *log != LogEngine::default().name());
    let log = other.map(|log| format!(", log in {log}")).unwrap_or_default();
    let direct = if row.setup.kv_table_mib == Some(0) { ", every applied write" } else { "" };
    format!("{}{log}{direct}", row.storage())
}

fn cells(repeated: &Repeated) -> [String; 21] {
    let Repeated { row, all, .. } = repeated;
    let servers: Vec<_> = row.processes.iter().filter(|p| is_server(&p.name)).collect();
    let l = &row.latency;
    [
        row.name.clone(),
        row.sent.clients.to_string(),
        format!("{}, {}", on_off(row.sent.batching), row.sent.rpc),
        in_flight(row),
        storage(row),
        work(row),
        format!("{} B", thousands(row.sent.value_bytes as u64)),
        maybe(row.setup.pipeline).to_owned(),
        maybe(row.setup.sync).to_owned(),
        row.sent.keys.clone(),
        thousands(row.setup.regions as u64),
        rate(repeated),
        all.iter().map(run_text).collect::<Vec<_>>().join(", "),
        row.errors.to_string(),
        figure(row, [l.p50_us, l.p95_us, l.p99_us, l.p999_us, l.max_us].map(ms).join(" / ")),
        format!("{:.0} %, {:.1}", row.cpu_percent, row.load_average),
        row.steal_percent.map_or_else(|| "–".to_owned(), |percent| format!("{percent:.0} %")),
        figure(
            row,
            format!(
                "{:.1} s, {} MiB",
                servers.iter().map(|p| p.cpu_s).sum::<f64>(),
                servers.iter().map(|p| p.rss_mib).max().unwrap_or(0)
            ),
        ),
        figure(
            row,
            row.load_us_per_op().map_or_else(|| "–".to_owned(), |us| format!("{us:.2} µs")),
        ),
        figure(row, thousands(row.ops_per_core_s as u64)),
        published(row).map_or("–", |published| published.text).to_owned(),
    ]
}

fn run_text(rate: &Option<f64>) -> String {
    rate.map_or_else(|| "invalid".to_owned(), |rate| format!("{:.1}", rate / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_row_of_a_pass_is_told() {
        let planned = |rows, passes| {
            let mut row = crate::median::row("a", 1.0, false);
            (row.origin.rows, row.origin.passes) = (Some(rows), Some(passes));
            row
        };
        assert!(!is_incomplete(&[planned(1, 2), planned(1, 2)]));
        assert!(is_incomplete(&[planned(2, 1)]));
        assert!(is_incomplete(&[planned(1, 2)]));
    }

    #[test]
    fn the_short_table_tells_keys_in_words_and_takes_the_place_of_the_last_one() {
        let mut rows = [crate::median::row("batched-memory", 1.0, false)];
        let [from, to] = MARKS;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("a\n{from}\nold\n{to}\nb\n")).unwrap();
        for (keys, words) in
            [("startkey", "| 24 start keys |"), ("spread:2000000", "| 2 M, spread |")]
        {
            rows[0].sent.keys = keys.to_owned();
            write_readme(&rows, file.path()).unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            assert!(text.starts_with(&format!("a\n{from}\n| clients |")), "{text}");
            assert!(text.ends_with(&format!("|\n{to}\nb\n")) && text.contains(words), "{text}");
            assert_eq!(text.lines().count(), 7, "the last table is gone: {text}");
        }
        std::fs::write(file.path(), format!("{to} {from}")).unwrap();
        let error = write_readme(&rows, file.path()).unwrap_err().to_string();
        assert!(error.contains(from), "{error}");
    }

    #[test]
    fn tables_have_a_cell_for_every_column() {
        let columns = |line: &str| line.matches('|').count() - 1;
        let mut lines = HEADER.lines();
        let names = columns(lines.next().unwrap());
        assert_eq!(names, 21);
        assert_eq!(columns(lines.next().unwrap()), names);
    }
}
