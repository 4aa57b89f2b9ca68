//! Stores that are lost for good, with the majority of every group.

use super::{Course, expect};
use crate::sim::clock::SECONDS;
use crate::sim::world::World;

/// How long two of the lost stores are away. Then they come back as they were.
const AWAY: u64 = 40 * SECONDS;

/// Bug 30. Two of five stores fail, then a third with all that it had; the operator has one of the two that
/// are left go on alone in every group. Then the lost ones are back: they find that they have left.
pub(super) fn majority(world: &mut World) -> Course {
    lose(world, false)
}

/// The same with the stores that are left stopped meanwhile.
pub(super) fn majority_of_stopped(world: &mut World) -> Course {
    lose(world, true)
}

/// The stores that are given up are there after all, and lead: orders about their groups are refused, and the
/// groups go on.
pub(super) fn majority_that_lives(world: &mut World) -> Course {
    let leader = world.leader(0)?;
    let (mut lost, mut left) = (vec![leader], world.shuffled());
    left.retain(|node| *node != leader);
    lost.extend(left.pop());
    let before = world.leaders();
    world.give_up(lost, left, false);
    world.operate();
    world.pass(4 * SECONDS)?;
    expect(world.leaders() == before, "a group has lost its leader")?;
    let refused = world.counts.get("orders to recover refused");
    expect(refused > 2, &format!("{refused} orders were refused"))?;
    world.await_writes()
}

fn lose(world: &mut World, offline: bool) -> Course {
    let nodes = world.shuffled();
    let (lost, left) = nodes.split_at(3);
    let (old, empty) = (&lost[..2], lost[2]);
    old.iter().for_each(|node| world.take_away(*node, AWAY));
    let back = world.now + AWAY;
    // From here on whatever is acknowledged is on all of the others.
    world.await_leaders_among(&nodes[2..])?;
    world.await_writes()?;
    world.pass(3 * SECONDS)?;
    world.wipe(empty);
    world.pass(4 * SECONDS)?;
    expect(!left.iter().any(|node| world.leads_something(*node)), "a minority leads")?;

    world.give_up(lost.to_vec(), left.to_vec(), offline);
    world.operate();
    world.await_that("what is left goes on", 10 * SECONDS, |world| world.all_recovered())?;
    let stopped = world.counts.get("groups recovered on stopped stores");
    expect(offline == (stopped > 0), &format!("{stopped} were recovered on stopped stores"))?;
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
