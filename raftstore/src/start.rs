//! Start and stop of a store: recovery, threads, and the order in which they end.

use crate::apply::StateMachine;
use crate::apply::worker::ApplyWorker;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Fatal, LogError};
use crate::log::LogStore;
use crate::log::writer::LogWriter;
use crate::message::{ShardMessage, SnapshotTask};
use crate::metrics::{Gauges, Metrics};
use crate::recovery::{RecoveredGroup, recover};
use crate::router::Router;
use crate::shard::inbox::{InboxEnd, inbox};
use crate::shard::lane::lane;
use crate::shard::run::{Applier, Queues, Shell, run_destroyer, run_reader, run_shard, run_ticker};
use crate::shard::sync::{Unsynced, run_sync};
use crate::shard::{Shard, ShardConfig};
use crate::snapshot::run::{SnapshotQueues, SnapshotThread};
use crate::snapshot::{Rate, SnapshotStore, SnapshotWorker, Traffic};
use crate::store::Store;
use crate::transport::Transport;
use crate::types::StoreId;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Niceness of the threads that make, take and destroy whole states.
const PATIENT: i32 = 5;

/// Why a store did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of range; the text names it.
    #[error("setting {0}")]
    Config(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The recovered state cannot be started from.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A shard at work: ends when its store stops.
pub type ShardTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a store is made of.
pub struct StoreBuilder {
    /// Settings.
    pub config: Config,
    /// This store's id.
    pub store: StoreId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The way to other stores. Hand the started [`Store`] to it as [`crate::Inbound`].
    pub transport: Arc<dyn Transport>,
    /// The log of all groups.
    pub log: Arc<dyn LogStore>,
    /// Where snapshots are kept.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// What commands act on.
    pub state_machine: Arc<dyn StateMachine>,
    /// Called once by the thread that meets a fatal error; it should end the process. The thread
    /// ends when it returns.
    pub on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    /// Source of election timeouts: random in production.
    pub seed: u64,
}

impl StoreBuilder {
    /// Recovers every group from the log and the state machine and starts the threads, one a
    /// shard among them. Blocks for the recovery.
    pub fn start(self) -> Result<Store, StartError> {
        self.start_with(&|shard| {
            thread("shard", move || futures::executor::block_on(shard)).map(drop)
        })
    }

    /// As [`Self::start`], with the shards where `spawn` puts them: on threads of their own, or
    /// as tasks on an executor.
    ///
    /// A shard that shares its thread with the connections that it serves takes and gives without
    /// a hand-over between threads. It does small writes to the disk by itself
    /// ([`Config::inline_bytes_max`]) and applies ([`Config::inline_apply_bytes_max`]), so it
    /// blocks that thread for about a sync.
    pub fn start_with(
        self,
        spawn: &dyn Fn(ShardTask) -> std::io::Result<()>,
    ) -> Result<Store, StartError> {
        self.config.validate().map_err(StartError::Config)?;
        // What was recovered counts as durable from here on, so it must be: after a kill the
        // page cache may hold what the disk does not.
        self.state_machine.sync()?;
        let worker = self.snapshot_worker();
        let groups = recover(&*self.log, &*self.state_machine, &worker)?;
        let config = Arc::new(self.config.clone());
        let (inboxes, ends): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| inbox()).unzip();
        let log = Arc::clone(&self.log);
        let router = Arc::new(Router::new(Arc::clone(&config), inboxes, log, Metrics::new()));
        let shell = Shell {
            router: Arc::clone(&router),
            transport: Arc::clone(&self.transport),
            clock: Arc::clone(&self.clock),
            on_fatal: Arc::clone(&self.on_fatal),
        };
        let unsynced = unsynced(&groups);
        let traffic = Traffic::new(config.snapshot_disk_bytes_max);
        for manifest in groups.iter().flat_map(|group| &group.snapshots) {
            traffic.found(manifest.id, manifest.content.bytes);
        }
        let shards = self.shards(&config, groups)?;
        for shard in &shards {
            router.publish(shard.views());
            router.retract(&shard.tombstones());
        }
        let threads = self.spawn(shards, ends, &unsynced, traffic, &shell, spawn)?;
        let threads = Arc::new(Mutex::new(Some(threads)));
        Ok(Store { router, unsynced, snapshots: self.snapshots, threads })
    }

    fn snapshot_worker(&self) -> SnapshotWorker {
        let (store, machine) = (Arc::clone(&self.snapshots), Arc::clone(&self.state_machine));
        SnapshotWorker::new(store, machine, self.config.snapshot_block_bytes)
    }

    /// The snapshot threads, and the queues to them.
    fn spawn_snapshots(
        &self,
        traffic: Traffic,
        shell: &Shell,
        stopped: &Receiver<()>,
        threads: &mut Threads,
    ) -> Result<SnapshotQueues, StartError> {
        let traffic = Arc::new(traffic);
        let mut pool = |name: &str, count: usize| -> Result<Sender<SnapshotTask>, StartError> {
            let (sender, queue) = unbounded();
            let own = SnapshotThread {
                worker: self.snapshot_worker(),
                traffic: Arc::clone(&traffic),
                rate: Arc::new(Rate::new(self.config.snapshot_bytes_per_second)),
                stopped: stopped.clone(),
                shell: shell.clone(),
            };
            for _ in 0..count {
                let (own, queue) = (own.clone(), queue.clone());
                let run = move || {
                    let_others_go_first();
                    own.run(&queue);
                };
                threads.snapshots.push(thread(name, run)?);
            }
            Ok(sender)
        };
        let makes = pool("snapshot-save", self.config.snapshot_makes_max)?;
        let fetches = pool("snapshot-fetch", self.config.snapshot_receives_max)?;
        let loads = pool("snapshot-load", 1)?;
        Ok(SnapshotQueues { makes, fetches, loads, traffic })
    }

    fn shards(
        &self,
        config: &Arc<Config>,
        groups: Vec<RecoveredGroup>,
    ) -> Result<Vec<Shard>, Fatal> {
        let mut parts: Vec<Vec<RecoveredGroup>> = vec![Vec::new(); config.shards];
        for group in groups {
            parts[(group.log.group.0 % config.shards as u64) as usize].push(group);
        }
        let build = |(shard, groups)| {
            let parts = ShardConfig {
                config: Arc::clone(config),
                shard,
                store: self.store,
                seed: self.seed,
                log: Arc::clone(&self.log),
            };
            Shard::new(parts, groups)
        };
        parts.into_iter().enumerate().map(build).collect()
    }

    fn spawn(
        &self,
        shards: Vec<Shard>,
        inboxes: Vec<InboxEnd>,
        unsynced: &Arc<Mutex<Unsynced>>,
        traffic: Traffic,
        shell: &Shell,
        spawn: &dyn Fn(ShardTask) -> std::io::Result<()>,
    ) -> Result<Threads, StartError> {
        let writer = LogWriter::new(Arc::clone(&self.log));
        let (log, log_end) = lane(writer, self.config.inline_bytes_max);
        let worker = ApplyWorker::new(Arc::clone(&self.state_machine));
        let (destroys, destroy_queue) = unbounded();
        let applier = Applier { worker, unsynced: Arc::clone(unsynced), destroys };
        let (apply, apply_end) = lane(applier, self.config.inline_apply_bytes_max);
        let lanes = [log.waiting(), apply.waiting()];
        Gauges::register(&shell.router, lanes);
        let (fetch, fetch_queue) = unbounded();
        let (stop, stopped) = unbounded::<()>();
        let mut threads = Threads { stop, ..Threads::default() };

        let own = shell.clone();
        threads.workers.push(thread("log", move || log_end.run(&own))?);
        let own = shell.clone();
        threads.workers.push(thread("apply", move || apply_end.run(&own))?);
        let (own, own_unsynced) = (shell.clone(), Arc::clone(unsynced));
        let state_machine = Arc::clone(&self.state_machine);
        let (stop_patient, patient_stopped) = unbounded();
        threads.stop_patient = stop_patient;
        let own_stopped = patient_stopped.clone();
        let run = move || {
            let_others_go_first();
            run_destroyer(&*state_machine, &destroy_queue, &own_stopped, &own_unsynced, &own);
        };
        threads.workers.push(thread("destroy", run)?);
        let (own, own_log) = (shell.clone(), Arc::clone(&self.log));
        let run = move || run_reader(&*own_log, &fetch_queue, &own);
        threads.workers.push(thread("reader", run)?);

        let snapshots = self.spawn_snapshots(traffic, shell, &patient_stopped, &mut threads)?;
        let queues = Queues { log, apply, fetch, snapshots };
        for (shard, inbox) in shards.into_iter().zip(inboxes) {
            let run = run_shard(shard, inbox, queues.clone(), shell.clone());
            let (running, ended) = unbounded::<()>();
            spawn(Box::pin(async move {
                // Dropped at the end, or with a task that its executor gives up.
                let _running = running;
                run.await;
            }))?;
            threads.shards.push(ended);
        }
        drop(queues);

        let interval = Duration::from_millis(self.config.tick_interval_ms);
        let (own, own_stopped) = (shell.clone(), stopped.clone());
        threads.timers.push(thread("ticker", move || run_ticker(interval, &own_stopped, &own))?);
        let interval = Duration::from_millis(self.config.sync_interval_ms);
        let (own, unsynced) = (shell.clone(), Arc::clone(unsynced));
        let state_machine = Arc::clone(&self.state_machine);
        let run = move || run_sync(&*state_machine, interval, &stopped, &unsynced, &own);
        threads.sync.push(thread("sync", run)?);
        Ok(threads)
    }
}

fn unsynced(groups: &[RecoveredGroup]) -> Arc<Mutex<Unsynced>> {
    let applied = groups.iter().filter(|g| g.damage.is_none() && g.applied > 0);
    let applied = applied.map(|g| (g.log.group, (g.log.record.replica, g.applied)));
    Arc::new(Mutex::new(Unsynced::new(applied.collect())))
}

fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, std::io::Error> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// What the calling thread does has time, and takes much of a processor: with few of them everybody else
/// would wait behind it.
fn let_others_go_first() {
    // Of no process means of this thread, on Linux.
    if let Err(error) = rustix::process::setpriority_process(None, PATIENT) {
        tracing::debug!(%error, "a thread that has time is as quick as any other");
    }
}

/// The threads of a store, in the order in which they end.
pub(crate) struct Threads {
    stop: Sender<()>,
    timers: Vec<JoinHandle<()>>,
    /// Each closes when its shard has ended.
    shards: Vec<Receiver<()>>,
    workers: Vec<JoinHandle<()>>,
    stop_patient: Sender<()>,
    snapshots: Vec<JoinHandle<()>>,
    sync: Vec<JoinHandle<()>>,
}

impl Default for Threads {
    fn default() -> Self {
        let (stop, _) = unbounded();
        Threads {
            stop,
            timers: Vec::new(),
            shards: Vec::new(),
            workers: Vec::new(),
            stop_patient: unbounded().0,
            snapshots: Vec::new(),
            sync: Vec::new(),
        }
    }
}

impl Threads {
    /// Shards answer their callers and end; their queues close, so the workers finish what is
    /// queued and end; those that have time (snapshots, states to be destroyed) leave what they do; the
    /// sync thread, last, makes it all durable.
    pub(crate) fn stop(self, router: &Router) {
        router.tell_all(|| ShardMessage::Stop);
        for ended in self.shards {
            // Nothing is ever sent: the error says that the shard is gone.
            let _ = ended.recv();
        }
        drop(self.stop_patient);
        join(self.workers);
        join(self.snapshots);
        drop(self.stop);
        join(self.timers);
        join(self.sync);
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the store ended by a panic");
        }
    }
}
