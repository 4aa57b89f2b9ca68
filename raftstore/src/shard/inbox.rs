//! A shard's inbox: any thread pushes and never waits, the shard takes everything that is there.
//!
//! Requests are bounded by their bytes before they come here, peers' messages by their number;
//! internal results are never refused.

use crate::message::ShardMessage;
use crate::transport::Envelope;
use crate::types::StoreId;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

/// The senders' end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once the shard has ended.
    messages: Mutex<Option<Vec<ShardMessage>>>,
    waker: AtomicWaker,
    /// Peers' messages that wait.
    from_peers: AtomicUsize,
}

/// The shard's end. Dropped with the shard, it closes the inbox.
pub(crate) struct InboxEnd(Inbox);

/// An empty inbox.
pub(crate) fn inbox() -> (Inbox, InboxEnd) {
    let shared = Shared {
        messages: Mutex::new(Some(Vec::new())),
        waker: AtomicWaker::new(),
        from_peers: AtomicUsize::new(0),
    };
    let inbox = Inbox { shared: Arc::new(shared) };
    (inbox.clone(), InboxEnd(inbox))
}

impl Inbox {
    /// Queues a message. A shard that has ended hears nothing: what it is told is dropped, and
    /// replies inside report *unknown*.
    pub(crate) fn push(&self, message: ShardMessage) {
        let mut messages = self.shared.messages.lock();
        let Some(list) = &mut *messages else {
            drop(messages);
            return drop(message);
        };
        list.push(message);
        let first = list.len() == 1;
        drop(messages);
        // Later ones of a burst find the shard woken already.
        if first {
            self.shared.waker.wake();
        }
    }

    /// Queues peers' messages, or says that `max` of them wait already.
    pub(crate) fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>, max: usize) -> bool {
        let (count, waiting) = (envelopes.len(), &self.shared.from_peers);
        if waiting.fetch_add(count, Ordering::Relaxed) + count > max {
            waiting.fetch_sub(count, Ordering::Relaxed);
            return false;
        }
        self.push(ShardMessage::Deliver { from, envelopes });
        true
    }

    /// Peers' messages that wait.
    pub(crate) fn peers_waiting(&self) -> usize {
        self.shared.from_peers.load(Ordering::Relaxed)
    }
}

impl InboxEnd {
    /// Everything that waits, at least one message, in order.
    pub(crate) async fn take(&mut self) -> Vec<ShardMessage> {
        let shared = &*self.0.shared;
        let messages = poll_fn(|context| {
            shared.waker.register(context.waker());
            match &mut *shared.messages.lock() {
                Some(list) if !list.is_empty() => Poll::Ready(std::mem::take(list)),
                _ => Poll::Pending,
            }
        })
        .await;
        let from_peers = |m: &ShardMessage| match m {
            ShardMessage::Deliver { envelopes, .. } => envelopes.len(),
            _ => 0,
        };
        let taken = messages.iter().map(from_peers).sum();
        shared.from_peers.fetch_sub(taken, Ordering::Relaxed);
        messages
    }
}

impl Drop for InboxEnd {
    fn drop(&mut self) {
        let waiting = self.0.shared.messages.lock().take();
        // Outside the lock: a reply inside may push to an inbox.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::Barrier;

    #[test]
    fn a_message_wakes_whoever_waits_for_it() {
        let (inbox, mut end) = inbox();
        assert!(end.take().now_or_never().is_none());
        let barrier = Arc::new(Barrier::new(2));
        let pusher = {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                for _ in 0..1_000 {
                    barrier.wait();
                    inbox.push(ShardMessage::Tick);
                    inbox.push(ShardMessage::Tick);
                }
            })
        };
        for _ in 0..1_000 {
            barrier.wait();
            let mut seen = 0;
            while seen < 2 {
                seen += futures::executor::block_on(end.take()).len();
            }
        }
        pusher.join().unwrap();
    }

    #[test]
    fn peers_messages_are_bounded_and_a_closed_inbox_takes_nothing() {
        let (inbox, mut end) = inbox();
        let envelope = || Envelope {
            group: crate::types::GroupId(1),
            from: crate::types::ReplicaId(1),
            to: crate::types::ReplicaId(2),
            payload: crate::transport::Payload::DurableApplied(1),
        };
        assert!(inbox.deliver(StoreId(1), vec![envelope(), envelope()], 3));
        assert!(!inbox.deliver(StoreId(1), vec![envelope(), envelope()], 3));
        assert_eq!(inbox.peers_waiting(), 2);
        assert_eq!(end.take().now_or_never().map(|list| list.len()), Some(1));
        assert_eq!(inbox.peers_waiting(), 0);
        drop(end);
        let (answered, answer) = crossbeam::channel::bounded(1);
        let reply = crate::completion::OnceCompletion::reply(move |outcome| {
            answered.send(outcome).unwrap();
        });
        let (group, mode) = (crate::types::GroupId(1), crate::message::ReadMode::default());
        let request = crate::message::Request::ReadBarrier { group, mode, reply };
        inbox.push(ShardMessage::Requests(vec![request]));
        assert!(answer.recv().unwrap().is_err());
    }
}
