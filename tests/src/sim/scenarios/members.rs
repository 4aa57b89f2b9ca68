//! Members that come and go.

use super::{Course, calm, expect};
use crate::sim::clock::{MILLIS, SECONDS};
use crate::sim::swarm::Plan;
use crate::sim::world::{Event, World};
use flotilla_raftstore::{
    Change, ChangeRequest, Config, OperationId, ReplicaId, ReplicaRole, StoreId,
};

pub(super) fn plan(seed: u64) -> Plan {
    Plan { stores: 5, members: 3, change_interval: 300 * MILLIS, ..calm(seed) }
}

/// An operator adds, removes, replaces, promotes, demotes and prefers members, one or two at once.
pub(super) fn at_random(world: &mut World) -> Course {
    world.after(0, Event::Change);
    world.pass(20 * SECONDS)?;
    for (what, least) in
        [("membership changes accepted", 5), ("learners promoted", 1), ("replicas destroyed", 1)]
    {
        let count = world.counts.get(what);
        expect(count >= least, &format!("{what}: {count} in 20 s"))?;
    }
    Ok(())
}

/// One group of three among four stores whose log is cut early.
pub(super) fn joining_plan(seed: u64) -> Plan {
    let config = Config {
        group_log_entries_max: 16,
        truncate_entries_min: 1,
        sync_interval_ms: 100,
        snapshot_block_bytes: 1_000,
        ..Config::default()
    };
    let think_max = 10 * MILLIS;
    Plan { stores: 4, members: 3, groups: 1, config, think_max, ..calm(seed) }
}

/// Bytes tell what it was given.
pub(super) fn joining(world: &mut World) -> Course {
    world.pass(30 * SECONDS)?;
    let node = world.leader(0)?;
    let group = world.regions[0].group;
    let desc = world.desc_on(node, group).ok_or("the leader has no replica")?;
    let (replica, store) = (ReplicaId(desc.replica_max().0 + 1), StoreId(4));
    let changes = vec![Change::AddVoter { replica, store }];
    let request = ChangeRequest { operation: OperationId(1), changes, force: false };
    let whole_log = world.log_bytes_received.iter().copied().max().unwrap_or_default();
    world.ask(0, node, &desc, request, false);
    world.await_that("the replica votes", 30 * SECONDS, |world| {
        let desc = world.desc_on(3, group);
        let role = desc.and_then(|desc| desc.replica(replica).map(|own| own.role));
        role == Some(ReplicaRole::Voter)
    })?;
    let (snapshot, tail) =
        (world.counts.get("snapshot bytes received"), world.log_bytes_received[3]);
    world.counts.add_many("bytes of the log that a replica from the beginning received", whole_log);
    world.counts.add_many("bytes of the log that a joining replica received", tail);
    expect(world.counts.get("snapshots installed") >= 1 && snapshot > 0, "no snapshot came")?;
    let bytes = format!("{snapshot} bytes of snapshot, {tail} of log, the whole is {whole_log}");
    expect((snapshot + tail) * 2 < whole_log && tail * 8 < whole_log, &bytes)
}
