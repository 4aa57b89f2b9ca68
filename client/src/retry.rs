//! One operation from the caller's `await` to its end: attempts, hints, back-off, deadline.
//!
//! What may be tried again: everything that a server refused or that was never sent; reads always.
//! A write that was sent without an answer ends here as [`Error::Unknown`] and is never sent again,
//! idempotent or not: a put that lies late in a paused server's socket would otherwise come after a
//! newer put and take it back.

use std::time::Duration;

use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::builder::Rpc;
use crate::operation::{Answer, Caller, Job, Operation, Outcome};
use crate::pb::error::Kind;
use crate::route::{Router, Target};
use crate::stream::AVOID_BROKEN;
use crate::{Error, Refusal, Result, pb};

/// A read that has no answer by then is asked again, elsewhere.
const READ_ATTEMPT: Duration = Duration::from_secs(1);
/// Hints followed in a row without a pause; two stores that name each other must not spin.
const FOLLOWED_MAX: usize = 3;
/// The pause after a refusal without a hint: elections take hundreds of milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 20..=100;
/// The pause after the first `Busy`; doubles up to the maximum.
const BUSY_PAUSE_MS: u64 = 5;
const BUSY_PAUSE_MS_MAX: u64 = 250;

/// What one operation has been through.
struct Course {
    deadline: Instant,
    timeout: Duration,
    attempts: usize,
    /// Hints followed since the last pause.
    followed: usize,
    busy: u32,
    /// Why the last attempt failed: what the caller gets when time is over.
    last: Option<Error>,
}

/// One attempt, over.
enum Tried {
    At(Target, Outcome),
    /// No server is known for the key.
    Nowhere(Operation),
}

/// What to do before the next attempt.
enum Next {
    AtOnce,
    Pause { refresh: bool },
}

/// Runs the operation until it is done, refused for good, unknown, or out of time.
///
/// The first attempt is all that most operations need. It is kept small and flat, because callers
/// hold thousands of these futures; everything after it is boxed.
pub(crate) async fn run(
    router: &Router,
    operation: Operation,
    timeout: Duration,
) -> Result<Answer> {
    operation.check()?;
    let deadline = Instant::now() + timeout;
    let tried = if router.shared.rpc == Rpc::Unary {
        Box::pin(attempt(router, operation, 0, deadline)).await?
    } else {
        match router.pick(&operation, 0) {
            None => Tried::Nowhere(operation),
            Some(target) => {
                let is_read = operation.is_read();
                let answer = submit(&target, operation, deadline);
                match answer.await {
                    Ok(outcome) => Tried::At(target, outcome),
                    Err(_) => return Err(shut_down(is_read)),
                }
            }
        }
    };
    if let Tried::At(target, Outcome::Done(answer)) = tried {
        return Ok(finish(&target, answer));
    }
    Box::pin(go_on(router, Course::new(deadline, timeout), tried)).await
}

/// Goes on after a first attempt that somebody else made and that ended with `outcome`.
pub(crate) async fn resume(
    router: &Router,
    target: Target,
    outcome: Outcome,
    deadline: Instant,
    timeout: Duration,
) -> Result<Answer> {
    go_on(router, Course::new(deadline, timeout), Tried::At(target, outcome)).await
}

/// Everything after a first attempt that did not simply succeed.
async fn go_on(router: &Router, mut course: Course, mut tried: Tried) -> Result<Answer> {
    loop {
        let (operation, next) = match tried {
            Tried::Nowhere(operation) => {
                course.last = Some(Error::unavailable("no server knows a region for the key yet"));
                (operation, Next::Pause { refresh: true })
            }
            Tried::At(target, Outcome::Done(answer)) => return Ok(finish(&target, answer)),
            Tried::At(target, Outcome::Refused(operation, error)) => {
                let next = course.refused(router, &target, &operation, &error)?;
                (operation, next)
            }
            Tried::At(target, Outcome::Unsent(operation, reason)) => {
                target.region.forget_leader(target.lane.health.store);
                course.last = Some(Error::unavailable(&*reason));
                (operation, Next::Pause { refresh: true })
            }
            Tried::At(target, Outcome::Lost(operation, reason)) => {
                target.region.forget_leader(target.lane.health.store);
                let next = course.lost(&target, &operation, &reason)?;
                (operation, next)
            }
        };
        course.pause(router, next).await?;
        tried = attempt(router, operation, course.attempts, course.deadline).await?;
        course.attempts += 1;
    }
}

/// One attempt at one store.
async fn attempt(
    router: &Router,
    mut operation: Operation,
    attempts: usize,
    deadline: Instant,
) -> Result<Tried> {
    let Some(target) = router.pick(&operation, attempts) else {
        return Ok(Tried::Nowhere(operation));
    };
    let is_read = operation.is_read();
    let outcome = match router.shared.rpc {
        Rpc::Stream => {
            let answer = submit(&target, operation, deadline);
            answer.await.map_err(|_| shut_down(is_read))?
        }
        Rpc::Unary => {
            operation.cut(&target.region.end);
            let (region, lane) = (&target.region, &target.lane);
            let at = (region.region, region.epoch);
            let expires = expiry(&operation, Instant::now(), deadline);
            lane.unary.call(&lane.health, &router.shared, operation, at, expires).await
        }
    };
    Ok(Tried::At(target, outcome))
}

/// Queues one attempt on the store's lane. The lane answers in any case; it only goes away without
/// a word with its runtime.
fn submit(
    target: &Target,
    mut operation: Operation,
    deadline: Instant,
) -> oneshot::Receiver<Outcome> {
    operation.cut(&target.region.end);
    let (answer, outcome) = oneshot::channel();
    let expires = expiry(&operation, Instant::now(), deadline);
    let (region, epoch) = (target.region.region, target.region.epoch);
    target.lane.submit(Job { operation, region, epoch, expires, caller: Caller::Call(answer) });
    outcome
}

/// When to give up an attempt that begins `now`.
pub(crate) fn expiry(operation: &Operation, now: Instant, deadline: Instant) -> Instant {
    match operation.is_read() {
        true => deadline.min(now + READ_ATTEMPT),
        false => deadline,
    }
}

fn finish(target: &Target, mut answer: Answer) -> Answer {
    if let Answer::Page { region_end, .. } = &mut answer {
        *region_end = target.region.end.clone();
    }
    answer
}

/// The lane went away without a word: only with its runtime.
pub(crate) fn shut_down(is_read: bool) -> Error {
    match is_read {
        true => Error::unavailable("the client's runtime was shut down"),
        false => Error::unknown("the client's runtime was shut down before the answer"),
    }
}

impl Course {
    /// After the first attempt.
    fn new(deadline: Instant, timeout: Duration) -> Self {
        Course { deadline, timeout, attempts: 1, followed: 0, busy: 0, last: None }
    }

    /// The server said no. `Err` when asking again is of no use or not allowed.
    fn refused(
        &mut self,
        router: &Router,
        target: &Target,
        operation: &Operation,
        error: &pb::Error,
    ) -> Result<Next> {
        let store = target.lane.health.store;
        let message = format!("store {store}: {}", error.message);
        let Some(kind) = Refusal::from_pb(error.kind()) else {
            return match error.kind() {
                Kind::Invalid => Err(Error::invalid(message)),
                _ => self.lost(target, operation, &message),
            };
        };
        let refused = Error::NotApplied { kind, message };
        if kind == Refusal::Refused {
            return Err(refused);
        }
        self.last = Some(refused);
        let next = match kind {
            Refusal::NotLeader => {
                target.region.forget_leader(store);
                match &error.leader {
                    Some(leader) if router.follow(&target.region, leader) => Next::AtOnce,
                    _ => Next::Pause { refresh: self.attempts.is_multiple_of(4) },
                }
            }
            Refusal::EpochNotMatch if error.regions.is_empty() => Next::Pause { refresh: true },
            Refusal::EpochNotMatch => {
                router.learn_regions(&error.regions);
                Next::AtOnce
            }
            Refusal::TooOld => Next::Pause { refresh: false },
            Refusal::Busy | Refusal::DiskFull | Refusal::Refused => {
                self.busy += 1;
                Next::Pause { refresh: false }
            }
            Refusal::Closed => {
                target.region.forget_leader(store);
                target.lane.health.avoid(AVOID_BROKEN);
                Next::Pause { refresh: true }
            }
        };
        Ok(match next {
            Next::AtOnce if self.followed >= FOLLOWED_MAX => Next::Pause { refresh: true },
            next => next,
        })
    }

    /// Sent, and no answer: the end for a write, a detour for a read.
    fn lost(&mut self, target: &Target, operation: &Operation, reason: &str) -> Result<Next> {
        let health = &target.lane.health;
        if !operation.is_read() {
            return Err(Error::unknown(format!(
                "sent to store {} at {}: {reason}",
                health.store,
                health.address()
            )));
        }
        self.last = Some(Error::unavailable(reason));
        Ok(Next::Pause { refresh: true })
    }

    /// Waits as long as `next` says. `Err` is the operation's end: time is over.
    async fn pause(&mut self, router: &Router, next: Next) -> Result<()> {
        let now = Instant::now();
        let Next::Pause { refresh } = next else {
            self.followed += 1;
            return if now < self.deadline { Ok(()) } else { Err(self.out_of_time()) };
        };
        self.followed = 0;
        let pause = self.draw_pause();
        if now + pause >= self.deadline {
            tokio::time::sleep_until(self.deadline).await;
            return Err(self.out_of_time());
        }
        tokio::time::sleep(pause).await;
        if refresh && let Err(error) = router.refresh(self.deadline).await {
            // The table may still be right; the next attempt tells. An operation that was refused
            // keeps the refusal as its reason.
            if matches!(self.last, Some(Error::Unavailable { .. })) {
                self.last = Some(error);
            }
        }
        if Instant::now() < self.deadline { Ok(()) } else { Err(self.out_of_time()) }
    }

    /// Jittered, so that callers that failed together do not come back together.
    fn draw_pause(&self) -> Duration {
        let mut random = rand::rng();
        let milliseconds = match self.busy {
            0 => random.random_range(PAUSE_MS),
            times => {
                let most = (BUSY_PAUSE_MS << times.min(16)).min(BUSY_PAUSE_MS_MAX);
                random.random_range(most / 2..=most)
            }
        };
        Duration::from_millis(milliseconds)
    }

    fn out_of_time(&mut self) -> Error {
        let spent = format!(" ({} attempts in {:?})", self.attempts, self.timeout);
        let mut error =
            self.last.take().unwrap_or_else(|| Error::unavailable("no server was asked"));
        match &mut error {
            Error::Invalid { message }
            | Error::NotApplied { message, .. }
            | Error::Unknown { message }
            | Error::Unavailable { message } => message.push_str(&spent),
        }
        error
    }
}
