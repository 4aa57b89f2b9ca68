//! Keys of a region of one's choice, and putting many of them.

use crate::error::Error;
use bytes::{Bytes, BytesMut};
use flotilla_client::pb::Region;
use flotilla_client::{Client, Error as ClientError};

/// Puts in flight while a region is filled.
const IN_FLIGHT: u64 = 64;
/// Bytes of a key before its number, unless the start key is longer.
const START_BYTES: usize = 8;

/// Key number `number` of `region`: its start key and the number, filled up to 16 bytes.
#[must_use]
pub fn key_in(region: &Region, number: u64) -> Bytes {
    let mut key = BytesMut::from(&region.start[..]);
    key.resize(START_BYTES.max(key.len()), 0);
    key.extend_from_slice(&number.to_be_bytes());
    key.freeze()
}

/// Whether `region` holds `key`.
#[must_use]
pub fn holds(region: &Region, key: &[u8]) -> bool {
    key >= &region.start[..] && (region.end.is_empty() || key < &region.end[..])
}

/// Puts `count` records, number N as `record` makes it; those with an unknown outcome again.
pub async fn fill(
    client: &Client,
    count: u64,
    record: impl Fn(u64) -> (Bytes, Bytes),
) -> Result<(), Error> {
    let mut pipeline = client.pipeline();
    let mut ended = Vec::new();
    let (mut next, mut done) = (0, 0);
    while done < count {
        while next < count && next - done < IN_FLIGHT {
            let (key, value) = record(next);
            pipeline.put(next, key, value);
            next += 1;
        }
        pipeline.wait(&mut ended).await;
        for over in ended.drain(..) {
            match over.result {
                Ok(_) => done += 1,
                Err(ClientError::Unknown { .. }) => {
                    let (key, value) = record(over.tag);
                    pipeline.put(over.tag, key, value);
                }
                Err(error) => {
                    return Err(Error::Cluster(format!("filling, put {}: {error}", over.tag)));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_their_region() {
        let region = |start: &'static [u8], end: &'static [u8]| Region {
            start: Bytes::from_static(start),
            end: Bytes::from_static(end),
            ..Region::default()
        };
        for region in [region(b"", b"\x0a"), region(b"\x0a\xaa", b"\x0a\xab"), region(b"\xff", b"")]
        {
            for number in [0, 1, u64::MAX] {
                let key = key_in(&region, number);
                assert!(holds(&region, &key) && key.len() == 16, "{key:?}");
            }
            assert_ne!(key_in(&region, 1), key_in(&region, 2));
        }
        assert!(!holds(&region(b"b", b"c"), b"c") && !holds(&region(b"b", b"c"), b"a"));
    }
}
