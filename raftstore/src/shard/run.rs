//! The loops of a store: each a short one around a `round` or a `run_once`. The only place, with
//! `sync.rs`, that blocks.

use super::Shard;
use super::inbox::InboxEnd;
use super::lane::{Lane, Work};
use super::sync::{Unsynced, replay_time};
use crate::apply::StateMachine;
use crate::apply::worker::{ApplyDone, ApplyWorker};
use crate::clock::Clock;
use crate::completion::{Answer, Reply};
use crate::error::Fatal;
use crate::log::writer::LogWriter;
use crate::log::{LogStore, reader};
use crate::message::{Applied, ApplyTask, FetchTask, LogTask, ShardMessage};
use crate::router::Router;
use crate::snapshot::run::SnapshotQueues;
use crate::transport::Transport;
use crate::types::Nanos;
use crossbeam::channel::{Receiver, Sender, TryRecvError};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Tasks that a message passes on its way from the transport's queue to the socket, each woken by
/// the one before: the stream, the request's body, the connection.
const SEND_STEPS: usize = 3;

/// What every thread of a store shares.
#[derive(Clone)]
pub(crate) struct Shell {
    pub(crate) router: Arc<Router>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

/// The queues from a shard to the workers.
#[derive(Clone)]
pub(crate) struct Queues {
    pub(crate) log: Lane<LogWriter>,
    pub(crate) apply: Lane<Applier>,
    pub(crate) fetch: Sender<Vec<FetchTask>>,
    pub(crate) snapshots: SnapshotQueues,
}

/// A shard's loop: takes what is there, makes a round, carries its effects out. Ends when the
/// store stops. Runs on a thread of its own or as a task beside the network's.
pub(crate) async fn run_shard(mut shard: Shard, mut inbox: InboxEnd, queues: Queues, shell: Shell) {
    while !shard.stopped() {
        let messages = inbox.take().await;
        let metrics = &shell.router.metrics;
        metrics.rounds.inc();
        metrics.inbox_messages.inc_by(messages.len() as u64);
        let done = match shard.round(messages, shell.clock.moment()) {
            Ok(round) => carry_out(round, &queues, &shell).await,
            Err(fatal) => Err(fatal),
        };
        if let Err(fatal) = done {
            return (shell.on_fatal)(fatal);
        }
        // On a shared thread the network has its turn between two rounds, and the next round finds
        // more to do.
        yield_now().await;
    }
}

/// Applies come before the round's own log writes: their callers wait only for them.
async fn carry_out(round: super::Round, queues: &Queues, shell: &Shell) -> Result<(), Fatal> {
    shell.router.publish(round.views);
    shell.router.retract(&round.gone);
    shell.router.metrics.count_reads(&round.reads);
    shell.router.metrics.count_seen(&round.seen);
    let sends = !round.sends.is_empty();
    for (store, envelopes) in round.sends {
        shell.router.metrics.envelopes_sent.inc_by(envelopes.len() as u64);
        shell.transport.send(store, envelopes);
    }
    if sends && !round.log.is_empty() {
        // The write below may block this thread: messages go onto the wire first.
        for _ in 0..SEND_STEPS {
            yield_now().await;
        }
    }
    queues.apply.hand(round.apply, shell)?;
    queues.log.hand(round.log, shell)?;
    if !round.fetch.is_empty() {
        // The reader outlives the shards, so its queue is open.
        let _ = queues.fetch.send(round.fetch);
    }
    queues.snapshots.hand(round.snapshots);
    Ok(())
}

/// Lets every other task of this thread that is ready run once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Work for LogWriter {
    type Task = LogTask;

    fn bytes(task: &LogTask) -> usize {
        task.write.append.iter().map(|e| e.data.len()).sum()
    }

    /// A sync is what a shard reckons with, but not a slow one: it has leaderships to hand over.
    fn may_wait(&self, shell: &Shell) -> bool {
        shell.router.disk_is_slow()
    }

    fn work(&mut self, tasks: Vec<LogTask>, shell: &Shell) -> Result<(), Fatal> {
        let metrics = &shell.router.metrics;
        metrics.log_write_tasks.observe(tasks.len() as f64);
        let bytes: usize = tasks.iter().map(Self::bytes).sum();
        let start = shell.clock.now();
        shell.router.disk.lock().begin(start);
        let done = self.run_once(tasks)?;
        let end = shell.clock.now();
        shell.router.disk.lock().end(end, done.synced);
        if done.synced {
            metrics.log_write_seconds.observe(seconds(Nanos(end.0 - start.0)));
            metrics.log_bytes.inc_by(bytes as u64);
        }
        for (shard, persisted) in done.persisted {
            shell.router.inboxes[shard].push(ShardMessage::Persisted(persisted));
        }
        for (store, envelopes) in done.held {
            metrics.envelopes_sent.inc_by(envelopes.len() as u64);
            shell.transport.send(store, envelopes);
        }
        for reply in done.created {
            reply.send(Ok(Answer::Accepted));
        }
        Ok(())
    }
}

/// The apply worker with what the sync thread must know of it.
pub(crate) struct Applier {
    pub(crate) worker: ApplyWorker,
    pub(crate) unsynced: Arc<Mutex<Unsynced>>,
    /// To the thread that destroys states, with their shards.
    pub(crate) destroys: Sender<(usize, Applied)>,
}

impl Work for Applier {
    type Task = ApplyTask;

    fn bytes(task: &ApplyTask) -> usize {
        task.bytes
    }

    fn may_wait(&self, _shell: &Shell) -> bool {
        self.worker.may_wait()
    }

    fn work(&mut self, tasks: Vec<ApplyTask>, shell: &Shell) -> Result<(), Fatal> {
        let metrics = &shell.router.metrics;
        metrics.apply_tasks.observe(tasks.len() as f64);
        let start = shell.clock.now();
        let replay = tasks.iter().map(replay_time).sum();
        let proposed: Vec<Nanos> = tasks.iter().filter_map(|task| task.proposed).collect();
        let ApplyDone { replies, applied, destroys } = self.worker.run_once(tasks)?;
        let end = shell.clock.now();
        metrics.apply_seconds.observe(seconds(Nanos(end.0 - start.0)));
        for at in proposed {
            metrics.answer_seconds.observe(seconds(Nanos(end.0.saturating_sub(at.0))));
        }
        {
            // Whoever has an answer may read its entry.
            let mut unsynced = self.unsynced.lock();
            unsynced.replay += replay;
            applied.iter().for_each(|(_, applied)| unsynced.note(applied));
        }
        Reply::send_all(replies);
        for (shard, applied) in applied {
            shell.router.inboxes[shard].push(ShardMessage::Applied(applied));
        }
        for destroy in destroys {
            // That thread ends when this queue does, or with the process.
            let _ = self.destroys.send(destroy);
        }
        Ok(())
    }
}

/// The thread that destroys states: a large one takes seconds, in which other groups' applies go on. Ends
/// when its queue closes, or by a fatal error.
pub(crate) fn run_destroyer(
    state_machine: &dyn StateMachine,
    queue: &Receiver<(usize, Applied)>,
    stopped: &Receiver<()>,
    unsynced: &Mutex<Unsynced>,
    shell: &Shell,
) {
    while let Ok((shard, note)) = queue.recv() {
        // A stop does not wait for gigabytes: the next start finds the tombstones.
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        if let Err(fatal) = state_machine.destroy(note.group) {
            return (shell.on_fatal)(fatal);
        }
        let applied = vec![note];
        unsynced.lock().note(&applied);
        shell.router.inboxes[shard].push(ShardMessage::Applied(applied));
    }
}

pub(crate) fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

pub(crate) fn seconds_since(start: Nanos, shell: &Shell) -> f64 {
    seconds(Nanos(shell.clock.now().0 - start.0))
}

/// The reader's thread.
pub(crate) fn run_reader(log: &dyn LogStore, queue: &Receiver<Vec<FetchTask>>, shell: &Shell) {
    while let Ok(tasks) = queue.recv() {
        shell.router.metrics.fetches.inc_by(tasks.len() as u64);
        for (shard, fetched) in reader::fetch(log, tasks) {
            shell.router.inboxes[shard].push(ShardMessage::Fetched(fetched));
        }
    }
}

/// The ticker's thread: ends when `stop` closes.
pub(crate) fn run_ticker(interval: Duration, stop: &Receiver<()>, shell: &Shell) {
    while stop.recv_timeout(interval) == Err(crossbeam::channel::RecvTimeoutError::Timeout) {
        shell.router.watch_disk(shell.clock.now());
        shell.router.tell_all(|| ShardMessage::Tick);
    }
}
