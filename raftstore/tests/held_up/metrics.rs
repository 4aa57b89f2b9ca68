//! Every metric moves: a figure that never does tells nobody anything.

use super::harness::{Cluster, Network, ask, figures, until};
use bytes::Bytes;
use flotilla_raftstore::{
    Change, ChangeRequest, Config, Envelope, Error, GroupId, Inbound, Nanos, OperationId, Payload,
    ReadMode, ReplicaId, Reply, Role, Store, StoreId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAGE: &str = include_str!("../../../docs/metrics.md");
const GROUP: GroupId = GroupId(1);

fn config() -> Config {
    Config {
        tick_interval_ms: 20,
        sync_interval_ms: 50,
        hibernate_ticks: 10,
        // One append in flight: a follower that does not answer is paused at once.
        pipeline: false,
        // The queues to the workers are used, whatever the size.
        inline_bytes_max: 0,
        inline_apply_bytes_max: 0,
        command_bytes_max: 10_000,
        group_apply_bytes_max: 1_000,
        entry_cache_bytes_max: 0,
        inbox_messages_max: 1_000,
        truncate_entries_min: 4,
        group_log_entries_max: 20,
        snapshot_block_bytes: 100,
        snapshot_retry_ticks: 20,
        snapshot_bytes_per_second: 100_000,
        slow_sync_ms: 30,
        slow_sync_s: 1,
        ..Config::default()
    }
}

/// How far each figure of any store was from its first one, at most.
#[derive(Default)]
struct Moves {
    first: Vec<BTreeMap<String, f64>>,
    most: BTreeMap<String, f64>,
}

impl Moves {
    fn look(&mut self, stores: &[Store]) {
        let now: Vec<_> = stores.iter().map(figures).collect();
        if self.first.is_empty() {
            self.first = now.clone();
        }
        for (first, now) in self.first.iter().zip(now) {
            for (name, value) in now {
                let moved = (value - first[&name]).abs();
                let most = self.most.entry(name).or_default();
                *most = most.max(moved);
            }
        }
    }
}

fn command(bytes: usize) -> Bytes {
    Bytes::from(vec![b'7'; bytes])
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Nobody waits for the answer.
fn forget() -> Reply {
    Reply::pending().0
}

fn counter(store: &Store, name: &str) -> f64 {
    figures(store)[name]
}

fn change(cluster: &Cluster, operation: u128, change: Change) {
    let operation = OperationId(operation);
    let request = ChangeRequest { operation, changes: vec![change], force: false };
    until("changed", || {
        let leader = cluster.store(cluster.leader(GROUP));
        ask(|r| leader.change_members(GROUP, request.clone(), r)).ok()
    });
    until("done", || {
        let view = cluster.store(cluster.leader(GROUP)).group(GROUP)?;
        view.record.desc.membership.pending.is_none().then_some(())
    });
}

fn follower(cluster: &Cluster) -> StoreId {
    StoreId(cluster.leader(GROUP).0 % 3 + 1)
}

fn reads(cluster: &Cluster) {
    let leader = cluster.leader(GROUP);
    for mode in [ReadMode::Linearizable, ReadMode::Lease] {
        ask(|r| cluster.store(leader).read_barrier(GROUP, mode, r)).unwrap();
    }
    let other = cluster.store(follower(cluster));
    ask(|r| other.read_barrier(GROUP, ReadMode::Follower, r)).unwrap();
    let bound = Nanos(60_000_000_000);
    ask(|r| other.read_barrier(GROUP, ReadMode::Stale { bound }, r)).unwrap();
}

/// A follower that is away for a short time reads old entries, one that was away for long gets a
/// snapshot; nobody can hand leadership to it, and it asks for votes in vain.
fn absences(cluster: &Cluster) {
    for writes in [8, 60] {
        let away = follower(cluster);
        cluster.network.cut(away, true);
        (0..writes).for_each(|_| cluster.write(GROUP, &command(100)));
        let leader = cluster.store(cluster.leader(GROUP));
        let to = Cluster::replica(GROUP, away);
        let refused = ask(|r| leader.transfer_leader(GROUP, to, r));
        assert!(matches!(refused, Err(Error::NotTransferred { .. })), "{refused:?}");
        if writes > 8 {
            let asked = || counter(cluster.store(away), "flotilla_raft_prevotes_lost_total");
            until("in vain", || (asked() > 0.0).then_some(()));
            let first = || leader.describe()[0].first_index;
            until("cut", || (first() > leader.describe()[0].last_index - 25).then_some(()));
        }
        cluster.network.cut(away, false);
        let count = || cluster.journals[away.0 as usize - 1].count(GROUP);
        let all = || cluster.journals[cluster.leader(GROUP).0 as usize - 1].count(GROUP);
        until("level", || (count() >= all()).then_some(()));
    }
}

/// A leader that nobody answers has no lease before it knows that it leads no longer.
fn lost_leases(cluster: &Cluster) {
    let degraded = |store: &Store| counter(store, "flotilla_raft_reads_degraded_total");
    until("degraded", || {
        let id = cluster.leader(GROUP);
        let leader = cluster.store(id);
        ask(|r| leader.read_barrier(GROUP, ReadMode::Lease, r)).ok()?;
        cluster.network.cut(id, true);
        for _ in 0..60 {
            leader.read_barrier(GROUP, ReadMode::Lease, forget());
            pause(5);
        }
        cluster.network.cut(id, false);
        (degraded(leader) > 0.0).then_some(())
    });
}

/// Entries that are not applied fill the group's part of the queue: of the leader, which refuses more,
/// and of a follower, where those that follow wait in the log.
fn full_queues(cluster: &Cluster) {
    let refused = |store: &Store| counter(store, "flotilla_raft_writes_refused_total");
    let id = cluster.leader(GROUP);
    let leader = cluster.store(id);
    {
        let _gate = cluster.journals[id.0 as usize - 1].gate.lock().unwrap();
        until("refused", || {
            leader.propose(GROUP, command(900), forget());
            (refused(leader) > 0.0).then_some(())
        });
    }
    let gate = cluster.journals[follower(cluster).0 as usize - 1].gate.lock().unwrap();
    let before = cluster.journals[id.0 as usize - 1].count(GROUP);
    for _ in 0..20 {
        leader.propose(GROUP, command(500), forget());
        pause(10);
    }
    until("parked", || {
        let statuses = cluster.store(follower(cluster)).describe();
        let parked = statuses.iter().any(|status| status.group == GROUP && status.parked > 0);
        leader.propose(GROUP, command(500), forget());
        parked.then_some(())
    });
    pause(50);
    drop(gate);
    assert!(cluster.journals[id.0 as usize - 1].count(GROUP) > before, "the others go on");
}

/// What does not fit is refused at the door; a shard that stands still lets its inbox grow.
fn doors(cluster: &Cluster, network: &Network) {
    let (leader, other) = (cluster.leader(GROUP), follower(cluster));
    let large = ask(|r| cluster.store(leader).propose(GROUP, command(10_001), r));
    assert!(matches!(large, Err(Error::Invalid { .. })), "{large:?}");
    let envelope = Envelope {
        group: GroupId(99),
        from: ReplicaId(1),
        to: ReplicaId(2),
        payload: Payload::DurableApplied(1),
    };
    cluster.store(other).deliver(leader, vec![envelope.clone(); 1_001]);
    let gate = network.gate(other);
    let held = gate.lock().unwrap();
    until("it waits", || {
        cluster.store(other).deliver(leader, vec![envelope.clone()]);
        (cluster.store(other).queues().inbox_messages > 2).then_some(())
    });
    pause(100);
    drop(held);
}

fn slow_disk(cluster: &Cluster) {
    let id = cluster.leader(GROUP);
    cluster.disks[id.0 as usize - 1].set_sync_ms(60);
    until("left", || {
        cluster.write(GROUP, &command(10));
        cluster.store(id).disk_is_slow().then_some(())?;
        (cluster.leader(GROUP) != id).then_some(())
    });
    cluster.disks[id.0 as usize - 1].set_sync_ms(0);
    until("trusted again", || {
        cluster.write(GROUP, &command(10));
        (!cluster.store(id).disk_is_slow()).then_some(())
    });
}

fn everything(cluster: &Cluster) {
    (0..50).for_each(|_| cluster.write(GROUP, &command(100)));
    reads(cluster);
    until("asleep", || {
        let asleep = |store: &Store| store.describe().iter().any(|status| status.asleep);
        cluster.stores.iter().any(asleep).then_some(())
    });
    cluster.lead(GROUP, follower(cluster));
    absences(cluster);
    lost_leases(cluster);
    doors(cluster, &cluster.network);
    full_queues(cluster);
    slow_disk(cluster);
    ask(|r| cluster.store(cluster.leader(GROUP)).snapshot(GROUP, r)).unwrap();
    change(cluster, 1, Change::AddVoter { replica: ReplicaId(77), store: StoreId(4) });
    let replica = Cluster::replica(GROUP, follower(cluster));
    change(cluster, 2, Change::Rebuild { replica, new: ReplicaId(78) });
    // A state machine that fails ends its replica.
    let id = cluster.leader(GROUP);
    *cluster.journals[id.0 as usize - 1].bad.lock().unwrap() = Some(Bytes::from_static(b"bad"));
    let failed = ask(|r| cluster.store(id).propose(GROUP, Bytes::from_static(b"bad"), r));
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    until("stopped", || {
        let stopped = cluster.store(id).describe()[0].role == Role::Stopped;
        stopped.then_some(())
    });
    pause(100);
}

fn page() -> BTreeSet<String> {
    let names = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = names.filter_map(|line| line.split('`').next());
    names.filter(|name| name.starts_with("flotilla_raft_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_moves_and_is_on_the_page() {
    let cluster = Cluster::start(4, &config());
    let mut moves = Moves::default();
    moves.look(&cluster.stores);
    cluster.create(GROUP);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                moves.look(&cluster.stores);
                pause(2);
            }
        });
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| everything(&cluster)));
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        outcome.unwrap();
    });
    let still: Vec<_> = moves.most.iter().filter(|(_, most)| **most == 0.0).collect();
    assert!(still.is_empty(), "these never moved: {still:?}");
    let names: BTreeSet<String> = moves.most.into_keys().collect();
    assert_eq!(page(), names, "docs/metrics.md names others");
    cluster.stop();
}
