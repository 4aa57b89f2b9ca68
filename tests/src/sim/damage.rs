//! States of single replicas that are found damaged: whoever reads one tells the shard, which has that replica take
//! no part any more, and no other. It is rebuilt by itself, as the others are healthy.
//!
//! What is damaged stays so over restarts, and is found again whenever it is read, until it is destroyed.

use super::clock::{MILLIS, SECONDS};
use super::node::Node;
use super::world::{Event, Work, World};
use flotilla_raftstore::GroupId;
use flotilla_raftstore::message::ShardMessage;
use rand::Rng;

/// What is wrong.
const DAMAGE: &str = "simulated: a block's checksum is wrong";

impl World {
    /// The next state is damaged, if its group can do without it.
    pub(super) fn next_damage(&mut self) {
        if !self.stormy {
            return;
        }
        let region = self.rng.random_range(0..self.regions.len());
        let node = self.rng.random_range(0..self.nodes.len());
        if self.settled && self.may_lose_one(region) {
            self.note_loss();
            self.damage(node, self.regions[region].group);
        }
        let mean = self.plan.damage_interval;
        let next = self.rng.random_range(mean / 2..mean * 2);
        self.after(next, Event::Damage);
    }

    /// A state is damaged where it lies, and read at once.
    pub(super) fn damage(&mut self, node: usize, group: GroupId) {
        let Some(replica) = self.nodes[node].log.replica(group) else { return };
        self.counts.add("states damaged");
        self.note("damaged: group, replica", node, [group.0, replica.0, 0]);
        self.nodes[node].damaged.insert(group, replica);
        self.invariants.damaged(group, replica);
        self.find_damage(node);
    }

    /// Everything that is damaged on a node is read.
    pub(super) fn find_damage(&mut self, node: usize) {
        let damaged = self.nodes[node].damaged.clone();
        let Some(process) = &self.nodes[node].process else { return };
        let shards = damaged.keys().map(|group| process.shard_of(*group)).collect::<Vec<_>>();
        damaged.keys().for_each(|group| process.watched.damage(*group));
        for ((group, replica), shard) in damaged.into_iter().zip(shards) {
            let reason = DAMAGE.to_owned();
            self.tell(node, shard, ShardMessage::StateDamaged { group, replica, reason });
        }
    }

    /// A node has started: what is damaged there is read again soon.
    pub(super) fn keep_damage(&mut self, node: usize) {
        let Node { damaged, log, .. } = &mut self.nodes[node];
        damaged.retain(|group, replica| log.replica(*group) == Some(*replica));
        if !damaged.is_empty() {
            let soon = self.rng.random_range(MILLIS..2 * SECONDS);
            self.work_after(soon, node, Work::FindDamage);
        }
    }

    /// A state is gone: was it a damaged one, then another comes in its place.
    pub(super) fn forget_damage(&mut self, node: usize, group: GroupId) {
        if self.nodes[node].damaged.remove(&group).is_some() {
            self.counts.add("damaged replicas that gave way");
        }
    }
}
