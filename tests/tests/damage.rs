//! A disk that damages what a replica had written: the store's other replicas go on, and the damaged
//! one is rebuilt by the group without help.

use flotilla_client::Client;
use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::faulty_disk::FaultyDisk;
use flotilla_tests::playground::{http_get, kv};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const MARK: &[u8] = b"the disk is going to change a bit of this value";
const KEYS: u8 = 200;
/// So that a region has several blocks.
const VALUE_BYTES: usize = 2_000;
const REBUILT_MAX: Duration = Duration::from_secs(60);

/// Flips a bit in the last copy of [`MARK`] in the log's files: an entry that was written before it at
/// another leader's word may have been replaced.
fn damage(folder: &Path) {
    let mut files: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().collect();
    files.sort_by_key(fs::DirEntry::path);
    for file in files.iter().rev().map(fs::DirEntry::path).filter(|file| file.is_file()) {
        let mut bytes = fs::read(&file).expect("a file");
        let found = bytes.windows(MARK.len()).rposition(|part| part == MARK);
        if let Some(at) = found {
            bytes[at + 10] ^= 4;
            return fs::write(&file, bytes).expect("a file to write");
        }
    }
    panic!("the value is in no file of {}", folder.display());
}

fn replicas(address: &str) -> Vec<Value> {
    let (code, body) = http_get(address, "/status");
    assert_eq!(code, 200, "{body}");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    status["regions"].as_array().expect("regions").clone()
}

/// Groups with this store's replica of each.
fn ids(replicas: &[Value]) -> Vec<(u64, u64)> {
    let number = |replica: &Value, field: &str| replica[field].as_u64().expect("a number");
    replicas.iter().map(|one| (number(one, "group"), number(one, "replica"))).collect()
}

fn key(number: u8) -> Vec<u8> {
    vec![number.wrapping_mul(131), number]
}

/// The value that is damaged: in a block of its own, or every region that has records in that block or next to it
/// is damaged, too.
fn marked() -> Vec<u8> {
    [MARK, &[b'.'; 64 << 10]].concat()
}

async fn fill(cluster: &Cluster) -> Client {
    let client = cluster.client().await.with_timeout(Duration::from_secs(30));
    client.put(key(0), marked()).await.expect("a put");
    for number in 1..KEYS {
        client.put(key(number), vec![number; VALUE_BYTES]).await.expect("a put");
    }
    client
}

async fn a_damaged_replica_is_rebuilt(log_engine: &'static str) {
    let options = Options { regions: 4, log_engine, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let client = fill(&cluster).await;
    let address = cluster.store_address(0);
    let before = ids(&replicas(&address));
    cluster.kill_store(0);
    let log = fs::read_dir(cluster.store_dir(0)).expect("a folder").flatten();
    let log = log.map(|entry| entry.path()).find(|path| path.ends_with("log")).expect("the log");
    damage(&log.join("files"));
    cluster.start_store(0);

    await_rebuilt(&mut cluster, &before).await;
    check_without_store_1(&mut cluster, &client).await;
}

/// Waits until store 0 has four sound voters again, of which one is new.
async fn await_rebuilt(cluster: &mut Cluster, before: &[(u64, u64)]) {
    let address = cluster.store_address(0);
    let deadline = Instant::now() + REBUILT_MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = replicas(&address);
        let sound = |r: &Value| r["damage"].is_null() && r["applied"].as_u64() > Some(0);
        let votes = |r: &Value| {
            let members = r["members"]["replicas"].as_array().expect("members");
            members.len() == 3 && members.iter().all(|member| member["role"] == "voter")
        };
        let new = ids(&found).into_iter().filter(|id| !before.contains(id)).count();
        if new > 0 && found.len() == 4 && found.iter().all(|r| sound(r) && votes(r)) {
            let log = cluster.store(0).log_tail();
            assert_eq!(new, 1, "only the damaged one was rebuilt: {log}");
            return;
        }
        let log = cluster.store(0).log_tail();
        assert!(Instant::now() < deadline, "{found:#?}\n{log}");
    }
}

/// The new replica counts: with it two of three are there.
async fn check_without_store_1(cluster: &mut Cluster, client: &Client) {
    cluster.kill_store(1);
    let got = client.get(key(0)).await.expect("a get").value;
    assert_eq!(got, Some(marked().into()));
    for number in 1..KEYS {
        let got = client.get(key(number)).await.expect("a get").value;
        assert_eq!(got.as_deref(), Some(&vec![number; VALUE_BYTES][..]));
    }
    client.put(key(0), b"new".to_vec()).await.expect("a put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_log_in_raft_engine_is_damaged_is_rebuilt() {
    a_damaged_replica_is_rebuilt("raft-engine").await;
}

/// Starts store 0 and waits until it serves itself.
async fn start(cluster: &mut Cluster) {
    cluster.start_store(0);
    wait_started(cluster).await;
}

/// The same on a disk that has faults.
async fn start_on(cluster: &mut Cluster, disk: &FaultyDisk) {
    cluster.store(0).start_on(disk);
    wait_started(cluster).await;
}

async fn wait_started(cluster: &mut Cluster) {
    let deadline = Instant::now() + REBUILT_MAX;
    while TcpStream::connect(cluster.store_address(0)).is_err() {
        assert!(Instant::now() < deadline, "{}", cluster.store(0).log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The port is there first; the answer comes when all is recovered.
    let (code, body) = http_get(&cluster.store_address(0), "/healthz");
    assert_eq!(code, 200, "{body}");
    cluster.wait_serving().await;
}

/// A bit of a table of store 0 is flipped, and its group read there. The id of store 0, the group, and the
/// replicas that were there before.
async fn damaged_table(cluster: &mut Cluster, client: &Client) -> (u64, u64, Vec<(u64, u64)>) {
    let before = ids(&replicas(&cluster.store_address(0)));
    // What a stop leaves in the log of the database is in a table after the next start.
    assert!(cluster.store(0).terminate().success());
    start(cluster).await;
    assert!(cluster.store(0).terminate().success());
    damage(&cluster.store_dir(0).join("data"));
    start(cluster).await;
    let (store, group) = lead_and_read(cluster, client).await;
    (store, group, before)
}

/// The group with the marked record is led by store 0, and read there. The store's id and the group.
async fn lead_and_read(cluster: &mut Cluster, client: &Client) -> (u64, u64) {
    let (code, body) = http_get(&cluster.store_address(0), "/status");
    assert_eq!(code, 200, "{body}");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    let store = status["store"].as_u64().expect("a number");
    let region = client.get(key(0)).await.expect("a get").region;
    let all = replicas(&cluster.store_address(0));
    let of_region = all.iter().find(|r| r["region"] == json!(region)).expect("its replica");
    let group = of_region["group"].as_u64().expect("a number");
    let words = ["--timeout", "20s", "admin", "group", "transfer-leader"];
    let (to, of) = (store.to_string(), group.to_string());
    let words = [&words[..], &[&of, "--store", &to]].concat();
    let led = Instant::now() + REBUILT_MAX;
    // It may lead already, or not have caught up.
    while kv(&cluster.placement_address(), &words).code != 0 {
        let leader = |r: &Value| r["group"] == json!(group) && r["role"] == json!("leader");
        if replicas(&cluster.store_address(0)).iter().any(leader) {
            break;
        }
        assert!(Instant::now() < led, "group {group} is not led by store {store}");
    }
    // Whoever else leads it then answers.
    let got = client.get(key(0)).await.expect("a get").value;
    assert_eq!(got, Some(marked().into()));
    (store, group)
}

/// Found while running: the others of the store go on, and it comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_table_is_damaged_is_rebuilt() {
    let mut cluster = Cluster::start(Options { regions: 4, ..Options::default() }).await;
    let client = fill(&cluster).await;
    let (_, _, before) = damaged_table(&mut cluster, &client).await;
    await_rebuilt(&mut cluster, &before).await;
    assert!(cluster.store(0).is_running(), "{}", cluster.store(0).log_tail());
    // The next start rewrites the tables without what is damaged, and misses nothing.
    let note = cluster.store_dir(0).join("data").join("DAMAGED");
    assert!(note.exists());
    let before = ids(&replicas(&cluster.store_address(0)));
    assert!(cluster.store(0).terminate().success());
    start(&mut cluster).await;
    assert!(!note.exists());
    let found = replicas(&cluster.store_address(0));
    let log = cluster.store(0).log_tail();
    assert!(found.iter().all(|replica| replica["damage"].is_null()), "{found:#?}\n{log}");
    assert_eq!(ids(&found), before, "{log}");
    check_without_store_1(&mut cluster, &client).await;
}

/// A sector that cannot be read any more: the same as one whose checksum is wrong, and no reason to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_table_cannot_be_read_is_rebuilt() {
    let mut cluster = Cluster::start(Options { regions: 4, ..Options::default() }).await;
    let disk = FaultyDisk::new(cluster.dir());
    let client = fill(&cluster).await;
    let before = ids(&replicas(&cluster.store_address(0)));
    // What a stop leaves in the log of the database is in a table after the next start.
    assert!(cluster.store(0).terminate().success());
    start(&mut cluster).await;
    assert!(cluster.store(0).terminate().success());
    disk.lose_sector(".sst", MARK);
    start_on(&mut cluster, &disk).await;
    lead_and_read(&mut cluster, &client).await;
    assert!(disk.has_lost_sector(), "nobody has read it");
    await_rebuilt(&mut cluster, &before).await;
    assert!(cluster.store(0).is_running(), "{}", cluster.store(0).log_tail());
    // The next start leaves it out, and misses nothing.
    let note = cluster.store_dir(0).join("data").join("DAMAGED");
    let text = fs::read_to_string(&note).expect("a note");
    assert!(text.contains("Input/output error"), "{text}");
    assert!(cluster.store(0).terminate().success());
    start_on(&mut cluster, &disk).await;
    assert!(!note.exists());
    check_without_store_1(&mut cluster, &client).await;
}

/// The same by order: until then it stays out, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_table_is_damaged_is_rebuilt_by_order() {
    const BY_ORDER: &str = "[raft]\nrebuild_damaged = false\n";
    let options = Options { regions: 4, settings: BY_ORDER, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let client = fill(&cluster).await;
    let (store, group, before) = damaged_table(&mut cluster, &client).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for replica in replicas(&cluster.store_address(0)) {
        let damage = replica["damage"].as_str().unwrap_or_default();
        let expected = replica["group"] == json!(group);
        assert_eq!(damage.contains("checksum"), expected, "{replica}");
        assert_eq!(replica["role"] == json!("quarantined"), expected, "{replica}");
    }
    let (of, at) = (group.to_string(), store.to_string());
    let order = ["--timeout", "30s", "admin", "group", "rebuild", &of, "--store", &at];
    let ordered = kv(&cluster.placement_address(), &order);
    assert_eq!(ordered.code, 0, "{ordered:?}");
    await_rebuilt(&mut cluster, &before).await;
    check_without_store_1(&mut cluster, &client).await;
}
