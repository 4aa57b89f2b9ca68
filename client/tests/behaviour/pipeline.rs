//! Many operations of one caller: the same promises as one call at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::pb::error::Kind;
use flotilla_client::{Client, Done, Ended, Error, Pipeline, Refusal, Rpc};

use crate::server::{Deed, Fake, refusal};

/// Waits until nothing is in flight; results by tag, each tag once.
async fn all(pipeline: &mut Pipeline) -> BTreeMap<u64, Result<Done, Error>> {
    let mut ended = Vec::new();
    while pipeline.in_flight() > 0 {
        pipeline.wait(&mut ended).await;
    }
    let count = ended.len();
    let results: BTreeMap<_, _> =
        ended.into_iter().map(|Ended { tag, result }| (tag, result)).collect();
    assert_eq!(results.len(), count, "no tag twice");
    results
}

#[tokio::test]
async fn every_operation_ends_once_with_its_own_result() {
    let fake = Fake::start().await;
    for rpc in [Rpc::Stream, Rpc::Unary] {
        let client = Client::builder().rpc(rpc).connect(&fake.addresses).await.unwrap();
        let mut pipeline = client.pipeline();
        for i in 0..300 {
            pipeline.put(i, format!("{}{i}", ["a", "z"][i as usize % 2]), format!("{i}"));
        }
        let results = all(&mut pipeline).await;
        assert_eq!(results.len(), 300);
        assert!(results.values().all(|result| matches!(result, Ok(Done::Written(_)))));
        for i in 0..300 {
            pipeline.get(i, format!("{}{i}", ["a", "z"][i as usize % 2]));
        }
        for (tag, result) in all(&mut pipeline).await {
            let Ok(Done::Got(got)) = result else { panic!("{tag}: {result:?}") };
            assert_eq!(got.value.unwrap(), format!("{tag}"));
        }
        pipeline.delete(1, "a0");
        assert!(all(&mut pipeline).await[&1].is_ok());
        assert!(!client.get("a0").await.unwrap().found());
    }
}

#[tokio::test]
async fn operations_that_were_submitted_together_share_frames() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let mut pipeline = client.pipeline();
    (0..100).for_each(|i| pipeline.put(i, format!("a{i}"), "v"));
    all(&mut pipeline).await;
    assert_eq!(fake.ask(|world| world.frame_ops.clone()), [100]);
}

#[tokio::test]
async fn a_refused_operation_is_tried_again_and_a_lost_write_is_not() {
    let fake = Fake::start().await;
    let client = Client::connect(&fake.addresses).await.unwrap();
    let mut pipeline = client.pipeline();
    fake.script(1, [Deed::Refuse(refusal(Kind::Busy))]);
    pipeline.put(1, "a", "1");
    assert!(all(&mut pipeline).await[&1].is_ok());

    fake.set(|world| world.writes_seen.clear());
    fake.script(1, [Deed::Cut]);
    pipeline.put(2, "a", "2");
    let results = all(&mut pipeline).await;
    assert!(matches!(results[&2], Err(Error::Unknown { .. })), "{results:?}");
    assert_eq!(fake.writes_of("a"), 1);

    fake.script(1, [Deed::Cut]);
    pipeline.get(3, "a");
    assert!(all(&mut pipeline).await[&3].is_ok(), "reads are asked again");
}

#[tokio::test]
async fn deadlines_and_limits_hold_for_each_operation() {
    let fake = Fake::start().await;
    let client = Client::builder().in_flight_max(2).connect(&fake.addresses).await.unwrap();
    fake.always(1, Deed::Silence);
    let mut pipeline = client.with_timeout(Duration::from_millis(200)).pipeline();
    pipeline.put(1, "a", "1");
    pipeline.put(2, "", "an empty key");
    pipeline.put(3, "z", "one too many");
    let results = all(&mut pipeline).await;
    assert!(matches!(results[&1], Err(Error::Unknown { .. })), "{results:?}");
    assert!(matches!(results[&2], Err(Error::Invalid { .. })), "{results:?}");
    assert!(
        matches!(results[&3], Err(Error::NotApplied { kind: Refusal::Busy, .. })),
        "{results:?}"
    );
    pipeline.put(4, "z", "there is room again");
    pipeline.put(5, "z", "there is room again");
    assert!(all(&mut pipeline).await.values().all(Result::is_ok));
    drop(pipeline);
    assert!(client.put("z", "a dropped pipeline holds nothing").await.is_ok());
}
