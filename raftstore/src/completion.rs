//! How answers travel back to callers: a sink and a ticket, no allocation per request.

use crate::error::Error;
use crate::types::GroupId;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A request's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The state machine's answer to a command, given after it was applied here.
    Applied(Bytes),
    /// A read barrier was passed: state read from now on is linearizable.
    ReadReady,
    /// An order (leader transfer, group creation) was accepted.
    Accepted,
    /// A snapshot was made.
    SnapshotMade {
        /// The last entry that is in it.
        index: u64,
        /// Its size.
        bytes: u64,
    },
}

/// A result or its typed refusal.
pub type Outcome = Result<Answer, Error>;

/// Outcomes by ticket.
pub type Outcomes = Vec<(u64, Outcome)>;

/// Where answers go.
///
/// `complete` is called exactly once a ticket, by a shard or apply thread: it must not block
/// (push and wake).
pub trait Completion: Send + Sync {
    /// Takes the outcome of the request that was submitted under `ticket`.
    fn complete(&self, ticket: u64, outcome: Outcome);

    /// Takes many outcomes, which it leaves empty, in their order. A sink with a lock or a waiter
    /// does better than one after the other.
    fn complete_all(&self, outcomes: &mut Outcomes) {
        for (ticket, outcome) in outcomes.drain(..) {
            self.complete(ticket, outcome);
        }
    }
}

/// The way back of one request. Dropped without an answer, it reports *unknown*: no caller is
/// ever left waiting.
pub struct Reply {
    sink: Option<Arc<dyn Completion>>,
    ticket: u64,
    _permit: Option<Permit>,
}

impl Reply {
    /// Answers go to `sink` under `ticket`.
    #[must_use]
    pub fn new(sink: Arc<dyn Completion>, ticket: u64) -> Self {
        Reply { sink: Some(sink), ticket, _permit: None }
    }

    /// Holds `permit` until the answer is given.
    pub(crate) fn with_permit(mut self, permit: Permit) -> Self {
        self._permit = Some(permit);
        self
    }

    /// Delivers the outcome; consumes the way back.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.ticket, outcome);
        }
    }

    /// Delivers many outcomes, those of one sink in one call and in their order.
    pub fn send_all(replies: impl IntoIterator<Item = (Reply, Outcome)>) {
        let mut places: FxHashMap<*const (), usize> = FxHashMap::default();
        let mut sinks: Vec<(Arc<dyn Completion>, Outcomes)> = Vec::new();
        for (mut reply, outcome) in replies {
            let Some(sink) = reply.sink.take() else { continue };
            // A sink that is held here keeps its address.
            let place = *places.entry(Arc::as_ptr(&sink).cast()).or_insert_with(|| {
                sinks.push((sink, Vec::new()));
                sinks.len() - 1
            });
            sinks[place].1.push((reply.ticket, outcome));
        }
        for (sink, mut outcomes) in sinks {
            sink.complete_all(&mut outcomes);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.ticket, Err(Error::Unknown { group: GroupId(0) }));
        }
    }
}

/// Bytes of a command that are admitted and not yet answered.
pub(crate) struct Permit {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Permit {
    /// Takes `bytes` out of `max`, or nothing. A single command always fits an empty store.
    pub(crate) fn take(total: &Arc<AtomicUsize>, bytes: usize, max: usize) -> Option<Permit> {
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > max {
            total.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Permit { bytes, total: Arc::clone(total) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// Delivers a single answer to a function: for callers with few requests.
pub struct OnceCompletion<F: FnOnce(Outcome) + Send>(parking_lot::Mutex<Option<F>>);

impl<F: FnOnce(Outcome) + Send + 'static> OnceCompletion<F> {
    /// A reply that calls `f` with the outcome, on a shard or apply thread.
    pub fn reply(f: F) -> Reply {
        Reply::new(Arc::new(OnceCompletion(parking_lot::Mutex::new(Some(f)))), 0)
    }
}

impl<F: FnOnce(Outcome) + Send> Completion for OnceCompletion<F> {
    fn complete(&self, _ticket: u64, outcome: Outcome) {
        if let Some(f) = self.0.lock().take() {
            f(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// Remembers the tickets of every call.
    #[derive(Default)]
    struct Calls(Mutex<Vec<Vec<u64>>>);

    impl Completion for Calls {
        fn complete(&self, ticket: u64, _outcome: Outcome) {
            self.0.lock().push(vec![ticket]);
        }

        fn complete_all(&self, outcomes: &mut Outcomes) {
            self.0.lock().push(outcomes.drain(..).map(|(ticket, _)| ticket).collect());
        }
    }

    #[test]
    fn many_answers_reach_each_sink_in_one_call_and_in_order() {
        let (one, two) = (Arc::new(Calls::default()), Arc::new(Calls::default()));
        let reply = |ticket: u64| {
            let sink = if ticket.is_multiple_of(3) { &one } else { &two };
            (Reply::new(sink.clone(), ticket), Ok(Answer::ReadReady))
        };
        Reply::send_all((0..8).rev().map(reply));
        assert_eq!(*one.0.lock(), [[6, 3, 0]]);
        assert_eq!(*two.0.lock(), [[7, 5, 4, 2, 1]]);
    }

    #[test]
    fn a_dropped_reply_reports_unknown_and_a_permit_is_given_back_with_the_answer() {
        let total = Arc::new(AtomicUsize::new(0));
        let permit = Permit::take(&total, 10, 10).expect("it is empty");
        assert!(Permit::take(&total, 1, 10).is_none());
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = OnceCompletion::reply(move |outcome| sender.send(outcome).unwrap());
        drop(reply.with_permit(permit));
        assert_eq!(receiver.recv().unwrap(), Err(Error::Unknown { group: GroupId(0) }));
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
