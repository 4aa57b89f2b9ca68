//! The snapshot threads: each takes tasks from a queue, keeps to a rate, and tells the shard.
//!
//! Some make, some fetch, one gives what came to the state machine and removes what nobody needs: so
//! an install that has begun never waits for a slow sender.

use super::is_sync_failure;
use super::rate::Rate;
use super::traffic::Traffic;
use super::{LoadError, Manifest, Receiving, SnapshotId, SnapshotWorker};
use crate::error::Fatal;
use crate::message::{Asker, ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask};
use crate::shard::run::{Shell, seconds_since};
use crate::types::StoreId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

/// Attempts to get the next block before a fetch fails.
const ATTEMPTS: u32 = 5;
/// Waited before each but the first, times its number.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(200);

/// The queues to the snapshot threads.
#[derive(Clone)]
pub(crate) struct SnapshotQueues {
    pub(crate) makes: Sender<SnapshotTask>,
    pub(crate) fetches: Sender<SnapshotTask>,
    /// Loads and removals.
    pub(crate) loads: Sender<SnapshotTask>,
    pub(crate) traffic: Arc<Traffic>,
}

impl SnapshotQueues {
    /// The threads outlive the shards, so their queues are open.
    pub(crate) fn hand(&self, tasks: Vec<SnapshotTask>) {
        for task in tasks {
            let queue = match &task {
                SnapshotTask::Make { .. } => &self.makes,
                SnapshotTask::Fetch { .. } => &self.fetches,
                SnapshotTask::Load { .. } | SnapshotTask::Remove(_) => &self.loads,
            };
            if self.traffic.admit(&task) {
                let _ = queue.send(task);
            }
        }
    }
}

/// What a snapshot thread has.
#[derive(Clone)]
pub(crate) struct SnapshotThread {
    pub(crate) worker: SnapshotWorker,
    pub(crate) traffic: Arc<Traffic>,
    /// Of all threads that take from the same queue.
    pub(crate) rate: Arc<Rate>,
    /// Closes when the store stops.
    pub(crate) stopped: Receiver<()>,
    pub(crate) shell: Shell,
}

impl SnapshotThread {
    /// Ends when the queue closes, or by a fatal error.
    pub(crate) fn run(&self, queue: &Receiver<SnapshotTask>) {
        while let Ok(task) = queue.recv() {
            let done = match task {
                SnapshotTask::Make { asker, id, sync } => self.make(asker, id, sync),
                SnapshotTask::Fetch { from, manifest, .. } => {
                    let (id, start) = (manifest.id, self.shell.clock.now());
                    let fetched = self.fetch(from, manifest);
                    if let Err(error) = &fetched
                        && is_sync_failure(error)
                    {
                        // The next sync of the file would succeed, and say nothing of what is lost.
                        return (self.shell.on_fatal)(Fatal::new("sync of a snapshot", error));
                    }
                    let fetched = fetched.map_err(|error| error.to_string());
                    if fetched.is_ok() {
                        let metrics = &self.shell.router.metrics;
                        let seconds = seconds_since(start, &self.shell);
                        metrics.snapshot_receive_seconds.observe(seconds);
                    }
                    self.end(id, SnapshotEvent::Received(fetched));
                    Ok(())
                }
                SnapshotTask::Load { asker, manifest } => self.load(asker, &manifest),
                SnapshotTask::Remove(id) => {
                    self.remove(id);
                    Ok(())
                }
            };
            if let Err(fatal) = done {
                return (self.shell.on_fatal)(fatal);
            }
        }
    }

    fn make(&self, asker: Asker, id: SnapshotId, sync: bool) -> Result<(), Fatal> {
        let (mut bytes, start) = (0, self.shell.clock.now());
        let made = self.worker.make(id, asker.group, sync, &mut |block| {
            self.traffic.check(id)?;
            bytes += block as u64;
            self.traffic.reserve(id, bytes)?;
            self.pace(block)
        });
        let made = match made {
            Err(fatal) if fatal.damage => {
                let reason = fatal.to_string();
                self.damaged(asker, &reason);
                Err(reason)
            }
            made => made?,
        };
        let metrics = &self.shell.router.metrics;
        if made.is_ok() {
            metrics.snapshots_made.inc();
            metrics.snapshot_make_seconds.observe(seconds_since(start, &self.shell));
        }
        metrics.snapshot_bytes_made.inc_by(made.as_ref().map_or(0, |(_, content)| content.bytes));
        self.end(id, SnapshotEvent::Made(made));
        Ok(())
    }

    fn load(&self, asker: Asker, manifest: &Manifest) -> Result<(), Fatal> {
        let start = self.shell.clock.now();
        let loaded = match self.worker.load(manifest, &mut |block| self.pace(block)) {
            Ok(()) => Ok(()),
            // The next start does it.
            Err(LoadError::Damaged(_)) if self.is_stopped() => return Ok(()),
            Err(LoadError::Damaged(reason)) => Err(reason),
            Err(LoadError::Fatal(fatal)) if fatal.damage => {
                let reason = fatal.to_string();
                self.damaged(asker, &reason);
                Err(reason)
            }
            Err(LoadError::Fatal(fatal)) => return Err(fatal),
        };
        if loaded.is_ok() {
            let metrics = &self.shell.router.metrics;
            metrics.snapshots_installed.inc();
            metrics.snapshot_install_seconds.observe(seconds_since(start, &self.shell));
        }
        self.tell(asker, manifest.id, SnapshotEvent::Loaded(loaded));
        Ok(())
    }

    /// The state of the group here is damaged: its replica hears so before anything else.
    fn damaged(&self, asker: Asker, reason: &str) {
        let Asker { shard, group, replica } = asker;
        let reason = reason.to_owned();
        let message = ShardMessage::StateDamaged { group, replica, reason };
        self.shell.router.inboxes[shard].push(message);
    }

    /// Deletes what nobody wants any more.
    fn remove(&self, id: SnapshotId) {
        if !self.traffic.begin_removal(id) {
            return;
        }
        match self.worker.store().remove(id) {
            Ok(()) => self.traffic.release(id),
            Err(error) => tracing::warn!(snapshot = %id, %error, "cannot delete a snapshot"),
        }
        if let Some(asker) = self.traffic.end(id) {
            let removed = "what was here of it was just being deleted".to_owned();
            self.tell(asker, id, SnapshotEvent::Received(Err(removed)));
        }
    }

    /// What was made or fetched goes when nobody wants it any more.
    fn end(&self, id: SnapshotId, event: SnapshotEvent) {
        let asker = self.traffic.end(id);
        self.remove(id);
        if let Some(asker) = asker {
            self.tell(asker, id, event);
        }
    }

    fn tell(&self, asker: Asker, id: SnapshotId, event: SnapshotEvent) {
        let note = SnapshotNote { asker, id, event };
        self.shell.router.inboxes[asker.shard].push(ShardMessage::Snapshots(vec![note]));
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits, unless the store stops meanwhile.
    fn wait(&self, duration: Duration) -> io::Result<()> {
        match self.stopped.recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(io::Error::new(ErrorKind::Interrupted, "the store is stopping")),
        }
    }

    fn pace(&self, bytes: usize) -> io::Result<()> {
        self.wait(self.rate.take(self.shell.clock.now(), bytes))
    }

    fn fetch(&self, from: StoreId, manifest: Manifest) -> io::Result<()> {
        let id = manifest.id;
        self.traffic.check(id)?;
        self.traffic.reserve(id, manifest.content.bytes)?;
        let mut receiving = Receiving::resume(self.worker.store(), manifest)?;
        let mut failures = 0;
        while let Some(first) = receiving.next() {
            let Err(error) = self.fetch_from(from, id, first, &mut receiving) else { continue };
            self.traffic.check(id)?;
            if is_sync_failure(&error) {
                return Err(error);
            }
            let moved = receiving.next() != Some(first);
            failures = if moved { 1 } else { failures + 1 };
            if failures == ATTEMPTS || self.is_stopped() {
                return Err(error);
            }
            tracing::debug!(snapshot = %id, %error, "snapshot stream ended, goes on");
            self.wait(ATTEMPT_INTERVAL * failures)?;
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
            self.traffic.check(id)?;
            let block = match block {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(Duration::ZERO)?;
                    continue;
                }
                block => block?,
            };
            self.pace(block.len())?;
            receiving.take(&block)?;
            self.shell.router.metrics.snapshot_bytes_received.inc_by(block.len() as u64);
            if receiving.next().is_none() {
                return Ok(());
            }
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, "the stream ended early"))
    }
}
