//! How far every member's state machine is on disk, and the log's truncation behind it.
//!
//! Each replica tells the others its durable applied index (the library has no such message). The
//! log is cut behind the smallest, so whoever was down finds everything it needs (invariant I5); but
//! beyond a limit of bytes or entries it is cut all the same, and who lags gets a snapshot. What this
//! store's state machine reads from the log stays.

use super::Replica;
use super::by_member::ByMember;
use crate::log::GroupWrite;
use crate::message::LogTask;
use crate::shard::Round;
use crate::transport::{Envelope, Payload};
use crate::types::{LogPosition, ReplicaId};

/// An unchanged index is told again after so many ticks: messages get lost.
const REPEAT_TICKS: u64 = 20;

/// See the module.
pub(super) struct Durable {
    own: u64,
    peers: ByMember<u64>,
    told: u64,
    ticks_since_told: u64,
    /// Something was heard, or a tick went by, since the last look.
    news: bool,
    /// The store's log is nearly full.
    crowded: bool,
    /// The first index that the state machine reads from the log.
    log_needed: u64,
}

impl Durable {
    pub(super) fn new(own: u64) -> Self {
        Durable {
            own,
            peers: ByMember::default(),
            told: 0,
            ticks_since_told: 0,
            news: true,
            crowded: false,
            log_needed: u64::MAX,
        }
    }

    pub(super) fn own(&self) -> u64 {
        self.own
    }

    /// Everything up to `index` is on disk here, and the others were told.
    pub(super) fn has_told(&self, index: u64) -> bool {
        self.own >= index && self.told == self.own
    }

    pub(super) fn tick(&mut self) {
        self.ticks_since_told += 1;
        self.news = true;
    }

    /// Forgets those who are no members any more.
    pub(super) fn retain(&mut self, is_member: impl Fn(ReplicaId) -> bool) {
        self.peers.retain(is_member);
    }

    pub(super) fn heard(&mut self, peer: ReplicaId, index: u64) {
        let known = self.peers.entry(peer);
        *known = (*known).max(index);
        self.news = true;
    }
}

impl Replica {
    /// The state machine holds everything up to `index` on disk.
    pub(crate) fn on_durable_applied(&mut self, index: u64) {
        self.durable.own = self.durable.own.max(index);
        self.durable.news = true;
    }

    /// The state machine reads the log from `first` on: that stays, whatever the limits say.
    pub(crate) fn hold_log(&mut self, first: u64) {
        self.durable.log_needed = first;
        self.durable.news = true;
    }

    /// Tells the others when there is news, and cuts the log when enough of it is not needed.
    pub(crate) fn tell_and_truncate(&mut self, round: &mut Round) {
        let durable = &mut self.durable;
        if !std::mem::take(&mut durable.news) {
            return;
        }
        let due = durable.own > durable.told || durable.ticks_since_told >= REPEAT_TICKS;
        // Even without news: a replica that was removed, and not told, is told when it speaks.
        if due {
            durable.told = durable.own;
            durable.ticks_since_told = 0;
            let own = durable.own;
            let (group, from) = (self.group(), self.me.replica);
            for (to, store) in self.others() {
                let payload = Payload::DurableApplied(own);
                round.send(store, Envelope { group, from, to, payload });
            }
        }
        if self.is_leader() {
            self.trust_durable();
        }
        self.truncate(round);
    }

    /// What a peer has durably applied and we know committed, its log holds as ours does,
    /// acknowledged or not. Without this a peer whose acknowledgement was lost is probed below the
    /// cut, and gets a snapshot that it does not need.
    ///
    /// Never beyond our own commit: a leader of an old term may hold other entries there.
    fn trust_durable(&mut self) {
        let commit = if crate::mutant::active("matched_beyond_commit") {
            u64::MAX
        } else {
            self.raw.raft.raft_log.committed
        };
        let progress = self.raw.raft.mut_prs();
        for (peer, index) in self.durable.peers.iter() {
            if let Some(progress) = progress.get_mut(peer.0) {
                progress.maybe_update((*index).min(commit));
            }
        }
    }

    fn truncate(&mut self, round: &mut Round) {
        let everywhere = self.record.desc.replicas.iter().map(|r| {
            if r.replica == self.me.replica {
                self.durable.own
            } else {
                self.durable.peers.get(r.replica).copied().unwrap_or(0)
            }
        });
        let index = if crate::mutant::active("truncate_past_durable") {
            self.feed.applied()
        } else {
            everywhere.min().unwrap_or(0).min(self.durable.own)
        };
        let truncated = self.raw.store().terms().truncated();
        let (allowed, urgent) = self.crowded_out();
        // Who takes a snapshot needs what comes behind it, as long as the store has room for it.
        let floor = if urgent { u64::MAX } else { self.snapshot_floor() };
        let held = self.durable.log_needed.saturating_sub(1);
        let index = index.max(allowed).min(floor).min(held);
        let installing = self.snapshots.installing() || self.snapshots.waits();
        if installing || index < truncated.index + self.config.truncate_entries_min {
            return;
        }
        let term = self.raw.store().terms().term(index).expect("a durable index is in the log");
        let position = LogPosition { index, term };
        self.raw.mut_store().truncate(position);
        round.log.push(LogTask {
            shard: round.shard,
            replica: self.me.replica,
            write: GroupWrite {
                group: self.group(),
                truncate: Some(position),
                ..GroupWrite::default()
            },
            ready: 0,
            held: Vec::new(),
            created: Vec::new(),
        });
    }

    /// The log grew beyond its limits: how much goes, whoever lags, and whether that is because the store's
    /// log is nearly full. Half of what is allowed stays, so that a member that is nearly up to date
    /// needs no snapshot.
    fn crowded_out(&mut self) -> (u64, bool) {
        let terms = self.raw.store().terms();
        let (first, last) = (terms.truncated().index, terms.last_index());
        let (entries, bytes) = (last - first, self.raw.store().log_bytes());
        let (entries_max, mut bytes_max) =
            (self.config.group_log_entries_max, self.config.group_log_bytes_max);
        let crowded = std::mem::take(&mut self.durable.crowded);
        if crowded {
            bytes_max = bytes_max.min(bytes / 2);
        }
        if entries <= entries_max && bytes <= bytes_max {
            return (0, crowded);
        }
        let of_bytes = u128::from(entries) * u128::from(bytes_max) / u128::from(bytes.max(1));
        let kept = (entries_max / 2).min(u64::try_from(of_bytes / 2).unwrap_or(u64::MAX));
        (last.saturating_sub(kept).min(self.durable.own), crowded)
    }

    /// The store's log is nearly full, and this group's is among the largest.
    pub(crate) fn crowd(&mut self) {
        self.durable.crowded = true;
        self.durable.news = true;
    }

    /// Frees cached entries that are durable and applied: those that every peer has too, and beyond
    /// `bytes_max` the others. A small cache stays in the processor's.
    pub(crate) fn trim_cache(&mut self, bytes_max: usize) {
        const SMALL: usize = 1 << 10;
        if self.raw.store().cache_bytes() <= SMALL.min(bytes_max) {
            return;
        }
        let index = if crate::mutant::active("cache_truncated_early") {
            u64::MAX
        } else {
            self.persisted().min(self.feed.applied())
        };
        let needed_by_none = if self.is_leader() {
            self.raw.raft.prs().iter().map(|(_, p)| p.matched).min().unwrap_or(0)
        } else {
            u64::MAX
        };
        let storage = self.raw.mut_store();
        storage.trim_cache(index.min(needed_by_none), 0);
        storage.trim_cache(index, bytes_max);
    }
}
