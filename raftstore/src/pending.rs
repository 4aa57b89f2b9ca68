//! Waiting for one answer: in a future, or on a thread.

use crate::completion::{Completion, Outcome, Reply};
use parking_lot::{Condvar, Mutex};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The answer to one request, on its way: `.await` it, or [`wait`](Pending::wait) for it.
///
/// It always comes, at the latest when the store ends: see [`Reply`]. Whoever drops it takes nothing
/// back: the request goes on.
#[derive(Debug)]
#[must_use = "the answer tells whether the request was done"]
pub struct Pending(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Reply {
    /// A way back for one request, and its other end.
    pub fn pending() -> (Reply, Pending) {
        let slot = Arc::new(Slot::default());
        (Reply::new(Arc::clone(&slot) as _, 0), Pending(slot))
    }
}

impl Pending {
    /// Blocks until the answer is here, or for `limit`: then nothing is known of the request, which
    /// goes on.
    pub fn wait(self, limit: Duration) -> Option<Outcome> {
        let mut state = self.0.state.lock();
        self.0.came.wait_while_for(&mut state, |state| state.outcome.is_none(), limit);
        state.outcome.take()
    }
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.state.lock();
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Completion for Slot {
    fn complete(&self, _ticket: u64, outcome: Outcome) {
        let waker = {
            let mut state = self.state.lock();
            state.outcome = Some(outcome);
            state.waker.take()
        };
        self.came.notify_one();
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Answer;
    use crate::error::Error;
    use crate::types::GroupId;
    use futures::executor::block_on;

    #[test]
    fn an_answer_is_awaited_or_waited_for() {
        for early in [true, false] {
            for future in [true, false] {
                let (reply, pending) = Reply::pending();
                let send = || reply.send(Ok(Answer::ReadReady));
                let take = move || match future {
                    true => block_on(pending),
                    false => pending.wait(Duration::from_secs(60)).expect("it comes"),
                };
                let outcome = if early {
                    send();
                    take()
                } else {
                    std::thread::scope(|scope| {
                        let taken = scope.spawn(take);
                        send();
                        taken.join().unwrap()
                    })
                };
                assert_eq!(outcome, Ok(Answer::ReadReady));
            }
        }
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_a_lost_request_is_unknown() {
        let (reply, pending) = Reply::pending();
        assert_eq!(pending.wait(Duration::from_millis(1)), None);
        drop(reply);
        let (reply, pending) = Reply::pending();
        drop(reply);
        assert_eq!(block_on(pending), Err(Error::Unknown { group: GroupId(0) }));
    }
}
