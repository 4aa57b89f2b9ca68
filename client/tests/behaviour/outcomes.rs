//! How calls end: what is retried, what never is, and when time is over.

use std::time::{Duration, Instant};

use flotilla_client::pb::error::Kind;
use flotilla_client::{Client, Error, KEY_BYTES_MAX, Refusal, VALUE_BYTES_MAX};

use crate::server::{Deed, Fake, refusal};

#[tokio::test]
async fn a_write_that_was_cut_off_is_unknown_and_never_sent_again() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    for deed in [Deed::Cut, Deed::ApplyAndCut] {
        fake.set(|world| world.writes_seen.clear());
        fake.script(1, [deed]);
        let error = client.put("a", "1").await.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error}");
        assert_eq!(error.applied(), None);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(fake.writes_of("a"), 1);
    }
    assert!(client.get("a").await.unwrap().found(), "the second one was applied");
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_at_its_deadline() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.always(1, Deed::Silence);
    let quick = client.with_timeout(Duration::from_millis(200));
    let started = Instant::now();
    assert!(matches!(quick.put("a", "1").await, Err(Error::Unknown { .. })));
    assert!(matches!(quick.delete("a").await, Err(Error::Unknown { .. })));
    let spent = started.elapsed();
    assert!(spent >= Duration::from_millis(400) && spent < Duration::from_secs(4), "{spent:?}");
    assert_eq!(fake.writes_of("a"), 2);
}

#[tokio::test]
async fn a_read_without_an_answer_is_unavailable_at_its_deadline() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    for store in 1..=3 {
        fake.always(store, Deed::Silence);
    }
    let quick = client.with_timeout(Duration::from_millis(200));
    let error = quick.get("a").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(error.applied(), Some(false));
}

#[tokio::test]
async fn a_server_that_does_not_know_is_believed() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    fake.script(1, [Deed::Refuse(refusal(Kind::Unknown))]);
    assert!(matches!(client.put("a", "1").await, Err(Error::Unknown { .. })));
    assert_eq!(fake.writes_of("a"), 1);
    fake.script(1, [Deed::Refuse(refusal(Kind::Unknown))]);
    assert!(client.get("a").await.is_ok(), "reads ask again");
}

#[tokio::test]
async fn refusals_are_retried_until_they_end() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    for kind in [Kind::Busy, Kind::DiskFull, Kind::Closed, Kind::NotLeader, Kind::EpochNotMatch] {
        fake.script(1, [Deed::Refuse(refusal(kind)), Deed::Refuse(refusal(kind))]);
        client.put("a", "1").await.unwrap();
    }
}

#[tokio::test]
async fn refusals_that_do_not_end_are_not_applied() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let quick = client.with_timeout(Duration::from_millis(250));
    for (kind, expected) in [
        (Kind::Busy, Refusal::Busy),
        (Kind::DiskFull, Refusal::DiskFull),
        (Kind::NotLeader, Refusal::NotLeader),
        (Kind::EpochNotMatch, Refusal::EpochNotMatch),
    ] {
        for store in 1..=3 {
            fake.always(store, Deed::Refuse(refusal(kind)));
        }
        let mut outcome = quick.put("a", "1").await;
        // On a busy machine the time may be over while a request is on its way.
        for _ in 0..10 {
            if matches!(outcome, Err(Error::NotApplied { .. })) {
                break;
            }
            outcome = quick.put("a", "1").await;
        }
        match outcome {
            Err(Error::NotApplied { kind, message }) => {
                assert_eq!(kind, expected);
                assert!(message.contains("as told"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(fake.ask(|world| world.records.is_empty()));
}

#[tokio::test]
async fn limits_are_checked_before_anything_is_sent() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let invalid = |result| matches!(result, Err(Error::Invalid { .. }));
    assert!(invalid(client.put("", "1").await));
    assert!(invalid(client.put(vec![b'k'; KEY_BYTES_MAX + 1], "1").await));
    assert!(invalid(client.put("a", vec![b'v'; VALUE_BYTES_MAX + 1]).await));
    assert!(invalid(client.delete("").await));
    assert!(matches!(client.get("").await, Err(Error::Invalid { .. })));
    assert_eq!(fake.ask(|world| world.requests_seen), 0);
    client.put(vec![b'k'; KEY_BYTES_MAX], vec![b'v'; VALUE_BYTES_MAX]).await.unwrap();
}

#[tokio::test]
async fn more_than_the_limit_in_flight_is_busy() {
    let fake = Fake::start().await;
    let client = Client::builder().in_flight_max(2).connect(&fake.addresses).await.unwrap();
    // Both puts travel in one request.
    fake.script(1, [Deed::Silence]);
    let quick = client.with_timeout(Duration::from_millis(300));
    let third = async {
        tokio::task::yield_now().await;
        client.put("c", "1").await
    };
    let (_, _, third) = tokio::join!(quick.put("a", "1"), quick.put("b", "1"), third);
    assert!(matches!(third, Err(Error::NotApplied { kind: Refusal::Busy, .. })), "{third:?}");
    client.put("d", "1").await.unwrap();
}
