use prost::Message;
use tokio::sync::oneshot;

use super::*;
use crate::operation::{Caller, Outcome};

fn job(operation: Operation, region: u64) -> (Job, oneshot::Receiver<Outcome>) {
    let (answer, outcome) = oneshot::channel();
    let expires = Instant::now() + std::time::Duration::from_secs(5);
    let epoch = pb::Epoch { version: 1, members: 1 };
    (Job { operation, region, epoch, expires, caller: Caller::Call(answer) }, outcome)
}

fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Put { key: Bytes::from(key), value: Bytes::from(value) }
}

fn get(key: &'static str) -> Operation {
    Operation::Get { key: Bytes::from(key), consistency: Consistency::default() }
}

/// Queues the operations and keeps the receivers.
fn queue(
    operations: impl IntoIterator<Item = (Operation, u64)>,
) -> (VecDeque<Job>, Vec<oneshot::Receiver<Outcome>>) {
    operations.into_iter().map(|(operation, region)| job(operation, region)).unzip()
}

#[test]
fn writes_and_gets_of_a_region_share_a_request_each() {
    let (mut jobs, _outcomes) = queue([
        (put("a", "1"), 1),
        (get("b"), 1),
        (put("m", "2"), 2),
        (Operation::Delete { key: Bytes::from("c") }, 1),
        (get("d"), 1),
        (put("e", ""), 1),
    ]);
    let mut pending = Pending::new(100);
    let frame = pending.pack(&mut jobs).unwrap();
    assert!(jobs.is_empty());
    assert_eq!(frame.requests.len(), 3);
    let batch = pb::WriteBatch::decode(frame.requests[0].writes.clone()).unwrap();
    let write = |key: &'static str, value: Option<&'static str>| pb::Write {
        key: Bytes::from(key),
        value: value.map(Bytes::from),
    };
    let expected = vec![write("a", Some("1")), write("c", None), write("e", Some(""))];
    assert_eq!(batch.writes, expected);
    assert_eq!(batch.encode_to_vec(), frame.requests[0].writes, "the same bytes as prost's");
    let gets = frame.requests[1].gets.as_ref().unwrap();
    assert_eq!(gets.keys, vec![Bytes::from("b"), Bytes::from("d")]);
    assert_eq!((frame.requests[2].region, frame.requests[0].region), (2, 1));
}

#[test]
fn few_operations_wait_for_company_only_while_more_are_in_flight() {
    let mut pending = Pending::new(100);
    assert!(!pending.awaits_company(1), "nothing is in flight");
    let (mut jobs, mut outcomes) = queue((0..40).map(|i| (put("k", "v"), 1 + i % 2)));
    let frame = pending.pack(&mut jobs).unwrap();
    assert!(pending.awaits_company(19) && !pending.awaits_company(20));
    let (mut jobs, _more) = queue((0..90).map(|_| (put("k", "v"), 3)));
    pending.pack(&mut jobs).unwrap();
    assert!(pending.awaits_company(64) && !pending.awaits_company(65), "130 are in flight");
    assert!(!pending.awaits_company(100), "a full frame goes at once");

    // Answered, given up and lost ones are in flight no longer.
    let id = frame.requests[0].id;
    pending.answer(pb::Response { id, revision: 20, ..Default::default() });
    assert!(pending.awaits_company(54) && !pending.awaits_company(55));
    outcomes.clear();
    pending.expire(Instant::now() + std::time::Duration::from_secs(9));
    assert!(pending.is_empty() && !pending.awaits_company(1));
    let (mut jobs, _last) = queue([(put("k", "v"), 1), (put("k", "v"), 1), (put("k", "v"), 1)]);
    pending.pack(&mut jobs).unwrap();
    assert!(pending.awaits_company(1));
    pending.lose_all(&"the stream broke".into());
    assert!(!pending.awaits_company(1));
}

#[test]
fn a_frame_holds_at_most_the_allowed_operations() {
    let (mut jobs, _outcomes) = queue((0..250).map(|i| (put("k", "v"), 1 + i % 3)));
    let mut pending = Pending::new(100);
    let count = |frame: pb::RequestFrame| -> usize {
        let writes = |request: &pb::Request| pb::WriteBatch::decode(request.writes.clone());
        frame.requests.iter().map(|request| writes(request).unwrap().writes.len()).sum()
    };
    assert_eq!(count(pending.pack(&mut jobs).unwrap()), 100);
    assert_eq!(count(pending.pack(&mut jobs).unwrap()), 100);
    assert_eq!(count(pending.pack(&mut jobs).unwrap()), 50);
    assert!(pending.pack(&mut jobs).is_none());
}

#[test]
fn a_frame_is_closed_at_one_mebibyte_but_takes_one_large_value() {
    let large = Bytes::from(vec![7; 1 << 20]);
    let operation = || Operation::Put { key: Bytes::from("k"), value: large.clone() };
    let (mut jobs, _outcomes) = queue([(put("a", "b"), 1), (operation(), 1), (operation(), 1)]);
    let mut pending = Pending::new(100);
    pending.pack(&mut jobs).unwrap();
    assert_eq!(jobs.len(), 2);
    pending.pack(&mut jobs).unwrap();
    assert_eq!(jobs.len(), 1);
}

#[tokio::test]
async fn each_write_of_a_batch_gets_its_own_revision() {
    let (mut jobs, outcomes) = queue([(put("a", "1"), 7), (put("b", "2"), 7), (put("c", "3"), 7)]);
    let mut pending = Pending::new(100);
    let id = pending.pack(&mut jobs).unwrap().requests[0].id;
    pending.answer(pb::Response { id, revision: 42, ..Default::default() });
    let mut revisions = Vec::new();
    for outcome in outcomes {
        match outcome.await.unwrap() {
            Outcome::Done(Answer::Written { region: 7, revision }) => revisions.push(revision),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(revisions, [40, 41, 42]);
    assert!(pending.is_empty());
}

#[tokio::test]
async fn too_few_records_lose_the_gets_instead_of_mixing_them_up() {
    let (mut jobs, outcomes) = queue([(get("a"), 1), (get("b"), 1)]);
    let mut pending = Pending::new(100);
    let id = pending.pack(&mut jobs).unwrap().requests[0].id;
    let records = vec![pb::Record::default()];
    pending.answer(pb::Response { id, records, ..Default::default() });
    for outcome in outcomes {
        assert!(matches!(outcome.await.unwrap(), Outcome::Lost(..)));
    }
}

#[tokio::test]
async fn a_full_answer_sends_the_other_gets_back_for_another_try() {
    let (mut jobs, mut outcomes) = queue([(get("a"), 1), (get("b"), 1)]);
    let mut pending = Pending::new(100);
    let id = pending.pack(&mut jobs).unwrap().requests[0].id;
    let records = vec![pb::Record::default()];
    pending.answer(pb::Response { id, records, more: true, ..Default::default() });
    let second = outcomes.pop().unwrap().await.unwrap();
    assert!(matches!(second, Outcome::Refused(_, error) if error.kind() == pb::error::Kind::Busy));
    let first = outcomes.pop().unwrap().await.unwrap();
    assert!(matches!(first, Outcome::Done(Answer::Got { .. })));
}

#[tokio::test]
async fn only_expired_jobs_are_given_up_and_late_answers_keep_their_places() {
    let (mut early, early_outcome) = job(get("a"), 1);
    early.expires = Instant::now();
    let (late, late_outcome) = job(get("b"), 1);
    let mut jobs = VecDeque::from([early, late]);
    let mut pending = Pending::new(100);
    let id = pending.pack(&mut jobs).unwrap().requests[0].id;
    pending.expire(Instant::now());
    assert!(matches!(early_outcome.await.unwrap(), Outcome::Lost(..)));
    let record = |value: &'static str| pb::Record {
        found: true,
        value: Bytes::from(value),
        ..Default::default()
    };
    let records = vec![record("of a"), record("of b")];
    pending.answer(pb::Response { id, records, ..Default::default() });
    match late_outcome.await.unwrap() {
        Outcome::Done(Answer::Got { record, .. }) => assert_eq!(record.value, "of b"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn operations_whose_caller_is_gone_are_not_sent() {
    let (mut jobs, outcomes) = queue([(put("a", "1"), 1)]);
    drop(outcomes);
    let mut pending = Pending::new(100);
    assert!(pending.pack(&mut jobs).is_none());
    assert!(pending.is_empty());
}
