//! A disk that fails under a running store.

use flotilla_tests::cluster::{Cluster, Options};
use std::time::Duration;

/// Files of a store may grow to this size, then writes fail.
const FILE_KIB_MAX: u64 = 4 * 1_024;
const VALUE_BYTES: usize = 100_000;
const END_MAX: Duration = Duration::from_secs(30);

/// The first log write that fails ends the process: it is not tried again, nothing is
/// acknowledged on the strength of it, and the last line says why.
async fn a_store_that_cannot_write_its_log_ends(log_engine: &'static str) {
    let options = Options { regions: 2, log_engine, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    assert!(cluster.store(0).terminate().success());
    cluster.store(0).start_with_file_limit(FILE_KIB_MAX);
    cluster.wait_serving().await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(20));
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
    assert!(!status.success(), "a failed disk is no clean end: {status}");
    let log = cluster.store(0).log_tail();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("fatal") && last.contains("check the device"),
        "unclear last line: {last}"
    );
    assert!(!log.contains("panicked"), "{log}");

    cluster.store(0).start();
    cluster.wait_serving().await;
    assert!(acknowledged.len() > 10, "only {} writes were acknowledged", acknowledged.len());
    for key in acknowledged {
        let got = client.get(key).await.expect("a get");
        assert_eq!(got.value.map(|value| value.len()), Some(VALUE_BYTES));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_write_its_log_in_rocksdb_ends_with_a_clear_line() {
    a_store_that_cannot_write_its_log_ends("rocksdb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_write_its_log_in_raft_engine_ends_with_a_clear_line() {
    a_store_that_cannot_write_its_log_ends("raft-engine").await;
}
