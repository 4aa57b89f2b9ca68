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

    /// Whether a small task might block for long now.
    fn may_wait(&self, shell: &Shell) -> bool;

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
    /// Lists of tasks that wait for the worker's thread, or are with it.
    pub(crate) fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waiting)
    }

    /// Has `tasks` done, here or by the worker's thread.
    pub(crate) fn hand(&self, tasks: Vec<W::Task>, shell: &Shell) -> Result<(), Fatal> {
        if tasks.is_empty() {
            return Ok(());
        }
        let small = tasks.iter().map(W::bytes).sum::<usize>() < self.inline_bytes_max;
        if small
            && self.waiting.load(Ordering::Acquire) == 0
            && let Some(mut worker) = self.worker.try_lock()
            && !worker.may_wait(shell)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use crate::log::MemoryLog;
    use crate::metrics::Metrics;
    use crate::router::Router;
    use crate::transport::MemoryNetwork;
    use crate::types::StoreId;
    use std::sync::atomic::AtomicBool;
    use std::thread::{self, ThreadId};

    const INLINE_BYTES_MAX: usize = 100;
    const SMALL: usize = 1;
    const LARGE: usize = 1_000;

    /// Notes who did what; a task that has one waits at its gate.
    #[derive(Default)]
    struct Stub {
        done: Arc<Mutex<Vec<(u64, ThreadId)>>>,
        may_wait: Arc<AtomicBool>,
    }

    struct Task {
        number: u64,
        bytes: usize,
        gate: Option<Receiver<()>>,
    }

    impl Work for Stub {
        type Task = Task;

        fn bytes(task: &Task) -> usize {
            task.bytes
        }

        fn may_wait(&self, _shell: &Shell) -> bool {
            self.may_wait.load(Ordering::Relaxed)
        }

        fn work(&mut self, tasks: Vec<Task>, _shell: &Shell) -> Result<(), Fatal> {
            for task in tasks {
                if let Some(gate) = task.gate {
                    gate.recv().unwrap();
                }
                self.done.lock().push((task.number, thread::current().id()));
            }
            Ok(())
        }
    }

    fn shell() -> Shell {
        let config = Arc::new(Config::default());
        Shell {
            router: Arc::new(Router::new(config, Vec::new(), MemoryLog::new(), Metrics::new())),
            transport: MemoryNetwork::new().link(StoreId(1)),
            clock: Arc::new(SystemClock),
            on_fatal: Arc::new(|fatal| panic!("{fatal}")),
        }
    }

    fn task(number: u64, bytes: usize) -> Vec<Task> {
        vec![Task { number, bytes, gate: None }]
    }

    /// What `hand` hands over, as the numbers in their order and whether this thread did them.
    fn run(hand: impl FnOnce(&Lane<Stub>, &Shell, &AtomicBool)) -> Vec<(u64, bool)> {
        let stub = Stub::default();
        let (done, may_wait) = (Arc::clone(&stub.done), Arc::clone(&stub.may_wait));
        let (lane, end) = lane(stub, INLINE_BYTES_MAX);
        let shell = shell();
        thread::scope(|scope| {
            scope.spawn(|| end.run(&shell));
            hand(&lane, &shell, &may_wait);
            drop(lane);
        });
        let me = thread::current().id();
        let done = done.lock();
        done.iter().map(|(number, by)| (*number, *by == me)).collect()
    }

    #[test]
    fn small_work_is_done_at_once_and_large_work_by_the_worker() {
        let done = run(|lane, shell, may_wait| {
            lane.hand(task(0, SMALL), shell).unwrap();
            may_wait.store(true, Ordering::Relaxed);
            lane.hand(task(1, SMALL), shell).unwrap();
            lane.hand(task(2, LARGE), shell).unwrap();
        });
        assert_eq!(done, [(0, true), (1, false), (2, false)]);
    }

    #[test]
    fn small_work_waits_behind_what_the_worker_has() {
        let done = run(|lane, shell, _| {
            let (open, gate) = unbounded();
            let first = Task { number: 0, bytes: LARGE, gate: Some(gate) };
            lane.hand(vec![first], shell).unwrap();
            lane.hand(task(1, SMALL), shell).unwrap();
            open.send(()).unwrap();
        });
        assert_eq!(done, [(0, false), (1, false)]);
    }

    #[test]
    fn order_is_kept_however_the_work_is_done() {
        let done = run(|lane, shell, _| {
            for number in 0..10_000 {
                let bytes = if number % 7 == 0 { LARGE } else { SMALL };
                lane.hand(task(number, bytes), shell).unwrap();
            }
        });
        assert!(done.iter().map(|(number, _)| *number).eq(0..10_000));
        assert!(done.iter().any(|(_, by_me)| !by_me));
    }
}
