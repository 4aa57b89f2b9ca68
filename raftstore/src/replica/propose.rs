//! Writes on their way: queued for this round, then waiting for the outcome of their entry.
//!
//! An outcome is keyed by (index, term) and entry kind (trap 13): the same entry is applied →
//! done; another is applied at that index → not applied. A replica that stepped down keeps its
//! callers for one election timeout, because most of their entries commit all the same; after it
//! they hear *unknown*.
//!
//! The bytes of commands from their proposal until they are applied count against
//! `group_proposal_bytes_max`, so that a group that cannot get on leaves room for the others.

use super::Replica;
use crate::clock::Time;
use crate::commands::{COMMAND_OVERHEAD, pack};
use crate::completion::Reply;
use crate::error::Error;
use crate::events::Event;
use crate::members::ChangeRefusal;
use crate::types::{EntryKind, GroupId, LogEntry, Nanos};
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use std::collections::{BTreeMap, VecDeque};

/// Fewer commands than this make a small entry: what it costs is hardly theirs.
const SMALL_ENTRY: usize = 16;

struct Pending {
    term: u64,
    kind: EntryKind,
    callers: Vec<Reply>,
    /// Of the commands; nothing for changes of the members.
    bytes: usize,
    proposed: Option<Nanos>,
    /// Set on step-down.
    expires: Option<Nanos>,
}

/// What a committed entry finds of those who proposed it.
#[derive(Default)]
pub(super) struct Settled {
    /// One a command, or empty when nobody waits here.
    pub(super) callers: Vec<Reply>,
    /// When it was proposed, if it was here.
    pub(super) proposed: Option<Nanos>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Writes {
    queued: Vec<(Bytes, Reply)>,
    pending: BTreeMap<u64, Pending>,
    /// Committed and not known to be applied: index and bytes.
    unapplied: VecDeque<(u64, usize)>,
    /// Of all commands in these three.
    bytes: usize,
}

impl Writes {
    pub(super) fn waiting(&self) -> usize {
        self.queued.len() + self.pending.values().map(|p| p.callers.len()).sum::<usize>()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything up to `index` is applied.
    pub(super) fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.unapplied.pop_front_if(|(at, _)| *at <= index) {
            self.bytes -= bytes;
        }
    }

    /// The callers of the entry that is handed to apply now.
    pub(super) fn settle(&mut self, entry: &LogEntry, group: GroupId) -> Settled {
        let Some(pending) = self.pending.remove(&entry.index) else { return Settled::default() };
        let by_index = crate::mutant::active("outcome_by_index_only");
        let same_kind = pending.kind == entry.kind;
        if same_kind && (pending.term == entry.term || by_index) {
            self.unapplied.push_back((entry.index, pending.bytes));
            return Settled { callers: pending.callers, proposed: pending.proposed };
        }
        self.bytes -= pending.bytes;
        let error = if pending.kind == EntryKind::Membership && pending.term == entry.term {
            // The library refused it and put an empty entry in its place.
            Error::Refused { group, refusal: ChangeRefusal::NotApplied }
        } else {
            // Another leader's entry stands there: ours never will.
            Error::NotLeader { group, leader: None }
        };
        fail(pending.callers, &error);
        Settled::default()
    }

    /// The replica leads no longer: from now on outcomes are awaited for a while only.
    pub(super) fn step_down(&mut self, expires: Nanos) {
        for pending in self.pending.values_mut() {
            pending.expires.get_or_insert(expires);
        }
    }

    /// Answers callers whose outcome was not seen in time.
    pub(super) fn expire(&mut self, now: Nanos, group: GroupId) {
        let over = |p: &Pending| p.expires.is_some_and(|at| at <= now);
        if self.pending.values().any(over) {
            for (_, pending) in self.pending.extract_if(.., |_, p| over(p)) {
                self.bytes -= pending.bytes;
                let error = if crate::mutant::active("refused_on_step_down") {
                    Error::NotLeader { group, leader: None }
                } else {
                    Error::Unknown { group }
                };
                fail(pending.callers, &error);
            }
        }
    }

    /// What waited at `index` or above was overwritten here, by another leader's entries. They may be lost
    /// again, and the old ones committed by whoever has them still (Raft paper, figure 8).
    fn overwrite(&mut self, index: u64, group: GroupId) {
        for (_, stale) in self.pending.split_off(&index) {
            self.bytes -= stale.bytes;
            fail(stale.callers, &Error::Unknown { group });
        }
    }

    pub(super) fn close(&mut self, group: GroupId, error: &Error) {
        for (_, reply) in self.queued.drain(..) {
            reply.send(Err(error.clone()));
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            fail(pending.callers, &Error::Unknown { group });
        }
        self.unapplied.clear();
        self.bytes = 0;
    }
}

fn fail(callers: Vec<Reply>, error: &Error) {
    for caller in callers {
        caller.send(Err(error.clone()));
    }
}

fn bytes_of(commands: &[(Bytes, Reply)]) -> usize {
    commands.iter().map(|(command, _)| command.len()).sum()
}

impl Replica {
    /// Whether one more command fits the group's limit. One always fits an empty group.
    pub(crate) fn has_room(&self, command: &Bytes) -> bool {
        let held = self.writes.bytes;
        held == 0 || held + command.len() <= self.config.group_proposal_bytes_max
    }

    /// Queues a command for this round's entry.
    pub(crate) fn queue_write(&mut self, command: Bytes, reply: Reply) {
        if !self.has_room(&command) {
            let what = "too many bytes of commands of this group are under way";
            self.events.push(Event::WriteRefused);
            return reply.send(Err(Error::Busy { group: self.group(), what }));
        }
        self.writes.bytes += command.len();
        self.writes.queued.push((command, reply));
    }

    /// Whether what is queued, and one more, is a small entry still.
    pub(crate) fn may_gather(&self) -> bool {
        self.writes.queued.len() < SMALL_ENTRY
    }

    /// Commands wait for their turn.
    pub(crate) fn has_queued_writes(&self) -> bool {
        !self.writes.queued.is_empty()
    }

    /// Puts the queued commands into entries, as few as their size allows. With `gather` a few
    /// commands stay queued; when they have had their `turn` the queued reads wait for their entry.
    pub(crate) fn propose_queued(&mut self, gather: bool, turn: bool, time: Time) {
        let leads = self.is_leader() && self.raw.raft.lead_transferee.is_none();
        if self.writes.queued.is_empty() || (gather && leads && self.may_gather()) {
            return;
        }
        let queued = std::mem::take(&mut self.writes.queued);
        let refusal = if !self.is_leader() {
            Some(self.not_leader())
        } else if self.raw.raft.lead_transferee.is_some() {
            Some(Error::Busy { group: self.group(), what: "leadership is being handed over" })
        } else {
            None
        };
        if let Some(error) = refusal {
            self.writes.bytes -= bytes_of(&queued);
            fail(queued.into_iter().map(|(_, reply)| reply).collect(), &error);
            return;
        }
        let mut rest = queued;
        let mut last = None;
        while !rest.is_empty() {
            let tail = rest.split_off(self.one_entry(&rest));
            last = self.propose_commands(rest, time.now).or(last);
            rest = tail;
        }
        if let Some(index) = last.filter(|_| turn) {
            let older = crate::mutant::active("read_rides_on_older_entry");
            let index = if older { self.raw.raft.raft_log.committed } else { index };
            self.reads.ride(index, time.ahead, self.read_deadline(time.now));
        }
    }

    /// Whether this leader has proposed what is not committed yet.
    pub(super) fn entry_under_way(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.is_leader() && log.last_index() > log.committed
    }

    /// How many of `queued` fit one entry; at least one.
    fn one_entry(&self, queued: &[(Bytes, Reply)]) -> usize {
        let mut bytes = 0;
        let fit = queued.iter().take_while(|(command, _)| {
            bytes += command.len() + COMMAND_OVERHEAD;
            bytes <= self.config.entry_bytes_max
        });
        fit.count().max(1)
    }

    fn propose_commands(&mut self, queued: Vec<(Bytes, Reply)>, now: Nanos) -> Option<u64> {
        let bytes = bytes_of(&queued);
        let entry =
            Entry { data: pack(queued.iter().map(|(command, _)| command)), ..Entry::default() };
        // Collected in place, their list would have to be made smaller, which costs more.
        let mut callers = Vec::with_capacity(queued.len());
        callers.extend(queued.into_iter().map(|(_, reply)| reply));
        let index = self.propose_entry(entry, EntryKind::Normal, callers);
        match index.and_then(|index| self.writes.pending.get_mut(&index)) {
            Some(pending) => (pending.bytes, pending.proposed) = (bytes, Some(now)),
            None => self.writes.bytes -= bytes,
        }
        index
    }

    /// Proposes one entry; `callers` hear what becomes of it. The entry's index, unless the library
    /// refuses it.
    pub(super) fn propose_entry(
        &mut self,
        entry: Entry,
        kind: EntryKind,
        callers: Vec<Reply>,
    ) -> Option<u64> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.replica.0;
        message.entries = vec![entry].into();
        let accepted = self.raw.raft.step(message);
        if accepted.is_err() {
            let what = "too many uncommitted bytes in this group";
            self.events.push(Event::WriteRefused);
            fail(callers, &Error::Busy { group: self.group(), what });
            return None;
        }
        let index = self.raw.raft.raft_log.last_index();
        self.await_outcome(index, kind, callers);
        Some(index)
    }

    /// `callers` hear what becomes of the entry of this term at `index`, the log's last.
    pub(super) fn await_outcome(&mut self, index: u64, kind: EntryKind, callers: Vec<Reply>) {
        let term = self.raw.raft.term;
        self.writes.overwrite(index, self.record.desc.group);
        let (bytes, proposed, expires) = (0, None, None);
        let pending = Pending { term, kind, callers, bytes, proposed, expires };
        self.writes.pending.insert(index, pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_committed_entry_tells_that_a_write_never_will_be_applied() {
        let group = GroupId(1);
        let mut writes = Writes::default();
        let waits = |writes: &mut Writes, index: u64| {
            let (reply, outcome) = Reply::pending();
            let (term, kind, callers) = (2, EntryKind::Normal, vec![reply]);
            let pending = Pending { term, kind, callers, bytes: 1, proposed: None, expires: None };
            writes.bytes += pending.bytes;
            writes.pending.insert(index, pending);
            outcome
        };
        let (below, at, above) =
            (waits(&mut writes, 4), waits(&mut writes, 5), waits(&mut writes, 6));
        writes.overwrite(5, group);
        for overwritten in [at, above] {
            assert_eq!(overwritten.wait(Default::default()), Some(Err(Error::Unknown { group })));
        }
        assert_eq!(writes.bytes, 1);
        let entry = LogEntry { index: 4, term: 3, kind: EntryKind::Normal, data: Bytes::new() };
        writes.settle(&entry, group);
        let never = Error::NotLeader { group, leader: None };
        assert_eq!(below.wait(Default::default()), Some(Err(never)));
        assert_eq!(writes.bytes, 0);
    }
}
