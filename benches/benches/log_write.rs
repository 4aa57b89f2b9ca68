//! The log writer: one synced write for one group, and for 24 groups at once.

mod timed;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_benches::cases::Case;
use flotilla_raftstore::log::{self, LogEngine, LogOptions, MemoryLog};
use flotilla_raftstore::message::LogTask;
use flotilla_raftstore::{
    EntryKind, GroupDesc, GroupId, GroupRecord, GroupWrite, HardState, LogEntry, LogPosition,
    LogStore, LogWriter, ReplicaDesc, ReplicaId, ReplicaRole, StoreId,
};
use std::sync::Arc;
use timed::time;

/// Entries that stay in each group's log.
const KEPT: u64 = 500;

fn record(group: u64) -> GroupRecord {
    let one =
        ReplicaDesc { replica: ReplicaId(group), store: StoreId(1), role: ReplicaRole::Voter };
    let desc = GroupDesc::new(GroupId(group), vec![one]);
    GroupRecord::new(desc, ReplicaId(group))
}

fn task(group: u64, write: GroupWrite, ready: u64) -> LogTask {
    LogTask {
        shard: 0,
        replica: ReplicaId(group),
        write,
        ready,
        held: Vec::new(),
        created: Vec::new(),
    }
}

/// What a round's leader writes: one entry and its hard state for each group.
fn appends(groups: u64, index: u64, data: &Bytes) -> Vec<LogTask> {
    let write = |group| GroupWrite {
        group: GroupId(group),
        hard_state: Some(HardState { term: 1, vote: 1, commit: index - 1 }),
        append: vec![LogEntry { index, term: 1, kind: EntryKind::Normal, data: data.clone() }],
        truncate: (index.is_multiple_of(KEPT) && index > KEPT)
            .then(|| LogPosition { index: index - KEPT, term: 1 }),
        ..GroupWrite::default()
    };
    (1..=groups).map(|group| task(group, write(group), index)).collect()
}

fn bench(criterion: &mut Criterion, name: &str, log: &Arc<dyn LogStore>, groups: u64, size: usize) {
    let mut writer = LogWriter::new(log.clone());
    let create = |group| {
        let record = Some(record(group));
        task(group, GroupWrite { group: GroupId(group), record, ..GroupWrite::default() }, 0)
    };
    writer.run_once((1..=groups).map(create).collect()).expect("groups are created");
    let data = Bytes::from(vec![7; size]);
    let mut index = 0;
    let case = Case {
        name: format!("log/{name}, {groups} groups of {size} B"),
        operations: groups,
        input: Box::new(move || {
            index += 1;
            appends(groups, index, &data)
        }),
        run: Box::new(move |tasks| drop(writer.run_once(tasks).expect("the write is durable"))),
    };
    time(criterion, case);
}

fn log_writes(criterion: &mut Criterion) {
    for (groups, size) in [(1, 64), (24, 800), (24, 4000)] {
        for engine in LogEngine::ALL {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let (log, _) = log::open(dir.path(), Some(engine), LogOptions::default())
                .expect("an empty log opens");
            bench(criterion, engine.name(), &log, groups, size);
        }
        let log: Arc<dyn LogStore> = MemoryLog::new();
        bench(criterion, "memory", &log, groups, size);
    }
}

criterion_group! { name = benches; config = timed::criterion(); targets = log_writes }
criterion_main!(benches);
