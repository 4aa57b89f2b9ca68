//! Many records of a region at once: what becomes of them, of what was there, and of everybody else, wherever it
//! stops.

use super::tests::{copy, open_table_logged};
use super::*;
use crate::kv::keys;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::BTreeMap;

const GROUP: GroupId = GroupId(7);
const OTHER: GroupId = GroupId(8);
/// One record of another group on each side.
const BESIDE: [(GroupId, &[u8]); 2] = [(GroupId(6), b"j"), (OTHER, b"l")];
/// Of the group.
const RANGE: (&[u8], &[u8]) = (b"k", b"l");
/// Records of a file before it is full.
const FILE_BYTES: u64 = 10_000;

type Map = BTreeMap<Bytes, Bytes>;

fn record(number: u64, value: &str) -> Pair {
    (Bytes::from(format!("k{number:06}")), Bytes::from(format!("{value} {number} ").repeat(5)))
}

fn records(numbers: std::ops::Range<u64>, value: &str) -> Map {
    numbers.map(|number| record(number, value)).collect()
}

fn ingest(engine: &dyn Engine, records: &Map) -> Result<(), Fatal> {
    let mut records = records.iter().map(|(key, value)| Ok((key.clone(), value.clone())));
    engine.ingest(GROUP, &mut records)
}

fn write(engine: &dyn Engine, group: GroupId, column: Column, key: &[u8], value: Option<&[u8]>) {
    let copy = Bytes::copy_from_slice;
    let changes = vec![Change { column, key: copy(key), value: value.map(copy) }];
    engine.write(&[GroupChanges { group, changes }]).unwrap();
}

fn put_all(engine: &dyn Engine, records: &Map) {
    let put = |(key, value): (&Bytes, &Bytes)| Change {
        column: Column::Data,
        key: key.clone(),
        value: Some(value.clone()),
    };
    engine
        .write(&[GroupChanges { group: GROUP, changes: records.iter().map(put).collect() }])
        .unwrap();
}

fn found(engine: &dyn Engine) -> Map {
    seen(&*engine.view(GROUP))
}

fn seen(view: &dyn View) -> Map {
    let all = view.scan(Column::Data, RANGE.0, RANGE.1, usize::MAX, usize::MAX);
    all.unwrap().0.into_iter().collect()
}

fn other(engine: &dyn Engine, key: &[u8]) -> Option<Bytes> {
    engine.view(OTHER).get(Column::Data, key).unwrap()
}

fn few_a_file(engine: &RocksEngine) {
    engine.ingest.lock().bytes_max = (u64::MAX, FILE_BYTES);
}

/// A table whose base gets checkpoints in files, or through RocksDB's log.
fn open_files(dir: &Path, logged: bool) -> TableEngine {
    let mut base = RocksBase::open(dir).unwrap();
    base.logged_bytes_max = if logged { usize::MAX } else { 0 };
    few_a_file(&base.engine);
    TableEngine::new(Box::new(base), 1 << 20)
}

fn open_direct(dir: &Path) -> RocksEngine {
    let engine = RocksEngine::open(dir).unwrap();
    few_a_file(&engine);
    engine
}

/// Every way to open a folder, each with a folder of its own.
fn each(test: impl Fn(&dyn Fn() -> Box<dyn Engine>)) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    test(&|| Box::new(open_direct(&at("direct"))));
    test(&|| Box::new(open_files(&at("files"), false)));
    test(&|| Box::new(open_files(&at("logged"), true)));
    test(&|| Box::new(open_files(&at("flusher"), false).with_flusher().unwrap()));
    test(&|| Box::new(open_table_logged(&at("small"), 200, 0).with_flusher().unwrap()));
    let memory = || TableEngine::new(Box::new(MemoryBase::open(&at("memory")).unwrap()), 50_000);
    test(&|| Box::new(memory()));
}

#[test]
fn what_was_erased_neither_comes_back_nor_hides_what_is_ingested() {
    each(|open| {
        let mut engine = open();
        let [old, newer] = [records(0..900, "old"), records(300..700, "newer")];
        for (group, key) in BESIDE {
            write(&*engine, group, Column::Data, key, Some(b"beside"));
        }
        for round in 0..4 {
            put_all(&*engine, &old);
            if round % 2 == 0 {
                engine.sync().unwrap();
            }
            put_all(&*engine, &newer);
            engine.erase(GROUP, RANGE.0, RANGE.1).unwrap();
            assert!(found(&*engine).is_empty());
            let new = records(round * 100..1_000, "new");
            ingest(&*engine, &new).unwrap();
            assert_eq!(found(&*engine), new);
            // And it goes on from there.
            let (key, value) = record(500, "last");
            write(&*engine, GROUP, Column::Data, &key, Some(&value));
            write(&*engine, GROUP, Column::Data, &record(501, "").0, None);
            let mut expected = new.clone();
            expected.insert(key, value);
            expected.remove(&record(501, "").0);
            assert_eq!(found(&*engine), expected);
            engine.sync().unwrap();
            drop(engine);
            engine = open();
            assert_eq!(found(&*engine), expected);
            for (group, key) in BESIDE {
                let found = engine.view(group).get(Column::Data, key).unwrap();
                assert_eq!(found.unwrap(), "beside");
            }
            assert!(engine.reclaim(RANGE.0, RANGE.1).unwrap());
            assert_eq!(found(&*engine), expected, "compacted");
        }
        ingest(&*engine, &Map::new()).unwrap();
    });
}

#[test]
fn a_pinned_state_stays_and_others_are_not_held_up() {
    each(|open| {
        let engine = open();
        for group in [GROUP, OTHER] {
            write(&*engine, group, Column::System, &keys::state(group), Some(b"x"));
        }
        put_all(&*engine, &records(0..100, "old"));
        engine.sync().unwrap();
        let pinned = engine.pin(GROUP).unwrap();
        engine.erase(GROUP, RANGE.0, RANGE.1).unwrap();
        let new = records(0..1_000, "new");
        // Whoever syncs or fills the table while records come waits for nothing that waits for them.
        let mut number = 0_u64;
        let mut incoming = new.iter().map(|(key, value)| {
            number += 1;
            let value_of_other = number.to_be_bytes().repeat(100);
            write(&*engine, OTHER, Column::Data, b"l", Some(&value_of_other));
            if number.is_multiple_of(100) {
                engine.sync().unwrap();
                drop(engine.pin(OTHER).unwrap());
            }
            Ok((key.clone(), value.clone()))
        });
        engine.ingest(GROUP, &mut incoming).unwrap();
        assert_eq!(found(&*engine), new);
        assert_eq!(other(&*engine, b"l").unwrap(), 1_000_u64.to_be_bytes().repeat(100));
        assert_eq!(seen(&*pinned), records(0..100, "old"));
    });
}

/// A process that ends anywhere leaves the region, and the records of whole files: the next attempt begins
/// by erasing them.
#[test]
fn a_stop_after_any_file_or_in_its_middle_leaves_a_region_that_can_be_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    for (logged, direct) in [(false, false), (true, false), (false, true)] {
        let live = dir.path().join(format!("live-{logged}-{direct}"));
        let open = |dir: &Path| -> Box<dyn Engine> {
            if direct { Box::new(open_direct(dir)) } else { Box::new(open_files(dir, logged)) }
        };
        let engine = open(&live);
        put_all(&*engine, &records(0..500, "old"));
        engine.sync().unwrap();
        write(&*engine, GROUP, Column::System, &keys::meta(GROUP), Some(b"region"));
        engine.erase(GROUP, RANGE.0, RANGE.1).unwrap();
        let new = records(0..1_000, "new");
        let (mut number, counts) = (0, Cell::new(Vec::new()));
        let crash = || {
            let crashed = dir.path().join("crashed");
            copy(&live, &crashed);
            let engine = open(&crashed);
            assert!(!crashed.join("next.ingest").exists());
            assert_eq!(engine.groups().unwrap(), [GROUP]);
            let left = found(&*engine);
            assert!(left.iter().eq(new.iter().take(left.len())), "the first ones, nothing else");
            engine.erase(GROUP, RANGE.0, RANGE.1).unwrap();
            ingest(&*engine, &new).unwrap();
            assert_eq!(found(&*engine), new);
            drop(engine);
            assert_eq!(found(&*open(&crashed)), new);
            std::fs::remove_dir_all(&crashed).unwrap();
            let mut all = counts.take();
            all.push(left.len());
            counts.set(all);
        };
        let mut incoming = new.iter().map(|(key, value)| {
            if number % 90 == 0 {
                crash();
            }
            number += 1;
            Ok((key.clone(), value.clone()))
        });
        engine.ingest(GROUP, &mut incoming).unwrap();
        crash();
        let mut counts = counts.take();
        assert!(
            counts.is_sorted() && counts[0] == 0 && counts.last() == Some(&1_000),
            "{counts:?}"
        );
        counts.dedup();
        assert!(counts.len() > 5, "{counts:?}");
    }
}

#[test]
fn an_error_of_the_records_ends_it_and_the_engine_goes_on() {
    each(|open| {
        let engine = open();
        let new = records(0..1_000, "new");
        let mut incoming = new.iter().enumerate().map(|(i, (key, value))| match i {
            700 => Err(Fatal::new("read", "a damaged block")),
            _ => Ok((key.clone(), value.clone())),
        });
        let error = engine.ingest(GROUP, &mut incoming).unwrap_err();
        assert!(error.to_string().contains("a damaged block"), "{error}");
        write(&*engine, OTHER, Column::Data, b"l", Some(b"1"));
        engine.sync().unwrap();
        engine.erase(GROUP, RANGE.0, RANGE.1).unwrap();
        ingest(&*engine, &new).unwrap();
        assert_eq!(found(&*engine), new);
    });
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_files(dir.path(), false);
    std::fs::create_dir(dir.path().join("next.ingest")).unwrap();
    let error = ingest(&engine, &records(0..10, "new")).unwrap_err().to_string();
    assert!(error.contains("write the records of a snapshot to") && error.contains("next.ingest"));
    assert!(found(&engine).is_empty());
}

/// Nothing is to be compacted behind a load: its files are where they stay.
#[test]
fn files_of_a_range_of_its_own_land_in_the_last_level() {
    let dir = tempfile::tempdir().unwrap();
    let base = RocksBase::open(dir.path()).unwrap();
    few_a_file(&base.engine);
    let new = records(0..1_000, "new");
    let mut incoming = new.iter().map(|(key, value)| Ok((key.clone(), value.clone())));
    table::Base::ingest(&base, &mut incoming, &table::Pace::full()).unwrap();
    let levels = base.engine.data_levels();
    assert!(levels.len() >= 5 && levels.iter().all(|level| *level == 6), "{levels:?}");
}

/// Notes where scans begin.
struct Watched(TableEngine, Mutex<Vec<Vec<u8>>>);

struct WatchedView<'a>(Box<dyn View + 'a>, &'a Watched);

impl View for WatchedView<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.0.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        self.1.1.lock().push(start.to_vec());
        self.0.scan(column, start, end, limit, bytes_max)
    }
}

impl Engine for Watched {
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        self.0.write(batch)
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.0.sync()
    }

    fn view(&self, group: GroupId) -> Box<dyn View + '_> {
        Box::new(WatchedView(self.0.view(group), self))
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        self.0.pin(group)
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        self.0.groups()
    }
}

/// What is deleted is there to be skipped: from the beginning each time, a gigabyte would be read five
/// hundred times over.
#[test]
fn an_erase_reads_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched(open_files(dir.path(), false), Mutex::default());
    let value = "v".repeat(10_000).into();
    let large = records(0..100, "").into_keys().map(|key| (key, Bytes::clone(&value)));
    put_all(&watched, &large.collect());
    watched.sync().unwrap();
    watched.erase(GROUP, RANGE.0, RANGE.1).unwrap();
    let starts = watched.1.lock();
    assert!(starts.len() > 2 && starts.is_sorted_by(|a, b| a < b), "{starts:?}");
    assert!(found(&watched.0).is_empty());
}
