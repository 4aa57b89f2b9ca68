//! Stores that are lost for good, with the majority of every group.

use super::{Course, expect};
use crate::sim::clock::SECONDS;
use crate::sim::world::World;
use flotilla_raftstore::{OperationId, RecoverRequest, ReplicaId, Request, StoreId};

/// How long two of the lost stores are away. Then they come back as they were.
const AWAY: u64 = 40 * SECONDS;

/// Bug 30. Two of five stores fail, then a third with all that it had; the operator has one of the two that
/// are left go on alone in every group. Then the lost ones are back: they find that they have left.
pub(super) fn majority(world: &mut World) -> Course {
    let nodes = world.shuffled();
    let (lost, left) = nodes.split_at(3);
    let (old, empty) = (&lost[..2], lost[2]);
    old.iter().for_each(|node| world.crash(*node, false, AWAY));
    let back = world.now + AWAY;
    // From here on whatever is acknowledged is on all of the others.
    world.await_leaders_among(&nodes[2..])?;
    world.await_writes()?;
    world.pass(3 * SECONDS)?;
    world.wipe(empty);
    world.pass(4 * SECONDS)?;
    expect(!left.iter().any(|node| world.leads_something(*node)), "a minority leads")?;

    let stores: Vec<StoreId> = lost.iter().map(|node| world.nodes[*node].store).collect();
    for region in 0..world.regions.len() {
        let group = world.regions[region].group;
        let end = |node: &usize| {
            world.status_on(*node, group).map(|status| (status.last_term, status.last_index))
        };
        let best = left.iter().copied().max_by_key(end).expect("two are left");
        let operation = OperationId((1 << 100) + region as u128);
        let request = RecoverRequest { operation, lost: stores.clone(), replica_max: ReplicaId(0) };
        world.invariants.recovers(group);
        world.order(region, best, |reply| Request::Recover { group, request, reply });
    }
    world.await_leaders_among(left)?;
    world.await_writes()?;
    world.await_that("a new replica votes beside the one that went on", 20 * SECONDS, |world| {
        (0..world.regions.len()).all(|region| {
            let members = world.invariants.members(world.regions[region].group);
            members.replicas.len() == 2 && members.replicas.iter().all(|r| r.role.votes())
        })
    })?;
    expect(world.now < back, "the lost stores are back too early")?;
    world.await_that("the old majority has ended", AWAY + 20 * SECONDS, |world| {
        let ended =
            |node: &usize| world.nodes[*node].process.is_some() && world.replicas(*node).is_empty();
        world.now > back && old.iter().all(ended)
    })?;
    world.await_leaders_among(left)?;
    world.await_writes()
}
