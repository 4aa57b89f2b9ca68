//! kill -9 of real processes under load: nothing acknowledged is lost, no read is stale.

use flotilla_client::Error;
use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::load::Load;
use std::time::Duration;
use tokio::sync::Mutex;

/// One cluster at a time: two cores are few.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Writes must go on within this time after a fault. Elections take one to three seconds; the
/// rest is for machines that are busy with other things.
const RESUME_MAX: Duration = Duration::from_secs(20);

async fn stores_die_under_load(storage: &'static str, log_engine: &'static str) {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(Options { storage, log_engine, ..Options::default() }).await;
    let client = cluster.client().await;
    let load = Load::start(&client);
    load.wait_written(200, RESUME_MAX).await;
    for index in cluster.store_indexes() {
        load.rotate_keys();
        load.wait_written(100, RESUME_MAX).await;
        cluster.kill_store(index);
        let resumed = load.wait_written(300, RESUME_MAX).await;
        cluster.start_store(index);
        cluster.wait_serving().await;
        println!("{storage}: store {index} killed: 300 writes after {resumed:?}");
    }
    load.rotate_keys();
    load.wait_written(100, RESUME_MAX).await;
    for index in cluster.store_indexes() {
        cluster.kill_store(index);
    }
    for index in cluster.store_indexes() {
        cluster.start_store(index);
    }
    let resumed = load.wait_written(300, RESUME_MAX).await;
    println!("{storage}: all killed: 300 writes after {resumed:?}");
    cluster.wait_serving().await;
    // Kills that met no write under way show little: more of them until one did.
    let mut more = 0;
    while load.unknown() == 0 {
        more += 1;
        assert!(more <= 30, "no write was under way when a store died, in {more} kills");
        cluster.kill_store(more % 3);
        load.wait_written(100, RESUME_MAX).await;
        cluster.start_store(more % 3);
        cluster.wait_serving().await;
    }
    let summary = load.stop_and_check(&client).await;
    println!("{storage}: {summary:?}");
    for index in cluster.store_indexes() {
        let status = cluster.store(index).terminate();
        assert!(status.success(), "store {index} ends with {status} on SIGTERM");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_on_rocksdb_die_one_by_one_and_together() {
    stores_die_under_load("rocksdb", "raft-engine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_with_their_log_in_rocksdb_die_one_by_one_and_together() {
    stores_die_under_load("memory", "rocksdb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_in_memory_die_one_by_one_and_together() {
    stores_die_under_load("memory", "raft-engine").await;
}

/// A store of three that is dead for good must not hold anything up; placement neither: new
/// clients start with nothing but the address of a store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_serve_old_and_new_clients_without_placement() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(Options::default()).await;
    let old = cluster.client().await;
    old.put("before", "1").await.expect("a put");
    cluster.placement().kill();
    cluster.kill_store(0);
    let old = old.with_timeout(RESUME_MAX);
    let written = match old.put("after", "2").await {
        // It may have left for the store that has just died: then nobody knows, but the next does.
        Err(Error::Unknown { .. }) => old.put("after", "2").await,
        known => known,
    };
    written.expect("a put without placement");
    let new = flotilla_client::Client::builder()
        .timeout(RESUME_MAX)
        .connect(&[cluster.store_address(1), cluster.store_address(2)])
        .await
        .expect("a client without placement");
    assert_eq!(new.get("before").await.expect("a get").value.as_deref(), Some(&b"1"[..]));
    assert_eq!(new.get("after").await.expect("a get").value.as_deref(), Some(&b"2"[..]));
    cluster.start_store(0);
    cluster.placement().start();
    cluster.wait_serving().await;
}
