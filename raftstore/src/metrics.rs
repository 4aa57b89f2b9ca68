//! The engine's metrics. Handles are fetched once; nothing is labelled by group. The page of all of
//! them is `docs/metrics.md`.
//!
//! What happens is counted where it happens, or travels with the round and is added once a round. What
//! there *is* (`gauges.rs`) is counted when somebody asks.

use crate::events::{Event, Seen};
use crate::shard::ReadCounts;
use crate::shard::run::seconds;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

mod gauges;

pub(crate) use gauges::Gauges;

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
/// Bytes of entries that were written so.
const LOG_BYTES: &str = "flotilla_raft_log_written_bytes_total";
/// Seconds from an entry's proposal here until it was committed.
const REPLICATE_SECONDS: &str = "flotilla_raft_replicate_seconds";
/// Seconds from an entry's proposal here until its callers were answered.
const ANSWER_SECONDS: &str = "flotilla_raft_answer_seconds";
/// Seconds from a read context's question until a quorum had answered.
const READ_INDEX_SECONDS: &str = "flotilla_raft_read_index_seconds";
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
/// Bytes of snapshots that other stores took from here.
const SNAPSHOT_BYTES_SENT: &str = "flotilla_raft_snapshot_bytes_sent_total";
/// Seconds of making one.
const SNAPSHOT_MAKE_SECONDS: &str = "flotilla_raft_snapshot_make_seconds";
/// Seconds of receiving one.
const SNAPSHOT_RECEIVE_SECONDS: &str = "flotilla_raft_snapshot_receive_seconds";
/// Seconds of giving one to the state machine.
const SNAPSHOT_INSTALL_SECONDS: &str = "flotilla_raft_snapshot_install_seconds";

/// The counter of an event, and its help.
const fn counter_of(event: Event) -> (&'static str, &'static str) {
    match event {
        Event::ElectionBegun => {
            ("flotilla_raft_elections_begun_total", "Times that a replica asked for votes")
        }
        Event::ElectionWon => {
            ("flotilla_raft_elections_won_total", "Times that a replica became the leader")
        }
        Event::PreVoteLost => {
            ("flotilla_raft_prevotes_lost_total", "Questions for votes that were in vain")
        }
        Event::LeaderFound => {
            ("flotilla_raft_leader_changes_total", "Times that a replica came to know a leader")
        }
        Event::TransferBegun => {
            ("flotilla_raft_transfers_begun_total", "Leader transfers that began here")
        }
        Event::TransferFromSlowDisk => (
            "flotilla_raft_transfers_slow_disk_total",
            "Leader transfers because this store's disk is slow",
        ),
        Event::TransferDone => {
            ("flotilla_raft_transfers_done_total", "Leader transfers after which the other led")
        }
        Event::TransferFailed => {
            ("flotilla_raft_transfers_failed_total", "Leader transfers that did not come about")
        }
        Event::MembersChanged => {
            ("flotilla_raft_member_changes_total", "Membership entries applied")
        }
        Event::RebuildBegun => {
            ("flotilla_raft_rebuilds_total", "Rebuilds of replicas that leaders here began")
        }
        Event::ReplicaFailed => (
            "flotilla_raft_replicas_failed_total",
            "Replicas found damaged, or whose state machine failed",
        ),
        Event::Slept => ("flotilla_raft_sleeps_total", "Times that a replica went to sleep"),
        Event::WriteRefused => {
            ("flotilla_raft_writes_refused_total", "Writes refused because of a shard's limit")
        }
    }
}

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
    pub(crate) log_bytes: IntCounter,
    replicate_seconds: Histogram,
    pub(crate) answer_seconds: Histogram,
    read_index_seconds: Histogram,
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
    pub(crate) snapshot_bytes_sent: IntCounter,
    pub(crate) snapshot_make_seconds: Histogram,
    pub(crate) snapshot_receive_seconds: Histogram,
    pub(crate) snapshot_install_seconds: Histogram,
    /// By the number of the event.
    events: Vec<IntCounter>,
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
        let short = || prometheus::exponential_buckets(20e-6, 2.0, 18).expect("valid buckets");
        let long = || prometheus::exponential_buckets(1e-3, 2.0, 18).expect("valid buckets");
        let events = Event::ALL.into_iter().map(counter_of);
        let tasks = || prometheus::exponential_buckets(1.0, 2.0, 12).expect("valid buckets");
        Metrics {
            rounds: counter(ROUNDS, "Rounds that shards made"),
            inbox_messages: counter(INBOX_MESSAGES, "Messages taken from inboxes"),
            envelopes_sent: counter(ENVELOPES_SENT, "Envelopes handed to the transport"),
            envelopes_dropped: counter(ENVELOPES_DROPPED, "Envelopes dropped, inbox full"),
            requests_refused: counter(REQUESTS_REFUSED, "Requests refused at the door"),
            log_write_seconds: histogram(LOG_WRITE_SECONDS, "One synced log write", short()),
            log_write_tasks: histogram(LOG_WRITE_TASKS, "Tasks in one log write", tasks()),
            log_bytes: counter(LOG_BYTES, "Bytes of entries written to the log"),
            replicate_seconds: histogram(
                REPLICATE_SECONDS,
                "From an entry's proposal here until it was committed",
                short(),
            ),
            answer_seconds: histogram(
                ANSWER_SECONDS,
                "From an entry's proposal here until its callers were answered",
                short(),
            ),
            read_index_seconds: histogram(
                READ_INDEX_SECONDS,
                "From a read context's question until a quorum had answered",
                short(),
            ),
            apply_seconds: histogram(APPLY_SECONDS, "One apply batch", short()),
            apply_tasks: histogram(APPLY_TASKS, "Tasks in one apply batch", tasks()),
            sync_seconds: histogram(SYNC_SECONDS, "One sync of the state machine", long()),
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
            snapshot_bytes_sent: counter(SNAPSHOT_BYTES_SENT, "Bytes of snapshots sent"),
            snapshot_make_seconds: histogram(SNAPSHOT_MAKE_SECONDS, "Making a snapshot", long()),
            snapshot_receive_seconds: histogram(
                SNAPSHOT_RECEIVE_SECONDS,
                "Receiving a snapshot",
                long(),
            ),
            snapshot_install_seconds: histogram(
                SNAPSHOT_INSTALL_SECONDS,
                "Giving a snapshot to the state machine",
                long(),
            ),
            events: events.map(|(name, help)| counter(name, help)).collect(),
            reads_confirmed: counter(READS_CONFIRMED, "Reads confirmed by a quorum"),
            reads_leased: counter(READS_LEASED, "Reads served by a leader's lease"),
            reads_degraded: counter(READS_DEGRADED, "Lease reads that found no lease"),
            reads_asked: counter(READS_ASKED, "Reads of followers that asked their leader"),
            reads_stale: counter(READS_STALE, "Bounded reads that asked nobody"),
            fetches: counter(FETCHES, "Reads of old entries for lagging followers"),
            registry,
        }
    }

    /// Adds what a round has to tell.
    pub(crate) fn count_seen(&self, seen: &Seen) {
        for event in &seen.events {
            self.events[*event as usize].inc();
        }
        for time in &seen.replicated {
            self.replicate_seconds.observe(seconds(*time));
        }
        for time in &seen.reads_confirmed {
            self.read_index_seconds.observe(seconds(*time));
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
