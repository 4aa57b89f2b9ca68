//! From all rows that were measured to one row each: the median of its repetitions.

use crate::report::Row;

/// The repetitions of one row, and which of them stands for all.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// The one of median operations a second among the valid ones (open loop: of median p99); of
    /// two the worse. An invalid one when none is valid.
    pub row: Row,
    /// Operations a second of all repetitions in the order they ran; `None`: an invalid one.
    pub all: Vec<Option<f64>>,
    /// How many of them are valid.
    pub valid: usize,
}

impl Repeated {
    /// ` (1 of 3 valid)` when the median is of fewer repetitions than were to run.
    #[must_use]
    pub fn how_many(&self) -> String {
        let planned = self.row.origin.passes.unwrap_or(1).max(self.all.len());
        if self.valid == 0 || self.valid == planned {
            return String::new();
        }
        format!(" ({} of {planned} valid)", self.valid)
    }
}

/// The median of `figures`, of two in the middle the smaller.
#[must_use]
pub fn lower(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

/// Groups rows by name, keys, storage and system, in the order of their first appearance.
#[must_use]
pub fn of(rows: &[Row]) -> Vec<Repeated> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|group| group[0].identity() == row.identity()) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| choose(group)).collect()
}

fn choose(group: &[&Row]) -> Repeated {
    let mut valid: Vec<&Row> = group.iter().copied().filter(|row| row.invalid.is_none()).collect();
    if valid[..].iter().any(|row| row.sent.offered_rate.is_some()) {
        valid.sort_by_key(|row| std::cmp::Reverse(row.latency.p99_us));
    } else {
        valid.sort_by(|a, b| a.ops_per_s.total_cmp(&b.ops_per_s));
    }
    let middle = valid.len().saturating_sub(1) / 2;
    let row = valid.get(middle).copied().unwrap_or(group[0]).clone();
    let figure = |row: &&Row| row.invalid.is_none().then_some(row.ops_per_s);
    Repeated { row, all: group.iter().map(figure).collect(), valid: valid.len() }
}

/// A row for tests.
#[cfg(test)]
pub(crate) fn row(name: &str, ops_per_s: f64, invalid: bool) -> Row {
    let text = format!(
        r#"{{"name":"{name}","clients":1,"batching":true,"rpc":"stream","write_percent":90,
        "key_bytes":16,"value_bytes":16,"keys":"startkey","in_flight":1,"seconds":1.0,
        "storage":"memory","pipeline":true,"sync":true,"regions":24,"ops":1,
        "ops_per_s":{ops_per_s},"errors":0,"p50_us":1,"p95_us":1,"p99_us":1,"p999_us":1,
        "max_us":1,"processes":[],"ops_per_core_s":1.0,"load_average":1.0,"cpu_percent":1.0,
        "machine":"m"{}}}"#,
        if invalid { r#","invalid":"uneven""# } else { "" }
    );
    serde_json::from_str(&text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_figures_in_the_middle_the_smaller_counts() {
        assert_eq!(lower(vec![]), None);
        assert_eq!(lower(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(lower(vec![4.0, 3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_median_stands_for_all() {
        let rows = [3.0, 1.0, 2.0].map(|rate| row("a", rate, false));
        let repeated = of(&rows);
        assert_eq!(repeated.len(), 1);
        assert_eq!((repeated[0].row.ops_per_s, repeated[0].valid), (2.0, 3));
        assert_eq!(repeated[0].all, [Some(3.0), Some(1.0), Some(2.0)]);
    }

    #[test]
    fn invalid_repetitions_are_left_out_and_of_two_the_worse_counts() {
        let rows =
            [row("a", 9.0, true), row("a", 3.0, false), row("b", 1.0, false), row("a", 2.0, false)];
        let repeated = of(&rows);
        assert_eq!(repeated.len(), 2);
        assert_eq!((repeated[0].row.ops_per_s, repeated[0].valid), (2.0, 2));
        assert_eq!(repeated[0].all, [None, Some(3.0), Some(2.0)]);
        assert_eq!(repeated[0].how_many(), " (2 of 3 valid)");
        assert_eq!(repeated[1].how_many(), "");
        let none = of(&rows[..1]);
        assert_eq!(none[0].valid, 0);
        assert!(none[0].row.invalid.is_some());
    }
}
