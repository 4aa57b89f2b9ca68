//! Disks that are full, fail, or are gone.

use super::{Course, expect, three_stores};
use crate::sim::clock::SECONDS;
use crate::sim::room::{HARDLY_ANY, LITTLE};
use crate::sim::swarm::Plan;
use crate::sim::world::{Event, World};
use flotilla_raftstore::{Change, ChangeRequest, Priority, Role};

/// Leaders find no room, one after another, and then everybody at once.
pub(super) fn full(world: &mut World) -> Course {
    for round in 0..3 {
        let node = world.leader(round % world.regions.len())?;
        world.fill(node, 5 * SECONDS);
        world.await_that("the first refused write ends it", 3 * SECONDS, |world| {
            world.nodes[node].process.is_none()
        })?;
        let others: Vec<usize> = (0..world.nodes.len()).filter(|other| *other != node).collect();
        world.await_leaders_among(&others)?;
        world.await_writes()?;
        world.await_that("it runs again", 10 * SECONDS, |world| {
            world.nodes[node].full_until <= world.now && world.nodes[node].process.is_some()
        })?;
    }
    (0..world.nodes.len()).for_each(|node| world.fill(node, 5 * SECONDS));
    world.pass(3 * SECONDS)?;
    let before = world.counts.get("writes acknowledged");
    world.pass(SECONDS)?;
    let written = world.counts.get("writes acknowledged") - before;
    expect(written == 0, "writes are acknowledged while no disk has room")?;
    world.pass(2 * SECONDS)?;
    world.await_leaders()?;
    world.await_writes()?;
    let refused = world.counts.get("log writes refused by a full disk")
        + world.counts.get("engine writes refused by a full disk");
    expect(refused >= 5, &format!("{refused} writes were refused"))
}

/// Many clients: most of them soon wait with a put.
pub(super) fn nearly_full_plan(seed: u64) -> Plan {
    Plan { clients: 8, ..three_stores(seed) }
}

/// One store has little room, then all have: first little, then hardly any.
pub(super) fn nearly_full(world: &mut World) -> Course {
    let node = world.leader(0)?;
    world.run_short(node, LITTLE, 15 * SECONDS);
    world
        .await_that("whoever has room leads", 10 * SECONDS, |world| !world.leads_something(node))?;
    world.await_writes()?;
    world.await_that("it has room again", 16 * SECONDS, |w| w.nodes[node].short.is_none())?;
    for (left, priority) in [(LITTLE, 2), (HARDLY_ANY, 3)] {
        (0..world.nodes.len()).for_each(|node| world.run_short(node, left, 100 * SECONDS));
        world.pass(3 * SECONDS)?;
        let puts = |world: &World| {
            world.counts.get("writes acknowledged") - world.counts.get("deletes acknowledged")
        };
        let before = (puts(world), world.counts.clone());
        let more = |world: &World, what: &str| world.counts.get(what) > before.1.get(what);
        let (leader, group) = (world.leader(0)?, world.regions[0].group);
        let desc = world.desc_on(leader, group).ok_or("it leads nothing")?;
        let (replica, version) = (desc.replicas[0].replica, desc.membership.version);
        let changes = vec![Change::SetPriority { replica, priority: Priority(priority) }];
        let operation = world.changes.next_operation();
        let request = ChangeRequest { operation, changes, force: false };
        world.ask(0, leader, &desc, request, false);
        world.await_that("deletes, reads and members go on", 60 * SECONDS, |world| {
            let members = world.invariants.members(group).membership.version > version;
            let all = ["deletes acknowledged", "reads answered", "writes refused for want of room"];
            members && all.iter().all(|what| more(world, what))
        })?;
        expect(puts(world) == before.0, "puts are acknowledged where nobody has room")?;
        for node in 0..world.nodes.len() {
            world.nodes[node].short_until = world.now;
            world.room(node);
        }
        world.await_writes()?;
    }
    Ok(())
}

/// A leader's state, then a follower's.
pub(super) fn damaged(world: &mut World) -> Course {
    for leads in [true, false] {
        let (leader, group) = (world.leader(0)?, world.regions[0].group);
        let node = if leads { leader } else { (leader + 1) % world.nodes.len() };
        let damaged = world.replica_on(node, group).ok_or("nothing is there")?;
        world.damage(node, group);
        world.await_that("it takes no part", 5 * SECONDS, |world| {
            world.status_on(node, group).is_none_or(|status| status.role == Role::Quarantined)
        })?;
        world.await_leaders()?;
        world.await_writes()?;
        world.await_that("a new replica is in its place", 40 * SECONDS, |world| {
            let members = world.invariants.members(group);
            let voter = members.on_store(world.nodes[node].store).is_some_and(|r| r.role.votes());
            voter && members.replica(damaged).is_none()
        })?;
        let sound = world.replicas(node).iter().filter(|r| r.role != Role::Quarantined).count();
        expect(sound == world.regions.len(), "more than one replica was lost")?;
        world.await_writes()?;
    }
    Ok(())
}

/// The log's sync and the engine's fail in turns.
pub(super) fn failing(world: &mut World) -> Course {
    for round in 0..6 {
        let node = world.leader(round % world.regions.len())?;
        let what = if round % 2 == 0 { "log syncs failed" } else { "engine syncs failed" };
        let before = world.counts.get(what);
        if round % 2 == 0 {
            world.nodes[node].log.fail_next_sync();
        } else {
            world.nodes[node].engine.fail_next_sync();
        }
        world.await_that(what, 5 * SECONDS, |world| world.counts.get(what) > before)?;
        expect(world.nodes[node].process.is_none(), "its process goes on after a failed sync")?;
        world.await_leaders()?;
        world.await_writes()?;
        world.await_that("it runs again", 5 * SECONDS, |world| {
            world.nodes[node].process.is_some()
        })?;
    }
    Ok(())
}

/// The same store twice: what it loses first was there from the beginning, then it was rebuilt.
pub(super) fn wiped(world: &mut World) -> Course {
    let node = world.leader(0)?;
    for _ in 0..2 {
        world.wipe(node);
        let others: Vec<usize> = (0..world.nodes.len()).filter(|other| *other != node).collect();
        world.await_leaders_among(&others)?;
        world.await_writes()?;
        world.await_that("the store is back", 12 * SECONDS, |world| {
            world.nodes[node].process.is_some()
        })?;
        world.pass(2 * SECONDS)?;
        expect(world.replicas(node).is_empty(), "a replica came back by itself")?;

        // One of the two that hold everything is away. With the empty one the last would be two of three.
        let away = others[0];
        let asked = world.counts.get("pre-votes asked");
        world.crash(away, false, 12 * SECONDS);
        world.pass(8 * SECONDS)?;
        expect(world.counts.get("pre-votes asked") > asked, "nobody asked the wiped store")?;
        let led = (0..world.nodes.len()).any(|node| world.leads_something(node));
        expect(!led, "a quorum with the wiped store")?;
        world.pass(5 * SECONDS)?;
        world.await_leaders_among(&others)?;

        let rebuilt = world.counts.get("replicas rebuilt after a wipe");
        let all = rebuilt + world.regions.len() as u64;
        world.after(0, Event::Rebuild(node));
        world.await_that("its replicas are rebuilt", 20 * SECONDS, |world| {
            world.counts.get("replicas rebuilt after a wipe") == all
        })?;
        expect(world.replicas(node).len() == world.regions.len(), "replicas are missing")?;
        world.await_writes()?;
    }
    Ok(())
}
