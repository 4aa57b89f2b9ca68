//! Linearizable reads: one ReadIndex context for all reads of a round (Raft thesis, 6.4).
//!
//! Reads of a group that stands in line to write (`small_entries_max`) wait for its entry instead: a
//! quorum that takes an entry proposed after the read came has no newer leader, which is all that a
//! context's heartbeats would show, and they and what they set off are up to eight messages.
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

/// Reads that an entry of this leader confirms.
struct Riding {
    index: u64,
    replies: Vec<Reply>,
    expires: Nanos,
}

/// See the module.
#[derive(Default)]
pub(super) struct Reads {
    counter: u64,
    queued: Vec<Reply>,
    confirming: VecDeque<Batch>,
    /// Waiting for entries of this term, in their order.
    riding: VecDeque<Riding>,
    /// Confirmed, waiting for apply: (read index, callers), in the order of confirmation.
    applying: VecDeque<(u64, Vec<Reply>)>,
}

impl Reads {
    pub(super) fn waiting(&self) -> usize {
        let confirming: usize = self.confirming.iter().map(|b| b.replies.len()).sum();
        let riding: usize = self.riding.iter().map(|r| r.replies.len()).sum();
        let applying: usize = self.applying.iter().map(|(_, r)| r.len()).sum();
        self.queued.len() + confirming + riding + applying
    }

    pub(super) fn await_applied(&self) -> bool {
        !self.applying.is_empty() || !self.riding.is_empty()
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        let confirming = self.confirming.drain(..).flat_map(|b| b.replies);
        let riding = self.riding.drain(..).flat_map(|r| r.replies);
        let applying = self.applying.drain(..).flat_map(|(_, replies)| replies);
        for reply in self.queued.drain(..).chain(confirming).chain(riding).chain(applying) {
            reply.send(Err(error.clone()));
        }
    }

    /// Fails reads that no quorum confirmed in time; callers may ask again.
    pub(super) fn expire(&mut self, now: Nanos, group: GroupId) {
        let confirming = self.confirming.iter().take_while(|b| b.expires <= now).count();
        let riding = self.riding.iter().take_while(|r| r.expires <= now).count();
        let confirming = self.confirming.drain(..confirming).flat_map(|b| b.replies);
        for reply in confirming.chain(self.riding.drain(..riding).flat_map(|r| r.replies)) {
            let what = "no quorum confirmed the read in time";
            reply.send(Err(Error::Busy { group, what }));
        }
    }

    /// The queued reads wait for the entry at `index`, which this leader has just proposed.
    pub(super) fn ride(&mut self, index: u64, expires: Nanos) {
        let replies = std::mem::take(&mut self.queued);
        if !replies.is_empty() {
            self.riding.push_back(Riding { index, replies, expires });
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
        let applied = self.riding.iter().take_while(|r| r.index <= applied).count();
        let replies = self.riding.drain(..applied).flat_map(|r| r.replies);
        Reply::send_all(replies.map(|reply| (reply, Ok(Answer::ReadReady))));
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
    /// silently (trap 6). While writes stand in line they stay queued: they ride on their entry.
    pub(crate) fn confirm_queued_reads(&mut self, now: Nanos) {
        if self.reads.queued.is_empty() || self.has_queued_writes() {
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
        self.reads.confirming.push_back(Batch {
            context: context.clone(),
            replies: std::mem::take(&mut self.reads.queued),
            expires: self.read_deadline(now),
        });
        self.raw.read_index(context.to_vec());
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
        !self.reads.queued.is_empty()
    }
}
