//! Shards without threads, disks or network: what consensus itself costs.
//!
//! Three shards hold 24 groups of three voters. A *write* is one command of 2.4 KB in some groups,
//! carried through all three replicas until it is applied everywhere.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::message::{Applied, Persisted, ShardMessage};
use flotilla_raftstore::{
    Config, GroupDesc, GroupId, GroupRecord, LogStore, LogWriter, Nanos, OnceCompletion,
    ReplicaDesc, ReplicaId, ReplicaRole, Request, Round, Shard, ShardConfig, StoreId,
};
use std::hint::black_box;
use std::sync::Arc;

const GROUPS: u64 = 24;
const STORES: u64 = 3;
const TICK_NS: u64 = 100_000_000;

struct Store {
    shard: Shard,
    log: LogWriter,
    inbox: Vec<ShardMessage>,
}

/// Three stores in lockstep.
struct Trio {
    stores: Vec<Store>,
    now: u64,
}

fn record(group: u64, store: u64) -> GroupRecord {
    let member = |store| ReplicaDesc {
        replica: ReplicaId(group * 10 + store),
        store: StoreId(store),
        role: ReplicaRole::Voter,
    };
    let desc = GroupDesc { group: GroupId(group), replicas: (1..=STORES).map(member).collect() };
    GroupRecord { desc, replica: ReplicaId(group * 10 + store) }
}

impl Trio {
    /// All groups created and led.
    fn new() -> Self {
        let config = Arc::new(Config::default());
        let store = |number| {
            let log: Arc<dyn LogStore> = MemoryLog::new();
            let parts = ShardConfig {
                config: config.clone(),
                shard: 0,
                store: StoreId(number),
                seed: number,
                log: log.clone(),
            };
            let shard = Shard::new(parts, Vec::new()).expect("an empty shard starts");
            let create = |group| Request::CreateGroup {
                record: record(group, number),
                reply: OnceCompletion::reply(|outcome| assert!(outcome.is_ok(), "{outcome:?}")),
            };
            let inbox = vec![ShardMessage::Requests((1..=GROUPS).map(create).collect())];
            Store { shard, log: LogWriter::new(log), inbox }
        };
        let mut trio = Trio { stores: (1..=STORES).map(store).collect(), now: 0 };
        trio.settle();
        while (1..=GROUPS).any(|group| trio.leader(group).is_none()) {
            trio.tick();
            trio.settle();
        }
        trio
    }

    fn leader(&self, group: u64) -> Option<usize> {
        self.stores.iter().position(|store| {
            store.shard.views().iter().any(|view| view.record.desc.group.0 == group && view.leading)
        })
    }

    fn tick(&mut self) {
        self.now += TICK_NS;
        self.stores.iter_mut().for_each(|store| store.inbox.push(ShardMessage::Tick));
    }

    /// Rounds until no store has anything to do.
    fn settle(&mut self) {
        while self.stores.iter().any(|store| !store.inbox.is_empty()) {
            for at in 0..self.stores.len() {
                let inbox = std::mem::take(&mut self.stores[at].inbox);
                if !inbox.is_empty() {
                    let round = self.stores[at].shard.round(inbox, Nanos(self.now));
                    self.carry_out(at, round.expect("memory does not fail"));
                }
            }
        }
    }

    fn carry_out(&mut self, at: usize, round: Round) {
        let done = self.stores[at].log.run_once(round.log).expect("memory does not fail");
        let persisted: Vec<Persisted> = done.persisted.into_iter().flat_map(|(_, p)| p).collect();
        for reply in done.created {
            reply.send(Ok(flotilla_raftstore::Answer::Accepted));
        }
        let mut applied = Vec::new();
        for task in round.apply {
            let index = task.entries.last().map_or(0, |c| c.entry.position.index);
            applied.push(Applied { group: task.group, index, bytes: task.bytes });
            for reply in task.entries.into_iter().flat_map(|committed| committed.callers) {
                reply.send(Ok(flotilla_raftstore::Answer::Applied(Bytes::new())));
            }
        }
        let inbox = &mut self.stores[at].inbox;
        if !persisted.is_empty() {
            inbox.push(ShardMessage::Persisted(persisted));
        }
        if !applied.is_empty() {
            inbox.push(ShardMessage::Applied(applied));
        }
        for (to, envelopes) in round.sends.into_iter().chain(done.held) {
            let from = StoreId(at as u64 + 1);
            let to = &mut self.stores[to.0 as usize - 1].inbox;
            to.push(ShardMessage::Deliver { from, envelopes });
        }
    }

    /// One command in each of the first `groups` groups, until it is applied everywhere.
    fn write(&mut self, leaders: &[usize], groups: u64, command: &Bytes) {
        for group in 1..=groups {
            let propose = Request::Propose {
                group: GroupId(group),
                command: command.clone(),
                reply: OnceCompletion::reply(|outcome| assert!(outcome.is_ok(), "{outcome:?}")),
            };
            let inbox = &mut self.stores[leaders[group as usize - 1]].inbox;
            inbox.push(ShardMessage::Requests(vec![propose]));
        }
        self.settle();
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut trio = Trio::new();
    let leaders: Vec<usize> =
        (1..=GROUPS).map(|group| trio.leader(group).expect("every group is led")).collect();
    let command = Bytes::from(vec![7; 2400]);
    for groups in [1, GROUPS] {
        let name = format!("shard/write in {groups} of {GROUPS} groups, three replicas");
        criterion.bench_function(&name, |bencher| {
            bencher.iter(|| trio.write(&leaders, groups, &command));
        });
    }
    criterion.bench_function("shard/round with nothing to do", |bencher| {
        bencher.iter(|| black_box(trio.stores[0].shard.round(Vec::new(), Nanos(trio.now))));
    });
}

criterion_group!(benches, rounds);
criterion_main!(benches);
