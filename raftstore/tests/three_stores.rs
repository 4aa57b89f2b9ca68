//! Stores in one process, over real threads and an in-process network: the shell works.
#![allow(clippy::disallowed_methods)] // A test may wait.

mod common;

use bytes::Bytes;
use common::{ask, load, save, until};
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::snapshot::MemorySnapshots;
use flotilla_raftstore::{
    Answer, AppliedState, Blocks, Change, ChangeRequest, Config, Envelope, Error, Fatal,
    GroupApply, GroupDesc, GroupId, GroupRecord, Inbound, LeaderStop, LogPosition, OperationId,
    Outcome, ReadLogError, ReadMode, ReplicaDesc, ReplicaId, ReplicaRole, Role, SnapshotId,
    StateMachine, Store, StoreBuilder, StoreId, SystemClock, Transport,
};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Network {
    stores: Mutex<HashMap<StoreId, Store>>,
    /// Neither sends nor receives.
    cut_off: Mutex<Option<StoreId>>,
}

struct Link {
    from: StoreId,
    network: Arc<Network>,
}

impl Transport for Link {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        let cut_off = *self.network.cut_off.lock().unwrap();
        if cut_off == Some(to) || cut_off == Some(self.from) {
            return;
        }
        let store = self.network.stores.lock().unwrap().get(&to).cloned();
        if let Some(store) = store {
            store.deliver(self.from, envelopes);
        }
    }

    /// A stream breaks after fifty blocks.
    fn fetch(&self, from: StoreId, id: SnapshotId, first: u64) -> io::Result<Blocks> {
        let store = self.network.stores.lock().unwrap().get(&from).cloned();
        let store = store.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let blocks = (first..).map_while(move |number| match number - first {
            0..50 => Some(store.snapshot_block(id, number)),
            50 => Some(Err(io::Error::from(io::ErrorKind::ConnectionReset))),
            _ => None,
        });
        Ok(Box::new(blocks))
    }
}

/// Keeps every command of every group, in order, and answers with its number.
#[derive(Default)]
struct Journal {
    groups: Mutex<BTreeMap<GroupId, (u64, Vec<Bytes>)>>,
    /// Whoever holds it keeps the state from becoming durable.
    syncing: Mutex<()>,
    /// Whoever holds it keeps states from being destroyed.
    destroying: Mutex<()>,
    /// It fails at this command of this group.
    bad: Mutex<Option<(GroupId, Bytes)>>,
    /// The first entry of every log that it still reads.
    log_needed: Mutex<Option<u64>>,
    /// What the callbacks were told.
    told: Mutex<Vec<(GroupId, String)>>,
}

impl Journal {
    fn commands(&self, group: GroupId) -> Vec<Bytes> {
        self.groups.lock().unwrap().get(&group).map(|(_, c)| c.clone()).unwrap_or_default()
    }

    fn tell(&self, group: GroupId, text: String) {
        self.told.lock().unwrap().push((group, text));
    }

    fn told(&self, group: GroupId) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(of, _)| *of == group).map(|(_, text)| text.clone()).collect()
    }
}

impl StateMachine for Journal {
    fn recovered(&self, group: GroupId) -> AppliedState {
        let applied = self.groups.lock().unwrap().get(&group).map_or(0, |(applied, _)| *applied);
        AppliedState { applied, ..AppliedState::default() }
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut groups = self.groups.lock().unwrap();
        let bad = self.bad.lock().unwrap().clone();
        for apply in batch {
            let group = apply.group;
            let (applied, commands) = groups.entry(group).or_default();
            assert_eq!(apply.entries[0].position.index, *applied + 1);
            apply.each(|_, command| {
                if bad.as_ref().is_some_and(|(of, bad)| *of == group && bad == command) {
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
        drop(self.syncing.lock().unwrap());
        Ok(())
    }

    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        drop(self.destroying.lock().unwrap());
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

    fn log_needed(&self, _group: GroupId) -> u64 {
        self.log_needed.lock().unwrap().unwrap_or(u64::MAX)
    }

    fn on_leader_start(&self, group: GroupId, _term: u64) {
        self.tell(group, "leads".to_owned());
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.tell(group, format!("leads no longer: {reason:?}"));
    }

    fn on_following_start(&self, group: GroupId, _leader: ReplicaId, _term: u64) {
        self.tell(group, "follows".to_owned());
    }

    fn on_following_stop(&self, group: GroupId, _leader: ReplicaId, _term: u64) {
        self.tell(group, "follows no longer".to_owned());
    }

    fn on_error(&self, group: GroupId, error: &Error) {
        self.tell(group, error.to_string());
    }
}

struct Cluster {
    network: Arc<Network>,
    stores: Vec<Store>,
    journals: Vec<Arc<Journal>>,
}

impl Cluster {
    fn start(config: &Config) -> Cluster {
        Cluster::start_stores(3, &Config { truncate_entries_min: 4, ..config.clone() })
    }

    fn start_stores(count: u64, config: &Config) -> Cluster {
        let network = Arc::new(Network::default());
        let journals: Vec<Arc<Journal>> = (0..count).map(|_| Arc::default()).collect();
        let start = |id: u64| {
            let store = StoreBuilder {
                config: Config { tick_interval_ms: 20, sync_interval_ms: 50, ..config.clone() },
                store: StoreId(id),
                clock: Arc::new(SystemClock),
                transport: Arc::new(Link { from: StoreId(id), network: Arc::clone(&network) }),
                log: MemoryLog::new(),
                snapshots: MemorySnapshots::new(),
                state_machine: Arc::clone(&journals[id as usize - 1]) as Arc<dyn StateMachine>,
                on_fatal: Arc::new(|fatal| panic!("{fatal}")),
                seed: id,
            };
            let store = store.start().unwrap();
            network.stores.lock().unwrap().insert(StoreId(id), store.clone());
            store
        };
        let stores = (1..=count).map(start).collect();
        Cluster { network, stores, journals }
    }

    fn create(&self, group: GroupId) {
        let replica = |store: u64| ReplicaDesc {
            replica: ReplicaId(group.0 * 10 + store),
            store: StoreId(store),
            role: ReplicaRole::Voter,
        };
        let desc = GroupDesc::new(group, (1..=3).map(replica).collect());
        for (store, own) in self.stores.iter().zip(&desc.replicas) {
            let record = GroupRecord::new(desc.clone(), own.replica);
            assert_eq!(ask(|r| store.create_group(record.clone(), r)), Ok(Answer::Accepted));
            assert_eq!(ask(|r| store.create_group(record, r)), Ok(Answer::Accepted), "again");
        }
    }

    fn leader(&self, group: GroupId) -> &Store {
        let leads = |s: &&Store| s.group(group).is_some_and(|g| g.leading);
        until("a leader", || self.stores.iter().find(leads))
    }
}

fn propose(store: &Store, group: GroupId, command: &Bytes) -> Outcome {
    until("not busy", || match ask(|r| store.propose(group, command.clone(), r)) {
        Err(Error::Busy { .. }) => None,
        other => Some(other),
    })
}

#[test]
fn commands_are_applied_everywhere_and_leadership_moves() {
    let cluster = Cluster::start(&Config::default());
    let groups: Vec<GroupId> = (1..=4).map(GroupId).collect();
    groups.iter().for_each(|group| cluster.create(*group));
    for group in &groups {
        let leader = cluster.leader(*group);
        for i in 1..=20 {
            let command = Bytes::from(format!("{group}:{i}"));
            let answer = Answer::Applied(Bytes::from(i.to_string()));
            assert_eq!(propose(leader, *group, &command), Ok(answer));
        }
        assert_eq!(
            ask(|r| leader.read_barrier(*group, ReadMode::Linearizable, r)),
            Ok(Answer::ReadReady)
        );
        let follower = cluster.stores.iter().find(|s| !s.group(*group).unwrap().leading).unwrap();
        let refused = ask(|r| follower.propose(*group, Bytes::from_static(b"x"), r));
        assert!(matches!(refused, Err(Error::NotLeader { leader: Some(_), .. })), "{refused:?}");
    }
    for group in &groups {
        let expected: Vec<Bytes> = (1..=20).map(|i| Bytes::from(format!("{group}:{i}"))).collect();
        for journal in &cluster.journals {
            until("applied everywhere", || (journal.commands(*group) == expected).then_some(()));
        }
    }
    until("the log is cut once every replica is durable", || {
        let mut all = cluster.stores.iter().flat_map(Store::describe);
        all.all(|status| status.first_index > 4).then_some(())
    });

    let group = groups[0];
    let leader = cluster.leader(group);
    let view = leader.group(group).unwrap();
    let to = view.record.desc.replicas.iter().find(|r| r.replica != view.record.replica).unwrap();
    assert_eq!(ask(|r| leader.transfer_leader(group, to.replica, r)), Ok(Answer::Accepted));
    let next = &cluster.stores[to.store.0 as usize - 1];
    until("the new leader", || next.group(group).unwrap().leading.then_some(()));
    let answer = Answer::Applied(Bytes::from_static(b"21"));
    assert_eq!(propose(next, group, &Bytes::from_static(b"after")), Ok(answer));

    for store in &cluster.stores {
        store.shutdown();
        let late = ask(|r| store.read_barrier(group, ReadMode::Linearizable, r));
        assert_eq!(late, Err(Error::Unknown { group: GroupId(0) }));
    }
}

/// A state that does not become durable holds the log: near the limit writes are refused, long before
/// a disk is full, and go on by themselves once it does.
#[test]
fn a_full_log_refuses_writes_until_the_state_is_durable() {
    let log_bytes_max = 16 << 20;
    let cluster = Cluster::start(&Config { log_bytes_max, ..Config::default() });
    let group = GroupId(1);
    cluster.create(group);
    let leader = cluster.leader(group);
    let settled = propose(leader, group, &Bytes::from_static(b"first"));
    assert!(settled.is_ok(), "{settled:?}");
    let stuck: Vec<_> = cluster.journals.iter().map(|j| j.syncing.lock().unwrap()).collect();

    let command = Bytes::from(vec![7; 256 << 10]);
    let refused =
        until("the log is full", || match ask(|r| leader.propose(group, command.clone(), r)) {
            Err(error @ Error::Busy { .. }) => Some(error),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        });
    assert!(refused.to_string().contains("log is full"), "{refused}");
    assert!(leader.queues().log_bytes <= log_bytes_max);
    assert_eq!(
        ask(|r| leader.read_barrier(group, ReadMode::Linearizable, r)),
        Ok(Answer::ReadReady),
        "reads go on"
    );

    drop(stuck);
    until("writes go on", || ask(|r| leader.propose(group, command.clone(), r)).ok());
    cluster.stores.iter().for_each(Store::shutdown);
}

/// A store that is down does not hold the log of the others for ever.
#[test]
fn a_missing_store_does_not_fill_the_log() {
    let log_bytes_max = 16 << 20;
    let cluster = Cluster::start(&Config { log_bytes_max, ..Config::default() });
    let group = GroupId(1);
    cluster.create(group);
    let leader = cluster.leader(group);
    let view = leader.group(group).unwrap();
    let missing = view.record.desc.replicas.iter().find(|r| r.replica != view.record.replica);
    *cluster.network.cut_off.lock().unwrap() = missing.map(|r| r.store);
    let command = Bytes::from(vec![b'7'; 256 << 10]);
    for _ in 0..100 {
        until("written", || ask(|r| leader.propose(group, command.clone(), r)).ok());
        assert!(leader.queues().log_bytes <= log_bytes_max);
    }
    *cluster.network.cut_off.lock().unwrap() = None;
    let journal = &cluster.journals[missing.unwrap().store.0 as usize - 1];
    until("level", || (journal.commands(group).len() >= 100).then_some(()));
    cluster.stores.iter().for_each(Store::shutdown);
}

/// A stop does not wait until everything that was removed is destroyed: the next start does the rest
/// (`recovery.rs`).
#[test]
fn a_stop_leaves_what_is_to_be_destroyed_to_the_next_start() {
    let cluster = Cluster::start(&Config::default());
    let (store, journal) = (&cluster.stores[2], &cluster.journals[2]);
    let gate = journal.destroying.lock().unwrap();
    let groups = [GroupId(1), GroupId(2)];
    for group in groups {
        cluster.create(group);
        let written = propose(cluster.leader(group), group, &Bytes::from_static(b"a"));
        assert!(written.is_ok(), "{written:?}");
        until("applied", || (!journal.commands(group).is_empty()).then_some(()));
        let request = ChangeRequest {
            operation: OperationId(group.0.into()),
            changes: vec![Change::Remove(ReplicaId(group.0 * 10 + 3))],
            force: false,
        };
        until("a change", || {
            ask(|r| cluster.leader(group).change_members(group, request.clone(), r)).ok()
        });
        until("the end of a replica", || store.removed(group));
    }
    let stopping = std::thread::spawn({
        let store = store.clone();
        move || store.shutdown()
    });
    until("no shard", || {
        let asked = ask(|r| store.read_barrier(groups[0], ReadMode::Linearizable, r));
        (asked == Err(Error::Unknown { group: GroupId(0) })).then_some(())
    });
    std::thread::sleep(Duration::from_millis(100));
    drop(gate);
    stopping.join().unwrap();
    let left = groups.iter().filter(|group| !journal.commands(**group).is_empty()).count();
    assert_eq!(left, 1, "the one that was under way is gone");
    cluster.stores.iter().for_each(Store::shutdown);
}

/// A whole group moves to other stores while it is written to: no write is lost, and what stays
/// behind are tombstones.
#[test]
fn a_group_moves_to_other_stores_under_writes() {
    let cluster = Cluster::start_stores(6, &Config::default());
    let group = GroupId(1);
    cluster.create(group);
    let mut written = Vec::new();
    let mut write = |cluster: &Cluster| {
        let command = Bytes::from(format!("write {}", written.len()));
        until("written", || ask(|r| cluster.leader(group).propose(group, command.clone(), r)).ok());
        written.push(command);
    };
    for step in 1..=3u64 {
        let (replica, store) = (ReplicaId(10 + 3 + step), StoreId(3 + step));
        let changes =
            vec![Change::AddVoter { replica, store }, Change::Remove(ReplicaId(10 + step))];
        let operation = OperationId(u128::from(step));
        let request = ChangeRequest { operation, changes, force: false };
        until("accepted", || {
            let request = request.clone();
            let asked = ask(|r| cluster.leader(group).change_members(group, request, r));
            match asked {
                Ok(Answer::Accepted) => Some(()),
                Ok(other) => panic!("{other:?}"),
                Err(Error::Refused { refusal, .. }) => panic!("{refusal}"),
                Err(_) => None,
            }
        });
        until("moved", || {
            write(&cluster);
            let view = cluster.leader(group).group(group)?;
            let desc = &view.record.desc;
            let moved = desc.replica(ReplicaId(10 + step)).is_none();
            (moved && desc.membership.pending.is_none()).then_some(())
        });
    }
    for (store, journal) in cluster.stores.iter().zip(&cluster.journals).take(3) {
        until("gone", || store.group(group).is_none().then_some(()));
        until("destroyed", || journal.commands(group).is_empty().then_some(()));
        let refused = ask(|r| store.read_barrier(group, ReadMode::Linearizable, r));
        assert_eq!(refused, Err(Error::NoGroup { group }));
    }
    for journal in &cluster.journals[3..] {
        // What was unknown is written again, at once.
        let applied = || {
            let mut commands = journal.commands(group);
            commands.dedup();
            commands
        };
        until("applied", || (applied() == written).then_some(()));
    }
    cluster.stores.iter().for_each(Store::shutdown);
}

fn counter(store: &Store, name: &str) -> u64 {
    let families = store.metrics().gather();
    let family = families.iter().find(|family| family.name() == name).expect("a known metric");
    family.get_metric()[0].get_counter().get_value() as u64
}

/// A member that was away for longer than the log is kept, and one that joins, get a snapshot and
/// what came behind it, not the whole log.
#[test]
fn who_was_away_for_long_and_who_joins_gets_a_snapshot_and_the_rest() {
    let config = Config {
        truncate_entries_min: 4,
        group_log_entries_max: 20,
        snapshot_block_bytes: 100,
        snapshot_retry_ticks: 10,
        ..Config::default()
    };
    let cluster = Cluster::start_stores(4, &config);
    let group = GroupId(1);
    cluster.create(group);
    let away = cluster.stores.iter().position(|s| !s.group(group).unwrap().leading).unwrap() % 3;
    *cluster.network.cut_off.lock().unwrap() = Some(StoreId(away as u64 + 1));
    let mut written = Vec::new();
    let mut write = |cluster: &Cluster| {
        let command = Bytes::from(format!("{:0100}", written.len()));
        until("written", || {
            let leader = cluster.stores.iter().enumerate().find(|(at, store)| {
                *at != away && store.group(group).is_some_and(|view| view.leading)
            });
            ask(|r| {
                leader.map(|(_, s)| s).unwrap_or(&cluster.stores[0]).propose(
                    group,
                    command.clone(),
                    r,
                )
            })
            .ok()
        });
        written.push(command);
    };
    (0..200).for_each(|_| write(&cluster));
    let cut = || {
        let others = cluster.stores.iter().enumerate().filter(|(at, _)| *at != away);
        others.take(2).all(|(_, store)| store.describe()[0].first_index > 100)
    };
    until("cut", || cut().then_some(()));
    *cluster.network.cut_off.lock().unwrap() = None;
    (0..5).for_each(|_| write(&cluster));
    until("level", || (cluster.journals[away].commands(group).len() >= 205).then_some(()));
    let received = "flotilla_raft_snapshot_bytes_received_total";
    let of_state = counter(&cluster.stores[away], received);
    assert!((200 * 101..250 * 101).contains(&of_state), "{of_state} bytes");

    let (replica, store) = (ReplicaId(77), StoreId(4));
    let changes = vec![Change::AddVoter { replica, store }];
    let request = ChangeRequest { operation: OperationId(1), changes, force: false };
    until("accepted", || {
        let request = request.clone();
        ask(|r| cluster.leader(group).change_members(group, request, r)).ok()
    });
    until("joined", || {
        write(&cluster);
        let view = cluster.leader(group).group(group)?;
        let desc = &view.record.desc;
        let voter = desc.replica(replica)?.role == ReplicaRole::Voter;
        (voter && desc.membership.pending.is_none()).then_some(())
    });
    let joined = &cluster.stores[3];
    // It has the snapshot and may vote before its state machine has taken it.
    let installed = "flotilla_raft_snapshots_installed_total";
    until("installed", || (counter(joined, installed) >= 1).then_some(()));
    assert!(counter(joined, received) >= 200 * 101);
    assert!(joined.describe()[0].first_index > 100, "no entry from before came");
    for journal in &cluster.journals {
        let applied = || {
            let mut commands = journal.commands(group);
            commands.dedup();
            commands
        };
        until("applied", || (applied() == written).then_some(()));
    }
    // The leader is told a moment later that it was taken.
    let made = until("made", || ask(|r| cluster.leader(group).snapshot(group, r)).ok());
    let Answer::SnapshotMade { index, bytes } = made else { panic!("{made:?}") };
    assert!(index > 200 && bytes >= 200 * 101, "{made:?}");
    cluster.stores.iter().for_each(Store::shutdown);
}

/// Whoever has an answer finds its command in the log; what nobody applied here yet is told apart.
#[test]
fn the_committed_log_is_read_on_every_store() {
    let cluster = Cluster::start_stores(3, &Config::default());
    let group = GroupId(1);
    cluster.create(group);
    let leader = cluster.leader(group);
    let mut written = Vec::new();
    for number in 0..50 {
        written.push(Bytes::from(format!("{number}")));
        assert!(propose(leader, group, &written[number]).is_ok());
        let last = leader.describe()[0].applied.max(1);
        let found = leader.read_log(group, last, usize::MAX).unwrap();
        let found = found.iter().flat_map(|entry| entry.commands.clone()).next_back();
        assert_eq!(found.as_ref(), written.last());
    }
    for store in &cluster.stores {
        let read = || {
            let entries = store.read_log(group, 1, usize::MAX).ok()?;
            let commands: Vec<Bytes> = entries.into_iter().flat_map(|e| e.commands).collect();
            (commands == written).then_some(())
        };
        until("the whole log", read);
        let beyond = store.read_log(group, 1_000, usize::MAX).unwrap_err();
        assert!(matches!(beyond, ReadLogError::NotYet { from: 1_000, .. }), "{beyond}");
        let other = GroupId(77);
        let nowhere = store.read_log(other, 1, usize::MAX);
        assert_eq!(nowhere, Err(ReadLogError::NoGroup { group: other }));
    }
    cluster.stores.iter().for_each(Store::shutdown);
}

/// Whatever the limits of the log are; and only there.
#[test]
fn what_a_state_machine_reads_of_the_log_stays() {
    let cluster = Cluster::start(&Config { group_log_entries_max: 10, ..Config::default() });
    let group = GroupId(1);
    *cluster.journals[0].log_needed.lock().unwrap() = Some(5);
    cluster.create(group);
    let leader = cluster.leader(group);
    let write = |count: usize| {
        (0..count).for_each(|number| {
            propose(leader, group, &Bytes::from(format!("{number}"))).unwrap();
        });
    };
    write(100);
    for store in &cluster.stores[1..] {
        until("cut", || {
            let cut = store.read_log(group, 5, usize::MAX).err()?;
            matches!(cut, ReadLogError::Cut { from: 5, first: 50.., .. }).then_some(())
        });
    }
    let first = cluster.stores[0].describe()[0].first_index;
    assert!((2..=5).contains(&first), "{first}: what is not needed goes");
    assert_eq!(cluster.stores[0].read_log(group, 5, 0).unwrap()[0].position.index, 5);
    *cluster.journals[0].log_needed.lock().unwrap() = None;
    until("cut", || {
        write(1);
        (cluster.stores[0].describe()[0].first_index > 50).then_some(())
    });
    cluster.stores.iter().for_each(Store::shutdown);
}

/// Its callers hear it, its status shows it, other groups of the store and other replicas go on.
#[test]
fn a_failing_state_machine_stops_one_replica() {
    let cluster = Cluster::start(&Config::default());
    let (group, other) = (GroupId(1), GroupId(2));
    cluster.create(group);
    cluster.create(other);
    let bad = Bytes::from_static(b"bad");
    let leader = cluster.leader(group);
    let at = leader.group(group).unwrap().record.replica.0 as usize % 10 - 1;
    let journal = &cluster.journals[at];
    assert!(propose(leader, group, &Bytes::from_static(b"good")).is_ok());
    *journal.bad.lock().unwrap() = Some((group, bad.clone()));

    let failed = propose(leader, group, &bad);
    let Err(Error::Failed { index, reason, .. }) = &failed else { panic!("{failed:?}") };
    assert_eq!(reason, "not for it");
    let stopped = Error::Stopped { group, index: *index, reason: reason.clone() };
    until("it has stopped", || {
        (ask(|r| leader.propose(group, bad.clone(), r)) == Err(stopped.clone())).then_some(())
    });
    assert_eq!(
        ask(|r| leader.read_barrier(group, ReadMode::Linearizable, r)),
        Err(stopped.clone())
    );
    let status = leader.describe().into_iter().find(|s| s.group == group).unwrap();
    assert_eq!((status.role, status.applied), (Role::Stopped, index - 1));
    assert_eq!(status.damage, Some(stopped.to_string()));
    assert!(!leader.group(group).unwrap().leading);
    assert_eq!(journal.commands(group), ["good"]);
    let told = journal.told(group);
    assert_eq!(told[told.len() - 2..], ["leads no longer: Failed".to_owned(), stopped.to_string()]);

    let others = until("another leader", || {
        cluster.stores.iter().find(|s| s.group(group).is_some_and(|g| g.leading))
    });
    until("on", || ask(|r| others.propose(group, Bytes::from_static(b"on"), r)).ok());
    until("on", || ask(|r| cluster.leader(other).propose(other, bad.clone(), r)).ok());
    until("the other group goes on", || journal.commands(other).contains(&bad).then_some(()));
    cluster.stores.iter().for_each(Store::shutdown);
    assert_eq!(journal.told(group), told, "nothing is told after the end");
    for journal in &cluster.journals {
        let last = journal.told(other).pop().unwrap();
        assert!(last == "follows no longer" || last == "leads no longer: Closing", "{last}");
    }
}
