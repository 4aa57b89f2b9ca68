//! Keys of the live consumers, and where the demo cuts its regions.
//!
//! The layout is the one that `kv import rocketmq` documents: `/mq/CLUSTER/offset/GROUP/TOPIC/QUEUE`
//! with a queue of ten digits. The live groups belong to a queue cluster of their own, so that the
//! export of the imported one is exactly what was imported.

use bytes::Bytes;

/// The queue cluster that is imported and exported.
pub const IMPORTED: &str = "default";

const TOPICS: [&str; 5] = ["orders", "payments", "refunds", "shipments", "invoices"];
/// Consumers in a group; each owns one queue of the group's topic.
const GROUP_CONSUMERS: usize = 4;

/// Cuts of the imported cluster: most of its records are offsets, sorted by group.
const IMPORTED_CUTS: [&str; 11] = [
    "/mq/default/offset/",
    "/mq/default/offset/GID_review",
    "/mq/default/offset/SUBSCRIPTION",
    "/mq/default/offset/cg-order",
    "/mq/default/offset/flink-cart",
    "/mq/default/offset/flink-risk",
    "/mq/default/offset/prod_ledger",
    "/mq/default/offset/risk",
    "/mq/default/offset/tenant-031",
    "/mq/default/p",
    "/mq/default/t",
];
/// Regions that hold the live offsets.
const LIVE_REGIONS: usize = 12;

/// One key a consumer: its (group, topic, queue).
pub fn live_keys(consumers: usize) -> Vec<Bytes> {
    (0..consumers)
        .map(|number| {
            let (group, queue) = (number / GROUP_CONSUMERS, number % GROUP_CONSUMERS);
            let topic = TOPICS[group % TOPICS.len()];
            Bytes::from(format!("/mq/live/offset/group-{group:04}/{topic}/{queue:010}"))
        })
        .collect()
}

/// Where the regions are cut: half of them hold the imported metadata, half the live offsets.
pub fn split_at(consumers: usize) -> Vec<String> {
    let groups = consumers.div_ceil(GROUP_CONSUMERS);
    let live = |part| format!("/mq/live/offset/group-{:04}", part * groups / LIVE_REGIONS);
    IMPORTED_CUTS.map(str::to_owned).into_iter().chain((0..LIVE_REGIONS).map(live)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_24_regions_and_live_keys_in_half_of_them() {
        for consumers in [48, 500, 5000] {
            let cuts = split_at(consumers);
            assert_eq!(cuts.len(), 23);
            assert!(cuts.is_sorted_by(|a, b| a < b), "{cuts:?}");
            let region = |key: &Bytes| cuts.iter().filter(|cut| cut.as_bytes() <= key).count();
            let regions: BTreeSet<_> = live_keys(consumers).iter().map(region).collect();
            assert_eq!(regions.len(), LIVE_REGIONS);
        }
    }

    #[test]
    fn every_consumer_has_a_key_of_its_own() {
        assert_eq!(live_keys(500).into_iter().collect::<BTreeSet<_>>().len(), 500);
        assert_eq!(live_keys(6)[5], "/mq/live/offset/group-0001/payments/0000000001");
    }
}
