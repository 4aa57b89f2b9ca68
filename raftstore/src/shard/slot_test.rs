use super::*;
use crate::message::{
    ApplyTask, Asker, LogTask, ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask,
};
use crate::replica::{codec, members_note};
use crate::shard::promise_tests::{GROUP, Voter, message};
use crate::snapshot::{Content, Manifest, SnapshotId};
use crate::types::{GroupDesc, HardState, LogPosition, Nanos, StoreId};
use raft::eraftpb::MessageType;

const ID: SnapshotId = SnapshotId(7);
const ASKER: Asker = Asker { shard: 0, group: GROUP, replica: ReplicaId(1) };

/// What a few rounds wanted, each after all that the one before wrote is durable.
#[derive(Default)]
struct Wanted {
    snapshots: Vec<SnapshotTask>,
    destroys: usize,
}

impl Wanted {
    fn removes(&self) -> Vec<SnapshotId> {
        let removed = |task: &SnapshotTask| match task {
            SnapshotTask::Remove(id) => Some(*id),
            _ => None,
        };
        self.snapshots.iter().filter_map(removed).collect()
    }
}

fn rounds(voter: &mut Voter, mut inbox: Vec<ShardMessage>) -> Wanted {
    let mut wanted = Wanted::default();
    loop {
        let round = voter.shard.round(inbox, Nanos(voter.now)).unwrap();
        wanted.snapshots.extend(round.snapshots);
        let destroys = |task: &&ApplyTask| matches!(task.notice, Some(Notice::Destroy));
        wanted.destroys += round.apply.iter().filter(destroys).count();
        if round.log.is_empty() {
            return wanted;
        }
        let note =
            |task: &LogTask| Persisted { group: GROUP, replica: task.replica, ready: task.ready };
        inbox = vec![ShardMessage::Persisted(round.log.iter().map(note).collect())];
    }
}

/// Replica 2, who leads, offers a snapshot.
fn offered(voter: &mut Voter) -> Wanted {
    let desc = GroupDesc::clone(&voter.shard.views()[0].record.desc);
    let position = LogPosition { index: 100, term: 5 };
    let manifest = Manifest { id: ID, desc, position, content: Content::default() };
    let mut offer = message(MessageType::MsgSnapshot, 2, 5);
    offer.mut_snapshot().set_data(manifest.encode());
    let payload = Payload::Raft { bytes: codec::encode(&offer, None), bulk: false };
    let envelope = Envelope { group: GROUP, from: ReplicaId(2), to: ReplicaId(1), payload };
    let from = StoreId(2);
    rounds(voter, vec![ShardMessage::Deliver { from, envelopes: vec![envelope] }])
}

fn done(event: SnapshotEvent) -> Vec<ShardMessage> {
    vec![ShardMessage::Snapshots(vec![SnapshotNote { asker: ASKER, id: ID, event }])]
}

fn damaged() -> Vec<ShardMessage> {
    let reason = "a block does not match its checksum".to_owned();
    vec![ShardMessage::StateDamaged { group: GROUP, replica: ReplicaId(1), reason }]
}

/// Replica 2 says that this one was removed.
fn removed(voter: &Voter) -> Vec<ShardMessage> {
    let mut desc = GroupDesc::clone(&voter.shard.views()[0].record.desc);
    desc.membership.version += 1;
    desc.membership.replica_max = ReplicaId(3);
    desc.replicas.retain(|member| member.replica != ReplicaId(1));
    let note = members_note(&GroupRecord::new(desc, ReplicaId(2)), ReplicaId(1));
    vec![ShardMessage::Deliver { from: StoreId(2), envelopes: vec![note] }]
}

/// Otherwise the end of that fetch takes away what the replica that is built in its place fetches.
#[test]
fn a_replica_that_is_quarantined_gives_up_what_it_fetches() {
    let mut voter = Voter::following();
    let fetched = offered(&mut voter);
    assert!(matches!(fetched.snapshots[..], [SnapshotTask::Fetch { asker: ASKER, .. }]));
    assert_eq!(rounds(&mut voter, damaged()).removes(), [ID]);
    let told = removed(&voter);
    let gone = rounds(&mut voter, told);
    assert_eq!((gone.removes(), gone.destroys), (vec![], 1));
    let late = rounds(&mut voter, done(SnapshotEvent::Received(Ok(()))));
    assert_eq!(late.removes(), [], "the next replica may have use for it");
}

/// A snapshot thread has the state in its hands: it is not destroyed before that is over.
#[test]
fn an_install_outlives_a_replica_that_is_quarantined() {
    let mut voter = Voter::following();
    offered(&mut voter);
    let begun = rounds(&mut voter, done(SnapshotEvent::Received(Ok(()))));
    assert!(matches!(begun.snapshots[..], [SnapshotTask::Load { asker: ASKER, .. }]));
    assert_eq!(rounds(&mut voter, damaged()).removes(), [], "a start ends the install");
    let told = removed(&voter);
    let gone = rounds(&mut voter, told);
    assert_eq!((gone.removes(), gone.destroys), (vec![], 0));
    let over = rounds(&mut voter, done(SnapshotEvent::Loaded(Ok(()))));
    assert_eq!((over.removes(), over.destroys), (vec![ID], 1));

    let mut voter = Voter::following();
    offered(&mut voter);
    rounds(&mut voter, done(SnapshotEvent::Received(Ok(()))));
    rounds(&mut voter, damaged());
    rounds(&mut voter, done(SnapshotEvent::Loaded(Err("damaged".to_owned()))));
    let told = removed(&voter);
    let gone = rounds(&mut voter, told);
    assert_eq!((gone.removes(), gone.destroys), (vec![ID], 1), "nobody holds the state");
}

/// A start before the tombstone is durable finds the replica, and ends its install.
#[test]
fn the_blocks_of_an_install_stay_until_the_tombstone_is_durable() {
    let mut voter = Voter::following();
    offered(&mut voter);
    let received = done(SnapshotEvent::Received(Ok(())));
    // Its beginning is on the way to the log.
    let begins = voter.shard.round(received, Nanos(voter.now)).unwrap();
    assert!(!begins.log.is_empty() && begins.snapshots.is_empty());
    let told = removed(&voter);
    let gone = voter.shard.round(told, Nanos(voter.now)).unwrap();
    assert!(!gone.log.is_empty() && gone.snapshots.is_empty(), "{:?}", gone.snapshots);
    let note =
        |task: &LogTask| Persisted { group: GROUP, replica: task.replica, ready: task.ready };
    let durable = ShardMessage::Persisted(gone.log.iter().map(note).collect());
    let wanted = rounds(&mut voter, vec![durable]);
    assert_eq!((wanted.removes(), wanted.destroys), (vec![ID], 1));
}

/// What is left of an install that a start found damaged goes with its replica.
#[test]
fn a_replica_that_was_found_damaged_takes_its_install_along() {
    let record = Voter::following().shard.views()[0].record.clone();
    let log = GroupLog {
        group: GROUP,
        record,
        hard_state: HardState::default(),
        truncated: LogPosition { index: 100, term: 5 },
        last_index: 100,
        terms: Vec::new(),
        memberships: Vec::new(),
        installing: Some(ID),
        damage: None,
    };
    let found = Quarantined::found(log, "its snapshot is damaged".to_owned());
    assert_eq!(found.unfinished, Some(Unfinished { id: ID, loading: false }));
}
