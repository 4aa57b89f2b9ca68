//! The operator who changes the members: adds, removes, replaces, promotes and demotes one or two
//! at once, says who is to lead, asks twice, asks for what cannot be, and gives up.

use super::clock::MILLIS;
use super::watched::AppliedEntry;
use super::world::{Event, World};
use flotilla_raftstore::{
    Change, ChangeRequest, GroupDesc, GroupId, GroupRecord, GroupView, OperationId, Priority,
    ReplicaDesc, ReplicaId, ReplicaRole, ReplicaStatus, Request, Role, StoreId,
};
use rand::Rng;
use rand::seq::IndexedRandom;
use std::collections::{BTreeMap, BTreeSet};

/// What was asked.
#[derive(Default)]
pub(super) struct Changes {
    /// By ticket: the request and whether its operation was asked before.
    under_way: BTreeMap<u64, (ChangeRequest, bool)>,
    /// By region: what was asked last.
    last: BTreeMap<usize, ChangeRequest>,
    operations: u128,
    /// Leader transfers by ticket: the node that was asked, and the term in which it led.
    transfers: BTreeMap<u64, (usize, u64)>,
    /// The terms of each group that somebody has led.
    led: BTreeSet<(GroupId, u64)>,
}

impl Changes {
    /// A fresh id of an operation.
    pub(super) fn next_operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId(self.operations)
    }
}

/// It has priority 0, and there are voters that have not.
fn must_not_lead(desc: &GroupDesc, replica: ReplicaId) -> bool {
    let never = |replica| desc.priority(replica) == Priority::NEVER;
    let may = |r: &ReplicaDesc| (r.role.votes() || r.role.voted()) && !never(r.replica);
    never(replica) && desc.replicas.iter().any(may)
}

impl World {
    /// Asks for the next change, and schedules the one after it.
    pub(super) fn next_change(&mut self) {
        if !self.stormy || self.is_calm() {
            return;
        }
        let region = self.rng.random_range(0..self.regions.len());
        self.change(region);
        let interval = self.plan.change_interval;
        let next = self.rng.random_range(interval / 4..interval * 2);
        self.after(next, Event::Change);
    }

    fn change(&mut self, region: usize) {
        let group = self.regions[region].group;
        let Some(node) = self.leader_of(region) else { return };
        let Some(desc) = self.desc_on(node, group) else { return };
        let again = self.changes.last.get(&region).filter(|_| self.rng.random_bool(0.2)).cloned();
        let retried = again.is_some();
        let request = again.unwrap_or_else(|| self.draw_change(&desc));
        if let [Change::AddLearner { replica, .. }] = request.changes[..]
            && self.rng.random_bool(0.7)
        {
            let soon = self.rng.random_range(200 * MILLIS..2_000 * MILLIS);
            self.after(soon, Event::Regret(region, replica));
        }
        self.ask(region, node, &desc, request, retried);
    }

    /// What was invited a moment ago is removed: late copies of the invitation find a tombstone.
    pub(super) fn regret(&mut self, region: usize, replica: ReplicaId) {
        let group = self.regions[region].group;
        let Some(node) = self.leader_of(region) else { return };
        let Some(desc) = self.desc_on(node, group) else { return };
        if self.stormy && !self.is_calm() && desc.replica(replica).is_some() {
            let operation = self.changes.next_operation();
            let changes = vec![Change::Remove(replica)];
            let request = ChangeRequest { operation, changes, force: false };
            self.ask(region, node, &desc, request, false);
        }
    }

    pub(super) fn ask(
        &mut self,
        region: usize,
        node: usize,
        desc: &GroupDesc,
        request: ChangeRequest,
        retried: bool,
    ) {
        let group = self.regions[region].group;
        let asked = request.clone();
        let ticket =
            self.order(region, node, |reply| Request::ChangeMembers { group, request, reply });
        if let Some(ticket) = ticket {
            self.note("change: ticket, group", node, [ticket, group.0, asked.changes.len() as u64]);
            self.trace.remark(|| format!("{asked:?} of {desc:?}"));
            self.changes.last.insert(region, asked.clone());
            self.changes.under_way.insert(ticket, (asked, retried));
        }
    }

    fn draw_change(&mut self, desc: &GroupDesc) -> ChangeRequest {
        let operation = self.changes.next_operation();
        let force = self.rng.random_bool(0.05);
        if let Some(pending) = &desc.membership.pending
            && self.rng.random_bool(0.2)
        {
            let changes = vec![Change::Cancel(pending.operation)];
            return ChangeRequest { operation, changes, force };
        }
        if self.plan.members_stay || self.rng.random_bool(0.2) {
            let changes = self.draw_priorities(desc);
            return ChangeRequest { operation, changes, force };
        }
        let count = if self.rng.random_bool(0.5) { 1 } else { 2 };
        let mut changes = Vec::new();
        let mut id = desc.replica_max().0;
        for _ in 0..count {
            id += self.rng.random_range(1..3);
            changes.extend(self.draw_part(desc, ReplicaId(id)));
        }
        // Forced, it may destroy more than the group can do without.
        let rebuilds = changes.iter().any(|change| matches!(change, Change::Rebuild { .. }));
        ChangeRequest { operation, changes, force: force && !rebuilds }
    }

    /// Who is to lead: one member or all of them get another priority.
    fn draw_priorities(&mut self, desc: &GroupDesc) -> Vec<Change> {
        let chance = if self.rng.random_bool(0.5) { 1.0 } else { 0.4 };
        let mut changes = Vec::new();
        for member in &desc.replicas {
            let priority = *[-1, -1, 0, 1, 2, 100].choose(&mut self.rng).expect("six of them");
            if self.rng.random_bool(chance) {
                let priority = Priority(priority);
                changes.push(Change::SetPriority { replica: member.replica, priority });
            }
        }
        changes
    }

    fn draw_part(&mut self, desc: &GroupDesc, replica: ReplicaId) -> Option<Change> {
        let stores: Vec<StoreId> = self.nodes.iter().map(|node| node.store).collect();
        let free: Vec<StoreId> =
            stores.into_iter().filter(|store| desc.on_store(*store).is_none()).collect();
        let mut member = |role: Option<ReplicaRole>| {
            let fits = |r: &&ReplicaDesc| role.is_none_or(|role| r.role == role);
            let all: Vec<ReplicaId> =
                desc.replicas.iter().filter(fits).map(|r| r.replica).collect();
            all.choose(&mut self.rng).copied()
        };
        let (any, voter) = (member(None)?, member(Some(ReplicaRole::Voter)));
        let learner = member(Some(ReplicaRole::Learner));
        let store = free.choose(&mut self.rng).copied();
        match self.rng.random_range(0..20) {
            0..8 => store.map(|store| Change::AddVoter { replica, store }),
            8..11 => store.map(|store| Change::AddLearner { replica, store }),
            11..13 => learner.map(Change::Promote),
            13..15 => voter.map(Change::Demote),
            15 => Some(Change::AddVoter { replica: any, store: StoreId(1) }),
            16 => Some(Change::Rebuild { replica: any, new: replica }),
            _ => Some(Change::Remove(any)),
        }
    }

    /// A node accepted an order.
    pub(super) fn accepted(&mut self, node: usize, group: GroupId, ticket: u64) {
        if self.recovery_accepted(group, ticket) {
            return;
        }
        let Some((request, retried)) = self.changes.under_way.remove(&ticket) else {
            return self.transferred(node, group, ticket);
        };
        self.counts.add("membership changes accepted");
        let sets = |change: &Change| matches!(change, Change::SetPriority { .. });
        self.counts.add_many("priorities set", u64::from(request.changes.iter().any(sets)));
        if retried {
            self.counts.add("membership changes accepted again");
        }
        let known = &self.invariants.members(group).membership;
        // Sixteen are remembered, and some may have come since.
        if !known.operations.contains(&request.operation) && known.operations.len() < 16 {
            let store = node + 1;
            self.violations.push(format!(
                "I6: store {store} group {group}: {request:?} was accepted and is nowhere: {known:?}"
            ));
        }
    }

    /// A leader is asked to hand over.
    pub(super) fn note_transfer(&mut self, node: usize, group: GroupId, ticket: u64) {
        if let Some(status) = self.status_on(node, group) {
            self.changes.transfers.insert(ticket, (node, status.term));
        }
    }

    /// It says that it has: then it does not lead any more in that term.
    fn transferred(&mut self, node: usize, group: GroupId, ticket: u64) {
        self.counts.add("leader transfers accepted");
        let asked = self.changes.transfers.remove(&ticket);
        let status = self.status_on(node, group);
        let still = |(_, term): (usize, u64)| {
            status.is_some_and(|s| s.role == Role::Leader && s.term == term)
        };
        if asked.is_some_and(still) {
            let store = node + 1;
            self.violations.push(format!(
                "I6: store {store} group {group}: a leader transfer is called done, and it leads"
            ));
        }
    }

    /// Counts what becomes of members, and compares what the callback told with the entries.
    pub(super) fn note_members(
        &mut self,
        node: usize,
        entries: &[AppliedEntry],
        told: &[GroupDesc],
    ) {
        let mut applied: Vec<&GroupDesc> =
            entries.iter().filter_map(|entry| entry.members.as_deref()).collect();
        // The callback tells group by group.
        let mut told: Vec<&GroupDesc> = told.iter().collect();
        applied.sort_by_key(|desc| desc.group);
        told.sort_by_key(|desc| desc.group);
        // Others came by a snapshot, of a replica that had applied them.
        let known = |desc: &GroupDesc| self.invariants.members(desc.group).membership.version;
        told.retain(|desc| applied.contains(desc) || desc.membership.version > known(desc));
        if applied != told {
            self.violations.push(format!("store {}: told {told:?} of {applied:?}", node + 1));
        }
        for desc in applied {
            let version = desc.membership.version;
            self.note("members: group, version", node, [desc.group.0, version, 0]);
            let before = self.invariants.members(desc.group);
            if version <= before.membership.version {
                continue;
            }
            let promoted = |r: &ReplicaDesc| {
                let was = before.replica(r.replica).map(|b| b.role);
                was == Some(ReplicaRole::Joining) && r.role.votes()
            };
            let promotions = desc.replicas.iter().filter(|r| promoted(r)).count();
            let own = desc.on_store(self.nodes[node].store);
            let leaves = own.is_some_and(|r| r.role.is_joint() && !r.role.votes());
            self.counts.add_many("learners promoted", promotions as u64);
            self.counts.add_many("joint configurations", u64::from(desc.is_joint()));
            let leads = self.leads(node, desc.group);
            self.counts.add_many("leaders on their way out", u64::from(leaves && leads));
            let never = |desc: &GroupDesc| own.is_some_and(|r| must_not_lead(desc, r.replica));
            let not_any_more = leads && never(desc) && !never(before);
            self.counts.add_many("leaders that must not lead any more", u64::from(not_any_more));
        }
    }

    /// Counts who is elected although others are to lead.
    pub(super) fn note_leader(&mut self, view: &GroupView) {
        let GroupRecord { desc, replica, .. } = &view.record;
        let begins = self.changes.led.insert((desc.group, view.term));
        let resort = begins && must_not_lead(desc, *replica);
        self.counts.add_many("leaders as a last resort", u64::from(resort));
    }

    /// Others are to lead the group.
    pub(super) fn is_led_as_a_last_resort(&self, region: usize) -> bool {
        let group = self.regions[region].group;
        let leader = self.leader_of(region);
        let known = leader
            .and_then(|node| Some((self.desc_on(node, group)?, self.replica_on(node, group)?)));
        known.is_some_and(|(desc, replica)| must_not_lead(&desc, replica))
    }

    fn leads(&self, node: usize, group: GroupId) -> bool {
        let region = self.regions.iter().position(|region| region.group == group);
        region.and_then(|region| self.leader_of(region)) == Some(node)
    }

    /// The members as a node's replica has them.
    pub(super) fn desc_on(&self, node: usize, group: GroupId) -> Option<GroupDesc> {
        let process = self.nodes[node].process.as_ref()?;
        let views = process.shards[process.shard_of(group)].shard.views();
        let view = views.into_iter().find(|view| view.record.desc.group == group)?;
        Some(GroupDesc::clone(&view.record.desc))
    }

    /// The replica of a group that lives on a node.
    pub(super) fn replica_on(&self, node: usize, group: GroupId) -> Option<ReplicaId> {
        self.status_on(node, group).map(|status| status.replica)
    }

    pub(super) fn status_on(&self, node: usize, group: GroupId) -> Option<ReplicaStatus> {
        let process = self.nodes[node].process.as_ref()?;
        let statuses = process.shards[process.shard_of(group)].shard.statuses();
        statuses.into_iter().find(|status| status.group == group)
    }
}
