//! The first layout: how the key space is cut and spread when a cluster begins.
//!
//! Pure: the replicated command carries the layout, and every member computes the same regions.

use crate::keys;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Most regions that a first layout may have: cut points are two bytes long.
pub const REGIONS_MAX: u32 = 65_536;
/// Replicas of a region, when there are as many stores.
pub const REPLICAS: usize = 3;

/// Where the key space is cut: region `i` ends where region `i + 1` begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Ascending, distinct, not empty; one less than there are regions.
    cuts: Vec<CutKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
struct CutKey(#[serde(with = "keys::hex")] Bytes);

impl Layout {
    /// `regions` regions of equal share of the first two bytes of a key.
    pub fn even(regions: u32) -> Result<Layout, String> {
        if regions == 0 || regions > REGIONS_MAX {
            return Err(format!("{regions}: must be 1 to {REGIONS_MAX}"));
        }
        let cut = |i: u32| {
            let point = (u64::from(i) << 16) / u64::from(regions);
            CutKey(Bytes::copy_from_slice(&(point as u16).to_be_bytes()))
        };
        Ok(Layout { cuts: (1..regions).map(cut).collect() })
    }

    /// A region between each two neighbours of `cuts`, in any order; the error names the key.
    pub fn at(mut cuts: Vec<Bytes>) -> Result<Layout, String> {
        cuts.sort();
        for key in &cuts {
            if key.is_empty() {
                return Err("an empty key: the first region begins there anyway".to_string());
            }
            if key.len() > keys::KEY_BYTES_MAX {
                let (len, max) = (key.len(), keys::KEY_BYTES_MAX);
                return Err(format!("a key of {len} bytes: at most {max}"));
            }
        }
        if let Some(pair) = cuts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the key {} is given twice", keys::display(&pair[0])));
        }
        if cuts.len() as u64 >= u64::from(REGIONS_MAX) {
            return Err(format!("{} keys: at most {}", cuts.len(), REGIONS_MAX - 1));
        }
        Ok(Layout { cuts: cuts.into_iter().map(CutKey).collect() })
    }

    /// Number of regions.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.cuts.len() + 1
    }

    /// The ranges in order: `[start, end)`, an empty end meaning the end of all keys.
    pub fn ranges(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        let bound = |i: Option<usize>| {
            i.and_then(|i| self.cuts.get(i)).map_or_else(Bytes::new, |cut| cut.0.clone())
        };
        (0..self.regions()).map(move |i| (bound(i.checked_sub(1)), bound(Some(i))))
    }
}

/// The stores of region number `i`: neighbours in a ring, so that every store holds the same share.
#[must_use]
pub fn stores_of(i: usize, stores: &[u64]) -> Vec<u64> {
    let count = REPLICAS.min(stores.len());
    (0..count).map(|k| stores[(i + k) % stores.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_covers(layout: &Layout) {
        let ranges: Vec<_> = layout.ranges().collect();
        assert_eq!(ranges.len(), layout.regions());
        assert!(ranges[0].0.is_empty() && ranges[ranges.len() - 1].1.is_empty());
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
            assert!(pair[0].0 < pair[0].1, "an empty region");
        }
    }

    #[test]
    fn even_layouts_cover_the_key_space() {
        for regions in [1, 2, 3, 24, 255, 256, 257, 1000, REGIONS_MAX] {
            let layout = Layout::even(regions).unwrap();
            assert_eq!(layout.regions(), regions as usize);
            assert_covers(&layout);
        }
        assert!(Layout::even(0).is_err());
        assert!(Layout::even(REGIONS_MAX + 1).unwrap_err().contains("65537"));
    }

    #[test]
    fn given_keys_are_sorted_and_checked() {
        let keys =
            |list: &[&str]| list.iter().map(|k| Bytes::copy_from_slice(k.as_bytes())).collect();
        let layout = Layout::at(keys(&["m", "c", "x"])).unwrap();
        assert_covers(&layout);
        assert_eq!(layout.ranges().nth(1), Some(("c".into(), "m".into())));
        assert!(Layout::at(keys(&["a", "b", "a"])).unwrap_err().contains("twice"));
        assert!(Layout::at(keys(&["a", ""])).unwrap_err().contains("empty"));
        assert!(Layout::at(vec![vec![1; 4097].into()]).unwrap_err().contains("4097"));
        assert_eq!(Layout::at(Vec::new()).unwrap().regions(), 1);
    }

    #[test]
    fn replicas_are_spread_in_equal_share() {
        for stores in 1..=7u64 {
            let stores: Vec<u64> = (1..=stores).collect();
            let mut held = vec![0; stores.len() + 1];
            for i in 0..stores.len() * 6 {
                let of = stores_of(i, &stores);
                assert_eq!(of.len(), stores.len().min(3));
                of.iter().for_each(|s| held[*s as usize] += 1);
            }
            assert!(held[1..].iter().all(|n| *n == held[1]));
        }
    }
}
