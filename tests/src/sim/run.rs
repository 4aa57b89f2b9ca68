//! One seed from start to verdict.
//!
//! 1. Faults: the cluster boots into bad weather, clients work, things break.
//! 2. Heal: everything runs again.
//! 3. Liveness: every group has a leader within ten election timeouts; clients end; every request
//!    is answered; the replicas become identical.
//! 4. Durability: a final linearizable read of everything joins the histories, which are checked.

use super::clock::{MILLIS, SECONDS};
use super::counts::Counts;
use super::swarm::Plan;
use super::world::{Event, World};
use crate::history::{Operation, linearizability, revision, set};
use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::GroupId;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A run's result.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// Events.
    pub events: u64,
    /// Simulated time in nanoseconds.
    pub simulated: u64,
    /// The same in cluster-hours.
    pub cluster_hours: f64,
    /// What happened.
    pub counts: Counts,
    /// What must not have happened, the first one first.
    pub violations: Vec<String>,
    /// The last events, when there is a violation.
    pub last_events: Vec<String>,
}

/// Runs one seed. `loud` prints every event.
#[must_use]
pub fn run(seed: u64, loud: bool) -> Report {
    run_plan(Plan::draw(seed), loud)
}

/// Runs one plan.
#[must_use]
pub fn run_plan(plan: Plan, loud: bool) -> Report {
    observe(plan, loud, World::live)
}

/// What comes of a course of events.
pub(super) fn observe(plan: Plan, loud: bool, course: impl FnOnce(&mut World)) -> Report {
    let seed = plan.seed;
    let mut world = World::new(plan);
    world.trace.loud = loud;
    let outcome = catch_unwind(AssertUnwindSafe(|| course(&mut world)));
    if let Err(panic) = outcome {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        world.violations.push(format!("panic: {text}"));
    }
    let last_events = if world.violations.is_empty() {
        Vec::new()
    } else {
        world.trace.last().map(ToString::to_string).collect()
    };
    Report {
        seed,
        trace_hash: world.trace.hash(),
        events: world.trace.events(),
        simulated: world.now,
        cluster_hours: world.plan.cluster_hours(world.now),
        counts: world.counts.clone(),
        violations: world.violations.clone(),
        last_events,
    }
}

impl World {
    /// Switches all nodes and clients on.
    pub(super) fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        for client in 0..self.clients.count() {
            self.after(MILLIS * client as u64, Event::Next(client));
        }
    }

    fn live(&mut self) {
        self.begin();
        self.after(self.plan.fault_interval, Event::Fault);
        if self.plan.apply_failure_interval > 0 {
            self.after(self.plan.apply_failure_interval, Event::ApplyFails);
        }
        if self.plan.clock_interval > 0 {
            self.after(self.plan.clock_interval, Event::Clock);
        }
        if self.plan.absence_interval > 0 {
            self.after(self.plan.absence_interval, Event::Absence);
        }
        if self.plan.change_interval > 0 {
            self.after(self.plan.change_interval, Event::Change);
        }
        if let Some(at) = self.plan.calm_at {
            self.after(at, Event::Settle);
        }
        if self.plan.disk_interval > 0 {
            self.after(self.plan.disk_interval, Event::Disk);
        }
        if self.plan.wipe_interval > 0 {
            self.after(self.plan.wipe_interval, Event::Wipe);
        }
        if self.plan.shortage_interval > 0 {
            self.after(self.plan.shortage_interval, Event::Shortage);
        }
        if self.plan.damage_interval > 0 {
            self.after(self.plan.damage_interval, Event::Damage);
        }
        if let Some(at) = self.plan.loss_at {
            self.after(at, Event::Lose);
        }
        let storm_end = self.plan.faults_for;
        self.run_until(storm_end, |_| false);
        self.recover();
    }

    /// Phases 2 to 4.
    pub(super) fn recover(&mut self) {
        if self.violations.is_empty() {
            self.heal();
            self.expect_recoveries();
            self.expect_leaders();
        }
        if self.violations.is_empty() {
            self.expect_calm();
        }
        if self.violations.is_empty() {
            self.check_histories();
        }
    }

    fn expect_leaders(&mut self) {
        let election = self.config.election_ticks as u64 * self.config.tick_interval_ms * MILLIS;
        let until = self.now + 10 * election;
        let regions = self.regions.len();
        let led = |world: &World| (0..regions).all(|r| world.leader_of(r).is_some());
        while !led(self) && self.now < until && self.violations.is_empty() {
            let slice = self.now + 100 * MILLIS;
            self.run_until(slice, |_| false);
        }
        if self.violations.is_empty() && !led(self) {
            let without = (0..regions).filter(|region| self.leader_of(*region).is_none());
            let groups: String = without.map(|r| self.describe(self.regions[r].group)).collect();
            let what = "liveness: a group has no leader ten election timeouts on";
            self.violations.push(format!("{what}:{groups}"));
        }
        self.expect_writes();
    }

    /// Clients get on in every group, by themselves. Two seconds are some normal work.
    fn expect_writes(&mut self) {
        let acknowledged = |world: &World| -> Vec<u64> {
            let floor = |region: &RegionMeta| world.invariants.read_floor(region.group);
            world.regions.iter().map(floor).collect()
        };
        let before = acknowledged(self);
        self.run_until(self.now + 2 * SECONDS, |_| false);
        let written = |world: &World| {
            acknowledged(world).iter().zip(&before).all(|(now, before)| now > before)
        };
        if !self.run_until(self.now + 15 * SECONDS, written) && self.violations.is_empty() {
            let why = "liveness: a group has acknowledged no write since the faults ended";
            self.violations.push(why.into());
        }
    }

    fn expect_calm(&mut self) {
        self.clients.closed = true;
        let answered = |w: &World| w.clients.live.is_empty() && w.clients.attempts.is_empty();
        if !self.run_until(self.now + 15 * SECONDS, answered) {
            let waiting = (&self.clients.live, &self.clients.attempts);
            let why = format!("liveness: requests without an answer: {waiting:?}");
            self.violations.push(why);
        }
        self.await_level_replicas();
        if self.violations.is_empty() && !self.replicas_are_level() {
            let why = format!("liveness: the replicas do not become level: {}", self.unlevel());
            self.violations.push(why);
        }
        if self.violations.is_empty() {
            self.expect_willing_leaders();
        }
        (0..self.nodes.len()).for_each(|node| self.compare_content(node));
        (0..self.regions.len()).for_each(|region| self.audit(region));
        let answered = |w: &World| w.clients.live.is_empty();
        let audited = self.run_until(self.now + 10 * SECONDS, answered)
            && self.counts.get("audits") == self.regions.len() as u64;
        if !audited && self.violations.is_empty() {
            self.violations.push("liveness: a final read got no answer".into());
        }
    }

    /// Waits as long as the replicas that lag go on applying or fetching: tiny limits make some of them
    /// slow.
    fn await_level_replicas(&mut self) {
        let until = self.now + 120 * SECONDS;
        let (mut come, mut since) = (0, self.now);
        while self.violations.is_empty() && !self.replicas_are_level() {
            let now_come =
                self.invariants.applied_entries() + self.counts.get("snapshot bytes received");
            if now_come > come {
                (come, since) = (now_come, self.now);
            }
            if self.now > until.min(since + 15 * SECONDS) {
                return;
            }
            let slice = self.now + 100 * MILLIS;
            self.run_until(slice, |_| false);
        }
    }

    /// Whoever leads as a last resort hands over to those who are to lead.
    fn expect_willing_leaders(&mut self) {
        let until = self.now + 60 * SECONDS;
        let unwilling =
            |world: &World| (0..world.regions.len()).find(|r| world.is_led_as_a_last_resort(*r));
        while self.violations.is_empty()
            && let Some(region) = unwilling(self)
        {
            if self.now >= until {
                let what = "liveness: priority 0 leads on where others could";
                let group = self.describe(self.regions[region].group);
                self.violations.push(format!("{what}:{group}"));
            }
            let slice = self.now + 100 * MILLIS;
            self.run_until(slice, |_| false);
        }
    }

    fn replicas_are_level(&self) -> bool {
        self.regions.iter().all(|region| self.is_level(region.group))
    }

    /// All members have applied the same, no change is under way, and who left or was damaged is gone.
    fn is_level(&self, group: GroupId) -> bool {
        let members = self.invariants.members(group);
        let mut applied = Vec::new();
        for node in 0..self.nodes.len() {
            let member = members.on_store(self.nodes[node].store).map(|r| r.replica);
            let damaged = self.nodes[node].damaged.contains_key(&group);
            if damaged || self.replica_on(node, group) != member {
                return false;
            }
            if member.is_some() {
                applied.push(self.invariants.applied_index(node, group));
            }
        }
        let calm = members.membership.pending.is_none() && !members.is_joint();
        calm && applied.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// The status of every replica of the groups that are not level.
    fn unlevel(&self) -> String {
        let groups = self.regions.iter().map(|region| region.group);
        groups.filter(|group| !self.is_level(*group)).map(|group| self.describe(group)).collect()
    }

    /// The members of a group, and the status of every replica.
    fn describe(&self, group: GroupId) -> String {
        let mut text = format!("\n  {:?}", self.invariants.members(group));
        for node in 0..self.nodes.len() {
            let status = self.status_on(node, group);
            text.push_str(&format!("\n  store {}: {status:?}", node + 1));
        }
        text
    }

    fn check_histories(&mut self) {
        let mut complaints = Vec::new();
        for (region, history) in self.clients.histories() {
            let mut verdicts = vec![("revisions", revision::check(&history.operations))];
            let mut by_key: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
            for operation in &history.operations {
                by_key.entry(operation.key).or_default().push(*operation);
            }
            verdicts.extend(
                by_key.values().map(|ops| ("linearizability", linearizability::check(ops))),
            );
            verdicts.extend(
                history.sets.values().map(|(adds, reads)| ("set", set::check(adds, reads))),
            );
            complaints.extend(verdicts.into_iter().filter_map(|(checker, verdict)| {
                verdict.complaint().map(|why| format!("{checker}: region {region}: {why}"))
            }));
        }
        self.violations.extend(complaints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run() {
        for seed in [1, 2] {
            let (one, two) = (run(seed, false), run(seed, false));
            assert_eq!((one.trace_hash, one.events), (two.trace_hash, two.events));
            assert_eq!(one.counts, two.counts);
        }
        assert_ne!(run(3, false).trace_hash, run(4, false).trace_hash);
    }

    #[test]
    fn a_few_seeds_have_no_violation() {
        for seed in 1..=6 {
            let report = run(seed, false);
            assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        }
    }
}
