//! Committed entries on their way to apply, in order and bounded.
//!
//! When the apply queue is full, committed entries are parked: their indexes are remembered, the
//! entries dropped, and read again when there is room (from the cache or the log).

use super::Replica;
use super::propose::Settled;
use super::storage::{Wanted, from_raft};
use crate::apply::ApplyEntry;
use crate::commands::unpack;
use crate::error::LogError;
use crate::message::{ApplyTask, Committed, Fetched, Notice, Standing};
use crate::shard::Round;
use crate::types::{EntryKind, LogEntry, LogPosition, Nanos};
use raft::StateRole;
use raft::eraftpb::Entry;

/// Bytes read back at once for parked entries.
const PARKED_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct Feed {
    /// Last index handed to apply.
    handed: u64,
    /// Last index that may be handed: committed, persisted, and given by a ready.
    committed: u64,
    /// Last index applied.
    applied: u64,
    /// Reads for followers that the reader is doing.
    pub(super) waiting_fetch: Vec<Wanted>,
}

impl Feed {
    pub(super) fn new(applied: u64) -> Self {
        Feed { handed: applied, committed: applied, applied, waiting_fetch: Vec::new() }
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Everything up to `index` was handed to apply.
    pub(super) fn has_handed(&self, index: u64) -> bool {
        self.handed >= index
    }

    /// Committed entries that are not handed to apply.
    pub(super) fn parked(&self) -> u64 {
        self.committed - self.handed
    }

    /// Everything that was given by a ready is applied.
    pub(super) fn is_settled(&self) -> bool {
        self.handed == self.committed && self.applied == self.handed
    }

    /// The state up to `index` comes from a snapshot.
    pub(super) fn jump(&mut self, index: u64) {
        (self.handed, self.committed) = (index, index);
    }

    /// It is there.
    pub(super) fn loaded(&mut self, index: u64) {
        self.applied = index;
    }
}

impl Replica {
    /// Takes a ready's committed entries.
    pub(super) fn take_committed(
        &mut self,
        entries: Vec<Entry>,
        apply_full: bool,
        round: &mut Round,
    ) {
        let Some(last) = entries.last().map(|e| e.index) else { return };
        let nothing_parked = self.feed.handed == self.feed.committed;
        self.feed.committed = last;
        let held = self.snapshots.installing() || self.is_recovery_unwritten();
        if nothing_parked && !apply_full && !held {
            self.hand(entries.into_iter().map(from_raft), round);
        }
    }

    /// Whether committed entries wait for room in the apply queue.
    pub(crate) fn has_parked(&self) -> bool {
        let held = self.snapshots.installing() || self.is_recovery_unwritten();
        self.feed.handed < self.feed.committed && !held
    }

    /// Hands out one portion of parked entries.
    pub(crate) fn unpark(&mut self, round: &mut Round) -> Result<(), LogError> {
        if self.has_parked() && !self.members.removed {
            let (low, high) = (self.feed.handed + 1, self.feed.committed + 1);
            let entries = self.raw.store().read(low, high, PARKED_BYTES)?;
            self.hand(entries.into_iter(), round);
        }
        Ok(())
    }

    fn hand(&mut self, entries: impl ExactSizeIterator<Item = LogEntry>, round: &mut Round) {
        let group = self.group();
        let mut bytes = 0;
        let (mut notice, mut proposed) = (None, None);
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, self.feed.handed + 1, "apply order has a hole");
            self.feed.handed = entry.index;
            bytes += entry.data.len() + 64;
            let raft = &self.raw.raft;
            if raft.state == StateRole::Leader
                && entry.term == raft.term
                && self.told != (Standing::Leads { term: raft.term })
            {
                self.told = Standing::Leads { term: raft.term };
                notice = Some(Notice::Becomes(self.told));
            }
            committed.push(self.committed_entry(entry, &mut proposed, round));
            if self.members.removed {
                break;
            }
        }
        let commit = self.commit_position();
        let (shard, replica, entries) = (round.shard, self.me.replica, committed);
        let task = ApplyTask { shard, group, replica, entries, commit, bytes, proposed, notice };
        round.apply.push(task);
    }

    /// `first`: when the first entry was proposed for which callers wait here.
    fn committed_entry(
        &mut self,
        entry: LogEntry,
        first: &mut Option<Nanos>,
        round: &mut Round,
    ) -> Committed {
        let group = self.group();
        let Settled { callers, proposed } = self.writes.settle(&entry, group);
        if let Some(Nanos(at)) = proposed {
            round.seen.replicated.push(Nanos(round.now.0.saturating_sub(at)));
            first.get_or_insert(Nanos(at));
        }
        let position = LogPosition { index: entry.index, term: entry.term };
        if entry.kind == EntryKind::Membership {
            let members = Some(self.apply_members(&entry, callers, round));
            let entry = ApplyEntry { position, commands: Vec::new(), members };
            return Committed { entry, callers: Vec::new() };
        }
        // Packed by a leader of this cluster and checked on every hop and read.
        let commands = unpack(&entry.data)
            .unwrap_or_else(|e| panic!("group {group}: committed entry {}: {e}", entry.index));
        Committed { entry: ApplyEntry { position, commands, members: None }, callers }
    }

    /// What may be stored as committed: never beyond this replica's own disk (trap 4).
    fn commit_position(&self) -> LogPosition {
        let log = &self.raw.raft.raft_log;
        let index = if crate::mutant::active("commit_beyond_persisted") {
            log.committed
        } else {
            log.committed.min(log.persisted)
        };
        let term = log.term(index).expect("a committed index has a term");
        LogPosition { index, term }
    }

    /// Tells the state machine what its replica's part is now, unless it knows, in its place in the log.
    pub(super) fn tell_standing(&mut self, next: Standing, round: &mut Round) {
        let both_idle = self.told.is_idle() && next.is_idle();
        if next != self.told && !both_idle {
            self.told = next;
            let notice = Notice::Becomes(next);
            round.apply.push(ApplyTask::notice(round.shard, self.group(), self.me.replica, notice));
        }
    }

    /// Everything up to `index` is applied and its callers are answered.
    pub(crate) fn on_applied(&mut self, index: u64) {
        if index > self.feed.applied {
            self.feed.applied = index;
            self.raw.advance_apply_to(index);
            self.writes.applied(index);
        }
        self.serve_reads();
        self.members.applied(index);
    }

    /// The reader brought entries for a follower.
    pub(crate) fn on_fetched(&mut self, fetched: Fetched) {
        let waiting = &mut self.feed.waiting_fetch;
        let Some(at) = waiting.iter().position(|wanted| wanted.low == fetched.low) else { return };
        let wanted = waiting.swap_remove(at);
        // Truncated meanwhile: the next heartbeat answer asks again.
        if let Ok(entries) = fetched.entries {
            self.raw.mut_store().put_fetched(entries);
            self.raw.on_entries_fetched(wanted.context);
            self.raw.mut_store().drop_fetched();
        }
    }
}
