//! Linearizable reads: one ReadIndex context for all reads of a round (Raft thesis, 6.4).
//!
//! A context is unique for ever (replica, term, counter), so no late answer can match a newer
//! read. Reads fail as soon as the role or term changes, and wait until this replica has applied
//! up to their index.

use super::Replica;
use crate::completion::{Answer, Reply};
use crate::error::Error;
use crate::types::{GroupId, Nanos};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Contexts under way at once; reads that come meanwhile share the next one.
const CONTEXTS_MAX: usize = 2;
/// Reads that may wait in one group.
const WAITING_MAX: usize = 1 << 16;

struct Batch {
    context: Bytes,
    replies: Vec<Reply>,
    expires: Nanos,
}

/// See the module.
#[derive(Default)]
pub(super) struct Reads {
    counter: u64,
    queued: Vec<Reply>,
    confirming: VecDeque<Batch>,
    /// Confirmed, waiting for apply: (read index, callers), in the order of confirmation.
    applying: VecDeque<(u64, Vec<Reply>)>,
}

impl Reads {
    pub(super) fn waiting(&self) -> usize {
        let confirming: usize = self.confirming.iter().map(|b| b.replies.len()).sum();
        let applying: usize = self.applying.iter().map(|(_, r)| r.len()).sum();
        self.queued.len() + confirming + applying
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        let confirming = self.confirming.drain(..).flat_map(|b| b.replies);
        let applying = self.applying.drain(..).flat_map(|(_, replies)| replies);
        for reply in self.queued.drain(..).chain(confirming).chain(applying) {
            reply.send(Err(error.clone()));
        }
    }

    /// Fails reads that no quorum confirmed in time; callers may ask again.
    pub(super) fn expire(&mut self, now: Nanos, group: GroupId) {
        while self.confirming.front().is_some_and(|b| b.expires <= now) {
            let batch = self.confirming.pop_front().expect("just seen");
            let error = Error::Busy { group, what: "no quorum confirmed the read in time" };
            batch.replies.into_iter().for_each(|r| r.send(Err(error.clone())));
        }
    }

    /// A quorum confirmed `context` (and so all before it): its reads may be served at `index`.
    pub(super) fn confirmed(&mut self, context: &[u8], index: u64) {
        if let Some(at) = self.confirming.iter().position(|b| b.context == context) {
            let batch = self.confirming.remove(at).expect("position is inside");
            self.applying.push_back((index, batch.replies));
        }
    }

    /// Answers every confirmed read whose index is applied.
    pub(super) fn serve(&mut self, applied: u64) {
        let blind = crate::mutant::active("read_before_apply");
        while self.applying.front().is_some_and(|(index, _)| *index <= applied || blind) {
            let (_, replies) = self.applying.pop_front().expect("just seen");
            Reply::send_all(replies.into_iter().map(|reply| (reply, Ok(Answer::ReadReady))));
        }
    }
}

impl Replica {
    /// Queues a read for this round's context.
    pub(crate) fn queue_read(&mut self, reply: Reply) {
        if self.reads.waiting() >= WAITING_MAX {
            let what = "too many reads wait in this group";
            reply.send(Err(Error::Busy { group: self.group(), what }));
        } else {
            self.reads.queued.push(reply);
        }
    }

    /// Gives the queued reads one context, or refuses them at once: the library would drop them
    /// silently (trap 6).
    pub(crate) fn confirm_queued_reads(&mut self, now: Nanos) {
        if self.reads.queued.is_empty() {
            return;
        }
        let unsettled = !self.raw.raft.commit_to_current_term();
        if self.is_leader() && unsettled && crate::mutant::active("serve_before_term_commit") {
            let commit = self.raw.raft.raft_log.committed;
            let queued = std::mem::take(&mut self.reads.queued);
            return self.reads.applying.push_back((commit, queued));
        }
        let refusal = if !self.is_leader() {
            Some(self.not_leader())
        } else if unsettled {
            Some(Error::Busy { group: self.group(), what: "the new leader has not committed yet" })
        } else {
            None
        };
        if let Some(error) = refusal {
            self.reads.queued.drain(..).for_each(|r| r.send(Err(error.clone())));
            return;
        }
        if self.reads.confirming.len() >= CONTEXTS_MAX {
            return;
        }
        let context = self.next_context();
        let patience = 2 * self.config.election_ticks as u64 * self.config.tick_interval_ms;
        self.reads.confirming.push_back(Batch {
            context: context.clone(),
            replies: std::mem::take(&mut self.reads.queued),
            expires: Nanos(now.0 + patience * 1_000_000),
        });
        self.raw.read_index(context.to_vec());
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
        !self.reads.queued.is_empty()
    }
}
