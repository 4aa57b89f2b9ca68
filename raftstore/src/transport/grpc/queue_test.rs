//! Lanes, limits and order of the queue towards one store.

use super::*;
use crate::transport::Payload;
use crate::types::ReplicaId;
use futures::task::noop_waker;

const LIMITS: QueueLimits = QueueLimits {
    frame_bytes_max: 4_000,
    envelope_bytes_max: 8_000,
    bulk_bytes_max: 10_000,
    small_bytes_max: 3_000,
};

fn raft(group: u64, length: usize, bulk: bool) -> Envelope {
    Envelope {
        group: GroupId(group),
        from: ReplicaId(1),
        to: ReplicaId(2),
        payload: Payload::Raft { bytes: vec![0; length].into(), bulk },
    }
}

/// The next frame as (group, is bulk); empty when nothing waits.
fn take(queue: &Queue, session: u64) -> Vec<(u64, bool)> {
    let mut batch = Vec::new();
    let waker = noop_waker();
    let _ = queue.poll_take(session, &mut batch, &mut Context::from_waker(&waker));
    batch.iter().map(|e| (e.group.0, e.is_bulk())).collect()
}

#[test]
fn small_messages_overtake_other_groups_but_never_their_own() {
    let queue = Queue::new(LIMITS);
    let session = queue.start_session();
    queue.push(vec![raft(1, 100, true), raft(1, 10, false), raft(2, 10, false)]);
    assert_eq!(take(&queue, session), [(2, false), (1, true), (1, false)]);
    queue.push(vec![raft(1, 10, false), raft(1, 100, true)]);
    assert_eq!(take(&queue, session), [(1, false), (1, true)]);
}

#[test]
fn a_full_bulk_lane_drops_bulk_and_lets_small_messages_pass() {
    let queue = Queue::new(LIMITS);
    let session = queue.start_session();
    let pushed = queue.push((0..5).map(|_| raft(1, 3_000, true)).collect());
    assert_eq!(pushed, Pushed { dropped: 2, too_large: 0, report: true });
    assert!(!queue.push(vec![raft(1, 3_000, true)]).report, "reported once");
    assert_eq!(queue.push(vec![raft(2, 10, false)]), Pushed::default());
    assert_eq!(take(&queue, session), [(2, false), (1, true)]);
    take(&queue, session);
    assert!(queue.push(vec![raft(1, 3_000, true)]).dropped == 0);
    let pushed = queue.push((0..5).map(|_| raft(1, 3_000, true)).collect());
    assert!(pushed.report, "reported again after the queue had room");
}

#[test]
fn a_full_small_lane_drops_too() {
    let queue = Queue::new(LIMITS);
    let pushed = queue.push((0..100).map(|g| raft(g, 10, false)).collect());
    assert!(pushed.dropped > 0 && pushed.report);
}

#[test]
fn frames_keep_their_limit_and_one_larger_envelope_travels_alone() {
    let queue = Queue::new(LIMITS);
    let session = queue.start_session();
    let sizes = [1_000, 1_000, 6_000, 1_000, 9_000];
    let pushed = queue.push(sizes.iter().map(|&n| raft(1, n, true)).collect());
    assert_eq!(pushed.too_large, 1);
    let frames: Vec<usize> = (0..4).map(|_| take(&queue, session).len()).collect();
    assert_eq!(frames, [2, 1, 1, 0]);
    assert_eq!(queue.figures(), (0, 1));
}

#[test]
fn an_older_session_takes_nothing() {
    let queue = Queue::new(LIMITS);
    let old = queue.start_session();
    let new = queue.start_session();
    queue.push(vec![raft(1, 10, false)]);
    assert!(take(&queue, old).is_empty());
    assert_eq!(take(&queue, new).len(), 1);
}

#[test]
fn a_cleared_queue_takes_messages_again() {
    let queue = Queue::new(LIMITS);
    let session = queue.start_session();
    queue.push((0..5).map(|_| raft(1, 3_000, true)).collect());
    queue.clear();
    assert!(take(&queue, session).is_empty());
    assert_eq!(queue.push(vec![raft(1, 3_000, true)]), Pushed::default());
    assert_eq!(take(&queue, session), [(1, true)]);
}
