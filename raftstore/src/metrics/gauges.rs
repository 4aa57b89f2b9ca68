//! What there is at this moment: queues, bytes in memory, replicas that sleep. Counted when somebody
//! gathers metrics, so that it costs nothing in between; the shards are asked, as for
//! [`crate::Store::describe`].

use crate::events::Levels;
use crate::message::ShardMessage;
use crate::router::Router;
use crate::status::QueueStatus;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

/// How long the shards have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// All that is known at one moment.
struct Moment {
    levels: Levels,
    queues: QueueStatus,
    /// Of the log's worker and of the apply worker.
    lanes: [u64; 2],
}

/// A gauge's name, its help, and its figure.
type Row = (&'static str, &'static str, fn(&Moment) -> u64);

const ROWS: &[Row] = &[
    ("flotilla_raft_replicas", "Replicas that take part", |m| m.levels.replicas),
    ("flotilla_raft_failed_replicas", "Replicas damaged, or stopped by their state machine", |m| {
        m.levels.failed
    }),
    ("flotilla_raft_asleep_replicas", "Replicas that sleep", |m| m.levels.asleep),
    ("flotilla_raft_leased_groups", "Groups whose leader here has a lease", |m| m.levels.leased),
    ("flotilla_raft_changing_groups", "Groups led here whose members change", |m| {
        m.levels.changing
    }),
    ("flotilla_raft_transferring_groups", "Groups that are being handed over", |m| {
        m.levels.transferring
    }),
    ("flotilla_raft_paused_followers", "Followers to which leaders here send nothing more", |m| {
        m.levels.paused
    }),
    ("flotilla_raft_snapshots_under_way", "Snapshots made, received or installed now", |m| {
        m.levels.snapshots
    }),
    ("flotilla_raft_waiting_proposals", "Callers that wait for their command", |m| {
        m.levels.waiting_proposals
    }),
    ("flotilla_raft_waiting_reads", "Callers that wait for a read barrier", |m| {
        m.levels.waiting_reads
    }),
    ("flotilla_raft_proposal_bytes", "Bytes of commands admitted and not answered", |m| {
        m.queues.proposal_bytes as u64
    }),
    ("flotilla_raft_entry_cache_bytes", "Bytes of entries in memory", |m| m.levels.cache_bytes),
    ("flotilla_raft_apply_queue_bytes", "Bytes handed to apply and not applied", |m| {
        m.levels.apply_bytes
    }),
    ("flotilla_raft_apply_parked_groups", "Groups that wait for room in the apply queue", |m| {
        m.levels.parked
    }),
    ("flotilla_raft_inbox_messages", "Messages of other stores that wait for a shard", |m| {
        m.queues.inbox_messages as u64
    }),
    ("flotilla_raft_log_queue_rounds", "Rounds whose log writes wait or are written", |m| {
        m.lanes[0]
    }),
    ("flotilla_raft_apply_queue_rounds", "Rounds whose entries wait or are applied", |m| {
        m.lanes[1]
    }),
    ("flotilla_raft_log_bytes", "Bytes of live log", |m| m.queues.log_bytes),
    ("flotilla_raft_log_disk_slow", "1 while the disk of the log is slow", |m| {
        u64::from(m.queues.disk_slow)
    }),
];

/// See the module.
pub(crate) struct Gauges {
    router: Weak<Router>,
    lanes: [Arc<AtomicUsize>; 2],
    gauges: Vec<IntGauge>,
}

impl Gauges {
    /// Adds the gauges to the registry of the router's metrics. `lanes`: lists that wait for the log's
    /// worker, and for the apply worker.
    pub(crate) fn register(router: &Arc<Router>, lanes: [Arc<AtomicUsize>; 2]) {
        let gauge = |(name, help, _): &Row| IntGauge::new(*name, *help).expect("a valid name");
        let gauges = ROWS.iter().map(gauge).collect();
        let all = Gauges { router: Arc::downgrade(router), lanes, gauges };
        let registry: &Registry = &router.metrics.registry;
        registry.register(Box::new(all)).expect("every metric has a name of its own");
    }

    fn read(&self, router: &Router) -> Moment {
        // First: a shard whose inbox grows answers late.
        let queues = router.queues();
        let lanes = self.lanes.each_ref().map(|lane| lane.load(Ordering::Acquire) as u64);
        let (sender, receiver) = mpsc::channel();
        router.tell_all(|| ShardMessage::Measure(sender.clone()));
        drop(sender);
        let mut levels = Levels::default();
        while let Ok(part) = receiver.recv_timeout(PATIENCE) {
            levels.add(&part);
        }
        Moment { levels, queues, lanes }
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(IntGauge::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(router) = self.router.upgrade() {
            let moment = self.read(&router);
            for ((_, _, figure), gauge) in ROWS.iter().zip(&self.gauges) {
                gauge.set(i64::try_from(figure(&moment)).unwrap_or(i64::MAX));
            }
        }
        self.gauges.iter().flat_map(IntGauge::collect).collect()
    }
}
