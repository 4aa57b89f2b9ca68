//! The engine's metrics. Handles are fetched once; nothing is labelled by group.

use crate::shard::ReadCounts;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// Rounds that a shard made.
const ROUNDS: &str = "flotilla_raft_rounds_total";
/// Messages taken from inboxes.
const INBOX_MESSAGES: &str = "flotilla_raft_inbox_messages_total";
/// Envelopes handed to the transport.
const ENVELOPES_SENT: &str = "flotilla_raft_envelopes_sent_total";
/// Envelopes dropped because an inbox was full.
const ENVELOPES_DROPPED: &str = "flotilla_raft_envelopes_dropped_total";
/// Requests refused at the door.
const REQUESTS_REFUSED: &str = "flotilla_raft_requests_refused_total";
/// Seconds of one synced log write.
const LOG_WRITE_SECONDS: &str = "flotilla_raft_log_write_seconds";
/// Tasks merged into one log write.
const LOG_WRITE_TASKS: &str = "flotilla_raft_log_write_tasks";
/// Seconds of one apply batch.
const APPLY_SECONDS: &str = "flotilla_raft_apply_seconds";
/// Tasks merged into one apply batch.
const APPLY_TASKS: &str = "flotilla_raft_apply_tasks";
/// Seconds of one sync of the state machine.
const SYNC_SECONDS: &str = "flotilla_raft_state_sync_seconds";
/// Leader, term or role changes seen.
const ROLE_CHANGES: &str = "flotilla_raft_role_changes_total";
/// Groups that this store leads.
const LEADING: &str = "flotilla_raft_leading_groups";
/// Reads that a quorum confirmed.
const READS_CONFIRMED: &str = "flotilla_raft_reads_confirmed_total";
/// Reads served by a lease.
const READS_LEASED: &str = "flotilla_raft_reads_leased_total";
/// Lease reads that found no lease.
const READS_DEGRADED: &str = "flotilla_raft_reads_degraded_total";
/// Reads of followers that asked their leader.
const READS_ASKED: &str = "flotilla_raft_reads_asked_total";
/// Bounded reads that asked nobody.
const READS_STALE: &str = "flotilla_raft_reads_stale_total";
/// Reads of old log entries for lagging followers.
const FETCHES: &str = "flotilla_raft_log_fetches_total";
/// Snapshots that state machines here wrote.
const SNAPSHOTS_MADE: &str = "flotilla_raft_snapshots_made_total";
/// Their bytes.
const SNAPSHOT_BYTES_MADE: &str = "flotilla_raft_snapshot_bytes_made_total";
/// Bytes of snapshots that came from other stores.
const SNAPSHOT_BYTES_RECEIVED: &str = "flotilla_raft_snapshot_bytes_received_total";
/// Snapshots that state machines here took.
const SNAPSHOTS_INSTALLED: &str = "flotilla_raft_snapshots_installed_total";

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) rounds: IntCounter,
    pub(crate) inbox_messages: IntCounter,
    pub(crate) envelopes_sent: IntCounter,
    pub(crate) envelopes_dropped: IntCounter,
    pub(crate) requests_refused: IntCounter,
    pub(crate) log_write_seconds: Histogram,
    pub(crate) log_write_tasks: Histogram,
    pub(crate) apply_seconds: Histogram,
    pub(crate) apply_tasks: Histogram,
    pub(crate) sync_seconds: Histogram,
    pub(crate) role_changes: IntCounter,
    pub(crate) leading: IntGauge,
    pub(crate) fetches: IntCounter,
    reads_confirmed: IntCounter,
    reads_leased: IntCounter,
    reads_degraded: IntCounter,
    reads_asked: IntCounter,
    reads_stale: IntCounter,
    pub(crate) snapshots_made: IntCounter,
    pub(crate) snapshot_bytes_made: IntCounter,
    pub(crate) snapshot_bytes_received: IntCounter,
    pub(crate) snapshots_installed: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid metric name");
            register(&registry, counter)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let options = HistogramOpts::new(name, help).buckets(buckets);
            register(&registry, Histogram::with_opts(options).expect("a valid metric name"))
        };
        let seconds = || prometheus::exponential_buckets(20e-6, 2.0, 18).expect("valid buckets");
        let tasks = || prometheus::exponential_buckets(1.0, 2.0, 12).expect("valid buckets");
        Metrics {
            rounds: counter(ROUNDS, "Rounds that shards made"),
            inbox_messages: counter(INBOX_MESSAGES, "Messages taken from inboxes"),
            envelopes_sent: counter(ENVELOPES_SENT, "Envelopes handed to the transport"),
            envelopes_dropped: counter(ENVELOPES_DROPPED, "Envelopes dropped, inbox full"),
            requests_refused: counter(REQUESTS_REFUSED, "Requests refused at the door"),
            log_write_seconds: histogram(LOG_WRITE_SECONDS, "One synced log write", seconds()),
            log_write_tasks: histogram(LOG_WRITE_TASKS, "Tasks in one log write", tasks()),
            apply_seconds: histogram(APPLY_SECONDS, "One apply batch", seconds()),
            apply_tasks: histogram(APPLY_TASKS, "Tasks in one apply batch", tasks()),
            sync_seconds: histogram(SYNC_SECONDS, "One sync of the state machine", seconds()),
            role_changes: counter(ROLE_CHANGES, "Leader, term or role changes"),
            leading: register(
                &registry,
                IntGauge::new(LEADING, "Groups that this store leads").expect("a valid name"),
            ),
            snapshots_made: counter(SNAPSHOTS_MADE, "Snapshots written by state machines here"),
            snapshot_bytes_made: counter(SNAPSHOT_BYTES_MADE, "Bytes of snapshots made here"),
            snapshot_bytes_received: counter(
                SNAPSHOT_BYTES_RECEIVED,
                "Bytes of snapshots from other stores",
            ),
            snapshots_installed: counter(SNAPSHOTS_INSTALLED, "Snapshots taken over here"),
            reads_confirmed: counter(READS_CONFIRMED, "Reads confirmed by a quorum"),
            reads_leased: counter(READS_LEASED, "Reads served by a leader's lease"),
            reads_degraded: counter(READS_DEGRADED, "Lease reads that found no lease"),
            reads_asked: counter(READS_ASKED, "Reads of followers that asked their leader"),
            reads_stale: counter(READS_STALE, "Bounded reads that asked nobody"),
            fetches: counter(FETCHES, "Reads of old entries for lagging followers"),
            registry,
        }
    }

    pub(crate) fn count_reads(&self, reads: &ReadCounts) {
        let all = [
            (&self.reads_confirmed, reads.confirmed),
            (&self.reads_leased, reads.leased),
            (&self.reads_degraded, reads.degraded),
            (&self.reads_asked, reads.asked),
            (&self.reads_stale, reads.stale),
        ];
        for (counter, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect("every metric has a name of its own");
    metric
}
