//! Spreads leaders evenly over the stores that are up and whose disks are fast; what the others lead
//! stays where it is.
//!
//! Regions are given to stores as in a semi-matching: a region may be led by any live store that
//! hosts it. A spread is the best possible exactly when no *path* leads from a store to one with
//! at least two leaders less (Harvey, Ladner, Lovász, Tamir: Semi-matchings, 2006), where a step
//! from one store to the next moves one region to a replica there. The planner takes shortest
//! paths to the least burdened store and moves one region along each of their steps, until there
//! are no more or enough orders are under way. Each path lowers the sum of squares, so that it ends
//! and never goes back and forth.

use std::collections::{BTreeMap, VecDeque};

/// A store, as far as leaders are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreView {
    /// Its id.
    pub store: u64,
    /// What may be asked of it.
    pub condition: Condition,
}

/// What may be asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Up and settled: may take leaders.
    Ready,
    /// Up or restarting, or not yet heard: wait for it before moving anything.
    Settling,
    /// Silent: takes no leaders, and nobody waits for it.
    Down,
    /// Its disk is slow: it hands over by itself what it leads, and takes no leaders.
    Slow,
}

/// A region, as far as its leader is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionView {
    /// Its id.
    pub region: u64,
    /// Its leader; none when unknown or on a store that is down.
    pub leader: Option<u64>,
    /// The leader is no news of the last moments.
    pub stable: bool,
    /// Stores that hold a replica which could lead.
    pub hosts: Vec<u64>,
    /// Where an order under way moves it.
    pub moving_to: Option<u64>,
    /// An order failed lately: leave it.
    pub resting: bool,
}

/// "Let `to` lead `region` instead of `from`".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The region.
    pub region: u64,
    /// Its leader now.
    pub from: u64,
    /// Its leader to be.
    pub to: u64,
}

/// The next orders: none while the cluster is settling, and never more than `under_way_max`
/// together with those under way.
#[must_use]
pub fn leaders(stores: &[StoreView], regions: &[RegionView], under_way_max: usize) -> Vec<Order> {
    let settling = stores.iter().any(|s| s.condition == Condition::Settling);
    let under_way = regions.iter().filter(|r| r.moving_to.is_some()).count();
    if settling || regions.iter().any(|r| !r.stable || r.leader.is_none()) {
        return Vec::new();
    }
    let mut spread = Spread::new(stores, regions);
    let mut orders: BTreeMap<usize, u64> = BTreeMap::new();
    while let Some(path) = spread.path() {
        let fresh = path.iter().filter(|(i, _)| !orders.contains_key(i)).count();
        if under_way + orders.len() + fresh > under_way_max {
            break;
        }
        for (i, to) in path {
            spread.shift(i, to);
            orders.insert(i, to);
        }
    }
    let order = |(i, to): (usize, u64)| {
        let from = regions[i].leader?;
        (from != to).then_some(Order { region: regions[i].region, from, to })
    };
    orders.into_iter().filter_map(order).collect()
}

/// Who leads what, as if all orders were carried out.
struct Spread<'a> {
    regions: &'a [RegionView],
    leader: Vec<Option<u64>>,
    leaders: BTreeMap<u64, usize>,
}

impl<'a> Spread<'a> {
    fn new(stores: &[StoreView], regions: &'a [RegionView]) -> Self {
        let ready = stores.iter().filter(|s| s.condition == Condition::Ready);
        let mut leaders: BTreeMap<u64, usize> = ready.map(|s| (s.store, 0)).collect();
        let leader: Vec<_> = regions.iter().map(|r| r.moving_to.or(r.leader)).collect();
        for store in leader.iter().flatten() {
            leaders.entry(*store).and_modify(|count| *count += 1);
        }
        Spread { regions, leader, leaders }
    }

    fn shift(&mut self, i: usize, to: u64) {
        if let Some(from) = self.leader[i].replace(to) {
            self.leaders.entry(from).and_modify(|count| *count -= 1);
        }
        self.leaders.entry(to).and_modify(|count| *count += 1);
    }

    /// The moves along a shortest path from a most burdened store to the least burdened one that
    /// can be reached, or none when the spread is as even as it can be.
    fn path(&self) -> Option<Vec<(usize, u64)>> {
        let mut sources: Vec<(usize, u64)> = self.leaders.iter().map(|(s, n)| (*n, *s)).collect();
        sources.sort_by_key(|(count, store)| (std::cmp::Reverse(*count), *store));
        let least = sources.last()?.0;
        sources
            .into_iter()
            .take_while(|(count, _)| *count >= least + 2)
            .find_map(|(count, store)| self.path_from(store, count))
    }

    fn path_from(&self, source: u64, count: usize) -> Option<Vec<(usize, u64)>> {
        let mut came_by: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([source]);
        let mut least = (count, source);
        while let Some(store) = queue.pop_front() {
            if self.leaders[&store] < least.0 {
                least = (self.leaders[&store], store);
            }
            for (i, region) in self.regions.iter().enumerate() {
                let movable = region.moving_to.is_none() && !region.resting;
                if !movable || self.leader[i] != Some(store) {
                    continue;
                }
                for host in &region.hosts {
                    let seen = *host == source || came_by.contains_key(host);
                    if self.leaders.contains_key(host) && !seen {
                        came_by.insert(*host, (store, i));
                        queue.push_back(*host);
                    }
                }
            }
        }
        (least.0 + 2 <= count).then(|| Self::unwind(&came_by, source, least.1))
    }

    fn unwind(
        came_by: &BTreeMap<u64, (u64, usize)>,
        source: u64,
        mut store: u64,
    ) -> Vec<(usize, u64)> {
        let mut moves = Vec::new();
        while store != source {
            let (before, i) = came_by[&store];
            moves.push((i, store));
            store = before;
        }
        moves
    }
}

#[cfg(test)]
#[path = "leaders_test.rs"]
mod tests;
