//! A hash table of records for overwrites: a log of bytes and an index of places in it.
//!
//! A put of a known key with a value of the same length is one look-up and a copy; any other put
//! appends to the log. Nothing is given up before the whole table is: its records live for one
//! checkpoint only. Deletes are records too, so that they hide what is below the table.
//!
//! ```text
//! record: key length u32 | value length u32, highest bit: deleted | key | value
//! ```
//!
//! Order is made when a scan or a checkpoint asks for it. The log makes that cheap: keys that
//! came since the last scan are those behind the place up to which it had looked.
//!
//! A table of a million keys is in no processor cache, and each of the three places that a put touches
//! is a wait for memory. So whoever has many keys looks at all of them first ([`Records::warm`]) with so
//! little work for each that the processor waits for many at once.

use super::pace::Pace;
use hashbrown::HashTable;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

const HEAD_BYTES: usize = 8;
const DELETED: u32 = 1 << 31;
/// Of a record's share of the index, which doubles when it is full.
const SLOT_BYTES: usize = 16;
/// Records that are sorted, or looked at, between two steps of a pace: a third of a millisecond.
const STEP: usize = 2 << 10;

/// Records that are fetched into the processor's cache together: enough to overlap all waits, and few
/// enough to be there still when they are used.
pub(super) const WARM: usize = 32;

/// Bytes that a processor fetches at once.
const CACHE_LINE: usize = 64;

/// Where a record begins in the log.
pub(super) type Place = u32;

/// See the module.
#[derive(Default)]
pub struct Records {
    index: HashTable<Slot>,
    log: Vec<u8>,
    runs: Mutex<Runs>,
}

/// A key's place. With its hash beside it the index grows without a look at the keys.
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    place: Place,
}

/// The keys in order, as far as scans have asked.
#[derive(Default)]
struct Runs {
    /// Records of the log that the runs cover, in bytes.
    covered: usize,
    /// Each ascending and more than twice as long as the next. Places may be out of date: the
    /// keys there are right.
    runs: Vec<Arc<[Place]>>,
}

impl Records {
    /// An empty table with room for as much as `other` holds.
    #[must_use]
    pub fn with_room_of(other: &Records) -> Records {
        Records {
            index: HashTable::with_capacity(other.index.len()),
            log: Vec::with_capacity(other.log.len()),
            runs: Mutex::default(),
        }
    }

    /// Forgets everything and keeps the room.
    pub(super) fn clear(&mut self) {
        self.index.clear();
        self.log.clear();
        *self.runs.get_mut() = Runs::default();
    }

    /// Whether there is room for as much as `other` holds, and not for more than three times as much.
    pub(super) fn suits(&self, other: &Records) -> bool {
        let suits = |room: usize, held: usize| (held..=held.saturating_mul(3)).contains(&room);
        suits(self.index.capacity(), other.index.len())
            && suits(self.log.capacity(), other.log.len())
    }

    /// Whether nothing was ever set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Different keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Memory in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.log.len() + self.index.len() * SLOT_BYTES
    }

    /// What [`Records::set`] adds to [`Records::bytes`] at most.
    #[must_use]
    pub fn bytes_of(key: &[u8], value: Option<&[u8]>) -> usize {
        HEAD_BYTES + SLOT_BYTES + key.len() + value.map_or(0, <[u8]>::len)
    }

    /// `None`: the table does not know the key; `Some(None)`: deleted here.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let hash = short_hash_of(key);
        let same = |slot: &Slot| slot.hash == hash && self.key(slot.place) == key;
        self.index.find(spread(hash), same).map(|slot| self.value(slot.place))
    }

    /// Fetches what [`Records::set`] will touch for up to [`WARM`] keys.
    pub(super) fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let (mut places, mut found) = ([0; WARM], 0);
        for key in keys.take(WARM) {
            let hash = short_hash_of(key);
            // A glance that waits for nothing else: the key itself is compared later.
            if let Some(slot) = self.index.find(spread(hash), |slot| slot.hash == hash) {
                places[found] = slot.place;
                found += 1;
            }
        }
        self.warm_places(&places[..found]);
    }

    /// Fetches the first two cache lines of records: all of a small one.
    fn warm_places(&self, places: &[Place]) {
        let last = self.log.len().saturating_sub(1);
        let touch = |sum: u8, place: &Place| {
            let place = *place as usize;
            sum ^ self.log[place] ^ self.log[last.min(place + CACHE_LINE - 1)]
        };
        black_box(places.iter().fold(0, touch));
    }

    /// Sets a key's value to a copy of `value`; `None` deletes.
    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let hash = short_hash_of(key);
        let log = &mut self.log;
        let same = |slot: &Slot| slot.hash == hash && key_at(log, slot.place) == key;
        if let Some(slot) = self.index.find_mut(spread(hash), same) {
            if !overwrite(log, slot.place, value) {
                slot.place = append(log, key, value);
            }
            return;
        }
        let slot = Slot { hash, place: append(log, key, value) };
        self.index.insert_unique(spread(hash), slot, |slot| spread(slot.hash));
    }

    /// Every record, ascending. Sorts in steps of `pace`.
    #[must_use]
    pub fn sorted(&self, pace: &Pace<'_>) -> Sorted<'_> {
        let places = self.index.iter().map(|slot| slot.place).collect();
        Sorted { records: self, places: self.sort(places, pace).into_iter(), warm: 0 }
    }

    /// Runs that together have every key, each ascending, for a scan.
    pub(super) fn runs(&self) -> Vec<Arc<[Place]>> {
        let mut runs = self.runs.lock();
        let mut fresh = Vec::new();
        while runs.covered < self.log.len() {
            let place = runs.covered as Place;
            fresh.push(place);
            runs.covered += HEAD_BYTES + self.key(place).len() + room_at(&self.log, place);
        }
        if !fresh.is_empty() {
            let mut run = self.sort(fresh, &Pace::full());
            run.dedup_by(|a, b| self.key(*a) == self.key(*b));
            while let Some(before) = runs.runs.pop_if(|before| before.len() <= 2 * run.len()) {
                run = self.merge(&before, &run);
            }
            runs.runs.push(run.into());
        }
        runs.runs.clone()
    }

    pub(super) fn key(&self, place: Place) -> &[u8] {
        key_at(&self.log, place)
    }

    fn value(&self, place: Place) -> Option<&[u8]> {
        let (key, value) = lengths_at(&self.log, place);
        let begin = place as usize + HEAD_BYTES + key;
        (value & DELETED == 0).then(|| &self.log[begin..begin + value as usize])
    }

    /// Ascending by key. Most comparisons are of eight bytes behind what all keys begin with.
    fn sort(&self, places: Vec<Place>, pace: &Pace<'_>) -> Vec<Place> {
        let Some(first) = places.first().map(|place| self.key(*place)) else {
            return places;
        };
        let mut common = first.len();
        self.each_warm(&places, pace, |key, _| {
            common = first[..common].iter().zip(key).take_while(|(a, b)| a == b).count();
        });
        let mut keyed: Vec<(u64, Place)> = Vec::with_capacity(places.len());
        self.each_warm(&places, pace, |key, p| keyed.push((eight_bytes(&key[common..]), p)));
        self.sort_keyed(&mut keyed, pace);
        keyed.into_iter().map(|(_, place)| place).collect()
    }

    /// Looks at the keys in steps of `pace`, each time at many at once.
    fn each_warm(&self, places: &[Place], pace: &Pace<'_>, mut look: impl FnMut(&[u8], Place)) {
        for step in places.chunks(STEP) {
            for chunk in step.chunks(WARM) {
                self.warm_places(chunk);
                chunk.iter().for_each(|place| look(self.key(*place), *place));
            }
            pace.step();
        }
    }

    /// Cut in the middle until the pieces are small, so that there is a step between them.
    fn sort_keyed(&self, keyed: &mut [(u64, Place)], pace: &Pace<'_>) {
        let order = |a: &(u64, Place), b: &(u64, Place)| {
            a.0.cmp(&b.0).then_with(|| self.key(a.1).cmp(self.key(b.1)))
        };
        if keyed.len() <= STEP {
            keyed.sort_unstable_by(order);
        } else {
            let (below, _, above) = keyed.select_nth_unstable_by(keyed.len() / 2, order);
            pace.step();
            self.sort_keyed(below, pace);
            self.sort_keyed(above, pace);
        }
        pace.step();
    }

    fn merge(&self, first: &[Place], second: &[Place]) -> Vec<Place> {
        let mut merged = Vec::with_capacity(first.len() + second.len());
        let (mut a, mut b) = (0, 0);
        while a < first.len() && b < second.len() {
            let order = self.key(first[a]).cmp(self.key(second[b]));
            merged.push(if order.is_le() { first[a] } else { second[b] });
            a += usize::from(order.is_le());
            b += usize::from(order.is_ge());
        }
        merged.extend_from_slice(&first[a..]);
        merged.extend_from_slice(&second[b..]);
        merged
    }
}

/// Records of a table, ascending by key; value `None` = deleted.
pub struct Sorted<'a> {
    records: &'a Records,
    places: std::vec::IntoIter<Place>,
    /// Of the next ones, so many are fetched already.
    warm: usize,
}

impl Sorted<'_> {
    /// First and last key that are left.
    #[must_use]
    pub fn bounds(&self) -> Option<(&[u8], &[u8])> {
        let places = self.places.as_slice();
        Some((self.records.key(*places.first()?), self.records.key(*places.last()?)))
    }
}

impl<'a> Iterator for Sorted<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.warm == 0 {
            let next = self.places.as_slice();
            self.warm = next.len().min(WARM);
            self.records.warm_places(&next[..self.warm]);
        }
        let place = self.places.next()?;
        self.warm -= 1;
        Some((self.records.key(place), self.records.value(place)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

/// For any index of keys.
pub(in crate::kv::engine) fn hash_of(key: &[u8]) -> u64 {
    spread(short_hash_of(key))
}

fn short_hash_of(key: &[u8]) -> u32 {
    // Mixed again: the plain hash has its best bits in the middle.
    (FxBuildHasher.hash_one(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The index looks at the lowest and the highest bits of 64.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn eight_bytes(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let count = key.len().min(8);
    bytes[..count].copy_from_slice(&key[..count]);
    u64::from_be_bytes(bytes)
}

fn append(log: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) -> Place {
    let place = Place::try_from(log.len()).expect("the table's limit is far below 4 GiB");
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .ok()
            .filter(|length| length & DELETED == 0)
            .expect("keys and values are limited to far below 2 GiB")
    };
    log.extend_from_slice(&length(key).to_le_bytes());
    log.extend_from_slice(&value.map_or(DELETED, length).to_le_bytes());
    log.extend_from_slice(key);
    log.extend_from_slice(value.unwrap_or_default());
    place
}

/// In place, if the value fits exactly; a deleted record keeps its room.
fn overwrite(log: &mut [u8], place: Place, value: Option<&[u8]>) -> bool {
    let (key, old) = lengths_at(log, place);
    let room = old & !DELETED;
    let length = match value {
        None => room | DELETED,
        Some(value) if value.len() == room as usize => room,
        Some(_) => return false,
    };
    let at = place as usize;
    log[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    if let Some(value) = value {
        let begin = at + HEAD_BYTES + key;
        log[begin..begin + value.len()].copy_from_slice(value);
    }
    true
}

fn lengths_at(log: &[u8], place: Place) -> (usize, u32) {
    let head: &[u8; HEAD_BYTES] =
        log[place as usize..].first_chunk().expect("every place has a whole record");
    let [a, b, c, d, e, f, g, h] = *head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

fn key_at(log: &[u8], place: Place) -> &[u8] {
    let begin = place as usize + HEAD_BYTES;
    &log[begin..begin + lengths_at(log, place).0]
}

fn room_at(log: &[u8], place: Place) -> usize {
    (lengths_at(log, place).1 & !DELETED) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn check(records: &Records, model: &Model) {
        let owned =
            |(key, value): (&[u8], Option<&[u8]>)| (key.to_vec(), value.map(<[u8]>::to_vec));
        assert!(records.sorted(&Pace::full()).map(owned).eq(model.clone()));
        let mut bounds = model.keys().map(|key| &key[..]);
        let bounds = bounds.next().map(|first| (first, bounds.next_back().unwrap_or(first)));
        assert_eq!(records.sorted(&Pace::full()).bounds(), bounds);
        let mut keys: Vec<&[u8]> = Vec::new();
        for run in records.runs() {
            let run: Vec<_> = run.iter().map(|place| records.key(*place)).collect();
            assert!(run.is_sorted_by(|a, b| a < b));
            keys.extend(run);
        }
        keys.sort_unstable();
        keys.dedup();
        assert!(keys.into_iter().eq(model.keys().map(|key| &key[..])));
    }

    #[test]
    fn behaves_like_a_map_that_remembers_deletes() {
        let mut rng = SmallRng::seed_from_u64(5);
        for (prefix, keys) in [(&b""[..], 40_u32), (b"", 3_000), (b"a common beginning ", 9_000)] {
            let (mut records, mut model) = (Records::default(), Model::new());
            let mut bytes_max = 0;
            for step in 0..20_000 {
                let number = rng.random_range(0..keys);
                let mut key = prefix.to_vec();
                key.extend_from_slice(&number.to_be_bytes()[if number % 3 == 0 { 3 } else { 0 }..]);
                let value = vec![step as u8; rng.random_range(0..3)];
                let value = rng.random_bool(0.7).then_some(value);
                bytes_max += Records::bytes_of(&key, value.as_deref());
                records.set(&key, value.as_deref());
                model.insert(key.clone(), value);
                assert!(records.bytes() <= bytes_max);
                assert_eq!(records.get(&key), model.get(&key).map(Option::as_deref));
                assert_eq!(records.len(), model.len());
                if step % 1_700 == 0 {
                    check(&records, &model);
                }
            }
            assert_eq!(records.get(b"another"), None);
            check(&records, &model);
        }
        check(&Records::default(), &Model::new());
    }

    #[test]
    fn overwrites_of_the_same_length_take_no_memory() {
        let mut records = Records::default();
        records.set(b"key", Some(b"value"));
        let bytes = records.bytes();
        for value in [Some(&b"other"[..]), None, Some(b"third"), None] {
            records.set(b"key", value);
            assert_eq!((records.get(b"key"), records.bytes()), (Some(value), bytes));
        }
        let next = Records::with_room_of(&records);
        assert!(next.is_empty() && next.log.capacity() >= records.log.len());
    }

    #[test]
    fn a_cleared_table_keeps_its_room_and_nothing_else() {
        let mut records = Records::default();
        let (mut full, key) = (Records::default(), |n: u32| n.to_be_bytes());
        for n in 0..5_000 {
            full.set(&key(n), Some(b"value"));
        }
        for n in (0..5_000).rev() {
            records.set(&key(n), Some(b"older"));
        }
        assert_eq!(records.runs().len(), 1);
        assert!(records.suits(&full) && !records.suits(&Records::default()));
        assert!(!Records::default().suits(&full));
        records.clear();
        assert!(records.is_empty() && records.suits(&full));
        check(&records, &Model::new());
        assert_eq!((records.get(&key(7)), records.bytes()), (None, 0));
        records.set(&key(7), Some(b"new"));
        check(&records, &Model::from([(key(7).to_vec(), Some(b"new".to_vec()))]));
    }

    #[test]
    fn many_scans_keep_few_runs() {
        let mut records = Records::default();
        for n in 0..4_000_u32 {
            records.set(&n.wrapping_mul(0x9e37_79b9).to_be_bytes(), Some(b"value"));
            assert!(records.runs().len() <= 13);
        }
    }
}
