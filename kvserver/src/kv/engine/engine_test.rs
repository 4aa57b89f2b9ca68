//! What every engine must do, on each of them; and what their folders must survive.

use super::*;
use crate::kv::keys;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GROUP: GroupId = GroupId(7);

fn each(test: impl Fn(&dyn Engine)) {
    let dir = tempfile::tempdir().unwrap();
    test(&RocksEngine::open(&dir.path().join("rocks")).unwrap());
    // With a checkpoint now and then, for nearly every write, and by the table's own thread.
    for bytes_max in [1 << 20, 200, 10_000] {
        let engine = open_table(&dir.path().join(format!("table-{bytes_max}")), bytes_max);
        test(&engine.with_flusher().unwrap());
        let dir = dir.path().join(format!("memory-{bytes_max}"));
        test(&*open_memory(&dir, bytes_max).unwrap());
    }
}

/// A checkpoint is made by `sync` only.
fn open_memory_large(dir: &Path) -> Result<Arc<dyn Engine>, OpenError> {
    open_memory(dir, 1 << 20)
}

/// Every checkpoint is a file, however small.
fn open_table(dir: &Path, bytes_max: usize) -> TableEngine {
    open_table_logged(dir, bytes_max, 0)
}

/// Checkpoints of up to `logged_bytes_max` go through RocksDB's log.
pub(super) fn open_table_logged(
    dir: &Path,
    bytes_max: usize,
    logged_bytes_max: usize,
) -> TableEngine {
    let mut base = RocksBase::open(dir).unwrap();
    base.logged_bytes_max = logged_bytes_max;
    TableEngine::new(Box::new(base), bytes_max)
}

fn change(column: Column, key: &[u8], value: Option<&[u8]>) -> Change {
    let copy = Bytes::copy_from_slice;
    Change { column, key: copy(key), value: value.map(copy) }
}

fn put(key: &[u8], value: &[u8]) -> Change {
    change(Column::Data, key, Some(value))
}

fn write(engine: &dyn Engine, group: GroupId, changes: Vec<Change>) {
    engine.write(&[GroupChanges { group, changes }]).unwrap();
}

fn get(engine: &dyn Engine, key: &[u8]) -> Option<Bytes> {
    engine.view(GROUP).get(Column::Data, key).unwrap()
}

#[test]
fn the_last_change_of_a_key_wins() {
    each(|engine| {
        let delete = change(Column::Data, b"a", None);
        write(engine, GROUP, vec![put(b"a", b"1"), delete.clone(), put(b"a", b"2")]);
        write(engine, GROUP, vec![put(b"b", b""), delete.clone(), put(b"a", b"three")]);
        assert_eq!(get(engine, b"a").unwrap(), "three");
        assert_eq!(get(engine, b"b").unwrap(), "");
        write(engine, GROUP, vec![delete.clone(), delete]);
        assert_eq!(get(engine, b"a"), None);
    });
}

#[test]
fn columns_are_apart_and_groups_are_listed() {
    each(|engine| {
        assert_eq!(engine.groups().unwrap(), vec![]);
        for group in [GroupId(300), GroupId(44), GroupId(u64::MAX), GroupId(1)] {
            let (state, meta) = (keys::state(group), keys::meta(group));
            let system = |key: &[u8]| change(Column::System, key, Some(b"x"));
            write(engine, group, vec![system(&state), system(&meta)]);
            let view = engine.view(group);
            assert_eq!(view.get(Column::System, &state).unwrap().unwrap(), "x");
            assert_eq!(view.get(Column::Data, &state).unwrap(), None);
        }
        let groups = [1, 44, 300, u64::MAX].map(GroupId);
        assert_eq!(engine.groups().unwrap(), groups);
    });
}

#[test]
fn scans_keep_their_limits() {
    each(|engine| {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            (0..2_000_u32).map(|n| (n.to_be_bytes().to_vec(), vec![b'v'; 6])).collect();
        write(engine, GROUP, pairs.iter().map(|(key, value)| put(key, value)).collect());
        let scan = |start: u32, end: &[u8], limit, bytes_max| {
            let view = engine.view(GROUP);
            let start = start.to_be_bytes();
            let (page, more) = view.scan(Column::Data, &start, end, limit, bytes_max).unwrap();
            let found: Vec<u32> = page
                .iter()
                .map(|(key, _)| u32::from_be_bytes(key[..].try_into().unwrap()))
                .collect();
            (found, more)
        };
        let end = 1_500_u32.to_be_bytes();
        assert_eq!(scan(0, b"", 9_999, usize::MAX), ((0..2_000).collect(), false));
        assert_eq!(scan(700, &end, 9_999, usize::MAX), ((700..1_500).collect(), false));
        assert_eq!(scan(700, &end, 3, usize::MAX), (vec![700, 701, 702], true));
        assert_eq!(scan(1_498, &end, 2, usize::MAX), (vec![1_498, 1_499], false));
        // A record has 10 bytes.
        assert_eq!(scan(0, b"", 9_999, 19), (vec![0], true));
        assert_eq!(scan(0, b"", 9_999, 20), (vec![0, 1], true));
        assert_eq!(scan(0, b"", 9_999, 1), (vec![0], true), "at least one");
        assert_eq!(scan(1_500, &end, 5, 100), (vec![], false));
    });
}

#[test]
fn a_view_never_sees_half_a_write() {
    each(|engine| {
        let done = AtomicBool::new(false);
        let write_pair = |n: u64| {
            let value = n.to_be_bytes();
            let other = change(Column::System, &keys::state(GROUP), Some(&value));
            write(engine, GROUP, vec![put(b"first", &value), put(b"second", &value), other]);
        };
        write_pair(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(2);
                (1..3_000).take_while(|_| Instant::now() < until).for_each(write_pair);
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let view = engine.view(GROUP);
                let first = view.get(Column::Data, b"first").unwrap();
                let (page, _) = view.scan(Column::Data, b"second", b"", 1, 100).unwrap();
                let state = view.get(Column::System, &keys::state(GROUP)).unwrap();
                assert_eq!(first.as_ref(), Some(&page[0].1));
                assert_eq!(first, state);
            }
        });
    });
}

#[test]
fn memory_recovers_the_last_dump_and_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    let state = |n: u8| change(Column::System, &keys::state(GROUP), Some(&[n]));
    for n in 0..2_000_u32 {
        write(&*engine, GROUP, vec![put(&n.to_be_bytes(), b"old"), state(1)]);
    }
    write(&*engine, GroupId(8), vec![put(b"other", b"value")]);
    engine.sync().unwrap();
    write(&*engine, GROUP, vec![put(&0_u32.to_be_bytes(), b"new"), state(2)]);
    drop(engine);

    // What a kill in the middle of a dump leaves.
    std::fs::write(dir.path().join("group-7.tmp"), b"half a du").unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    assert!(!dir.path().join("group-7.tmp").exists());
    assert_eq!(get(&*engine, &0_u32.to_be_bytes()).unwrap(), "old");
    let view = engine.view(GROUP);
    assert_eq!(view.get(Column::System, &keys::state(GROUP)).unwrap().unwrap(), &[1][..]);
    assert_eq!(view.scan(Column::Data, b"", b"", 9_999, 1 << 20).unwrap().0.len(), 2_000);
    let other = engine.view(GroupId(8)).get(Column::Data, b"other").unwrap();
    assert_eq!(other.unwrap(), "value");
}

#[test]
fn memory_dumps_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    write(&*engine, GROUP, vec![put(b"a", b"1")]);
    write(&*engine, GroupId(8), vec![put(b"b", b"1")]);
    engine.sync().unwrap();
    std::fs::remove_file(dir.path().join("group-7.dump")).unwrap();
    write(&*engine, GroupId(8), vec![put(b"b", b"2")]);
    engine.sync().unwrap();
    assert!(!dir.path().join("group-7.dump").exists());
    assert!(dir.path().join("group-8.dump").exists());
}

#[test]
fn memory_ends_at_the_first_failed_dump_and_loses_nothing_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    for (value, works) in [(b"1", true), (b"2", false)] {
        for group in [GROUP, GroupId(8), GroupId(9)] {
            write(&*engine, group, vec![put(b"key", value)]);
        }
        if !works {
            // In the way of the second group's file.
            std::fs::create_dir(dir.path().join("group-8.tmp")).unwrap();
        }
        assert_eq!(engine.sync().is_ok(), works);
    }
    let error = engine.sync().err().unwrap().to_string();
    assert!(error.contains("dump group 8"), "{error}");
    assert!(engine.write(&[]).is_err());
    let value = |engine: &dyn Engine, group| {
        engine.view(GroupId(group)).get(Column::Data, b"key").unwrap().unwrap()
    };
    assert_eq!([7, 8, 9].map(|group| value(&*engine, group)), ["2", "2", "2"]);
    drop(engine);
    std::fs::remove_dir(dir.path().join("group-8.tmp")).unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    assert_eq!([7, 8, 9].map(|group| value(&*engine, group)), ["2", "1", "1"]);
}

#[test]
fn a_damaged_dump_is_an_error_wherever_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    write(&*engine, GROUP, vec![put(b"key", b"value")]);
    engine.sync().unwrap();
    drop(engine);
    let path = dir.path().join("group-7.dump");
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        let error = open_memory_large(dir.path()).err().expect("damage is found").to_string();
        assert!(error.contains("group-7.dump"), "{error}");
        std::fs::write(&path, &good[..at]).unwrap();
        let error = open_memory_large(dir.path()).err().expect("a cut is found").to_string();
        assert!(error.contains("damaged") && error.contains("keep this store's folder"), "{error}");
    }
    std::fs::write(&path, &good).unwrap();
    open_memory_large(dir.path()).unwrap();
    std::fs::rename(&path, dir.path().join("group-9.dump")).unwrap();
    assert!(open_memory_large(dir.path()).is_err(), "a dump in another's place");
}

#[test]
fn a_newer_dump_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_memory_large(dir.path()).unwrap();
    write(&*engine, GROUP, vec![put(b"key", b"value")]);
    engine.sync().unwrap();
    drop(engine);
    let path = dir.path().join("group-7.dump");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, bytes).unwrap();
    let error = open_memory_large(dir.path()).err().unwrap();
    assert!(matches!(&error, OpenError::NewerFormat { found, .. } if found == "2"), "{error}");
}

#[test]
fn a_second_open_is_told_that_the_folder_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _memory = open_memory_large(dir.path()).unwrap();
    let error = open_memory_large(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let _rocks = RocksEngine::open(dir.path()).unwrap();
    let error = RocksEngine::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

/// Copies a database's files as they are at one moment: again when a compaction in the background
/// changed them meanwhile.
pub(super) fn copy(from: &Path, to: &Path) {
    let sizes = || -> BTreeMap<_, _> {
        let files = std::fs::read_dir(from).unwrap().map(|file| file.unwrap());
        files.map(|file| (file.file_name(), file.metadata().map_or(0, |m| m.len()))).collect()
    };
    for _ in 0..100 {
        std::fs::create_dir_all(to).unwrap();
        let before = sizes();
        let copied =
            before.keys().all(|name| std::fs::copy(from.join(name), to.join(name)).is_ok());
        if copied && sizes() == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} never stands still", from.display());
}

pub(super) fn write_ahead_log(dir: &Path) -> PathBuf {
    let logs = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap()
}

#[test]
fn rocks_recovers_a_prefix_with_its_state_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let engine = RocksEngine::open(&live).unwrap();
    for n in 0..200_u64 {
        let state = change(Column::System, &keys::state(GROUP), Some(&n.to_be_bytes()));
        write(&engine, GROUP, vec![put(&n.to_be_bytes(), b"value"), state]);
        if n == 99 {
            engine.sync().unwrap();
        }
    }
    for cut in [0, 1, 500, 1_000] {
        copy(&live, &crashed);
        let log = write_ahead_log(&crashed);
        let bytes = std::fs::read(&log).unwrap();
        std::fs::write(&log, &bytes[..bytes.len() - cut]).unwrap();

        let recovered = RocksEngine::open(&crashed).unwrap();
        let view = recovered.view(GROUP);
        let state = view.get(Column::System, &keys::state(GROUP)).unwrap().unwrap();
        let last = u64::from_be_bytes(state[..].try_into().unwrap());
        let (page, _) = view.scan(Column::Data, b"", b"", 999, 1 << 20).unwrap();
        assert_eq!(page.len() as u64, last + 1, "data and state of one moment");
        assert!(last >= 150 && (cut > 0 || last == 199), "cut {cut}: {last}");
        drop((view, page));
        drop(recovered);
        std::fs::remove_dir_all(&crashed).unwrap();
    }
}

/// Number `n` of a group: the same number in every key and in its state.
pub(super) fn write_numbers(engine: &dyn Engine, group: GroupId, n: u64) {
    write(engine, group, numbers(group, n));
}

pub(super) fn numbers(group: GroupId, n: u64) -> Vec<Change> {
    let state = change(Column::System, &keys::state(group), Some(&n.to_be_bytes()));
    // Checkpoints of even numbers are large.
    let size = if n.is_multiple_of(2) { 10_000 } else { 1 };
    let meta = change(Column::System, &keys::meta(group), Some(&vec![n as u8; size]));
    let mut changes = vec![state, meta];
    for key in 0..40_u8 {
        let key = [group.0.to_be_bytes()[7], key];
        // Every third is deleted and comes again.
        let there = !(n + u64::from(key[1])).is_multiple_of(3);
        changes.push(change(Column::Data, &key, there.then_some(&n.to_be_bytes())));
    }
    changes
}

/// The number that a group is at, whole.
pub(super) fn read_number(engine: &dyn Engine, group: GroupId) -> u64 {
    let view = engine.view(group);
    let state = view.get(Column::System, &keys::state(group)).unwrap().unwrap();
    let n = u64::from_be_bytes(state[..].try_into().unwrap());
    let meta = view.get(Column::System, &keys::meta(group)).unwrap().unwrap();
    assert_eq!(meta[0], n as u8);
    let first = group.0.to_be_bytes()[7];
    let (found, _) = view.scan(Column::Data, &[first], &[first + 1], 99, 1 << 20).unwrap();
    let there = |key: &u8| !(n + u64::from(*key)).is_multiple_of(3);
    let expected = (0..40_u8).filter(there).map(|key| (vec![first, key], n.to_be_bytes()));
    let found = found.iter().map(|(key, value)| (key.to_vec(), value[..].try_into().unwrap()));
    assert!(found.eq(expected), "group {group} is not whole at {n}");
    n
}

/// A copy of the database at every point where a process or a machine can stop.
#[test]
fn a_table_over_rocks_recovers_its_last_checkpoint_whenever_it_stops() {
    // All in files, all through the log, and one after the other.
    for logged_bytes_max in [0, usize::MAX, 20_000] {
        stop_everywhere(logged_bytes_max);
    }
}

fn stop_everywhere(logged_bytes_max: usize) {
    let open = |dir: &Path| open_table_logged(dir, 1 << 20, logged_bytes_max);
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let groups = [1, 2, 9].map(GroupId);
    let engine = open(&live);
    let stopped = |name: &str, expected: u64, harm: &dyn Fn(&Path)| {
        let crashed = dir.path().join(name);
        copy(&live, &crashed);
        harm(&crashed);
        // Again after the first recovery, and with a checkpoint made there.
        for n in [expected, expected, expected + 1_000] {
            let recovered = open(&crashed);
            assert_eq!(recovered.groups().unwrap(), groups, "{name}");
            if n > expected {
                groups.iter().for_each(|group| write_numbers(&recovered, *group, n));
                recovered.sync().unwrap();
            }
            for group in groups {
                assert_eq!(read_number(&recovered, group), n, "{name}");
            }
        }
        // Without a table it is the same database.
        let direct = RocksEngine::open(&crashed).unwrap();
        assert_eq!(direct.groups().unwrap(), groups);
        for group in groups {
            assert_eq!(read_number(&direct, group), expected + 1_000, "{name} without a table");
        }
    };
    let file = |dir: &Path| dir.join("next.checkpoint");
    let newest = |dir: &Path| {
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "sst")).max()
    };
    for n in 1..=20 {
        groups.iter().for_each(|group| write_numbers(&engine, *group, n));
        engine.sync().unwrap();
        groups.iter().for_each(|group| write_numbers(&engine, *group, n + 1));
        assert_eq!(read_number(&engine, groups[1]), n + 1, "the table hides the checkpoint");
        if n % 5 != 0 {
            continue;
        }
        stopped("before-the-seal", n, &|_| {});
        stopped("in-the-file", n, &|dir| std::fs::write(file(dir), b"half a ch").unwrap());
        stopped("with-the-file-linked", n, &|dir| {
            // Taken into the folder under a number, not yet into the list of files.
            if let Some(newest) = newest(dir) {
                std::fs::copy(newest, dir.join("987654.sst")).unwrap();
            }
        });
        stopped("before-the-name-is-gone", n, &|dir| {
            // Part of the database, and still there under its first name.
            if let Some(newest) = newest(dir) {
                std::fs::hard_link(newest, file(dir)).unwrap();
            }
        });
        for name in std::fs::read_dir(dir.path()).unwrap() {
            let path = name.unwrap().path();
            if path != live {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }
}

#[test]
fn a_database_is_used_with_and_without_a_table_in_turns() {
    let dir = tempfile::tempdir().unwrap();
    let groups = [1, 2].map(GroupId);
    for n in 1..=9_u64 {
        let engine: Box<dyn Engine> = match n % 3 {
            0 => Box::new(RocksEngine::open(dir.path()).unwrap()),
            part => Box::new(open_table_logged(dir.path(), 1 << 20, part as usize * 10_000)),
        };
        for group in groups {
            if n > 1 {
                assert_eq!(read_number(&*engine, group), n - 1);
            }
            write_numbers(&*engine, group, n);
        }
        engine.sync().unwrap();
        let (all, _) = engine.view(groups[0]).scan(Column::Data, b"", b"", 999, 1 << 20).unwrap();
        assert!(all.iter().all(|(key, _)| !key.is_empty()), "the checkpoint's own record is seen");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_fences_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_table(dir.path(), 1 << 20);
    write_numbers(&engine, GROUP, 1);
    engine.sync().unwrap();
    write_numbers(&engine, GROUP, 2);
    // A folder in the place of its file.
    std::fs::create_dir(dir.path().join("next.checkpoint")).unwrap();
    let error = engine.sync().unwrap_err().to_string();
    assert!(error.contains("next.checkpoint"), "{error}");
    std::fs::remove_dir(dir.path().join("next.checkpoint")).unwrap();
    assert!(engine.sync().is_err(), "the log must never be cut again");
    assert!(engine.write(&[GroupChanges { group: GROUP, changes: vec![] }]).is_err());
    assert_eq!(read_number(&engine, GROUP), 2, "reads go on");
    drop(engine);
    assert_eq!(read_number(&open_table(dir.path(), 1 << 20), GROUP), 1);
}

#[test]
fn keys_of_two_groups_that_overlap_are_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_table(dir.path(), 1 << 20);
    write(&engine, GroupId(1), vec![put(b"a", b"1"), put(b"c", b"1")]);
    write(&engine, GroupId(2), vec![put(b"b", b"2")]);
    let error = engine.sync().unwrap_err().to_string();
    assert!(error.contains("groups 1 and 2 overlap"), "{error}");
}

#[test]
fn rocks_names_a_newer_format_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(RocksEngine::open(dir.path()).unwrap());
    {
        let mut options = rocksdb::Options::default();
        options.create_missing_column_families(true);
        let families = ["default", "data", "system", "leases"];
        let db = rocksdb::DB::open_cf(&options, dir.path(), families).unwrap();
        db.put(b"format", b"4").unwrap();
    }
    let error = RocksEngine::open(dir.path()).err().unwrap();
    assert!(matches!(&error, OpenError::NewerFormat { found, .. } if found == "4"), "{error}");

    std::fs::write(dir.path().join("CURRENT"), b"MANIFEST-999999\n").unwrap();
    let error = RocksEngine::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for error in [
        RocksEngine::open(&file.join("data")).err().unwrap(),
        open_memory_large(&file.join("data")).err().unwrap(),
    ] {
        assert!(error.to_string().contains("file/data"), "{error}");
    }
}
