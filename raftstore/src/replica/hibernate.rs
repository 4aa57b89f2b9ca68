//! When an idle group may sleep, and how its replicas wake. Who watches over sleepers: `shard/hibernate.rs`.
//!
//! 1. A leader to which nothing happened for `hibernate_ticks`, whose live members are a quorum and hold all
//!    that it has, tells them to sleep, and sleeps.
//! 2. A follower that is where its leader is sleeps, too. One that is not, or that was not reached,
//!    hears nothing from then on and asks for votes, which wakes the others.
//!
//! Sleep is only the absence of ticks: no promise of the protocol depends on it.

use super::Replica;
use crate::shard::Round;
use crate::transport::{Envelope, Payload};
use crate::types::{LogPosition, ReplicaDesc, ReplicaId};
use raft::{ProgressState, StateRole};

/// See the module.
#[derive(Default)]
pub(super) struct Rest {
    idle_ticks: u64,
    asleep: bool,
    /// By the last tick: the shards of its voters that are heard are no quorum.
    powerless: bool,
}

impl Rest {
    fn end(&mut self) {
        (self.idle_ticks, self.asleep) = (0, false);
    }
}

impl Replica {
    /// Nobody needs to tick it.
    pub(crate) fn asleep(&self) -> bool {
        self.rest.asleep
    }

    /// Whether a leader must stay awake, since only then it finds out that it leads nobody.
    pub(crate) fn keep_awake(&mut self, powerless: bool) {
        self.rest.powerless = powerless;
    }

    /// A leader's look, once a tick.
    pub(super) fn drive_rest(&mut self, round: &mut Round) {
        let after = self.config.hibernate_ticks;
        if after == 0 || !self.is_idle_leader() {
            self.rest.end();
            return;
        }
        self.rest.idle_ticks += 1;
        if self.rest.idle_ticks <= after {
            return;
        }
        let log = &self.raw.raft.raft_log;
        let last = LogPosition { index: log.last_index(), term: self.raw.raft.term };
        let desc = &self.record.desc;
        let others = desc.replicas.iter().filter(|r| r.replica != self.me.replica);
        for other in others.filter(|r| self.is_live(r.replica)) {
            let (group, from, to) = (desc.group, self.me.replica, other.replica);
            round.send(other.store, Envelope { group, from, to, payload: Payload::Sleep(last) });
        }
        self.fall_asleep();
    }

    /// Once a tick. Without a new entry since the last one there is no need of room for those on their
    /// way: in the library alone it is 2 KiB for each member.
    pub(super) fn give_back_room(&mut self) {
        let last = self.raw.raft.raft_log.last_index();
        if std::mem::replace(&mut self.last_at_tick, last) != last {
            return;
        }
        self.raw.raft.maybe_free_inflight_buffers();
        self.raw.raft.raft_log.unstable.entries.shrink_to_fit();
        self.raw.mut_store().shrink();
        self.unpersisted.shrink_to_fit();
    }

    fn is_idle_leader(&self) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        // Whoever is away wakes the group when it comes back; whoever never came is to be invited.
        let level = |r: &ReplicaDesc| {
            let has = raft.prs().get(r.replica.0).is_some_and(|p| {
                let holds = p.matched == last && p.committed_index >= last;
                holds && p.state != ProgressState::Snapshot
            });
            has || r.replica == self.me.replica || (r.role.votes() && !self.is_live(r.replica))
        };
        self.is_leader()
            && !self.rest.powerless
            && self.is_settled()
            && raft.commit_to_current_term()
            && raft.raft_log.committed == last
            && self.durable.has_told(last)
            && !self.changes_members()
            && !self.transfers.busy()
            // No time goes by in its sleep.
            && self.has_rested()
            && self.preferred().is_none()
            && self.record.desc.replicas.iter().all(level)
    }

    /// Nothing of this replica is under way.
    fn is_settled(&self) -> bool {
        self.unpersisted.is_empty()
            && self.feed.is_settled()
            && self.writes.waiting() == 0
            && self.reads.waiting() == 0
            && self.raw.store().offer().is_none()
            && self.offers.idle()
            && self.snapshots.idle()
    }

    /// The leader sleeps, and says what it holds.
    pub(super) fn told_to_sleep(&mut self, from: ReplicaId, last: LogPosition) {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let follows =
            raft.state == StateRole::Follower && (raft.leader_id, raft.term) == (from.0, last.term);
        let level = log.last_index() == last.index && log.committed == last.index;
        let may = follows && level && self.is_settled() && !self.transfers.busy();
        if may && self.config.hibernate_ticks > 0 {
            self.fall_asleep();
        }
    }

    /// It holds all that there is, so what was left of a snapshot on its way is of no use.
    fn fall_asleep(&mut self) {
        self.rest.asleep = true;
        self.snapshots.forget_found();
    }

    /// Time goes on for it. A follower's leader was not heard of for `silence` ticks, and `others` for as many as
    /// stand with each.
    pub(crate) fn wake(&mut self, silence: usize, others: &[(ReplicaId, u64)]) {
        self.rest.end();
        self.members.slept(others);
        if self.is_leader() {
            // Otherwise it could miss a quorum that it has not asked since.
            self.raw.raft.election_elapsed = 0;
            self.raw.ping();
        } else {
            self.timer.wake(&mut self.raw, silence);
        }
    }
}
