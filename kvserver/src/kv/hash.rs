//! A hash of a region's content, to compare replicas and engines.

use super::engine::{Column, View};
use super::keys;
use super::record::GroupState;
use super::region::RegionMeta;
use bytes::{BufMut, BytesMut};
use flotilla_raftstore::Fatal;
use xxhash_rust::xxh3::Xxh3;

const PAGE_RECORDS: usize = 1_000;
const PAGE_BYTES: usize = 1 << 20;

/// Applied index, and XXH3 over the revision and every (key length, key, record length, record)
/// of the region in key order; numbers are u64, little endian.
pub fn content(view: &dyn View, meta: &RegionMeta) -> Result<(u64, u64), Fatal> {
    let state = match view.get(Column::System, &keys::state(meta.group))? {
        Some(state) => GroupState::decode(&state)?,
        None => return Err(Fatal::new("hash a group's content", "its applied state is missing")),
    };
    let mut hash = Xxh3::new();
    hash.update(&state.revision.to_le_bytes());
    let mut start = BytesMut::from(&meta.start[..]);
    loop {
        let (page, more) = view.scan(Column::Data, &start, &meta.end, PAGE_RECORDS, PAGE_BYTES)?;
        for (key, record) in &page {
            for part in [key, record] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let (Some((last, _)), true) = (page.last(), more) else {
            return Ok((state.applied, hash.digest()));
        };
        start.clear();
        start.put_slice(last);
        start.put_u8(0);
    }
}
