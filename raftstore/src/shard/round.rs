//! The effects of one round, all that leaves a shard.

use crate::events::{Event, Seen};
use crate::message::{ApplyTask, FetchTask, LogTask, SnapshotTask};
use crate::status::GroupView;
use crate::transport::Envelope;
use crate::types::{GroupId, Nanos, ReplicaId, StoreId};

/// What a round wants done, to be carried out in this order: views, sends, log, apply, fetch,
/// snapshots.
#[derive(Debug, Default)]
pub struct Round {
    /// The shard that made it.
    pub(crate) shard: usize,
    /// When.
    pub(crate) now: Nanos,
    /// Messages that may leave at once, by destination.
    pub sends: Vec<(StoreId, Vec<Envelope>)>,
    /// For the log writer, in order.
    pub log: Vec<LogTask>,
    /// For the apply worker, in order.
    pub apply: Vec<ApplyTask>,
    /// For the reader.
    pub fetch: Vec<FetchTask>,
    /// For the snapshot threads, in order.
    pub snapshots: Vec<SnapshotTask>,
    /// Groups whose leader, term, role or members changed.
    pub views: Vec<GroupView>,
    /// Replicas that were removed here.
    pub gone: Vec<(GroupId, ReplicaId)>,
    /// Reads that found their way.
    pub reads: ReadCounts,
    /// What else is to be counted.
    pub seen: Seen,
}

/// How many reads were let through, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// By a quorum that answered (ReadIndex), or that took an entry proposed after them.
    pub confirmed: u64,
    /// By a lease.
    pub leased: u64,
    /// Lease reads for which there was no lease: confirmed by a quorum, or refused.
    pub degraded: u64,
    /// By an index that the leader told.
    pub asked: u64,
    /// By the age of the state here.
    pub stale: u64,
}

impl ReadCounts {
    pub(crate) fn add(&mut self, other: &ReadCounts) {
        self.confirmed += other.confirmed;
        self.leased += other.leased;
        self.degraded += other.degraded;
        self.asked += other.asked;
        self.stale += other.stale;
    }
}

impl Round {
    /// An empty round with room for what the last one of its shard held.
    pub(crate) fn like(last: &RoundSize, now: Nanos) -> Self {
        let room = |(store, count): &(StoreId, usize)| (*store, Vec::with_capacity(*count));
        Round {
            shard: last.shard,
            now,
            sends: last.sends.iter().map(room).collect(),
            log: Vec::with_capacity(last.log),
            apply: Vec::with_capacity(last.apply),
            ..Round::default()
        }
    }

    /// How much is in it; sends to nobody are dropped.
    pub(crate) fn size(&mut self) -> RoundSize {
        self.sends.retain(|(_, envelopes)| !envelopes.is_empty());
        RoundSize {
            shard: self.shard,
            sends: self.sends.iter().map(|(store, sent)| (*store, sent.len())).collect(),
            log: self.log.len(),
            apply: self.apply.len(),
        }
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.seen.events.push(event);
    }

    pub(crate) fn send(&mut self, to: StoreId, envelope: Envelope) {
        match self.sends.iter_mut().find(|(store, _)| *store == to) {
            Some((_, envelopes)) => envelopes.push(envelope),
            None => self.sends.push((to, vec![envelope])),
        }
    }

    pub(crate) fn send_all(&mut self, envelopes: Vec<(StoreId, Envelope)>) {
        for (to, envelope) in envelopes {
            self.send(to, envelope);
        }
    }
}

/// What a round held, so that the next one need not grow step by step.
#[derive(Debug)]
pub(crate) struct RoundSize {
    shard: usize,
    sends: Vec<(StoreId, usize)>,
    log: usize,
    apply: usize,
}

impl RoundSize {
    pub(crate) fn new(shard: usize) -> Self {
        RoundSize { shard, sends: Vec::new(), log: 0, apply: 0 }
    }
}
