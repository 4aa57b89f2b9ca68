//! Disks that are full, slow or gone, and the operator who has rebuilt what is lost.
//!
//! - A full disk refuses every write until there is room again. The first refusal ends the process, as a
//!   failed sync does, and a start may find no room either.
//! - A wiped store comes back under its own id with nothing. Placement does not create a replica a second
//!   time, so what was there takes no part any more, and the operator has it rebuilt under a new id.

use super::clock::{MILLIS, SECONDS};
use super::disk::DurableLog;
use super::world::{Event, World};
use flotilla_raftstore::{
    Change, ChangeRequest, OperationId, ReplicaDesc, ReplicaId, ReplicaRole, StoreId,
};
use rand::Rng;

/// How long a wiped store is away: longer than any message to it is on its way, and than any leader leads
/// that does not know of its end.
const WIPED_MIN: u64 = 9 * SECONDS;
const WIPED_MAX: u64 = 11 * SECONDS;
/// The operator looks again after so long.
const REBUILD_INTERVAL: u64 = 400 * MILLIS;

impl World {
    /// Something happens to a disk.
    pub(super) fn next_disk_fault(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let length = self.rng.random_range(300 * MILLIS..5 * SECONDS);
        match self.rng.random_range(0..8) {
            0 => {
                self.counts.add("full disks of all stores at once");
                (0..self.nodes.len()).for_each(|node| self.fill(node, length));
            }
            1..5 => self.fill(node, length),
            _ => {
                self.counts.add("slow engine disks");
                self.nodes[node].slow_engine_until = self.now + length;
            }
        }
        let mean = self.plan.disk_interval;
        let next = self.rng.random_range(mean / 2..mean * 2);
        self.after(next, Event::Disk);
    }

    /// A store's disk has no room for so long.
    pub(super) fn fill(&mut self, node: usize, length: u64) {
        self.counts.add("full disks");
        self.note("disk full", node, [length, 0, 0]);
        self.nodes[node].full_until = self.now + length;
        self.nodes[node].set_full(true);
        self.after(length, Event::Space(node));
    }

    /// Somebody has made room.
    pub(super) fn space(&mut self, node: usize) {
        if self.nodes[node].full_until <= self.now {
            self.nodes[node].set_full(false);
        }
    }

    /// A start that finds no room is tried again by whoever started it.
    pub(super) fn start_without_room(&mut self, node: usize) {
        self.counts.add("starts refused by a full disk");
        let again = self.rng.random_range(100 * MILLIS..SECONDS);
        self.after(again, Event::Start(node));
    }

    /// The next store loses its disks, if the groups can do without it.
    pub(super) fn next_wipe(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let whole = self.settled && (0..self.regions.len()).all(|region| self.may_lose_one(region));
        if whole && self.nodes[node].process.is_some() {
            self.note_loss();
            self.wipe(node);
            self.after(REBUILD_INTERVAL, Event::Rebuild(node));
        }
        let mean = self.plan.wipe_interval;
        let next = self.rng.random_range(mean / 2..mean * 2);
        self.after(next, Event::Wipe);
    }

    /// A store that runs loses its disks and is away for a while.
    pub(super) fn wipe(&mut self, node: usize) {
        let away = self.rng.random_range(WIPED_MIN..WIPED_MAX);
        self.counts.add("stores wiped");
        self.crash(node, true, away);
        self.nodes[node].away_until = self.now + away;
        let lost = self.nodes[node].wipe();
        self.note("wiped: replicas", node, [lost.len() as u64, 0, 0]);
        self.invariants.wiped(node, &lost);
    }

    /// Any one of the members of a region's group can be lost.
    pub(super) fn may_lose_one(&self, region: usize) -> bool {
        let members = self.invariants.members(self.regions[region].group);
        members.replicas.len() >= 3 && self.is_whole(region)
    }

    /// All members of a region's group vote, and each is on its store's disk, sound, and knows that they are the
    /// members: who does not may need the vote of one that has left.
    pub(super) fn is_whole(&self, region: usize) -> bool {
        let group = self.regions[region].group;
        let desc = self.invariants.members(group);
        let is_there = |member: &ReplicaDesc| {
            let StoreId(store) = member.store;
            let node = &self.nodes[(store - 1) as usize];
            let sound = !node.damaged.contains_key(&group);
            let version = |log: &DurableLog| log.record.as_ref().map(|r| r.desc.membership.version);
            sound
                && member.role == ReplicaRole::Voter
                && node.log.replica(group) == Some(member.replica)
                && node.log.with_group(group, version).flatten() == Some(desc.membership.version)
        };
        desc.membership.pending.is_none() && desc.replicas.iter().all(is_there)
    }

    /// The operator looks after a wiped store, until every group is whole again.
    pub(super) fn rebuild(&mut self, node: usize) {
        let damaged: Vec<usize> =
            (0..self.regions.len()).filter(|region| !self.is_whole(*region)).collect();
        if damaged.is_empty() {
            let mut lost = std::mem::take(&mut self.nodes[node].lost);
            lost.retain(|(group, _)| self.invariants.recovery(*group) != Some(true));
            self.counts.add_many("replicas rebuilt after a wipe", lost.len() as u64);
            return;
        }
        if !self.is_recovering() {
            for region in damaged {
                self.ask_to_rebuild(region, node);
            }
        }
        self.after(REBUILD_INTERVAL, Event::Rebuild(node));
    }

    fn ask_to_rebuild(&mut self, region: usize, node: usize) {
        let group = self.regions[region].group;
        let Some(leader) = self.leader_of(region) else { return };
        let Some(desc) = self.desc_on(leader, group) else { return };
        let lost = &self.nodes[node].lost;
        let gone = desc.replicas.iter().find(|r| lost.contains(&(group, r.replica)));
        let (Some(gone), None) = (gone, &desc.membership.pending) else { return };
        let (replica, new) = (gone.replica, ReplicaId(desc.replica_max().0 + 1));
        // The same however often it is asked.
        let operation = OperationId(u128::from(replica.0));
        let changes = vec![Change::Rebuild { replica, new }];
        let request = ChangeRequest { operation, changes, force: false };
        self.ask(region, leader, &desc, request, false);
    }
}
