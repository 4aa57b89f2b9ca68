//! Keeps the rows of a table: each is printed and written as soon as it is measured, so that a run
//! that is cut short leaves what it has.

use crate::args::TimesArgs;
use crate::show::Show;
use flotilla_benches::interrupt::tie;
use flotilla_benches::load::Progress;
use flotilla_benches::playground::{Owned, sibling};
use flotilla_benches::report::{Origin, Row};
use flotilla_benches::table::{Observer, Times, blocking};
use flotilla_benches::{Error, document, median};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Below `--out`: where a run of some rows writes, or of shorter windows.
const PARTIAL: &str = "partial";

/// See the module.
pub struct Record {
    show: Show,
    rows: Vec<Row>,
    files: Vec<File>,
    out: Option<PathBuf>,
    origin: Origin,
    /// Rows that could not be measured, with the reason.
    failed: Vec<String>,
}

impl Record {
    /// `name` is that of the file of rows in the folder `--out`; what is `partial` goes to a folder
    /// below it, so that the result of a whole run stays as it is.
    pub fn new(
        name: &str,
        args: &TimesArgs,
        partial: bool,
        passes: usize,
        rows: usize,
    ) -> Result<Self, Error> {
        let mut files = Vec::new();
        let out =
            args.out.as_ref().map(|out| if partial { out.join(PARTIAL) } else { out.clone() });
        if let Some(out) = &out {
            std::fs::create_dir_all(out)
                .map_err(Error::system(format!("cannot make --out {}", out.display())))?;
            files.push(open(&out.join(format!("{name}.jsonl")), false)?);
        }
        if let Some(path) = &args.json {
            files.push(open(path, false)?);
        }
        let origin = Origin {
            commit: commit(),
            command: Some(command()),
            pass: None,
            passes: Some(passes),
            rows: Some(rows),
        };
        Ok(Record { show: Show::new(), rows: Vec::new(), files, out, origin, failed: Vec::new() })
    }

    /// Measures the engine alone with the program for that.
    pub async fn run_inside(&mut self, times: Times) -> Result<(), Error> {
        let program = sibling("inside")?;
        for pass in 1..=times.passes {
            self.show.starting(&format!("pass {pass} of {}: the engine alone", times.passes));
            let mut command = Command::new(&program);
            command.args(["--seconds", &times.seconds.as_secs_f64().to_string()]);
            command.args(["--warmup", &times.warmup.as_secs_f64().to_string()]);
            command.args(["--json", "-"]);
            tie(&mut command);
            command.stdout(Stdio::piped());
            // Dropped at an interruption, it ends its stores and removes their folders.
            let mut child = Owned::spawn("inside", &mut command)?;
            let mut lines = lines_of(child.output());
            while let Some(line) = lines.recv().await {
                let row = serde_json::from_str(&line)
                    .map_err(|e| Error::Cluster(format!("inside wrote no row: {e}: {line}")))?;
                self.keep(row, None)?;
            }
            // Its output has ended, and with it the program.
            if let Err(error) = blocking(move || child.wait()).await {
                self.failed("the engine alone", &error);
            }
        }
        Ok(())
    }

    /// Prints the table of medians and writes the page, also after an interruption. An error when
    /// a row failed or none is valid.
    pub fn finish(self) -> Result<(), Error> {
        self.show.clear();
        let repeated = median::of(&self.rows);
        println!("\n{}", document::table(&repeated.iter().collect::<Vec<_>>()));
        for text in &self.failed {
            println!("not measured: {text}");
        }
        if let Some(out) = self.out.filter(|_| !self.rows.is_empty()) {
            document::write(&self.rows, &out)?;
            println!("wrote {}", out.display());
        }
        if !self.failed.is_empty() {
            let failed = self.failed.join("; ");
            return Err(Error::Cluster(format!("not everything was measured: {failed}")));
        }
        if self.rows.iter().all(|row| row.invalid.is_some()) {
            return Err(Error::Cluster("no row is valid: there is no result".to_owned()));
        }
        Ok(())
    }

    fn keep(&mut self, mut row: Row, pass: Option<usize>) -> Result<(), Error> {
        row.origin = Origin { pass, ..self.origin.clone() };
        for file in &mut self.files {
            write_line(file, &row.json())?;
        }
        self.show.print(&row.text());
        self.rows.push(row);
        Ok(())
    }
}

impl Observer for Record {
    fn starting(&mut self, text: &str) {
        self.show.starting(text);
    }

    fn running(&mut self, row: &str, progress: Progress) {
        self.show.running(row, progress);
    }

    fn finished(&mut self, row: Row, pass: usize) -> Result<(), Error> {
        self.keep(row, Some(pass))
    }

    fn failed(&mut self, rows: &str, error: &Error) {
        let text = format!("{rows}: {error}");
        self.show.print(&format!("FAILED {text}\n"));
        self.failed.push(text);
    }
}

/// Lines as they come, read by a thread that ends with them.
fn lines_of(output: ChildStdout) -> UnboundedReceiver<String> {
    let (sender, lines) = unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody takes them any more after an interruption.
            let _ = sender.send(line);
        }
    });
    lines
}

/// What was typed, with the program's bare name.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("throughput".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The commit of the folder this runs in, marked when files of it were changed.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit} with changes") } else { commit })
}

/// Opens a file of JSON lines for writing.
pub fn open(path: &Path, append: bool) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .append(append)
        .truncate(!append)
        .open(path)
        .map_err(Error::system(format!("cannot write --json {}", path.display())))
}

/// Appends one.
pub fn write_line(file: &mut File, line: &str) -> Result<(), Error> {
    writeln!(file, "{line}").map_err(Error::system("cannot write --json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn record(line: &str, out: &Path) -> Record {
        let words = ["throughput", "table"].into_iter().chain(line.split_whitespace());
        let Command::Table(mut args) = Cli::parse_from(words).command else { panic!("{line}") };
        args.times.out = Some(out.to_owned());
        Record::new("short", &args.times, args.is_partial(), 1, 1).unwrap()
    }

    #[test]
    fn a_run_of_some_rows_leaves_the_result_of_all_rows() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("short.jsonl");
        std::fs::write(&whole, "of a whole run\n").unwrap();
        for line in ["--rows batched-memory", "--storage memory", "--quick"] {
            let record = record(line, dir.path());
            assert_eq!(record.out.as_deref(), Some(&*dir.path().join(PARTIAL)), "{line}");
            assert!(dir.path().join(PARTIAL).join("short.jsonl").exists(), "{line}");
            assert_eq!(std::fs::read_to_string(&whole).unwrap(), "of a whole run\n", "{line}");
        }
        assert_eq!(record("--seconds 1", dir.path()).out.as_deref(), Some(dir.path()));
        assert_eq!(std::fs::read_to_string(&whole).unwrap(), "", "a whole run begins anew");
    }
}
