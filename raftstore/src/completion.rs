//! How answers travel back to callers: a sink and a ticket, no allocation per request.

use crate::error::Error;
use bytes::Bytes;
use std::sync::Arc;

/// A request's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The state machine's answer to a command, given after it was applied here.
    Applied(Bytes),
    /// A read barrier was passed: state read from now on is linearizable.
    ReadReady,
    /// An order (leader transfer, group creation) was accepted.
    Accepted,
}

/// A result or its typed refusal.
pub type Outcome = Result<Answer, Error>;

/// Where answers go.
///
/// `complete` is called exactly once a ticket, by a shard or apply thread: it must not block
/// (push and wake).
pub trait Completion: Send + Sync {
    /// Takes the outcome of the request that was submitted under `ticket`.
    fn complete(&self, ticket: u64, outcome: Outcome);
}

/// The way back of one request.
#[derive(Clone)]
pub struct Reply {
    sink: Arc<dyn Completion>,
    ticket: u64,
}

impl Reply {
    /// Answers go to `sink` under `ticket`.
    #[must_use]
    pub fn new(sink: Arc<dyn Completion>, ticket: u64) -> Self {
        Reply { sink, ticket }
    }

    /// Delivers the outcome; consumes the way back.
    pub fn send(self, outcome: Outcome) {
        self.sink.complete(self.ticket, outcome);
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
