//! Idle groups cost nothing: nobody ticks them, and shards vouch for each other in their leaders' place.
//!
//! 1. Replicas decide by themselves when they sleep (`replica/hibernate.rs`); here they leave the
//!    set of those that are ticked.
//! 2. A group wakes when anything comes for it: a request that its leader must serve, or a message of
//!    another replica.
//! 3. Every shard tells every store with which it shares a group that it lives, once a heartbeat interval
//!    ([`Alive`]), for all its groups together. When a shard was silent for an election timeout, the groups
//!    that it led wake, and of those led here the ones that have no quorum any more; the others sleep on.
//!    When it is heard again, or began anew, those led here wake, too, that have a member there. A portion a
//!    tick, so that thousands do not elect at the same time.
//!
//! Deterministic: all state is here, time is ticks.

use super::Shard;
use super::slot::Slot;
use crate::members::RecoverRequest;
use crate::message::{ReadMode, Request};
use crate::replica::Replica;
use crate::shard::Round;
use crate::transport::{Alive, Envelope, Payload};
use crate::types::{GroupId, ReplicaId, StoreId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Groups that wake in one tick because of another store.
const WAKES_PER_TICK: usize = 256;
/// Under this number stores speak to each other, not replicas: no group has it.
pub(crate) const NO_GROUP: GroupId = GroupId(0);

/// See the module.
pub(super) struct Hibernation {
    awake: BTreeSet<GroupId>,
    /// Sleepers that are to wake.
    waking: VecDeque<GroupId>,
    /// Every shard of another store that was ever heard.
    shards: BTreeMap<(StoreId, u32), Seen>,
    /// How many shards each store has.
    counts: BTreeMap<StoreId, u32>,
    /// Stores with which a group that is here speaks. One that it does not know as a member yet may lead it, and
    /// must hear what is true of this store now: it withholds entries from one that is short of room.
    neighbours: BTreeSet<StoreId>,
    ticks: u64,
    life: u64,
}

/// What is known of another store's shard.
struct Seen {
    life: u64,
    /// The tick at which it was heard last.
    at: u64,
    silent: bool,
}

impl Hibernation {
    /// `life` tells this shard from one before a restart.
    pub(super) fn new(life: u64) -> Self {
        Hibernation {
            awake: BTreeSet::new(),
            waking: VecDeque::new(),
            shards: BTreeMap::new(),
            counts: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            ticks: 0,
            life,
        }
    }

    /// Those that are ticked.
    pub(super) fn awake(&self) -> Vec<GroupId> {
        self.awake.iter().copied().collect()
    }

    pub(super) fn insert(&mut self, group: GroupId) {
        self.awake.insert(group);
    }

    /// Whether it was awake.
    pub(super) fn fell_asleep(&mut self, group: GroupId) -> bool {
        self.awake.remove(&group)
    }

    /// The shard that has `group` on `store`.
    fn shard_of(&self, store: StoreId, group: GroupId) -> u32 {
        (group.0 % u64::from(self.counts.get(&store).copied().unwrap_or(1))) as u32
    }

    /// Ticks since the shard of `store` that has `group` was heard; unlimited if it never was.
    fn silence(&self, store: StoreId, group: GroupId) -> u64 {
        let seen = self.shards.get(&(store, self.shard_of(store, group)));
        seen.map_or(u64::MAX, |seen| self.ticks - seen.at)
    }

    /// Takes a sign of life. True: sleepers must hear of it.
    fn heard(&mut self, store: StoreId, alive: Alive) -> bool {
        let Alive { shard, shards, life, .. } = alive;
        self.counts.insert(store, shards.max(1));
        let at = self.ticks;
        let known = self.shards.insert((store, shard), Seen { life, at, silent: false });
        known.is_some_and(|known| known.silent || known.life != life)
    }

    /// Those that have become silent.
    fn fall_silent(&mut self, after: u64) -> Vec<(StoreId, u32)> {
        let ticks = self.ticks;
        let now = self.shards.iter_mut().filter(|(_, s)| !s.silent && ticks - s.at > after);
        now.map(|(which, seen)| {
            seen.silent = true;
            *which
        })
        .collect()
    }
}

impl Shard {
    /// Time goes on for the group, if it slept.
    pub(super) fn rouse(&mut self, group: GroupId) {
        let Some(Slot::Live(live)) = self.slots.get_mut(&group) else { return };
        if !live.replica.asleep() {
            return;
        }
        let store = live.replica.leader().map(|leader| leader.store);
        let silence = store.map_or(u64::MAX, |store| self.hibernation.silence(store, group));
        let others = live.replica.others();
        let others = others.map(|(member, store)| (member, self.hibernation.silence(store, group)));
        let others: Vec<(ReplicaId, u64)> = others.collect();
        self.hibernation.insert(group);
        let silence = usize::try_from(silence).unwrap_or(usize::MAX);
        self.touch(group, |replica| replica.wake(silence, &others));
    }

    /// Whether a request is a reason to wake: a follower only tells who leads, unless nobody does or
    /// it is to serve a read.
    pub(super) fn request_wakes(&self, request: &Request) -> bool {
        let group = request.group();
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return false };
        if !live.replica.asleep() {
            return false;
        }
        let served_here = matches!(
            request,
            Request::ReadBarrier { mode: ReadMode::Follower | ReadMode::Stale { .. }, .. }
        );
        let leads_here = live.replica.is_leader();
        let leader = live.replica.leader().map(|leader| leader.store);
        served_here || leads_here || leader.is_none_or(|store| !self.is_watched(store, group))
    }

    /// Whether the shard that has `group` on `store` was heard lately: its death will be noticed.
    pub(super) fn is_watched(&self, store: StoreId, group: GroupId) -> bool {
        let timeout = self.parts.config.election_ticks as u64;
        self.hibernation.silence(store, group) <= timeout
    }

    /// Whether the store of the group's leader was heard lately, though `request` takes it for lost. A
    /// replica that slept has promised nothing that would say so.
    pub(super) fn hears_lost_leader(&self, group: GroupId, request: &RecoverRequest) -> bool {
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return false };
        let leader = live.replica.leader().filter(|leader| request.lost.contains(&leader.store));
        leader.is_some_and(|leader| self.is_watched(leader.store, group))
    }

    /// Another store's shard says that it lives.
    pub(super) fn heard_alive(&mut self, store: StoreId, alive: Alive) {
        // Leaders that would rather have it lead may hand over.
        let wanted = self.disks.heard(store, alive.slow);
        if self.hibernation.heard(store, alive) || wanted {
            self.wake_with(store, alive.shard);
        }
    }

    /// Once a tick: tells the others, notices who has fallen silent, wakes a portion.
    pub(super) fn watch(&mut self, round: &mut Round) {
        let timeout = self.parts.config.election_ticks as u64;
        self.hibernation.ticks += 1;
        let ticks = self.hibernation.ticks;
        if ticks % timeout == 1 {
            self.hibernation.neighbours = self.neighbours();
        }
        if ticks.is_multiple_of(self.parts.config.heartbeat_ticks as u64) {
            let alive = Alive {
                shard: self.parts.shard as u32,
                shards: self.parts.config.shards as u32,
                life: self.hibernation.life,
                slow: self.disks.own_is_slow(),
                shortage: self.room.own(),
            };
            for store in &self.hibernation.neighbours {
                let (from, to) = (ReplicaId(0), ReplicaId(0));
                let payload = Payload::Alive(alive);
                round.send(*store, Envelope { group: NO_GROUP, from, to, payload });
            }
        }
        for (store, shard) in self.hibernation.fall_silent(timeout) {
            self.wake_led_by(store, shard);
            self.wake_powerless(store, shard);
        }
        for _ in 0..WAKES_PER_TICK {
            let Some(group) = self.hibernation.waking.pop_front() else { break };
            self.rouse(group);
        }
    }

    /// Wakes the sleepers that every shard of `store` has to do with, a portion a tick.
    pub(super) fn wake_with_all_of(&mut self, store: StoreId) {
        let shards = self.hibernation.counts.get(&store).copied().unwrap_or_default();
        (0..shards).for_each(|shard| self.wake_with(store, shard));
    }

    fn neighbours(&self) -> BTreeSet<StoreId> {
        let live = self.slots.values().filter_map(|slot| match slot {
            Slot::Live(live) => Some(live),
            Slot::Quarantined(_) | Slot::Gone(_) => None,
        });
        let stores = live.flat_map(|live| live.replica.others()).map(|(_, store)| store);
        stores.filter(|store| *store != self.parts.store).collect()
    }

    /// Queues the sleepers that a shard of `store` leads, and those that are led here and have a member in it.
    fn wake_with(&mut self, store: StoreId, shard: u32) {
        self.wake_led_by(store, shard);
        self.queue(store, shard, |_, replica| {
            replica.is_leader() && replica.record().desc.on_store(store).is_some()
        });
    }

    /// Queues the sleepers that a shard of `store` leads. The others of the dead one's groups have a leader, and
    /// would find nobody to speak to.
    fn wake_led_by(&mut self, store: StoreId, shard: u32) {
        self.queue(store, shard, |_, replica| {
            replica.leader().is_some_and(|leader| leader.store == store)
        });
    }

    /// Queues the sleepers that are led here and cannot decide without the stores that are silent, this one among
    /// them: they have no leader any more, and must not say that they have.
    fn wake_powerless(&mut self, store: StoreId, shard: u32) {
        self.queue(store, shard, |own, replica| {
            let member = replica.record().desc.on_store(store).is_some();
            replica.is_leader() && member && own.is_powerless(replica)
        });
    }

    /// Whether the voters on stores that are heard are no quorum. Such a leader stays awake until it steps down.
    pub(super) fn is_powerless(&self, replica: &Replica) -> bool {
        let desc = &replica.record().desc;
        let others = desc.replicas.iter().map(|r| r.store).filter(|s| *s != self.parts.store);
        let silent: Vec<StoreId> =
            others.filter(|store| !self.is_watched(*store, desc.group)).collect();
        !silent.is_empty() && !desc.decides_without(&silent)
    }

    /// Queues the sleepers that are in `shard` on `store` and `concerned`.
    fn queue(&mut self, store: StoreId, shard: u32, concerned: impl Fn(&Shard, &Replica) -> bool) {
        let wakes = |(group, slot): (&GroupId, &Slot)| match slot {
            Slot::Live(live) => {
                let there = self.hibernation.shard_of(store, *group) == shard;
                live.replica.asleep() && there && concerned(self, &live.replica)
            }
            Slot::Quarantined(_) | Slot::Gone(_) => false,
        };
        let woken = self.slots.iter().filter(|slot| wakes(*slot)).map(|(group, _)| *group);
        let woken: Vec<GroupId> = woken.collect();
        self.hibernation.waking.extend(woken);
    }
}

#[cfg(test)]
#[path = "hibernate_test.rs"]
mod tests;
