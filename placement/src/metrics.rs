//! `/metrics`: placement's own figures beside the engine's. Names are constants here.

use crate::service::Shared;
use prometheus::{Encoder, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

const STORES: &str = "flotilla_placement_stores";
const REGIONS: &str = "flotilla_placement_regions";
const LEADERS: &str = "flotilla_placement_region_leaders";
const LEADS: &str = "flotilla_placement_leads";
const REGISTRATIONS: &str = "flotilla_placement_registrations_total";
const HEARTBEATS: &str = "flotilla_placement_heartbeats_total";
const TRANSFERS: &str = "flotilla_placement_leader_transfers_total";
const SLOW: &str = "flotilla_placement_slow_stores";
const UNDER_WAY: &str = "flotilla_placement_leader_transfers_under_way";

/// Counters that the service moves, and gauges that are set when somebody asks.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) registrations: IntCounter,
    pub(crate) heartbeats: IntCounter,
    pub(crate) transfers: IntCounter,
    stores: IntGaugeVec,
    regions: IntGauge,
    leaders: IntGauge,
    leads: IntGauge,
    under_way: IntGauge,
    slow: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let metrics = Metrics {
            registry: Registry::new(),
            registrations: IntCounter::new(REGISTRATIONS, "New stores.")?,
            heartbeats: IntCounter::new(HEARTBEATS, "Heartbeats of stores.")?,
            transfers: IntCounter::new(TRANSFERS, "Orders to move a leader, given to stores.")?,
            stores: IntGaugeVec::new(Opts::new(STORES, "Stores by state."), &["state"])?,
            regions: IntGauge::new(REGIONS, "Regions.")?,
            leaders: IntGauge::new(LEADERS, "Regions whose leader is known and up.")?,
            leads: IntGauge::new(LEADS, "1 when this member leads the placement group.")?,
            slow: IntGauge::new(SLOW, "Stores whose disks are slow: they get no leaders.")?,
            under_way: IntGauge::new(UNDER_WAY, "Orders to move a leader, not yet seen done.")?,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.registrations.clone()))?;
        registry.register(Box::new(metrics.heartbeats.clone()))?;
        registry.register(Box::new(metrics.transfers.clone()))?;
        registry.register(Box::new(metrics.stores.clone()))?;
        registry.register(Box::new(metrics.regions.clone()))?;
        registry.register(Box::new(metrics.leaders.clone()))?;
        registry.register(Box::new(metrics.leads.clone()))?;
        registry.register(Box::new(metrics.under_way.clone()))?;
        registry.register(Box::new(metrics.slow.clone()))?;
        Ok(metrics)
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self, shared: &Shared) -> String {
        self.observe(shared);
        let mut families = self.registry.gather();
        families.extend(shared.replicated.store().metrics().gather());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("memory takes every write");
        String::from_utf8(text).expect("names and labels of metrics are text")
    }

    fn observe(&self, shared: &Shared) {
        let now = shared.now();
        self.leads.set(shared.replicated.leads().into());
        shared.replicated.read(|map| {
            let observed = shared.observed.lock();
            self.stores.reset();
            for store in map.stores.keys() {
                let state = observed.liveness(*store, now).as_str();
                self.stores.with_label_values(&[state]).inc();
            }
            let led = map.regions.keys().filter(|r| observed.leader(**r, now).is_some()).count();
            self.regions.set(map.regions.len() as i64);
            self.leaders.set(led as i64);
            self.under_way.set(observed.under_way() as i64);
            self.slow.set(observed.slow(now) as i64);
        });
    }
}
