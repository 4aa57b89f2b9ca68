//! The ledger: a page that adds up what was simulated, run by run and commit by commit.
//!
//! The page is written whole each time; what it says is in its last table. A run enters it only through
//! [`Ledger::add`], with the commit that its program was built from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::str::FromStr;

/// One run of the simulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What its program was built from.
    pub commit: String,
    /// The day on which it ended, as YYYY-MM-DD.
    pub date: String,
    /// `swarm`, or the name of a scenario.
    pub what: String,
    /// The seeds that ran, all of them.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// Cluster-hours simulated.
    pub cluster_hours: f64,
    /// Processor time, in hours.
    pub cpu_hours: f64,
    /// Seeds that showed a violation.
    pub violations: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { commit, date, what, first, last, cluster_hours, cpu_hours, violations } = self;
        write!(
            f,
            "| {commit} | {date} | {what} | {first}..{last} | {cluster_hours:.2} | {cpu_hours:.3} | \
             {violations} |"
        )
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(row: &str) -> Result<Self, String> {
        let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [commit, date, what, seeds, cluster_hours, cpu_hours, violations] = cells[..] else {
            return Err(format!("{} cells instead of 7: {row:?}", cells.len()));
        };
        let (first, last) = seeds.split_once("..").ok_or(format!("no seeds in {row:?}"))?;
        let wrong = |cell: &str| format!("{cell:?} in {row:?} is no number");
        let whole = |cell: &str| cell.parse::<u64>().map_err(|_| wrong(cell));
        let hours = |cell: &str| cell.parse::<f64>().map_err(|_| wrong(cell));
        Ok(Line {
            commit: commit.to_owned(),
            date: date.to_owned(),
            what: what.to_owned(),
            first: whole(first)?,
            last: whole(last)?,
            cluster_hours: hours(cluster_hours)?,
            cpu_hours: hours(cpu_hours)?,
            violations: whole(violations)?,
        })
    }
}

/// All runs, in the order in which they were written down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger(Vec<Line>);

const INTRODUCTION: &str = "\
# Simulation ledger

What the simulator (`make sim`, see [simulation.md](simulation.md)) has run. A cluster-hour is an hour of 3 stores \
with 8 groups each. Written by `make sim SEEDS=FIRST..LAST LEDGER=docs/simulation-ledger.md`; a run counts whether \
it found something or not, and only with programs that `make` built from a commit.
";
const COMMITS: &str = "\
| commit | runs | cluster-hours | CPU-hours | seeds with a violation |
|---|---:|---:|---:|---:|
";
const RUNS: &str = "\
| commit | date | what | seeds | cluster-hours | CPU-hours | seeds with a violation |
|---|---|---|---|---:|---:|---:|
";

impl Ledger {
    /// Reads a page; an empty one is a ledger without runs.
    pub fn parse(page: &str) -> Result<Self, String> {
        if page.is_empty() {
            return Ok(Ledger::default());
        }
        let (_, runs) = page.split_once(RUNS).ok_or("it has no table of runs")?;
        runs.lines().map(str::parse).collect::<Result<_, _>>().map(Ledger)
    }

    /// Writes a run down, with hours as the page shows them: its sums are of what can be read there.
    pub fn add(&mut self, mut line: Line) {
        let rounded = |hours: f64, unit: f64| (hours * unit).round() / unit;
        line.cluster_hours = rounded(line.cluster_hours, 100.0);
        line.cpu_hours = rounded(line.cpu_hours, 1_000.0);
        self.0.push(line);
    }

    /// Cluster-hours of all runs.
    #[must_use]
    pub fn cluster_hours(&self) -> f64 {
        self.0.iter().map(|line| line.cluster_hours).sum()
    }

    /// Seeds, each counted once for the swarm and once for each scenario, however often it ran.
    #[must_use]
    pub fn distinct_seeds(&self) -> u64 {
        let mut ranges: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for line in &self.0 {
            ranges.entry(&line.what).or_default().push((line.first, line.last));
        }
        ranges.into_values().map(distinct).sum()
    }

    /// The whole page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = format!("{INTRODUCTION}\n{}\n\n{COMMITS}", self.total());
        let mut seen = BTreeSet::new();
        for commit in self.0.iter().map(|line| &line.commit).filter(|commit| seen.insert(*commit)) {
            let own: Vec<&Line> = self.0.iter().filter(|line| line.commit == *commit).collect();
            let sum = |hours: fn(&Line) -> f64| own.iter().map(|line| hours(line)).sum::<f64>();
            let (simulated, cpu) = (sum(|line| line.cluster_hours), sum(|line| line.cpu_hours));
            let violations: u64 = own.iter().map(|line| line.violations).sum();
            let runs = own.len();
            writeln!(page, "| {commit} | {runs} | {simulated:.2} | {cpu:.3} | {violations} |")
                .expect("a string takes all");
        }
        page.push('\n');
        page.push_str(RUNS);
        self.0.iter().for_each(|line| writeln!(page, "{line}").expect("a string takes all"));
        page
    }

    /// All runs in one line.
    #[must_use]
    pub fn total(&self) -> String {
        let violations: u64 = self.0.iter().map(|line| line.violations).sum();
        format!(
            "In all: {:.1} cluster-hours, {} distinct seeds, {violations} seeds with a violation.",
            self.cluster_hours(),
            self.distinct_seeds()
        )
    }
}

/// How many numbers are in at least one of the ranges, both ends included.
fn distinct(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let (mut count, mut next) = (0, 0);
    for (first, last) in ranges {
        let first = first.max(next);
        if first <= last {
            count += last - first + 1;
            next = last + 1;
        }
    }
    count
}

/// The day of so many seconds after 1970, as YYYY-MM-DD.
#[must_use]
pub fn date(seconds: u64) -> String {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut day) = (1970, seconds / 86_400);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &str, first: u64, last: u64) -> Line {
        Line {
            commit: "abc".to_owned(),
            date: date(1_795_257_600),
            what: what.to_owned(),
            first,
            last,
            cluster_hours: 1.25,
            cpu_hours: 0.005,
            violations: 0,
        }
    }

    #[test]
    fn a_page_is_read_back_and_a_seed_counts_once() {
        let mut ledger = Ledger::parse("").unwrap();
        for (what, first, last) in
            [("swarm", 1, 10), ("swarm", 5, 12), ("ring", 1, 3), ("swarm", 7, 7)]
        {
            ledger.add(line(what, first, last));
        }
        let page = ledger.page();
        assert_eq!(Ledger::parse(&page).unwrap(), ledger);
        assert!(page.contains("In all: 5.0 cluster-hours, 15 distinct seeds, 0 seeds"), "{page}");
        assert!(page.contains("| abc | 4 | 5.00 | 0.020 | 0 |"), "{page}");
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        assert!(Ledger::parse("# Something else\n").is_err());
        let page = Ledger(vec![line("swarm", 1, 2)]).page();
        for (old, new) in [("1..2", "1-2"), ("| 1.25 |", "| much |"), ("| 0.005 ", "")] {
            let wrong = page.replace(old, new);
            assert!(wrong != page && Ledger::parse(&wrong).is_err(), "{new}");
        }
    }

    #[test]
    fn days_are_counted_from_1970() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (1_795_305_599, "2026-11-21"),
            (1_798_761_599, "2026-12-31"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }
}
