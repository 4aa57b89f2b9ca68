//! What the log stores in raft-engine, and how it looks there (format 3; 2 knew no installs).
//!
//! raft-engine keeps entries and key-values by group, with checksums over each write. Numbers are
//! little endian.
//!
//! | what | form |
//! |---|---|
//! | entry | group, index, term u64, kind u8, data |
//! | key `record` | as in the log on RocksDB |
//! | key `standing`, in every write of the group | term, vote, commit; truncated index and term; last index; the snapshot being installed, if one is: u64 each |
//!
//! The standing says which entries must be there: raft-engine forgets a truncation when the files
//! that hold it are gone, and would not notice a lost entry.

use crate::log::groups::Standing;
use crate::log::rocks::codec::{Encoder, Key, decode_record};
use crate::snapshot::SnapshotId;
use crate::types::{EntryKind, GroupId, GroupRecord, HardState, LogEntry, LogPosition};
use bytes::{Buf, BufMut, Bytes};
use protobuf::reflect::MessageDescriptor;
use protobuf::well_known_types::BytesValue;
use protobuf::{
    Clear, CodedInputStream, CodedOutputStream, Message, ProtobufError, ProtobufResult,
    UnknownFields,
};
use raft_engine::MessageExt;
use std::any::Any;
use std::sync::OnceLock;

/// The format that this build writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 3;
/// The key of a group's record.
pub(super) const RECORD: &[u8] = b"record";
/// The key of a group's standing.
pub(super) const STANDING: &[u8] = b"standing";

const HEAD_BYTES: usize = 25;
const STANDING_BYTES: usize = 48;
const INSTALLING_BYTES: usize = 8;

/// An entry as raft-engine takes it. Not a protobuf message, though raft-engine asks for one:
/// the data is written without a copy in between, and nothing is parsed that could be nested.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub group: GroupId,
    pub entry: LogEntry,
    unknown: UnknownFields,
}

/// Names [`Entry`] to raft-engine.
pub(super) struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.entry.index
    }
}

impl Entry {
    /// The data is shared, not copied.
    pub fn new(group: GroupId, entry: LogEntry) -> Entry {
        Entry { group, entry, unknown: UnknownFields::default() }
    }

    fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let mut rest = head.as_mut_slice();
        rest.put_u64_le(self.group.0);
        rest.put_u64_le(self.entry.index);
        rest.put_u64_le(self.entry.term);
        rest.put_u8(match self.entry.kind {
            EntryKind::Normal => 0,
            EntryKind::Membership => 1,
        });
        head
    }
}

/// Group, index, term, kind and data of an encoded entry, not copied.
pub(super) fn decode_entry(bytes: &[u8]) -> Result<(GroupId, u64, u64, EntryKind, &[u8]), String> {
    let (mut head, data) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
    let (group, index, term) = (GroupId(head.get_u64_le()), head.get_u64_le(), head.get_u64_le());
    let kind = match head.get_u8() {
        0 => EntryKind::Normal,
        1 => EntryKind::Membership,
        other => return Err(format!("its kind {other} is unknown")),
    };
    Ok((group, index, term, kind, data))
}

impl Message for Entry {
    fn descriptor(&self) -> &'static MessageDescriptor {
        // For error texts only: it is bytes with a head.
        BytesValue::descriptor_static()
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, input: &mut CodedInputStream) -> ProtobufResult<()> {
        let mut bytes = Vec::new();
        while !input.eof()? {
            bytes.push(input.read_raw_byte()?);
        }
        *self = Entry::parse_from_bytes(&bytes)?;
        Ok(())
    }

    fn parse_from_bytes(bytes: &[u8]) -> ProtobufResult<Entry> {
        let wrong = |why: String| ProtobufError::IoError(std::io::Error::other(why));
        let (group, index, term, kind, data) = decode_entry(bytes).map_err(wrong)?;
        let entry = LogEntry { index, term, kind, data: Bytes::copy_from_slice(data) };
        Ok(Entry::new(group, entry))
    }

    fn write_to_with_cached_sizes(&self, output: &mut CodedOutputStream) -> ProtobufResult<()> {
        output.write_raw_bytes(&self.head())?;
        output.write_raw_bytes(&self.entry.data)
    }

    fn write_to_vec(&self, out: &mut Vec<u8>) -> ProtobufResult<()> {
        out.extend_from_slice(&self.head());
        out.extend_from_slice(&self.entry.data);
        Ok(())
    }

    fn compute_size(&self) -> u32 {
        (HEAD_BYTES + self.entry.data.len()) as u32
    }

    fn get_cached_size(&self) -> u32 {
        self.compute_size()
    }

    fn get_unknown_fields(&self) -> &UnknownFields {
        &self.unknown
    }

    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        &mut self.unknown
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Entry {
        let data = Bytes::new();
        let entry = LogEntry { index: 0, term: 0, kind: EntryKind::Normal, data };
        Entry::new(GroupId(0), entry)
    }

    fn default_instance() -> &'static Entry {
        static DEFAULT: OnceLock<Entry> = OnceLock::new();
        DEFAULT.get_or_init(<Entry as Message>::new)
    }
}

impl Clear for Entry {
    fn clear(&mut self) {
        *self = <Entry as Message>::new();
    }
}

/// The value of a group's standing.
pub(super) fn encode_standing(standing: &Standing) -> Vec<u8> {
    let Standing { hard_state, truncated, last_index, installing } = standing;
    let mut value = Vec::with_capacity(STANDING_BYTES + INSTALLING_BYTES);
    for number in [hard_state.term, hard_state.vote, hard_state.commit] {
        value.put_u64_le(number);
    }
    for number in [truncated.index, truncated.term, *last_index] {
        value.put_u64_le(number);
    }
    if let Some(snapshot) = installing {
        value.put_u64_le(snapshot.0);
    }
    value
}

/// A standing from its value.
pub(super) fn decode_standing(mut value: &[u8]) -> Result<Standing, String> {
    let install_begun = value.len() == STANDING_BYTES + INSTALLING_BYTES;
    if value.len() != STANDING_BYTES && !install_begun {
        return Err(format!("its standing has {} bytes", value.len()));
    }
    let mut next = || value.get_u64_le();
    Ok(Standing {
        hard_state: HardState { term: next(), vote: next(), commit: next() },
        truncated: LogPosition { index: next(), term: next() },
        last_index: next(),
        installing: install_begun.then(|| SnapshotId(next())),
    })
}

/// The value of a group's record.
pub(super) fn encode_record(record: &GroupRecord) -> Vec<u8> {
    let key = Key::Directory(record.desc.group).encode();
    Encoder::default().record(&key, record).to_vec()
}

/// The value that format 1 had for a group's record.
#[cfg(test)]
pub(super) fn encode_record_1(record: &GroupRecord) -> Vec<u8> {
    let key = Key::Directory(record.desc.group).encode();
    Encoder::default().record_1(&key, record).to_vec()
}

/// A group's record from its value.
pub(super) fn decode_group_record(group: GroupId, value: &[u8]) -> Result<GroupRecord, String> {
    decode_record(&Key::Directory(group).encode(), group, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_standings_decode_to_themselves() {
        let data = Bytes::from_static(b"payload");
        let entry = LogEntry { index: 9, term: 3, kind: EntryKind::Membership, data };
        let entry = Entry::new(GroupId(7), entry);
        let bytes = entry.write_to_bytes().unwrap();
        let mut direct = Vec::new();
        entry.write_to_vec(&mut direct).unwrap();
        assert_eq!(direct, bytes);
        assert_eq!(Entry::parse_from_bytes(&bytes).unwrap(), entry);
        let mut merged = <Entry as Message>::new();
        merged.merge_from_bytes(&bytes).unwrap();
        assert_eq!(merged, entry);
        assert!(Entry::parse_from_bytes(&bytes[..HEAD_BYTES - 1]).is_err());

        let standing = Standing {
            hard_state: HardState { term: 1, vote: 2, commit: 3 },
            truncated: LogPosition { index: 4, term: 5 },
            last_index: 6,
            installing: None,
        };
        for installing in [None, Some(SnapshotId(7))] {
            let standing = Standing { installing, ..standing };
            let value = encode_standing(&standing);
            assert_eq!(decode_standing(&value), Ok(standing));
            assert!(decode_standing(&value[1..]).is_err());
        }
    }
}
