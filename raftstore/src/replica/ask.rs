//! Reads at a replica that does not lead: it asks the leader up to which index it must have applied.
//!
//! 1. All reads of a round share one question, with a number that is never used again.
//! 2. The leader takes it as a read of its own (`read.rs`): confirmed by a quorum, or by its lease if
//!    nobody but bounded reads waits for it. Its answer is an index, or none.
//! 3. With the index comes its term: an entry of both that is here is committed here too, without
//!    waiting for the leader's next message.
//! 4. The reads are served when this replica has applied up to there. Whatever was acknowledged
//!    before the question left is in the state then: so it is known how old the state is at most, and a
//!    **bounded** read ([`ReadMode::Stale`]) within that age need not ask.
//!
//! Questions and answers may be lost: a question goes out again with every heartbeat interval.
//! Nobody waits without an end: reads fail at their deadline, and at once when the role, the term or the
//! leader changes.
//!
//! The library could forward such reads, but drops them silently in six places (trap 6).
//!
//! [`ReadMode::Stale`]: crate::ReadMode::Stale

use super::Replica;
use super::read::CONTEXTS_MAX;
use crate::clock::Time;
use crate::completion::Reply;
use crate::error::Error;
use crate::shard::Round;
use crate::transport::{Envelope, Payload};
use crate::types::{GroupId, LogPosition, Nanos};
use raft::StateRole;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;

struct Caller {
    reply: Reply,
    /// How old the state may be; `None`: it must hold all that was acknowledged before.
    bound: Option<Nanos>,
}

struct Question {
    number: u64,
    asked: Nanos,
    expires: Nanos,
    callers: Vec<Caller>,
}

/// See the module.
pub(super) struct Asks {
    /// Drawn at the start; numbers are combined with it.
    mark: u64,
    /// Of the last question.
    number: u64,
    queued: Vec<Caller>,
    under_way: VecDeque<Question>,
    ticks: usize,
}

impl Asks {
    pub(super) fn new(seed: u64) -> Self {
        let mark = SmallRng::seed_from_u64(seed ^ 0x0061_736b).random();
        Asks { mark, number: 0, queued: Vec::new(), under_way: VecDeque::new(), ticks: 0 }
    }

    /// A late answer to an earlier process must not match, either: numbers follow the clock, which
    /// does not go back while the machine runs, and the mark tells one run of it from another.
    fn next_number(&mut self, now: Nanos) -> u64 {
        if !crate::mutant::active("question_number_reused") {
            self.number = now.0.max(self.number + 1);
        }
        self.number ^ self.mark
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    pub(super) fn queue(&mut self, reply: Reply, bound: Option<Nanos>) {
        self.queued.push(Caller { reply, bound });
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queued.len() + self.under_way.iter().map(|q| q.callers.len()).sum::<usize>()
    }

    pub(super) fn fail_all(&mut self, error: &Error, group: GroupId) {
        let asked = self.under_way.drain(..).flat_map(|question| question.callers);
        fail(self.queued.drain(..).chain(asked), error, group);
    }

    /// Fails reads that the leader did not answer in time.
    pub(super) fn expire(&mut self, now: Nanos, group: GroupId) {
        let over = self.under_way.iter().take_while(|q| q.expires <= now).count();
        let callers = self.under_way.drain(..over).flat_map(|question| question.callers);
        let what = "the leader did not tell the read's index in time";
        fail(callers, &Error::Busy { group, what }, group);
    }
}

fn fail(callers: impl Iterator<Item = Caller>, error: &Error, group: GroupId) {
    for Caller { reply, bound } in callers {
        let error = match bound {
            Some(Nanos(bound)) => Error::TooOld { group, bound_ms: bound / 1_000_000 },
            None => error.clone(),
        };
        reply.send(Err(error));
    }
}

impl Replica {
    /// Sends the round's question, and those again that have no answer.
    pub(super) fn ask_leader(&mut self, time: Time, round: &mut Round) {
        self.commit_awaited();
        if self.reads.asks.waiting() == 0 {
            return;
        }
        if self.is_leader() {
            let queued = std::mem::take(&mut self.reads.asks.queued);
            let (bounded, exact): (Vec<Caller>, Vec<Caller>) =
                queued.into_iter().partition(|caller| caller.bound.is_some());
            for (callers, by_lease) in [(bounded, true), (exact, false)] {
                self.read_as_leader(callers.into_iter().map(|c| c.reply).collect(), by_lease);
            }
            return;
        }
        let Some(leader) = self.leader() else {
            let error = Error::NotLeader { group: self.group(), leader: None };
            return self.reads.asks.fail_all(&error, self.record.desc.group);
        };
        let expires = self.read_deadline(time.now);
        let asks = &mut self.reads.asks;
        let again = asks.ticks >= self.config.heartbeat_ticks;
        let mut sent: Vec<(u64, bool)> = Vec::new();
        let by_lease = |q: &Question| q.callers.iter().all(|caller| caller.bound.is_some());
        if again {
            asks.ticks = 0;
            sent.extend(asks.under_way.iter().map(|q| (q.number, by_lease(q))));
        }
        if !asks.queued.is_empty() && asks.under_way.len() < CONTEXTS_MAX {
            let callers = std::mem::take(&mut asks.queued);
            let (number, asked) = (asks.next_number(time.now), time.ahead);
            let question = Question { number, asked, expires, callers };
            sent.push((number, by_lease(&question)));
            asks.under_way.push_back(question);
        }
        for (number, by_lease) in sent {
            let payload = Payload::AskIndex { number, by_lease };
            let (group, from, to) = (self.group(), self.me.replica, leader.replica);
            round.send(leader.store, Envelope { group, from, to, payload });
        }
    }

    /// The leader's answer.
    pub(super) fn index_told(&mut self, number: u64, position: LogPosition) {
        let asks = &mut self.reads.asks;
        let Some(at) = asks.under_way.iter().position(|q| q.number == number) else { return };
        let question = asks.under_way.remove(at).expect("position is inside");
        let callers = question.callers.into_iter();
        if position.index == 0 {
            let group = self.group();
            let what = "the leader could not confirm the read";
            return fail(callers, &Error::Busy { group, what }, group);
        }
        let replies: Vec<Reply> = callers.map(|caller| caller.reply).collect();
        self.reads.counts.asked += replies.len() as u64;
        self.reads.confirm(replies, position, question.asked, question.expires);
    }

    /// What reads here wait for is committed: if it is that entry that is here, it may be applied.
    fn commit_awaited(&mut self) {
        let Some(LogPosition { index, term }) = self.awaited() else { return };
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Follower && term > 0 && index > raft.raft_log.committed {
            raft.raft_log.maybe_commit(index, term);
        }
    }
}
