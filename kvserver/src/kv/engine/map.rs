//! A map of bytes for point writes: a put of a known key costs one hash lookup; order is made
//! when a scan asks for it; and its content can be taken at one moment while writes go on.
//!
//! Records are in [`SHARDS`] hash maps behind [`Arc`]s. [`Map::content`] shares them; the first
//! write to a shared one copies it, and the others stay shared. (An ordered map of a million keys
//! costs several times more a put: every comparison on the way down misses the cache.)
//!
//! The order is a set of keys that may hold more than the map does: puts of new keys are only
//! noted until the next scan, deletes leave their key, and the scan looks every key up. When too
//! many of them are in vain, the order is dropped and made again by the next scan.

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

/// Copying a shard is what a write may have to wait for: half a millisecond at a million records.
const SHARDS: usize = 64;
/// Keys in the order beyond twice the records before it is made again.
const ORDER_SLACK: usize = 1_024;

type Shard = FxHashMap<Arc<[u8]>, Arc<[u8]>>;

/// See the module.
pub struct Map {
    shards: Vec<Arc<Shard>>,
    records: usize,
    order: Mutex<Order>,
}

/// All records of a map at one moment, in no order.
pub struct Content(Vec<Arc<Shard>>);

/// The keys in order, as far as it is made.
#[derive(Default)]
struct Order {
    /// `false`: nothing is made, nothing is noted.
    made: bool,
    sorted: BTreeSet<Arc<[u8]>>,
    /// Put since the last scan.
    noted: Vec<Arc<[u8]>>,
}

impl Default for Map {
    fn default() -> Self {
        Map { shards: vec![Arc::default(); SHARDS], records: 0, order: Mutex::default() }
    }
}

impl Map {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.shards[shard_of(key)].get(key).map(|value| &**value)
    }

    /// Puts copies of key and value; in place when the value's length stays.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        let shard = Arc::make_mut(&mut self.shards[shard_of(key)]);
        if let Some(known) = shard.get_mut(key) {
            match Arc::get_mut(known) {
                Some(bytes) if bytes.len() == value.len() => bytes.copy_from_slice(value),
                _ => *known = Arc::from(value),
            }
            return;
        }
        let key: Arc<[u8]> = Arc::from(key);
        self.order.get_mut().note(&key, self.records);
        shard.insert(key, Arc::from(value));
        self.records += 1;
    }

    /// Removes `key`, if there.
    pub fn remove(&mut self, key: &[u8]) {
        let shard = &mut self.shards[shard_of(key)];
        if shard.contains_key(key) {
            Arc::make_mut(shard).remove(key);
            self.records -= 1;
        }
    }

    /// Gives the records from `start` on to `take`, ascending, until that says `false`.
    pub fn scan(&self, start: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut order = self.order.lock();
        order.make(&self.shards);
        let from = (Bound::Included(start), Bound::Unbounded);
        for key in order.sorted.range::<[u8], _>(from) {
            if let Some(value) = self.get(key)
                && !take(key, value)
            {
                return;
            }
        }
    }

    /// The content at this moment.
    pub fn content(&self) -> Content {
        Content(self.shards.clone())
    }
}

impl Content {
    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (&**key, &**value))
    }
}

impl Order {
    fn note(&mut self, key: &Arc<[u8]>, records: usize) {
        if !self.made {
            return;
        }
        self.noted.push(key.clone());
        if self.sorted.len() + self.noted.len() > 2 * records + ORDER_SLACK {
            *self = Order::default();
        }
    }

    fn make(&mut self, shards: &[Arc<Shard>]) {
        if !self.made {
            self.sorted = shards.iter().flat_map(|shard| shard.keys().cloned()).collect();
            self.made = true;
        } else if self.noted.len() > self.sorted.len() / 8 {
            // Many at once: sorted by themselves and merged in one pass.
            self.sorted.append(&mut self.noted.drain(..).collect());
        } else {
            self.sorted.extend(self.noted.drain(..));
        }
    }
}

fn shard_of(key: &[u8]) -> usize {
    // Mixed again: the shard's own map uses the plain hash.
    let hash = FxBuildHasher.hash_one(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (u64::BITS - SHARDS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    fn scan(map: &Map, start: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        map.scan(start, |key, value| {
            if found.len() == limit {
                return false;
            }
            found.push((key.to_vec(), value.to_vec()));
            true
        });
        found
    }

    #[test]
    fn behaves_like_an_ordered_map_and_a_content_does_not_change() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut map = Map::default();
        let mut model = BTreeMap::new();
        let mut content = None;
        for step in 0..60_000_u32 {
            let key = rng.random_range(0..3_000_u32).to_be_bytes();
            if rng.random_bool(if step < 30_000 { 0.8 } else { 0.2 }) {
                let value = vec![step as u8; rng.random_range(0..3)];
                map.insert(&key, &value);
                model.insert(key.to_vec(), value);
            } else {
                map.remove(&key);
                model.remove(&key[..]);
            }
            if step == 20_000 {
                content = Some((map.content(), model.clone()));
            }
            // Scans in turns: often, and so rarely that the order is made again.
            if step % 97 == 0 && (step / 10_000) % 2 == 0 {
                let start = rng.random_range(0..3_000_u32).to_be_bytes().to_vec();
                let expected: Vec<_> = model.range(start.clone()..).take(700).collect();
                let found = scan(&map, &start, 700);
                assert!(found.iter().map(|(key, value)| (key, value)).eq(expected));
            }
            assert_eq!(map.get(&key), model.get(&key[..]).map(|value| &value[..]));
            assert_eq!(map.records, model.len());
        }
        let (content, model) = content.unwrap();
        let found: BTreeMap<_, _> =
            content.records().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        assert_eq!(found, model);
    }

    #[test]
    fn keys_that_come_and_go_leave_nothing() {
        let mut map = Map::default();
        assert_eq!(scan(&map, b"", 9), []);
        for n in 0..50_000_u32 {
            map.insert(&n.to_be_bytes(), b"value");
            map.remove(&n.to_be_bytes());
        }
        let order = map.order.get_mut();
        assert!(order.sorted.len() + order.noted.len() <= ORDER_SLACK + 1);
        map.insert(b"last", b"");
        assert_eq!(scan(&map, b"", 9), [(b"last".to_vec(), vec![])]);
    }
}
