//! Many operations in flight for one caller, without a future and a wake-up for each: submit, go
//! on, take results as they come, many at a time.
//!
//! The first attempt of an operation costs a place in the store's queue and one in the queue of
//! results. Whatever needs more than that (a hint to follow, a retry, a unary call) takes the same way as
//! [`Client::put`](crate::Client::put) does, as a future inside the pipeline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::builder::Rpc;
use crate::client::{Core, Got, Written, mismatch};
use crate::consistency::Consistency;
use crate::operation::{Answer, Caller, Job, Operation, Outcome};
use crate::queue::{self, Receiver, Sender};
use crate::route::Target;
use crate::stream::Lane;
use crate::{Result, retry};

/// Many operations of one caller; made by [`Client::pipeline`](crate::Client::pipeline).
///
/// Operations are sent by the next [`wait`](Self::wait), those submitted before it together. They
/// run concurrently and end in any order: two writes of one key that are in flight at the same time
/// may be applied in either order. Deadlines, retries and outcomes are those of the client's other
/// calls. Dropping the pipeline gives up what is in flight: a write may or may not be applied then.
pub struct Pipeline {
    core: Arc<Core>,
    timeout: Duration,
    consistency: Consistency,
    /// Submitted and not yet handed out as ended.
    in_flight: usize,
    /// When the burst began that is being submitted: one look at the clock for all of it.
    now: Option<Instant>,
    /// Jobs that the next `wait` hands to their lanes.
    staged: Vec<Staged>,
    results: Sender<Completion>,
    arrivals: Receiver<Completion>,
    taken: VecDeque<Completion>,
    /// Ended before they began.
    refused: Vec<Ended>,
    detours: FuturesUnordered<BoxFuture<'static, (u64, Result<Answer>)>>,
}

struct Staged {
    lane: Arc<Lane>,
    jobs: VecDeque<Job>,
}

/// One operation that is over.
#[derive(Debug)]
pub struct Ended {
    /// The caller's name for it.
    pub tag: u64,
    /// How it ended; see [`Client`](crate::Client) for the errors.
    pub result: Result<Done>,
}

/// What an operation achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A put or delete.
    Written(Written),
    /// A get.
    Got(Got),
}

/// Where the outcome of an attempt goes, and what is needed to go on after it. Dropping it reports
/// that the lane went away with its runtime.
pub(crate) struct Tagged {
    results: Sender<Completion>,
    /// `None` once the outcome is sent.
    attempt: Option<Attempt>,
}

struct Attempt {
    tag: u64,
    target: Target,
    began: Instant,
    is_read: bool,
}

/// An attempt that is over.
struct Completion {
    attempt: Attempt,
    /// `None`: there will never be one.
    outcome: Option<Outcome>,
}

impl Tagged {
    /// Whether nobody waits any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.results.is_closed()
    }

    pub(crate) fn send(mut self, outcome: Outcome) {
        self.complete(Some(outcome));
    }

    fn complete(&mut self, outcome: Option<Outcome>) {
        if let Some(attempt) = self.attempt.take() {
            // A pipeline that was dropped wants no outcomes.
            let _ = self.results.send(Completion { attempt, outcome });
        }
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        self.complete(None);
    }
}

impl Pipeline {
    pub(crate) fn new(core: Arc<Core>, timeout: Duration, consistency: Consistency) -> Self {
        let (results, arrivals) = queue::queue();
        Pipeline {
            core,
            timeout,
            consistency,
            in_flight: 0,
            now: None,
            staged: Vec::new(),
            results,
            arrivals,
            taken: VecDeque::new(),
            refused: Vec::new(),
            detours: FuturesUnordered::new(),
        }
    }

    /// Operations that were submitted and have not been handed out by [`wait`](Self::wait).
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submits a put; see [`Client::put`](crate::Client::put).
    pub fn put(&mut self, tag: u64, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.submit(tag, Operation::Put { key: key.into(), value: value.into() });
    }

    /// Submits a delete; see [`Client::delete`](crate::Client::delete).
    pub fn delete(&mut self, tag: u64, key: impl Into<Bytes>) {
        self.submit(tag, Operation::Delete { key: key.into() });
    }

    /// Submits a get; see [`Client::get`](crate::Client::get).
    pub fn get(&mut self, tag: u64, key: impl Into<Bytes>) {
        self.submit(tag, Operation::Get { key: key.into(), consistency: self.consistency });
    }

    /// Sends what was submitted, waits until at least one operation has ended and appends all that
    /// have to `ended`. Returns at once when nothing is in flight. Dropping the returned future
    /// loses nothing: the next call goes on.
    pub fn wait(&mut self, ended: &mut Vec<Ended>) -> impl Future<Output = ()> {
        self.now = None;
        for Staged { lane, jobs } in &mut self.staged {
            lane.submit_all(jobs);
        }
        std::future::poll_fn(move |cx| self.poll_wait(cx, ended))
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, ended: &mut Vec<Ended>) -> Poll<()> {
        let before = ended.len();
        ended.append(&mut self.refused);
        // Never over: this pipeline holds a sender itself.
        let _ = self.arrivals.poll_take(cx, &mut self.taken);
        while let Some(completion) = self.taken.pop_front() {
            match completion.outcome {
                Some(Outcome::Done(answer)) => {
                    ended.push(finish(completion.attempt.tag, Ok(answer)));
                }
                _ => self.go_on(completion),
            }
        }
        while let Poll::Ready(Some((tag, result))) = self.detours.poll_next_unpin(cx) {
            ended.push(finish(tag, result));
        }
        let count = ended.len() - before;
        if count == 0 && self.in_flight > 0 {
            return Poll::Pending;
        }
        self.in_flight -= count;
        self.core.give_back(count);
        Poll::Ready(())
    }

    fn submit(&mut self, tag: u64, operation: Operation) {
        self.in_flight += 1;
        // Taken even when refused: `wait` gives back one for each that it hands out.
        let allowed = self.core.take_one();
        if let Err(error) = allowed.and_then(|()| operation.check()) {
            self.refused.push(Ended { tag, result: Err(error) });
            return;
        }
        let router = &self.core.router;
        let target = match router.shared.rpc {
            Rpc::Stream => router.pick(&operation, 0),
            Rpc::Unary => None,
        };
        let Some(target) = target else {
            let (core, timeout) = (self.core.clone(), self.timeout);
            self.detours.push(Box::pin(async move {
                (tag, retry::run(&core.router, operation, timeout).await)
            }));
            return;
        };
        let began = *self.now.get_or_insert_with(Instant::now);
        let expires = retry::expiry(&operation, began, began + self.timeout);
        let (region, epoch) = (target.region.region, target.region.epoch);
        let lane = target.lane.clone();
        let attempt = Attempt { tag, target, began, is_read: operation.is_read() };
        let tagged = Tagged { results: self.results.clone(), attempt: Some(attempt) };
        let job = Job { operation, region, epoch, expires, caller: Caller::Pipeline(tagged) };
        match self.staged.iter_mut().find(|staged| Arc::ptr_eq(&staged.lane, &lane)) {
            Some(staged) => staged.jobs.push_back(job),
            None => self.staged.push(Staged { lane, jobs: VecDeque::from([job]) }),
        }
    }

    /// The first attempt did not simply succeed: the rest is a future.
    fn go_on(&mut self, completion: Completion) {
        let Completion { attempt: Attempt { tag, target, began, is_read }, outcome } = completion;
        let (core, timeout) = (self.core.clone(), self.timeout);
        self.detours.push(Box::pin(async move {
            let result = match outcome {
                Some(outcome) => {
                    retry::resume(&core.router, target, outcome, began + timeout, timeout).await
                }
                None => Err(retry::shut_down(is_read)),
            };
            (tag, result)
        }));
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.core.give_back(self.in_flight);
    }
}

fn finish(tag: u64, result: Result<Answer>) -> Ended {
    let result = result.and_then(|answer| match answer {
        Answer::Written { .. } => answer.written().map(Done::Written),
        Answer::Got { .. } => answer.got().map(Done::Got),
        Answer::Page { .. } => Err(mismatch(&answer)),
    });
    Ended { tag, result }
}
