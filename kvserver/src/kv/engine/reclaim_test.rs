//! The room of deleted records: known from the files alone, given back, and left when the process ends.

use super::{Change, Column, Engine, GroupChanges, KeyRange, open_rocks};
use crate::kv::{Epoch, KvStateMachine, RegionMeta};
use bytes::Bytes;
use flotilla_raftstore::GroupId;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RECORDS: u32 = 400;
const VALUE_BYTES: usize = 8 << 10;
/// Without a table, and with one.
const TABLES: [usize; 2] = [0, 32 << 20];

fn region(group: u64) -> RegionMeta {
    let bound = |at: u64| Bytes::copy_from_slice(["", "b", ""][at as usize].as_bytes());
    RegionMeta {
        region: group,
        group: GroupId(group),
        start: bound(group - 1),
        end: bound(group),
        epoch: Epoch { version: 1, members: 1 },
        replicas: Vec::new(),
    }
}

fn key(group: u64, number: u32) -> Bytes {
    Bytes::from(format!("{}{number:05}", ["a", "b"][group as usize - 1]))
}

/// Nothing that a compression makes small.
fn value(group: u64, number: u32) -> Bytes {
    let mut value = vec![0; VALUE_BYTES];
    SmallRng::seed_from_u64(u64::from(number) << 8 | group).fill_bytes(&mut value);
    value.into()
}

fn open(dir: &Path, table: usize) -> (Arc<dyn Engine>, Arc<KvStateMachine>) {
    let engine = open_rocks(dir, table).unwrap();
    let machine = KvStateMachine::new(Arc::clone(&engine)).unwrap();
    (engine, machine)
}

fn write(engine: &dyn Engine, group: u64, value: impl Fn(u32) -> Option<Bytes>) {
    for number in 0..RECORDS {
        let value = value(number);
        let change = Change { column: Column::Data, key: key(group, number), value };
        engine.write(&[GroupChanges { group: GroupId(group), changes: vec![change] }]).unwrap();
    }
}

/// Two regions full of records, and those of region 2 deleted; in files after the next start, and in too few
/// for a compaction that nobody asked for.
fn with_deletes(dir: &Path, table: usize) {
    {
        let (engine, machine) = open(dir, table);
        machine.create_regions(&[region(1), region(2)]).unwrap();
        for group in [1, 2] {
            write(&*engine, group, |number| Some(value(group, number)));
        }
        engine.sync().unwrap();
    }
    let engine = open_rocks(dir, table).unwrap();
    write(&*engine, 2, |_| None);
    engine.sync().unwrap();
}

fn bytes_in(dir: &Path) -> u64 {
    let tables = fs::read_dir(dir).unwrap().flatten();
    let tables = tables.filter(|entry| entry.path().extension().is_some_and(|e| e == "sst"));
    tables.map(|entry| entry.metadata().unwrap().len()).sum()
}

fn ranges() -> Vec<KeyRange> {
    [region(1), region(2)].map(|region| (region.start, region.end)).into()
}

#[test]
fn a_start_knows_what_was_deleted_before_it_and_gives_the_room_back() {
    let far = Instant::now() + Duration::from_secs(1_000);
    for table in TABLES {
        let dir = tempfile::tempdir().unwrap();
        with_deletes(dir.path(), table);
        let (engine, machine) = open(dir.path(), table);
        let all = u64::from(RECORDS) * VALUE_BYTES as u64;
        assert!(bytes_in(dir.path()) > 2 * all, "table {table}: nothing is given back by itself");
        let found = engine.deleted(&ranges()).unwrap();
        assert!(found[1].deleted >= u64::from(RECORDS) / 2, "table {table}: {found:?}");
        assert!(found[1].records >= found[1].deleted, "table {table}: {found:?}");
        assert!(found[1].bytes > all / 4, "table {table}: {found:?}");

        // As often as anything is worth while: then nothing is left.
        while machine.reclaim(u64::MAX, far).unwrap() {}
        let left = bytes_in(dir.path());
        assert!(left < all + all / 4, "table {table}: {left} bytes of {all}");
        let found = engine.deleted(&ranges()).unwrap();
        assert!(found.iter().all(|range| range.deleted == 0), "table {table}: {found:?}");
        let view = engine.view(GroupId(1));
        assert_eq!(view.get(Column::Data, &key(1, 7)), Ok(Some(value(1, 7))));
        assert_eq!(engine.view(GroupId(2)).get(Column::Data, &key(2, 7)), Ok(None));
    }
}

#[test]
fn a_stop_leaves_it_to_the_next_start() {
    let far = Instant::now() + Duration::from_secs(1_000);
    for table in TABLES {
        let dir = tempfile::tempdir().unwrap();
        with_deletes(dir.path(), table);
        {
            let (engine, machine) = open(dir.path(), table);
            machine.close();
            assert_eq!(machine.reclaim(u64::MAX, far), Ok(false), "table {table}");
            assert!(engine.deleted(&ranges()).unwrap()[1].deleted > 0, "table {table}");
        }
        let (_, machine) = open(dir.path(), table);
        assert_eq!(machine.reclaim(u64::MAX, far), Ok(true), "table {table}");
    }
}
