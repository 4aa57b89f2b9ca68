//! Pages that name tests, scenarios and runs: what they name exists.

use flotilla_tests::sim::ledger::Ledger;
use flotilla_tests::sim::scenarios::SCENARIOS;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The bugs that concern what exists here.
const BUGS: &[u32] = &[
    1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25, 26, 30, 35, 36, 37, 38,
];

fn page(name: &str) -> String {
    let path = Path::new("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Names of the test functions in a folder's sources.
fn tests_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut tested = false;
            for line in text.lines().map(str::trim) {
                tested |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let Some((_, rest)) = line.split_once("fn ") else { continue };
                if std::mem::take(&mut tested) {
                    names.insert(rest.split('(').next().unwrap_or_default().to_owned());
                }
            }
        }
    }
}

#[test]
fn every_known_bug_has_tests_that_exist() {
    let mut names = BTreeSet::new();
    for folder in ["client", "kvserver", "placement", "raftstore", "tests"] {
        for part in ["src", "tests"].map(|part| Path::new("..").join(folder).join(part)) {
            if part.exists() {
                tests_in(&part, &mut names);
            }
        }
    }
    assert!(names.len() > 100 && names.contains("every_known_bug_has_tests_that_exist"));
    // A feature builds the list in, which this test is built without.
    let mutants = fs::read_to_string("src/mutants.rs").unwrap();
    let text = page("known-bugs.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| number"));
    let mut told = Vec::new();
    for row in rows.map(cells) {
        let [number, _, tests, planted] = row[..] else { panic!("not four cells: {row:?}") };
        told.push(number.parse::<u32>().unwrap());
        assert!(!quoted(tests).is_empty(), "no test for bug {number}");
        for name in quoted(tests) {
            assert!(names.contains(name), "bug {number}: there is no test {name}");
        }
        for name in quoted(planted) {
            let listed = mutants.contains(&format!("\"{name}\""));
            assert!(listed, "bug {number}: there is no planted bug {name}");
        }
    }
    assert_eq!(told, BUGS);
}

#[test]
fn every_scenario_is_told_as_it_is() {
    let text = page("simulation.md");
    let (_, table) = text.split_once("## Scenarios").expect("a chapter of scenarios");
    let rows = table.lines().filter(|line| line.starts_with("| `")).map(cells);
    let told: Vec<(String, &str)> = rows.map(|row| (row[0].replace('`', ""), row[1])).collect();
    let there: Vec<(String, &str)> =
        SCENARIOS.iter().map(|scenario| (scenario.name.to_owned(), scenario.about)).collect();
    assert_eq!(told, there);
}

#[test]
fn the_ledger_adds_up() {
    let text = page("simulation-ledger.md");
    let ledger = Ledger::parse(&text).unwrap();
    assert_eq!(ledger.page(), text, "written by hand? run make sim with LEDGER=");
}
