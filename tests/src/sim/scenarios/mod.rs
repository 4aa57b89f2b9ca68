//! Courses of events that have a name, each with seeds of its own.
//!
//! 1. The cluster boots in calm weather, every group gets a leader, clients work.
//! 2. The course happens, and shows that its fault bit: a leader changed or did not, messages were lost.
//! 3. Heal, liveness, durability and linearizability, as after the faults of any other seed (`run.rs`).
//!
//! Under a seed the order, the nodes and all small delays differ.

mod disks;
mod lost;
mod members;
mod partitions;
mod restarts;

use super::clock::{MILLIS, SECONDS};
use super::net::Weather;
use super::run::{Report, observe};
use super::swarm::Plan;
use super::world::World;
use flotilla_raftstore::{Config, ReplicaStatus, Role};
use rand::seq::SliceRandom;

/// Why a course did not go as it should.
type Course = Result<(), String>;

/// A course of events.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens, and what must come of it.
    pub about: &'static str,
    plan: fn(u64) -> Plan,
    course: fn(&mut World) -> Course,
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "partition",
        about: "one large and one small part: the large one leads and writes, the small one steps down",
        plan: five_stores,
        course: partitions::large_and_small,
    },
    Scenario {
        name: "bridge",
        about: "two halves joined by one node: the leaders stay, in their terms",
        plan: five_stores,
        course: partitions::bridge,
    },
    Scenario {
        name: "ring",
        about: "every node reaches another majority: the leaders stay, in their terms",
        plan: five_stores,
        course: partitions::ring,
    },
    Scenario {
        name: "isolated",
        about: "a node alone keeps its term, so that it disturbs nobody when it is back",
        plan: five_stores,
        course: partitions::isolated,
    },
    Scenario {
        name: "campaign",
        about: "a follower that does not hear its leader campaigns in vain: the leader goes on",
        plan: five_stores,
        course: partitions::campaign,
    },
    Scenario {
        name: "members",
        about: "nodes are added and removed at random",
        plan: members::plan,
        course: members::at_random,
    },
    Scenario {
        name: "joining",
        about: "a replica that joins gets a snapshot and what came behind it, not the whole log",
        plan: members::joining_plan,
        course: members::joining,
    },
    Scenario {
        name: "stop",
        about: "stores are told to stop, hand over what they lead, end, and start again",
        plan: five_stores,
        course: restarts::stop_and_start,
    },
    Scenario {
        name: "kill",
        about: "leaders are killed, then all stores at once, and start again",
        plan: five_stores,
        course: restarts::kill_and_start,
    },
    Scenario {
        name: "replication",
        about: "leaders die in the middle of replication: what was acknowledged stays, the rest is unknown",
        plan: five_stores,
        course: restarts::in_the_middle_of_replication,
    },
    Scenario {
        name: "full-disk",
        about: "a leader's disk is full, then all disks are: nothing is lost, and they start once there is room",
        plan: three_stores,
        course: disks::full,
    },
    Scenario {
        name: "nearly-full",
        about: "disks have little room: leaders leave, puts are refused, all else goes on, and puts again with room",
        plan: disks::nearly_full_plan,
        course: disks::nearly_full,
    },
    Scenario {
        name: "damaged",
        about: "the state of one replica is damaged: it alone stops, and is rebuilt by itself",
        plan: three_stores,
        course: disks::damaged,
    },
    Scenario {
        name: "failing-disk",
        about: "a sync of a leader's log or engine fails: its process ends at once and starts again",
        plan: three_stores,
        course: disks::failing,
    },
    Scenario {
        name: "wiped",
        about: "a store comes back with nothing: it does not vote, and is rebuilt under new ids",
        plan: three_stores,
        course: disks::wiped,
    },
    Scenario {
        name: "lost-majority",
        about: "what is left goes on by order, and the old majority ends when it is back",
        plan: five_stores,
        course: lost::majority,
    },
    Scenario {
        name: "lost-stopped",
        about: "the same in the logs of stopped stores",
        plan: five_stores,
        course: lost::majority_of_stopped,
    },
    Scenario {
        name: "lost-alive",
        about: "stores that are given up lead still: nothing is recovered, and their groups go on",
        plan: three_stores,
        course: lost::majority_that_lives,
    },
];

impl Scenario {
    /// Runs it under a seed. `loud` prints every event.
    #[must_use]
    pub fn run(&self, seed: u64, loud: bool) -> Report {
        observe((self.plan)(seed), loud, |world| {
            world.begin();
            let gone = world.await_leaders().and_then(|()| world.await_writes());
            let gone = gone.and_then(|()| (self.course)(world));
            if let Err(why) = gone
                && world.violations.is_empty()
            {
                world.violations.push(format!("scenario {}: {why}", self.name));
            }
            world.recover();
        })
    }
}

/// Nothing breaks by itself.
fn calm(seed: u64) -> Plan {
    Plan {
        groups: 3,
        change_interval: 0,
        members_stay: false,
        kills_in_order: false,
        config: Config::default(),
        faults: Vec::new(),
        weather: Weather { delay_max: MILLIS, ..Weather::default() },
        sync_max: 2 * MILLIS,
        apply_max: MILLIS,
        clients: 2,
        think_max: 100 * MILLIS,
        apply_failure_interval: 0,
        snapshot_damage: 0.0,
        snapshot_load_cuts: 0.0,
        read_modes: true,
        clock_interval: 0,
        absence_interval: 0,
        disk_interval: 0,
        wipe_interval: 0,
        shortage_interval: 0,
        damage_interval: 0,
        loss_at: None,
        lost_are_replaced: false,
        ..Plan::draw(seed)
    }
}

fn five_stores(seed: u64) -> Plan {
    Plan { stores: 5, members: 5, ..calm(seed) }
}

fn three_stores(seed: u64) -> Plan {
    Plan { stores: 3, members: 3, ..calm(seed) }
}

fn expect(holds: bool, what: &str) -> Course {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl World {
    /// Time goes on.
    fn pass(&mut self, span: u64) -> Course {
        self.run_until(self.now + span, |_| false);
        self.violations.first().map_or(Ok(()), |violation| Err(violation.clone()))
    }

    fn await_that(&mut self, what: &str, within: u64, holds: impl Fn(&World) -> bool) -> Course {
        let until = self.now + within;
        while !holds(self) {
            expect(self.now < until, &format!("not within {} s: {what}", within / SECONDS))?;
            self.pass(20 * MILLIS)?;
        }
        Ok(())
    }

    /// Every group has a leader, and one of those nodes.
    fn await_leaders_among(&mut self, nodes: &[usize]) -> Course {
        self.await_that("every group has a leader there", 10 * SECONDS, |world| {
            let led = |region| world.leader_of(region).is_some_and(|node| nodes.contains(&node));
            (0..world.regions.len()).all(led)
        })
    }

    fn await_leaders(&mut self) -> Course {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.await_leaders_among(&all)
    }

    /// Clients get on.
    fn await_writes(&mut self) -> Course {
        let enough = self.counts.get("writes acknowledged") + 20;
        self.await_that("20 writes are acknowledged", 15 * SECONDS, |world| {
            world.counts.get("writes acknowledged") >= enough
        })
    }

    /// By region, who leads it and in which term.
    fn leaders(&self) -> Vec<(usize, u64)> {
        let leader = |region: usize| {
            let node = self.leader_of(region)?;
            Some((node, self.status_on(node, self.regions[region].group)?.term))
        };
        (0..self.regions.len()).filter_map(leader).collect()
    }

    fn leader(&self, region: usize) -> Result<usize, String> {
        self.leader_of(region).ok_or_else(|| format!("region {region} has no leader"))
    }

    /// All replicas of a node.
    fn replicas(&self, node: usize) -> Vec<ReplicaStatus> {
        let process = self.nodes[node].process.iter();
        process.flat_map(|p| p.shards.iter().flat_map(|slot| slot.shard.statuses())).collect()
    }

    fn leads_something(&self, node: usize) -> bool {
        self.replicas(node).iter().any(|replica| replica.role == Role::Leader)
    }

    /// The nodes in some order.
    fn shuffled(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        nodes.shuffle(&mut self.rng);
        nodes
    }

    /// A node that leads nothing.
    fn follower(&mut self) -> Result<usize, String> {
        let nodes = self.shuffled();
        let found = nodes.into_iter().find(|node| !self.leads_something(*node));
        found.ok_or_else(|| "every node leads something".to_owned())
    }

    /// Cuts one direction until [`Self::mend`].
    fn cut_off(&mut self, from: usize, to: usize) {
        let (from, to) = (self.nodes[from].store.0, self.nodes[to].store.0);
        self.net.cut(from, to);
    }

    /// Cuts both directions between any two of different sides.
    fn cut_between(&mut self, ones: &[usize], others: &[usize]) {
        for (one, other) in ones.iter().flat_map(|one| others.iter().map(move |o| (*one, *o))) {
            self.cut_off(one, other);
            self.cut_off(other, one);
        }
    }

    fn mend(&mut self) -> Course {
        self.net.heal();
        self.await_leaders()?;
        self.await_writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds in `make test`; any others by `make sim SCENARIO=NAME SEEDS=FIRST..LAST`.
    const SEEDS: u64 = 6;

    fn holds(name: &str) {
        let scenario = SCENARIOS.iter().find(|s| s.name == name).expect("it has that name");
        for seed in 1..=SEEDS {
            let Report { violations, .. } = scenario.run(seed, false);
            assert!(violations.is_empty(), "{name}, seed {seed}: {violations:?}");
        }
    }

    #[test]
    fn one_large_and_one_small_partition() {
        holds("partition");
    }

    #[test]
    fn two_halves_joined_by_one_node() {
        holds("bridge");
    }

    #[test]
    fn a_different_majority_for_each_node() {
        holds("ring");
    }

    #[test]
    fn an_isolated_node_keeps_its_term() {
        holds("isolated");
    }

    #[test]
    fn a_follower_campaigns_while_the_leader_lives() {
        holds("campaign");
    }

    #[test]
    fn nodes_are_added_and_removed_at_random() {
        holds("members");
    }

    #[test]
    fn a_joining_replica_receives_a_snapshot_and_the_tail() {
        holds("joining");
    }

    #[test]
    fn stores_stop_and_start() {
        holds("stop");
    }

    #[test]
    fn stores_are_killed_and_start() {
        holds("kill");
    }

    #[test]
    fn a_leader_dies_in_the_middle_of_replication() {
        holds("replication");
    }

    #[test]
    fn full_disks_lose_nothing() {
        holds("full-disk");
    }

    /// Bug 35.
    #[test]
    fn nearly_full_disks_refuse_what_takes_room() {
        holds("nearly-full");
    }

    #[test]
    fn a_damaged_state_costs_one_replica() {
        holds("damaged");
    }

    #[test]
    fn a_failed_sync_ends_its_process() {
        holds("failing-disk");
    }

    /// Bug 16.
    #[test]
    fn a_wiped_store_does_not_vote() {
        holds("wiped");
    }

    /// Bug 30.
    #[test]
    fn a_recovered_minority_meets_the_old_majority() {
        holds("lost-majority");
        holds("lost-stopped");
    }

    /// Its groups are led, and so is nothing to be recovered.
    #[test]
    fn a_majority_that_is_given_up_and_lives_goes_on() {
        holds("lost-alive");
    }

    /// A course that does not bite fails.
    #[test]
    fn a_scenario_whose_fault_does_not_bite_fails() {
        let course = |world: &mut World| {
            let before = world.leaders();
            world.pass(2 * SECONDS)?;
            partitions::undisturbed(world, &before, 0, 0)
        };
        let scenario = Scenario { name: "nothing", about: "", plan: three_stores, course };
        let Report { violations, .. } = scenario.run(1, false);
        assert!(violations[0].contains("scenario nothing: no frame was cut off"), "{violations:?}");
    }

    #[test]
    fn a_scenario_is_found_by_its_name() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[..at].iter().all(|other| other.name != scenario.name));
        }
    }
}
