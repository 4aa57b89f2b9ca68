//! The map key → region, as one immutable snapshot. Pure: no I/O, no locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::pb;

/// Regions in key order, not overlapping; holes are possible while a cluster is being created.
#[derive(Default)]
pub(crate) struct Table {
    regions: Vec<Arc<Region>>,
    /// The regions' start keys as far as a number holds: with a thousand regions most of a search
    /// would wait for memory, and these lie together.
    prefixes: Vec<u64>,
}

/// What a client knows of one region. Only the leader changes in place.
pub(crate) struct Region {
    pub(crate) region: u64,
    pub(crate) start: Bytes,
    /// Empty = to the end of all keys.
    pub(crate) end: Bytes,
    pub(crate) epoch: pb::Epoch,
    /// The stores that hold a replica.
    pub(crate) stores: Vec<u64>,
    leader: AtomicU64,
}

impl Region {
    fn from_pb(region: &pb::Region) -> Self {
        Region {
            region: region.region,
            start: region.start.clone(),
            end: region.end.clone(),
            epoch: region.epoch.unwrap_or_default(),
            stores: region.replicas.iter().map(|replica| replica.store).collect(),
            leader: AtomicU64::new(region.leader_store),
        }
    }

    /// The store that leads it as far as known; 0 = unknown.
    pub(crate) fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leader(&self, store: u64) {
        self.leader.store(store, Ordering::Relaxed);
    }

    /// Forgets the leader, unless somebody learned a newer one meanwhile.
    pub(crate) fn forget_leader(&self, store: u64) {
        let _ = self.leader.compare_exchange(store, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }

    fn overlaps(&self, other: &Region) -> bool {
        (other.end.is_empty() || self.start < other.end)
            && (self.end.is_empty() || other.start < self.end)
    }
}

/// The first eight bytes, as a number of the same order.
fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

impl Table {
    /// Of regions in key order, not overlapping.
    fn new(regions: Vec<Arc<Region>>) -> Self {
        let prefixes = regions.iter().map(|region| prefix(&region.start)).collect();
        Table { regions, prefixes }
    }

    /// The region that holds the key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Arc<Region>> {
        let own = prefix(key);
        let from = self.prefixes.partition_point(|start| *start < own);
        let equal = self.prefixes[from..].partition_point(|start| *start == own);
        let after =
            from + self.regions[from..from + equal].partition_point(|region| *region.start <= *key);
        let region = self.regions.get(after.checked_sub(1)?)?;
        region.contains(key).then_some(region)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.regions.len()
    }

    /// This table with what a server told. Where ranges overlap, the higher version wins: a server
    /// that lags behind a split or merge cannot bring back what is gone. A leader that is known here
    /// stays: it is forgotten when it fails or denies, while the news may be older than that.
    pub(crate) fn merge(&self, news: &[pb::Region]) -> Table {
        let mut candidates: Vec<Arc<Region>> = Vec::with_capacity(news.len() + self.regions.len());
        for told in news {
            let region = Region::from_pb(told);
            if let Some(known) = self.find(&region.start)
                && known.region == region.region
                && region.stores.contains(&known.leader())
            {
                region.set_leader(known.leader());
            }
            candidates.push(Arc::new(region));
        }
        candidates.extend(self.regions.iter().cloned());
        // Stable: at equal epochs the news stay in front.
        candidates.sort_by(|a, b| {
            (b.epoch.version, b.epoch.members).cmp(&(a.epoch.version, a.epoch.members))
        });
        let mut regions: Vec<Arc<Region>> = Vec::with_capacity(news.len());
        for candidate in candidates {
            let at = regions.partition_point(|region| region.start < candidate.start);
            let free = |region: Option<&Arc<Region>>| {
                region.is_none_or(|region| !region.overlaps(&candidate))
            };
            if free(regions.get(at)) && free(at.checked_sub(1).and_then(|i| regions.get(i))) {
                regions.insert(at, candidate);
            }
        }
        Table::new(regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &str, end: &str, version: u64, leader: u64) -> pb::Region {
        pb::Region {
            region: id,
            group: id,
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
            epoch: Some(pb::Epoch { version, members: 1 }),
            replicas: (1..=3)
                .map(|store| pb::Replica { replica: store, store, role: "voter".into() })
                .collect(),
            leader_store: leader,
        }
    }

    fn found(table: &Table, key: &str) -> Option<u64> {
        table.find(key.as_bytes()).map(|region| region.region)
    }

    #[test]
    fn keys_are_found_by_range() {
        let table = Table::default().merge(&[region(2, "m", "", 1, 0), region(1, "", "m", 1, 0)]);
        assert_eq!(found(&table, "a"), Some(1));
        assert_eq!(found(&table, "lzz"), Some(1));
        assert_eq!(found(&table, "m"), Some(2));
        assert_eq!(found(&table, "zzz"), Some(2));
        assert_eq!(found(&Table::default(), "a"), None);
    }

    #[test]
    fn regions_with_a_long_common_start_are_told_apart() {
        let starts = ["", "offsets", "offsets\0", "offsets/1", "offsets/10", "offsets/2", "p"];
        let region = |i: usize| region(i as u64, starts[i], starts.get(i + 1).unwrap_or(&""), 1, 0);
        let table = Table::default().merge(&(0..starts.len()).map(region).collect::<Vec<_>>());
        for (key, id) in [("of", 0), ("offsets", 1), ("offsets\0\0", 2), ("offsets/1", 3)] {
            assert_eq!(found(&table, key), Some(id), "{key:?}");
        }
        for (key, id) in [("offsets/0", 2), ("offsets/19", 4), ("offsets/3", 5), ("q", 6)] {
            assert_eq!(found(&table, key), Some(id), "{key:?}");
        }
    }

    #[test]
    fn a_hole_holds_no_key() {
        let table = Table::default().merge(&[region(1, "a", "c", 1, 0), region(2, "e", "", 1, 0)]);
        assert_eq!(found(&table, "A"), None);
        assert_eq!(found(&table, "d"), None);
        assert_eq!(found(&table, "e"), Some(2));
    }

    #[test]
    fn a_split_replaces_the_parent_and_old_news_do_not_bring_it_back() {
        let parent = region(1, "", "", 1, 2);
        let halves = [region(1, "", "m", 2, 0), region(9, "m", "", 2, 3)];
        let table = Table::default().merge(std::slice::from_ref(&parent)).merge(&halves);
        assert_eq!((found(&table, "a"), found(&table, "z")), (Some(1), Some(9)));
        let table = table.merge(&[parent]);
        assert_eq!((found(&table, "a"), found(&table, "z"), table.len()), (Some(1), Some(9), 2));
    }

    #[test]
    fn a_known_leader_stays_until_it_is_forgotten() {
        let table = Table::default().merge(&[region(1, "", "", 1, 2)]);
        for news in [0, 3] {
            let table = table.merge(&[region(1, "", "", 1, news)]);
            assert_eq!(table.find(b"x").unwrap().leader(), 2);
        }
        let known = table.find(b"x").unwrap();
        known.forget_leader(3);
        assert_eq!(known.leader(), 2, "another store's failure says nothing about it");
        known.forget_leader(2);
        let table = table.merge(&[region(1, "", "", 1, 3)]);
        assert_eq!(table.find(b"x").unwrap().leader(), 3);
    }
}
