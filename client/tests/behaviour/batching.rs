//! What travels together.

use bytes::Bytes;
use flotilla_client::{Client, ClientBuilder};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::server::Fake;

/// Puts and gets with so many in flight; returns the sizes of all frames.
async fn frames(builder: ClientBuilder, count: usize) -> Vec<usize> {
    let fake = Fake::start().await;
    let client = builder.connect(&fake.addresses).await.unwrap();
    let puts: FuturesUnordered<_> =
        (0..count).map(|i| client.put(format!("{}{i}", ["a", "z"][i % 2]), "value")).collect();
    let results: Vec<_> = puts.collect().await;
    assert!(results.iter().all(Result::is_ok));
    let gets: FuturesUnordered<_> =
        (0..count).map(|i| client.get(format!("{}{i}", ["a", "z"][i % 2]))).collect();
    let results: Vec<_> = gets.collect().await;
    assert!(results.into_iter().all(|got| got.unwrap().found()));
    let frames = fake.ask(|world| world.frame_ops.clone());
    assert_eq!(frames.iter().sum::<usize>(), 2 * count);
    frames
}

#[tokio::test]
async fn concurrent_operations_share_frames_up_to_the_limit() {
    let frames = frames(Client::builder(), 1000).await;
    assert!(frames.iter().all(|ops| *ops <= 100), "{frames:?}");
    assert!(frames.len() <= 40, "queued together, sent together: {frames:?}");
}

#[tokio::test]
async fn without_batching_each_operation_has_its_own_message() {
    let frames = frames(Client::builder().batching(false), 300).await;
    assert!(frames.iter().all(|ops| *ops == 1));
}

#[tokio::test]
async fn every_write_of_a_batch_gets_its_own_revision() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let puts: FuturesUnordered<_> = (0..250).map(|i| client.put(format!("a{i}"), "v")).collect();
    let mut revisions: Vec<u64> = puts.map(|written| written.unwrap().revision).collect().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=250).collect::<Vec<u64>>());
}

/// Callers hold thousands of these.
#[tokio::test]
async fn the_future_of_a_put_is_small() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let (key, value) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
    let bytes = size_of_val(&client.put(key, value));
    assert!(bytes <= 768, "{bytes} bytes");
}
