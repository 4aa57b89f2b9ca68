//! The snapshot threads: each takes tasks from a queue, keeps to a rate, and tells the shard.

use super::{LoadError, Manifest, Receiving, SnapshotId, SnapshotWorker};
use crate::message::{ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask};
use crate::shard::run::Shell;
use crate::types::StoreId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::io::{self, ErrorKind};
use std::time::Duration;

/// Attempts to get the next block before a fetch fails.
const ATTEMPTS: u32 = 5;
/// Waited before each but the first, times its number.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(200);

/// The queues to the snapshot threads.
#[derive(Clone)]
pub(crate) struct SnapshotQueues {
    pub(crate) makes: Sender<SnapshotTask>,
    pub(crate) receives: Sender<SnapshotTask>,
}

impl SnapshotQueues {
    /// The threads outlive the shards, so their queues are open.
    pub(crate) fn hand(&self, tasks: Vec<SnapshotTask>) {
        for task in tasks {
            let queue = match task {
                SnapshotTask::Make { .. } => &self.makes,
                // Behind the fetch of the same snapshot.
                SnapshotTask::Fetch { .. }
                | SnapshotTask::Load { .. }
                | SnapshotTask::Remove(_) => &self.receives,
            };
            let _ = queue.send(task);
        }
    }
}

/// What a snapshot thread has.
#[derive(Clone)]
pub(crate) struct SnapshotThread {
    pub(crate) worker: SnapshotWorker,
    pub(crate) bytes_per_second: u64,
    /// Closes when the store stops.
    pub(crate) stopped: Receiver<()>,
    pub(crate) shell: Shell,
}

impl SnapshotThread {
    /// Ends when the queue closes.
    pub(crate) fn run(&self, queue: &Receiver<SnapshotTask>) {
        while let Ok(task) = queue.recv() {
            let (asker, id, event) = match task {
                SnapshotTask::Make { asker, id } => {
                    let made = self.worker.make(id, asker.group, &mut |bytes| self.pace(bytes));
                    match made {
                        Ok(made) => {
                            let bytes = made.as_ref().map_or(0, |(_, content)| content.bytes);
                            let metrics = &self.shell.router.metrics;
                            metrics.snapshots_made.inc_by(u64::from(made.is_ok()));
                            metrics.snapshot_bytes_made.inc_by(bytes);
                            (asker, id, SnapshotEvent::Made(made))
                        }
                        Err(fatal) => return (self.shell.on_fatal)(fatal),
                    }
                }
                SnapshotTask::Fetch { asker, from, manifest } => {
                    let id = manifest.id;
                    let fetched = self.fetch(from, manifest).map_err(|error| error.to_string());
                    (asker, id, SnapshotEvent::Received(fetched))
                }
                SnapshotTask::Load { asker, manifest } => {
                    let loaded = match self.worker.load(&manifest, &mut |bytes| self.pace(bytes)) {
                        Ok(()) => Ok(()),
                        // The next start does it.
                        Err(LoadError::Damaged(_)) if self.is_stopped() => continue,
                        Err(LoadError::Damaged(reason)) => Err(reason),
                        Err(LoadError::Fatal(fatal)) => return (self.shell.on_fatal)(fatal),
                    };
                    self.shell.router.metrics.snapshots_installed.inc();
                    (asker, manifest.id, SnapshotEvent::Loaded(loaded))
                }
                SnapshotTask::Remove(id) => {
                    if let Err(error) = self.worker.store().remove(id) {
                        tracing::warn!(snapshot = %id, %error, "cannot delete a snapshot");
                    }
                    continue;
                }
            };
            let note = SnapshotNote { asker, id, event };
            self.shell.router.inboxes[asker.shard].push(ShardMessage::Snapshots(vec![note]));
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(crossbeam::channel::TryRecvError::Disconnected)
    }

    /// Waits, unless the store stops meanwhile.
    fn wait(&self, duration: Duration) -> io::Result<()> {
        match self.stopped.recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(io::Error::new(ErrorKind::Interrupted, "the store is stopping")),
        }
    }

    fn pace(&self, bytes: usize) -> io::Result<()> {
        self.wait(Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64))
    }

    fn fetch(&self, from: StoreId, manifest: Manifest) -> io::Result<()> {
        let id = manifest.id;
        let mut receiving = Receiving::resume(self.worker.store(), manifest);
        let mut failures = 0;
        while let Some(first) = receiving.next() {
            match self.fetch_from(from, id, first, &mut receiving) {
                Ok(()) => {}
                Err(error) if failures + 1 == ATTEMPTS || self.is_stopped() => return Err(error),
                Err(error) => {
                    let moved = receiving.next() != Some(first);
                    failures = if moved { 1 } else { failures + 1 };
                    tracing::debug!(snapshot = %id, %error, "snapshot stream ended, goes on");
                    self.wait(ATTEMPT_INTERVAL * failures)?;
                }
            }
        }
        receiving.finish()
    }

    /// One stream of blocks, from `first` on.
    fn fetch_from(
        &self,
        from: StoreId,
        id: SnapshotId,
        first: u64,
        receiving: &mut Receiving,
    ) -> io::Result<()> {
        let blocks = self.shell.transport.fetch(from, id, first)?;
        for block in blocks {
            let block = block?;
            receiving.take(&block)?;
            self.shell.router.metrics.snapshot_bytes_received.inc_by(block.len() as u64);
            if receiving.next().is_none() {
                return Ok(());
            }
            self.pace(block.len())?;
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, "the stream ended early"))
    }
}
