//! How the log's keys and values look on disk (format 3; 2 knew no installs, 1 had records without their
//! tail).
//!
//! Key, 17 bytes: group (u64, big endian), kind (u8), index (u64, big endian). One group's
//! records lie side by side, its entries last and in index order. The directory of groups lies
//! under group 0, which no group has: when a block of entries is damaged, the directory still
//! says whose they were.
//!
//! Value: CRC-32C (u32, little endian) of key and body, then the body. The key is part of the
//! checksum, so that a record at a wrong place does not pass. Numbers are little endian.
//!
//! | kind | group, index | body |
//! |---|---|---|
//! | 0 directory | 0, the group | replica u64, members; removed u8, membership (`members/codec.rs`) |
//! | 1 hard state | group, 0 | term, vote, commit u64 |
//! | 2 truncated | group, 0 | index, term u64; the snapshot being installed u64, if one is |
//! | 3 entry | group, index | term u64, kind u8, data |

use crate::members::codec::{get_members, get_membership, put_members, put_membership};
use crate::snapshot::SnapshotId;
use crate::types::{
    EntryKind, GroupDesc, GroupId, GroupRecord, HardState, LogEntry, LogPosition, ReplicaId,
};
use bytes::{Buf, BufMut, Bytes};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 3;

const CRC_BYTES: usize = 4;

const DIRECTORY: u8 = 0;
const HARD_STATE: u8 = 1;
const TRUNCATED: u8 = 2;
const ENTRY: u8 = 3;

/// An encoded key.
pub type RawKey = [u8; 17];

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The record of a group.
    Directory(GroupId),
    /// Term, vote, commit of a group.
    HardState(GroupId),
    /// Last removed position of a group.
    Truncated(GroupId),
    /// One entry of a group.
    Entry(GroupId, u64),
}

impl Key {
    /// The bytes of this key.
    pub fn encode(self) -> RawKey {
        let (group, kind, index) = match self {
            Key::Directory(group) => (GroupId(0), DIRECTORY, group.0),
            Key::HardState(group) => (group, HARD_STATE, 0),
            Key::Truncated(group) => (group, TRUNCATED, 0),
            Key::Entry(group, index) => (group, ENTRY, index),
        };
        raw(group, kind, index)
    }

    /// The key of these bytes, if they are one.
    pub fn decode(bytes: &[u8]) -> Option<Key> {
        let raw = RawKey::try_from(bytes).ok()?;
        let mut bytes = raw.as_slice();
        let (group, kind, index) = (GroupId(bytes.get_u64()), bytes.get_u8(), bytes.get_u64());
        match (group.0, kind, index) {
            (0, DIRECTORY, 1..) => Some(Key::Directory(GroupId(index))),
            (1.., HARD_STATE, 0) => Some(Key::HardState(group)),
            (1.., TRUNCATED, 0) => Some(Key::Truncated(group)),
            (1.., ENTRY, 1..) => Some(Key::Entry(group, index)),
            _ => None,
        }
    }
}

/// The first possible key of a group.
pub fn first_key(group: GroupId) -> RawKey {
    raw(group, 0, 0)
}

fn raw(group: GroupId, kind: u8, index: u64) -> RawKey {
    let mut key = RawKey::default();
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8] = kind;
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Writes values into one buffer that is used again and again.
#[derive(Default)]
pub struct Encoder {
    buffer: Vec<u8>,
}

impl Encoder {
    fn seal(&mut self, key: &RawKey, body: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        self.buffer.clear();
        self.buffer.put_u32_le(0);
        body(&mut self.buffer);
        let crc = checksum(key, &self.buffer[CRC_BYTES..]);
        self.buffer[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }

    /// The value of an entry.
    pub fn entry(&mut self, key: &RawKey, entry: &LogEntry) -> &[u8] {
        self.seal(key, |body| {
            body.put_u64_le(entry.term);
            body.put_u8(match entry.kind {
                EntryKind::Normal => 0,
                EntryKind::Membership => 1,
            });
            body.put_slice(&entry.data);
        })
    }

    /// The value of a hard state.
    pub fn hard_state(&mut self, key: &RawKey, state: &HardState) -> &[u8] {
        self.seal(key, |body| {
            body.put_u64_le(state.term);
            body.put_u64_le(state.vote);
            body.put_u64_le(state.commit);
        })
    }

    /// The value of a truncated position.
    pub fn beginning(
        &mut self,
        key: &RawKey,
        position: &LogPosition,
        installing: Option<SnapshotId>,
    ) -> &[u8] {
        self.seal(key, |body| {
            body.put_u64_le(position.index);
            body.put_u64_le(position.term);
            if let Some(snapshot) = installing {
                body.put_u64_le(snapshot.0);
            }
        })
    }

    /// The value of a group's record.
    pub fn record(&mut self, key: &RawKey, record: &GroupRecord) -> &[u8] {
        self.seal(key, |body| {
            body.put_u64_le(record.replica.0);
            put_members(body, &record.desc.replicas);
            body.put_u8(u8::from(record.removed));
            put_membership(body, &record.desc.membership);
        })
    }

    /// As format 1 wrote it, number by number.
    #[cfg(test)]
    pub fn record_1(&mut self, key: &RawKey, record: &GroupRecord) -> &[u8] {
        self.seal(key, |body| {
            body.put_u64_le(record.replica.0);
            body.put_u32_le(record.desc.replicas.len() as u32);
            for member in &record.desc.replicas {
                body.put_u64_le(member.replica.0);
                body.put_u64_le(member.store.0);
                body.put_u8(u8::from(member.role == crate::types::ReplicaRole::Learner));
            }
        })
    }
}

/// Checks a value's checksum and gives its body; the error says what is wrong.
fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (mut crc, body) = value.split_at_checked(CRC_BYTES).ok_or("a value is too short")?;
    if crc.get_u32_le() != checksum(key, body) {
        return Err("its checksum does not match".to_owned());
    }
    Ok(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

/// An entry from its value.
pub fn decode_entry(key: &[u8], index: u64, value: &[u8]) -> Result<LogEntry, String> {
    let (term, kind, data) = decode_entry_head(key, value)?;
    Ok(LogEntry { index, term, kind, data: Bytes::copy_from_slice(data) })
}

/// Term, kind and data of an entry's value, not copied.
pub fn decode_entry_head<'a>(
    key: &[u8],
    value: &'a [u8],
) -> Result<(u64, EntryKind, &'a [u8]), String> {
    let body = unseal(key, value)?;
    let (mut head, data) = body.split_at_checked(9).ok_or("an entry is too short")?;
    let term = head.get_u64_le();
    let kind = match head.get_u8() {
        0 => EntryKind::Normal,
        1 => EntryKind::Membership,
        other => return Err(format!("its kind {other} is unknown")),
    };
    Ok((term, kind, data))
}

/// A hard state from its value.
pub fn decode_hard_state(key: &[u8], value: &[u8]) -> Result<HardState, String> {
    let mut body = exactly(24, unseal(key, value)?)?;
    Ok(HardState { term: body.get_u64_le(), vote: body.get_u64_le(), commit: body.get_u64_le() })
}

/// A truncated position from its value, and the snapshot being installed.
pub fn decode_beginning(
    key: &[u8],
    value: &[u8],
) -> Result<(LogPosition, Option<SnapshotId>), String> {
    let mut body = unseal(key, value)?;
    let install_begun = body.len() == 24;
    if !install_begun {
        body = exactly(16, body)?;
    }
    let position = LogPosition { index: body.get_u64_le(), term: body.get_u64_le() };
    Ok((position, install_begun.then(|| SnapshotId(body.get_u64_le()))))
}

/// A group's record from its value.
pub fn decode_record(key: &[u8], group: GroupId, value: &[u8]) -> Result<GroupRecord, String> {
    let mut body = unseal(key, value)?;
    let replica = ReplicaId(body.try_get_u64_le().map_err(|_| "a record is too short")?);
    let mut desc = GroupDesc::new(group, get_members(&mut body)?);
    if body.is_empty() {
        return Ok(GroupRecord::new(desc, replica));
    }
    let removed = body.get_u8() != 0;
    desc.membership = get_membership(&mut body)?;
    exactly(0, body)?;
    Ok(GroupRecord { removed, ..GroupRecord::new(desc, replica) })
}

fn exactly(bytes: usize, body: &[u8]) -> Result<&[u8], String> {
    if body.len() == bytes {
        Ok(body)
    } else {
        Err(format!("it has {} bytes instead of {bytes}", body.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ReplicaDesc, ReplicaRole, StoreId};
    use std::sync::Arc;

    #[test]
    fn keys_sort_by_group_and_index_and_decode_to_themselves() {
        let keys = [
            Key::Directory(GroupId(1)),
            Key::Directory(GroupId(300)),
            Key::HardState(GroupId(1)),
            Key::Truncated(GroupId(1)),
            Key::Entry(GroupId(1), 1),
            Key::Entry(GroupId(1), 256),
            Key::HardState(GroupId(2)),
        ];
        assert!(keys.map(Key::encode).is_sorted());
        for key in keys {
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
        assert_eq!(Key::decode(b"short"), None);
        assert_eq!(Key::decode(&raw(GroupId(1), 9, 1)), None);
        assert_eq!(Key::decode(&raw(GroupId(0), ENTRY, 1)), None);
    }

    #[test]
    fn every_flipped_bit_and_every_wrong_place_is_seen() {
        let key = Key::Entry(GroupId(7), 9).encode();
        let entry = LogEntry {
            index: 9,
            term: 3,
            kind: EntryKind::Membership,
            data: Bytes::from_static(b"payload"),
        };
        let mut encoder = Encoder::default();
        let mut value = encoder.entry(&key, &entry).to_vec();
        assert_eq!(decode_entry(&key, 9, &value), Ok(entry));
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(&key, 9, &value).is_err(), "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
        let elsewhere = Key::Entry(GroupId(7), 10).encode();
        assert!(decode_entry(&elsewhere, 10, &value).is_err());
        for end in 0..value.len() {
            assert!(decode_entry(&key, 9, &value[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn records_and_states_decode_to_themselves() {
        let mut encoder = Encoder::default();
        let group = GroupId(5);
        let member =
            |id: u64, role| ReplicaDesc { replica: ReplicaId(id), store: StoreId(9), role };
        let members = vec![member(1, ReplicaRole::Voter), member(2, ReplicaRole::Learner)];
        let mut record = GroupRecord::new(GroupDesc::new(group, members), ReplicaId(2));
        let key = Key::Directory(group).encode();
        let old = encoder.record_1(&key, &record).to_vec();
        assert_eq!(decode_record(&key, group, &old), Ok(record.clone()));
        Arc::make_mut(&mut record.desc).membership.version = 7;
        record.removed = true;
        let value = encoder.record(&key, &record).to_vec();
        assert_eq!(decode_record(&key, group, &value), Ok(record));
        // Cut short by a mistake of ours, not by a disk: the checksum fits.
        let body = &value[CRC_BYTES..];
        for end in (0..body.len()).filter(|end| end + CRC_BYTES != old.len()) {
            let cut = encoder.seal(&key, |out| out.extend_from_slice(&body[..end])).to_vec();
            assert!(decode_record(&key, group, &cut).is_err(), "cut at {end}");
        }
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1 << (at % 8);
            let error = decode_record(&key, group, &damaged).unwrap_err();
            assert!(error.contains("checksum"), "flip at {at}: {error}");
        }
        let state = HardState { term: 1, vote: 2, commit: 3 };
        let key = Key::HardState(group).encode();
        assert_eq!(decode_hard_state(&key, encoder.hard_state(&key, &state)), Ok(state));
        let position = LogPosition { index: 4, term: 5 };
        let key = Key::Truncated(group).encode();
        for installing in [None, Some(SnapshotId(7))] {
            let value = encoder.beginning(&key, &position, installing).to_vec();
            assert_eq!(decode_beginning(&key, &value), Ok((position, installing)));
        }
    }
}
