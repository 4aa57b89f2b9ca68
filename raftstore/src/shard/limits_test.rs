//! The limits in bytes of a shard, each at its edge.

use super::hibernate::NO_GROUP;
use super::*;
use crate::completion::{Answer, OnceCompletion, Outcome};
use crate::disk::Shortage;
use crate::log::MemoryLog;
use crate::log::writer::LogWriter;
use crate::message::{Applied, ApplyTask, LogTask};
use crate::replica::codec;
use crate::transport::Alive;
use crate::types::{GroupDesc, Nanos, ReplicaDesc, ReplicaRole};
use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use std::sync::mpsc;

/// A store that alone votes in its groups, whose learners are away; its disk and its apply worker are
/// worked by hand.
struct Alone {
    shard: Shard,
    log: Arc<MemoryLog>,
    written: Vec<LogTask>,
    handed: Vec<ApplyTask>,
    /// Reads of old entries that were asked for.
    fetched: usize,
}

type Answers = mpsc::Receiver<Outcome>;

fn caller() -> (Reply, Answers) {
    let (sender, answers) = mpsc::channel();
    // Whoever does not look any more need not hear it.
    (OnceCompletion::reply(move |outcome| drop(sender.send(outcome))), answers)
}

fn busy(answers: &Answers) -> String {
    match answers.try_recv() {
        Ok(Err(Error::Busy { what, .. })) => what.to_owned(),
        other => panic!("{other:?}"),
    }
}

fn waits(answers: &Answers) -> bool {
    answers.try_recv() == Err(mpsc::TryRecvError::Empty)
}

impl Alone {
    fn new(config: Config, groups: u64) -> Alone {
        let log = MemoryLog::new();
        let config = Arc::new(config);
        let parts = ShardConfig { config, shard: 0, store: StoreId(1), seed: 1, log: log.clone() };
        let shard = Shard::new(parts, Vec::new()).unwrap();
        let mut alone = Alone { shard, log, written: Vec::new(), handed: Vec::new(), fetched: 0 };
        let create = |group: u64| {
            let member = |store: u64, role| {
                let replica = ReplicaId(group * 10 + store);
                ReplicaDesc { replica, store: StoreId(store), role }
            };
            let members = vec![member(1, ReplicaRole::Voter), member(2, ReplicaRole::Learner)];
            let own = members[0].replica;
            let record = GroupRecord::new(GroupDesc::new(GroupId(group), members), own);
            Request::CreateGroup { record, reply: caller().0 }
        };
        alone.round(vec![ShardMessage::Requests((1..=groups).map(create).collect())]);
        for _ in 0..40 {
            alone.round(vec![ShardMessage::Tick]);
            alone.work();
        }
        assert!(alone.shard.statuses().iter().all(|s| s.leader.is_some()), "all lead");
        alone
    }

    fn round(&mut self, inbox: Vec<ShardMessage>) {
        let round = self.shard.round(inbox, Nanos(1)).unwrap();
        self.written.extend(round.log);
        self.handed.extend(round.apply);
        self.fetched += round.fetch.len();
    }

    /// Store 2 says something.
    fn hear(&mut self, group: GroupId, payload: Payload) {
        let replica = |store| ReplicaId(group.0 * 10 + store);
        let envelope = Envelope { group, from: replica(2), to: replica(1), payload };
        self.round(vec![ShardMessage::Deliver { from: StoreId(2), envelopes: vec![envelope] }]);
    }

    fn propose(&mut self, group: u64, bytes: usize) -> Answers {
        let (reply, answers) = caller();
        let (group, command) = (GroupId(group), Bytes::from(vec![7; bytes]));
        let request = Request::Propose { group, command, takes_away: false, reply };
        self.round(vec![ShardMessage::Requests(vec![request])]);
        answers
    }

    /// The first `count` writes are durable.
    fn persist(&mut self, count: usize) {
        let rest = self.written.split_off(count);
        let tasks = std::mem::replace(&mut self.written, rest);
        let log = Arc::clone(&self.log) as Arc<dyn LogStore>;
        let done = LogWriter::new(log).run_once(tasks).unwrap();
        done.created.into_iter().for_each(|reply| reply.send(Ok(Answer::Accepted)));
        let persisted = done.persisted.into_iter().map(|(_, list)| ShardMessage::Persisted(list));
        self.round(persisted.collect());
    }

    fn persist_all(&mut self) {
        while !self.written.is_empty() {
            self.persist(self.written.len());
        }
    }

    /// What was handed to apply is applied.
    fn apply(&mut self) {
        let mut notes = Vec::new();
        for task in std::mem::take(&mut self.handed) {
            notes.push(Applied {
                group: task.group,
                replica: task.replica,
                index: task.entries.last().map_or(0, |c| c.entry.position.index),
                bytes: task.bytes,
                destroyed: false,
                failure: None,
            });
            for reply in task.entries.into_iter().flat_map(|committed| committed.callers) {
                reply.send(Ok(Answer::Applied(Bytes::new())));
            }
        }
        self.round(vec![ShardMessage::Applied(notes)]);
    }

    fn work(&mut self) {
        while !self.written.is_empty() || !self.handed.is_empty() {
            self.persist_all();
            self.apply();
        }
    }

    fn status(&mut self, group: u64) -> ReplicaStatus {
        let all = self.shard.describe();
        all.into_iter().find(|status| status.group == GroupId(group)).unwrap()
    }
}

#[test]
fn a_group_with_too_many_commands_under_way_is_busy_and_the_others_are_not() {
    let config = Config { group_proposal_bytes_max: 1_000, ..Config::default() };
    let mut alone = Alone::new(config, 3);
    let first = alone.propose(1, 600);
    let exact = alone.propose(1, 400);
    let refused = alone.propose(1, 1);
    assert_eq!(busy(&refused), "too many bytes of commands of this group are under way");
    let other = alone.propose(2, 1_000);
    let large = alone.propose(3, 5_000);
    assert!(waits(&other) && waits(&large), "a single one always fits");
    // Committed ones count as long as they are not applied.
    alone.persist_all();
    assert_eq!(alone.status(1).proposal_bytes, 1_000);
    assert_eq!(
        busy(&alone.propose(1, 1)),
        "too many bytes of commands of this group are under way"
    );
    assert!(waits(&first) && waits(&exact));
    alone.work();
    assert_eq!(first.try_recv(), Ok(Ok(Answer::Applied(Bytes::new()))));
    let next = alone.propose(1, 1_000);
    assert!(waits(&next));
    alone.work();
    for group in 1..=3 {
        assert_eq!(alone.status(group).proposal_bytes, 0);
    }
}

/// What the library refuses, and what a closed replica held, is not counted any more.
#[test]
fn a_group_with_too_much_uncommitted_is_busy() {
    let config =
        Config { entry_bytes_max: 100, group_uncommitted_bytes_max: 1_000, ..Config::default() };
    let mut alone = Alone::new(config, 2);
    let first = alone.propose(1, 600);
    assert_eq!(busy(&alone.propose(1, 600)), "too many uncommitted bytes in this group");
    assert_eq!(alone.status(1).proposal_bytes, 600);
    assert!(waits(&alone.propose(2, 600)));
    alone.persist_all();
    assert!(waits(&first) && waits(&alone.propose(1, 600)), "committed, so not uncommitted");
}

#[test]
fn a_group_with_a_full_apply_queue_is_busy_its_entries_wait_and_the_others_go_on() {
    let config = Config { entry_bytes_max: 100, group_apply_bytes_max: 1_000, ..Config::default() };
    let mut alone = Alone::new(config, 2);
    let first = alone.propose(1, 1_000);
    let second = alone.propose(1, 500);
    alone.persist(1);
    assert_eq!(alone.handed.len(), 1);
    assert_eq!(busy(&alone.propose(1, 1)), "the group's part of the apply queue is full");
    let writes = alone.written.len();
    alone.persist(writes);
    let status = alone.status(1);
    assert!(status.apply_bytes >= 1_000 && status.parked == 1, "{status:?}");
    assert_eq!(alone.handed.len(), 1, "the second entry waits in the log");
    let other = alone.propose(2, 500);
    alone.persist_all();
    assert_eq!(alone.handed.len(), 2, "that of the other group does not");

    alone.apply();
    assert!(first.try_recv().is_ok() && other.try_recv().is_ok());
    assert_eq!(alone.handed.len(), 1, "there is room for it");
    alone.work();
    assert!(second.try_recv().is_ok());
    let status = alone.status(1);
    assert_eq!((status.apply_bytes, status.parked, status.proposal_bytes), (0, 0, 0));
}

#[test]
fn a_full_apply_queue_is_everybodys() {
    let config = Config { apply_queue_bytes_max: 1_000, ..Config::default() };
    let mut alone = Alone::new(config, 2);
    let first = alone.propose(1, 1_000);
    alone.persist_all();
    assert_eq!(busy(&alone.propose(2, 1)), "the apply queue is full");
    alone.work();
    assert!(first.try_recv().is_ok() && waits(&alone.propose(2, 1)));
}

#[test]
fn the_entry_cache_keeps_to_the_stores_limit_and_to_the_groups() {
    for (store, group, most) in [(4_000, 1 << 20, 2_000), (1 << 20, 3_000, 3_000)] {
        let config = Config {
            entry_cache_bytes_max: store,
            group_entry_cache_bytes_max: group,
            ..Config::default()
        };
        let mut alone = Alone::new(config, 2);
        for _ in 0..50 {
            for group in 1..=2 {
                drop(alone.propose(group, 200));
            }
            alone.work();
        }
        alone.round(vec![ShardMessage::Tick]);
        for group in 1..=2 {
            let held = alone.status(group).cache_bytes;
            assert!(held <= most && held > most / 2, "{held} of {most} bytes");
        }
    }
    let parts = Config { shards: 4, ..Config::default() };
    assert_eq!(parts.group_cache_bytes(2) * 8, parts.entry_cache_bytes_max);
    assert_eq!(parts.shard_apply_bytes_max() * 4, parts.apply_queue_bytes_max);
}

/// Again and again, as long as it has no room.
#[test]
fn nothing_is_read_for_a_store_that_takes_no_entries() {
    let config = Config { group_entry_cache_bytes_max: 1_000, ..Config::default() };
    let mut alone = Alone::new(config, 1);
    for _ in 0..20 {
        drop(alone.propose(1, 200));
        alone.work();
    }
    let mut message =
        Message { from: 12, to: 11, term: alone.status(1).term, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeatResponse);
    let mut fetched_with = |free: u64| {
        let shortage = Some(Shortage { free, limit: 100 }).filter(|shortage| free < shortage.limit);
        let alive = Alive { shard: 0, shards: 1, life: 1, slow: false, shortage };
        alone.hear(NO_GROUP, Payload::Alive(alive));
        alone.round(vec![ShardMessage::Tick]);
        let before = alone.fetched;
        let bytes = codec::encode(&message, None);
        alone.hear(GroupId(1), Payload::Raft { bytes, bulk: false });
        alone.fetched - before
    };
    assert_eq!((fetched_with(24), fetched_with(5)), (0, 0));
    assert_eq!(fetched_with(100), 1);
}

#[test]
fn levels_are_what_there_is() {
    let mut alone = Alone::new(Config::default(), 3);
    let first = alone.propose(1, 600);
    let (sender, levels) = mpsc::channel();
    alone.round(vec![ShardMessage::Measure(sender)]);
    let levels = levels.try_recv().unwrap();
    assert_eq!((levels.replicas, levels.leased, levels.waiting_proposals), (3, 3, 1));
    assert!(levels.cache_bytes > 600, "{levels:?}");
    assert!(waits(&first));
}
