//! Tests of what heartbeats tell, with a small cluster that carries out the orders.

use super::*;
use crate::pb::Leading;
use crate::regions::Layout;
use crate::state::Command;

const SECOND: u64 = 1_000_000_000;
const TIMING: Timing = Timing {
    down_after: 5 * SECOND,
    quiet_after: 15 * SECOND / 10,
    settle: 2 * SECOND,
    order_deadline: 5 * SECOND,
    rest: 10 * SECOND,
};

fn at(tenths: u64) -> Nanos {
    Nanos(100 * SECOND + tenths * SECOND / 10)
}

fn map(stores: u64, regions: u32) -> ClusterMap {
    let mut map = ClusterMap::default();
    for n in 1..=stores {
        map.apply(Command::AddStore { nonce: format!("n{n}"), address: format!("h{n}:1") });
    }
    let layout = Layout::even(regions).unwrap();
    map.apply(Command::CreateRegions { stores: stores as u32, layout });
    map
}

fn heartbeat(store: u64, start_id: u64, sequence: u64, leading: &[(u64, u64)]) -> HeartbeatRequest {
    let leading =
        leading.iter().map(|(region, term)| Leading { region: *region, term: *term, epoch: None });
    HeartbeatRequest {
        store,
        start_id,
        sequence,
        leading: leading.collect(),
        hosted: (1..=100).collect(),
        ..Default::default()
    }
}

/// Stores that do what they are told, heard once a second.
struct World {
    map: ClusterMap,
    observed: Observed,
    leader: BTreeMap<u64, (u64, u64)>,
    alive: BTreeSet<u64>,
    sequence: u64,
    transfers: usize,
    obey: bool,
    /// Its disk is slow: it hands over by itself what it leads.
    slow: Option<u64>,
}

impl World {
    fn new(stores: u64, regions: u32) -> Self {
        let map = map(stores, regions);
        World {
            leader: map.regions.keys().map(|r| (*r, (1, 1))).collect(),
            map,
            observed: Observed::new(TIMING, at(0)),
            alive: (1..=stores).collect(),
            sequence: 0,
            transfers: 0,
            obey: true,
            slow: None,
        }
    }

    fn run(&mut self, seconds: std::ops::Range<u64>) {
        for second in seconds {
            self.sequence += 1;
            for store in self.alive.clone() {
                let now = at(second * 10 + store);
                let led: Vec<_> = self.led(store);
                let slow = self.slow == Some(store);
                let beat =
                    HeartbeatRequest { slow, ..heartbeat(store, store, self.sequence, &led) };
                self.observed.hear(&beat, now);
                for order in self.observed.orders_for(StoreId(store), &self.map, now) {
                    self.transfers += 1;
                    let (leader, term) = self.leader.get_mut(&order.region).unwrap();
                    assert_eq!(*leader, store);
                    if self.obey {
                        (*leader, *term) = (order.to_store, *term + 1);
                    }
                }
            }
        }
    }

    fn led(&self, store: u64) -> Vec<(u64, u64)> {
        let led = self.leader.iter().filter(|(_, (leader, _))| *leader == store);
        led.map(|(region, (_, term))| (*region, *term)).collect()
    }

    fn counts(&self) -> Vec<usize> {
        self.map.stores.keys().map(|s| self.led(s.0).len()).collect()
    }
}

#[test]
fn a_store_with_a_slow_disk_gets_no_leader_until_it_is_fast_again() {
    let mut world = World::new(3, 24);
    world.run(0..20);
    assert_eq!(world.counts(), [8, 8, 8]);
    world.slow = Some(2);
    for (region, (leader, term)) in &mut world.leader {
        if *leader == 2 {
            (*leader, *term) = (if region % 2 == 0 { 1 } else { 3 }, *term + 1);
        }
    }
    let before = world.transfers;
    world.run(20..60);
    assert_eq!(world.counts()[1], 0, "placement would give them back");
    assert_eq!(world.observed.slow(at(600)), 1);
    assert!(world.transfers - before <= 4, "the others share what they got");
    world.slow = None;
    world.run(60..90);
    assert_eq!(world.counts(), [8, 8, 8]);
}

#[test]
fn leaders_are_spread_quickly_and_then_stay() {
    let mut world = World::new(3, 24);
    world.run(0..2);
    assert_eq!(world.transfers, 0, "nothing moves before it has settled");
    world.run(2..8);
    assert_eq!(world.counts(), [8, 8, 8]);
    assert_eq!(world.transfers, 16);
    world.run(8..120);
    assert_eq!(world.transfers, 16);
}

#[test]
fn a_store_that_dies_and_comes_back_gets_its_share_again() {
    let mut world = World::new(3, 24);
    world.run(0..8);
    world.alive.remove(&2);
    for (region, term) in world.led(2) {
        world.leader.insert(region, (1, term + 1));
    }
    world.run(8..20);
    // The orders went to store 3, none to the dead one that was not yet called down.
    assert_eq!(world.counts(), [12, 0, 12]);
    assert_eq!(world.observed.liveness(StoreId(2), at(200)), Liveness::Down);
    world.alive.insert(2);
    world.run(20..30);
    assert_eq!(world.counts(), [8, 8, 8]);
}

#[test]
fn an_order_that_is_not_followed_rests_before_it_comes_again() {
    let mut world = World::new(3, 3);
    world.obey = false;
    world.run(0..7);
    assert_eq!(world.transfers, 2);
    assert_eq!(world.observed.under_way(), 2);
    world.run(7..12);
    // The third region takes the place of the two that rest, once.
    assert!(world.transfers <= 4, "{}", world.transfers);
    world.obey = true;
    world.run(12..40);
    assert_eq!(world.counts(), [1, 1, 1]);
}

#[test]
fn late_heartbeats_are_ignored() {
    let mut observed = Observed::new(TIMING, at(0));
    assert!(observed.hear(&heartbeat(1, 70, 5, &[(1, 3)]), at(1)));
    assert!(!observed.hear(&heartbeat(1, 70, 5, &[(1, 9)]), at(2)), "same sequence");
    assert!(!observed.hear(&heartbeat(1, 70, 4, &[]), at(2)), "older sequence");
    assert_eq!(observed.leader(1, at(2)), Some((StoreId(1), 3)));
    assert!(observed.hear(&heartbeat(1, 71, 1, &[]), at(3)), "a new process counts anew");
    assert_eq!(observed.leader(1, at(3)), None);
    assert!(!observed.hear(&heartbeat(1, 70, 6, &[(1, 3)]), at(4)), "the old process is over");
    assert_eq!(observed.age(&heartbeat(1, 70, 6, &[])), Age::Replaced);
    assert_eq!(observed.age(&heartbeat(1, 71, 1, &[])), Age::Late);
    assert_eq!(observed.leader(1, at(4)), None);
}

fn partial(
    store: u64,
    sequence: u64,
    leading: &[(u64, u64)],
    no_longer: &[u64],
) -> HeartbeatRequest {
    HeartbeatRequest {
        partial: true,
        hosted: Vec::new(),
        led_no_longer: no_longer.to_vec(),
        ..heartbeat(store, store, sequence, leading)
    }
}

#[test]
fn a_partial_heartbeat_counts_only_after_the_one_before_it() {
    let mut observed = Observed::new(TIMING, at(0));
    assert_eq!(observed.age(&partial(1, 1, &[], &[])), Age::Detached, "none came before");
    assert!(observed.hear(&heartbeat(1, 1, 1, &[(1, 3), (2, 3), (3, 3)]), at(1)));
    assert!(observed.hear(&partial(1, 2, &[(2, 4), (4, 4)], &[3]), at(2)));
    let leader = |region, term| observed.leader(region, at(2)) == Some((StoreId(1), term));
    assert!(leader(1, 3) && leader(2, 4) && leader(4, 4));
    assert_eq!(observed.leader(3, at(2)), None);
    assert!(observed.hosts(StoreId(1), 100), "what is not named stays");
    let less = HeartbeatRequest { hosted_no_longer: vec![100], ..partial(1, 3, &[], &[]) };
    assert!(observed.hear(&less, at(3)));
    assert!(!observed.hosts(StoreId(1), 100) && observed.hosts(StoreId(1), 99));

    let lost = partial(1, 5, &[(1, 9)], &[]);
    assert_eq!(observed.age(&lost), Age::Detached, "one in between is missing");
    let other = HeartbeatRequest { start_id: 7, ..partial(1, 4, &[], &[]) };
    assert_eq!(observed.age(&other), Age::Detached, "another process");
    assert!(!observed.hear(&lost, at(4)));
    assert_eq!(observed.leader(1, at(4)), Some((StoreId(1), 3)));
    assert!(observed.hear(&heartbeat(1, 1, 6, &[(1, 9)]), at(4)));
    assert_eq!(observed.leader(2, at(4)), None, "a whole one is all there is");
}

#[test]
fn stores_are_told_of_leaders_once() {
    let mut observed = Observed::new(TIMING, at(0));
    let (one, two) = (StoreId(1), StoreId(2));
    observed.hear(&heartbeat(1, 1, 1, &[(1, 3), (2, 3)]), at(1));
    observed.hear(&heartbeat(2, 2, 1, &[]), at(1));
    assert_eq!(observed.leaders_for(two, at(1)), [(1, one, 3), (2, one, 3)]);
    assert_eq!(observed.leaders_for(two, at(1)), []);
    observed.hear(&partial(1, 2, &[(2, 4)], &[]), at(2));
    assert_eq!(observed.leaders_for(two, at(2)), [(2, one, 4)]);
    // An answer may have been lost: whoever tells everything hears everything.
    observed.hear(&heartbeat(2, 2, 2, &[]), at(2));
    assert_eq!(observed.leaders_for(two, at(2)), [(1, one, 3), (2, one, 4)]);
    // Of a store that is down nobody is told; of what it leads when it is back, all are.
    let later = at(80);
    observed.hear(&heartbeat(2, 2, 3, &[]), later);
    assert_eq!(observed.leaders_for(two, later), []);
    observed.hear(&partial(1, 3, &[], &[]), later);
    assert_eq!(observed.leaders_for(two, later), [(1, one, 3), (2, one, 4)]);
}

#[test]
fn the_higher_term_leads() {
    let mut observed = Observed::new(TIMING, at(0));
    observed.hear(&heartbeat(1, 1, 1, &[(1, 4)]), at(1));
    observed.hear(&heartbeat(2, 2, 1, &[(1, 3)]), at(1));
    assert_eq!(observed.leader(1, at(1)), Some((StoreId(1), 4)));
    observed.hear(&heartbeat(2, 2, 2, &[(1, 5)]), at(2));
    observed.hear(&heartbeat(1, 1, 2, &[(1, 4)]), at(2));
    assert_eq!(observed.leader(1, at(2)), Some((StoreId(2), 5)));
    observed.hear(&heartbeat(2, 2, 3, &[]), at(3));
    assert_eq!(observed.leader(1, at(3)), None);
}

#[test]
fn silence_means_down_after_five_seconds() {
    let mut observed = Observed::new(TIMING, at(0));
    let one = StoreId(1);
    assert_eq!(observed.liveness(one, at(100)), Liveness::Unknown);
    assert_eq!(observed.liveness(one, at(101)), Liveness::Down);
    observed.hear(&heartbeat(1, 1, 1, &[(1, 1)]), at(110));
    assert_eq!(observed.liveness(one, at(160)), Liveness::Up);
    assert_eq!(observed.leader(1, at(160)), Some((one, 1)));
    assert_eq!(observed.liveness(one, at(161)), Liveness::Down);
    assert_eq!(observed.leader(1, at(161)), None, "a dead store is nobody's leader");
}
