//! The log in a process of its own: a write that really fails, kills at any moment.

use super::contract_test::{create, entries};
use super::*;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The variable that makes a test its own child, which uses the log in this folder.
const CHILD_DIR: &str = "FLOTILLA_TEST_LOG_DIR";

/// A real failing write: the child may not let a file grow beyond 2 MiB.
#[test]
fn the_first_failed_write_is_the_last_in_rocksdb() {
    the_first_failed_write_is_the_last(LogEngine::Rocksdb);
}

#[test]
fn the_first_failed_write_is_the_last_in_raft_engine() {
    the_first_failed_write_is_the_last(LogEngine::RaftEngine);
}

fn open_new(engine: LogEngine, dir: &Path) -> Arc<dyn LogStore> {
    open(dir, Some(engine), LogOptions::default()).unwrap().0
}

fn the_first_failed_write_is_the_last(engine: LogEngine) {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return write_until_it_fails(&*open_new(engine, Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let output = child(dir.path(), r#"trap "" XFSZ; ulimit -f 4096; "#).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let acknowledged: u64 = text
        .split_once("acknowledged=")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{text}"));
    let log = open_new(engine, dir.path());
    let found = log.load().unwrap().remove(0);
    assert_eq!(found.damage, None);
    assert!((acknowledged..=acknowledged + 1).contains(&found.last_index), "{acknowledged}");
    assert!(acknowledged > 100);
}

fn write_until_it_fails(log: &dyn LogStore) {
    log.write(&[create(1)]).unwrap();
    let write = |index| {
        let append = entries(index, &[1], 8000);
        log.write(&[GroupWrite { group: GroupId(1), append, ..GroupWrite::default() }])
    };
    let mut index = 1;
    let error = loop {
        match write(index) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 2000, "the limit did not bite");
    };
    assert!(error.reason.contains("File too large"), "{error}");
    assert!(write(index).unwrap_err().reason.contains("refused after an earlier failure"));
    println!("acknowledged={} ", index - 1);
}

/// This very test as a child process, after the shell's `setup`.
fn child(dir: &Path, setup: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!(r#"{setup}exec "$0" --exact "$1" --nocapture"#)])
        .arg(std::env::current_exe().unwrap())
        .arg(std::thread::current().name().unwrap())
        .env(CHILD_DIR, dir);
    command
}

/// With small tables or files, so that they come and go all the time.
fn open_small(engine: LogEngine, dir: &Path) -> Arc<dyn LogStore> {
    match engine {
        LogEngine::Rocksdb => {
            let options = RocksLogOptions { write_buffer_bytes: 64 << 10, ..Default::default() };
            RocksLog::open(dir, options).unwrap()
        }
        LogEngine::RaftEngine => {
            let options = RaftEngineLogOptions { file_bytes: 64 << 10, ..Default::default() };
            RaftEngineLog::open(dir, options).unwrap()
        }
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_acknowledged_in_rocksdb() {
    a_kill_at_any_moment_loses_nothing_acknowledged(LogEngine::Rocksdb);
}

#[test]
fn a_kill_at_any_moment_loses_nothing_acknowledged_in_raft_engine() {
    a_kill_at_any_moment_loses_nothing_acknowledged(LogEngine::RaftEngine);
}

fn a_kill_at_any_moment_loses_nothing_acknowledged(engine: LogEngine) {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return write_until_killed(&*open_small(engine, Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..8 {
        let mut process = child(dir.path(), "").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut indexes = lines.filter_map(|line| {
            line.unwrap().rsplit_once("acknowledged=").map(|(_, n)| n.parse::<u64>().unwrap())
        });
        acknowledged = indexes.nth(20 + round * 11).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        acknowledged = indexes.last().unwrap_or(acknowledged);
        let log = open_small(engine, dir.path());
        let found = log.load().unwrap().remove(0);
        assert_eq!(found.damage, None, "round {round}");
        assert!((acknowledged..=acknowledged + 1).contains(&found.last_index), "round {round}");
        assert!(found.truncated.index + 60 > found.last_index, "round {round}");
    }
    assert!(acknowledged > 400);
}

fn write_until_killed(log: &dyn LogStore) {
    log.write(&[create(1)]).unwrap();
    let mut index = log.load().unwrap()[0].last_index;
    loop {
        index += 1;
        let cut = (index > 40 && index.is_multiple_of(10))
            .then(|| LogPosition { index: index - 40, term: 1 });
        let append = entries(index, &[1], 8000);
        log.write(&[GroupWrite { append, truncate: cut, ..create(1) }]).unwrap();
        println!("acknowledged={index}");
    }
}
