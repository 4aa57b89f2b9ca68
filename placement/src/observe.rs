//! What heartbeats tell: which stores live, what they host, who leads what, which orders are under
//! way. In memory only: after a restart the next heartbeats tell it again.
//!
//! Pure but for its own memory: time comes in as an argument. The service calls it under a lock.

use crate::pb::{HeartbeatRequest, TransferLeader};
use crate::plan::leaders::{Condition, RegionView, StoreView, leaders};
use crate::state::ClusterMap;
use flotilla_raftstore::{Nanos, StoreId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Orders to move a leader that may be under way at once, in any cluster ...
const UNDER_WAY: usize = 16;
/// ... or one for so many regions: ten thousand are spread as quickly as a thousand.
const REGIONS_AN_ORDER: usize = 50;
/// Processes of one store whose late heartbeats are still recognized as such.
const RETIRED_MAX: usize = 8;

/// When what is heard counts, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A store that is silent for so long is down.
    pub down_after: u64,
    /// A store that is silent for so long may be dead: it gets no leader, though it is not yet
    /// called down. A transfer to a dead store would stop its region's writes for a while.
    pub quiet_after: u64,
    /// A leader or a store must have been there for so long before leaders are moved.
    pub settle: u64,
    /// An order that is not seen done by then has failed.
    pub order_deadline: u64,
    /// A region whose order has failed is left alone for so long.
    pub rest: u64,
}

/// Whether a store is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Heard lately.
    Up,
    /// Silent.
    Down,
    /// Not heard since this process started, which was only just now.
    Unknown,
}

impl Liveness {
    /// As the contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Liveness::Up => "up",
            Liveness::Down => "down",
            Liveness::Unknown => "unknown",
        }
    }
}

/// How a heartbeat stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// News.
    Fresh,
    /// A later one of the same process came first.
    Late,
    /// Another process has spoken for the store since.
    Replaced,
    /// It says what has changed since one that is not known here.
    Detached,
}

#[derive(Debug, Default)]
struct StoreSeen {
    last: Nanos,
    up_since: Nanos,
    start_id: u64,
    sequence: u64,
    retired: Vec<u64>,
    slow: bool,
    hosted: BTreeSet<u64>,
    /// It was told of the leaders up to this of [`Observed::changes`].
    told: u64,
}

/// The last news of a region's leader. `store` is none once it said that it leads no longer; the
/// term stays, so that late news of earlier terms are known as such.
#[derive(Debug)]
struct LeaderSeen {
    store: Option<u64>,
    term: u64,
    since: Nanos,
    /// Which of [`Observed::changes`] made it what it is.
    change: u64,
}

#[derive(Debug)]
struct OrderSeen {
    from: u64,
    to: u64,
    deadline: Nanos,
    sent: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Observed {
    timing: Timing,
    started: Nanos,
    stores: BTreeMap<u64, StoreSeen>,
    leaders: BTreeMap<u64, LeaderSeen>,
    /// Counts news of leaders.
    changes: u64,
    orders: BTreeMap<u64, OrderSeen>,
    resting: BTreeMap<u64, Nanos>,
}

impl Observed {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(timing: Timing, now: Nanos) -> Self {
        Observed {
            timing,
            started: now,
            stores: BTreeMap::new(),
            leaders: BTreeMap::new(),
            changes: 0,
            orders: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// How `heartbeat` stands to what was heard before.
    #[must_use]
    pub fn age(&self, heartbeat: &HeartbeatRequest) -> Age {
        match self.stores.get(&heartbeat.store) {
            Some(seen) if seen.retired.contains(&heartbeat.start_id) => Age::Replaced,
            Some(seen)
                if seen.start_id == heartbeat.start_id && heartbeat.sequence <= seen.sequence =>
            {
                Age::Late
            }
            Some(seen) if heartbeat.partial => {
                let before = (heartbeat.start_id, heartbeat.sequence.wrapping_sub(1));
                let follows = (seen.start_id, seen.sequence) == before;
                if follows { Age::Fresh } else { Age::Detached }
            }
            None if heartbeat.partial => Age::Detached,
            _ => Age::Fresh,
        }
    }

    /// Takes in a heartbeat, if it is fresh; true = it was.
    pub fn hear(&mut self, heartbeat: &HeartbeatRequest, now: Nanos) -> bool {
        if self.age(heartbeat) != Age::Fresh {
            return false;
        }
        let down_after = self.timing.down_after;
        let first = !self.stores.contains_key(&heartbeat.store);
        let seen = self.stores.entry(heartbeat.store).or_default();
        let restarted = !first && seen.start_id != heartbeat.start_id;
        if restarted {
            if seen.retired.len() == RETIRED_MAX {
                seen.retired.remove(0);
            }
            seen.retired.push(seen.start_id);
        }
        let back = first || restarted || since(seen.last, now) > down_after;
        if back {
            seen.up_since = now;
        }
        seen.start_id = heartbeat.start_id;
        seen.last = now;
        seen.sequence = heartbeat.sequence;
        seen.slow = heartbeat.slow;
        if !heartbeat.partial {
            seen.hosted.clear();
            seen.told = 0;
        }
        heartbeat.hosted_no_longer.iter().for_each(|region| _ = seen.hosted.remove(region));
        seen.hosted.extend(&heartbeat.hosted);
        self.hear_leading(heartbeat, now);
        if back {
            // Nobody was told of what it leads while it was down.
            self.tell_again(heartbeat.store);
        }
        true
    }

    fn hear_leading(&mut self, heartbeat: &HeartbeatRequest, now: Nanos) {
        let store = heartbeat.store;
        let leading: BTreeMap<u64, u64> =
            heartbeat.leading.iter().map(|l| (l.region, l.term)).collect();
        if heartbeat.partial {
            for region in &heartbeat.led_no_longer {
                let known = self.leaders.get_mut(region).filter(|known| known.store == Some(store));
                known.into_iter().for_each(|known| known.store = None);
            }
        } else {
            for (region, known) in &mut self.leaders {
                if known.store == Some(store) && !leading.contains_key(region) {
                    known.store = None;
                }
            }
        }
        self.changes += u64::from(!leading.is_empty());
        for (region, term) in leading {
            let known = self.leaders.entry(region).or_insert(LeaderSeen {
                store: None,
                term: 0,
                since: now,
                change: 0,
            });
            if term < known.term || (term == known.term && known.store.is_some()) {
                // Late news, or no news.
                continue;
            }
            known.store = Some(store);
            known.change = self.changes;
            // A store that led this very term leads it again only in a heartbeat that overtook
            // another one.
            if term == known.term {
                continue;
            }
            known.term = term;
            let ordered = self.orders.remove(&region).is_some_and(|order| order.to == store);
            if !ordered {
                known.since = now;
            }
        }
    }

    fn tell_again(&mut self, store: u64) {
        self.changes += 1;
        let led = self.leaders.values_mut().filter(|known| known.store == Some(store));
        led.for_each(|known| known.change = self.changes);
    }

    /// What `store` is to be told of leaders: region, leader and term of all that are news to it.
    pub fn leaders_for(&mut self, store: StoreId, now: Nanos) -> Vec<(u64, StoreId, u64)> {
        let Some(seen) = self.stores.get_mut(&store.0) else { return Vec::new() };
        let told = std::mem::replace(&mut seen.told, self.changes);
        if told == self.changes {
            return Vec::new();
        }
        let news = self.leaders.iter().filter(|(_, known)| known.change > told);
        news.filter_map(|(region, _)| {
            let (leader, term) = self.leader(*region, now)?;
            Some((*region, leader, term))
        })
        .collect()
    }

    /// Whether `store` said that it has a replica of `region`.
    #[must_use]
    pub fn hosts(&self, store: StoreId, region: u64) -> bool {
        self.stores.get(&store.0).is_some_and(|seen| seen.hosted.contains(&region))
    }

    /// Whether `store` is there.
    #[must_use]
    pub fn liveness(&self, store: StoreId, now: Nanos) -> Liveness {
        match self.stores.get(&store.0) {
            Some(seen) if since(seen.last, now) <= self.timing.down_after => Liveness::Up,
            // Stores that missed this process meanwhile ask ever more rarely: give them time.
            None if since(self.started, now) <= 2 * self.timing.down_after => Liveness::Unknown,
            _ => Liveness::Down,
        }
    }

    /// The leader of `region` and its term, unless it is unknown or on a store that is down.
    #[must_use]
    pub fn leader(&self, region: u64, now: Nanos) -> Option<(StoreId, u64)> {
        let known = self.leaders.get(&region)?;
        let store = StoreId(known.store?);
        (self.liveness(store, now) == Liveness::Up).then_some((store, known.term))
    }

    /// Plans, and hands out the orders for `store` that it has not got yet.
    pub fn orders_for(
        &mut self,
        store: StoreId,
        map: &ClusterMap,
        now: Nanos,
    ) -> Vec<TransferLeader> {
        self.leaders.retain(|region, _| map.regions.contains_key(region));
        self.expire(now);
        self.plan(map, now);
        let mine = self.orders.iter_mut().filter(|(_, o)| o.from == store.0 && !o.sent);
        mine.map(|(region, order)| {
            order.sent = true;
            tracing::info!(region, from = order.from, to = order.to, "orders a leader transfer");
            TransferLeader { region: *region, to_store: order.to }
        })
        .collect()
    }

    /// Stores that say that their disks are slow.
    #[must_use]
    pub fn slow(&self, now: Nanos) -> usize {
        let slow = |(store, seen): &(&u64, &StoreSeen)| {
            seen.slow && self.liveness(StoreId(**store), now) == Liveness::Up
        };
        self.stores.iter().filter(slow).count()
    }

    /// Orders that are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.orders.len()
    }

    fn expire(&mut self, now: Nanos) {
        let until = Nanos(now.0 + self.timing.rest);
        self.resting.retain(|_, until| *until > now);
        let resting = &mut self.resting;
        self.orders.retain(|region, order| {
            let due = order.deadline > now;
            if !due {
                tracing::warn!(region, to = order.to, "a leader transfer was not seen done");
                resting.insert(*region, until);
            }
            due
        });
    }

    fn plan(&mut self, map: &ClusterMap, now: Nanos) {
        let stores: Vec<_> = map.stores.keys().map(|store| self.store_view(*store, now)).collect();
        let regions: Vec<_> =
            map.regions.keys().map(|id| self.region_view(map, *id, now)).collect();
        let deadline = Nanos(now.0 + self.timing.order_deadline);
        let under_way_max = UNDER_WAY.max(regions.len() / REGIONS_AN_ORDER);
        for order in leaders(&stores, &regions, under_way_max) {
            let seen = OrderSeen { from: order.from, to: order.to, deadline, sent: false };
            self.orders.insert(order.region, seen);
        }
    }

    fn store_view(&self, store: StoreId, now: Nanos) -> StoreView {
        let settled = |seen: &StoreSeen| {
            since(seen.up_since, now) >= self.timing.settle
                && since(seen.last, now) <= self.timing.quiet_after
        };
        let condition = match (self.liveness(store, now), self.stores.get(&store.0)) {
            (Liveness::Down, _) => Condition::Down,
            (Liveness::Up, Some(seen)) if settled(seen) && seen.slow => Condition::Slow,
            (Liveness::Up, Some(seen)) if settled(seen) => Condition::Ready,
            _ => Condition::Settling,
        };
        StoreView { store: store.0, condition }
    }

    fn region_view(&self, map: &ClusterMap, id: u64, now: Nanos) -> RegionView {
        let hosts = |store: &u64| self.hosts(StoreId(*store), id);
        let leader = self.leader(id, now);
        RegionView {
            region: id,
            leader: leader.map(|(store, _)| store.0),
            stable: self
                .leaders
                .get(&id)
                .is_some_and(|l| since(l.since, now) >= self.timing.settle),
            hosts: map.regions[&id]
                .replicas
                .iter()
                .filter(|r| r.role.votes())
                .map(|r| r.store.0)
                .filter(hosts)
                .collect(),
            moving_to: self.orders.get(&id).map(|order| order.to),
            resting: self.resting.contains_key(&id),
        }
    }
}

fn since(then: Nanos, now: Nanos) -> u64 {
    now.0.saturating_sub(then.0)
}

#[cfg(test)]
#[path = "observe_test.rs"]
mod tests;
