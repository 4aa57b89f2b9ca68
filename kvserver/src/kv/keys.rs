//! Keys of the `System` column: the group's id, 8 bytes big endian, then one byte that says what
//! the record is. User keys go into the `Data` column unchanged.

use bytes::Bytes;
use flotilla_raftstore::GroupId;

/// How far the group is applied: a [`super::record::GroupState`].
const STATE: u8 = b's';
/// The group's region: a [`super::RegionMeta`] as JSON.
const META: u8 = b'm';

/// Bytes of the group's id at the front of every `System` key.
pub const GROUP_BYTES: usize = 8;

/// Where the group's applied state is.
#[must_use]
pub fn state(group: GroupId) -> Bytes {
    key(group, STATE)
}

/// Where the group's region is.
#[must_use]
pub fn meta(group: GroupId) -> Bytes {
    key(group, META)
}

/// The group that a `System` key belongs to; `None` when it is too short to be one.
#[must_use]
pub fn group_of(key: &[u8]) -> Option<GroupId> {
    let id = key.get(..GROUP_BYTES)?;
    Some(GroupId(u64::from_be_bytes(id.try_into().expect("eight bytes"))))
}

fn key(group: GroupId, what: u8) -> Bytes {
    let mut key = [0; GROUP_BYTES + 1];
    key[..GROUP_BYTES].copy_from_slice(&group.0.to_be_bytes());
    key[GROUP_BYTES] = what;
    Bytes::copy_from_slice(&key)
}
