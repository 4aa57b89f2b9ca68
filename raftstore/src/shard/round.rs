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
    /// An empty round with room for what those before it held.
    pub(crate) fn like(size: &RoundSize, now: Nanos) -> Self {
        let room = |(store, count): &(StoreId, usize)| (*store, Vec::with_capacity(*count));
        Round {
            shard: size.shard,
            now,
            sends: size.sends.iter().map(room).collect(),
            log: Vec::with_capacity(size.log),
            apply: Vec::with_capacity(size.apply),
            ..Round::default()
        }
    }

    /// Sends to nobody are dropped.
    pub(crate) fn close(&mut self) {
        self.sends.retain(|(_, envelopes)| !envelopes.is_empty());
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

/// What rounds held, so that the next one need not grow step by step. One that proposes and one that only
/// commits take turns, so a large round is forgotten little by little.
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

    pub(crate) fn note(&mut self, round: &Round) {
        let next = |before: usize, now: usize| now.max(before - before.div_ceil(8));
        self.log = next(self.log, round.log.len());
        self.apply = next(self.apply, round.apply.len());
        self.sends.iter_mut().for_each(|(_, count)| *count = next(*count, 0));
        for (store, sent) in &round.sends {
            match self.sends.iter_mut().find(|(known, _)| known == store) {
                Some((_, count)) => *count = sent.len().max(*count),
                None => self.sends.push((*store, sent.len())),
            }
        }
        self.sends.retain(|(_, count)| *count > 0);
    }
}
