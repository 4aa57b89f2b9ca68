//! Stores in one process whose disks, state machines and network can be held up, one by one.

pub use crate::common::{ask, until};

use crate::common::{load, save};
use bytes::Bytes;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::snapshot::MemorySnapshots;
use flotilla_raftstore::{
    Answer, AppliedState, Blocks, Config, Envelope, Fatal, GroupApply, GroupDesc, GroupId,
    GroupLog, GroupRecord, GroupWrite, Inbound, LogEntry, LogError, LogPosition, LogStore,
    ReplicaDesc, ReplicaId, ReplicaRole, SnapshotId, StateMachine, Store, StoreBuilder, StoreId,
    SystemClock, Transport,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the voters of every group are on.
pub const MEMBERS: u64 = 3;

#[derive(Default)]
pub struct Network {
    stores: Mutex<BTreeMap<StoreId, Store>>,
    cut_off: Mutex<BTreeSet<StoreId>>,
    /// Whoever holds one keeps that store's shard at its next message.
    gates: Mutex<BTreeMap<StoreId, Arc<Mutex<()>>>>,
}

impl Network {
    /// The store neither sends nor receives from now on, or again.
    pub fn cut(&self, store: StoreId, cut: bool) {
        let mut cut_off = self.cut_off.lock().unwrap();
        if cut {
            cut_off.insert(store);
        } else {
            cut_off.remove(&store);
        }
    }

    pub fn gate(&self, store: StoreId) -> Arc<Mutex<()>> {
        Arc::clone(self.gates.lock().unwrap().entry(store).or_default())
    }

    fn reach(&self, from: StoreId, to: StoreId) -> Option<Store> {
        let cut_off = self.cut_off.lock().unwrap();
        if cut_off.contains(&from) || cut_off.contains(&to) {
            return None;
        }
        self.stores.lock().unwrap().get(&to).cloned()
    }
}

struct Link {
    from: StoreId,
    network: Arc<Network>,
}

impl Transport for Link {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        drop(self.network.gate(self.from).lock().unwrap());
        if let Some(store) = self.network.reach(self.from, to) {
            store.deliver(self.from, envelopes);
        }
    }

    fn fetch(&self, from: StoreId, id: SnapshotId, first: u64) -> io::Result<Blocks> {
        let store = self.network.reach(self.from, from);
        let store = store.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let blocks = (first..).map(move |number| store.snapshot_block(id, number));
        Ok(Box::new(blocks))
    }
}

/// A log whose syncs take as long as the test says.
pub struct SlowLog {
    log: Arc<MemoryLog>,
    sync_ms: AtomicU64,
}

impl SlowLog {
    pub fn set_sync_ms(&self, ms: u64) {
        self.sync_ms.store(ms, Ordering::Relaxed);
    }
}

impl LogStore for SlowLog {
    fn load(&self) -> Result<Vec<GroupLog>, LogError> {
        self.log.load()
    }

    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal> {
        std::thread::sleep(Duration::from_millis(self.sync_ms.load(Ordering::Relaxed)));
        self.log.write(writes)
    }

    fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        self.log.entries(group, low, high, bytes_max, out)
    }

    fn group_bytes(&self, group: GroupId) -> u64 {
        self.log.group_bytes(group)
    }

    fn live_bytes(&self) -> u64 {
        self.log.live_bytes()
    }
}

/// Keeps every command of every group, in order.
#[derive(Default)]
pub struct Journal {
    groups: Mutex<BTreeMap<GroupId, (u64, Vec<Bytes>)>>,
    /// Whoever holds it keeps entries from being applied.
    pub gate: Mutex<()>,
    /// It fails at this command.
    pub bad: Mutex<Option<Bytes>>,
}

impl Journal {
    pub fn count(&self, group: GroupId) -> usize {
        self.groups.lock().unwrap().get(&group).map_or(0, |(_, commands)| commands.len())
    }
}

impl StateMachine for Journal {
    fn recovered(&self, group: GroupId) -> AppliedState {
        let applied = self.groups.lock().unwrap().get(&group).map_or(0, |(applied, _)| *applied);
        AppliedState { applied, ..AppliedState::default() }
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        drop(self.gate.lock().unwrap());
        let mut groups = self.groups.lock().unwrap();
        let bad = self.bad.lock().unwrap().clone();
        for apply in batch {
            let (applied, commands) = groups.entry(apply.group).or_default();
            apply.each(|_, command| {
                if bad.as_ref() == Some(command) {
                    return Err("not for it".to_owned());
                }
                commands.push(command.clone());
                Ok(Bytes::from(commands.len().to_string()))
            });
            *applied = apply.applied().map_or(*applied, |position| position.index);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        Ok(())
    }

    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        self.groups.lock().unwrap().remove(&group);
        Ok(())
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        let held = self.groups.lock().unwrap().get(&group).cloned();
        let Some((applied, commands)) = held else { return Ok(None) };
        save(&commands, out)?;
        Ok(Some(applied))
    }

    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let commands = load(from)?;
        self.groups.lock().unwrap().insert(group, (position.index, commands));
        Ok(())
    }
}

pub struct Cluster {
    pub network: Arc<Network>,
    pub stores: Vec<Store>,
    pub disks: Vec<Arc<SlowLog>>,
    pub journals: Vec<Arc<Journal>>,
}

impl Cluster {
    pub fn start(count: u64, config: &Config) -> Cluster {
        let network = Arc::new(Network::default());
        let disk = |_| Arc::new(SlowLog { log: MemoryLog::new(), sync_ms: AtomicU64::new(0) });
        let disks: Vec<Arc<SlowLog>> = (0..count).map(disk).collect();
        let journals: Vec<Arc<Journal>> = (0..count).map(|_| Arc::default()).collect();
        let start = |id: u64| {
            let at = id as usize - 1;
            let store = StoreBuilder {
                config: config.clone(),
                store: StoreId(id),
                clock: Arc::new(SystemClock),
                transport: Arc::new(Link { from: StoreId(id), network: Arc::clone(&network) }),
                log: Arc::clone(&disks[at]) as Arc<dyn LogStore>,
                snapshots: MemorySnapshots::new(),
                state_machine: Arc::clone(&journals[at]) as Arc<dyn StateMachine>,
                on_fatal: Arc::new(|fatal| panic!("{fatal}")),
                seed: id,
            };
            let store = store.start().unwrap();
            network.stores.lock().unwrap().insert(StoreId(id), store.clone());
            store
        };
        let stores = (1..=count).map(start).collect();
        Cluster { network, stores, disks, journals }
    }

    pub fn store(&self, id: StoreId) -> &Store {
        &self.stores[id.0 as usize - 1]
    }

    /// A replica's id on a store.
    pub fn replica(group: GroupId, store: StoreId) -> ReplicaId {
        ReplicaId(group.0 * 10 + store.0)
    }

    pub fn create(&self, group: GroupId) {
        let member = |store: u64| ReplicaDesc {
            replica: Cluster::replica(group, StoreId(store)),
            store: StoreId(store),
            role: ReplicaRole::Voter,
        };
        let desc = GroupDesc::new(group, (1..=MEMBERS).map(member).collect());
        for (store, own) in self.stores.iter().zip(&desc.replicas) {
            let record = GroupRecord::new(desc.clone(), own.replica);
            assert_eq!(ask(|r| store.create_group(record, r)), Ok(Answer::Accepted));
        }
    }

    /// The store that leads the group, of those that are not cut off.
    pub fn leader(&self, group: GroupId) -> StoreId {
        until("a leader", || {
            let cut_off = self.network.cut_off.lock().unwrap().clone();
            let leads = |id: &StoreId| {
                !cut_off.contains(id) && self.store(*id).group(group).is_some_and(|g| g.leading)
            };
            (1..=self.stores.len() as u64).map(StoreId).find(leads)
        })
    }

    /// Writes, and asks again as long as that helps.
    pub fn write(&self, group: GroupId, command: &Bytes) {
        until("written", || {
            let leader = self.store(self.leader(group));
            ask(|r| leader.propose(group, command.clone(), r)).ok()
        });
    }

    /// Moves leadership.
    pub fn lead(&self, group: GroupId, to: StoreId) {
        until("moved", || {
            let leader = self.leader(group);
            let replica = Cluster::replica(group, to);
            let moved = || ask(|r| self.store(leader).transfer_leader(group, replica, r)).is_ok();
            (leader == to || moved()).then_some(())
        });
    }

    pub fn stop(self) {
        self.stores.iter().for_each(Store::shutdown);
    }
}

/// A metric's figure: a counter's or gauge's value, a histogram's count.
pub fn figures(store: &Store) -> BTreeMap<String, f64> {
    let families = store.metrics().gather();
    let figure = |family: &prometheus::proto::MetricFamily| {
        let metric = &family.get_metric()[0];
        let value = match family.get_field_type() {
            prometheus::proto::MetricType::COUNTER => metric.get_counter().get_value(),
            prometheus::proto::MetricType::GAUGE => metric.get_gauge().get_value(),
            prometheus::proto::MetricType::HISTOGRAM => {
                metric.get_histogram().get_sample_count() as f64
            }
            other => panic!("{other:?}"),
        };
        (family.name().to_owned(), value)
    };
    families.iter().map(figure).collect()
}
