//! One simulated store: two disks that survive, and a process that comes and goes.
//!
//! The process holds the product's own parts (shards, log writer, apply worker, KV state
//! machine) and the queues between them that threads would carry.

use super::codec;
use super::disk::{CrashedLog, SimLog};
use super::engine::SimEngine;
use super::snapshots::{Fetch, SimSnapshots};
use super::table::SimBase;
use super::watched::Watched;
use flotilla_kvserver::kv::engine::{Engine, TableEngine};
use flotilla_kvserver::kv::{KvStateMachine, RegionMeta};
use flotilla_raftstore::message::{Applied, ApplyTask, LogTask, Request, ShardMessage};
use flotilla_raftstore::snapshot::Traffic;
use flotilla_raftstore::{
    ApplyDone, ApplyWorker, Completion, Config, GroupId, GroupRecord, LogDone, LogStore, LogWriter,
    Outcome, RecoveredGroup, ReplicaId, Reply, Shard, ShardConfig, Shortage, SnapshotStore,
    SnapshotWorker, SpareRoom, StateMachine, StoreId, SyncWatch, recover,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A store with its disks.
pub struct Node {
    /// Its id.
    pub store: StoreId,
    /// The log's disk.
    pub log: Arc<SimLog>,
    /// The state machine's disk.
    pub engine: Arc<SimEngine>,
    /// The disk of snapshots.
    pub snapshots: Arc<SimSnapshots>,
    /// Bytes of the table above it; 0 = no table.
    table_bytes_max: usize,
    /// Running now.
    pub process: Option<Process>,
    /// Grows with every start: events of an earlier process are void.
    pub incarnation: u64,
    /// Nothing of it runs before then.
    pub paused_until: u64,
    /// Its log disk is slow until then.
    pub slow_until: u64,
    /// Its process was told that it is about to stop.
    pub leaves: bool,
    /// Applies and syncs of the state machine are slow until then.
    pub slow_engine_until: u64,
    /// Its disk has no room until then.
    pub full_until: u64,
    /// How little room its disk has.
    pub short: Option<Shortage>,
    /// Until then.
    pub short_until: u64,
    /// Replicas whose state here is damaged.
    pub damaged: BTreeMap<GroupId, ReplicaId>,
    /// It does not start before then.
    pub away_until: u64,
    /// Groups whose replica here was wiped: placement has created it once and does not again.
    created: BTreeSet<GroupId>,
    /// Replicas that were wiped and are not rebuilt yet.
    pub lost: Vec<(GroupId, ReplicaId)>,
}

/// A shard with its inbox.
pub struct ShardSlot {
    /// The product's shard.
    pub shard: Shard,
    /// What waits for its next round.
    pub inbox: Vec<ShardMessage>,
    /// A round is on its way.
    pub scheduled: bool,
    /// Its thread stands still until then.
    pub stalled_until: u64,
}

/// A worker with its queue; at most one batch is under way.
pub struct Worker<W, T, D> {
    /// The product's worker.
    pub worker: W,
    /// What waits for its next batch.
    pub queue: Vec<T>,
    /// A start is on its way, or a batch is under way.
    pub busy: bool,
    /// What the batch under way leaves to be done.
    pub done: Option<D>,
}

impl<W, T, D> Worker<W, T, D> {
    fn new(worker: W) -> Self {
        Worker { worker, queue: Vec::new(), busy: false, done: None }
    }
}

/// A running store.
pub struct Process {
    /// Its shards.
    pub shards: Vec<ShardSlot>,
    /// Its log writer.
    pub log: Worker<LogWriter, LogTask, LogDone>,
    /// What its ticker sees of the log's disk.
    pub disk: SyncWatch,
    /// Its apply worker.
    pub apply: Worker<ApplyWorker, ApplyTask, ApplyDone>,
    /// What snapshot threads do.
    pub snapshots: SnapshotWorker,
    /// What snapshot threads share.
    pub traffic: Traffic,
    /// What shards share.
    pub room: Arc<SpareRoom>,
    /// Snapshots on their way here.
    pub fetches: BTreeMap<u64, Fetch>,
    /// How many there were.
    pub fetches_begun: u64,
    /// States that wait to be destroyed, with the shards that are told then; the first is under way.
    pub destroys: VecDeque<(usize, Applied)>,
    /// The state machine, with a record of what it was given.
    pub watched: Arc<Watched>,
    /// Applied indexes when the running engine sync began.
    pub syncing: Option<BTreeMap<GroupId, (ReplicaId, u64)>>,
    /// Applied indexes as the apply worker publishes them.
    pub applied: BTreeMap<GroupId, (ReplicaId, u64)>,
    /// Outcomes that wait to be looked at.
    pub sink: Arc<Sink>,
}

/// Collects outcomes by ticket.
#[derive(Default)]
pub struct Sink(Mutex<Vec<(u64, Outcome)>>);

impl Sink {
    /// What came since the last call.
    pub fn take(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Completion for Sink {
    fn complete(&self, ticket: u64, outcome: Outcome) {
        self.0.lock().push((ticket, outcome));
    }
}

impl Process {
    /// The state machine.
    #[must_use]
    pub fn state_machine(&self) -> &Arc<KvStateMachine> {
        self.watched.inner()
    }

    /// The way back of a request.
    #[must_use]
    pub fn reply(&self, ticket: u64) -> Reply {
        Reply::new(Arc::clone(&self.sink) as Arc<dyn Completion>, ticket)
    }

    /// The number of the shard that owns `group`.
    #[must_use]
    pub fn shard_of(&self, group: GroupId) -> usize {
        (group.0 % self.shards.len() as u64) as usize
    }
}

impl Node {
    /// A store with empty disks, switched off.
    #[must_use]
    pub fn new(store: StoreId, table_bytes_max: usize) -> Self {
        Node {
            store,
            log: Arc::default(),
            engine: Arc::default(),
            snapshots: Arc::default(),
            table_bytes_max,
            process: None,
            incarnation: 0,
            paused_until: 0,
            slow_until: 0,
            leaves: false,
            slow_engine_until: 0,
            full_until: 0,
            short: None,
            short_until: 0,
            damaged: BTreeMap::new(),
            away_until: 0,
            created: BTreeSet::new(),
            lost: Vec::new(),
        }
    }

    /// Starts the process from its disks, and gives what was recovered. Regions without a group
    /// in the log are created on their first members, as placement orders would. A replica that joins
    /// gets its region from a snapshot.
    pub fn start(
        &mut self,
        config: &Arc<Config>,
        regions: &[RegionMeta],
        seed: u64,
    ) -> Result<Vec<RecoveredGroup>, String> {
        self.incarnation += 1;
        self.paused_until = 0;
        self.leaves = false;
        let engine = self.open_engine();
        let state_machine = KvStateMachine::new(engine).map_err(|e| e.to_string())?;
        for region in regions.iter().filter(|region| self.begins_here(region)) {
            state_machine.create_region(region).map_err(|e| e.to_string())?;
        }
        // Those of the creations are nobody's.
        self.engine.take_checkpoints();
        let table = self.table_bytes_max > 0;
        let engine = Arc::clone(&self.engine);
        let watched = Arc::new(Watched::new(state_machine, engine, table));
        let log = Arc::clone(&self.log) as Arc<dyn LogStore>;
        let machine = Arc::clone(&watched) as Arc<dyn StateMachine>;
        let store = Arc::clone(&self.snapshots) as Arc<dyn SnapshotStore>;
        let block_bytes = config.snapshot_block_bytes;
        let snapshots = SnapshotWorker::new(store, Arc::clone(&machine), block_bytes);
        let recovered = recover(log.as_ref(), machine.as_ref(), &snapshots);
        let recovered = recovered.map_err(|e| e.to_string())?;
        // Whether it may be damaged is for the invariants to say.
        let damaged = recovered.iter().filter(|group| group.damage.is_some());
        damaged.for_each(|group| watched.damage(group.log.group));
        // What a start writes is durable before anything else happens.
        self.log.complete();
        let mut shards = Vec::new();
        for shard in 0..config.shards {
            let parts = ShardConfig {
                config: Arc::clone(config),
                shard,
                store: self.store,
                seed: seed ^ self.store.0 ^ self.incarnation.rotate_left(32),
                log: Arc::clone(&log),
            };
            let own = |g: &&RecoveredGroup| g.log.group.0 % config.shards as u64 == shard as u64;
            let groups = recovered.iter().filter(own).cloned().collect();
            let shard = Shard::new(parts, groups).map_err(|e| e.to_string())?;
            shards.push(ShardSlot { shard, inbox: Vec::new(), scheduled: false, stalled_until: 0 });
        }
        self.process = Some(Process {
            shards,
            log: Worker::new(LogWriter::new(log)),
            disk: SyncWatch::new(config),
            apply: Worker::new(ApplyWorker::new(machine)),
            snapshots,
            traffic: Traffic::new(config.snapshot_disk_bytes_max),
            room: Arc::default(),
            fetches: BTreeMap::new(),
            fetches_begun: 0,
            destroys: VecDeque::new(),
            watched,
            syncing: None,
            applied: recovered
                .iter()
                .map(|g| (g.log.group, (g.log.record.replica, g.applied)))
                .collect(),
            sink: Arc::default(),
        });
        self.create_missing(regions, &recovered);
        Ok(recovered)
    }

    /// The region is created on this store, and its group is not yet.
    fn begins_here(&self, region: &RegionMeta) -> bool {
        let held = self.log.with_group(region.group, |log| log.record.is_some());
        let own = region.desc().on_store(self.store).is_some();
        own && held != Some(true) && self.may_be_created(region.group)
    }

    /// A replica that was here once had a vote: it is not created again.
    fn may_be_created(&self, group: GroupId) -> bool {
        let forgotten = flotilla_raftstore::mutant::active("wiped_store_created_again");
        !self.created.contains(&group) || forgotten
    }

    fn open_engine(&self) -> Arc<dyn Engine> {
        let engine = Arc::clone(&self.engine);
        match self.table_bytes_max {
            0 => engine,
            most => Arc::new(TableEngine::new(Box::new(SimBase(engine)), most)),
        }
    }

    fn create_missing(&mut self, regions: &[RegionMeta], recovered: &[RecoveredGroup]) {
        let missing = |region: &&RegionMeta| {
            let found = recovered.iter().any(|r| r.log.group == region.group);
            !found && self.may_be_created(region.group)
        };
        let missing: Vec<&RegionMeta> = regions.iter().filter(missing).collect();
        let process = self.process.as_mut().expect("started just now");
        for region in missing {
            let desc = region.desc();
            let Some(own) = desc.on_store(self.store) else { continue };
            let record = GroupRecord::new(desc, own.replica);
            let reply = process.reply(codec::NO_TICKET);
            let shard = process.shard_of(region.group);
            let request = Request::CreateGroup { record, reply };
            process.shards[shard].inbox.push(ShardMessage::Requests(vec![request]));
        }
    }

    /// Its disk has no room from now on, or has it again.
    pub fn set_full(&self, full: bool) {
        self.log.set_full(full);
        self.engine.set_full(full);
    }

    /// New disks take the place of those that it has, when it does not run. Gives the replicas that were
    /// there.
    pub fn wipe(&mut self) -> Vec<(GroupId, ReplicaId)> {
        let lost = self.log.replicas();
        self.created.extend(self.log.groups());
        (self.log, self.engine) = (Arc::default(), Arc::default());
        self.snapshots = Arc::default();
        (self.full_until, self.short) = (0, None);
        self.damaged.clear();
        self.lost.clone_from(&lost);
        lost
    }

    /// The process dies and, with `power_cut`, all that was not synced.
    pub fn crash(&mut self, power_cut: bool, rng: &mut SmallRng) -> (CrashedLog, usize) {
        self.process = None;
        let log = self.log.crash(rng);
        let engine_lost = if power_cut {
            self.snapshots.crash(rng);
            self.engine.crash(rng)
        } else {
            self.engine.kill();
            0
        };
        (log, engine_lost)
    }
}
