//! Disks that fill up under real stores, each on a small file system of its own. Not run where file systems
//! cannot be mounted.

use flotilla_client::{Client, Error, Refusal};
use flotilla_tests::cluster::{Cluster, Options, can_mount};
use flotilla_tests::load::Load;
use flotilla_tests::playground::{http_get, kv, try_http_get};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 768;
/// As in [`SETTINGS`].
const RESERVE_MIB: u64 = 256;
/// Logs that are cut soon, so that what fills a disk is data.
const SETTINGS: &str = "\
[server]
disk_reserve_mib = 256
[kv]
table_bytes_max = 8388608
[raft]
truncate_entries_min = 16
sync_interval_ms = 200
group_log_bytes_max = 33554432
";
const VALUE_BYTES: usize = 200_000;
/// Other programs may have the machine: nothing here is a matter of time.
const SOON: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// One at a time: each keeps the machine's disk busy.
static TURN: Mutex<()> = Mutex::const_new(());

fn options() -> Options {
    Options { regions: 4, disk_mib: DISK_MIB, settings: SETTINGS, ..Options::default() }
}

/// Says so when the tests here cannot run.
fn runs() -> bool {
    let can = can_mount();
    if !can {
        println!("not run: file systems cannot be mounted here");
    }
    can
}

/// A file that takes room on the disk of a store.
struct Ballast(PathBuf);

impl Ballast {
    fn on(cluster: &Cluster, store: u16) -> Ballast {
        Ballast(cluster.store_dir(store).join("ballast"))
    }

    /// Leaves so much of the disk free, or as little as can be.
    fn leave(&self, mib: u64) {
        let folder = self.0.parent().expect("a folder");
        let free = || {
            let found = rustix::fs::statvfs(folder).expect("a file system");
            found.f_bavail * found.f_frsize / MIB
        };
        let mut file = File::options().create(true).append(true).open(&self.0).expect("a file");
        let block = vec![7; MIB as usize];
        while free() > mib && file.write_all(&block).is_ok() {}
        if mib == 0 {
            while file.write(&block[..4_096]).is_ok_and(|written| written > 0) {}
        }
    }

    fn remove(&self) {
        fs::remove_file(&self.0).expect("the ballast is there");
    }
}

fn status(cluster: &Cluster, store: u16) -> Value {
    let (code, body) = http_get(&cluster.store_address(store), "/status");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The sum of the applied indexes of a store.
fn applied(cluster: &Cluster, store: u16) -> u64 {
    let status = status(cluster, store);
    let regions = status["regions"].as_array().expect("regions");
    regions.iter().map(|region| region["applied"].as_u64().expect("an index")).sum()
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what} takes longer than {SOON:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn key(number: usize) -> Vec<u8> {
    // Over all regions.
    let first = (number as u8).wrapping_mul(37);
    [&[first][..], &number.to_be_bytes()].concat()
}

fn value(number: usize) -> Vec<u8> {
    // Not to be compressed away.
    let mut state = number as u64 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

/// Puts until it is refused; how many were acknowledged, and the refusal.
async fn fill(client: &Client) -> (usize, String) {
    for number in 0..100_000 {
        match client.put(key(number), value(number)).await {
            Ok(_) => {}
            Err(Error::NotApplied { kind: Refusal::DiskFull, message }) => {
                return (number, message);
            }
            // At the very limit one may be on its way when a leader goes.
            Err(Error::Unknown { .. } | Error::NotApplied { .. } | Error::Unavailable { .. }) => {
                client.put(key(number), value(number)).await.map_or_else(
                    |error| assert!(!matches!(error, Error::Invalid { .. }), "{error}"),
                    drop,
                );
            }
            Err(error @ Error::Invalid { .. }) => panic!("{error}"),
        }
    }
    panic!("the disks of {DISK_MIB} MiB hold more than 20 GB");
}

async fn check(client: &Client, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        let got = client.get(key(number)).await.expect("a get").value;
        assert_eq!(got, Some(value(number).into()), "key {number}");
    }
}

/// Bug 35: all disks full. Reads, deletes, leader transfers and restarts go on; what was deleted
/// makes room, and writes go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_writes_and_can_be_cleaned() {
    if !runs() {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start(options()).await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(5));
    let (count, message) = fill(&client).await;
    println!("{count} values of {VALUE_BYTES} bytes: {message}");
    for word in ["the disk of store", "MiB are free", "the limit is 256 MiB", "delete records"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(count > 200, "{count}");
    let placement = cluster.placement_address();
    let refused = kv(&placement, &["--json", "--timeout", "1s", "put", "some key", "value"]);
    let error: Value = serde_json::from_str(refused.err.trim()).expect("JSON");
    assert_eq!((refused.code, &error["error"]["kind"]), (3, &json!("disk_full")), "{refused:?}");
    assert_eq!(error["error"]["applied"], json!(false));

    let client = client.with_timeout(Duration::from_secs(30));
    check(&client, (0..count).step_by(count / 20)).await;
    // From a short store leadership goes to any; from one that has room by a little to none that is short.
    let described = kv(&placement, &["--json", "admin", "group", "describe", "1"]).json();
    let leads = |replica: &&Value| replica["role"] == json!("leader");
    let leader = &described.iter().find(leads).expect("a leader")["store"];
    let other = (1..=3).find(|store| json!(store) != *leader).expect("another store").to_string();
    // Right after so much was written a store may seem silent for a moment, and a short one hands over by
    // itself.
    wait_until("handing over", || {
        let moved = kv(&placement, &["admin", "group", "transfer-leader", "1", "--store", &other]);
        let settled = ["is nearly full", "leads already"].map(|why| moved.err.contains(why));
        moved.code == 0 || settled.contains(&true)
    })
    .await;
    let priority = ["admin", "group", "set-priority", "1", "7", "--store", &other];
    let changed = kv(&placement, &priority);
    assert_eq!(changed.code, 0, "{changed:?}");

    // Each is started with its disk as it is.
    for store in cluster.store_indexes() {
        // Its last checkpoint may find no room; then it says so.
        cluster.store(store).terminate();
        cluster.start_store(store);
        check(&client, (0..count).step_by(count / 5)).await;
        assert!(cluster.store(store).is_running());
    }
    for number in (0..count).filter(|number| number % 4 != 0) {
        client.delete(key(number)).await.expect("a delete");
    }
    // What was deleted is known after a restart, too.
    for store in cluster.store_indexes() {
        cluster.kill_store(store);
        cluster.start_store(store);
    }
    wait_until("starting", || {
        let up = |store| try_http_get(&cluster.store_address(store), "/healthz");
        cluster.store_indexes().all(|store| up(store).is_ok_and(|(code, _)| code == 200))
    })
    .await;
    wait_until("room", || {
        let short = |store| !status(&cluster, store)["queues"]["disk_shortage"].is_null();
        !cluster.store_indexes().any(short)
    })
    .await;
    for number in 0..20 {
        client.put(key(count + 1 + number), value(number)).await.expect("a put");
    }
    check(&client, (0..count).step_by(4)).await;
    for store in cluster.store_indexes() {
        let log = cluster.store(store).log_tail();
        assert!(cluster.store(store).is_running(), "{log}");
    }
}

/// One disk is full, in two steps: its store leads nothing, then takes nothing; the groups go on
/// without it, and it catches up once it has room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_do_without_a_store_whose_disk_is_full() {
    if !runs() {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start(options()).await;
    let client = cluster.client().await;
    let load = Load::start(&client);
    load.wait_written(200, SOON).await;
    let ballast = Ballast::on(&cluster, 0);
    ballast.leave(RESERVE_MIB / 2);
    wait_until("handing over", || {
        let status = status(&cluster, 0);
        !status["queues"]["disk_shortage"].is_null() && status["leaders"] == json!(0)
    })
    .await;
    load.rotate_keys();
    load.wait_written(200, SOON).await;
    ballast.leave(RESERVE_MIB / 8);
    // It stands still, and the others do not.
    let mut before = u64::MAX;
    wait_until("standing still", || {
        let now = applied(&cluster, 0);
        std::mem::replace(&mut before, now) == now && applied(&cluster, 1) > now + 100
    })
    .await;
    load.rotate_keys();
    load.wait_written(500, SOON).await;
    assert!(cluster.store(0).is_running());
    ballast.remove();
    load.rotate_keys();
    load.wait_written(200, SOON).await;
    let reached = applied(&cluster, 1);
    wait_until("catching up", || applied(&cluster, 0) >= reached).await;
    assert!(status(&cluster, 0)["queues"]["disk_shortage"].is_null());
    let summary = load.stop_and_check(&client).await;
    println!("{summary:?}");
}

/// A store whose disk is nearly full is left out until a quorum needs it. Then it takes what it has missed,
/// and what is deleted makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_store_catches_up_when_it_is_needed() {
    const MISSED: u64 = 20;
    if !runs() {
        return;
    }
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start(options()).await;
    let client = cluster.client().await.with_timeout(SOON);
    let ballast = Ballast::on(&cluster, 0);
    // Below a quarter of the limit, and above an eighth.
    ballast.leave(RESERVE_MIB * 30 / 128);
    wait_until("handing over", || {
        let status = status(&cluster, 0);
        !status["queues"]["disk_shortage"].is_null() && status["leaders"] == json!(0)
    })
    .await;
    let mut count = 0;
    while applied(&cluster, 1) < applied(&cluster, 0) + MISSED {
        client.put(key(count), value(count)).await.expect("a put");
        count += 1;
        assert!(count < 200, "it is not left out");
        // Leaders hear of a full disk with the next heartbeats.
        tokio::time::sleep(POLL).await;
    }
    cluster.kill_store(1);
    for number in (0..count).step_by(2) {
        client.delete(key(number)).await.expect("a delete");
    }
    wait_until("catching up", || applied(&cluster, 0) >= applied(&cluster, 2)).await;
    check(&client, (0..count).skip(1).step_by(2)).await;
    let refused = client.with_timeout(Duration::from_secs(2)).put(key(count), value(count)).await;
    let full = matches!(&refused, Err(Error::NotApplied { kind: Refusal::DiskFull, .. }));
    assert!(full, "{refused:?}");
    assert!(cluster.store(0).is_running(), "{}", cluster.store(0).log_tail());
    ballast.remove();
    let deadline = Instant::now() + SOON;
    while let Err(error) = client.put(key(count), value(count)).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(POLL).await;
    }
}

/// Without a limit, or filled up by others: the store ends with a clear line and starts again once there is
/// room, with all that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_disk_has_no_room_at_all_ends_with_a_clear_line() {
    if !runs() {
        return;
    }
    let _turn = TURN.lock().await;
    const NO_LIMIT: &str = "[server]\ndisk_reserve_mib = 0\n";
    for log_engine in ["raft-engine", "rocksdb"] {
        let options = Options { settings: NO_LIMIT, log_engine, regions: 2, ..options() };
        let mut cluster = Cluster::start(options).await;
        let client = cluster.client().await.with_timeout(Duration::from_secs(20));
        let ballast = Ballast::on(&cluster, 0);
        ballast.leave(0);
        let mut acknowledged = Vec::new();
        for number in 0..400 {
            if client.put(key(number), value(number)).await.is_ok() {
                acknowledged.push(number);
            }
            if !cluster.store(0).is_running() {
                break;
            }
        }
        let ended = cluster.store(0).wait_end(SOON);
        let log = cluster.store(0).log_tail();
        let last = log.lines().last().unwrap_or_default();
        assert_eq!(ended.code(), Some(1), "{log}");
        for word in ["fatal", "No space left", "the store stops"] {
            assert!(last.contains(word), "no '{word}' in the last line: {last}");
        }
        assert!(!log.contains("panicked") && !log.contains("a bug in"), "{log}");
        ballast.remove();
        cluster.start_store(0);
        cluster.wait_serving().await;
        check(&client, acknowledged).await;
    }
}
