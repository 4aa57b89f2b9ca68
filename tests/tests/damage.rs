//! A disk that damages what a replica had written: the store's other replicas go on, and the damaged
//! one is rebuilt by the group without help.

use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::http_get;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const MARK: &[u8] = b"the disk is going to change a bit of this value";
const KEYS: u8 = 200;
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

async fn a_damaged_replica_is_rebuilt(log_engine: &'static str) {
    let options = Options { regions: 4, log_engine, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(30));
    client.put(key(0), MARK.to_vec()).await.expect("a put");
    for number in 1..KEYS {
        client.put(key(number), vec![number; 10]).await.expect("a put");
    }
    let address = cluster.store_address(0);
    let before = ids(&replicas(&address));
    cluster.kill_store(0);
    let log = fs::read_dir(cluster.store_dir(0)).expect("a folder").flatten();
    let log = log.map(|entry| entry.path()).find(|path| path.ends_with("log")).expect("the log");
    damage(&log.join("files"));
    cluster.start_store(0);

    let deadline = Instant::now() + REBUILT_MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = replicas(&address);
        let sound = |r: &Value| r["damage"].is_null() && r["applied"].as_u64() > Some(0);
        let votes = |r: &Value| {
            let members = r["members"]["replicas"].as_array().expect("members");
            members.len() == 3 && members.iter().all(|member| member["role"] == "voter")
        };
        if found.len() == 4 && found.iter().all(|r| sound(r) && votes(r)) {
            let new = ids(&found).into_iter().filter(|id| !before.contains(id)).count();
            let log = cluster.store(0).log_tail();
            assert_eq!(new, 1, "only the damaged one was rebuilt: {log}");
            break;
        }
        let log = cluster.store(0).log_tail();
        assert!(Instant::now() < deadline, "{found:#?}\n{log}");
    }

    // The new replica counts: with it two of three are there.
    cluster.kill_store(1);
    let got = client.get(key(0)).await.expect("a get").value;
    assert_eq!(got.as_deref(), Some(MARK));
    for number in 1..KEYS {
        let got = client.get(key(number)).await.expect("a get").value;
        assert_eq!(got.as_deref(), Some(&vec![number; 10][..]));
    }
    client.put(key(0), b"new".to_vec()).await.expect("a put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_log_in_raft_engine_is_damaged_is_rebuilt() {
    a_damaged_replica_is_rebuilt("raft-engine").await;
}
