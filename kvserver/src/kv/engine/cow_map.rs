//! An ordered map of bytes whose clone is cheap: a dump clones it and works on the clone while
//! writes go on.
//!
//! Two levels: ordered segments of at most [`SEGMENT_RECORDS_MAX`] records behind [`Arc`]s. A
//! clone shares all segments; the first write to a shared segment copies that one segment.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Copying so many records takes some ten microseconds: what one write may have to wait for.
const SEGMENT_RECORDS_MAX: usize = 512;

type Segment = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// See the module.
#[derive(Clone)]
pub struct CowMap {
    /// Lower bound → segment; the first bound is empty, so every key has a segment.
    segments: BTreeMap<Arc<[u8]>, Arc<Segment>>,
}

impl Default for CowMap {
    fn default() -> Self {
        CowMap { segments: BTreeMap::from([(Arc::from([]), Arc::default())]) }
    }
}

impl CowMap {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, segment) = self.segments.range::<[u8], _>(up_to(key)).next_back()?;
        segment.get(key).map(|value| &**value)
    }

    /// Puts copies of key and value; in place when the value's length stays.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        let segment = self.segment_mut(key);
        let Some(known) = segment.get_mut(key) else {
            segment.insert(Arc::from(key), Arc::from(value));
            if segment.len() > SEGMENT_RECORDS_MAX {
                self.split(key);
            }
            return;
        };
        match Arc::get_mut(known) {
            Some(bytes) if bytes.len() == value.len() => bytes.copy_from_slice(value),
            _ => *known = Arc::from(value),
        }
    }

    /// Removes `key`, if there.
    pub fn remove(&mut self, key: &[u8]) {
        let bound = match self.segments.range_mut::<[u8], _>(up_to(key)).next_back() {
            Some((bound, segment)) if segment.contains_key(key) => {
                let segment = Arc::make_mut(segment);
                segment.remove(key);
                if !segment.is_empty() || bound.is_empty() {
                    return;
                }
                bound.clone()
            }
            _ => return,
        };
        self.segments.remove(&bound);
    }

    /// Records from `start` on, ascending.
    pub fn range_from<'a>(
        &'a self,
        start: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let first = self.segments.range::<[u8], _>(up_to(start)).next_back();
        let later = self.segments.range::<[u8], _>((Bound::Excluded(start), Bound::Unbounded));
        first
            .into_iter()
            .chain(later)
            .flat_map(move |(_, segment)| {
                segment.range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            })
            .map(|(key, value)| (&**key, &**value))
    }

    fn segment_mut(&mut self, key: &[u8]) -> &mut Segment {
        let segment = self.segments.range_mut::<[u8], _>(up_to(key)).next_back();
        Arc::make_mut(segment.expect("the first segment's bound is below every key").1)
    }

    /// Cuts the segment of `key` in the middle.
    fn split(&mut self, key: &[u8]) {
        let segment = self.segment_mut(key);
        let middle = segment.keys().nth(segment.len() / 2).expect("a full segment").clone();
        let upper = segment.split_off(&middle);
        self.segments.insert(middle, Arc::new(upper));
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn behaves_like_a_plain_map_and_clones_do_not_change() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut map = CowMap::default();
        let mut model = BTreeMap::new();
        let mut clone = None;
        for step in 0..60_000_u32 {
            let key = rng.random_range(0..3_000_u32).to_be_bytes();
            if rng.random_bool(if step < 30_000 { 0.8 } else { 0.2 }) {
                let value = vec![1; rng.random_range(0..3)];
                map.insert(&key, &value);
                model.insert(key.to_vec(), value);
            } else {
                map.remove(&key);
                model.remove(&key[..]);
            }
            if step == 20_000 {
                clone = Some((map.clone(), model.clone()));
            }
            if step % 997 == 0 {
                let start = rng.random_range(0..3_000_u32).to_be_bytes();
                let found: Vec<_> = map.range_from(&start).take(700).collect();
                let expected: Vec<_> = model
                    .range(start.to_vec()..)
                    .take(700)
                    .map(|(key, value)| (&key[..], &value[..]))
                    .collect();
                assert_eq!(found, expected);
            }
            assert_eq!(map.get(&key), model.get(&key[..]).map(|value| &value[..]));
        }
        assert!(map.segments.len() > 1);
        let (map, model) = clone.unwrap();
        let found: Vec<_> = map.range_from(&[]).collect();
        let expected: Vec<_> = model.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(found, expected);
    }
}
