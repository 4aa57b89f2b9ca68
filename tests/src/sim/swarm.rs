//! What one seed draws: the cluster, the limits, the faults and their rates.

use super::clock::{Clocks, MILLIS, SECONDS};
use super::net::Weather;
use flotilla_raftstore::Config;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The power of one store goes.
    PowerCut,
    /// The power of all stores goes at once.
    PowerCutAll,
    /// One process dies, its machine does not.
    Kill,
    /// One process stands still while the clock runs on.
    Pause,
    /// One shard thread stands still; the rest of the process goes on.
    Stall,
    /// One direction between two stores is cut.
    CutOneWay,
    /// The stores fall into two halves.
    CutHalves,
    /// The log disk of one store is slow.
    SlowDisk,
    /// A sync of the log fails.
    LogSyncFails,
    /// A sync of the state machine fails.
    EngineSyncFails,
    /// A group's leadership is handed over.
    Transfer,
}

/// Every fault that the schedule can choose.
pub const FAULTS: [Fault; 11] = [
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::Kill,
    Fault::Pause,
    Fault::Stall,
    Fault::CutOneWay,
    Fault::CutHalves,
    Fault::SlowDisk,
    Fault::LogSyncFails,
    Fault::EngineSyncFails,
    Fault::Transfer,
];

/// One seed's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that made it.
    pub seed: u64,
    /// 3 to 6.
    pub stores: u64,
    /// The first stores, on which every group has a voter at the beginning.
    pub members: u64,
    /// Groups.
    pub groups: u64,
    /// Mean time between changes of a group's members, in nanoseconds; 0 = they never change.
    pub change_interval: u64,
    /// Only their priorities change.
    pub members_stay: bool,
    /// They change up to here, in nanoseconds, and only afterwards is anything lost for good; `None`: these two do not
    /// meet.
    pub calm_at: Option<u64>,
    /// Whoever is to be killed is told before, as by SIGTERM.
    pub kills_in_order: bool,
    /// Settings of every store.
    pub config: Config,
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// Mean time between faults, in nanoseconds.
    pub fault_interval: u64,
    /// Network conditions while faults last.
    pub weather: Weather,
    /// How long faults last, in nanoseconds.
    pub faults_for: u64,
    /// A log sync takes up to this long, in nanoseconds.
    pub sync_max: u64,
    /// An apply batch takes up to this long, in nanoseconds.
    pub apply_max: u64,
    /// Clients of each group.
    pub clients: u64,
    /// A client waits up to this long between operations, in nanoseconds.
    pub think_max: u64,
    /// Bytes of the table over the engine of every store; 0 = no table.
    pub table_bytes_max: usize,
    /// Mean time between state machines that fail at an entry, in nanoseconds; 0 = they never do.
    pub apply_failure_interval: u64,
    /// Share of received snapshots that a disk damages; of blocks on the way it is a quarter.
    pub snapshot_damage: f64,
    /// Share of installs in whose middle the store dies.
    pub snapshot_load_cuts: f64,
    /// Reads of all kinds, not only by ReadIndex.
    pub read_modes: bool,
    /// Mean time between changes of clocks, in nanoseconds; 0 = all clocks are true.
    pub clock_interval: u64,
    /// Mean time between followers that are away while another one hears no leader, in nanoseconds; 0 = none.
    pub absence_interval: u64,
    /// Mean time between disks that are full or slow, in nanoseconds; 0 = there is always room.
    pub disk_interval: u64,
    /// Mean time between stores that lose their disks, in nanoseconds; 0 = they keep them.
    pub wipe_interval: u64,
    /// Mean time between disks that run short of room, in nanoseconds; 0 = they never do.
    pub shortage_interval: u64,
    /// Mean time between states that are damaged, in nanoseconds; 0 = none is.
    pub damage_interval: u64,
    /// When a majority of the stores is lost for good, in nanoseconds.
    pub loss_at: Option<u64>,
    /// Fewer stores are lost, and replicas on others are damaged at that moment: together they are a majority.
    pub damage_in_loss: bool,
    /// What is left is stopped, and recovered in its logs.
    pub recover_offline: bool,
    /// Recovered groups get as many members as they had.
    pub lost_are_replaced: bool,
}

impl Plan {
    /// Draws the plan of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x5eed_0f1a);
        let stores = if rng.random_bool(0.2) { 5 } else { 3 };
        let groups = *pick(rng, &[1, 1, 2, 3, 4, 8, 8, 8]);
        let mut faults = FAULTS.to_vec();
        faults.shuffle(rng);
        faults.truncate(rng.random_range(2..=FAULTS.len()));
        faults.sort_unstable();
        let plan = Plan {
            seed,
            stores,
            members: stores,
            groups,
            change_interval: 0,
            members_stay: false,
            calm_at: None,
            kills_in_order: false,
            config: config(rng),
            faults,
            fault_interval: rng.random_range(500 * MILLIS..4 * SECONDS),
            weather: weather(rng),
            faults_for: rng.random_range(20..50) * SECONDS,
            sync_max: *pick(rng, &[MILLIS / 2, 2 * MILLIS, 10 * MILLIS, 50 * MILLIS]),
            apply_max: *pick(rng, &[MILLIS / 5, MILLIS, 20 * MILLIS]),
            clients: rng.random_range(2..=4),
            think_max: *pick(rng, &[40 * MILLIS, 200 * MILLIS, 600 * MILLIS]),
            table_bytes_max: *pick(rng, &[0, 0, 400, 4_000, 1 << 20]),
            apply_failure_interval: 0,
            snapshot_damage: 0.0,
            snapshot_load_cuts: 0.0,
            read_modes: false,
            clock_interval: 0,
            absence_interval: 0,
            disk_interval: 0,
            wipe_interval: 0,
            shortage_interval: 0,
            damage_interval: 0,
            loss_at: None,
            damage_in_loss: false,
            recover_offline: false,
            lost_are_replaced: false,
        };
        let plan = if rng.random_bool(0.25) { plan.with_changes(rng) } else { plan };
        let plan = plan.with_snapshots().with_reads().with_limits().with_storage_faults();
        // Drawn apart: the other seeds stay as they are.
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x1eade5);
        let mut plan = Plan { kills_in_order: rng.random_bool(0.25), ..plan };
        let own = &mut SmallRng::seed_from_u64(seed ^ 0xfa_11ed);
        if own.random_bool(0.2) {
            plan.apply_failure_interval = own.random_range(2..10) * SECONDS;
        }
        if plan.change_interval == 0 && rng.random_bool(0.2) {
            let change_interval = rng.random_range(SECONDS..8 * SECONDS);
            plan = Plan { change_interval, members_stay: true, ..plan };
        }
        plan.with_losses()
    }

    /// In a third of the seeds disks run short of room. Where the members change for no other reason,
    /// states are damaged in a third, and in another a majority is lost for good. Where they do, this comes
    /// afterwards in half of the seeds. Drawn apart.
    fn with_losses(mut self) -> Self {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0x10_55e5);
        if rng.random_bool(0.33) {
            self.shortage_interval = rng.random_range(2..10) * SECONDS;
        }
        let what = rng.random_range(0..3);
        if self.change_interval > 0 && !self.members_stay {
            return if rng.random_bool(0.5) { self.with_losses_later(what, rng) } else { self };
        }
        match what {
            0 => self.damage_interval = rng.random_range(2..10) * SECONDS,
            1 => {
                self.loss_at = Some(rng.random_range(2 * SECONDS..self.faults_for / 2));
                self.recover_offline = rng.random_bool(0.4);
                self.lost_are_replaced = rng.random_bool(0.7);
                // With two of five left the operator has a choice.
                if rng.random_bool(0.4) {
                    (self.stores, self.members) = (5, 5);
                }
                // In logs alone nobody sees that a state is damaged. Drawn apart.
                let own = &mut SmallRng::seed_from_u64(self.seed ^ 0xda_3a6e);
                self.damage_in_loss = !self.recover_offline && own.random_bool(0.4);
            }
            _ => {}
        }
        self
    }

    /// The members change first, then states are damaged, stores lose their disks, or a majority is lost.
    fn with_losses_later(mut self, what: u32, rng: &mut SmallRng) -> Self {
        let calm_at = rng.random_range(self.faults_for / 5..self.faults_for / 2);
        match what {
            0 => self.damage_interval = rng.random_range(2..10) * SECONDS,
            1 => {
                self.loss_at = Some(calm_at + rng.random_range(SECONDS..4 * SECONDS));
                self.lost_are_replaced = rng.random_bool(0.7);
            }
            _ => self.wipe_interval = rng.random_range(2..8) * SECONDS,
        }
        Plan { calm_at: Some(calm_at), ..self }
    }

    /// In two thirds of the seeds logs are cut so early that snapshots are needed all the time. Drawn
    /// apart, so that all else of a seed stays as it is without.
    fn with_snapshots(mut self) -> Self {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0x5a_9501);
        let config = &mut self.config;
        config.snapshot_block_bytes = *pick(rng, &[16, 200, 4_096]);
        config.snapshot_retry_ticks = *pick(rng, &[5, 20, 50]);
        config.snapshot_keep_ticks = *pick(rng, &[5, 100, 600]);
        self.snapshot_damage = *pick(rng, &[0.0, 0.05, 0.2]);
        self.snapshot_load_cuts = *pick(rng, &[0.0, 0.1, 0.3]);
        config.snapshot_interval_s = *pick(rng, &[0, 0, 1, 5]);
        if rng.random_bool(0.66) {
            config.group_log_entries_max = *pick(rng, &[4, 16, 64]);
            config.truncate_entries_min = *pick(rng, &[1, 1, 8]);
        }
        self
    }

    /// In two thirds of the seeds reads are of all kinds; in half of those clocks differ and are
    /// disturbed, and in a third the lease is put to the test by followers that are away.
    fn with_reads(mut self) -> Self {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0x1ea5_e000);
        self.read_modes = rng.random_bool(0.66);
        if self.read_modes && rng.random_bool(0.5) {
            self.clock_interval = rng.random_range(200 * MILLIS..4 * SECONDS);
        }
        if self.read_modes && rng.random_bool(0.33) {
            self.absence_interval = rng.random_range(2..8) * SECONDS;
        }
        self
    }

    /// In a third of the seeds disks are full or slow now and then. In a third of those whose members
    /// change for no other reason, stores lose their disks.
    fn with_storage_faults(mut self) -> Self {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0xd15c_0000);
        if rng.random_bool(0.33) {
            self.disk_interval = rng.random_range(2..12) * SECONDS;
        }
        if rng.random_bool(0.33) && self.change_interval == 0 {
            self.wipe_interval = rng.random_range(3..15) * SECONDS;
        }
        self
    }

    /// In half of the seeds a slow disk is noticed; in some, single groups have tiny limits. Drawn apart.
    fn with_limits(mut self) -> Self {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0x51_0d15c);
        let config = &mut self.config;
        config.slow_sync_ms = *pick(rng, &[0, 30, 100]);
        config.slow_sync_s = 1;
        if rng.random_bool(0.3) {
            config.group_proposal_bytes_max = *pick(rng, &[100, 400]);
            config.group_apply_bytes_max = *pick(rng, &[400, 4_000]);
            config.group_entry_cache_bytes_max = *pick(rng, &[0, 300]);
        }
        self
    }

    /// The clocks of every store at the beginning.
    #[must_use]
    pub fn clocks(&self) -> Vec<Clocks> {
        let rng = &mut SmallRng::seed_from_u64(self.seed ^ 0xc10c_c000);
        let differ = self.clock_interval > 0;
        let clocks = |_| if differ { Clocks::draw(rng) } else { Clocks::default() };
        (0..self.stores).map(clocks).collect()
    }

    /// Members come and go.
    fn with_changes(mut self, rng: &mut SmallRng) -> Self {
        self.members = *pick(rng, &[1, 3, 3, 3]);
        self.stores = self.members.max(2) + rng.random_range(1..=2);
        self.change_interval = rng.random_range(200 * MILLIS..2 * SECONDS);
        self
    }

    /// How many cluster-hours (3 stores × 8 groups for an hour) `nanos` of this cluster are.
    #[must_use]
    pub fn cluster_hours(&self, nanos: u64) -> f64 {
        nanos as f64 / (3_600.0 * SECONDS as f64) * (self.stores * self.groups) as f64 / 24.0
    }
}

fn pick<'a, T>(rng: &mut SmallRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

/// Tiny limits, so that their edges are met in seconds.
fn config(rng: &mut SmallRng) -> Config {
    Config {
        shards: *pick(rng, &[1, 1, 2, 3]),
        entry_bytes_max: *pick(rng, &[1, 200, 4_096]),
        small_entries_max: *pick(rng, &[1, 2, 64]),
        apply_queue_bytes_max: *pick(rng, &[300, 4_096, 1 << 20]),
        entry_cache_bytes_max: *pick(rng, &[0, 500, 16_384]),
        group_uncommitted_bytes_max: *pick(rng, &[600, 65_536]),
        sync_interval_ms: *pick(rng, &[100, 500, 2_000]),
        truncate_entries_min: *pick(rng, &[1, 8, 64]),
        hibernate_ticks: *pick(rng, &[0, 1, 5, 30]),
        pipeline: rng.random_bool(0.9),
        ..Config::default()
    }
}

fn weather(rng: &mut SmallRng) -> Weather {
    Weather {
        loss: *pick(rng, &[0.0, 0.0, 0.02, 0.1, 0.3]),
        duplicate: *pick(rng, &[0.0, 0.02, 0.2]),
        reorder: *pick(rng, &[0.0, 0.0, 0.05, 0.3]),
        delay_max: *pick(rng, &[MILLIS / 2, 2 * MILLIS, 20 * MILLIS, 100 * MILLIS]),
    }
}
