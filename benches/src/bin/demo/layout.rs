//! Keys of the live consumers, and where the demo cuts its regions.
//!
//! The live groups belong to a queue cluster of their own, so that the export of the imported one
//! is exactly what was imported.

use bytes::Bytes;

const TOPICS: [&str; 5] = ["orders", "payments", "refunds", "shipments", "invoices"];
const QUEUES: u32 = 4;

/// One key a consumer: its (group, topic, queue).
pub fn live_keys(consumers: usize) -> Vec<Bytes> {
    (0..consumers)
        .map(|number| {
            let topic = TOPICS[number % TOPICS.len()];
            let queue = number as u32 % QUEUES;
            Bytes::from(format!("live/offset/group-{number:03}/{topic}/{queue}"))
        })
        .collect()
}

/// Where the regions are cut: half of them hold the imported metadata, half the live offsets.
pub fn split_at(consumers: usize) -> Vec<String> {
    let live = (0..12).map(|i| format!("live/offset/group-{:03}", i * consumers / 12));
    live.collect()
}
