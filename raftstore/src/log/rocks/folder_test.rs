//! Folders that are not ours, not yet ours, or in use.

use super::*;
use crate::log::contract_test::create;
use crate::log::{LogStore, RocksLog, RocksLogOptions};

fn open(dir: &Path) -> Result<std::sync::Arc<RocksLog>, LogError> {
    RocksLog::open(dir, RocksLogOptions::default())
}

fn refusal(dir: &Path) -> String {
    match open(dir) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_in_use_is_refused_until_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("is in use by another process"), "{error}");
    assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    first.write(&[create(1)]).unwrap();
    drop(first);
    assert_eq!(open(dir.path()).unwrap().load().unwrap().len(), 1);
}

#[test]
fn a_database_that_another_tool_holds_is_in_use_too() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let held = DB::open(&Options::default(), dir.path().join("db")).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("is in use by another process"), "{error}");
    drop(held);
    open(dir.path()).unwrap();
}

#[test]
fn a_newer_format_and_other_engines_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let format = dir.path().join(FORMAT_FILE);
    assert_eq!(fs::read_to_string(&format).unwrap(), "flotilla-raft-log rocksdb 1 ready\n");
    for (line, text) in [
        (
            "flotilla-raft-log rocksdb 2 ready",
            "newer format 2, and this build reads up to format 1",
        ),
        ("flotilla-raft-log raft-engine 1 ready", "the engine raft-engine, not rocksdb"),
        ("flotilla-raft-log rocksdb one ready", "its version \"one\" is not a number"),
        ("flotilla-raft-log rocksdb 1 broken", "its state \"broken\" is unknown"),
        ("something else", "it is not a flotilla-raft-log line: \"something else\""),
    ] {
        fs::write(&format, line).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains(text), "{error}");
        assert_eq!(fs::read_to_string(&format).unwrap(), line);
    }
}

#[test]
fn a_foreign_folder_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious.txt"), "data").unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("holds precious.txt but no FORMAT file"), "{error}");
    assert!(!dir.path().join("db").exists() && !dir.path().join(FORMAT_FILE).exists());
}

#[test]
fn an_interrupted_creation_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FORMAT_NEW_FILE), "flotilla-r").unwrap();
    drop(open(dir.path()).unwrap());
    for db_too in [true, false] {
        fs::write(dir.path().join(FORMAT_FILE), "flotilla-raft-log rocksdb 1 creating\n").unwrap();
        if !db_too {
            fs::remove_dir_all(dir.path().join("db")).unwrap();
        }
        assert!(open(dir.path()).unwrap().load().unwrap().is_empty());
    }
}

#[test]
fn a_path_that_cannot_be_a_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(&file.join("log"));
    assert!(error.contains("cannot create") && error.contains("file/log"), "{error}");
}
