//! One slow disk of three: leaders leave its store, and the others' writes are fast again.

use super::harness::{Cluster, ask, figures, until};
use bytes::Bytes;
use flotilla_raftstore::{Config, Error, GroupId, StoreId, TransferRefusal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GROUPS: u64 = 6;
const SLOW: StoreId = StoreId(1);
/// Of one sync on the slow disk.
const SYNC_MS: u64 = 200;

fn config() -> Config {
    Config {
        tick_interval_ms: 50,
        sync_interval_ms: 100,
        slow_sync_ms: 60,
        slow_sync_s: 1,
        ..Config::default()
    }
}

fn groups() -> impl Iterator<Item = GroupId> {
    (1..=GROUPS).map(GroupId)
}

/// How long each of some writes takes, ascending.
fn latencies(cluster: &Cluster) -> Vec<Duration> {
    let mut all: Vec<Duration> = Vec::new();
    for number in 0..10 {
        for group in groups() {
            let start = Instant::now();
            cluster.write(group, &Bytes::from(format!("timed {number}")));
            all.push(start.elapsed());
        }
    }
    all.sort_unstable();
    all
}

fn led(cluster: &Cluster, store: StoreId) -> usize {
    groups().filter(|group| cluster.store(store).group(*group).unwrap().leading).count()
}

fn leaders(cluster: &Cluster) -> Vec<StoreId> {
    groups().map(|group| cluster.leader(group)).collect()
}

/// Runs `test` while all groups are written to, slowly: a disk is judged by its syncs.
fn under_writes(cluster: &Cluster, test: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for group in groups() {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    cluster.write(group, &Bytes::from_static(b"beside"));
                    std::thread::sleep(Duration::from_millis(40));
                }
            });
        }
        // Also when the test fails: the writers must end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

fn slow(cluster: &Cluster) -> usize {
    cluster.stores.iter().filter(|store| store.disk_is_slow()).count()
}

#[test]
fn leaders_leave_a_store_with_a_slow_disk_and_come_back_when_it_is_fast() {
    let cluster = Cluster::start(3, &config());
    groups().for_each(|group| cluster.create(group));
    groups().for_each(|group| cluster.lead(group, StoreId(group.0 % 3 + 1)));
    assert_eq!(led(&cluster, SLOW), 2);
    under_writes(&cluster, || {
        cluster.disks[0].set_sync_ms(SYNC_MS);
        let of_slow = GroupId(3);
        let start = Instant::now();
        cluster.write(of_slow, &Bytes::from_static(b"felt"));
        assert!(start.elapsed() >= Duration::from_millis(SYNC_MS), "its leader's disk counts");
        until("noticed", || cluster.stores[0].disk_is_slow().then_some(()));
        until("left", || (led(&cluster, SLOW) == 0).then_some(()));
        let figures = figures(&cluster.stores[0]);
        assert_eq!(figures["flotilla_raft_log_disk_slow"], 1.0);
        assert!(figures["flotilla_raft_transfers_slow_disk_total"] >= 2.0);
        assert_eq!(slow(&cluster), 1);

        let times = latencies(&cluster);
        let (half, most) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        assert!(half < Duration::from_millis(SYNC_MS / 2), "{half:?}");
        assert!(most < Duration::from_millis(SYNC_MS), "{most:?}");

        let group = GroupId(1);
        let to = Cluster::replica(group, SLOW);
        let refusal = TransferRefusal::SlowDisk { replica: to, store: SLOW };
        let expected = Err(Error::NotTransferred { group, refusal });
        // The leader hears of it with the next sign of life.
        until("refused", || {
            let leader = cluster.store(cluster.leader(group));
            (ask(|r| leader.transfer_leader(group, to, r)) == expected).then_some(())
        });
        until("left", || (led(&cluster, SLOW) == 0).then_some(()));

        // Whoever has to elect elects the other one.
        cluster.network.cut(StoreId(2), true);
        until("store 3 leads all", || (led(&cluster, StoreId(3)) == GROUPS as usize).then_some(()));
        assert_eq!(led(&cluster, SLOW), 0);
        cluster.network.cut(StoreId(2), false);

        cluster.disks[0].set_sync_ms(0);
        until("trusted again", || (slow(&cluster) == 0).then_some(()));
        groups().for_each(|group| cluster.lead(group, SLOW));
        assert_eq!(led(&cluster, SLOW), GROUPS as usize);
    });
    cluster.stop();
}

#[test]
fn where_all_disks_are_slow_every_group_keeps_its_leader() {
    let cluster = Cluster::start(3, &config());
    groups().for_each(|group| cluster.create(group));
    groups().for_each(|group| cluster.lead(group, StoreId(group.0 % 3 + 1)));
    under_writes(&cluster, || {
        cluster.disks.iter().for_each(|disk| disk.set_sync_ms(SYNC_MS / 2));
        until("all noticed", || (slow(&cluster) == 3).then_some(()));
        // What began before the last one was known to be slow ends.
        std::thread::sleep(Duration::from_secs(1));
        let before = leaders(&cluster);
        let fled = || -> f64 {
            let count = |store| figures(store)["flotilla_raft_transfers_slow_disk_total"];
            cluster.stores.iter().map(count).sum()
        };
        let moved = fled();
        groups().for_each(|group| cluster.write(group, &Bytes::from_static(b"slowly")));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(fled(), moved, "there is nowhere to go");
        // An operator may still move them.
        let group = GroupId(1);
        let to = StoreId(before[0].0 % 3 + 1);
        cluster.lead(group, to);
    });
    cluster.stop();
}
