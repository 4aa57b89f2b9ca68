//! Reads, and the ways to know that nothing newer was acknowledged before they came.
//!
//! - **ReadIndex** ([`ReadMode::Linearizable`]): one context for all reads of a round, confirmed by a
//!   quorum (Raft thesis, 6.4). Reads of a group that stands in line to write (`small_entries_max`)
//!   wait for its entry instead: a quorum that takes an entry proposed after the read came has no newer
//!   leader, which is all that a context's heartbeats would show, and they and what they set off are
//!   up to eight messages.
//! - **Lease** ([`ReadMode::Lease`], `lease.rs`): the commit index, at once. Without a lease they are
//!   as the others.
//! - A **member that asks** (`ask.rs`) is a reader as any other; its answer is the index.
//!
//! A context is unique for ever (replica, term, counter), so no late answer can match a newer
//! read. Reads fail as soon as the role or term changes, and wait until this replica has applied
//! up to their index. None is served while a snapshot replaces the state.

use super::Replica;
use super::ask::Asks;
use crate::clock::Time;
use crate::completion::{Answer, Reply};
use crate::error::Error;
use crate::message::ReadMode;
use crate::shard::{ReadCounts, Round};
use crate::transport::{Envelope, Payload};
use crate::types::{GroupId, LogPosition, Nanos, ReplicaId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Contexts, or questions to the leader, under way at once; reads that come meanwhile share the
/// next one.
pub(super) const CONTEXTS_MAX: usize = 2;
/// Reads that may wait in one group.
const WAITING_MAX: usize = 1 << 16;

/// Who waits for the same answer.
#[derive(Default)]
struct Readers {
    callers: Vec<Reply>,
    /// Members that ask for readers of their own, and the numbers of their questions.
    members: Vec<(ReplicaId, u64)>,
}

impl Readers {
    fn len(&self) -> usize {
        self.callers.len() + self.members.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn append(&mut self, mut other: Readers) {
        self.callers.append(&mut other.callers);
        self.members.append(&mut other.members);
    }
}

struct Batch {
    context: Bytes,
    readers: Readers,
    asked: Nanos,
    /// The same by the clock that deadlines go by.
    began: Nanos,
    expires: Nanos,
}

/// Reads that an entry of this leader confirms.
struct Riding {
    index: u64,
    readers: Readers,
    asked: Nanos,
    expires: Nanos,
}

/// Reads that may be served once their index is applied.
struct Confirmed {
    /// Its term as far as the leader told it, else 0.
    position: LogPosition,
    /// What was acknowledged before then is not behind it; by [`Time::ahead`].
    asked: Nanos,
    expires: Nanos,
    callers: Vec<Reply>,
}

/// See the module.
pub(super) struct Reads {
    counter: u64,
    queued: Readers,
    /// Those that a lease may serve.
    leased: Readers,
    confirming: VecDeque<Batch>,
    /// Waiting for entries of this term, in their order.
    riding: VecDeque<Riding>,
    /// In the order of confirmation.
    applying: VecDeque<Confirmed>,
    /// The applied state holds everything that was acknowledged before then; by [`Time::ahead`].
    as_of: Option<Nanos>,
    /// Answers to members, to be sent; index 0 = none.
    answers: Vec<(ReplicaId, u64, LogPosition)>,
    pub(super) asks: Asks,
    pub(super) counts: ReadCounts,
}

impl Reads {
    pub(super) fn new(seed: u64) -> Self {
        Reads {
            counter: 0,
            queued: Readers::default(),
            leased: Readers::default(),
            confirming: VecDeque::new(),
            riding: VecDeque::new(),
            applying: VecDeque::new(),
            as_of: None,
            answers: Vec::new(),
            asks: Asks::new(seed),
            counts: ReadCounts::default(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        let confirming: usize = self.confirming.iter().map(|b| b.readers.len()).sum();
        let riding: usize = self.riding.iter().map(|r| r.readers.len()).sum();
        let applying: usize = self.applying.iter().map(|c| c.callers.len()).sum();
        let queued = self.queued.len() + self.leased.len();
        queued + confirming + riding + applying + self.asks.waiting()
    }

    pub(super) fn await_applied(&self) -> bool {
        !self.applying.is_empty() || !self.riding.is_empty()
    }

    pub(super) fn fail_all(&mut self, error: &Error, group: GroupId) {
        let mut all = std::mem::take(&mut self.queued);
        all.append(std::mem::take(&mut self.leased));
        self.confirming.drain(..).for_each(|batch| all.append(batch.readers));
        self.riding.drain(..).for_each(|riding| all.append(riding.readers));
        let confirmed = self.applying.drain(..).flat_map(|c| c.callers);
        all.callers.extend(confirmed);
        self.refuse(all, error);
        self.asks.fail_all(error, group);
    }

    fn refuse(&mut self, readers: Readers, error: &Error) {
        readers.callers.into_iter().for_each(|reply| reply.send(Err(error.clone())));
        let none = LogPosition::default();
        let members = readers.members.into_iter();
        self.answers.extend(members.map(|(member, number)| (member, number, none)));
    }

    /// Fails reads that no quorum confirmed in time; callers may ask again.
    pub(super) fn expire(&mut self, now: Nanos, group: GroupId) {
        let confirming = self.confirming.iter().take_while(|b| b.expires <= now).count();
        let riding = self.riding.iter().take_while(|r| r.expires <= now).count();
        let mut late = Readers::default();
        self.confirming.drain(..confirming).for_each(|batch| late.append(batch.readers));
        self.riding.drain(..riding).for_each(|riding| late.append(riding.readers));
        let what = "no quorum confirmed the read in time";
        self.refuse(late, &Error::Busy { group, what });
        let unapplied = |c: &Confirmed| c.expires <= now;
        if self.applying.iter().any(unapplied) {
            let all = std::mem::take(&mut self.applying).into_iter();
            let (late, rest): (VecDeque<Confirmed>, _) = all.partition(unapplied);
            self.applying = rest;
            let what = "what the read must see was not applied here in time";
            let callers = late.into_iter().flat_map(|confirmed| confirmed.callers);
            callers.for_each(|reply| reply.send(Err(Error::Busy { group, what })));
        }
        self.asks.expire(now, group);
    }

    /// The queued reads wait for the entry at `index`, which this leader has just proposed.
    pub(super) fn ride(&mut self, index: u64, asked: Nanos, expires: Nanos) {
        let readers = std::mem::take(&mut self.queued);
        if !readers.is_empty() {
            self.riding.push_back(Riding { index, readers, asked, expires });
        }
    }

    /// Whatever was acknowledged before `asked` is not behind `position`.
    fn may_read(&mut self, readers: Readers, position: LogPosition, asked: Nanos, expires: Nanos) {
        let members = readers.members.into_iter();
        self.answers.extend(members.map(|(member, number)| (member, number, position)));
        self.confirm(readers.callers, position, asked, expires);
    }

    pub(super) fn confirm(
        &mut self,
        callers: Vec<Reply>,
        position: LogPosition,
        asked: Nanos,
        expires: Nanos,
    ) {
        self.applying.push_back(Confirmed { position, asked, expires, callers });
    }

    /// Answers every confirmed read whose index is applied.
    fn serve(&mut self, applied: u64) {
        if self.applying.is_empty() && self.riding.is_empty() {
            return; // As with nearly every entry.
        }
        let blind = crate::mutant::active("read_before_apply");
        let mut done: Vec<Reply> = Vec::new();
        while self.applying.front().is_some_and(|c| c.position.index <= applied || blind) {
            let confirmed = self.applying.pop_front().expect("just seen");
            self.as_of = self.as_of.max(Some(confirmed.asked));
            done.extend(confirmed.callers);
        }
        let ridden = self.riding.iter().take_while(|r| r.index <= applied).count();
        for Riding { index, readers, asked, .. } in self.riding.drain(..ridden) {
            self.counts.confirmed += readers.len() as u64;
            self.as_of = self.as_of.max(Some(asked));
            done.extend(readers.callers);
            // Its term is asked for when the answer leaves.
            let position = LogPosition { index, term: 0 };
            let members = readers.members.into_iter();
            self.answers.extend(members.map(|(member, number)| (member, number, position)));
        }
        if !done.is_empty() {
            Reply::send_all(done.into_iter().map(|reply| (reply, Ok(Answer::ReadReady))));
        }
    }
}

impl Replica {
    /// Queues a read for this round.
    pub(crate) fn queue_read(&mut self, mode: ReadMode, reply: Reply) {
        if self.reads.waiting() >= WAITING_MAX {
            let what = "too many reads wait in this group";
            return reply.send(Err(Error::Busy { group: self.group(), what }));
        }
        match mode {
            ReadMode::Linearizable => self.reads.queued.callers.push(reply),
            ReadMode::Lease => self.reads.leased.callers.push(reply),
            ReadMode::Follower => self.reads.asks.queue(reply, None),
            ReadMode::Stale { bound } => self.reads.asks.queue(reply, Some(bound)),
        }
    }

    /// A member asks up to which index it must have applied.
    pub(super) fn asked_for_index(&mut self, member: ReplicaId, number: u64, by_lease: bool) {
        let log = &self.raw.raft.raft_log;
        if crate::mutant::active("index_told_unconfirmed") && self.is_leader() {
            let position = LogPosition { index: log.committed, term: 0 };
            return self.reads.answers.push((member, number, position));
        }
        let refused = !self.is_leader() || self.reads.waiting() >= WAITING_MAX;
        if refused {
            self.reads.answers.push((member, number, LogPosition::default()));
        } else if by_lease {
            self.reads.leased.members.push((member, number));
        } else {
            self.reads.queued.members.push((member, number));
        }
    }

    /// Whether a lease read that comes now may be served now.
    pub(crate) fn serves_by_lease(&mut self, time: Time) -> bool {
        self.has_lease(time) && self.feed.applied() >= self.raw.raft.raft_log.committed
    }

    /// Whether the state here is at most `bound` old.
    pub(crate) fn is_fresh(&self, bound: Nanos, time: Time) -> bool {
        let within = |as_of: Nanos| time.ahead.0.saturating_sub(as_of.0) <= bound.0;
        let young = self.reads.as_of.is_some_and(within);
        !self.snapshots.installing() && (young || crate::mutant::active("bound_ignored"))
    }

    /// Answers what may be answered now.
    pub(super) fn serve_reads(&mut self) {
        if !self.snapshots.installing() {
            self.reads.serve(self.feed.applied());
        }
    }

    /// A quorum confirmed `context`: its reads may be served at `index`.
    pub(super) fn context_confirmed(&mut self, context: &[u8], index: u64, round: &mut Round) {
        let Some(at) = self.reads.confirming.iter().position(|b| b.context == context) else {
            return;
        };
        let batch = self.reads.confirming.remove(at).expect("position is inside");
        self.reads.counts.confirmed += batch.readers.len() as u64;
        round.seen.reads_confirmed.push(Nanos(round.now.0.saturating_sub(batch.began.0)));
        let position = LogPosition { index, term: 0 };
        self.reads.may_read(batch.readers, position, batch.asked, batch.expires);
    }

    /// Serves queued reads by the lease; the others get one context, or are refused at once: the
    /// library would drop them silently (trap 6). While writes stand in line they stay queued: they
    /// ride on their entry.
    pub(crate) fn confirm_queued_reads(&mut self, time: Time, round: &mut Round) {
        self.ask_leader(time, round);
        self.lease_queued(time);
        self.serve_reads();
        if self.reads.queued.is_empty() || self.has_queued_writes() {
            return;
        }
        let unsettled = !self.raw.raft.commit_to_current_term();
        if self.is_leader() && unsettled && crate::mutant::active("serve_before_term_commit") {
            let index = self.raw.raft.raft_log.committed;
            let queued = std::mem::take(&mut self.reads.queued);
            return self.reads.may_read(
                queued,
                LogPosition { index, term: 0 },
                time.ahead,
                self.read_deadline(time.now),
            );
        }
        let refusal = if !self.is_leader() {
            Some(self.not_leader())
        } else if unsettled {
            Some(Error::Busy { group: self.group(), what: "the new leader has not committed yet" })
        } else {
            None
        };
        if let Some(error) = refusal {
            let queued = std::mem::take(&mut self.reads.queued);
            return self.reads.refuse(queued, &error);
        }
        if self.reads.confirming.len() >= CONTEXTS_MAX {
            return;
        }
        let context = self.next_context();
        self.reads.confirming.push_back(Batch {
            context: context.clone(),
            readers: std::mem::take(&mut self.reads.queued),
            asked: time.ahead,
            began: time.now,
            expires: self.read_deadline(time.now),
        });
        self.raw.read_index(context.to_vec());
    }

    fn lease_queued(&mut self, time: Time) {
        if self.reads.leased.is_empty() {
            return;
        }
        let leased = std::mem::take(&mut self.reads.leased);
        if self.has_lease(time) {
            self.reads.counts.leased += leased.len() as u64;
            let index = self.raw.raft.raft_log.committed;
            let expires = self.read_deadline(time.now);
            self.reads.may_read(leased, LogPosition { index, term: 0 }, time.ahead, expires);
        } else {
            if self.is_leader() {
                self.reads.counts.degraded += leased.len() as u64;
            }
            self.reads.queued.append(leased);
        }
    }

    /// Readers that came to a follower that leads by now.
    pub(super) fn read_as_leader(&mut self, callers: Vec<Reply>, by_lease: bool) {
        let readers = Readers { callers, members: Vec::new() };
        if by_lease {
            self.reads.leased.append(readers);
        } else {
            self.reads.queued.append(readers);
        }
    }

    /// When reads that no quorum confirms are given up.
    pub(super) fn read_deadline(&self, now: Nanos) -> Nanos {
        let patience = 2 * self.config.election_ticks as u64 * self.config.tick_interval_ms;
        Nanos(now.0 + patience * 1_000_000)
    }

    fn next_context(&mut self) -> Bytes {
        if !crate::mutant::active("reuse_read_context") {
            self.reads.counter += 1;
        }
        let mut context = BytesMut::with_capacity(24);
        context.put_u64(self.me.replica.0);
        context.put_u64(self.raw.raft.term);
        context.put_u64(self.reads.counter);
        context.freeze()
    }

    /// Reads are left for the next context once one under way is confirmed.
    pub(crate) fn has_queued_reads(&self) -> bool {
        !self.reads.queued.is_empty() || self.reads.asks.has_queued()
    }

    /// The last position that a confirmed read here waits for.
    pub(super) fn awaited(&self) -> Option<LogPosition> {
        self.reads.applying.back().map(|confirmed| confirmed.position)
    }

    /// Sends members what they asked for, and gives what was counted since the last call.
    pub(crate) fn answer_members(&mut self, round: &mut Round) {
        round.reads.add(&std::mem::take(&mut self.reads.counts));
        round.seen.events.append(&mut self.events);
        for (member, number, position) in std::mem::take(&mut self.reads.answers) {
            let Some(store) = self.store_of(member) else { continue };
            // With its term the other can tell whether it has that very entry.
            let term = self.raw.raft.raft_log.term(position.index).unwrap_or(0);
            let position = LogPosition { term, ..position };
            let payload = Payload::ReadIndex { number, position };
            let (group, from) = (self.group(), self.me.replica);
            round.send(store, Envelope { group, from, to: member, payload });
        }
    }
}
