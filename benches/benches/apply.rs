//! The KV state machine: 24 groups with one command of 100 puts each, as one batch.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_benches::keys::spread_key;
use flotilla_client::pb;
use flotilla_kvserver::kv::command::Command;
use flotilla_kvserver::kv::engine::{Engine, MemoryEngine, open_rocks};
use flotilla_kvserver::kv::{Epoch, KvStateMachine, RegionMeta};
use flotilla_raftstore::{ApplyEntry, GroupApply, GroupId, LogPosition, StateMachine};
use prost::Message;
use std::sync::Arc;

const GROUPS: u64 = 24;
const PUTS: u64 = 100;
const KEYS: u64 = 1_000_000;
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

/// Keys of `spread:KEYS`, by group.
fn keys_by_group() -> Vec<Vec<Bytes>> {
    let mut groups = vec![Vec::new(); GROUPS as usize];
    for key in (0..KEYS).map(spread_key) {
        let group = (1..=GROUPS).rev().find(|group| key[0] >= start(*group));
        groups[group.expect("the first group starts at 0") as usize - 1].push(key);
    }
    groups
}

fn batch(keys: &[Vec<Bytes>], round: u64) -> Vec<GroupApply> {
    let value = Bytes::from_static(b"sixteen bytes...");
    let apply = |(number, keys): (usize, &Vec<Bytes>)| {
        let group = number as u64 + 1;
        let at = |i: u64| keys[((round * PUTS + i) % keys.len() as u64) as usize].clone();
        let put = |i| pb::Write { key: at(i), value: Some(value.clone()) };
        let writes = pb::WriteBatch { writes: (0..PUTS).map(put).collect() };
        let batch = Bytes::from(writes.encode_to_vec());
        let position = LogPosition { index: round, term: 1 };
        let command = Command { region: group, epoch: EPOCH, batch }.encode();
        GroupApply {
            group: GroupId(group),
            entries: vec![ApplyEntry { position, commands: vec![command] }],
            commit: position,
            answer: true,
            answers: Vec::new(),
        }
    };
    keys.iter().enumerate().map(apply).collect()
}

fn bench(criterion: &mut Criterion, name: &str, engine: Arc<dyn Engine>, keys: &[Vec<Bytes>]) {
    let state_machine = KvStateMachine::new(engine).expect("an empty engine loads");
    for group in 1..=GROUPS {
        state_machine.create_region(&region(group)).expect("regions do not overlap");
    }
    let mut round = 0;
    let mut benches = criterion.benchmark_group("apply");
    benches.throughput(Throughput::Elements(GROUPS * PUTS));
    benches.bench_function(name, |bencher| {
        bencher.iter_batched(
            || {
                round += 1;
                batch(keys, round)
            },
            |mut batch| state_machine.apply(&mut batch).expect("the engine writes"),
            BatchSize::PerIteration,
        );
    });
    benches.finish();
}

fn applies(criterion: &mut Criterion) {
    let keys = keys_by_group();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let memory = MemoryEngine::open(&dir.path().join("memory")).expect("an empty engine opens");
    bench(criterion, "memory", Arc::new(memory), &keys);
    for (name, table_bytes_max) in [("rocksdb", 128 << 20), ("rocksdb, no table", 0)] {
        let rocks = open_rocks(&dir.path().join(name), table_bytes_max);
        bench(criterion, name, rocks.expect("an empty engine opens"), &keys);
    }
}

criterion_group!(benches, applies);
criterion_main!(benches);
