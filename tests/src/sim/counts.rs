//! What really happened in a run: a fault that never bites proves nothing.

use std::collections::BTreeMap;

/// How often each thing happened, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

/// What a sweep of [`SWEEP_SEEDS`] seeds or more must have seen, each at least once.
pub const REQUIRED: &[&str] = &[
    "power cuts",
    "power cuts of all stores",
    "kills",
    "stores told to stop",
    "log writes lost in a crash",
    "log writes kept in a crash",
    "log writes torn in a crash",
    "engine writes lost in a crash",
    "checkpoints of full tables",
    "checkpoints by syncs",
    "pauses",
    "thread stalls",
    "one-way cuts",
    "followers that came back while another one campaigned",
    "halves",
    "frames lost",
    "frames cut off",
    "frames duplicated",
    "frames reordered",
    "slow disks",
    "disks found slow",
    "disks fast again",
    "leaders moved off slow disks",
    "state machines failed at an entry",
    "answers of failed state machines",
    "refusals of stopped replicas",
    "full disks",
    "full disks of all stores at once",
    "log writes refused by a full disk",
    "engine writes refused by a full disk",
    "starts refused by a full disk",
    "disks nearly full",
    "disks with room for what is needed only",
    "disks with hardly any room",
    "disks of all stores nearly full",
    "writes refused for want of room",
    "deletes where there is hardly any room",
    "states damaged",
    "damaged replicas that gave way",
    "majorities lost",
    "losses after changes of the members",
    "groups recovered without their majority",
    "groups recovered on stopped stores",
    "damaged replicas given up with lost stores",
    "crashes amid recoveries",
    "replicas of old majorities that came back and ended",
    "orders to recover refused",
    "slow engine disks",
    "stores wiped",
    "replicas rebuilt after a wipe",
    "log syncs failed",
    "engine syncs failed",
    "membership changes accepted",
    "membership changes accepted again",
    "membership changes refused",
    "learners promoted",
    "joint configurations",
    "leaders on their way out",
    "replicas destroyed",
    "groups told to sleep",
    "pre-votes asked",
    "rounds of shards with sleepers",
    "leader transfers accepted",
    "leader transfers refused",
    "priorities set",
    "leaders that must not lead any more",
    "leader changes",
    "restarts from disk",
    "log truncations",
    "snapshots made",
    "snapshots installed",
    "snapshot fetches resumed",
    "snapshot fetches failed",
    "snapshot streams cut",
    "snapshot blocks damaged on the way",
    "snapshots damaged on disk",
    "installs cut by a crash",
    "old entries fetched for followers",
    "busy answers",
    "unknown outcomes",
    "stale requests refused",
    "reads answered",
    "reads confirmed by a quorum",
    "reads by a lease",
    "lease reads without a lease",
    "reads by asking the leader",
    "reads by the state's age",
    "reads too old",
    "clocks set forward",
    "clocks set back",
    "clocks of another rate",
    "machines suspended",
    "writes acknowledged",
];

/// Seeds from which [`REQUIRED`] is asked.
pub const SWEEP_SEEDS: u64 = 200;

impl Counts {
    /// Counts one.
    pub fn add(&mut self, what: &'static str) {
        self.add_many(what, 1);
    }

    /// Counts several.
    pub fn add_many(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Counts) {
        for (what, count) in &other.0 {
            self.add_many(what, *count);
        }
    }

    /// What never happened though a sweep requires it.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        REQUIRED.iter().copied().filter(|what| self.get(what) == 0)
    }

    /// Everything that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}
