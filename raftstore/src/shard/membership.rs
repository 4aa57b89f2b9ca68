//! Replicas that come and go by membership changes.
//!
//! 1. A replica that was removed is closed in the same step, and its tombstone goes to the log.
//! 2. Once that is durable, apply destroys the group's state, behind all that was handed to it.
//! 3. A damaged replica asks the others to be removed or rebuilt, and then goes in the same way.
//! 4. The tombstone stays. It tells whoever still writes to the replica; only a replica with a
//!    larger id may begin here, when a leader says that it is a learner.

use super::Shard;
use super::slot::{Live, Slot};
use crate::apply::LeaderStop;
use crate::completion::{Answer, OnceCompletion, Reply};
use crate::error::Error;
use crate::log::{GroupLog, GroupWrite};
use crate::members::codec;
use crate::message::{ApplyTask, LogTask, Notice, REMOVAL, SnapshotTask};
use crate::replica::{Unfinished, members_note};
use crate::shard::Round;
use crate::snapshot::SnapshotId;
use crate::transport::{Envelope, Payload};
use crate::types::{GroupDesc, GroupId, GroupRecord, HardState, LogPosition, ReplicaId, StoreId};
use std::collections::BTreeSet;

/// How much of a removed replica is still to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its tombstone is on the way to the log.
    Writing,
    /// It is written, and a snapshot thread has the state in its hands still.
    Held,
    /// Its state is being destroyed.
    Destroying,
    /// Only the tombstone is left.
    Done,
}

/// The place of a replica that was removed.
pub(super) struct Gone {
    record: GroupRecord,
    stage: Stage,
    /// The install that had begun. Its blocks stay until the tombstone is durable: a start before then finds the
    /// replica in the log, and ends the install.
    unfinished: Option<Unfinished>,
    /// Senders that were told since the last tick.
    told: BTreeSet<ReplicaId>,
}

impl Gone {
    fn new(record: GroupRecord, stage: Stage, unfinished: Option<Unfinished>) -> Self {
        Gone { record, stage, unfinished, told: BTreeSet::new() }
    }

    /// A tombstone as found at a start; the state was destroyed before.
    pub(super) fn recovered(record: GroupRecord) -> Self {
        Gone::new(record, Stage::Done, None)
    }

    pub(super) fn tick(&mut self) {
        self.told.clear();
    }

    /// Who was removed.
    pub(super) fn replica(&self) -> ReplicaId {
        self.record.replica
    }

    /// Whether `replica` may begin here.
    fn admits(&self, replica: ReplicaId) -> bool {
        let forgotten = crate::mutant::active("tombstone_forgotten");
        let early = crate::mutant::active("begins_before_destroyed");
        (self.stage == Stage::Done || early) && (replica > self.record.replica || forgotten)
    }
}

impl Shard {
    /// Ends a replica whose tombstone is to be `record`.
    pub(super) fn remove(&mut self, group: GroupId, record: GroupRecord, round: &mut Round) {
        tracing::info!(group = group.0, replica = record.replica.0, "replica removed");
        self.close(group, &Error::NoGroup { group });
        self.drop_snapshots(group, round);
        let unfinished = match self.slots.get(&group) {
            Some(Slot::Live(live)) => live.replica.unfinished(),
            Some(Slot::Quarantined(damaged)) => damaged.unfinished,
            Some(Slot::Gone(_)) | None => None,
        };
        if let Some(Slot::Live(live)) = self.slots.get(&group)
            && live.replica.has_standing()
        {
            self.tell(group, record.replica, Notice::Ends(LeaderStop::Removed), round);
        }
        round.gone.push((group, record.replica));
        round.log.push(LogTask {
            shard: self.parts.shard,
            replica: record.replica,
            write: GroupWrite { group, record: Some(record.clone()), ..GroupWrite::default() },
            ready: REMOVAL,
            held: Vec::new(),
            created: Vec::new(),
        });
        self.place(group, Slot::Gone(Box::new(Gone::new(record, Stage::Writing, unfinished))));
    }

    /// Tells the group's state machine something, behind all that was handed to it.
    pub(super) fn tell(
        &self,
        group: GroupId,
        replica: ReplicaId,
        notice: Notice,
        round: &mut Round,
    ) {
        round.apply.push(ApplyTask::notice(self.parts.shard, group, replica, notice));
    }

    /// A tombstone is durable: nothing of the state is needed any more.
    pub(super) fn tombstone_written(&mut self, group: GroupId, round: &mut Round) {
        if let Some(Slot::Gone(gone)) = self.slots.get_mut(&group) {
            if gone.unfinished.is_some_and(|install| install.loading) {
                gone.stage = Stage::Held;
                return;
            }
            gone.stage = Stage::Destroying;
            let blocks = gone.unfinished.take().map(|install| SnapshotTask::Remove(install.id));
            round.snapshots.extend(blocks);
            let replica = gone.record.replica;
            self.tell(group, replica, Notice::Destroy, round);
        }
    }

    /// A snapshot thread has loaded one, or failed to, for a replica that takes no part any more.
    pub(super) fn loaded_in_vain(&mut self, group: GroupId, id: SnapshotId, round: &mut Round) {
        let (unfinished, held) = match self.slots.get_mut(&group) {
            Some(Slot::Gone(gone)) => (&mut gone.unfinished, gone.stage == Stage::Held),
            Some(Slot::Quarantined(damaged)) => (&mut damaged.unfinished, false),
            Some(Slot::Live(_)) | None => return,
        };
        let Some(install) = unfinished.as_mut().filter(|install| install.id == id) else { return };
        install.loading = false;
        if held {
            self.tombstone_written(group, round);
        }
    }

    /// What a live replica has of snapshots goes, whatever takes its place.
    pub(super) fn drop_snapshots(&mut self, group: GroupId, round: &mut Round) {
        if let Some(Slot::Live(live)) = self.slots.get_mut(&group) {
            let snapshots = live.replica.take_snapshots();
            round.snapshots.extend(snapshots.into_iter().map(SnapshotTask::Remove));
        }
    }

    /// The state is gone.
    pub(super) fn state_destroyed(&mut self, group: GroupId) {
        if let Some(Slot::Gone(gone)) = self.slots.get_mut(&group) {
            gone.stage = Stage::Done;
        }
    }

    /// A message for a group without a living replica here.
    pub(super) fn deliver_to_none(
        &mut self,
        from: StoreId,
        envelope: &Envelope,
        round: &mut Round,
    ) {
        let group = envelope.group;
        if let Payload::Members(bytes) = &envelope.payload {
            let same_group = |desc: GroupDesc| match desc.group {
                told if told == group => Ok(desc),
                other => Err(format!("members of group {other}")),
            };
            match codec::decode(bytes).and_then(same_group) {
                Ok(desc) => {
                    self.leave_damaged(&desc, round);
                    self.join(desc, envelope.to, round);
                }
                Err(reason) => {
                    tracing::debug!(group = group.0, store = from.0, reason, "message dropped");
                    self.dropped_messages += 1;
                }
            }
        } else if let Some(Slot::Gone(gone)) = self.slots.get_mut(&group)
            && gone.told.insert(envelope.from)
        {
            round.send(from, members_note(&gone.record, envelope.from));
        }
    }

    /// A damaged replica that was removed, or gives way, goes as any other.
    fn leave_damaged(&mut self, desc: &GroupDesc, round: &mut Round) {
        let Some(Slot::Quarantined(damaged)) = self.slots.get(&desc.group) else { return };
        let replica = damaged.record.replica;
        let (told, known) = (&desc.membership, &damaged.record.desc.membership);
        let same = told.position == known.position;
        let later = told.version > known.version || (told.version == known.version && same);
        let news = later && !damaged.record.desc.parts_from(desc);
        if news && (desc.has_left(replica) || desc.gives_way(replica)) {
            let record = GroupRecord { removed: true, ..GroupRecord::new(desc.clone(), replica) };
            self.remove(desc.group, record, round);
        }
    }

    /// A leader says that `replica` is a member here. Only a learner begins by that: whoever votes
    /// had state once, and must not come back without it.
    fn join(&mut self, desc: GroupDesc, replica: ReplicaId, round: &mut Round) {
        let group = desc.group;
        let own = desc.replica(replica).filter(|r| r.store == self.parts.store);
        let admitted = match self.slots.get(&group) {
            None => true,
            Some(Slot::Gone(gone)) => gone.admits(replica),
            Some(Slot::Live(_) | Slot::Quarantined(_)) => false,
        };
        if admitted && own.is_some_and(|r| r.role.learns()) {
            let nobody = OnceCompletion::reply(|_| {});
            self.create(GroupRecord::new(desc, replica), nobody, round);
        }
    }

    /// Creates a replica with an empty log.
    pub(super) fn create(&mut self, record: GroupRecord, reply: Reply, round: &mut Round) {
        let group = record.desc.group;
        if let Some(Slot::Gone(gone)) = self.slots.get(&group)
            && !gone.admits(record.replica)
        {
            let removed = gone.record.replica;
            let reason = format!(
                "replica {}: replica {removed} was removed here, or is just going: take a larger id",
                record.replica
            );
            return reply.send(Err(Error::Invalid { group, reason }));
        }
        let log = GroupLog {
            group,
            record: record.clone(),
            hard_state: HardState::default(),
            truncated: LogPosition::default(),
            last_index: 0,
            terms: Vec::new(),
            memberships: Vec::new(),
            installing: None,
            damage: None,
        };
        let mut replica = match self.replica(&log, 0, 0) {
            Ok(replica) => replica,
            Err(error) => return reply.send(Err(error)),
        };
        replica.expect_creation();
        round.log.push(LogTask {
            shard: self.parts.shard,
            replica: record.replica,
            write: GroupWrite { group, record: Some(record), ..GroupWrite::default() },
            ready: 0,
            held: Vec::new(),
            created: vec![reply],
        });
        round.views.push(replica.group_view());
        self.place(group, Slot::Live(Box::new(Live::new(replica))));
    }

    pub(super) fn created_before(&mut self, record: &GroupRecord, reply: Reply) {
        let group = record.desc.group;
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return };
        let held = live.replica.record();
        let changed = held.desc.membership.version > 0;
        reply.send(if held == record || (changed && held.replica == record.replica) {
            Ok(Answer::Accepted)
        } else {
            let reason = "it exists here with other members: group ids are used once".to_owned();
            Err(Error::Invalid { group, reason })
        });
    }
}

#[cfg(test)]
#[path = "membership_test.rs"]
mod tests;
