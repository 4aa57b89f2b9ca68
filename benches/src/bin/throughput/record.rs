//! Keeps the rows of a table: each is printed and written as soon as it is measured, so that a run
//! that is cut short leaves what it has.

use crate::args::TimesArgs;
use crate::show::Show;
use flotilla_benches::interrupt::tie;
use flotilla_benches::load::Progress;
use flotilla_benches::playground::{Owned, sibling};
use flotilla_benches::report::{Origin, Row};
use flotilla_benches::table::{Observer, Times, blocking};
use flotilla_benches::{Error, built, document, median};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Below `--out`: where a run of some rows writes, or of shorter windows.
const PARTIAL: &str = "partial";

/// Where the result goes.
struct Out {
    /// As `--out` says.
    folder: PathBuf,
    /// Of the file of rows, without its ending.
    name: String,
    partial: bool,
    /// The rows until the run is over: the result of the last one stays until then.
    running: PathBuf,
}

impl Out {
    fn new(folder: &Path, name: &str, partial: bool) -> Result<Self, Error> {
        let mut out = Out {
            folder: folder.to_owned(),
            name: name.to_owned(),
            partial,
            running: PathBuf::new(),
        };
        out.running = out.place(true)?.join(format!("{name}.running.jsonl"));
        Ok(out)
    }

    /// The folder for a run that was `complete` or cut short; it is there then.
    fn place(&self, complete: bool) -> Result<PathBuf, Error> {
        let whole = complete && !self.partial;
        let folder = if whole { self.folder.clone() } else { self.folder.join(PARTIAL) };
        std::fs::create_dir_all(&folder)
            .map_err(Error::system(format!("cannot make --out {}", folder.display())))?;
        Ok(folder)
    }

    /// Puts the rows into their place, with the page beside them.
    fn keep(&self, rows: &[Row], complete: bool) -> Result<(), Error> {
        let folder = self.place(complete)?;
        let path = folder.join(format!("{}.jsonl", self.name));
        std::fs::rename(&self.running, &path)
            .map_err(Error::system(format!("cannot write {}", path.display())))?;
        document::write(rows, &folder)?;
        println!("wrote {}", folder.display());
        Ok(())
    }
}

/// See the module.
pub struct Record {
    show: Show,
    rows: Vec<Row>,
    files: Vec<File>,
    out: Option<Out>,
    origin: Origin,
    /// Rows that could not be measured, with the reason.
    failed: Vec<String>,
}

impl Record {
    /// `name` is that of the file of rows in the folder `--out`; what is `partial`, or in the end cut
    /// short, goes to a folder below it, so that the result of a whole run stays as it is.
    pub fn new(
        name: &str,
        args: &TimesArgs,
        partial: bool,
        passes: usize,
        rows: usize,
    ) -> Result<Self, Error> {
        let mut files = Vec::new();
        let out = args.out.as_deref().map(|out| Out::new(out, name, partial)).transpose()?;
        if let Some(out) = &out {
            files.push(open(&out.running, false)?);
        }
        if let Some(path) = &args.json {
            files.push(open(path, false)?);
        }
        let origin = Origin {
            commit: built::commit(),
            command: Some(command(std::env::args().skip(1))),
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
                self.keep(row, pass)?;
            }
            // Its output has ended, and with it the program.
            if let Err(error) = blocking(move || child.wait()).await {
                self.failed("the engine alone", &error);
            }
        }
        Ok(())
    }

    /// Prints the table of medians and writes the page, also of a run that is not `complete` or in
    /// which a row failed, but then beside the last whole one's. An error when a row failed or none
    /// is valid.
    pub fn finish(self, complete: bool) -> Result<(), Error> {
        self.show.clear();
        let repeated = median::of(&self.rows);
        println!("\n{}", document::table(&repeated.iter().collect::<Vec<_>>()));
        for text in &self.failed {
            println!("not measured: {text}");
        }
        if let Some(out) = self.out.filter(|_| !self.rows.is_empty()) {
            out.keep(&self.rows, complete && self.failed.is_empty())?;
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

    fn keep(&mut self, mut row: Row, pass: usize) -> Result<(), Error> {
        row.origin = Origin { pass: Some(pass), ..self.origin.clone() };
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
        self.keep(row, pass)
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

/// What was typed, with the program's bare name and without where results go: that changes no
/// figure, and folders of this machine are nobody's business.
fn command(mut arguments: impl Iterator<Item = String>) -> String {
    let mut text = "throughput".to_owned();
    while let Some(argument) = arguments.next() {
        match argument.split_once('=').map_or(&*argument, |(flag, _)| flag) {
            "--out" | "--json" if !argument.contains('=') => drop(arguments.next()),
            "--out" | "--json" => {}
            _ => text = text + " " + &argument,
        }
    }
    text
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
    fn the_command_is_told_without_where_results_go() {
        let told = |line: &str| command(line.split(' ').map(str::to_owned));
        let line = "table --out /a/b --repeats 3 --json=/c --rows a,b --out=/d --json e --quick";
        assert_eq!(told(line), "throughput table --repeats 3 --rows a,b --quick");
        assert_eq!(told("table --out"), "throughput table");
    }

    #[test]
    fn only_a_whole_run_that_came_to_its_end_replaces_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("short.jsonl");
        let part = dir.path().join(PARTIAL).join("short.jsonl");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (last, row) = ("of the last whole run\n", row());
        std::fs::write(&whole, last).unwrap();
        for (line, complete) in [
            ("--rows batched-memory", true),
            ("--storage memory", true),
            ("--quick", true),
            ("--quick", false),
            ("--seconds 1", false),
        ] {
            let mut record = record(line, dir.path());
            record.finished(row.clone(), 1).unwrap();
            assert_eq!(read(&whole), last, "{line}: while it runs");
            record.finish(complete).unwrap();
            assert_eq!(read(&whole), last, "{line}");
            assert_eq!(read(&part).lines().count(), 1, "{line}: what it has");
            std::fs::remove_file(&part).unwrap();
        }
        let mut failed = record("--seconds 1", dir.path());
        failed.finished(row.clone(), 1).unwrap();
        failed.failed("b", &Error::Cluster("no port".to_owned()));
        assert!(failed.finish(true).is_err());
        assert_eq!(read(&whole), last, "a row is missing");
        std::fs::remove_file(&part).unwrap();
        let mut record = record("--seconds 1", dir.path());
        record.finished(row, 1).unwrap();
        record.finish(true).unwrap();
        assert!(read(&whole).contains("\"name\":\"a\""));
        assert!(!part.exists());
        assert!(dir.path().join("throughput.md").exists());
    }

    fn row() -> Row {
        let text = r#"{"name":"a","clients":1,"batching":true,"rpc":"stream","write_percent":90,
            "key_bytes":16,"value_bytes":16,"keys":"startkey","in_flight":1,"seconds":1.0,
            "storage":"memory","pipeline":true,"sync":true,"regions":24,"ops":1,"ops_per_s":1.0,
            "errors":0,"p50_us":1,"p95_us":1,"p99_us":1,"p999_us":1,"max_us":1,"processes":[],
            "ops_per_core_s":1.0,"load_average":1.0,"cpu_percent":1.0,"machine":"m"}"#;
        serde_json::from_str(text).unwrap()
    }
}
