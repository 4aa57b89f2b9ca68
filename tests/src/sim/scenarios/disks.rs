//! Disks that are full, fail, or are gone.

use super::{Course, expect};
use crate::sim::clock::SECONDS;
use crate::sim::world::{Event, World};

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
