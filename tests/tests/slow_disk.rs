//! A store whose disk becomes slow under load: what it leads goes elsewhere by itself, the groups go on, and
//! leaders come back when the disk is fast again. Nothing is timed here.

use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::faulty_disk::FaultyDisk;
use flotilla_tests::load::Load;
use flotilla_tests::playground::http_get;
use serde_json::Value;
use std::time::{Duration, Instant};

/// What is slow is far from what a busy machine makes of a sync, and from the election timeout.
const SETTINGS: &str = "[raft]\nslow_sync_ms = 250\nslow_sync_s = 3\n";
const DELAY: Duration = Duration::from_millis(600);
const SOON: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// Leaders of store 0, and whether it takes its disk for slow.
fn seen(cluster: &Cluster) -> (u64, bool) {
    let (code, body) = http_get(&cluster.store_address(0), "/status");
    assert_eq!(code, 200, "{body}");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    let leaders = status["leaders"].as_u64().expect("a number");
    (leaders, status["queues"]["disk_slow"].as_bool().expect("a flag"))
}

async fn wait_until(what: &str, cluster: &mut Cluster, wanted: impl Fn((u64, bool)) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = seen(cluster);
        if wanted(now) {
            return;
        }
        let log = cluster.log_tails();
        assert!(Instant::now() < deadline, "{what} takes longer than {SOON:?}: {now:?}\n{log}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_leave_a_disk_that_becomes_slow_and_come_back() {
    let mut cluster = Cluster::start(Options { settings: SETTINGS, ..Options::default() }).await;
    let disk = FaultyDisk::new(cluster.dir());
    assert!(cluster.store(0).terminate().success());
    cluster.store(0).start_on(&disk);
    cluster.wait_serving().await;
    wait_until("leading", &mut cluster, |(leaders, slow)| leaders > 0 && !slow).await;

    let client = cluster.client().await;
    let load = Load::start(&client);
    load.wait_written(200, SOON).await;
    disk.be_slow(DELAY);
    wait_until("leaving", &mut cluster, |(leaders, slow)| leaders == 0 && slow).await;
    // The others go on, and nothing is moved back.
    load.rotate_keys();
    load.wait_written(500, SOON).await;
    assert_eq!(seen(&cluster), (0, true));

    disk.be_fast();
    load.rotate_keys();
    wait_until("coming back", &mut cluster, |(leaders, slow)| leaders > 0 && !slow).await;
    load.wait_written(200, SOON).await;
    let summary = load.stop_and_check(&client).await;
    println!("{summary:?}");
}
