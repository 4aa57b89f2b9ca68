//! Stores that are stopped one after the other, as for an upgrade.

use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::load::Load;
use std::time::Duration;

/// For what takes a few election timeouts on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(30);

/// Under load: each store stops with nothing left to lead, so no group waits for an election.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_stop_moves_every_leader_away_first() {
    let mut cluster = Cluster::start(Options::default()).await;
    let client = cluster.client().await;
    let load = Load::start(&client);
    load.wait_written(200, SOON).await;
    for index in cluster.store_indexes() {
        let status = cluster.store(index).terminate();
        assert!(status.success(), "store {index} ends with {status}");
        let tail = cluster.store(index).log_tail();
        let handed = tail.lines().find(|line| line.contains("leaderships handed over"));
        let handed = handed.unwrap_or_else(|| panic!("nothing handed over: {tail}"));
        assert!(handed.contains("left=0"), "{handed}");
        load.rotate_keys();
        load.wait_written(200, SOON).await;
        cluster.start_store(index);
        cluster.wait_serving().await;
    }
    let summary = load.stop_and_check(&client).await;
    println!("{summary:?}");
}
