//! The KV state machine: 24 groups with one command of 100 puts each, as one batch.

use super::Case;
use crate::keys::spread_key;
use bytes::Bytes;
use flotilla_client::pb;
use flotilla_kvserver::kv::command::Command;
use flotilla_kvserver::kv::engine::{Engine, open_memory, open_rocks};
use flotilla_kvserver::kv::{Epoch, KvStateMachine, RegionMeta};
use flotilla_raftstore::{ApplyEntry, GroupApply, GroupId, LogPosition, StateMachine};
use prost::Message;
use std::sync::Arc;

const GROUPS: u64 = 24;
const PUTS: u64 = 100;
/// Distinct keys when time is measured: as in the throughput table.
const KEYS: u64 = 1_000_000;
/// And when instructions are counted: a miss of a processor's cache is not seen there anyway.
const FEW_KEYS: u64 = 20_000;
const EPOCH: Epoch = Epoch { version: 1, members: 1 };

/// First byte of a group's range.
fn start(group: u64) -> u8 {
    u8::try_from((group - 1) * 256 / GROUPS).expect("group counts from 1 to GROUPS")
}

fn region(group: u64) -> RegionMeta {
    let bound = |group| match group {
        1 => Bytes::new(),
        group if group > GROUPS => Bytes::new(),
        group => Bytes::copy_from_slice(&[start(group)]),
    };
    RegionMeta {
        region: group,
        group: GroupId(group),
        start: bound(group),
        end: bound(group + 1),
        epoch: EPOCH,
        replicas: Vec::new(),
    }
}

/// Keys of `spread:keys`, by group.
fn keys_by_group(keys: u64) -> Vec<Vec<Bytes>> {
    let mut groups = vec![Vec::new(); GROUPS as usize];
    for key in (0..keys).map(spread_key) {
        let group = (1..=GROUPS).rev().find(|group| key[0] >= start(*group));
        groups[group.expect("the first group starts at 0") as usize - 1].push(key);
    }
    groups
}

fn batch(keys: &[Vec<Bytes>], round: u64) -> Vec<GroupApply> {
    let value = Bytes::from_static(b"sixteen bytes...");
    let apply = |(number, keys): (usize, &Vec<Bytes>)| {
        let group = number as u64 + 1;
        // In no order that memory could foresee, as clients write.
        let mixed = |i: u64| (round * PUTS + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = |i: u64| keys[(mixed(i) % keys.len() as u64) as usize].clone();
        let put = |i| pb::Write { key: at(i), value: Some(value.clone()) };
        let writes = pb::WriteBatch { writes: (0..PUTS).map(put).collect() };
        let batch = Bytes::from(writes.encode_to_vec());
        let position = LogPosition { index: round, term: 1 };
        let command = Command { region: group, epoch: EPOCH, batch }.encode();
        let entries = vec![ApplyEntry { position, commands: vec![command], members: None }];
        GroupApply { answer: true, ..GroupApply::new(GroupId(group), entries, position) }
    };
    keys.iter().enumerate().map(apply).collect()
}

fn case(
    name: &str,
    keys: u64,
    open: impl FnOnce(&std::path::Path) -> Arc<dyn Engine>,
) -> Case<Vec<GroupApply>> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let engine = open(dir.path());
    let state_machine = KvStateMachine::new(engine).expect("an empty engine loads");
    for group in 1..=GROUPS {
        state_machine.create_region(&region(group)).expect("regions do not overlap");
    }
    let keys = keys_by_group(keys);
    let mut round = 0;
    Case::new(
        format!("apply/{name}"),
        GROUPS * PUTS,
        move || {
            round += 1;
            batch(&keys, round)
        },
        move |mut batch| {
            // Moved in: the folder goes when the engine does.
            let _ = &dir;
            state_machine.apply(&mut batch).expect("the engine writes");
        },
    )
}

fn open_in_memory(dir: &std::path::Path) -> Arc<dyn Engine> {
    open_memory(dir, 128 << 20).expect("an empty engine opens")
}

/// In memory below a table, few keys.
#[must_use]
pub fn memory() -> Case<Vec<GroupApply>> {
    case("memory", FEW_KEYS, open_in_memory)
}

/// In memory below a table, 1 M keys.
#[must_use]
pub fn memory_large() -> Case<Vec<GroupApply>> {
    case("memory, 1 M keys", KEYS, open_in_memory)
}

/// On RocksDB, 1 M keys, with a table of so many bytes before it.
#[must_use]
pub fn rocksdb(name: &str, table_bytes_max: usize) -> Case<Vec<GroupApply>> {
    case(&format!("{name}, 1 M keys"), KEYS, |dir| {
        open_rocks(dir, table_bytes_max).expect("an empty engine opens")
    })
}
