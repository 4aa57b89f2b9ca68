//! Shards without threads, disks or network: what consensus itself costs.
//!
//! Three shards hold groups of three voters; what they send reaches the others at once.

use super::Case;
use bytes::Bytes;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::message::{Applied, Persisted, ShardMessage};
use flotilla_raftstore::{
    Config, GroupDesc, GroupId, GroupRecord, LogStore, LogWriter, Nanos, OnceCompletion, ReadMode,
    ReplicaDesc, ReplicaId, ReplicaRole, Reply, Request, Round, Shard, ShardConfig, StoreId,
};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

const COMMAND_BYTES: usize = 2_400;
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
    /// By group, from 1: which store leads it.
    leaders: Vec<usize>,
}

fn record(group: u64, store: u64) -> GroupRecord {
    let member = |store| ReplicaDesc {
        replica: ReplicaId(group * 10 + store),
        store: StoreId(store),
        role: ReplicaRole::Voter,
    };
    let desc = GroupDesc::new(GroupId(group), (1..=STORES).map(member).collect());
    GroupRecord::new(desc, ReplicaId(group * 10 + store))
}

impl Trio {
    /// All `groups` created and led.
    fn new(groups: u64) -> Self {
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
            let create =
                |group| Request::CreateGroup { record: record(group, number), reply: reply() };
            let inbox = vec![ShardMessage::Requests((1..=groups).map(create).collect())];
            Store { shard, log: LogWriter::new(log), inbox }
        };
        let stores = (1..=STORES).map(store).collect();
        let mut trio = Trio { stores, now: 0, leaders: Vec::new() };
        trio.settle();
        while trio.leaders.len() < groups as usize {
            trio.tick();
            trio.settle();
            trio.leaders = trio.find_leaders(groups);
        }
        trio
    }

    /// Which store leads each group, as far as every one is led.
    fn find_leaders(&self, groups: u64) -> Vec<usize> {
        let mut leaders = BTreeMap::new();
        for (at, store) in self.stores.iter().enumerate() {
            let views = store.shard.views();
            leaders.extend(views.iter().filter(|v| v.leading).map(|v| (v.record.desc.group.0, at)));
        }
        (1..=groups).map_while(|group| leaders.get(&group).copied()).collect()
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
            applied.push(Applied {
                group: task.group,
                replica: task.replica,
                index,
                bytes: task.bytes,
                destroyed: false,
                failure: None,
            });
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

    /// Submits `make`'s requests to the leaders of the first `groups` groups, and settles.
    fn submit(&mut self, groups: u64, make: impl Fn(GroupId) -> Vec<Request>) {
        for group in 1..=groups {
            let inbox = &mut self.stores[self.leaders[group as usize - 1]].inbox;
            inbox.push(ShardMessage::Requests(make(GroupId(group))));
        }
        self.settle();
    }
}

fn reply() -> Reply {
    OnceCompletion::reply(|outcome| assert!(outcome.is_ok(), "{outcome:?}"))
}

/// One command of 2.4 KB in `dirty` of `groups` groups, through all three replicas until it is
/// applied everywhere.
#[must_use]
pub fn writes(dirty: u64, groups: u64) -> Case<()> {
    let mut trio = Trio::new(groups);
    let command = Bytes::from(vec![7; COMMAND_BYTES]);
    let run = move |()| {
        trio.submit(dirty, |group| {
            vec![Request::Propose {
                group,
                command: command.clone(),
                takes_away: false,
                reply: reply(),
            }]
        });
    };
    Case::new(format!("shard/write in {dirty} of {groups} groups, 3 replicas"), dirty, || (), run)
}

/// `reads` barriers in each of `groups` groups, confirmed by the quorum or by the leader's lease.
#[must_use]
pub fn barriers(reads: u64, groups: u64, mode: ReadMode) -> Case<()> {
    let mut trio = Trio::new(groups);
    let run = move |()| {
        trio.submit(groups, |group| {
            (0..reads).map(|_| Request::ReadBarrier { group, mode, reply: reply() }).collect()
        });
    };
    let kind = if mode == ReadMode::Lease { "lease reads" } else { "read barriers" };
    let name = format!("shard/{reads} {kind} in each of {groups} groups");
    Case::new(name, reads * groups, || (), run)
}

/// A round of one shard that has nothing to do.
#[must_use]
pub fn idle(groups: u64) -> Case<()> {
    let mut trio = Trio::new(groups);
    let run = move |()| {
        drop(black_box(trio.stores[0].shard.round(Vec::new(), Nanos(trio.now))));
    };
    Case::new(format!("shard/round with nothing to do, {groups} groups"), 1, || (), run)
}
