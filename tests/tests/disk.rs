//! A disk that fails under a running store.

use flotilla_client::Client;
use flotilla_tests::cluster::{Cluster, Options};
use std::time::Duration;

/// Files of a store may grow to this size, then writes fail.
const FILE_KIB_MAX: u64 = 4 * 1_024;
const VALUE_BYTES: usize = 100_000;
const END_MAX: Duration = Duration::from_secs(30);
/// In the last line of a store whose disk failed.
const LAST_WORDS: [&str; 3] = ["fatal", "the store stops", "check the device"];

/// Puts until store 0 has ended; which keys were acknowledged.
async fn put_until_it_ends(cluster: &mut Cluster, client: &Client, words: &[&str]) -> Vec<Vec<u8>> {
    let mut acknowledged = Vec::new();
    for number in 0..200u32 {
        let key = number.to_be_bytes().repeat(2);
        if client.put(key.clone(), vec![b'v'; VALUE_BYTES]).await.is_ok() {
            acknowledged.push(key);
        }
        if !cluster.store(0).is_running() {
            break;
        }
    }
    let status = cluster.store(0).wait_end(END_MAX);
    assert_eq!(status.code(), Some(1), "a failed disk is no clean end: {status}");
    let log = cluster.store(0).log_tail();
    let last = log.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no '{word}' in the last line: {last}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(acknowledged.len() > 10, "only {} writes were acknowledged", acknowledged.len());
    acknowledged
}

/// Nothing that was acknowledged depends on what failed.
async fn restart_and_check(cluster: &mut Cluster, client: &Client, acknowledged: Vec<Vec<u8>>) {
    cluster.store(0).start();
    cluster.wait_serving().await;
    for key in acknowledged {
        let got = client.get(key).await.expect("a get");
        assert_eq!(got.value.map(|value| value.len()), Some(VALUE_BYTES));
    }
}

/// The first log write that fails ends the process: it is not tried again, nothing is
/// acknowledged on the strength of it, and the last line says why.
async fn a_store_that_cannot_write_its_log_ends(log_engine: &'static str) {
    let options = Options { regions: 2, log_engine, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    assert!(cluster.store(0).terminate().success());
    cluster.store(0).start_with_file_limit(FILE_KIB_MAX);
    cluster.wait_serving().await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(20));
    let acknowledged = put_until_it_ends(&mut cluster, &client, &LAST_WORDS).await;
    restart_and_check(&mut cluster, &client, acknowledged).await;
}

/// The first checkpoint that fails ends the process, too: the log would never be cut again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_make_a_checkpoint_ends_with_a_clear_line() {
    let mut cluster = Cluster::start(Options { regions: 2, ..Options::default() }).await;
    // In the place of the next checkpoint's file.
    let blocked = cluster.store_dir(0).join("data").join("next.checkpoint");
    std::fs::create_dir(&blocked).expect("a folder");
    let client = cluster.client().await.with_timeout(Duration::from_secs(20));
    let words = [&LAST_WORDS[..], &["write the checkpoint", "next.checkpoint"]].concat();
    let acknowledged = put_until_it_ends(&mut cluster, &client, &words).await;
    std::fs::remove_dir(&blocked).expect("the folder is there");
    restart_and_check(&mut cluster, &client, acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_write_its_log_in_rocksdb_ends_with_a_clear_line() {
    a_store_that_cannot_write_its_log_ends("rocksdb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_write_its_log_in_raft_engine_ends_with_a_clear_line() {
    a_store_that_cannot_write_its_log_ends("raft-engine").await;
}
