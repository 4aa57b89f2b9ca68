//! A lane: one task, one connection and one bidirectional stream to one store.
//!
//! 1. Anybody submits jobs through [`Lane::submit`]; the task takes all that are queued at once.
//! 2. It packs them into frames ([`Pending::pack`]) and hands those to the stream, as far as that
//!    takes them; what it does not take yet makes the next frames fuller. While much is in flight,
//!    few operations wait for company, until answers come or for 10 ms at most.
//! 3. Answers come in any order and go to whoever waits for them.
//! 4. Every 10 ms, while anybody waits, expired jobs are given up: no timer an operation.
//! 5. When the stream breaks, what was handed to it is *lost*, what was still queued is *unsent*.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::batch::Pending;
use crate::connection::{self, CONNECT_TIMEOUT, Shared};
use crate::operation::Job;
use crate::pb;
use crate::queue::{self, Receiver, Sender};
use crate::unary::Unary;

/// How often expired jobs are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// Frames that wait between the lane and HTTP/2. Few when batching (the next frame is fuller then).
const FRAMES_QUEUED_BATCHED: usize = 4;
const FRAMES_QUEUED_SINGLE: usize = 256;
/// A store that owes answers and gave none for this long is avoided until it does.
const STALL: Duration = Duration::from_millis(700);
/// How long a store is avoided, unless it answers before: after a broken or refused connection,
/// which costs little to try again, ...
pub(crate) const AVOID_BROKEN: Duration = Duration::from_millis(100);
/// ... and when it is silent: a write sent there may end unknown.
pub(crate) const AVOID_SILENT: Duration = Duration::from_secs(2);

/// The handle to a store's lane. The task ends when the handle is dropped and nobody waits.
pub(crate) struct Lane {
    pub(crate) health: Arc<Health>,
    jobs: Sender<Job>,
    pub(crate) unary: Unary,
}

/// Where a store is and whether it answers; shared by the handle and the task.
pub(crate) struct Health {
    pub(crate) store: u64,
    address: ArcSwap<String>,
    born: Instant,
    /// Milliseconds since `born`; 0 = not suspect.
    suspect_until_ms: AtomicU64,
}

impl Health {
    pub(crate) fn address(&self) -> Arc<String> {
        self.address.load_full()
    }

    /// Takes effect with the next connection: a store that moved has closed this one.
    pub(crate) fn set_address(&self, address: &str) {
        if self.address.load().as_str() != address {
            self.address.store(Arc::new(address.to_owned()));
        }
    }

    pub(crate) fn avoid(&self, time: Duration) {
        let until = (self.born.elapsed() + time).as_millis() as u64;
        self.suspect_until_ms.store(until, Ordering::Relaxed);
    }

    pub(crate) fn clear_suspect(&self) {
        if self.suspect_until_ms.load(Ordering::Relaxed) != 0 {
            self.suspect_until_ms.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_suspect(&self) -> bool {
        let until = self.suspect_until_ms.load(Ordering::Relaxed);
        until != 0 && (self.born.elapsed().as_millis() as u64) < until
    }
}

impl Lane {
    /// Starts the lane's task. It connects when the first job comes.
    pub(crate) fn start(store: u64, address: &str, shared: &Arc<Shared>) -> Arc<Self> {
        let health = Arc::new(Health {
            store,
            address: ArcSwap::from_pointee(address.to_owned()),
            born: Instant::now(),
            suspect_until_ms: AtomicU64::new(0),
        });
        let (jobs, arrivals) = queue::queue();
        let driver = Driver {
            health: health.clone(),
            shared: shared.clone(),
            arrivals,
            closed: false,
            queue: VecDeque::new(),
            pending: Pending::new(shared.ops_max),
            tick: sweep_ticks(),
        };
        tokio::spawn(driver.run());
        Arc::new(Lane { health, jobs, unary: Unary::default() })
    }

    /// Queues a job; it is answered in any case. The queue is bounded by the client's limit of
    /// operations in flight.
    pub(crate) fn submit(&self, job: Job) {
        if let Err(job) = self.jobs.send(job) {
            job.unsent("the client is shut down".into());
        }
    }

    /// [`submit`](Self::submit) for all of `jobs`, with one wake-up.
    pub(crate) fn submit_all(&self, jobs: &mut VecDeque<Job>) {
        self.jobs.send_all(jobs);
        for job in jobs.drain(..) {
            job.unsent("the client is shut down".into());
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs.finish();
    }
}

/// The task's state; nobody else touches it.
struct Driver {
    health: Arc<Health>,
    shared: Arc<Shared>,
    arrivals: Receiver<Job>,
    /// Every handle is gone; no more jobs will come.
    closed: bool,
    queue: VecDeque<Job>,
    pending: Pending,
    tick: Interval,
}

/// An open stream.
struct Link {
    frames: mpsc::Sender<pb::RequestFrame>,
    answers: Streaming<pb::ResponseFrame>,
}

impl Driver {
    async fn run(mut self) {
        while !self.closed {
            if self.queue.is_empty() {
                self.closed = self.arrivals.take(&mut self.queue).await;
                continue;
            }
            let reason: Arc<str> = match self.open().await {
                Ok(link) => {
                    self.health.clear_suspect();
                    tracing::debug!(store = self.health.store, "stream open");
                    self.serve(link).await.into()
                }
                Err(reason) => reason.into(),
            };
            tracing::debug!(store = self.health.store, %reason, "stream over");
            if self.closed && self.queue.is_empty() && self.pending.is_empty() {
                return;
            }
            self.health.avoid(AVOID_BROKEN);
            self.pending.lose_all(&reason);
            while let Some(job) = self.queue.pop_front() {
                job.unsent(reason.clone());
            }
        }
    }

    /// Connects, while jobs go on arriving and expiring.
    async fn open(&mut self) -> Result<Link, String> {
        let opening = tokio::time::timeout(
            CONNECT_TIMEOUT,
            open_stream(self.health.address(), self.shared.clone()),
        );
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => {
                    return opened.unwrap_or_else(|_| {
                        Err(format!("{} does not answer", self.name()))
                    });
                }
                closed = self.arrivals.take(&mut self.queue), if !self.closed =>
                    self.closed = closed,
                _ = self.tick.tick() => self.expire_queue(),
            }
        }
    }

    /// Works the stream until it breaks (and says why), or until nobody is left to serve.
    async fn serve(&mut self, mut link: Link) -> String {
        // Since when the store owes an answer without having given any.
        let mut silent_since = Instant::now();
        let mut overdue = false;
        loop {
            // Few operations go with the answers to those in flight, or with the next tick.
            let hold = !overdue && self.pending.awaits_company(self.queue.len());
            overdue = false;
            if !hold && let Err(reason) = self.hand_out(&link, &mut silent_since) {
                return reason;
            }
            if self.closed && self.queue.is_empty() && self.pending.is_empty() {
                return "the client is shut down".to_owned();
            }
            let waiting = !self.queue.is_empty() || !self.pending.is_empty();
            tokio::select! {
                message = link.answers.message() => {
                    match message {
                        Ok(Some(frame)) => {
                            for response in frame.responses {
                                self.pending.answer(response);
                            }
                        }
                        Ok(None) => return format!("{} closed the stream", self.name()),
                        Err(status) => {
                            return format!("stream to {} broke: {}", self.name(), describe(&status));
                        }
                    }
                    silent_since = Instant::now();
                    self.health.clear_suspect();
                }
                closed = self.arrivals.take(&mut self.queue), if !self.closed => {
                    self.closed = closed;
                    if self.shared.ops_max > 1 {
                        self.gather().await;
                    }
                }
                // Only a wake-up: the loop's start hands out.
                _ = link.frames.reserve(), if !self.queue.is_empty() && link.frames.capacity() == 0 => {}
                _ = self.tick.tick(), if waiting => {
                    overdue = true;
                    self.expire_queue();
                    let now = Instant::now();
                    self.pending.expire(now);
                    if !self.pending.is_empty() && now - silent_since > STALL {
                        self.health.avoid(AVOID_SILENT);
                    }
                }
            }
        }
    }

    /// Lets callers that are ready to run submit first: one pass of the scheduler, no timer. The
    /// first of many callers would otherwise travel alone.
    async fn gather(&mut self) {
        tokio::task::yield_now().await;
        self.arrivals.take_now(&mut self.queue);
    }

    /// Hands frames to the stream as long as it takes them.
    fn hand_out(&mut self, link: &Link, silent_since: &mut Instant) -> Result<(), String> {
        while !self.queue.is_empty() {
            let permit = match link.frames.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return Ok(()),
                Err(mpsc::error::TrySendError::Closed(())) => {
                    return Err(format!("stream to {} broke", self.name()));
                }
            };
            if self.pending.is_empty() {
                *silent_since = Instant::now();
            }
            if let Some(frame) = self.pending.pack(&mut self.queue) {
                permit.send(frame);
            }
        }
        Ok(())
    }

    fn expire_queue(&mut self) {
        let now = Instant::now();
        if self.queue.iter().all(|job| job.expires > now) {
            return;
        }
        let reason: Arc<str> = format!("not sent in time: {} takes nothing", self.name()).into();
        for job in std::mem::take(&mut self.queue) {
            if job.expires <= now {
                job.unsent(reason.clone());
            } else {
                self.queue.push_back(job);
            }
        }
    }

    fn name(&self) -> String {
        format!("store {} at {}", self.health.store, self.health.address())
    }
}

async fn open_stream(address: Arc<String>, shared: Arc<Shared>) -> Result<Link, String> {
    let mut client = connection::connect(&address).await?;
    let queued = if shared.ops_max > 1 { FRAMES_QUEUED_BATCHED } else { FRAMES_QUEUED_SINGLE };
    let (frames, outgoing) = mpsc::channel(queued);
    let answers = client
        .stream(shared.request(ReceiverStream::new(outgoing)))
        .await
        .map_err(|status| format!("{address} refuses the stream: {}", describe(&status)))?
        .into_inner();
    Ok(Link { frames, answers })
}

/// A status in words: its message, or the innermost cause when it has none.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let cause = connection::root_cause(status);
    if status.message().is_empty() || cause.contains(status.message()) {
        cause
    } else {
        status.message().to_owned()
    }
}

fn sweep_ticks() -> Interval {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
