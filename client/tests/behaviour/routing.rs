//! Who is asked: ranges, hints, dead and deaf stores, splits.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_client::pb::error::Kind;
use flotilla_client::{Client, Error, Rpc};

use crate::server::{CLUSTER, Deed, Fake, dead_address, refusal, region};

#[tokio::test]
async fn records_go_to_their_regions_and_come_back() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let written = client.put("a", "1").await.unwrap();
    assert_eq!((written.region, written.revision), (1, 1));
    assert_eq!(client.put("z", "2").await.unwrap().region, 2);
    assert_eq!(client.put("b", "").await.unwrap().revision, 2);
    let got = client.get("a").await.unwrap();
    assert_eq!(got.value.as_deref(), Some(&b"1"[..]));
    assert_eq!((got.mod_revision, got.region, got.revision), (1, 1, 2));
    assert_eq!(client.get("b").await.unwrap().value.as_deref(), Some(&b""[..]));
    assert!(!client.get("absent").await.unwrap().found());
    assert_eq!(client.delete("a").await.unwrap().revision, 3);
    assert!(!client.get("a").await.unwrap().found());
    assert_eq!(fake.ask(|world| world.cluster_header.clone()).as_deref(), Some(CLUSTER));
}

#[tokio::test]
async fn unary_calls_do_the_same() {
    let fake = Fake::start().await;
    let client = Client::builder().rpc(Rpc::Unary).connect(&fake.addresses).await.unwrap();
    client.put("a", "1").await.unwrap();
    client.put("z", "2").await.unwrap();
    assert_eq!(client.get("z").await.unwrap().value.as_deref(), Some(&b"2"[..]));
    assert_eq!(client.scan("", "", 0).await.unwrap().len(), 2);
    assert!(fake.ask(|world| world.frame_ops.is_empty()));
    fake.always(1, Deed::Cut);
    assert!(matches!(client.put("a", "2").await, Err(Error::Unknown { .. })));
    assert_eq!(fake.writes_of("a"), 2);
}

#[tokio::test]
async fn scans_walk_through_pages_and_regions() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let keys: Vec<String> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
    for key in &keys {
        client.put(key.clone(), "v").await.unwrap();
    }
    fake.set(|world| world.scan_page = 5);
    let scan = async |start: &'static str, end: &'static str, limit| -> Vec<String> {
        let records = client.scan(start, end, limit).await.unwrap();
        records.iter().map(|record| String::from_utf8(record.key.to_vec()).unwrap()).collect()
    };
    assert_eq!(scan("", "", 0).await, keys);
    assert_eq!(scan("c", "o", 0).await, keys[2..14]);
    assert_eq!(scan("c", "", 13).await, keys[2..15]);
    assert_eq!(scan("k", "m", 0).await, keys[10..12]);
    assert!(scan("x", "c", 0).await.is_empty());
    assert!(scan("c", "c", 0).await.is_empty());
    let mut scanner = client.scanner("l", "n");
    let mut regions = Vec::new();
    while let Some(page) = scanner.page().await.unwrap() {
        regions.push((page.region, page.records.len()));
    }
    assert_eq!(regions, [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn a_hint_is_followed_at_once() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.lead(1, 3);
    client.put("a", "1").await.unwrap();
    assert_eq!(fake.ask(|world| world.requests_seen), 2, "one refusal, one success");
    client.put("b", "1").await.unwrap();
    assert_eq!(fake.ask(|world| world.requests_seen), 3, "the leader is remembered");
}

#[tokio::test]
async fn without_hints_the_leader_is_found_among_the_replicas() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.set(|world| world.hints = false);
    for leader in [3, 2, 1] {
        fake.lead(1, leader);
        client.put("a", "1").await.unwrap();
    }
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.lead(1, 0);
    let put = tokio::spawn(async move { client.put("a", "1").await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!put.is_finished());
    fake.lead(1, 2);
    put.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_dead_leader_is_left_for_the_new_one() {
    let mut fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    client.put("a", "1").await.unwrap();
    fake.kill(1).await;
    fake.lead(1, 3);
    // The routes still name the dead store, as servers do for a while.
    let started = Instant::now();
    let mut outcome = client.put("a", "2").await;
    if matches!(outcome, Err(Error::Unknown { .. })) {
        // The put may have met the dying connection; that is for the caller to know.
        outcome = client.put("a", "2").await;
    }
    outcome.unwrap();
    assert_eq!(client.get("a").await.unwrap().value.as_deref(), Some(&b"2"[..]));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn reads_leave_a_store_that_does_not_answer() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    client.put("a", "1").await.unwrap();
    fake.always(1, Deed::Silence);
    let get = client.get("a");
    let moved = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fake.lead(1, 2);
    };
    let (got, ()) = tokio::join!(get, moved);
    assert_eq!(got.unwrap().value.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn reads_survive_a_cut_stream() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    client.put("a", "1").await.unwrap();
    fake.script(1, [Deed::Cut, Deed::Cut]);
    assert!(client.get("a").await.unwrap().found());
    fake.script(1, [Deed::Cut]);
    assert_eq!(client.scan("a", "b", 0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_split_is_learned_from_the_refusal() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.set(|world| {
        let mut left = region(1, "", "g", 1);
        let mut right = region(7, "g", "m", 3);
        for half in [&mut left, &mut right] {
            half.epoch.as_mut().unwrap().version = 2;
        }
        let last = world.regions.pop().unwrap();
        world.regions = vec![left, right, last];
        world.leaders.insert(7, 3);
    });
    assert_eq!(client.put("h", "1").await.unwrap().region, 7);
    assert_eq!(client.put("a", "1").await.unwrap().region, 1);
    assert_eq!(fake.ask(|world| world.requests_seen), 3);
}

#[tokio::test]
async fn one_reachable_address_is_enough() {
    let fake = Fake::start().await;
    let dead = dead_address().await.to_string();
    let both = format!("{dead}, {}", fake.addresses[1]);
    let client = Client::connect(&[both]).await.unwrap();
    client.put("a", "1").await.unwrap();
    let routes = client.routes().await.unwrap();
    assert_eq!((routes.regions.len(), routes.stores.len()), (2, 3));
}

#[tokio::test]
async fn a_server_of_another_cluster_is_not_believed() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.set(|world| world.cluster = "f".repeat(32));
    let client = client.with_timeout(Duration::from_millis(500));
    let error = client.routes().await.unwrap_err();
    assert!(error.message().contains("belongs to cluster ffff"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_within_the_timeout() {
    let dead = dead_address().await.to_string();
    let started = Instant::now();
    let builder = Client::builder().timeout(Duration::from_millis(400));
    let error = builder.connect(&[&dead]).await.err().unwrap();
    assert!(matches!(&error, Error::Unavailable { message } if message.contains(&dead)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
    assert!(matches!(Client::connect(&[""]).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn keys_beyond_the_known_regions_are_unavailable() {
    let fake = Fake::start().await;
    fake.set(|world| world.regions.truncate(1));
    let client = Client::connect(&fake.addresses).await.unwrap();
    let client = client.with_timeout(Duration::from_millis(300));
    assert!(matches!(client.put("z", "1").await, Err(Error::Unavailable { .. })));
    fake.set(|world| world.regions.push(region(2, "m", "", 2)));
    assert!(client.put("z", Bytes::new()).await.is_ok());
    fake.always(2, Deed::Refuse(refusal(Kind::Invalid)));
    assert!(matches!(client.put("z", "1").await, Err(Error::Invalid { .. })));
}
