//! A flipped bit in a table of RocksDB costs one region, and what comes of it at the next start.

use super::*;
use crate::kv::engine::{Engine, open_rocks};
use crate::kv::{Epoch, KvStateMachine};
use flotilla_raftstore::StateMachine;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

const GROUPS: [u64; 3] = [1, 2, 3];
/// Several blocks a region.
const RECORDS: u32 = 300;
const APPLIED: u64 = 7;
/// Without a table, and with one.
const TABLES: [usize; 2] = [0, 1 << 20];

fn region(number: u64) -> RegionMeta {
    let bounds: [&[u8]; 4] = [b"", b"b", b"c", b""];
    let at = usize::try_from(number).unwrap();
    RegionMeta {
        region: number,
        group: GroupId(number),
        start: Bytes::copy_from_slice(bounds[at - 1]),
        end: Bytes::copy_from_slice(bounds[at]),
        epoch: Epoch { version: 1, members: 1 },
        replicas: Vec::new(),
    }
}

fn key(group: u64, number: u32) -> Bytes {
    let first = ["a", "b", "c"][usize::try_from(group).unwrap() - 1];
    Bytes::from(format!("{first}{number:05}"))
}

fn value(group: u64, number: u32) -> Bytes {
    Bytes::from(format!("{group}-{number:05}-").repeat(20))
}

fn fill(engine: &dyn Engine, group: u64) -> Result<(), Fatal> {
    let state = GroupState { applied: APPLIED, epoch: region(group).epoch, ..Default::default() };
    let state = Change {
        column: Column::System,
        key: keys::state(GroupId(group)),
        value: Some(state.encode()),
    };
    let record = |number| Change {
        column: Column::Data,
        key: key(group, number),
        value: Some(value(group, number)),
    };
    let changes = (0..RECORDS).map(record).chain([state]).collect();
    engine.write(&[GroupChanges { group: GroupId(group), changes }])
}

/// How many records the region has, all of them as written.
fn read(engine: &dyn Engine, group: u64) -> Result<usize, Fatal> {
    let RegionMeta { start, end, .. } = region(group);
    let view = engine.view(GroupId(group));
    let (found, more) = view.scan(Column::Data, &start, &end, usize::MAX, usize::MAX)?;
    assert!(!more);
    for (number, (found_key, found_value)) in (0..).zip(&found) {
        assert_eq!((found_key, found_value), (&key(group, number), &value(group, number)));
    }
    Ok(found.len())
}

/// All records in files, and a bit of region 2 flipped.
fn damaged(dir: &Path, table: usize) -> PathBuf {
    damaged_at(dir, table, 2, RECORDS / 2)
}

/// The same with a record of any region.
fn damaged_at(dir: &Path, table: usize, group: u64, number: u32) -> PathBuf {
    let path = dir.join(format!("data-{table}-{group}"));
    {
        let engine = open_rocks(&path, table).unwrap();
        let machine = KvStateMachine::new(Arc::clone(&engine)).unwrap();
        machine.create_regions(&GROUPS.map(region)).unwrap();
        GROUPS.iter().for_each(|group| fill(&*engine, *group).unwrap());
        engine.sync().unwrap();
    }
    // What was in the log is in a file from now on.
    drop(open_rocks(&path, table).unwrap());
    let mark = &value(group, number)[..40];
    let mut flipped = 0;
    for entry in fs::read_dir(&path).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        let at = bytes.windows(mark.len()).position(|part| part == mark);
        if let Some(at) = at.filter(|_| entry.path().extension().is_some_and(|e| e == "sst")) {
            bytes[at + 3] ^= 8;
            fs::write(entry.path(), bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    path
}

#[test]
fn a_damaged_block_costs_one_region_which_can_come_anew() {
    // In the middle, and at the very beginning of all keys.
    for (table, (bad, number)) in
        TABLES.into_iter().flat_map(|table| [(2, RECORDS / 2), (1, 0)].map(|at| (table, at)))
    {
        // A compaction that comes first ends the store instead: the next test.
        let done = (0..10).any(|_| {
            let dir = tempfile::tempdir().unwrap();
            let path = damaged_at(dir.path(), table, bad, number);
            match comes_anew(&path, table, bad) {
                Ok(()) => true,
                Err(fatal) => {
                    assert!(fatal.reason.contains("a compaction has met damaged"), "{fatal}");
                    false
                }
            }
        });
        assert!(done, "table {table}, region {bad}");
    }
}

fn comes_anew(path: &Path, table: usize, bad: u64) -> Result<(), Fatal> {
    let all = usize::try_from(RECORDS).unwrap();
    let others = GROUPS.into_iter().filter(|group| *group != bad);
    {
        let engine = open_rocks(path, table).unwrap();
        let machine = KvStateMachine::new(Arc::clone(&engine)).unwrap();
        assert_eq!(RocksEngine::damage(path), None);
        let error = read(&*engine, bad).unwrap_err();
        assert!(error.damage && error.reason.contains("checksum"), "{error}");
        others.for_each(|group| assert_eq!(read(&*engine, group), Ok(all)));
        assert!(RocksEngine::damage(path).unwrap().contains("checksum"));
        let error = machine.snapshot_save(GroupId(bad), &mut Vec::new()).unwrap_err();
        assert!(error.damage, "{error}");

        machine.destroy(GroupId(bad))?;
        assert_eq!(read(&*engine, bad), Ok(0));
        machine.create_region(&region(bad))?;
        fill(&*engine, bad)?;
        engine.sync()?;
        for group in GROUPS {
            assert_eq!(read(&*engine, group), Ok(all), "group {group}");
            let found = engine.view(GroupId(group)).get(Column::Data, &key(group, 150));
            assert_eq!(found, Ok(Some(value(group, 150))));
        }
    }
    // Nothing is missing, so nothing is left out, and the damaged file is gone.
    assert_eq!(salvage(path).unwrap(), []);
    assert_eq!(RocksEngine::damage(path), None);
    let engine = open_rocks(path, table).unwrap();
    engine.reclaim(b"", b"")?;
    GROUPS.iter().for_each(|group| assert_eq!(read(&*engine, *group), Ok(all)));
    Ok(())
}

#[test]
fn a_start_leaves_out_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for table in TABLES {
        let path = damaged(dir.path(), table);
        let all = usize::try_from(RECORDS).unwrap();
        assert_eq!(salvage(&path).unwrap(), [], "nobody has met it yet");
        assert!(read(&*open_rocks(&path, table).unwrap(), 2).is_err());
        // An earlier attempt was cut off.
        {
            let options = rocksdb::Options::default();
            let families = rocksdb::DB::list_cf(&options, &path).unwrap();
            let mut db = rocksdb::DB::open_cf(&options, &path, families).unwrap();
            db.create_cf("data1", &options).unwrap();
            db.put_cf(db.cf_handle("data1").unwrap(), b"a00000", b"half a copy").unwrap();
        }
        assert_eq!(salvage(&path).unwrap(), [GroupId(2)]);
        assert_eq!(RocksEngine::damage(&path), None);
        for again in 0..2 {
            let engine = open_rocks(&path, table).unwrap();
            let machine = KvStateMachine::new(Arc::clone(&engine)).unwrap();
            let applied = GROUPS.map(|group| machine.recovered(GroupId(group)).applied);
            assert_eq!(applied, [APPLIED, 0, APPLIED]);
            assert_eq!(GROUPS.map(|group| read(&*engine, group)), [Ok(all), Ok(0), Ok(all)]);
            engine.reclaim(b"", b"").unwrap();
            assert_eq!(salvage(&path).unwrap(), [], "start {again}");
        }
        // A second time, from the new family into the next.
        fs::write(path.join("DAMAGED"), "found again").unwrap();
        assert_eq!(salvage(&path).unwrap(), []);
        let engine = open_rocks(&path, table).unwrap();
        assert_eq!(GROUPS.map(|group| read(&*engine, group)), [Ok(all), Ok(0), Ok(all)]);
    }
}

/// Whose it is, is not known then: the store ends, and its next start finds out.
#[test]
fn a_compaction_that_meets_damage_ends_all_writes_with_a_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    for table in TABLES {
        let path = damaged(dir.path(), table);
        // A second file of the same region, so that they are merged.
        {
            let engine = open_rocks(&path, table).unwrap();
            fill(&*engine, 2).unwrap();
            engine.sync().unwrap();
        }
        let engine = open_rocks(&path, table).unwrap();
        engine.reclaim(b"", b"").unwrap();
        let changes = vec![Change { column: Column::Data, key: key(1, 0), value: None }];
        let group = GroupId(1);
        let written = engine.write(&[GroupChanges { group, changes }]);
        let error = written.and_then(|()| engine.sync()).unwrap_err();
        assert!(!error.damage, "it is nobody's alone");
        for word in ["a compaction has met damaged records", "the next start leaves out"] {
            assert!(error.reason.contains(word), "{word}: {error}");
        }
        drop(engine);
        assert_eq!(salvage(&path).unwrap(), [GroupId(2)]);
        let engine = open_rocks(&path, table).unwrap();
        fill(&*engine, 2).unwrap();
        engine.sync().unwrap();
        engine.reclaim(b"", b"").unwrap();
        let all = usize::try_from(RECORDS).unwrap();
        GROUPS.iter().for_each(|group| assert_eq!(read(&*engine, *group), Ok(all)));
    }
}

#[test]
fn damage_that_is_in_no_region_stops_the_start_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = damaged(dir.path(), 0);
    fs::write(path.join("DAMAGED"), "found").unwrap();
    for entry in fs::read_dir(&path).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            let mut bytes = fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 8;
            fs::write(entry.path(), bytes).unwrap();
        }
    }
    let error = salvage(&path).unwrap_err().to_string();
    assert!(error.contains("beyond single regions") && error.contains("kv admin group"), "{error}");
    assert!(RocksEngine::damage(&path).is_some(), "nothing was changed");
}

#[test]
fn without_room_nothing_is_changed_and_what_is_missing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(room_for(dir.path(), 0).is_ok());
    let error = room_for(dir.path(), u64::MAX / 2).unwrap_err();
    assert!(matches!(error, OpenError::NoRoom { .. }), "{error:?}");
    let text = error.to_string();
    for word in ["MiB are free", "needs 8796093022208 MiB", "make room"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // What it needs is what can be read.
    let path = damaged(dir.path(), 0);
    let engine = RocksEngine::open(&path).unwrap();
    let found = look(&engine).unwrap();
    let record = (key(1, 0).len() + value(1, 0).len()) as u64;
    assert_eq!(found.bytes, 2 * u64::from(RECORDS) * record);
    assert_eq!((found.whole.len(), found.lost.len()), (2, 1));
    // Two of three regions' files, whose records are about as long as they are on the disk.
    let files = engine.file_bytes(&found.whole).unwrap();
    assert!(files > found.bytes / 4 && files < found.bytes * 2, "{files}: {}", found.bytes);
}

/// What compression saves is not asked for, nor what was overwritten.
#[test]
fn a_copy_needs_what_the_files_take_or_the_records_whichever_is_less() {
    const GIB: u64 = 1 << 30;
    let needs = |bytes, files| Found { whole: Vec::new(), bytes, lost: Vec::new() }.needs(files);
    assert_eq!(needs(80 * GIB, 20 * GIB), 20 * GIB + GIB / 2);
    assert_eq!(needs(80 * GIB, 200 * GIB), 90 * GIB);
    assert_eq!(needs(GIB / 8, GIB / 16), GIB / 8 + GIB / 64);
}
