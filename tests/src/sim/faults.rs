//! The schedule of faults: one after another, at random times, each with its own end.

use super::clock::{MILLIS, SECONDS};
use super::swarm::Fault;
use super::world::{Event, World};
use flotilla_raftstore::Role;
use flotilla_raftstore::message::ShardMessage;
use rand::Rng;
use rand::seq::SliceRandom;

impl World {
    /// Lets the next fault happen, and schedules the one after it.
    pub(super) fn next_fault(&mut self) {
        if !self.stormy {
            return;
        }
        let choice = self.rng.random_range(0..self.plan.faults.len());
        let fault = self.plan.faults[choice];
        let node = self.rng.random_range(0..self.nodes.len());
        self.strike(fault, node);
        let next =
            self.rng.random_range(self.plan.fault_interval / 2..self.plan.fault_interval * 2);
        self.after(next, Event::Fault);
    }

    fn strike(&mut self, fault: Fault, node: usize) {
        self.note("fault", node, [fault as u64, 0, 0]);
        let down_for = self.rng.random_range(50 * MILLIS..6 * SECONDS);
        match fault {
            Fault::PowerCut => self.crash(node, true, down_for),
            Fault::Kill if self.plan.kills_in_order => self.tell_to_leave(node, down_for),
            // A lease may outlive so short an absence.
            Fault::Kill if self.plan.read_modes && down_for.is_multiple_of(2) => {
                self.crash(node, false, 50 * MILLIS + down_for / 20);
            }
            Fault::Kill => self.crash(node, false, down_for),
            Fault::PowerCutAll => {
                self.counts.add("power cuts of all stores");
                for node in 0..self.nodes.len() {
                    let down_for = self.rng.random_range(50 * MILLIS..2 * SECONDS);
                    self.crash(node, true, down_for);
                }
            }
            Fault::Pause => {
                self.counts.add("pauses");
                let length = self.rng.random_range(100 * MILLIS..8 * SECONDS);
                self.nodes[node].paused_until = self.now + length;
                if self.plan.clock_interval > 0 && self.clocks[node].suspend(self.now, length) {
                    self.counts.add("machines suspended");
                }
            }
            Fault::Stall => self.stall(node),
            Fault::CutOneWay => self.cut_one_way(node),
            Fault::CutHalves => self.cut_halves(),
            Fault::SlowDisk => {
                self.counts.add("slow disks");
                self.nodes[node].slow_until =
                    self.now + self.rng.random_range(SECONDS..8 * SECONDS);
            }
            Fault::LogSyncFails => {
                if self.nodes[node].process.is_some() {
                    self.nodes[node].log.fail_next_sync();
                }
            }
            Fault::EngineSyncFails => {
                if self.nodes[node].process.is_some() {
                    self.nodes[node].engine.fail_next_sync();
                }
            }
            Fault::Transfer => self.transfer_somewhere(),
        }
    }

    /// Something happens to a clock.
    pub(super) fn next_clock(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let what = self.clocks[node].disturb(self.now, &mut self.rng);
        self.counts.add(what);
        let interval = self.plan.clock_interval;
        let next = self.rng.random_range(interval / 2..interval * 2);
        self.after(next, Event::Clock);
    }

    /// A store hands over what it leads, and ends soon after.
    fn tell_to_leave(&mut self, node: usize, down_for: u64) {
        if self.nodes[node].process.is_none() {
            return;
        }
        self.counts.add("stores told to stop");
        self.nodes[node].leaves = true;
        for shard in 0..self.config.shards {
            self.tell(node, shard, ShardMessage::Leave);
        }
        let end = self.rng.random_range(50 * MILLIS..3 * SECONDS);
        self.after(end, Event::Leave(node, self.nodes[node].incarnation, down_for));
    }

    /// A state machine fails at an entry. Some time later its process starts again, and it fails no more.
    pub(super) fn next_apply_failure(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let (draw, mean) = (self.rng.random(), self.plan.apply_failure_interval);
        let end = self.rng.random_range(500 * MILLIS..8 * SECONDS);
        let next = self.rng.random_range(mean / 2..mean * 2);
        if let Some(process) = &self.nodes[node].process {
            process.watched.fail_next(draw);
            self.after(end, Event::Leave(node, self.nodes[node].incarnation, SECONDS));
        }
        self.after(next, Event::ApplyFails);
    }

    /// The end of a store that was told to stop.
    pub(super) fn leave(&mut self, node: usize, incarnation: u64, down_for: u64) {
        if self.nodes[node].incarnation == incarnation {
            self.crash(node, false, down_for);
        }
    }

    fn stall(&mut self, node: usize) {
        let until = self.now + self.rng.random_range(100 * MILLIS..5 * SECONDS);
        let shard = self.rng.random_range(0..self.config.shards);
        if let Some(process) = &mut self.nodes[node].process {
            process.shards[shard].stalled_until = until;
            self.counts.add("thread stalls");
        }
    }

    fn cut_one_way(&mut self, node: usize) {
        let other = (node + self.rng.random_range(1..self.nodes.len())) % self.nodes.len();
        self.counts.add("one-way cuts");
        self.cut(node, other);
    }

    fn cut_halves(&mut self) {
        self.counts.add("halves");
        let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.random_bool(0.5)).collect();
        for from in 0..sides.len() {
            for to in 0..sides.len() {
                if sides[from] != sides[to] {
                    self.cut(from, to);
                }
            }
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        let length = self.rng.random_range(200 * MILLIS..8 * SECONDS);
        self.cut_for(from, to, length);
    }

    fn cut_for(&mut self, from: usize, to: usize, length: u64) {
        let (from, to) = (self.nodes[from].store.0, self.nodes[to].store.0);
        self.net.cut(from, to);
        self.after(length, Event::Mend(from, to));
    }

    /// A follower does not hear its leader and campaigns. Meanwhile another one, by which the leader still
    /// has its lease, goes for a moment, and does not hear the leader either when it is back: only what
    /// it remembers to have promised keeps it from voting.
    pub(super) fn next_absence(&mut self) {
        if !self.stormy {
            return;
        }
        let region = self.rng.random_range(0..self.regions.len());
        if let Some(leader) = self.leader_of(region) {
            let mut others: Vec<usize> = (0..self.nodes.len()).filter(|n| *n != leader).collect();
            others.shuffle(&mut self.rng);
            if let [campaigns, goes, ..] = others[..] {
                let length = self.rng.random_range(2 * SECONDS..5 * SECONDS);
                self.cut_for(leader, campaigns, length);
                let soon = self.rng.random_range(SECONDS..length);
                self.after(soon, Event::Away(goes, leader));
            }
        }
        let mean = self.plan.absence_interval;
        let next = self.rng.random_range(mean / 2..mean * 2);
        self.after(next, Event::Absence);
    }

    pub(super) fn away(&mut self, node: usize, leader: usize) {
        if !self.stormy || self.nodes[node].process.is_none() {
            return;
        }
        self.counts.add("followers that came back while another one campaigned");
        // A lease may outlive so short an absence.
        let down_for = self.rng.random_range(50 * MILLIS..350 * MILLIS);
        self.crash(node, false, down_for);
        let length = self.rng.random_range(500 * MILLIS..2 * SECONDS);
        self.cut_for(leader, node, length);
    }

    fn transfer_somewhere(&mut self) {
        let region = self.rng.random_range(0..self.regions.len());
        let to = self.rng.random_range(0..self.nodes.len());
        if let Some(node) = self.leader_of(region) {
            self.transfer(region, node, to);
        }
    }

    /// The node that leads a region's group in the highest term, if any.
    pub(super) fn leader_of(&self, region: usize) -> Option<usize> {
        let group = self.regions[region].group;
        let leads = |node: usize| {
            let process = self.nodes[node].process.as_ref()?;
            let statuses = process.shards[process.shard_of(group)].shard.statuses();
            let status = statuses.into_iter().find(|s| s.group == group)?;
            (status.role == Role::Leader).then_some((status.term, node))
        };
        (0..self.nodes.len()).filter_map(leads).max().map(|(_, node)| node)
    }

    /// The end of all faults: everything runs and reaches everything.
    pub(super) fn heal(&mut self) {
        self.stormy = false;
        self.net.heal();
        for node in 0..self.nodes.len() {
            self.nodes[node].slow_until = 0;
            self.nodes[node].slow_engine_until = 0;
            self.nodes[node].full_until = 0;
            self.nodes[node].short_until = 0;
            self.room(node);
            self.nodes[node].set_full(false);
            self.nodes[node].log.mend();
            self.nodes[node].engine.mend();
            if let Some(process) = &mut self.nodes[node].process {
                process.shards.iter_mut().for_each(|slot| slot.stalled_until = 0);
            }
            self.resume(node);
            let failing = self.nodes[node].process.as_ref().is_some_and(|p| p.watched.is_failing());
            if self.nodes[node].leaves || failing {
                self.crash(node, false, SECONDS);
            }
            self.start(node);
        }
    }
}
