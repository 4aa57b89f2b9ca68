//! The real binary: wrong starts are refused clearly, stops are clean, nothing is lost by a kill.

use flotilla_placement::client::{PlacementClient, PlacementError};
use flotilla_placement::pb::RegisterRequest;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_placement");

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Runs a start that must fail; gives what it said.
fn refused(args: &[&str], words: &[&str]) -> String {
    refused_with(1, args, words)
}

/// A start that must fail for what was asked: as clap's own refusals.
fn wrong_usage(args: &[&str], words: &[&str]) {
    refused_with(2, args, words);
}

fn refused_with(code: i32, args: &[&str], words: &[&str]) -> String {
    let output = Command::new(PROGRAM).arg("run").args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked") && !said.contains("a bug in"), "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "{args:?}: no {word:?} in: {said}"));
    said
}

struct Member {
    child: Child,
    address: String,
}

impl Member {
    fn start(dir: &Path) -> Member {
        let address = free_address();
        let child = Command::new(PROGRAM)
            .args(["run", "--dir", dir.to_str().unwrap(), "--addr", &address])
            .env("FLOTILLA_PARENT_PIPE", "1")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let member = Member { child, address };
        let until = Instant::now() + Duration::from_secs(20);
        while member.get("/healthz").is_none_or(|page| !page.contains("200 OK")) {
            assert!(Instant::now() < until, "not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        member
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut connection = TcpStream::connect(&self.address).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn register(&self, n: u64) -> Result<(String, u64), PlacementError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = RegisterRequest {
            address: format!("127.0.0.1:{}", 60_000 + n),
            nonce: format!("nonce-{n}"),
            ..RegisterRequest::default()
        };
        runtime.block_on(async {
            let client = PlacementClient::connect(vec![self.address.clone()])?;
            client.register(request).await.map(|r| (r.cluster, r.store))
        })
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; gives the status and the last line said.
    fn end(mut self) -> (ExitStatus, String) {
        let until = Instant::now() + Duration::from_secs(15);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                self.child.kill().unwrap();
                panic!("still running");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = BufReader::new(self.child.stderr.take().unwrap());
        let last = said.lines().map_while(Result::ok).last().unwrap_or_default();
        (self.child.wait().unwrap(), last)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().join("new");
    let d = d.to_str().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, "no_such_field = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let a = free_address();
    wrong_usage(&["--dir", d, "--addr", "nonsense"], &["--addr", "nonsense"]);
    refused(&["--dir", d, "--addr", "192.0.2.1:7"], &["--addr", "192.0.2.1:7"]);
    wrong_usage(&["--dir", d], &["--addr"]);
    wrong_usage(&["--addr", &a], &["--dir"]);
    wrong_usage(&["--dir", d, "--addr", &a, "--config", file], &["no_such_field"]);
    wrong_usage(&["--dir", d, "--addr", &a, "--config", "/no/file"], &["/no/file"]);
    wrong_usage(&["--dir", d, "--addr", &a, "--stores", "0"], &["--stores", "1..=1000"]);
    wrong_usage(&["--dir", d, "--addr", &a, "--log-level", "a=b=c"], &["--log-level"]);
    assert!(!Path::new(d).exists(), "nothing was touched");
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, "stores = 0\nregions = 0\nadvertise_addr = \"0.0.0.0:1\"\n").unwrap();
    let d = dir.path().join("new");
    let output = Command::new(PROGRAM)
        .args(["run", "--advertise-addr", "0.0.0.0:3", "--config", file.to_str().unwrap()])
        .env("FLOTILLA_DIR", &d)
        .env("FLOTILLA_ADDR", free_address())
        .env("FLOTILLA_STORES", "5")
        .env("FLOTILLA_REGIONS", "7")
        .env("FLOTILLA_ADVERTISE_ADDR", "0.0.0.0:2")
        .env("FLOTILLA_NO_SUCH_FLAG", "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("advertise_addr = 0.0.0.0:3"), "{said}");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_touched() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().join("new");
    let said = refused(&["--dir", d.to_str().unwrap(), "--addr", &address], &[&address, "in use"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!d.exists());
}

#[test]
fn folders_that_are_not_ours_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let start = |path: &Path, words: &[&str]| {
        refused(&["--dir", path.to_str().unwrap(), "--addr", &free_address()], words);
    };
    let file = dir.path().join("file");
    fs::write(&file, "content").unwrap();
    start(&file, &["is a file, not a directory"]);
    start(dir.path(), &["is not empty", "'file'"]);
    start(Path::new("/proc/flotilla"), &["/proc/flotilla", "cannot be used"]);
    let newer = dir.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("member"), "format = 9\n").unwrap();
    start(&newer, &["format 9"]);
    assert_eq!(fs::read_dir(&newer).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_folder_in_use_is_refused_and_a_kill_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path());
    let (cluster, store) = member.register(1).unwrap();
    assert_eq!(store, 1);
    let d = dir.path().to_str().unwrap();
    refused(&["--dir", d, "--addr", &free_address()], &["in use by another process"]);
    member.signal("-KILL");
    assert_eq!(member.end().0.signal(), Some(9));

    let member = Member::start(dir.path());
    assert_eq!(member.register(1).unwrap(), (cluster.clone(), 1));
    assert_eq!(member.register(2).unwrap(), (cluster.clone(), 2));
    member.signal("-TERM");
    assert_eq!(member.end().0.code(), Some(0));

    let mut member = Member::start(dir.path());
    assert_eq!(member.register(2).unwrap(), (cluster, 2));
    drop(member.child.stdin.take());
    assert_eq!(member.end().0.code(), Some(0), "stops when its parent is gone");
}

#[test]
fn a_member_describes_itself_on_a_signal_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path());
    let (cluster, _) = member.register(1).unwrap();
    member.signal("-USR2");
    let file = dir.path().join("describe.json");
    let until = Instant::now() + Duration::from_secs(20);
    // Whole from the first moment on.
    let text = loop {
        match fs::read_to_string(&file) {
            Ok(text) => break text,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let described: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(described["cluster"], cluster);
    assert_eq!(described["raft"][0]["role"], "leader", "{text}");
    assert_eq!(member.register(2).unwrap(), (cluster, 2));
    member.signal("-TERM");
    assert_eq!(member.end().0.code(), Some(0));
}

#[test]
fn a_lost_log_or_state_is_told_instead_of_starting_anew() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path());
    member.register(1).unwrap();
    member.signal("-TERM");
    assert_eq!(member.end().0.code(), Some(0));
    assert!(dir.path().join("STATE").exists(), "a clean stop leaves a dump");
    let d = dir.path().to_str().unwrap();
    fs::rename(dir.path().join("log"), dir.path().join("log.away")).unwrap();
    refused(&["--dir", d, "--addr", &free_address()], &["log", "restore"]);
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    fs::rename(dir.path().join("log.away"), dir.path().join("log")).unwrap();

    let state = fs::read(dir.path().join("STATE")).unwrap();
    fs::write(dir.path().join("STATE"), &state[..state.len() - 1]).unwrap();
    refused(&["--dir", d, "--addr", &free_address()], &["STATE", "damaged"]);
    fs::write(dir.path().join("STATE"), &state).unwrap();
    let member = Member::start(dir.path());
    assert_eq!(member.register(1).unwrap().1, 1);
    member.signal("-TERM");
    member.end();
}

#[test]
fn a_state_that_cannot_be_written_ends_the_process_with_a_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path());
    fs::create_dir(dir.path().join("STATE.tmp")).unwrap();
    member.register(1).unwrap();
    let (status, last) = member.end();
    assert_eq!(status.code(), Some(1));
    assert!(last.contains("fatal") && last.contains("STATE"), "{last}");
    fs::remove_dir(dir.path().join("STATE.tmp")).unwrap();
    let member = Member::start(dir.path());
    assert_eq!(member.register(1).unwrap().1, 1, "what was acknowledged is in the log");
    member.signal("-TERM");
    member.end();
}
