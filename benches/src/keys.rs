//! Which keys a workload touches.

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::SmallRng;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a key of `spread:N`.
pub const SPREAD_KEY_BYTES: usize = 16;

/// The two modes of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// One key a region, its first: as many distinct keys as regions.
    StartKey,
    /// Uniform over this many keys, which are uniform over the byte space.
    Spread(u64),
}

impl fmt::Display for KeyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyMode::StartKey => f.write_str("startkey"),
            KeyMode::Spread(count) => write!(f, "spread:{count}"),
        }
    }
}

impl FromStr for KeyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "startkey" {
            return Ok(KeyMode::StartKey);
        }
        let count = match text.strip_prefix("spread:") {
            Some(count) => count.parse::<u64>().ok(),
            None if text == "spread" => Some(1_000_000),
            None => None,
        };
        match count {
            Some(count) if count > 0 => Ok(KeyMode::Spread(count)),
            _ => Err("expected `startkey` or `spread:N` with N from 1".to_owned()),
        }
    }
}

/// A source of keys, shared by all workers of a run.
#[derive(Clone, Debug)]
pub enum Keys {
    /// One of these.
    Listed(Vec<Bytes>),
    /// [`spread_key`] of a number below this.
    Spread(u64),
}

impl Keys {
    /// Keys of `mode`; `starts` are the regions' start keys.
    ///
    /// A start key shorter than `key_bytes` is filled up with zero bytes: the region's first key
    /// of that length, and a legal one where the start key is empty.
    #[must_use]
    pub fn new(mode: KeyMode, starts: &[Bytes], key_bytes: usize) -> Self {
        match mode {
            KeyMode::Spread(count) => Keys::Spread(count),
            KeyMode::StartKey => Keys::Listed(
                starts
                    .iter()
                    .map(|start| {
                        let mut key = start.to_vec();
                        key.resize(key_bytes.max(start.len()).max(1), 0);
                        Bytes::from(key)
                    })
                    .collect(),
            ),
        }
    }
}

/// Draws keys; one for each client.
#[derive(Debug)]
pub struct Picker {
    keys: Keys,
    /// Keys are cut from it: one allocation for many.
    space: BytesMut,
}

impl Picker {
    const SPACE_BYTES: usize = 256 * SPREAD_KEY_BYTES;

    /// Draws from `keys`.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Picker { keys, space: BytesMut::new() }
    }

    /// A key, uniformly chosen.
    pub fn pick(&mut self, rng: &mut SmallRng) -> Bytes {
        match &self.keys {
            Keys::Listed(keys) => keys[rng.random_range(0..keys.len())].clone(),
            Keys::Spread(count) => {
                if self.space.capacity() < SPREAD_KEY_BYTES {
                    self.space = BytesMut::with_capacity(Self::SPACE_BYTES);
                }
                self.space.extend_from_slice(&spread_key_bytes(rng.random_range(0..*count)));
                self.space.split().freeze()
            }
        }
    }
}

/// Key number `i` of `spread:N`: 8 bytes of a mixed hash of `i`, then `i`, both big-endian.
#[must_use]
pub fn spread_key(i: u64) -> Bytes {
    Bytes::copy_from_slice(&spread_key_bytes(i))
}

fn spread_key_bytes(i: u64) -> [u8; SPREAD_KEY_BYTES] {
    let mut key = [0; SPREAD_KEY_BYTES];
    key[..8].copy_from_slice(&xxh3_64(&i.to_be_bytes()).to_be_bytes());
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_printed_as_they_are_parsed() {
        for text in ["startkey", "spread:1", "spread:1000000"] {
            assert_eq!(text.parse::<KeyMode>().unwrap().to_string(), text);
        }
        assert_eq!("spread".parse(), Ok(KeyMode::Spread(1_000_000)));
        for text in ["", "start", "spread:", "spread:0", "spread:-1", "spread:x"] {
            assert!(text.parse::<KeyMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn spread_keys_are_even_over_the_byte_space() {
        let mut slices = [0_u32; 24];
        for i in 0..24_000 {
            slices[usize::from(spread_key(i)[0]) * 24 / 256] += 1;
        }
        assert!(slices.iter().all(|n| (850..1150).contains(n)), "{slices:?}");
        assert_eq!(&spread_key(258)[8..], &[0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn start_keys_are_the_first_of_their_length() {
        let starts = [Bytes::new(), Bytes::from_static(b"\x0a"), Bytes::from_static(b"long one")];
        let Keys::Listed(keys) = Keys::new(KeyMode::StartKey, &starts, 4) else { panic!() };
        assert_eq!(keys, [&b"\0\0\0\0"[..], b"\x0a\0\0\0", b"long one"]);
    }
}
