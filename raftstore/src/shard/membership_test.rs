use super::*;
use crate::completion::Outcome;
use crate::config::Config;
use crate::log::{LogStore, MemoryLog};
use crate::members::{ChangeRefusal, OperationId, PendingChange, RecoverRequest};
use crate::message::{Applied, DurableApplied, Persisted, ReadMode, Request, ShardMessage};
use crate::recovery::RecoveredGroup;
use crate::shard::ShardConfig;
use crate::types::{EntryKind, LogEntry, Nanos, ReplicaDesc, ReplicaRole};
use bytes::Bytes;
use std::sync::{Arc, mpsc};

/// A shard of store 1 in which one small entry may be under way; disk and apply are worked by hand.
struct Stepped {
    shard: Shard,
    now: u64,
    answers: mpsc::Receiver<(&'static str, Outcome)>,
    callers: mpsc::Sender<(&'static str, Outcome)>,
}

fn desc(group: u64, version: u64, members: &[(u64, u64, ReplicaRole)]) -> GroupDesc {
    let member = |(replica, store, role): &(u64, u64, ReplicaRole)| ReplicaDesc {
        replica: ReplicaId(*replica),
        store: StoreId(*store),
        role: *role,
    };
    let mut desc = GroupDesc::new(GroupId(group), members.iter().map(member).collect());
    desc.membership.version = version;
    desc
}

fn persisted(round: &Round) -> ShardMessage {
    let note = |t: &LogTask| Persisted { group: t.write.group, replica: t.replica, ready: t.ready };
    ShardMessage::Persisted(round.log.iter().map(note).collect())
}

fn applied(round: &Round) -> ShardMessage {
    let note = |task: &ApplyTask| Applied {
        group: task.group,
        replica: task.replica,
        index: task.entries.last().map_or(0, |c| c.entry.position.index),
        bytes: task.bytes,
        destroyed: matches!(task.notice, Some(Notice::Destroy)),
        failure: None,
    };
    ShardMessage::Applied(round.apply.iter().map(note).collect())
}

/// Store 2 tells these members to `to`.
fn told(desc: &GroupDesc, to: u64) -> ShardMessage {
    let record = GroupRecord::new(desc.clone(), ReplicaId(2));
    let envelopes = vec![members_note(&record, ReplicaId(to))];
    ShardMessage::Deliver { from: StoreId(2), envelopes }
}

impl Stepped {
    fn new() -> Stepped {
        Stepped::over(MemoryLog::new(), Vec::new())
    }

    fn over(log: Arc<MemoryLog>, groups: Vec<RecoveredGroup>) -> Stepped {
        let config = Arc::new(Config { small_entries_max: 1, ..Config::default() });
        let parts = ShardConfig { config, shard: 0, store: StoreId(1), seed: 1, log };
        let shard = Shard::new(parts, groups).unwrap();
        let (callers, answers) = mpsc::channel();
        Stepped { shard, now: 0, answers, callers }
    }

    fn reply(&self, name: &'static str) -> Reply {
        let callers = self.callers.clone();
        OnceCompletion::reply(move |outcome| callers.send((name, outcome)).unwrap())
    }

    fn round(&mut self, inbox: Vec<ShardMessage>) -> Round {
        self.shard.round(inbox, Nanos(self.now)).unwrap()
    }

    /// Rounds until nothing is left to write and to apply.
    fn work(&mut self, mut inbox: Vec<ShardMessage>) {
        loop {
            let round = self.round(inbox);
            if round.log.is_empty() && round.apply.is_empty() {
                return;
            }
            inbox = vec![persisted(&round), applied(&round)];
        }
    }

    /// Replica 1 leads the group, alone.
    fn lead(&mut self, group: u64) {
        let record = GroupRecord::new(desc(group, 0, &[(1, 1, ReplicaRole::Voter)]), ReplicaId(1));
        let reply = self.reply("created");
        self.work(vec![ShardMessage::Requests(vec![Request::CreateGroup { record, reply }])]);
        for _ in 0..100 {
            self.now += 100_000_000;
            self.work(vec![ShardMessage::Tick]);
        }
        assert!(self.shard.views().iter().all(|view| view.leading));
    }

    fn propose(&self, group: u64, name: &'static str) -> ShardMessage {
        let (group, command, reply) = (GroupId(group), Bytes::from(name), self.reply(name));
        ShardMessage::Requests(vec![Request::Propose { group, command, takes_away: false, reply }])
    }

    fn answered(&self) -> Vec<(&'static str, Outcome)> {
        self.answers.try_iter().collect()
    }
}

#[test]
fn a_removed_replica_answers_everybody_and_gives_its_turn_away() {
    let mut stepped = Stepped::new();
    stepped.lead(1);
    stepped.lead(2);
    stepped.answered();
    let under_way = vec![stepped.propose(1, "under way")];
    let first = stepped.round(under_way);
    assert!(stepped.shard.turns.crowded());
    let group = GroupId(2);
    let read =
        Request::ReadBarrier { group, mode: ReadMode::Linearizable, reply: stepped.reply("rides") };
    let inbox = vec![stepped.propose(2, "in line"), ShardMessage::Requests(vec![read])];
    stepped.round(inbox);
    assert_eq!(stepped.answered(), [], "both wait for the turn");

    let gone = Err(Error::NoGroup { group });
    stepped.round(vec![told(&desc(2, 5, &[(2, 2, ReplicaRole::Voter)]), 1)]);
    assert_eq!(stepped.answered(), [("in line", gone.clone()), ("rides", gone)]);
    stepped.round(vec![told(&desc(1, 5, &[(2, 2, ReplicaRole::Voter)]), 1)]);
    assert_eq!(stepped.answered(), [("under way", Err(Error::Unknown { group: GroupId(1) }))]);
    assert!(!stepped.shard.turns.crowded(), "nobody stands in line or has an entry under way");
    stepped.round(vec![persisted(&first)]);
    assert!(stepped.shard.describe().is_empty());
}

/// What the workers tell of a replica is not for the next one in its place.
#[test]
fn late_notes_of_a_removed_replica_are_ignored() {
    let mut stepped = Stepped::new();
    stepped.lead(1);
    stepped.work(vec![told(&desc(1, 5, &[(2, 2, ReplicaRole::Voter)]), 1)]);
    let members = [(2, 2, ReplicaRole::Voter), (3, 1, ReplicaRole::Learner)];
    stepped.work(vec![told(&desc(1, 6, &members), 3)]);
    let (group, replica) = (GroupId(1), ReplicaId(1));
    let late = Applied { group, replica, index: 70, bytes: 0, destroyed: false, failure: None };
    let durable = DurableApplied { group, replica, index: 70, log_needed: u64::MAX };
    for _ in 0..2 {
        stepped.round(vec![
            ShardMessage::Persisted(vec![Persisted { group, replica, ready: 50 }]),
            ShardMessage::Applied(vec![late.clone()]),
            ShardMessage::DurableApplied(vec![durable]),
            ShardMessage::Tick,
        ]);
        let status = &stepped.shard.describe()[0];
        assert_eq!((status.replica, status.applied), (ReplicaId(3), 0));
        assert_eq!((status.persisted, status.durable_applied), (0, 0));
    }
}

/// Another group's shard may be another one.
#[test]
fn members_under_the_name_of_another_group_begin_nothing() {
    let mut stepped = Stepped::new();
    let members = [(2, 2, ReplicaRole::Voter), (3, 1, ReplicaRole::Learner)];
    let record = GroupRecord::new(desc(1, 6, &members), ReplicaId(2));
    let mut envelope = members_note(&record, ReplicaId(3));
    envelope.group = GroupId(9);
    let from = StoreId(2);
    stepped.round(vec![ShardMessage::Deliver { from, envelopes: vec![envelope.clone()] }]);
    assert!(stepped.shard.describe().is_empty());
    assert_eq!(stepped.shard.dropped_messages, 1);
    envelope.group = GroupId(1);
    stepped.round(vec![ShardMessage::Deliver { from, envelopes: vec![envelope] }]);
    assert_eq!(stepped.shard.describe().len(), 1);
}

/// Bug 16: a store that has lost what it had does not vote under its old identity, nor does what the
/// others send give it one.
#[test]
fn messages_to_a_replica_that_is_not_here_begin_nothing() {
    use ReplicaRole::{Incoming, Joining, Outgoing, Voter};
    use raft::eraftpb::{Message, MessageType};
    let mut stepped = Stepped::new();
    let nothing = |stepped: &mut Stepped, message: ShardMessage| {
        let round = stepped.round(vec![message]);
        let quiet = round.sends.is_empty() && round.log.is_empty() && round.views.is_empty();
        assert!(quiet && stepped.shard.describe().is_empty());
    };
    for kind in [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgAppend,
        MessageType::MsgHeartbeat,
        MessageType::MsgTimeoutNow,
    ] {
        let mut message = Message { from: 2, to: 1, term: 7, ..Message::default() };
        message.set_msg_type(kind);
        let bytes = crate::replica::codec::encode(&message, None);
        let (from, to) = (ReplicaId(2), ReplicaId(1));
        let payload = Payload::Raft { bytes, bulk: false };
        let envelopes = vec![Envelope { group: GroupId(1), from, to, payload }];
        nothing(&mut stepped, ShardMessage::Deliver { from: StoreId(2), envelopes });
    }
    for role in [Voter, Incoming, Outgoing] {
        let members = [(1, 1, role), (2, 2, Voter), (3, 3, Voter)];
        nothing(&mut stepped, told(&desc(1, 5, &members), 1));
    }
    // Only whoever learns begins, under an id that never voted.
    let members = [(1, 1, Voter), (2, 2, Voter), (3, 3, Voter), (4, 1, Joining)];
    stepped.round(vec![told(&desc(1, 6, &members), 4)]);
    assert_eq!(stepped.shard.describe()[0].replica, ReplicaId(4));
}

/// Whom a round tells that replica 1 is damaged.
fn complains(round: &Round) -> Vec<u64> {
    let sent = round.sends.iter().flat_map(|(_, envelopes)| envelopes);
    sent.filter(|e| e.payload == Payload::Damaged).map(|e| e.to.0).collect()
}

#[test]
fn a_damaged_replica_complains_until_it_is_removed_or_gives_way() {
    use ReplicaRole::{Joining, Learner, Voter};
    let voters = [(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)];
    let mut gives_way = desc(1, 4, &[&voters[..], &[(4, 1, Joining)]].concat());
    gives_way.membership.pending =
        Some(Box::new(PendingChange { remove: vec![ReplicaId(1)], ..PendingChange::default() }));
    let removed = desc(1, 4, &[(2, 2, Voter), (3, 3, Voter), (4, 1, Learner)]);
    for news in [removed, gives_way] {
        let mut stepped = Stepped::new();
        let record = GroupRecord::new(desc(1, 2, &voters), ReplicaId(1));
        let reply = stepped.reply("created");
        stepped.work(vec![ShardMessage::Requests(vec![Request::CreateGroup { record, reply }])]);
        let reason = "planted".to_owned();
        stepped.shard.quarantine(GroupId(1), reason, &mut Round::default());
        let told_in = |stepped: &mut Stepped, ticks| -> Vec<u64> {
            (0..ticks).flat_map(|_| complains(&stepped.round(vec![ShardMessage::Tick]))).collect()
        };
        let ticks = Config::default().election_ticks;
        assert_eq!(told_in(&mut stepped, 2 * ticks), [2, 3, 2, 3]);

        // Old news, and news that are none.
        stepped.work(vec![told(&desc(1, 1, &[(2, 2, Voter)]), 1)]);
        stepped.work(vec![told(&desc(1, 3, &voters), 1)]);
        assert_eq!(told_in(&mut stepped, ticks), [2, 3]);

        stepped.work(vec![told(&news, 4)]);
        assert!(stepped.shard.describe().is_empty(), "it is gone, durably");
        assert_eq!(stepped.shard.tombstones(), [(GroupId(1), ReplicaId(1))]);
        assert_eq!(told_in(&mut stepped, ticks), [0; 0]);
        stepped.work(vec![told(&news, 4)]);
        let status = &stepped.shard.describe()[0];
        assert_eq!((status.replica, status.damage.as_ref()), (ReplicaId(4), None));
        assert_eq!(stepped.shard.tombstones(), []);
    }
}

/// An operator may have one rebuilt that its store takes for sound.
#[test]
fn a_sound_replica_gives_way_too() {
    use ReplicaRole::{Joining, Voter};
    let members = [(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)];
    let mut stepped = Stepped::new();
    let record = GroupRecord::new(desc(1, 0, &members), ReplicaId(1));
    let reply = stepped.reply("created");
    stepped.work(vec![ShardMessage::Requests(vec![Request::CreateGroup { record, reply }])]);
    let mut news = desc(1, 1, &[&members[..], &[(4, 1, Joining)]].concat());
    stepped.work(vec![told(&news, 4)]);
    assert_eq!(stepped.shard.describe()[0].replica, ReplicaId(1), "nobody said that it goes");
    news.membership.pending =
        Some(Box::new(PendingChange { remove: vec![ReplicaId(1)], ..PendingChange::default() }));
    stepped.work(vec![told(&news, 4)]);
    assert!(stepped.shard.describe().is_empty());
    stepped.work(vec![told(&news, 4)]);
    assert_eq!(stepped.shard.describe()[0].replica, ReplicaId(4));
}

fn recover(stepped: &Stepped, operation: u128, lost: &[u64], name: &'static str) -> ShardMessage {
    let lost = lost.iter().map(|store| StoreId(*store)).collect();
    let operation = OperationId(operation);
    let request = RecoverRequest { operation, lost, gone: Vec::new(), replica_max: ReplicaId(0) };
    let reply = stepped.reply(name);
    ShardMessage::Requests(vec![Request::Recover { group: GroupId(1), request, reply }])
}

/// What is on the disk already is committed by the recovery only: until that is durable a crash undoes it, and
/// another leader may overwrite those entries.
#[test]
fn a_recovery_applies_nothing_before_it_is_durable() {
    use ReplicaRole::Voter;
    let log = MemoryLog::new();
    let entry = |index| {
        let (kind, data) = (EntryKind::Normal, Bytes::new());
        LogEntry { index, term: 1, kind, data }
    };
    let record =
        GroupRecord::new(desc(1, 0, &[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)]), ReplicaId(1));
    let hard_state = HardState { term: 1, vote: 0, commit: 0 };
    log.write(&[GroupWrite {
        group: GroupId(1),
        record: Some(record),
        hard_state: Some(hard_state),
        append: vec![entry(1), entry(2), entry(3)],
        ..GroupWrite::default()
    }])
    .unwrap();
    let held = RecoveredGroup {
        log: log.load().unwrap().remove(0),
        applied: 0,
        commit: 0,
        log_needed: u64::MAX,
        damage: None,
        snapshots: Vec::new(),
    };
    let mut stepped = Stepped::over(log, vec![held]);
    for _ in 0..30 {
        stepped.now += 100_000_000;
        stepped.work(vec![ShardMessage::Tick]);
    }
    let asked = recover(&stepped, 1, &[2, 3], "recovered");
    let first = stepped.round(vec![asked]);
    assert_eq!(first.log[0].write.append[0].index, 4);
    for _ in 0..3 {
        stepped.now += 100_000_000;
        let early = stepped.round(vec![ShardMessage::Tick]);
        assert!(early.apply.is_empty(), "{early:?}");
    }
    assert!(first.apply.is_empty());
    let mut rounds = vec![stepped.round(vec![persisted(&first)])];
    stepped.now += 100_000_000;
    rounds.push(stepped.round(vec![ShardMessage::Tick]));
    let handed = rounds.iter().flat_map(|round| &round.apply).flat_map(|task| &task.entries);
    let handed: Vec<u64> = handed.map(|committed| committed.entry.position.index).collect();
    assert_eq!(handed, [1, 2, 3, 4]);
    for round in &rounds {
        stepped.work(vec![applied(round)]);
    }
    assert_eq!(stepped.answered(), [("recovered", Ok(Answer::Accepted))]);
}

/// Bug 30: whoever goes on without the lost majority tells nobody before that is durable, and then
/// whoever comes back that he has left.
#[test]
fn a_recovered_minority_never_talks_with_the_old_majority() {
    use ReplicaRole::Voter;
    let mut stepped = Stepped::new();
    let members = [(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)];
    let record = GroupRecord::new(desc(1, 0, &members), ReplicaId(1));
    let reply = stepped.reply("created");
    stepped.work(vec![ShardMessage::Requests(vec![Request::CreateGroup { record, reply }])]);
    for _ in 0..30 {
        stepped.now += 100_000_000;
        stepped.work(vec![ShardMessage::Tick]);
    }
    stepped.answered();

    let one_lost = recover(&stepped, 1, &[2], "one lost");
    stepped.work(vec![one_lost]);
    let refusal = ChangeRefusal::NothingLost;
    assert_eq!(
        stepped.answered(),
        [("one lost", Err(Error::Refused { group: GroupId(1), refusal }))]
    );

    let asked = recover(&stepped, 2, &[2, 3], "recovered");
    let first = stepped.round(vec![asked]);
    let write = &first.log[0].write;
    assert_eq!((first.log.len(), write.append.len()), (1, 1), "one write");
    assert!(write.record.is_some() && write.hard_state.is_some());
    assert!(first.sends.is_empty() && first.apply.is_empty());
    // The old majority speaks up before the write is durable, and time goes by.
    let voted = || {
        let payload = Payload::DurableApplied(0);
        let (group, from, to) = (GroupId(1), ReplicaId(2), ReplicaId(1));
        let envelopes = vec![Envelope { group, from, to, payload }];
        ShardMessage::Deliver { from: StoreId(2), envelopes }
    };
    for _ in 0..50 {
        stepped.now += 100_000_000;
        let early = stepped.round(vec![voted(), ShardMessage::Tick]);
        assert!(early.sends.is_empty() && early.log.is_empty(), "{early:?}");
    }
    assert_eq!(stepped.answered(), []);

    let second = stepped.round(vec![persisted(&first)]);
    let told: Vec<StoreId> = second.sends.iter().map(|(store, _)| *store).collect();
    assert_eq!(told, [StoreId(2), StoreId(3)]);
    stepped.work(vec![applied(&second)]);
    assert_eq!(stepped.answered(), [("recovered", Ok(Answer::Accepted))]);
    let again = stepped.round(vec![voted(), ShardMessage::Tick]);
    let (store, envelopes) = &again.sends[0];
    assert_eq!(*store, StoreId(2));
    let Payload::Members(bytes) = &envelopes[0].payload else { panic!("{envelopes:?}") };
    assert!(codec::decode(bytes).unwrap().has_left(ReplicaId(2)));

    for _ in 0..50 {
        stepped.now += 100_000_000;
        stepped.work(vec![ShardMessage::Tick]);
    }
    assert!(stepped.shard.views().iter().all(|view| view.leading), "it leads alone");
    let (repeated, other) =
        (recover(&stepped, 2, &[2, 3], "repeated"), recover(&stepped, 3, &[2], "other"));
    stepped.work(vec![repeated, other]);
    let leader = ReplicaId(1);
    let led = Error::Refused { group: GroupId(1), refusal: ChangeRefusal::Led { leader } };
    assert_eq!(stepped.answered(), [("repeated", Ok(Answer::Accepted)), ("other", Err(led))]);
}
