//! Reads of every kind against real processes, one of which is stopped for a while.

use bytes::Bytes;
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::kv_client::KvClient;
use flotilla_client::pb::request::Consistency;
use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::http_get;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// For what takes a few election timeouts on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(30);
/// Far longer than an election.
const HOUR_MS: u64 = 3_600_000;
const KEY: &[u8] = b"key";

type Store = KvClient<Channel>;

/// One read of [`KEY`] at one store, which is not helped by a client's retries.
async fn read(
    store: &mut Store,
    region: &pb::Region,
    consistency: Consistency,
    staleness_ms_max: u64,
) -> Result<Bytes, Kind> {
    let gets = Some(pb::Gets { keys: vec![Bytes::from_static(KEY)] });
    let request = pb::Request {
        id: 1,
        region: region.region,
        epoch: region.epoch,
        gets,
        consistency: consistency.into(),
        staleness_ms_max,
        ..pb::Request::default()
    };
    let response = store.call(request).await.expect("an answer").into_inner();
    match response.error {
        Some(error) => Err(error.kind()),
        None => Ok(response.records[0].value.clone()),
    }
}

async fn put(store: &mut Store, region: &pb::Region, value: &str) -> Result<(), Kind> {
    let write = pb::Write { key: Bytes::from_static(KEY), value: Some(value.to_owned().into()) };
    let batch = pb::WriteBatch { writes: vec![write] };
    let request = pb::Request {
        id: 1,
        region: region.region,
        epoch: region.epoch,
        writes: prost::Message::encode_to_vec(&batch).into(),
        ..pb::Request::default()
    };
    match store.call(request).await.expect("an answer").into_inner().error {
        Some(error) => Err(error.kind()),
        None => Ok(()),
    }
}

async fn connect(cluster: &Cluster) -> Vec<Store> {
    let mut stores = Vec::new();
    for index in cluster.store_indexes() {
        let address = format!("http://{}", cluster.store_address(index));
        stores.push(KvClient::connect(address).await.expect("a running store"));
    }
    stores
}

/// Puts `value` at whichever of `stores` leads; its place.
async fn put_somewhere(stores: &mut [(usize, Store)], region: &pb::Region, value: &str) -> usize {
    let deadline = Instant::now() + SOON;
    loop {
        for (place, store) in &mut *stores {
            if put(store, region, value).await.is_ok() {
                return *place;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn only_region(cluster: &Cluster) -> pb::Region {
    let routes = cluster.client().await.routes().await.expect("routes");
    routes.regions.into_iter().next().expect("one region")
}

/// Reads until one is answered with a value, which is the right one.
async fn expect(
    store: &mut Store,
    region: &pb::Region,
    (consistency, bound): (Consistency, u64),
    value: &str,
) {
    let deadline = Instant::now() + SOON;
    loop {
        match read(store, region, consistency, bound).await {
            Ok(got) => return assert_eq!(got, value, "{consistency:?}"),
            Err(kind) => assert!(Instant::now() < deadline, "{consistency:?}: {kind:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn reads_by_lease(address: &str) -> u64 {
    let (_, metrics) = http_get(address, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with("flotilla_raft_reads_leased_total"));
    let count = line.and_then(|line| line.split(' ').nth(1)).expect("the metric");
    count.parse().expect("a number")
}

/// Bug 3: a leader stands still for longer than an election, another one writes, the first goes on.
/// Neither what lay in its socket meanwhile nor what comes then sees the old value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_serves_nothing_old() {
    let mut cluster = Cluster::start(Options { regions: 1, ..Options::default() }).await;
    let region = only_region(&cluster).await;
    let mut stores: Vec<_> = connect(&cluster).await.into_iter().enumerate().collect();
    let mut value = "0".to_owned();
    for stop in 1..=3 {
        let leader = put_somewhere(&mut stores, &region, &value).await;
        let index = u16::try_from(leader).expect("few stores");
        let before = reads_by_lease(&cluster.store_address(index));
        expect(&mut stores[leader].1, &region, (Consistency::Lease, 0), &value).await;
        assert!(reads_by_lease(&cluster.store_address(index)) > before, "it had a lease");

        cluster.store(index).pause();
        let mut others: Vec<_> = stores.iter().filter(|(p, _)| *p != leader).cloned().collect();
        let newer = stop.to_string();
        let next = put_somewhere(&mut others, &region, &newer).await;
        assert_ne!(next, leader);
        expect(&mut stores[next].1, &region, (Consistency::Lease, 0), &newer).await;

        let old = stores[leader].1.clone();
        let waiting: Vec<_> = [Consistency::Lease, Consistency::Linearizable]
            .into_iter()
            .cycle()
            .take(20)
            .map(|consistency| {
                let (mut old, region) = (old.clone(), region.clone());
                tokio::spawn(async move { read(&mut old, &region, consistency, 0).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.store(index).resume();

        let mut old = old;
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            for consistency in [Consistency::Lease, Consistency::Linearizable] {
                if let Ok(got) = read(&mut old, &region, consistency, 0).await {
                    assert_eq!(got, newer, "{consistency:?} by the leader of before");
                }
            }
        }
        for read in waiting {
            let got = read.await.expect("no panic");
            assert!(
                got.is_err() || got == Ok(newer.clone().into()),
                "it lay in the socket: {got:?}"
            );
        }
        value = newer;
    }
}

/// Every store serves, and says so when it cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_serve_what_they_can_know() {
    let mut cluster = Cluster::start(Options { regions: 1, ..Options::default() }).await;
    let region = only_region(&cluster).await;
    let mut stores: Vec<_> = connect(&cluster).await.into_iter().enumerate().collect();
    let mut leader = 0;
    for round in 0..20 {
        let value = round.to_string();
        leader = put_somewhere(&mut stores, &region, &value).await;
        for (_, store) in &mut stores {
            expect(store, &region, (Consistency::Follower, 0), &value).await;
        }
    }
    let follower = (leader + 1) % 3;
    expect(&mut stores[follower].1, &region, (Consistency::Stale, HOUR_MS), "19").await;

    for place in (0..3).filter(|place| *place != follower) {
        cluster.store(u16::try_from(place).expect("few stores")).pause();
    }
    // The kernel stops threads one by one, and what they had sent is on its way; after this pause the
    // last answer of a leader is older than the smallest bound.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let alone = &mut stores[follower].1;
    assert_eq!(read(alone, &region, Consistency::Stale, HOUR_MS).await, Ok("19".into()));
    assert_eq!(read(alone, &region, Consistency::Stale, 1).await, Err(Kind::TooOld));
    let refused = read(alone, &region, Consistency::Follower, 0).await.expect_err("no leader");
    assert!(matches!(refused, Kind::Busy | Kind::NotLeader), "{refused:?}");
    for place in (0..3).filter(|place| *place != follower) {
        cluster.store(u16::try_from(place).expect("few stores")).resume();
    }
    expect(&mut stores[follower].1, &region, (Consistency::Follower, 0), "19").await;
}
