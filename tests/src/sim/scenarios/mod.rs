//! Courses of events that have a name, each with seeds of its own.

use super::clock::{MILLIS, SECONDS};
use super::net::Weather;
use super::swarm::Plan;
use super::world::World;
use flotilla_raftstore::{
    Change, ChangeRequest, Config, OperationId, ReplicaId, ReplicaRole, StoreId,
};

/// One group of three among four stores, nothing breaks.
fn calm(seed: u64, config: Config) -> World {
    let plan = Plan {
        stores: 4,
        members: 3,
        groups: 1,
        change_interval: 0,
        members_stay: false,
        config,
        fault_interval: 1_000 * SECONDS,
        weather: Weather { delay_max: MILLIS, ..Weather::default() },
        snapshot_damage: 0.0,
        snapshot_load_cuts: 0.0,
        think_max: 10 * MILLIS,
        ..Plan::draw(seed)
    };
    World::new(plan)
}

/// A replica that joins gets a snapshot and what came behind it, not the log from its beginning.
#[test]
fn a_joining_replica_receives_a_snapshot_and_the_tail() {
    for seed in 1..=20 {
        let config = Config {
            group_log_entries_max: 16,
            truncate_entries_min: 1,
            sync_interval_ms: 100,
            snapshot_block_bytes: 1_000,
            ..Config::default()
        };
        let mut world = calm(seed, config);
        world.begin();
        world.run_until(30 * SECONDS, |_| false);
        let node = world.leader_of(0).expect("a leader in calm weather");
        let group = world.regions[0].group;
        let desc = world.desc_on(node, group).expect("the leader's replica");
        let joiner = desc.replica_max().0 + 1;
        let (replica, store) = (ReplicaId(joiner), StoreId(4));
        let changes = vec![Change::AddVoter { replica, store }];
        let request = ChangeRequest { operation: OperationId(1), changes, force: false };
        let whole_log = world.log_bytes_received.iter().copied().max().expect("four nodes");
        world.ask(0, node, &desc, request, false);
        let joined = |world: &World| {
            let desc = world.desc_on(3, group);
            let role = desc.and_then(|desc| desc.replica(replica).map(|own| own.role));
            role == Some(ReplicaRole::Voter)
        };
        assert!(world.run_until(60 * SECONDS, joined), "seed {seed}: {:?}", world.violations);
        let snapshot = world.counts.get("snapshot bytes received");
        let tail = world.log_bytes_received[3];
        println!("seed {seed}: whole log {whole_log}, snapshot {snapshot}, tail {tail} bytes");
        assert!(world.counts.get("snapshots installed") >= 1 && snapshot > 0);
        assert!((snapshot + tail) * 2 < whole_log, "{snapshot} + {tail} of {whole_log}");
        assert!(tail * 8 < whole_log, "{tail} of {whole_log}");
        world.stormy = false;
        world.expect_calm();
        world.check_histories();
        assert!(world.violations.is_empty(), "seed {seed}: {:?}", world.violations);
    }
}
