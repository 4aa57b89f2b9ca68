//! The contract with the consensus library: `ready` → `advance_append_async` →
//! `on_persist_ready`, and nothing of it anywhere else (design, section 6).
//!
//! 1. Take the ready; show its entries in the storage before advancing (trap 2).
//! 2. A leader's messages leave at once, unless this ready, or one that is not durable yet, changes
//!    term or vote; all others are held until this and every earlier ready is durable (trap 3).
//! 3. Term, vote and entries go to the log in one write; a commit-only change goes nowhere.
//! 4. Committed entries go to apply; confirmed reads wait for apply.

use super::storage::{Wanted, from_raft};
use super::{Replica, RoleView, codec};
use crate::clock::Time;
use crate::events::Event;
use crate::log::GroupWrite;
use crate::message::{FetchTask, LogTask, Standing};
use crate::shard::Round;
use crate::transport::{Envelope, Payload};
use crate::types::{HardState, LogEntry, Nanos, ReplicaId, StoreId};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ReadState, Ready, StateRole};

/// Readies taken in one round: the first may make a sole voter's entries committed at once.
const READIES_MAX: usize = 4;

impl Replica {
    /// Takes what the library has decided. Between `ready` and `advance_append_async` nothing
    /// steps, proposes or ticks (trap 1).
    pub(crate) fn take_readies(&mut self, time: Time, apply_full: bool, round: &mut Round) {
        for _ in 0..READIES_MAX {
            // Behind the write that begins an install nothing is written before it is durable.
            if !self.raw.has_ready() || self.members.removed || self.snapshots.writing() {
                break;
            }
            self.take_ready(time, apply_full, round);
        }
        for wanted in self.raw.mut_store().take_wanted() {
            // The library asks again and again; who lags as far as another one asks later.
            if self.feed.waiting_fetch.iter().any(|waiting| waiting.low == wanted.low) {
                continue;
            }
            if !self.is_wanted(wanted.low) {
                continue;
            }
            let (shard, group, replica) = (round.shard, self.group(), self.me.replica);
            let Wanted { low, high, bytes_max, .. } = wanted;
            let task = FetchTask { shard, group, replica, low, high, bytes_max };
            self.feed.waiting_fetch.push(wanted);
            round.fetch.push(task);
        }
    }

    /// Whether somebody who would take them lacks the entries from `low` on; for others they would be
    /// read in vain, again and again.
    fn is_wanted(&self, low: u64) -> bool {
        let peers = self.raw.raft.prs().iter().filter(|(_, progress)| progress.next_idx == low);
        let mut stores = peers.filter_map(|(id, _)| self.store_of(ReplicaId(*id))).peekable();
        stores.peek().is_none() || stores.any(|store| !self.is_past_catching_up(store))
    }

    fn take_ready(&mut self, time: Time, apply_full: bool, round: &mut Round) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        let install = !ready.snapshot().is_empty();
        let vote_changed = self.take_vote(&ready);
        if vote_changed {
            self.vote_ready = number;
        }
        let entries = log_entries(ready.take_entries());
        let now_out = ready.take_messages();
        let after_persist = ready.take_persisted_messages();
        let read_states = ready.take_read_states();
        let committed = ready.take_committed_entries();
        let install = install.then(|| self.install_write(number, round));
        for entry in &entries {
            self.raw.mut_store().append(entry.clone());
        }
        self.raw.advance_append_async(ready);

        // A sole voter leads before its vote is durable.
        let vote_under_way = self.unpersisted.contains(&self.vote_ready)
            && !crate::mutant::active("sole_voter_sends_early");
        let mut held = Vec::with_capacity(after_persist.len());
        self.send(after_persist, time, |store, envelope| held.push((store, envelope)));
        if vote_changed || vote_under_way {
            self.send(now_out, time, |store, envelope| held.push((store, envelope)));
        } else {
            self.send(now_out, time, |store, envelope| round.send(store, envelope));
        }
        if crate::mutant::active("vote_before_persist") {
            round.send_all(std::mem::take(&mut held));
        }
        match install {
            Some(write) => {
                assert!(entries.is_empty(), "a snapshot is stepped alone");
                self.begin_write(number, write, held, round);
            }
            None => self.persist(number, vote_changed, entries, held, round),
        }

        self.take_committed(committed, apply_full, round);
        if self.members.removed {
            return;
        }
        for ReadState { index, request_ctx } in read_states {
            self.context_confirmed(&request_ctx, index, round);
        }
        self.serve_reads();
        self.note_role(time.now, round);
    }

    /// Whether the ready changes term or vote, which are then saved.
    fn take_vote(&mut self, ready: &Ready) -> bool {
        let Some(hs) = ready.hs() else { return false };
        let changed = (hs.term, hs.vote) != (self.saved.term, self.saved.vote);
        if changed {
            self.saved = HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
        }
        changed
    }

    fn persist(
        &mut self,
        number: u64,
        vote_changed: bool,
        entries: Vec<LogEntry>,
        held: Vec<(StoreId, Envelope)>,
        round: &mut Round,
    ) {
        let vote_changed = vote_changed && !crate::mutant::active("vote_not_written");
        let writes = vote_changed || !entries.is_empty();
        if !writes && self.unpersisted.is_empty() {
            round.send_all(held);
            self.raw.on_persist_ready(number);
            return;
        }
        if !writes && held.is_empty() {
            return;
        }
        let ready = if writes { number } else { 0 };
        if crate::mutant::active("ack_before_sync") {
            self.raw.on_persist_ready(number);
        }
        let write = GroupWrite {
            group: self.group(),
            hard_state: vote_changed.then_some(self.saved),
            append: entries,
            record: self.record_due(number),
            ..GroupWrite::default()
        };
        self.begin_write(ready, write, held, round);
    }

    /// Hands a write of the ready `ready` (0 = only `held` waits) to the log writer.
    fn begin_write(
        &mut self,
        ready: u64,
        write: GroupWrite,
        held: Vec<(StoreId, Envelope)>,
        round: &mut Round,
    ) {
        if ready > 0 {
            self.unpersisted.push_back(ready);
        }
        let (shard, replica) = (round.shard, self.me.replica);
        round.log.push(LogTask { shard, replica, write, ready, held, created: Vec::new() });
    }

    /// The log writer made every ready up to `number` durable.
    pub(crate) fn on_persisted(&mut self, number: u64) {
        while self.unpersisted.front().is_some_and(|n| *n <= number) {
            self.unpersisted.pop_front();
        }
        if number > 0 {
            let too_far = crate::mutant::active("persisted_too_far");
            let latest = self.unpersisted.back().filter(|_| too_far);
            self.raw.on_persist_ready(latest.copied().unwrap_or(number));
            self.snapshots.persisted(number);
        }
    }

    /// Gives `send` each message that is to leave, in order, and where it goes.
    fn send(
        &mut self,
        messages: Vec<Message>,
        time: Time,
        mut send: impl FnMut(StoreId, Envelope),
    ) {
        for message in &messages {
            if needless(message, &mut self.acknowledged) {
                continue;
            }
            let to = ReplicaId(message.to);
            let Some(store) = self.store_of(to) else { continue };
            let bulk =
                message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty();
            if bulk && self.spares(store) {
                continue;
            }
            let bytes = codec::encode(message, self.stamp_for(message, time));
            let payload = Payload::Raft { bytes, bulk };
            send(store, Envelope { group: self.group(), from: self.me.replica, to, payload });
        }
    }

    /// Notices a change of role, term or leader: reads fail, writes wait for a while only, and the
    /// state machine hears of it.
    fn note_role(&mut self, now: Nanos, round: &mut Round) {
        let raft = &self.raw.raft;
        let view = RoleView { term: raft.term, leader: raft.leader_id, role: raft.state };
        if view == self.seen {
            return;
        }
        let was_leader = self.seen.role == StateRole::Leader;
        let same_lead = was_leader && view.role == StateRole::Leader && view.term == self.seen.term;
        self.note_election(view);
        self.seen = view;
        round.views.push(self.group_view());
        self.settle_transfer();
        if same_lead {
            return;
        }
        let error = self.not_leader();
        self.reads.fail_all(&error, self.record.desc.group);
        if was_leader {
            let patience = self.config.election_ticks as u64 * self.config.tick_interval_ms;
            self.writes.step_down(Nanos(now.0 + patience * 1_000_000));
        }
        self.tell_standing(self.standing(), round);
    }

    /// What becomes of the replica, for metrics.
    fn note_election(&mut self, next: RoleView) {
        let seen = self.seen;
        let another = (next.leader, next.term) != (seen.leader, seen.term);
        let all = [
            (Event::LeaderFound, next.leader != raft::INVALID_ID && another),
            (Event::ElectionWon, next.role == StateRole::Leader && another),
            (
                Event::PreVoteLost,
                seen.role == StateRole::PreCandidate && next.role == StateRole::Follower,
            ),
        ];
        self.events.extend(all.into_iter().filter(|(_, so)| *so).map(|(event, _)| event));
    }

    /// A leader has a part only when its first entry is committed: `feed.rs` says so.
    fn standing(&self) -> Standing {
        let RoleView { term, leader, role } = self.seen;
        match role {
            StateRole::Leader if self.told == (Standing::Leads { term }) => self.told,
            StateRole::Follower if leader != raft::INVALID_ID => {
                Standing::Follows { leader: ReplicaId(leader), term }
            }
            _ => Standing::Idle { term },
        }
    }
}

/// In a vector of its own: `collect` would make the library's larger one smaller, which costs more.
fn log_entries(entries: Vec<Entry>) -> Vec<LogEntry> {
    let mut taken = Vec::with_capacity(entries.len());
    taken.extend(entries.into_iter().map(from_raft));
    taken
}

/// Whether `message` is a heartbeat to a peer that has acknowledged an append since the last one was
/// due. It knows its leader, and its answer would set off an append and another answer, four
/// messages in all. The next heartbeat goes out unless it acknowledges another append by then, so the
/// silence lasts two intervals at most.
fn needless(message: &Message, acknowledged: &mut Vec<u64>) -> bool {
    if message.get_msg_type() != MessageType::MsgHeartbeat || !message.context.is_empty() {
        return false;
    }
    let before = acknowledged.len();
    acknowledged.retain(|peer| *peer != message.to);
    acknowledged.len() < before
}
