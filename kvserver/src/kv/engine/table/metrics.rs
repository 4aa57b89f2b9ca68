//! Figures of a table. No labels by group.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

const BYTES: &str = "flotilla_kv_table_bytes";
const CHECKPOINT_SECONDS: &str = "flotilla_kv_checkpoint_seconds";
const RECORDS_WRITTEN: &str = "flotilla_kv_checkpoint_records_total";
const CHANGES: &str = "flotilla_kv_table_changes_total";
const WAITS: &str = "flotilla_kv_table_waits_total";

/// Handles, fetched once.
pub struct Metrics {
    pub(super) registry: Registry,
    /// Memory held: what is not in a checkpoint yet, and what is on its way into one.
    pub(super) bytes: IntGauge,
    /// One checkpoint; its count is theirs.
    pub(super) checkpoint_seconds: Histogram,
    /// Records written by checkpoints.
    pub(super) records_written: IntCounter,
    /// Changes that checkpoints took; those beyond the records were absorbed.
    pub(super) changes: IntCounter,
    /// Writes that waited for a checkpoint.
    pub(super) waits: IntCounter,
}

impl Metrics {
    /// Handles in a registry of their own.
    pub(super) fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid metric name");
            register(&registry, counter)
        };
        let buckets = prometheus::exponential_buckets(1e-3, 2.0, 18).expect("valid buckets");
        let seconds =
            HistogramOpts::new(CHECKPOINT_SECONDS, "One checkpoint of the table").buckets(buckets);
        Metrics {
            bytes: register(
                &registry,
                IntGauge::new(BYTES, "Bytes held by the table").expect("a valid metric name"),
            ),
            checkpoint_seconds: register(
                &registry,
                Histogram::with_opts(seconds).expect("a valid metric name"),
            ),
            records_written: counter(RECORDS_WRITTEN, "Records written by checkpoints"),
            changes: counter(CHANGES, "Changes taken by checkpoints; more than records: absorbed"),
            waits: counter(WAITS, "Writes that waited for a checkpoint"),
            registry,
        }
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("every metric is registered once");
    metric
}
