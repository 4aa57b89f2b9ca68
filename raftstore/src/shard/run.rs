//! The threads of a store: each a short loop around a `run_once`. The only place, with the sync
//! loop below, that blocks.

use super::Shard;
use crate::apply::StateMachine;
use crate::apply::worker::ApplyWorker;
use crate::clock::Clock;
use crate::error::Fatal;
use crate::log::writer::LogWriter;
use crate::log::{LogStore, reader};
use crate::message::{Applied, ApplyTask, FetchTask, LogTask, ShardMessage};
use crate::router::Router;
use crate::transport::Transport;
use crate::types::{GroupId, Nanos};
use crossbeam::channel::{Receiver, Sender, TryRecvError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Messages that one round takes at most.
const ROUND_MESSAGES_MAX: usize = 8_192;
/// Bytes of entries that one log write or apply batch merges at most, beyond its first task list.
const BATCH_BYTES_MAX: usize = 8 << 20;

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
    pub(crate) log: Sender<Vec<LogTask>>,
    pub(crate) apply: Sender<Vec<ApplyTask>>,
    pub(crate) fetch: Sender<Vec<FetchTask>>,
}

/// A shard's thread: blocks for the first message, takes what else is there, makes a round.
pub(crate) fn run_shard(
    mut shard: Shard,
    number: usize,
    inbox: &Receiver<ShardMessage>,
    queues: &Queues,
    shell: &Shell,
) {
    while let Ok(first) = inbox.recv() {
        let mut messages = vec![first];
        while messages.len() < ROUND_MESSAGES_MAX
            && let Ok(message) = inbox.try_recv()
        {
            messages.push(message);
        }
        let metrics = &shell.router.metrics;
        metrics.rounds.inc();
        metrics.inbox_messages.inc_by(messages.len() as u64);
        let from_peers = |m: &ShardMessage| match m {
            ShardMessage::Deliver { envelopes, .. } => envelopes.len(),
            _ => 0,
        };
        shell.router.inboxes[number].taken(messages.iter().map(from_peers).sum());
        match shard.round(messages, shell.clock.now()) {
            Ok(round) => carry_out(round, queues, shell),
            Err(fatal) => return (shell.on_fatal)(fatal),
        }
        if shard.stopped() {
            return;
        }
    }
}

/// The workers outlive the shards, so their queues are open.
fn carry_out(round: super::Round, queues: &Queues, shell: &Shell) {
    shell.router.publish(round.views);
    for (store, envelopes) in round.sends {
        shell.router.metrics.envelopes_sent.inc_by(envelopes.len() as u64);
        shell.transport.send(store, envelopes);
    }
    if !round.log.is_empty() {
        let _ = queues.log.send(round.log);
    }
    if !round.apply.is_empty() {
        let _ = queues.apply.send(round.apply);
    }
    if !round.fetch.is_empty() {
        let _ = queues.fetch.send(round.fetch);
    }
}

/// Blocks for one list, then merges what waits, up to about `BATCH_BYTES_MAX`.
fn gather<T>(queue: &Receiver<Vec<T>>, bytes: impl Fn(&T) -> usize) -> Option<Vec<T>> {
    let mut tasks = queue.recv().ok()?;
    let mut total: usize = tasks.iter().map(&bytes).sum();
    while total < BATCH_BYTES_MAX {
        match queue.try_recv() {
            Ok(more) => {
                total += more.iter().map(&bytes).sum::<usize>();
                tasks.extend(more);
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    Some(tasks)
}

/// The log writer's thread.
pub(crate) fn run_log(mut writer: LogWriter, queue: &Receiver<Vec<LogTask>>, shell: &Shell) {
    let size = |task: &LogTask| task.write.append.iter().map(|e| e.data.len()).sum();
    while let Some(tasks) = gather(queue, size) {
        let metrics = &shell.router.metrics;
        metrics.log_write_tasks.observe(tasks.len() as f64);
        let start = shell.clock.now();
        let done = match writer.run_once(tasks) {
            Ok(done) => done,
            Err(fatal) => return (shell.on_fatal)(fatal),
        };
        if done.synced {
            metrics.log_write_seconds.observe(seconds_since(start, shell));
        }
        for (shard, persisted) in done.persisted {
            shell.router.inboxes[shard].push(ShardMessage::Persisted(persisted));
        }
        for (store, envelopes) in done.held {
            metrics.envelopes_sent.inc_by(envelopes.len() as u64);
            shell.transport.send(store, envelopes);
        }
        for reply in done.created {
            reply.send(Ok(crate::completion::Answer::Accepted));
        }
    }
}

fn seconds_since(start: Nanos, shell: &Shell) -> f64 {
    (shell.clock.now().0 - start.0) as f64 / 1e9
}

/// What is applied, for the sync thread.
pub(crate) type AppliedTable = Arc<Mutex<BTreeMap<GroupId, u64>>>;

/// An apply thread.
pub(crate) fn run_apply(
    mut worker: ApplyWorker,
    queue: &Receiver<Vec<ApplyTask>>,
    table: &AppliedTable,
    shell: &Shell,
) {
    while let Some(tasks) = gather(queue, |task| task.bytes) {
        let metrics = &shell.router.metrics;
        metrics.apply_tasks.observe(tasks.len() as f64);
        let start = shell.clock.now();
        let done = match worker.run_once(tasks) {
            Ok(done) => done,
            Err(fatal) => return (shell.on_fatal)(fatal),
        };
        metrics.apply_seconds.observe(seconds_since(start, shell));
        for (reply, outcome) in done.replies {
            reply.send(outcome);
        }
        for (shard, applied) in done.applied {
            note_applied(table, &applied);
            shell.router.inboxes[shard].push(ShardMessage::Applied(applied));
        }
    }
}

fn note_applied(table: &AppliedTable, applied: &[Applied]) {
    let mut table = table.lock();
    for note in applied.iter().filter(|note| note.index > 0) {
        table.insert(note.group, note.index);
    }
}

/// The reader's thread.
pub(crate) fn run_reader(log: &dyn LogStore, queue: &Receiver<Vec<FetchTask>>, shell: &Shell) {
    while let Some(tasks) = gather(queue, |task| task.bytes_max) {
        shell.router.metrics.fetches.inc_by(tasks.len() as u64);
        for (shard, fetched) in reader::fetch(log, tasks) {
            shell.router.inboxes[shard].push(ShardMessage::Fetched(fetched));
        }
    }
}

/// The ticker's thread: ends when `stop` closes.
pub(crate) fn run_ticker(interval: Duration, stop: &Receiver<()>, shell: &Shell) {
    while stop.recv_timeout(interval) == Err(crossbeam::channel::RecvTimeoutError::Timeout) {
        shell.router.tell_all(|| ShardMessage::Tick);
    }
}

/// The sync thread: makes the state machine durable from time to time, and tells the shards how
/// far, so that the log can be cut. Syncs once more at the end.
pub(crate) fn run_sync(
    state_machine: &dyn StateMachine,
    interval: Duration,
    stop: &Receiver<()>,
    table: &AppliedTable,
    shell: &Shell,
) {
    let mut synced = BTreeMap::new();
    let mut wait = interval;
    loop {
        let ended = stop.recv_timeout(wait) != Err(crossbeam::channel::RecvTimeoutError::Timeout);
        let applied = table.lock().clone();
        let changed: Vec<(GroupId, u64)> = applied
            .iter()
            .filter(|(group, index)| synced.get(*group) != Some(*index))
            .map(|(group, index)| (*group, *index))
            .collect();
        if !changed.is_empty() {
            let start = shell.clock.now();
            if let Err(fatal) = state_machine.sync() {
                return (shell.on_fatal)(fatal);
            }
            let seconds = seconds_since(start, shell);
            shell.router.metrics.sync_seconds.observe(seconds);
            // A state machine whose sync is long (it writes out all that is in memory) has it
            // more rarely: at most a twentieth of the time.
            wait = interval.max(Duration::from_secs_f64(seconds * 20.0));
            synced = applied;
            shell.router.tell_all(|| ShardMessage::DurableApplied(changed.clone()));
        }
        if ended {
            return;
        }
    }
}
