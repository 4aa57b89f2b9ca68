//! Disks that are nearly full: short of room, with room for what is needed only, hardly any left, and roomy again, on one
//! store or on all.
//!
//! A store measures and tells its shards, as `kvserver` does; nothing fails yet (that is `storage.rs`). What takes
//! room is refused while no quorum has any, and deletes, reads and members go on. The clients go on by themselves once
//! there is room again: `run.rs` waits for that in every seed.

use super::clock::{MILLIS, SECONDS};
use super::world::{Event, World};
use flotilla_raftstore::message::ShardMessage;
use flotilla_raftstore::{GroupId, Role, Shortage};
use rand::Rng;
use std::sync::Arc;

/// Too little for writes.
pub(super) const LITTLE: Shortage = Shortage { free: 60 << 20, limit: 100 << 20 };
/// Too little for entries of any kind, if that can be.
pub(super) const HARDLY_ANY: Shortage = Shortage { free: 10 << 20, limit: 100 << 20 };

/// About what a few snapshots take here.
const SNAPSHOTS_BYTES: u64 = 64 << 10;

impl World {
    /// The next disk, or all of them, run short of room.
    pub(super) fn next_shortage(&mut self) {
        if !self.stormy {
            return;
        }
        let all = self.rng.random_bool(0.25);
        let one = self.rng.random_range(0..self.nodes.len());
        if all {
            self.counts.add("disks of all stores nearly full");
        }
        for node in (0..self.nodes.len()).filter(|node| all || *node == one) {
            let left = match self.rng.random_range(0..5) {
                0 => HARDLY_ANY,
                1 | 2 => self.draw_scarce(),
                _ => LITTLE,
            };
            let length = self.rng.random_range(500 * MILLIS..8 * SECONDS);
            self.run_short(node, left, length);
        }
        let mean = self.plan.shortage_interval;
        let next = self.rng.random_range(mean / 2..mean * 2);
        self.after(next, Event::Shortage);
    }

    /// Between an eighth and a quarter of the limit: enough for what a quorum needs, snapshots or not.
    fn draw_scarce(&mut self) -> Shortage {
        let Shortage { limit, .. } = LITTLE;
        let spare = if self.rng.random_bool(0.5) { SNAPSHOTS_BYTES } else { limit / 8 };
        let free = limit / 8 + self.rng.random_range(0..spare);
        Shortage { free, limit }
    }

    /// A store's disk has only so much left, for so long.
    pub(super) fn run_short(&mut self, node: usize, left: Shortage, length: u64) {
        self.counts.add(match (left.is_severe(), left.is_critical()) {
            (false, _) => "disks nearly full",
            (true, false) => "disks with room for what is needed only",
            (true, true) => "disks with hardly any room",
        });
        self.note("disk short", node, [left.free, length, 0]);
        self.nodes[node].short = Some(left);
        self.nodes[node].short_until = self.now + length;
        self.tell_room(node);
        self.after(length, Event::Room(node));
    }

    /// Somebody has made room.
    pub(super) fn room(&mut self, node: usize) {
        if self.nodes[node].short_until <= self.now && self.nodes[node].short.take().is_some() {
            self.tell_room(node);
        }
    }

    /// What a store has measured is for its shards.
    pub(super) fn tell_room(&mut self, node: usize) {
        let short = self.nodes[node].short;
        let Some(process) = &self.nodes[node].process else { return };
        let room = Arc::clone(&process.room);
        room.measured(short);
        for shard in 0..self.config.shards {
            self.tell(node, shard, ShardMessage::Disk(short, Arc::clone(&room)));
        }
    }

    /// A write comes to a leader that knows that its disk has hardly any room: it arrives behind what told it.
    pub(super) fn leads_without_room(&self, node: usize, group: GroupId, operation: u64) -> bool {
        let hardly_any = self.nodes[node].short.is_some_and(Shortage::is_severe);
        let write = |live: &super::clients::Live| live.wish.is_write();
        hardly_any
            && self.clients.live.get(&operation).is_some_and(write)
            && self.status_on(node, group).is_some_and(|status| status.role == Role::Leader)
    }

    /// Such a write is acknowledged (I18).
    pub(super) fn written_without_room(&mut self, node: usize, group: GroupId, operation: u64) {
        match self.clients.live.get(&operation) {
            Some(live) if live.wish.takes_away() => {
                self.counts.add("deletes where there is hardly any room");
            }
            Some(live) => {
                let (store, wish) = (node + 1, &live.wish);
                self.violations.push(format!(
                    "I18: store {store} group {group}: its disk has hardly any room, and it takes {wish:?}"
                ));
            }
            None => {}
        }
    }
}
