//! Wrong starts of the binary: each ends by itself with one clear line, and touches nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn kvserver() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(name);
        }
    }
    command
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(dir: &Path, port: u16) -> Command {
    let mut command = kvserver();
    command.args(["run", "--placement", "127.0.0.1:1", "--dir"]).arg(dir);
    command.arg("--addr").arg(format!("127.0.0.1:{port}"));
    command
}

fn text(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(bytes).unwrap()
}

/// Runs to the end, which must be a refusal with `code` that names every one of `words`.
fn refused(mut command: Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("a bug in"), "{text}");
}

/// A child that is killed when a test fails.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Owned {
    /// Waits until the log at `path` holds `word`.
    fn says(&mut self, path: &Path, word: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(path).unwrap_or_default().contains(word) {
            assert!(Instant::now() < until, "no '{word}' in {}", path.display());
            assert!(self.0.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ends_cleanly(mut self) {
        let until = Instant::now() + Duration::from_secs(6);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(Instant::now() < until, "still running after 6 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_port_in_use_is_named_and_the_folder_is_not_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    refused(run(&folder, port), 1, &[&port.to_string(), "in use", "--addr"]);
    assert!(!folder.exists());
}

#[test]
fn wrong_flags_and_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let mut command = kvserver();
    command.args(["run", "--addr", "nonsense"]);
    refused(command, 2, &["--addr", "nonsense", "HOST:PORT"]);
    let mut command = run(&folder, free_port());
    command.args(["--storage", "floppy"]);
    refused(command, 2, &["--storage", "rocksdb, memory"]);
    let mut command = run(&folder, free_port());
    command.args(["--log-level", "info,=x=y"]);
    refused(command, 2, &["--log-level", "info,=x=y"]);
    let mut command = run(&folder, free_port());
    command.args(["--kv-table-mib", "2049"]);
    refused(command, 2, &["--kv-table-mib", "2049", "2048"]);
    let mut command = kvserver();
    command.args(["run", "--addr", "127.0.0.1:7000", "--placement", "127.0.0.1:1"]);
    refused(command, 2, &["--dir is missing", "FLOTILLA_DIR"]);
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "no_such_field = 1\n").unwrap();
    let mut command = run(&folder, free_port());
    command.env("FLOTILLA_CONFIG", &file);
    refused(command, 2, &["c.toml", "no_such_field"]);
    assert!(!folder.exists());
}

#[test]
fn unusable_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    refused(run(&file, free_port()), 1, &["file", "not a directory"]);
    refused(run(dir.path(), free_port()), 1, &["not empty", "empty --dir"]);
    let mut command = kvserver();
    command.args(["playground", "--dir"]).arg(dir.path());
    refused(command, 1, &["not empty", "no playground"]);
}

#[test]
fn a_new_store_waits_for_placement_holds_its_folder_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, log) = (dir.path().join("store"), dir.path().join("log"));
    let mut command = run(&folder, free_port());
    let mut store = Owned(command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    store.says(&log, "waiting for placement");
    refused(run(&folder, free_port()), 1, &["in use by another process"]);
    let pid = rustix::process::Pid::from_child(&store.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    store.ends_cleanly();
    let mut other = run(&folder, free_port());
    other.args(["--storage", "memory"]);
    refused(other, 1, &["storage rocksdb, not memory"]);
    let mut other = run(&folder, free_port());
    other.args(["--log-engine", "rocksdb"]);
    refused(other, 1, &["engine raft-engine, not rocksdb", "--log-engine"]);
}

#[test]
fn a_store_ends_with_the_parent_that_holds_its_input() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, log) = (dir.path().join("store"), dir.path().join("log"));
    let mut command = run(&folder, free_port());
    command.env("FLOTILLA_PARENT_PIPE", "1").stdin(Stdio::piped());
    let mut store = Owned(command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    store.says(&log, "waiting for placement");
    drop(store.0.stdin.take());
    store.ends_cleanly();
}

#[test]
fn help_names_every_flag() {
    let help = |command: &str| text(&kvserver().args([command, "--help"]).output().unwrap());
    let run = help("run");
    for flag in ["dir", "addr", "advertise-addr", "placement", "storage", "log-engine", "config"] {
        assert!(run.contains(&format!("--{flag} ")), "{flag} in {run}");
    }
    for setting in ["[raft]", "pipeline = true", "[log]", "sync = true", "[limits]", "[server]"] {
        assert!(run.contains(setting), "{setting} in {run}");
    }
    let playground = help("playground");
    for flag in
        ["stores", "regions", "split-at", "storage", "log-engine", "dir", "base-port", "config"]
    {
        assert!(playground.contains(&format!("--{flag} ")), "{flag} in {playground}");
    }
}
