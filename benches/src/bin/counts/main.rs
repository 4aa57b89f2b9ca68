//! `counts`: instructions an operation of the pure parts, kept as a table in the repository.
//!
//! Times are noisy on a shared machine; instructions are the same every time. Each case runs
//! twice under valgrind, in a process of its own: with all inputs prepared and no run, and with
//! all runs. The difference is what the runs took.
//!
//! 1. `counts update` writes the table, `counts check` compares with it and fails when a count has
//!    grown by more than the tolerance.
//! 2. `counts run CASE RUNS` is what valgrind is started on.
//!
//! Exit codes: 0 done, 1 a count has grown or cannot be taken, 2 wrong usage.

mod table;

use clap::{Parser, Subcommand};
use flotilla_benches::Error;
use flotilla_benches::cases::{COUNTED, Counted};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use table::{Line, Verdict};

// As in the servers.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs of a case that are counted.
const RUNS: usize = 10;

/// Counts instructions an operation and compares them with the table in the repository.
#[derive(Debug, Parser)]
#[command(name = "counts", version)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fail when a count is higher than in the table.
    Check {
        /// The table.
        #[arg(long, default_value = "docs/instructions.md")]
        table: PathBuf,
        /// So much higher is still equal, in percent.
        #[arg(long, default_value_t = 3.0, allow_negative_numbers = true, value_parser = percent)]
        tolerance: f64,
    },
    /// Write the table anew.
    Update {
        /// The table.
        #[arg(long, default_value = "docs/instructions.md")]
        table: PathBuf,
    },
    /// One case, without counting.
    #[command(hide = true)]
    Run {
        /// Its place among all.
        case: usize,
        /// How often.
        #[arg(value_parser = clap::value_parser!(u64).range(0..=RUNS as u64))]
        runs: u64,
    },
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent: &f64| (0.0..=1000.0).contains(percent));
    percent.ok_or_else(|| "expected a number of percent from 0 to 1000".to_owned())
}

fn main() -> ExitCode {
    let result = match Cli::parse().action {
        Action::Check { table, tolerance } => check(&table, tolerance),
        Action::Update { table } => update(&table),
        Action::Run { case, runs } => run(case, runs as usize),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
        }
    }
}

fn run(case: usize, runs: usize) -> Result<(), Error> {
    let make = COUNTED
        .get(case)
        .ok_or_else(|| Error::Invalid(format!("case {case}: there are {}", COUNTED.len())))?;
    // One run that counts in both processes: what is done once is then not in the difference.
    (make().prepare)(1 + RUNS)(1 + runs);
    Ok(())
}

fn update(path: &Path) -> Result<(), Error> {
    let lines = count_all()?;
    std::fs::write(path, table::write(&lines, &compiler()))
        .map_err(Error::system(format!("cannot write {}", path.display())))?;
    println!("written: {}", path.display());
    Ok(())
}

fn check(path: &Path, tolerance: f64) -> Result<(), Error> {
    let text = std::fs::read_to_string(path)
        .map_err(Error::system(format!("cannot read {}", path.display())))?;
    let kept = table::read(&text).map_err(Error::Cluster)?;
    if kept.compiler != compiler() {
        println!("note: the table was made with {}, this is {}", kept.compiler, compiler());
    }
    let verdicts = table::compare(&kept.lines, &count_all()?, tolerance);
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    let grown = verdicts.iter().filter(|verdict| verdict.is_failure()).count();
    if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Shrunk { .. })) {
        println!("some counts are lower now: `make counts-update` keeps them");
    }
    if grown == 0 {
        return Ok(());
    }
    Err(Error::Cluster(format!(
        "{grown} counts do not fit {}: make them smaller, or say why in the commit that holds the \
         result of `make counts-update`",
        path.display()
    )))
}

fn count_all() -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for (number, make) in COUNTED.into_iter().enumerate() {
        let Counted { name, operations, .. } = make();
        eprintln!("counting {name}");
        let (without, with) = (instructions(number, 0)?, instructions(number, RUNS)?);
        let counted = with.checked_sub(without).ok_or_else(|| {
            Error::Cluster(format!("{name}: {without} instructions without runs, {with} with"))
        })?;
        lines.push(Line { name, count: counted / (RUNS as u64 * operations) });
    }
    Ok(lines)
}

/// Instructions of a whole process with so many runs.
fn instructions(case: usize, runs: usize) -> Result<u64, Error> {
    let own = std::env::current_exe().map_err(Error::system("cannot tell this program's file"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args(["run", &case.to_string(), &runs.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system("cannot start valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // `==PID== Collected : 123456`
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    match collected.and_then(|(_, count)| count.trim().parse().ok()) {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(Error::Cluster(format!("valgrind failed ({}): {text}", output.status))),
    }
}

/// The compiler that this machine builds with.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).into());
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    if words.is_empty() { "an unknown rustc".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_tolerance_that_would_let_everything_pass_is_refused() {
        for tolerance in ["NaN", "-5", "inf", "much"] {
            let line = ["counts", "check", "--tolerance", tolerance];
            let error = Cli::try_parse_from(line).expect_err(tolerance);
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.contains(&format!("'{tolerance}' for '--tolerance")), "{text}");
        }
    }
}
