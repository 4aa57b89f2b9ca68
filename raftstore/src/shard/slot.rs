//! The places of a shard: who is in them, and what a live replica is told at once, or when it is
//! touched the next time.

use super::Shard;
use super::membership::Gone;
use crate::apply::{ApplyError, LeaderStop};
use crate::error::Error;
use crate::events::Event;
use crate::log::GroupLog;
use crate::message::{Applied, Notice, Persisted, REMOVAL};
use crate::replica::{Mood, Replica, Unfinished};
use crate::shard::Round;
use crate::status::{GroupView, ReplicaStatus, Role};
use crate::transport::{Envelope, Payload};
use crate::types::{GroupId, GroupRecord, ReplicaId};

/// A live replica, and what its shard knows of it without looking into it.
///
/// With a thousand busy groups most of an entry's cost is memory that is not in the processor's
/// caches: what can wait until the replica is touched anyway is noted here.
pub(super) struct Live {
    /// What is written and applied, not told to the replica yet.
    persisted: u64,
    applied: u64,
    /// Bytes handed to apply and not yet reported applied.
    pub(super) apply_bytes: usize,
    pub(super) dirty: bool,
    /// It stands in line with its commands.
    pub(super) waits: bool,
    pub(super) mood: Mood,
    pub(super) replica: Replica,
}

impl Live {
    pub(super) fn new(replica: Replica) -> Self {
        let mood = Mood { awaits_persisted: true, awaits_applied: true, entry_under_way: false };
        let (persisted, applied, apply_bytes) = (0, 0, 0);
        Live { persisted, applied, apply_bytes, dirty: false, waits: false, mood, replica }
    }

    /// Tells the replica what it had not to know until now.
    pub(super) fn catch_up(&mut self) {
        match std::mem::take(&mut self.persisted) {
            0 => {}
            number => self.replica.on_persisted(number),
        }
        match std::mem::take(&mut self.applied) {
            0 => {}
            index => self.replica.on_applied(index),
        }
    }

    pub(super) fn replica(&mut self) -> &mut Replica {
        self.catch_up();
        &mut self.replica
    }
}

/// A replica that takes no part: it is damaged, or its state machine failed.
pub(super) struct Quarantined {
    pub(super) record: GroupRecord,
    /// What every request gets.
    pub(super) error: Error,
    /// As it was at its end.
    status: ReplicaStatus,
    /// The install that was under way then.
    pub(super) unfinished: Option<Unfinished>,
    /// Ticks until the others are told again.
    quiet: usize,
}

impl Quarantined {
    /// One that a start found damaged.
    pub(super) fn found(log: GroupLog, reason: String) -> Self {
        let GroupLog { record, installing, .. } = log;
        let group = record.desc.group;
        let unfinished = installing.map(|id| Unfinished { id, loading: false });
        let status = ReplicaStatus {
            group,
            replica: record.replica,
            role: Role::Quarantined,
            term: 0,
            leader: None,
            commit: 0,
            applied: 0,
            persisted: 0,
            durable_applied: 0,
            first_index: 0,
            last_index: 0,
            last_term: 0,
            cache_bytes: 0,
            waiting_proposals: 0,
            waiting_reads: 0,
            proposal_bytes: 0,
            apply_bytes: 0,
            parked: 0,
            installing: false,
            asleep: false,
            lease_ms: None,
            damage: Some(reason.clone()),
            priority: record.desc.priority(record.replica),
            ticks_silent: 0,
            ticks_to_campaign: 0,
            barred: false,
            transfer_to: None,
            peers: Vec::new(),
        };
        let error = Error::Quarantined { group, reason };
        Quarantined { record, error, status, unfinished, quiet: 0 }
    }

    /// One that ends while it lives.
    fn ended(replica: &Replica, error: Error) -> Self {
        let last = ReplicaStatus { leader: None, peers: Vec::new(), ..replica.status() };
        let status = match &error {
            Error::Stopped { index, .. } => ReplicaStatus {
                role: Role::Stopped,
                applied: index - 1,
                damage: Some(error.to_string()),
                ..last
            },
            Error::Quarantined { reason, .. } => {
                ReplicaStatus { role: Role::Quarantined, damage: Some(reason.clone()), ..last }
            }
            other => {
                ReplicaStatus { role: Role::Quarantined, damage: Some(other.to_string()), ..last }
            }
        };
        let (record, unfinished) = (replica.record().clone(), replica.unfinished());
        Quarantined { record, error, status, unfinished, quiet: 0 }
    }

    /// One that is damaged tells the others once an election timeout: whoever leads may rebuild it, and
    /// whoever knows that it was removed says so.
    pub(super) fn tick(&mut self, election_ticks: usize, round: &mut Round) {
        if !matches!(self.error, Error::Quarantined { .. }) {
            return;
        }
        self.quiet = match self.quiet.checked_sub(1) {
            Some(quiet) => quiet,
            None => {
                let GroupRecord { desc, replica, .. } = &self.record;
                for other in desc.replicas.iter().filter(|r| r.replica != *replica) {
                    let (group, from, to) = (desc.group, *replica, other.replica);
                    let payload = Payload::Damaged;
                    round.send(other.store, Envelope { group, from, to, payload });
                }
                election_ticks - 1
            }
        }
    }
}

/// Who is in a group's place.
pub(super) enum Slot {
    Live(Box<Live>),
    Quarantined(Box<Quarantined>),
    Gone(Box<Gone>),
}

impl Slot {
    /// As its store tells it; nothing of a replica that was removed.
    pub(super) fn status(&self) -> Option<ReplicaStatus> {
        match self {
            Slot::Live(live) => {
                Some(ReplicaStatus { apply_bytes: live.apply_bytes, ..live.replica.status() })
            }
            Slot::Quarantined(q) => Some(q.status.clone()),
            Slot::Gone(_) => None,
        }
    }
}

impl Shard {
    pub(super) fn live(&mut self) -> impl Iterator<Item = &mut Live> {
        self.slots.values_mut().filter_map(|slot| match slot {
            Slot::Live(live) => Some(&mut **live),
            Slot::Quarantined(_) | Slot::Gone(_) => None,
        })
    }

    /// Runs `f` on a live replica and marks it dirty.
    pub(super) fn touch<T>(
        &mut self,
        group: GroupId,
        f: impl FnOnce(&mut Replica) -> T,
    ) -> Option<T> {
        let Some(Slot::Live(live)) = self.slots.get_mut(&group) else { return None };
        if !live.dirty {
            live.dirty = true;
            self.dirty.push(group);
        }
        Some(f(live.replica()))
    }

    /// A follower hears of it with its leader's next message, or the next tick.
    pub(super) fn persisted(&mut self, note: Persisted, round: &mut Round) {
        if note.ready == REMOVAL {
            return self.tombstone_written(note.group, round);
        }
        let Some(live) = self.same(note.group, note.replica) else { return };
        if live.mood.awaits_persisted || note.ready == 0 {
            self.touch(note.group, |replica| replica.on_persisted(note.ready));
        } else {
            live.persisted = live.persisted.max(note.ready);
        }
    }

    /// So does every replica in which nobody waits for it: the callers have their answers.
    pub(super) fn applied(&mut self, note: Applied, round: &mut Round) {
        self.apply_bytes -= note.bytes;
        if note.destroyed {
            return self.state_destroyed(note.group);
        }
        let Some(live) = self.same(note.group, note.replica) else { return };
        live.apply_bytes -= note.bytes;
        if let Some(ApplyError { index, reason }) = note.failure {
            let group = note.group;
            return self.end(group, Error::Stopped { group, index, reason }, round);
        }
        if live.mood.awaits_applied {
            self.touch(note.group, |replica| replica.on_applied(note.index));
        } else {
            live.applied = live.applied.max(note.index);
        }
    }

    /// Ends a live replica: every request gets `error` from now on.
    pub(super) fn end(&mut self, group: GroupId, error: Error, round: &mut Round) {
        self.close(group, &error);
        self.drop_snapshots(group, round);
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return };
        round.note(Event::ReplicaFailed);
        let view = GroupView { leader: None, leading: false, ..live.replica.group_view() };
        round.views.push(view);
        let ended = Quarantined::ended(&live.replica, error);
        self.place(group, Slot::Quarantined(Box::new(ended)));
    }

    /// Tells the state machine why its replica is quarantined.
    pub(super) fn tell_quarantine(&self, group: GroupId, round: &mut Round) {
        if let Some(Slot::Quarantined(q)) = self.slots.get(&group) {
            self.tell(group, q.record.replica, Notice::Fails(q.error.clone()), round);
        }
    }

    /// Tells the state machines that their replicas' parts end with the store.
    pub(super) fn tell_closing(&self, round: &mut Round) {
        for (group, slot) in &self.slots {
            if let Slot::Live(live) = slot
                && live.replica.has_standing()
            {
                self.tell(*group, live.replica.id(), Notice::Ends(LeaderStop::Closing), round);
            }
        }
    }

    /// The replica, if it stands in line: it takes the command or read along when its turn comes,
    /// and need not be settled for it.
    pub(super) fn in_line(&mut self, group: GroupId) -> Option<&mut Replica> {
        let Some(Slot::Live(live)) = self.slots.get_mut(&group) else { return None };
        (live.waits && live.replica.may_gather()).then_some(&mut live.replica)
    }

    /// The replica that a worker speaks of: another one may be here by now.
    pub(super) fn same(&mut self, group: GroupId, id: ReplicaId) -> Option<&mut Live> {
        match self.slots.get_mut(&group) {
            Some(Slot::Live(live)) if live.replica.id() == id => Some(live),
            _ => None,
        }
    }

    /// As [`Self::touch`], for what a worker tells.
    pub(super) fn touch_same(
        &mut self,
        group: GroupId,
        id: ReplicaId,
        f: impl FnOnce(&mut Replica),
    ) {
        if self.same(group, id).is_some() {
            self.touch(group, f);
        }
    }
}

#[cfg(test)]
#[path = "slot_test.rs"]
mod tests;
