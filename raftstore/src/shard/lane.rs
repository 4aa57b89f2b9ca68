//! The way from the shards to a worker: through its queue, or, while the worker is idle and the
//! work is small, done by the shard at once.
//!
//! A hand-over between threads costs more than a small write does. With one put in flight the
//! shard writes its log and applies by itself; as soon as there is more to do the log's worker has
//! tasks waiting, everything goes through its queue, and batches grow. On few cores applies are
//! worth a hand-over only when they are large. Order is kept: a shard works by itself only when
//! nothing waits and nobody else is at it.

use super::run::Shell;
use crate::error::Fatal;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of entries that a worker merges at most, beyond its first list of tasks.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What a worker does with tasks, effects included.
pub(crate) trait Work: Send {
    /// One task.
    type Task: Send;

    /// What it counts for in limits.
    fn bytes(task: &Self::Task) -> usize;

    /// Whether `tasks`, small as they are, might block for long now.
    fn may_wait(&self, tasks: &[Self::Task]) -> bool;

    /// Does `tasks` in order and carries out what follows. Blocks on the disk.
    fn work(&mut self, tasks: Vec<Self::Task>, shell: &Shell) -> Result<(), Fatal>;
}

/// See the module.
pub(crate) struct Lane<W: Work> {
    worker: Arc<Mutex<W>>,
    queue: Sender<Vec<W::Task>>,
    /// Lists queued and not yet done.
    waiting: Arc<AtomicUsize>,
    inline_bytes_max: usize,
}

impl<W: Work> Clone for Lane<W> {
    fn clone(&self) -> Self {
        Lane {
            worker: Arc::clone(&self.worker),
            queue: self.queue.clone(),
            waiting: Arc::clone(&self.waiting),
            inline_bytes_max: self.inline_bytes_max,
        }
    }
}

/// The worker's end of a lane.
pub(crate) struct LaneEnd<W: Work> {
    worker: Arc<Mutex<W>>,
    queue: Receiver<Vec<W::Task>>,
    waiting: Arc<AtomicUsize>,
}

/// A lane to `worker`; shards do up to `inline_bytes_max` by themselves.
pub(crate) fn lane<W: Work>(worker: W, inline_bytes_max: usize) -> (Lane<W>, LaneEnd<W>) {
    let (sender, receiver) = unbounded();
    let worker = Arc::new(Mutex::new(worker));
    let waiting = Arc::new(AtomicUsize::new(0));
    let end =
        LaneEnd { worker: Arc::clone(&worker), queue: receiver, waiting: Arc::clone(&waiting) };
    (Lane { worker, queue: sender, waiting, inline_bytes_max }, end)
}

impl<W: Work> Lane<W> {
    /// Has `tasks` done, here or by the worker's thread.
    pub(crate) fn hand(&self, tasks: Vec<W::Task>, shell: &Shell) -> Result<(), Fatal> {
        if tasks.is_empty() {
            return Ok(());
        }
        let small = tasks.iter().map(W::bytes).sum::<usize>() < self.inline_bytes_max;
        if small
            && self.waiting.load(Ordering::Acquire) == 0
            && let Some(mut worker) = self.worker.try_lock()
            && !worker.may_wait(&tasks)
        {
            return worker.work(tasks, shell);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // The workers outlive the shards, so their queues are open.
        let _ = self.queue.send(tasks);
        Ok(())
    }
}

impl<W: Work> LaneEnd<W> {
    /// The worker's thread: merges what waits, up to about `BATCH_BYTES_MAX`, and does it.
    pub(crate) fn run(&self, shell: &Shell) {
        while let Ok(mut tasks) = self.queue.recv() {
            let mut lists = 1;
            let mut total: usize = tasks.iter().map(W::bytes).sum();
            while total < BATCH_BYTES_MAX
                && let Ok(more) = self.queue.try_recv()
            {
                total += more.iter().map(W::bytes).sum::<usize>();
                tasks.extend(more);
                lists += 1;
            }
            if let Err(fatal) = self.worker.lock().work(tasks, shell) {
                return (shell.on_fatal)(fatal);
            }
            self.waiting.fetch_sub(lists, Ordering::AcqRel);
        }
    }
}
