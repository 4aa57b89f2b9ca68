//! Three stores in one process, over real threads and an in-process network: the shell works.
#![allow(clippy::disallowed_methods)] // A test may wait.

use bytes::Bytes;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::{
    Answer, AppliedState, Config, Envelope, Error, Fatal, GroupApply, GroupDesc, GroupId,
    GroupRecord, Inbound, OnceCompletion, Outcome, ReplicaDesc, ReplicaId, ReplicaRole, Reply,
    StateMachine, Store, StoreBuilder, StoreId, SystemClock, Transport,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

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
}

/// Keeps every command of every group, in order, and answers with its number.
#[derive(Default)]
struct Journal {
    groups: Mutex<BTreeMap<GroupId, (u64, Vec<Bytes>)>>,
}

impl Journal {
    fn commands(&self, group: GroupId) -> Vec<Bytes> {
        self.groups.lock().unwrap().get(&group).map(|(_, c)| c.clone()).unwrap_or_default()
    }
}

impl StateMachine for Journal {
    fn recovered(&self, _group: GroupId) -> AppliedState {
        AppliedState::default()
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut groups = self.groups.lock().unwrap();
        for apply in batch {
            let (applied, commands) = groups.entry(apply.group).or_default();
            for entry in &apply.entries {
                assert_eq!(entry.position.index, *applied + 1);
                *applied = entry.position.index;
                for command in &entry.commands {
                    commands.push(command.clone());
                    if apply.answer {
                        apply.answers.push(Bytes::from(commands.len().to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        Ok(())
    }
}

fn ask(submit: impl FnOnce(Reply)) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    submit(OnceCompletion::reply(move |outcome| drop(sender.send(outcome))));
    receiver.recv_timeout(Duration::from_secs(10)).expect("every request is answered")
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Cluster {
    network: Arc<Network>,
    stores: Vec<Store>,
    journals: Vec<Arc<Journal>>,
}

impl Cluster {
    fn start(config: &Config) -> Cluster {
        let network = Arc::new(Network::default());
        let journals: Vec<Arc<Journal>> = (0..3).map(|_| Arc::default()).collect();
        let start = |id: u64| {
            let store = StoreBuilder {
                config: Config {
                    tick_interval_ms: 20,
                    sync_interval_ms: 50,
                    truncate_entries_min: 4,
                    ..config.clone()
                },
                store: StoreId(id),
                clock: Arc::new(SystemClock),
                transport: Arc::new(Link { from: StoreId(id), network: Arc::clone(&network) }),
                log: MemoryLog::new(),
                state_machine: Arc::clone(&journals[id as usize - 1]) as Arc<dyn StateMachine>,
                on_fatal: Arc::new(|fatal| panic!("{fatal}")),
                seed: id,
            };
            let store = store.start().unwrap();
            network.stores.lock().unwrap().insert(StoreId(id), store.clone());
            store
        };
        let stores = (1..=3).map(start).collect();
        Cluster { network, stores, journals }
    }

    fn create(&self, group: GroupId) {
        let replica = |store: u64| ReplicaDesc {
            replica: ReplicaId(group.0 * 10 + store),
            store: StoreId(store),
            role: ReplicaRole::Voter,
        };
        let desc = GroupDesc { group, replicas: (1..=3).map(replica).collect() };
        for (store, own) in self.stores.iter().zip(&desc.replicas) {
            let record = GroupRecord { desc: desc.clone(), replica: own.replica };
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
        assert_eq!(ask(|r| leader.read_barrier(*group, r)), Ok(Answer::ReadReady));
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
        let late = ask(|r| store.read_barrier(group, r));
        assert_eq!(late, Err(Error::Unknown { group: GroupId(0) }));
    }
}

/// A store that is down holds the log of the others: near the limit writes are refused, long
/// before a disk is full, and go on by themselves once it is back and has caught up.
#[test]
fn a_full_log_refuses_writes_until_the_missing_store_is_back() {
    let log_bytes_max = 16 << 20;
    let cluster = Cluster::start(&Config { log_bytes_max, ..Config::default() });
    let group = GroupId(1);
    cluster.create(group);
    let leader = cluster.leader(group);
    let settled = propose(leader, group, &Bytes::from_static(b"first"));
    assert!(settled.is_ok(), "{settled:?}");
    let view = leader.group(group).unwrap();
    let missing = view.record.desc.replicas.iter().find(|r| r.replica != view.record.replica);
    *cluster.network.cut_off.lock().unwrap() = missing.map(|r| r.store);

    let command = Bytes::from(vec![7; 256 << 10]);
    let refused =
        until("the log is full", || match ask(|r| leader.propose(group, command.clone(), r)) {
            Err(error @ Error::Busy { .. }) => Some(error),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        });
    assert!(refused.to_string().contains("log is full"), "{refused}");
    assert!(leader.queues().log_bytes <= log_bytes_max);
    assert_eq!(ask(|r| leader.read_barrier(group, r)), Ok(Answer::ReadReady), "reads go on");

    *cluster.network.cut_off.lock().unwrap() = None;
    until("writes go on", || ask(|r| leader.propose(group, command.clone(), r)).ok());
    cluster.stores.iter().for_each(Store::shutdown);
}
