//! Nodes that do not reach each other.

use super::{Course, expect};
use crate::sim::clock::SECONDS;
use crate::sim::world::World;

/// Long enough for several elections.
const LONG: u64 = 10 * SECONDS;

/// Two of five are cut off: in every other round the leader of the first region is among them.
pub(super) fn large_and_small(world: &mut World) -> Course {
    for round in 0..4 {
        let led = world.leader(0)?;
        let mut order = world.shuffled();
        order.sort_by_key(|node| (*node == led) != (round % 2 == 0));
        let (small, large) = order.split_at(2);
        let cut_before = world.counts.get("frames cut off");
        world.cut_between(small, large);
        world.await_leaders_among(large)?;
        world.await_writes()?;
        let moved = world.leader(0)? != led;
        expect(moved == (round % 2 == 0), "the leader moves only if it is cut off")?;
        world.await_that("the small part steps down", 5 * SECONDS, |world| {
            !small.iter().any(|node| world.leads_something(*node))
        })?;
        expect(world.counts.get("frames cut off") > cut_before, "no frame was cut off")?;
        world.mend()?;
    }
    Ok(())
}

/// Whoever led goes on in the same term, though frames were cut off and votes asked for.
pub(super) fn undisturbed(
    world: &mut World,
    before: &[(usize, u64)],
    cut_before: u64,
    asked_before: u64,
) -> Course {
    expect(world.counts.get("frames cut off") > cut_before, "no frame was cut off")?;
    expect(world.counts.get("pre-votes asked") > asked_before, "nobody tried to campaign")?;
    let now = world.leaders();
    expect(now == before, &format!("leaders and terms were {before:?} and are {now:?}"))
}

/// Cuts happen, nobody's leadership is touched by them, and clients get on; nor does the end of the
/// cuts change anything.
fn nothing_changes(world: &mut World, cut: impl FnOnce(&mut World) -> Course) -> Course {
    let before = world.leaders();
    let cut_before = world.counts.get("frames cut off");
    let asked_before = world.counts.get("pre-votes asked");
    cut(world)?;
    world.pass(LONG)?;
    world.await_writes()?;
    undisturbed(world, &before, cut_before, asked_before)?;
    world.mend()?;
    world.pass(3 * SECONDS)?;
    undisturbed(world, &before, cut_before, asked_before)
}

/// Two and two that do not reach each other, and one that reaches all: a leader of the halves has its
/// quorum with it.
pub(super) fn bridge(world: &mut World) -> Course {
    let led = world.leader(0)?;
    nothing_changes(world, |world| {
        let mut order = world.shuffled();
        // A leader in the middle would be heard by all.
        order.sort_by_key(|node| *node != led);
        world.cut_between(&order[..2], &order[3..]);
        Ok(())
    })
}

/// Everybody reaches two neighbours, and has a quorum with them that is nobody else's.
pub(super) fn ring(world: &mut World) -> Course {
    nothing_changes(world, |world| {
        let order = world.shuffled();
        for (at, node) in order.iter().enumerate() {
            world.cut_between(&[*node], &[order[(at + 2) % order.len()]]);
        }
        Ok(())
    })
}

/// Its replicas would lead and may not even ask in a new term.
pub(super) fn isolated(world: &mut World) -> Course {
    let node = world.follower()?;
    let terms = |world: &World| -> Vec<u64> {
        world.replicas(node).iter().map(|replica| replica.term).collect()
    };
    let before = terms(world);
    nothing_changes(world, |world| {
        let others: Vec<usize> = (0..world.nodes.len()).filter(|other| *other != node).collect();
        world.cut_between(&[node], &others);
        world.pass(5 * SECONDS)?;
        let lost = world.replicas(node).iter().all(|replica| replica.leader.is_none());
        expect(lost, "the isolated node still believes in a leader")?;
        expect(terms(world) == before, "the term of the isolated node has grown")
    })?;
    let follows = world.replicas(node).iter().all(|replica| replica.leader.is_some());
    expect(follows && terms(world) == before, "the node does not follow again in the same term")
}

/// It reaches everybody and does not hear the leaders: the others have promised these to wait.
pub(super) fn campaign(world: &mut World) -> Course {
    let node = world.follower()?;
    nothing_changes(world, |world| {
        for (leader, _) in world.leaders() {
            world.cut_off(leader, node);
        }
        world.pass(5 * SECONDS)?;
        let lost = world.replicas(node).iter().all(|replica| replica.leader.is_none());
        expect(lost, "the follower still hears its leader")
    })
}
