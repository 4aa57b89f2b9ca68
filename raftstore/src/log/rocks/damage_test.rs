//! Real RocksDB files, damaged in every way that a disk or a power cut does.

// Background work of RocksDB needs a moment.
#![allow(clippy::disallowed_methods)]

use super::*;
use crate::log::contract_test::{
    append, create, ending, ends_and_begins_again, entries, later_record, once_free, tombstone,
};
use crate::types::{EntryKind, HardState};
use bytes::Bytes;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

fn open(dir: &Path) -> Result<Arc<RocksLog>, LogError> {
    let options = RocksLogOptions { sync: false, ..RocksLogOptions::default() };
    once_free(|| RocksLog::open(dir, options.clone()))
}

fn refusal(dir: &Path) -> String {
    match open(dir) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error.to_string(),
    }
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_into(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The one file of the database with this extension.
fn file(dir: &Path, extension: &str) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut data = fs::read(path).unwrap();
    change(&mut data);
    fs::write(path, data).unwrap();
}

/// A closed log whose every entry is in the write-ahead file.
struct Written {
    dir: TempDir,
    /// Before and after each write: the file's length and what the log held.
    steps: Vec<(usize, Vec<GroupLog>)>,
}

fn written(writes: &[Vec<GroupWrite>]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let wal = file(dir.path(), "log");
    let step = || (fs::metadata(&wal).unwrap().len() as usize, log.load().unwrap());
    let mut steps = vec![step()];
    for write in writes {
        log.write(write).unwrap();
        steps.push(step());
    }
    drop(log);
    Written { dir, steps }
}

/// Two groups, three writes of entries.
fn small() -> Written {
    let hard_state = Some(HardState { term: 1, vote: 11, commit: 1 });
    written(&[
        vec![create(1), create(2)],
        vec![append(1, 1, &[1, 1]), append(2, 1, &[1])],
        vec![append(1, 3, &[1]), append(2, 2, &[1])],
        vec![GroupWrite { hard_state, ..append(1, 4, &[1]) }],
    ])
}

impl Written {
    /// The bytes of write `n` in the file.
    fn bytes(&self, n: usize) -> std::ops::Range<usize> {
        self.steps[n].0..self.steps[n + 1].0
    }

    fn last(&self) -> usize {
        self.steps.len() - 2
    }

    fn damaged(&self, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
        let dir = copy(self.dir.path());
        edit(&file(dir.path(), "log"), change);
        dir
    }

    /// Opens the damaged copy, which must hold what it held after `n` writes, and go on.
    fn recovers(&self, n: usize, change: impl FnOnce(&mut Vec<u8>), what: &str) {
        let dir = self.damaged(change);
        let log = open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(log.load().unwrap(), self.steps[n].1, "{what}");
        let next = self.steps[n].1[0].last_index + 1;
        log.write(&[append(1, next, &[9])]).unwrap();
        drop(log);
        let log = open(dir.path()).unwrap();
        assert_eq!(log.load().unwrap()[0].last_index, next, "{what}");
    }
}

#[test]
fn a_last_record_cut_at_any_byte_is_removed() {
    let log = small();
    for end in log.bytes(log.last()) {
        log.recovers(log.last(), |data| data.truncate(end), &format!("cut at {end}"));
    }
}

#[test]
fn a_last_record_with_any_byte_damaged_is_removed() {
    let log = small();
    for at in log.bytes(log.last()) {
        let flip = |data: &mut Vec<u8>| data[at] ^= 1 << (at % 8);
        log.recovers(log.last(), flip, &format!("flip at {at}"));
    }
}

#[test]
fn garbage_and_zeroes_behind_the_last_record_are_removed() {
    let log = small();
    let all = log.steps.len() - 1;
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for bytes in [1, 6, 7, 8, 100, 4096, 40_000, 100_000] {
        log.recovers(all, |data| data.resize(data.len() + bytes, 0), &format!("{bytes} zeroes"));
        let garbage: Vec<u8> = (0..bytes).map(|_| noise()).collect();
        log.recovers(all, |data| data.extend(garbage), &format!("{bytes} bytes of garbage"));
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_changes_nothing() {
    let log = small();
    for at in log.bytes(log.last() - 1) {
        let dir = log.damaged(|data| data[at] ^= 1 << (at % 8));
        let wal = file(dir.path(), "log");
        let before = fs::read(&wal).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains("is damaged at byte"), "flip at {at}: {error}");
        assert!(error.contains("a valid record follows at byte"), "flip at {at}: {error}");
        assert_eq!(fs::read(&wal).unwrap(), before, "flip at {at}");
    }
    let middle = log.bytes(log.last() - 1);
    let dir = log.damaged(|data| data[middle].fill(0));
    assert!(refusal(dir.path()).contains("(zeroes)"));
}

#[test]
fn members_and_a_tombstone_that_come_last_are_there_or_not() {
    for last in [2, 3] {
        let log = written(&ending()[..=last]);
        for at in log.bytes(last) {
            log.recovers(last, |data| data.truncate(at), &format!("cut at {at}"));
            log.recovers(last, |data| data[at] ^= 1 << (at % 8), &format!("flip at {at}"));
        }
    }
}

#[test]
fn members_and_a_tombstone_in_the_middle_are_never_lost_silently() {
    let log = written(&ending());
    for at in log.bytes(2).start..log.bytes(3).end {
        let dir = log.damaged(|data| data[at] ^= 1 << (at % 8));
        let error = refusal(dir.path());
        assert!(error.contains("is damaged at byte"), "flip at {at}: {error}");
        assert!(error.contains("a valid record follows at byte"), "flip at {at}: {error}");
    }
}

/// Its checksum in the file fits, its own does not: whose log it is cannot be told.
#[test]
fn a_bad_record_stops_the_store_and_is_named() {
    for end in [tombstone(1), GroupWrite { record: Some(later_record(1)), ..append(1, 1, &[1]) }] {
        let log = written(&[vec![create(1), create(2)], vec![end.clone()]]);
        let key = Key::Directory(GroupId(1)).encode();
        let good = Encoder::default().record(&key, end.record.as_ref().unwrap()).to_vec();
        for at in [0, 4, 12, 20, good.len() - 1] {
            let dir = copy(log.dir.path());
            let mut bad = good.clone();
            bad[at] ^= 1;
            open(dir.path()).unwrap().spoil_record(GroupId(1), &bad);
            let error = refusal(dir.path());
            assert!(error.contains("the record of group 1: its checksum"), "flip at {at}: {error}");
        }
    }
}

#[test]
fn a_large_last_record_whose_pages_arrived_in_part_is_removed() {
    let mut large = append(1, 1, &[1]);
    large.append = entries(1, &[1, 1], 60_000);
    let log = written(&[vec![create(1)], vec![large]]);
    let record = log.bytes(log.last());
    for page in [4096, 32_768, 40_960, 98_304] {
        assert!(record.contains(&page));
        let lost = |data: &mut Vec<u8>| data[page..page + 4096].fill(0);
        log.recovers(log.last(), lost, &format!("page at {page}"));
    }
    for end in record.step_by(9973) {
        log.recovers(log.last(), |data| data.truncate(end), &format!("cut at {end}"));
    }
}

#[test]
fn a_lost_write_ahead_file_or_database_is_refused() {
    let log = small();
    let dir = copy(log.dir.path());
    fs::remove_file(file(dir.path(), "log")).unwrap();
    assert!(refusal(dir.path()).contains("no write-ahead file"));
    let dir = copy(log.dir.path());
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("lost or damaged"), "{error}");
    assert!(!dir.path().join("db").join("CURRENT").exists(), "no empty log took its place");
}

#[test]
fn a_damaged_list_of_tables_is_never_silent() {
    manifest_flips(&in_tables(), 1);
    manifest_flips(&flushed_often(), 7);
}

fn manifest_flips(log: &InTables, step: usize) {
    let manifest = fs::read_dir(log.dir.path().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .find(|name| name.to_string_lossy().starts_with("MANIFEST-"))
        .unwrap();
    let manifest = Path::new("db").join(manifest);
    let bytes = fs::metadata(log.dir.path().join(&manifest)).unwrap().len() as usize;
    // The last record in full: it is the one that no valid record follows.
    for at in (0..bytes).filter(|at| at % step == 0 || at + 150 > bytes) {
        let dir = copy(log.dir.path());
        edit(&dir.path().join(&manifest), |data| data[at] ^= 1 << (at % 8));
        if let Ok(opened) = open(dir.path()) {
            assert_eq!(opened.load().unwrap(), log.groups, "flip at {at}");
        }
    }
}

/// A closed log with many tables, the latest entries in the write-ahead file.
fn flushed_often() -> InTables {
    let dir = tempfile::tempdir().unwrap();
    let options = RocksLogOptions { sync: true, write_buffer_bytes: 64 << 10 };
    let log = RocksLog::open(dir.path(), options).unwrap();
    let tables = || {
        let files = fs::read_dir(dir.path().join("db")).unwrap().flatten();
        files.filter(|file| file.path().extension() == Some("sst".as_ref())).count()
    };
    // They are written by a thread of the database's own, when it comes to it.
    let enough = (0..6_000).find(|n| {
        let append = entries(n / 6 * 20 + 1, &[1; 20], 500);
        log.write(&[GroupWrite { append, ..create(n % 6 + 1) }]).unwrap();
        *n >= 60 && tables() > 1
    });
    let groups = log.load().unwrap();
    drop(log);
    assert!(enough.is_some() && tables() > 1, "{} tables", tables());
    InTables { dir, groups }
}

/// A closed log whose every entry is in tables.
struct InTables {
    dir: TempDir,
    groups: Vec<GroupLog>,
}

fn in_tables() -> InTables {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for group in 1..=3 {
        let append = entries(1, &[1; 100], 500);
        log.write(&[GroupWrite { append, ..create(group) }]).unwrap();
    }
    let groups = log.load().unwrap();
    drop(log);
    // Recovery moves the write-ahead file's content into tables.
    drop(open(dir.path()).unwrap());
    InTables { dir, groups }
}

#[test]
fn a_damaged_table_quarantines_the_groups_that_it_hits_or_is_refused() {
    let log = in_tables();
    let bytes = fs::metadata(file(log.dir.path(), "sst")).unwrap().len() as usize;
    assert!(bytes > 150_000);
    let (mut refused, mut unharmed, mut single) = (0, 0, 0);
    let tail = bytes - 3000;
    for at in (0..tail).step_by(2999).chain((tail..bytes).step_by(61)) {
        let dir = copy(log.dir.path());
        edit(&file(dir.path(), "sst"), |data| data[at] ^= 1 << (at % 8));
        let Ok(opened) = open(dir.path()) else {
            refused += 1;
            continue;
        };
        let found = opened.load().unwrap();
        assert_eq!(found.len(), log.groups.len(), "flip at {at}");
        let mut hit = 0;
        for (found, expected) in found.iter().zip(&log.groups) {
            if found.damage.is_some() {
                assert_eq!(found.record, expected.record);
                hit += 1;
            } else {
                assert_eq!(found, expected, "flip at {at}");
            }
        }
        match hit {
            0 => unharmed += 1,
            1 => single += 1,
            _ => {}
        }
    }
    assert!(single > 20, "single {single}, refused {refused}, unharmed {unharmed}");
}

#[test]
fn healthy_groups_go_on_beside_a_damaged_table() {
    let log = in_tables();
    edit(&file(log.dir.path(), "sst"), |data| data[80_000] ^= 1);
    let options = || RocksLogOptions { sync: false, write_buffer_bytes: 64 << 10 };
    for start in 0..2 {
        let opened = RocksLog::open(log.dir.path(), options()).unwrap();
        let groups = opened.load().unwrap();
        let hit: Vec<_> = groups.iter().map(|group| group.damage.is_some()).collect();
        assert_eq!(hit, [false, true, false]);
        // Enough for many tables, which must not be merged with the damaged one.
        for n in 0..100 {
            let append = entries(101 + start * 1000 + n * 10, &[1; 10], 500);
            let write = |group| GroupWrite {
                group: GroupId(group),
                append: append.clone(),
                ..GroupWrite::default()
            };
            opened
                .write(&[write(1), write(3)])
                .unwrap_or_else(|error| panic!("start {start}, write {n}: {error}"));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Changes one record behind the log's back and returns the start's view of the groups.
fn after(change: impl FnOnce(&DB)) -> Result<Vec<GroupLog>, LogError> {
    let log = small();
    let opened = open(log.dir.path()).unwrap();
    change(opened.db());
    drop(opened);
    open(log.dir.path()).map(|log| log.load().unwrap())
}

#[test]
fn a_record_that_does_not_fit_quarantines_its_group() {
    let entry = |index, term| LogEntry {
        index,
        term,
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"other"),
    };
    let put_entry = |db: &DB, place: u64, entry: &LogEntry| {
        let key = Key::Entry(GroupId(1), place).encode();
        db.put(key, Encoder::default().entry(&key, entry)).unwrap();
    };
    let flip = |db: &DB, key: codec::RawKey| {
        let mut value = db.get(key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put(key, value).unwrap();
    };
    type Change<'a> = Box<dyn FnOnce(&DB) + 'a>;
    let cases: Vec<(Change<'_>, &str)> = vec![
        (Box::new(|db| flip(db, Key::Entry(GroupId(1), 2).encode())), "entry 2: its checksum"),
        (Box::new(|db| db.delete(Key::Entry(GroupId(1), 1).encode()).unwrap()), "1 to 1 are miss"),
        (Box::new(|db| put_entry(db, 3, &entry(3, 7))), "entry 4 has term 1 after term 7"),
        (Box::new(|db| put_entry(db, 9, &entry(9, 1))), "entries 5 to 8 are missing"),
        (Box::new(|db| flip(db, Key::HardState(GroupId(1)).encode())), "the hard state: its check"),
        (
            Box::new(|db| {
                let key = Key::Truncated(GroupId(1)).encode();
                let position = crate::LogPosition { index: 2, term: 1 };
                db.put(key, Encoder::default().beginning(&key, &position, None)).unwrap();
            }),
            "entry 1 is below the log's start 3",
        ),
        (
            Box::new(|db| {
                let mut key = Key::Entry(GroupId(1), 1).encode();
                key[8] = 77;
                db.put(key, b"?").unwrap();
            }),
            "that is no record",
        ),
    ];
    for (change, text) in cases {
        let groups = after(change).unwrap();
        let damage = groups[0].damage.as_ref().unwrap();
        assert!(damage.contains(text), "{damage}");
        assert_eq!((groups[1].damage.as_ref(), groups[1].last_index), (None, 2), "{text}");
    }
}

#[test]
fn what_belongs_to_no_known_group_is_refused() {
    let error = after(|db| db.delete(Key::Directory(GroupId(2)).encode()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("records of group 2 but not the group"), "{error}");
    let error = after(|db| db.delete(Key::Directory(GroupId(1)).encode()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("records of group 1 but not the group"), "{error}");
    let key = Key::Directory(GroupId(2)).encode();
    let error = after(|db| db.put(key, b"bad").unwrap()).unwrap_err();
    assert!(error.to_string().contains("directory of groups is damaged"), "{error}");
}

#[test]
fn a_quarantined_group_ends_by_a_tombstone_and_begins_again() {
    let log = small();
    open(log.dir.path()).unwrap().lose_entry(GroupId(1), 2);
    ends_and_begins_again(|| open(log.dir.path()).unwrap());
}

#[test]
fn a_quarantined_group_takes_no_writes_and_gives_no_entries() {
    let log = small();
    let opened = open(log.dir.path()).unwrap();
    opened.lose_entry(GroupId(1), 2);
    drop(opened);
    let opened = open(log.dir.path()).unwrap();
    let error = opened.entries(GroupId(1), 1, 2, 100, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { group: GroupId(1), .. }), "{error}");
    let error = opened.write(&[append(1, 5, &[1])]).unwrap_err();
    assert!(error.reason.contains("quarantined"), "{error}");
}
