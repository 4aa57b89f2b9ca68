//! Folders that are not ours, not yet ours, or in use, with both engines.

use super::*;
use crate::log::contract_test::{append, create, entries, once_free, record};
use crate::log::{
    GroupWrite, Install, LogEngine, LogOptions, LogStore, RaftEngineLog, RaftEngineLogOptions,
    RocksLog, RocksLogOptions, open,
};
use crate::snapshot::SnapshotId;
use crate::types::{GroupId, HardState, LogPosition};
use std::sync::Arc;

fn open_with(engine: LogEngine, dir: &Path) -> Result<Arc<dyn LogStore>, LogError> {
    open(dir, Some(engine), LogOptions::default()).map(|(log, _)| log)
}

fn refusal(engine: LogEngine, dir: &Path) -> String {
    match open_with(engine, dir) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_in_use_is_refused_until_it_is_free() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let first = open_with(engine, dir.path()).unwrap();
        let error = refusal(engine, dir.path());
        assert!(error.contains("is in use by another process"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        first.write(&[create(1)]).unwrap();
        drop(first);
        assert_eq!(open_with(engine, dir.path()).unwrap().load().unwrap().len(), 1);
    }
}

#[test]
fn a_database_that_another_tool_holds_is_in_use_too() {
    let dir = tempfile::tempdir().unwrap();
    let open = || RocksLog::open(dir.path(), RocksLogOptions::default());
    drop(open().unwrap());
    let held = rocksdb::DB::open(&rocksdb::Options::default(), dir.path().join("db")).unwrap();
    let error = refusal(LogEngine::Rocksdb, dir.path());
    assert!(error.contains("is in use by another process"), "{error}");
    drop(held);
    open().unwrap();
}

#[test]
fn a_newer_format_and_other_engines_are_refused_untouched() {
    for (engine, other) in [("rocksdb", "raft-engine"), ("raft-engine", "rocksdb")] {
        let own: LogEngine = engine.parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        drop(open_with(own, dir.path()).unwrap());
        let format = dir.path().join(FORMAT_FILE);
        let line = format!("flotilla-raft-log {engine} 3 ready\n");
        assert_eq!(fs::read_to_string(&format).unwrap(), line);
        for (line, text) in [
            (
                format!("flotilla-raft-log {engine} 4 ready"),
                "newer format 4, and this build reads up to format 3".to_owned(),
            ),
            (
                format!("flotilla-raft-log {other} 1 ready"),
                format!("the engine {other}, not {engine}"),
            ),
            (
                format!("flotilla-raft-log {engine} one ready"),
                "its version \"one\" is not a number".to_owned(),
            ),
            (
                format!("flotilla-raft-log {engine} 1 broken"),
                "its state \"broken\" is unknown".to_owned(),
            ),
            (
                "something else".to_owned(),
                "it is not a flotilla-raft-log line: \"something else\"".to_owned(),
            ),
        ] {
            fs::write(&format, &line).unwrap();
            let error = refusal(own, dir.path());
            assert!(error.contains(&text), "{error}");
            assert_eq!(fs::read_to_string(&format).unwrap(), line);
        }
    }
}

/// A closed folder as format 1 was: group 1 with three entries, its record without a tail.
fn write_format_1(engine: LogEngine, dir: &Path) -> HardState {
    let state = HardState { term: 1, vote: 11, commit: 2 };
    let write = GroupWrite { hard_state: Some(state), ..append(1, 1, &[1, 1, 1]) };
    match engine {
        LogEngine::Rocksdb => {
            let log = RocksLog::open(dir, RocksLogOptions::default()).unwrap();
            log.write_format_1(&record(1), &write);
        }
        LogEngine::RaftEngine => {
            let log = RaftEngineLog::open(dir, RaftEngineLogOptions::default()).unwrap();
            log.write_format_1(&record(1), &write);
        }
    }
    fs::write(dir.join(FORMAT_FILE), format!("flotilla-raft-log {} 1 ready\n", engine.name()))
        .unwrap();
    state
}

#[test]
fn a_folder_of_format_1_is_taken_over_where_it_is() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let state = write_format_1(engine, dir.path());
        let reopen = || once_free(|| open_with(engine, dir.path())).unwrap();
        let log = reopen();
        let found = log.load().unwrap();
        assert_eq!((found.len(), &found[0].damage, found[0].last_index), (1, &None, 3));
        assert_eq!((&found[0].record, found[0].hard_state), (&record(1), state));
        let line = format!("flotilla-raft-log {} 3 ready\n", engine.name());
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), line);
        // It goes on with what only the new format holds, beside a group that stays as it was.
        let mut later = record(1);
        Arc::make_mut(&mut later.desc).membership.version = 1;
        log.write(&[GroupWrite { record: Some(later.clone()), ..append(1, 4, &[1]) }]).unwrap();
        drop(log);
        let log = reopen();
        assert_eq!(log.load().unwrap()[0].record, later);
        let mut held = Vec::new();
        log.entries(GroupId(1), 1, 5, usize::MAX, &mut held).unwrap();
        assert_eq!(held[..3], entries(1, &[1, 1, 1], 20));
        assert_eq!(held[3..], entries(4, &[1], 20));
    }
}

/// Format 2 has no installs: an older build must not meet one.
#[test]
fn a_folder_of_format_2_is_taken_over_where_it_is() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let reopen = || once_free(|| open_with(engine, dir.path())).unwrap();
        let log = reopen();
        log.write(&[GroupWrite { append: entries(1, &[1, 1, 1], 20), ..create(1) }]).unwrap();
        drop(log);
        // Without an install its content is that of format 2.
        let line = |version| format!("flotilla-raft-log {} {version} ready\n", engine.name());
        once_free(|| open_with(engine, dir.path()).map(drop)).unwrap();
        fs::write(dir.path().join(FORMAT_FILE), line(2)).unwrap();
        let log = reopen();
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), line(3));
        assert_eq!(log.load().unwrap()[0].last_index, 3);
        let install = Install::Begin(LogPosition { index: 9, term: 2 }, SnapshotId(7));
        log.write(&[GroupWrite { install: Some(install), ..append(1, 0, &[]) }]).unwrap();
        drop(log);
        let held = &reopen().load().unwrap()[0];
        assert_eq!((held.installing, held.last_index), (Some(SnapshotId(7)), 9));
    }
}

/// Until an engine has opened its files, the older build can still have them.
#[test]
fn a_folder_of_format_1_that_is_refused_stays_of_format_1() {
    for (engine, files, what) in
        [(LogEngine::Rocksdb, "db", "lost or damaged"), (LogEngine::RaftEngine, "files", "SPAN")]
    {
        let dir = tempfile::tempdir().unwrap();
        write_format_1(engine, dir.path());
        fs::rename(dir.path().join(files), dir.path().join("elsewhere")).unwrap();
        let reopen = || once_free(|| open_with(engine, dir.path()));
        let error = reopen().map(drop).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        let line = format!("flotilla-raft-log {} 1 ready\n", engine.name());
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), line);
        let _ = fs::remove_dir_all(dir.path().join(files));
        fs::rename(dir.path().join("elsewhere"), dir.path().join(files)).unwrap();
        assert_eq!(reopen().unwrap().load().unwrap()[0].last_index, 3);
    }
}

#[test]
fn a_folder_keeps_its_engine_when_none_is_asked_for() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        drop(open_with(engine, dir.path()).unwrap());
        let (_, found) = open(dir.path(), None, LogOptions::default()).unwrap();
        assert_eq!(found, engine);
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, found) = open(dir.path(), None, LogOptions::default()).unwrap();
    assert_eq!(found, LogEngine::default());
    fs::write(dir.path().join(FORMAT_FILE), "flotilla-raft-log tape 1 ready").unwrap();
    let error = open(dir.path(), None, LogOptions::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("engine \"tape\""), "{error}");
}

#[test]
fn a_foreign_folder_is_refused_untouched() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious.txt"), "data").unwrap();
        let error = refusal(engine, dir.path());
        assert!(error.contains("holds precious.txt but no FORMAT file"), "{error}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.iter().all(|path| path.is_file()), "{left:?}");
        assert!(!dir.path().join(FORMAT_FILE).exists());
    }
}

#[test]
fn an_interrupted_creation_goes_on() {
    for (engine, files) in [(LogEngine::Rocksdb, "db"), (LogEngine::RaftEngine, "files")] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FORMAT_NEW_FILE), "flotilla-r").unwrap();
        drop(open_with(engine, dir.path()).unwrap());
        for files_too in [true, false] {
            let line = format!("flotilla-raft-log {engine} 1 creating\n");
            fs::write(dir.path().join(FORMAT_FILE), line).unwrap();
            if !files_too {
                fs::remove_dir_all(dir.path().join(files)).unwrap();
            }
            assert!(open_with(engine, dir.path()).unwrap().load().unwrap().is_empty());
        }
    }
}

#[test]
fn a_path_that_cannot_be_a_folder_is_named() {
    for engine in LogEngine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = refusal(engine, &file.join("log"));
        assert!(error.contains("cannot create") && error.contains("file/log"), "{error}");
    }
}
