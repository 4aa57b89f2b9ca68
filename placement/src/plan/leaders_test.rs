//! Tests of the leader planner: convergence, no oscillation, stores that go and come.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn store(store: u64) -> StoreView {
    StoreView { store, condition: Condition::Ready }
}

fn region(region: u64, leader: u64, hosts: &[u64]) -> RegionView {
    RegionView {
        region,
        leader: Some(leader),
        stable: true,
        hosts: hosts.to_vec(),
        moving_to: None,
        resting: false,
    }
}

fn counts(stores: &[StoreView], regions: &[RegionView]) -> Vec<usize> {
    let led = |s: &StoreView| regions.iter().filter(|r| r.leader == Some(s.store)).count();
    stores.iter().filter(|s| s.condition == Condition::Ready).map(led).collect()
}

fn uneven(stores: &[StoreView], regions: &[RegionView]) -> usize {
    let counts = counts(stores, regions);
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// Carries out the planner's orders until there are none; checks each; gives their number.
fn run(stores: &[StoreView], regions: &mut [RegionView], max: usize) -> usize {
    let mut total = 0;
    for _ in 0..1_000 {
        let orders = leaders(stores, regions, max);
        assert!(orders.len() <= max);
        if orders.is_empty() {
            return total;
        }
        total += orders.len();
        for order in orders {
            let region = regions.iter_mut().find(|r| r.region == order.region).unwrap();
            assert_eq!(region.leader, Some(order.from));
            assert!(region.hosts.contains(&order.to));
            assert!(stores.contains(&store(order.to)), "{order:?} to a store that is not ready");
            region.leader = Some(order.to);
        }
    }
    panic!("the planner never comes to rest: {:?}", counts(stores, regions));
}

fn three() -> Vec<StoreView> {
    (1..=3).map(store).collect()
}

#[test]
fn all_leaders_on_one_store_are_spread_with_the_fewest_moves() {
    let mut regions: Vec<_> = (1..=24).map(|r| region(r, 1, &[1, 2, 3])).collect();
    assert_eq!(run(&three(), &mut regions, 4), 16);
    assert_eq!(counts(&three(), &regions), [8, 8, 8]);
}

#[test]
fn an_even_spread_is_left_alone() {
    for n in 1..=7 {
        let mut regions: Vec<_> = (0..n).map(|r| region(r, r % 3 + 1, &[1, 2, 3])).collect();
        assert_eq!(run(&three(), &mut regions, 16), 0, "{n} regions");
    }
}

#[test]
fn a_path_over_a_third_store_is_found() {
    // 1 leads three regions that only 2 may take, 2 leads two that 3 may take, 3 leads none.
    let mut regions: Vec<_> = (1..=3).map(|r| region(r, 1, &[1, 2])).collect();
    regions.extend((4..=5).map(|r| region(r, 2, &[2, 3])));
    run(&three(), &mut regions, 16);
    assert!(uneven(&three(), &regions) <= 1, "{:?}", counts(&three(), &regions));
}

#[test]
fn random_clusters_converge_within_one() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(1..=7u64);
        let stores: Vec<_> = (1..=count).map(store).collect();
        let number = random.random_range(0..60u64);
        let mut regions: Vec<_> = (0..number)
            .map(|r| {
                let hosts: Vec<u64> = (0..count.min(3)).map(|k| (r + k) % count + 1).collect();
                region(r, hosts[random.random_range(0..hosts.len())], &hosts)
            })
            .collect();
        let moves = run(&stores, &mut regions, random.random_range(6..20));
        assert!(moves <= 4 * regions.len(), "seed {seed}: {moves} moves");
        if number >= count {
            assert!(uneven(&stores, &regions) <= 1, "seed {seed}");
        }
    }
}

#[test]
fn a_dead_store_gets_nothing_and_gets_its_share_when_it_is_back() {
    let mut stores = three();
    stores[0].condition = Condition::Down;
    let mut regions: Vec<_> =
        (1..=24).map(|r| region(r, 2 + u64::from(r > 5), &[1, 2, 3])).collect();
    run(&stores, &mut regions, 16);
    assert_eq!(counts(&stores, &regions), [12, 12]);

    stores[0].condition = Condition::Settling;
    assert!(leaders(&stores, &regions, 16).is_empty(), "wait until it is settled");
    stores[0].condition = Condition::Ready;
    assert_eq!(run(&stores, &mut regions, 16), 8);
    assert_eq!(counts(&stores, &regions), [8, 8, 8]);
}

#[test]
fn orders_under_way_count_as_done_and_as_under_way() {
    let mut regions: Vec<_> = (1..=12).map(|r| region(r, 1, &[1, 2, 3])).collect();
    let first = leaders(&three(), &regions, 3);
    assert_eq!(first.len(), 3);
    for order in &first {
        regions[order.region as usize - 1].moving_to = Some(order.to);
    }
    assert!(leaders(&three(), &regions, 3).is_empty(), "three are enough");
    let next = leaders(&three(), &regions, 16);
    assert_eq!(next.len(), 5, "eight moves in all");
    assert!(next.iter().all(|n| first.iter().all(|f| f.region != n.region)));
}

#[test]
fn nothing_moves_before_every_region_has_a_settled_leader() {
    let regions: Vec<_> = (1..=6).map(|r| region(r, 1, &[1, 2, 3])).collect();
    let mut unknown = regions.clone();
    unknown[5].leader = None;
    assert!(leaders(&three(), &unknown, 16).is_empty());
    let mut fresh = regions.clone();
    fresh[0].stable = false;
    assert!(leaders(&three(), &fresh, 16).is_empty());
    assert_eq!(leaders(&three(), &regions, 16).len(), 4);
}

#[test]
fn resting_regions_and_stores_without_a_replica_are_spared() {
    let mut regions: Vec<_> = (1..=6).map(|r| region(r, 1, &[1, 2])).collect();
    regions[0].resting = true;
    run(&three(), &mut regions, 16);
    assert_eq!(counts(&three(), &regions), [3, 3, 0]);
    assert_eq!(regions[0].leader, Some(1));
    assert!(leaders(&[], &[], 16).is_empty());
}
