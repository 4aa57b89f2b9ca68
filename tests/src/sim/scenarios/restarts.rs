//! Processes that end and start again.

use super::{Course, expect};
use crate::sim::clock::SECONDS;
use crate::sim::world::World;
use flotilla_raftstore::message::ShardMessage;

/// Leaders are told to stop, one after another.
pub(super) fn stop_and_start(world: &mut World) -> Course {
    for round in 0..5 {
        let region = round % world.regions.len();
        let node = world.leader(region)?;
        world.counts.add("stores told to stop");
        world.nodes[node].leaves = true;
        for shard in 0..world.config.shards {
            world.tell(node, shard, ShardMessage::Leave);
        }
        world.await_that("it hands over all that it leads", 5 * SECONDS, |world| {
            !world.leads_something(node)
        })?;
        world.await_leaders()?;
        expect(world.leader(region)? != node, "the leader did not change")?;
        world.crash(node, false, SECONDS);
        world.await_writes()?;
        world.await_that("it runs again", 2 * SECONDS, |world| {
            world.nodes[node].process.is_some()
        })?;
    }
    Ok(())
}

/// Leaders are killed one after another, and everybody at the end.
pub(super) fn kill_and_start(world: &mut World) -> Course {
    for round in 0..5 {
        let region = round % world.regions.len();
        let node = world.leader(region)?;
        world.crash(node, false, 6 * SECONDS);
        let others: Vec<usize> = (0..world.nodes.len()).filter(|other| *other != node).collect();
        world.await_leaders_among(&others)?;
        world.await_writes()?;
    }
    world.await_that("all run again", 7 * SECONDS, |world| {
        world.nodes.iter().all(|node| node.process.is_some())
    })?;
    let before = world.counts.get("restarts from disk");
    for node in 0..world.nodes.len() {
        world.crash(node, false, 2 * SECONDS);
    }
    world.pass(3 * SECONDS)?;
    let restarted = world.counts.get("restarts from disk") - before;
    expect(restarted >= world.nodes.len() as u64, "not every store was started again")?;
    world.await_leaders()?;
    world.await_writes()
}

/// A leader dies with entries that are not committed and callers that wait for them: by kill and by
/// power cut in turns.
pub(super) fn in_the_middle_of_replication(world: &mut World) -> Course {
    for round in 0..8 {
        let region = round % world.regions.len();
        let group = world.regions[region].group;
        let node = world.leader(region)?;
        let term = world.status_on(node, group).map_or(0, |status| status.term);
        let in_the_middle = |world: &World| {
            world.status_on(node, group).is_some_and(|status| {
                let open = status.last_index > status.commit && status.waiting_proposals > 0;
                open && status.term == term && world.leader_of(region) == Some(node)
            })
        };
        let met = world.run_until(world.now + 10 * SECONDS, in_the_middle);
        expect(met, "no entry was ever on its way")?;
        world.counts.add("leaders that died with open entries");
        world.crash(node, round % 2 == 1, 4 * SECONDS);
        let others: Vec<usize> = (0..world.nodes.len()).filter(|other| *other != node).collect();
        world.await_leaders_among(&others)?;
        world.await_writes()?;
        world.await_that("it runs again", 5 * SECONDS, |world| {
            world.nodes[node].process.is_some()
        })?;
    }
    Ok(())
}
