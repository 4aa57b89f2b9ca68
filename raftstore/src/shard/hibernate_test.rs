use super::super::ShardConfig;
use super::super::slot::Live;
use super::*;
use crate::completion::OnceCompletion;
use crate::config::Config;
use crate::log::writer::LogWriter;
use crate::log::{LogStore, MemoryLog};
use crate::message::ShardMessage;
use crate::replica::codec;
use crate::types::{GroupDesc, GroupRecord, LogPosition, Nanos, ReplicaDesc, ReplicaRole};
use raft::eraftpb::{Message, MessageType};
use std::sync::Arc;

const TICK: u64 = 100_000_000;
const TERM: u64 = 5;
/// After so many silent ticks a shard is taken for dead.
const TIMEOUT: usize = 10;

/// Shard 0 of store 1 in stores of one shard, with followers of leaders elsewhere; the others are played
/// by hand. Replica N of a group is on store N.
struct Sleepers {
    log: Arc<dyn LogStore>,
    shard: Shard,
    now: u64,
}

impl Sleepers {
    fn new() -> Self {
        let log: Arc<dyn LogStore> = MemoryLog::new();
        let config = Arc::new(Config::default());
        assert_eq!(config.election_ticks, TIMEOUT);
        let parts =
            ShardConfig { config, shard: 0, store: StoreId(1), seed: 1, log: Arc::clone(&log) };
        Sleepers { shard: Shard::new(parts, Vec::new()).unwrap(), log, now: TICK }
    }

    /// Rounds until nothing is left to write; all that leaves.
    fn work(&mut self, mut inbox: Vec<ShardMessage>) -> Vec<(StoreId, Envelope)> {
        let mut sent = Vec::new();
        loop {
            let round = self.shard.round(inbox, Nanos(self.now)).unwrap();
            sent.extend(round.sends);
            if round.log.is_empty() {
                break;
            }
            let done = LogWriter::new(Arc::clone(&self.log)).run_once(round.log).unwrap();
            sent.extend(done.held);
            done.created.into_iter().for_each(|reply| reply.send(Ok(crate::Answer::Accepted)));
            inbox = done.persisted.into_iter().map(|(_, p)| ShardMessage::Persisted(p)).collect();
        }
        let flat = |(store, envelopes): (StoreId, Vec<Envelope>)| {
            envelopes.into_iter().map(move |envelope| (store, envelope))
        };
        sent.into_iter().flat_map(flat).collect()
    }

    fn tick(&mut self) -> Vec<(StoreId, Envelope)> {
        self.now += TICK;
        self.work(vec![ShardMessage::Tick])
    }

    fn hear(&mut self, from: u64, envelope: Envelope) {
        let from = StoreId(from);
        self.work(vec![ShardMessage::Deliver { from, envelopes: vec![envelope] }]);
    }

    /// Shard `shard` of store `from`, which has `shards`, says that it lives.
    fn hear_alive(&mut self, from: u64, shard: u32, shards: u32, life: u64) {
        let payload = Payload::Alive(Alive { slow: false, shortage: None, shard, shards, life });
        let (from_replica, to) = (ReplicaId(0), ReplicaId(0));
        self.hear(from, Envelope { group: NO_GROUP, from: from_replica, to, payload });
    }

    /// A group on stores 1 to 3 that follows the leader on store `leader`.
    fn follow(&mut self, group: u64, leader: u64) {
        let member = |id| ReplicaDesc {
            replica: ReplicaId(id),
            store: StoreId(id),
            role: ReplicaRole::Voter,
        };
        let desc = GroupDesc::new(GroupId(group), (1..=3).map(member).collect());
        let record = GroupRecord::new(desc, ReplicaId(1));
        let reply = OnceCompletion::reply(|created| drop(created.unwrap()));
        let create = Request::CreateGroup { record, reply };
        self.work(vec![ShardMessage::Requests(vec![create])]);
        let mut message = Message { from: leader, to: 1, term: TERM, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        let payload = Payload::Raft { bytes: codec::encode(&message, None), bulk: false };
        self.hear(leader, Self::envelope(group, leader, payload));
    }

    fn envelope(group: u64, from: u64, payload: Payload) -> Envelope {
        Envelope { group: GroupId(group), from: ReplicaId(from), to: ReplicaId(1), payload }
    }

    /// The leader sends the group to sleep.
    fn sleep(&mut self, group: u64, leader: u64) {
        let payload = Payload::Sleep(LogPosition { index: 0, term: TERM });
        self.hear(leader, Self::envelope(group, leader, payload));
    }

    /// Groups `groups` follow `leader` and sleep.
    fn sleeping(&mut self, groups: std::ops::Range<u64>, leader: u64) {
        for group in groups {
            self.follow(group, leader);
            self.sleep(group, leader);
        }
    }

    fn asleep(&self) -> Vec<u64> {
        let statuses = self.shard.statuses();
        statuses.iter().filter(|status| status.asleep).map(|status| status.group.0).collect()
    }
}

/// Bug 37: the groups that a dead store led wake, a portion a tick, and no others.
#[test]
fn a_silent_shard_wakes_the_groups_that_it_led_spread_over_ticks() {
    let mut sleepers = Sleepers::new();
    for store in [2, 3] {
        sleepers.hear_alive(store, 0, 1, 7);
    }
    let led = 2 * WAKES_PER_TICK as u64 + 10;
    sleepers.sleeping(1..led + 1, 2);
    sleepers.sleeping(led + 1..led + 101, 3);
    assert_eq!(sleepers.asleep().len() as u64, led + 100);
    for _ in 0..TIMEOUT {
        sleepers.hear_alive(3, 0, 1, 7);
        sleepers.tick();
        assert_eq!(sleepers.asleep().len() as u64, led + 100, "the timeout is not over");
    }
    for left in [led + 100 - WAKES_PER_TICK as u64, led + 100 - 2 * WAKES_PER_TICK as u64, 100] {
        sleepers.hear_alive(3, 0, 1, 7);
        sleepers.tick();
        assert_eq!(sleepers.asleep().len() as u64, left);
    }
    assert!(sleepers.asleep().into_iter().all(|group| group > led), "the other store's sleep on");
}

/// The silence counts already: they need not wait for another timeout before they ask for votes.
#[test]
fn those_that_wake_campaign_soon() {
    let mut sleepers = Sleepers::new();
    sleepers.hear_alive(2, 0, 1, 7);
    sleepers.sleeping(1..2, 2);
    let asks = |sent: Vec<(StoreId, Envelope)>| {
        let raft = |envelope: &Envelope| match &envelope.payload {
            Payload::Raft { bytes, .. } => Some(codec::decode(bytes).unwrap().0.get_msg_type()),
            _ => None,
        };
        sent.iter().any(|(_, e)| raft(e) == Some(MessageType::MsgRequestPreVote))
    };
    let asked = (1..=2 * TIMEOUT).find(|_| asks(sleepers.tick()));
    assert!(asked > Some(TIMEOUT), "asked after {asked:?} ticks");
}

#[test]
fn a_follower_whose_leader_nobody_watches_stays_awake() {
    let mut sleepers = Sleepers::new();
    sleepers.sleeping(1..2, 2);
    assert!(sleepers.asleep().is_empty(), "the leader's shard was never heard");
    sleepers.hear_alive(2, 0, 1, 7);
    (0..=TIMEOUT).for_each(|_| drop(sleepers.tick()));
    sleepers.follow(2, 2);
    sleepers.sleep(2, 2);
    assert!(sleepers.asleep().is_empty(), "the leader's shard is silent");
    sleepers.hear_alive(2, 0, 1, 7);
    sleepers.sleep(2, 2);
    assert_eq!(sleepers.asleep(), [2]);
}

/// Of a store's shards only the silent one's groups wake.
#[test]
fn shards_of_a_store_are_watched_one_by_one() {
    let mut sleepers = Sleepers::new();
    for shard in [0, 1] {
        sleepers.hear_alive(2, shard, 2, 7);
    }
    sleepers.sleeping(1..7, 2);
    for _ in 0..TIMEOUT + 2 {
        sleepers.hear_alive(2, 1, 2, 7);
        sleepers.tick();
    }
    assert_eq!(sleepers.asleep(), [1, 3, 5], "groups of even numbers are in shard 0 there");
}

/// It forgot everything that was not written: its groups have to speak to it.
#[test]
fn a_shard_that_began_anew_wakes_the_groups_that_it_led() {
    let mut sleepers = Sleepers::new();
    for store in [2, 3] {
        sleepers.hear_alive(store, 0, 1, 7);
    }
    sleepers.sleeping(1..4, 2);
    sleepers.sleeping(4..7, 3);
    sleepers.hear_alive(2, 0, 1, 7);
    sleepers.tick();
    assert_eq!(sleepers.asleep().len(), 6, "the same life goes on");
    sleepers.hear_alive(2, 0, 1, 8);
    sleepers.tick();
    assert_eq!(sleepers.asleep(), [4, 5, 6]);
}

/// One message for all groups, from the shard itself, whether they sleep or not.
#[test]
fn a_shard_tells_every_neighbour_that_it_lives() {
    let mut sleepers = Sleepers::new();
    for store in [2, 3] {
        sleepers.hear_alive(store, 0, 1, 7);
    }
    sleepers.sleeping(1..20, 2);
    let heartbeat = Config::default().heartbeat_ticks;
    let mut told = Vec::new();
    for _ in 0..2 * heartbeat {
        let sent = sleepers.tick();
        assert!(sent.iter().all(|(_, e)| matches!(e.payload, Payload::Alive(_))), "{sent:?}");
        told.extend(sent.into_iter().map(|(store, _)| store.0));
    }
    assert_eq!(told, [2, 3, 2, 3]);
}

#[test]
fn a_message_of_a_member_wakes_its_group_alone() {
    let mut sleepers = Sleepers::new();
    sleepers.hear_alive(2, 0, 1, 7);
    sleepers.sleeping(1..4, 2);
    let mut message = Message { from: 3, to: 1, term: TERM + 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgRequestPreVote);
    let payload = Payload::Raft { bytes: codec::encode(&message, None), bulk: false };
    sleepers.hear(3, Sleepers::envelope(2, 3, payload));
    assert_eq!(sleepers.asleep(), [1, 3]);
}

/// A store has very many of them, and the allocator's next size is half a KiB larger.
#[test]
fn a_live_replica_takes_at_most_two_and_a_half_kib() {
    assert!(size_of::<Live>() <= 2_560, "{} bytes", size_of::<Live>());
}

/// A leader that joined while this store was away: this replica does not know it, and learns of it only by the
/// entries that the leader withholds as long as it believes that the store has no room.
#[test]
fn a_store_that_is_no_member_yet_hears_that_this_one_lives() {
    let mut sleepers = Sleepers::new();
    sleepers.follow(1, 2);
    let heard_by = |sent: Vec<(StoreId, Envelope)>| {
        let alive = sent.into_iter().filter(|(_, e)| matches!(e.payload, Payload::Alive(_)));
        alive.map(|(store, _)| store.0).collect::<BTreeSet<_>>()
    };
    let mut told = BTreeSet::new();
    (0..=TIMEOUT).for_each(|_| told.extend(heard_by(sleepers.tick())));
    assert_eq!(told, BTreeSet::from([2, 3]));
    let mut message = Message { from: 9, to: 1, term: TERM + 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    let payload = Payload::Raft { bytes: codec::encode(&message, None), bulk: false };
    sleepers.hear(9, Sleepers::envelope(1, 9, payload));
    (0..=TIMEOUT).for_each(|_| told.extend(heard_by(sleepers.tick())));
    assert_eq!(told, BTreeSet::from([2, 3, 9]));
}

/// One that is late, of an older leader or an older entry: time must go on for whoever does not sleep.
#[test]
fn an_old_order_to_sleep_leaves_nobody_neither_asleep_nor_ticked() {
    for old in [LogPosition { index: 0, term: TERM - 1 }, LogPosition { index: 7, term: TERM }] {
        let mut sleepers = Sleepers::new();
        sleepers.hear_alive(2, 0, 1, 7);
        sleepers.sleeping(1..2, 2);
        assert_eq!(sleepers.asleep(), vec![1]);
        sleepers.hear(2, Sleepers::envelope(1, 2, Payload::Sleep(old)));
        let asks = |(_, sent): &(StoreId, Envelope)| matches!(sent.payload, Payload::Raft { .. });
        let asked = (0..3 * TIMEOUT).any(|_| sleepers.tick().iter().any(asks));
        assert!(asked || !sleepers.asleep().is_empty(), "{old:?}: it waits for ever");
    }
}
