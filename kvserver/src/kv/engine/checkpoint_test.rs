//! Where a checkpoint can stop: at every step of its way, and in the middle of each write.

use super::*;
use crate::kv::engine::table::Records;
use crate::kv::engine::tests::{
    copy, numbers, open_table_logged, read_number, write_ahead_log, write_numbers,
};
use crate::kv::engine::{Change, Engine, TableEngine};

const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(9)];
/// Checkpoints of even numbers are larger, those of odd ones smaller.
const LOGGED_BYTES_MAX: usize = 20_000;

/// A copy of the database in `live`, its newest log cut to `length`, opens with number `expected` in
/// every group, with a table over it and without; uncut, it goes on from there.
fn recovers(live: &Path, length: Option<u64>, expected: u64) {
    let dir = tempfile::tempdir().unwrap();
    let crashed = dir.path().join("crashed");
    copy(live, &crashed);
    if let Some(length) = length {
        let log = File::options().write(true).open(write_ahead_log(&crashed)).unwrap();
        log.set_len(length).unwrap();
    }
    let at = |engine: &dyn Engine, n: u64| {
        assert_eq!(engine.groups().unwrap(), GROUPS);
        for group in GROUPS {
            assert_eq!(read_number(engine, group), n, "log cut to {length:?}");
        }
    };
    at(&open(&crashed), expected);
    at(&RocksEngine::open(&crashed).unwrap(), expected);
    if length.is_some() {
        return;
    }
    // Both kinds of checkpoints.
    for n in [expected + 1, expected + 2] {
        let engine = open(&crashed);
        GROUPS.iter().for_each(|group| write_numbers(&engine, *group, n));
        engine.sync().unwrap();
    }
    at(&open(&crashed), expected + 2);
}

fn open(dir: &Path) -> TableEngine {
    open_table_logged(dir, 1 << 20, LOGGED_BYTES_MAX)
}

fn length_of(log: &Path) -> u64 {
    std::fs::metadata(log).unwrap().len()
}

/// About twenty places from `first` up to `end`, the bytes beside both among them.
fn cuts(first: u64, end: u64) -> impl Iterator<Item = u64> {
    let step = ((end - first) / 20).max(1);
    (first..end).step_by(usize::try_from(step).unwrap()).chain([first + 1, end - 1])
}

#[test]
fn a_logged_checkpoint_that_is_cut_anywhere_is_not_there_at_all() {
    // After one in a file it folds that one's records; after another one it does not.
    for before in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let checkpoint = |n| {
            GROUPS.iter().for_each(|group| write_numbers(&engine, *group, n));
            engine.sync().unwrap();
        };
        (2..=before).for_each(checkpoint);
        let log = write_ahead_log(dir.path());
        let first = length_of(&log);
        let next = if before == 2 { 3 } else { 5 };
        checkpoint(next);
        assert_eq!(write_ahead_log(dir.path()), log, "it went through this log");
        let end = length_of(&log);
        assert!(end > first + 1_000, "{first} to {end}");
        cuts(first, end).for_each(|cut| recovers(dir.path(), Some(cut), before));
        recovers(dir.path(), None, next);
    }
}

#[test]
fn a_stop_between_the_steps_of_a_checkpoint_in_a_file_leaves_the_last_one_or_this_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let base = RocksBase::open(dir.path()).unwrap();
    let pace = Pace::full();
    let records = |n: u64| {
        GROUPS.map(|group| {
            let (mut data, mut system) = (Records::default(), Records::default());
            for Change { column, key, value } in numbers(group, n) {
                let records = if column == Column::Data { &mut data } else { &mut system };
                records.set(&key, value.as_deref());
            }
            (data, system)
        })
    };
    let with = |records: &[(Records, Records)], step: &dyn Fn(&[GroupCheckpoint<'_>])| {
        let groups: Vec<GroupCheckpoint<'_>> = GROUPS
            .iter()
            .zip(records)
            .map(|(group, (data, system))| GroupCheckpoint { group: *group, data, system })
            .collect();
        step(&groups);
    };
    // Through the log, so that nothing is to fold, and in a file, so that something is.
    with(&records(3), &|groups| {
        base.write_logged(groups, in_order(groups, &pace).unwrap()).unwrap();
        recovers(dir.path(), None, 3);
    });
    for n in [4, 6] {
        with(&records(n), &|groups| {
            base.make_file(groups, in_order(groups, &pace).unwrap(), &pace).unwrap();
            let last = if n == 4 { 3 } else { 4 };
            recovers(dir.path(), None, last);
            base.engine.take_over(&base.file, "take it over").unwrap();
            recovers(dir.path(), None, n);
        });
    }
    with(&records(7), &|groups| {
        base.write_logged(groups, in_order(groups, &pace).unwrap()).unwrap();
        recovers(dir.path(), None, 7);
    });
}

#[test]
fn a_fold_that_is_cut_anywhere_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    GROUPS.iter().for_each(|group| write_numbers(&engine, *group, 2));
    engine.sync().unwrap();
    drop(engine);
    // Opening it folds.
    let folded = RocksEngine::open(dir.path()).unwrap();
    assert_eq!(folded.get_data(SYSTEM_KEY).unwrap(), None);
    let end = length_of(&write_ahead_log(dir.path()));
    assert!(end > 10_000, "the fold is in the newest log: {end}");
    cuts(0, end).for_each(|cut| recovers(dir.path(), Some(cut), 2));
    recovers(dir.path(), None, 2);
}

#[test]
fn system_records_survive_encoding_and_a_cut_is_seen() {
    let bytes = Bytes::from_static;
    let changes: SystemChanges = [
        (bytes(b"a"), Some(bytes(b"value"))),
        (bytes(b"b"), None),
        (bytes(b"c"), Some(bytes(b""))),
    ]
    .into();
    let encoded = Bytes::from(encode(&changes));
    assert_eq!(decode(encoded.clone()).as_ref(), Some(&changes));
    let whole_records = [1, 1 + 8 + 6, 1 + 8 + 6 + 8 + 1];
    for cut in (0..encoded.len()).filter(|cut| !whole_records.contains(cut)) {
        assert_eq!(decode(encoded.slice(..cut)), None, "cut at {cut}");
    }
    assert_eq!(decode(bytes(&[2])), None);
}
