//! Members that change first, and stores and states that are lost then.
//!
//! What a group may lose depends on its members: if they were about to change, the loss of one more could be too much by
//! chance. So from [`super::swarm::Plan::calm_at`] on nobody changes them any more, the operator sees to it that each group has three
//! voters or more, and only when no order and no entry about members is under way anything is lost.

use super::clock::MILLIS;
use super::disk::DurableLog;
use super::world::{Event, World};
use flotilla_raftstore::{Change, ChangeRequest, EntryKind, ReplicaId, ReplicaRole};
use rand::Rng;

/// The operator looks again after so long.
const INTERVAL: u64 = 300 * MILLIS;
/// Members of a group that can do without one.
const MEMBERS_MIN: usize = 3;

impl World {
    /// Nobody changes members any more.
    pub(super) fn is_calm(&self) -> bool {
        self.plan.calm_at.is_some_and(|at| self.now >= at)
    }

    /// The operator's look at every group, until all are as they are to stay.
    pub(super) fn settle(&mut self) {
        if !self.stormy {
            return;
        }
        let mut settled = true;
        for region in 0..self.regions.len() {
            let quiet = self.is_quiet(region);
            settled &= quiet && self.may_lose_one(region);
            if quiet {
                self.settle_region(region);
            }
        }
        self.settled = settled;
        if !settled {
            self.after(INTERVAL, Event::Settle);
        }
    }

    /// Something is lost for good now.
    pub(super) fn note_loss(&mut self) {
        let later = self.plan.calm_at.is_some();
        self.counts.add_many("losses after changes of the members", u64::from(later));
    }

    /// Nothing about the members of a region's group is under way: no order, and no entry that could be
    /// committed still.
    fn is_quiet(&self, region: usize) -> bool {
        let group = self.regions[region].group;
        let applied = self.invariants.members(group).membership.position.index;
        let later = |log: &DurableLog| {
            let mut entries = log.entries.iter();
            entries.any(|entry| entry.kind == EntryKind::Membership && entry.index > applied)
        };
        let ordered =
            |attempt: &super::clients::Attempt| attempt.operation == 0 && attempt.region == region;
        !self.clients.attempts.values().any(ordered)
            && !self.nodes.iter().any(|node| node.log.with_group(group, later) == Some(true))
    }

    /// Learners are promoted or go; who is missing comes.
    fn settle_region(&mut self, region: usize) {
        let group = self.regions[region].group;
        let Some(leader) = self.leader_of(region) else { return };
        let Some(desc) = self.desc_on(leader, group) else { return };
        if desc.membership.pending.is_some() || desc.is_joint() {
            return;
        }
        let learner = desc.replicas.iter().find(|r| r.role == ReplicaRole::Learner);
        let free = self
            .nodes
            .iter()
            .find(|node| node.process.is_some() && desc.on_store(node.store).is_none());
        let change = match (learner, free) {
            (Some(learner), _) if self.rng.random_bool(0.5) => Change::Promote(learner.replica),
            (Some(learner), _) => Change::Remove(learner.replica),
            (None, Some(free)) if desc.replicas.len() < MEMBERS_MIN => {
                let replica = ReplicaId(desc.replica_max().0 + 1);
                Change::AddVoter { replica, store: free.store }
            }
            _ => return,
        };
        let operation = self.changes.next_operation();
        let request = ChangeRequest { operation, changes: vec![change], force: false };
        self.ask(region, leader, &desc, request, false);
    }
}
