//! What the engine holds behind a key: user records and a group's applied state.
//!
//! A user record is one byte of flags (0; leases and expiry will have theirs), the revision that
//! wrote it (u64, little endian), the value.

use super::region::Epoch;
use bytes::{BufMut, Bytes, BytesMut};
use flotilla_raftstore::{AppliedState, Fatal, LogPosition};

const PLAIN: u8 = 0;
/// Bytes in front of a record's value.
pub const RECORD_OVERHEAD: usize = 9;

/// A user record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The region's revision that wrote it.
    pub revision: u64,
    /// As the client wrote it.
    pub value: Bytes,
}

impl Record {
    /// Appends a record's bytes to `out`.
    pub fn put(out: &mut BytesMut, revision: u64, value: &[u8]) {
        out.put_u8(PLAIN);
        out.put_u64_le(revision);
        out.put_slice(value);
    }

    /// Reads a record back; an unknown layout is damage or a newer version, never skipped.
    pub fn decode(bytes: Bytes) -> Result<Record, Fatal> {
        match bytes.first() {
            Some(&PLAIN) if bytes.len() >= RECORD_OVERHEAD => {
                Ok(Record { revision: u64_at(&bytes, 1), value: bytes.slice(RECORD_OVERHEAD..) })
            }
            first => Err(Fatal::new(
                "read a record",
                format!(
                    "{} bytes that begin with {first:?} are no record of this version",
                    bytes.len()
                ),
            )),
        }
    }
}

const STATE_VERSION: u8 = 1;
const STATE_BYTES: usize = 1 + 6 * 8;

/// How far a group is applied; written in the same batch as the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Last applied index.
    pub applied: u64,
    /// Commit index and its term, as given with the last apply.
    pub commit: LogPosition,
    /// Applied write commands of the region.
    pub revision: u64,
    /// The region's epoch here, so that a read checks it in the view that it reads from.
    pub epoch: Epoch,
}

impl GroupState {
    /// What the consensus library asks for at start.
    #[must_use]
    pub fn recovered(&self) -> AppliedState {
        AppliedState { applied: self.applied, commit: self.commit }
    }

    /// The record's bytes: a version byte and six u64, little endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = [STATE_VERSION; STATE_BYTES];
        let fields = [
            self.applied,
            self.commit.index,
            self.commit.term,
            self.revision,
            self.epoch.version,
            self.epoch.members,
        ];
        for (field, out) in fields.iter().zip(bytes[1..].chunks_exact_mut(8)) {
            out.copy_from_slice(&field.to_le_bytes());
        }
        Bytes::copy_from_slice(&bytes)
    }

    /// Reads the record back.
    pub fn decode(bytes: &[u8]) -> Result<GroupState, Fatal> {
        if bytes.len() != STATE_BYTES || bytes[0] != STATE_VERSION {
            return Err(Fatal::new(
                "read a group's applied state",
                format!(
                    "{} bytes that begin with {:?} are no state of this version",
                    bytes.len(),
                    bytes.first()
                ),
            ));
        }
        let field = |number: usize| u64_at(bytes, 1 + number * 8);
        Ok(GroupState {
            applied: field(0),
            commit: LogPosition { index: field(1), term: field(2) },
            revision: field(3),
            epoch: Epoch { version: field(4), members: field(5) },
        })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the caller checked the length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_encoding() {
        let mut out = BytesMut::new();
        Record::put(&mut out, 77, b"value");
        let record = Record::decode(out.freeze()).unwrap();
        assert_eq!(record, Record { revision: 77, value: Bytes::from_static(b"value") });

        let state = GroupState {
            applied: 5,
            commit: LogPosition { index: 6, term: 2 },
            revision: 9,
            epoch: Epoch { version: 3, members: 4 },
        };
        assert_eq!(GroupState::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn foreign_bytes_are_errors() {
        assert!(Record::decode(Bytes::new()).is_err());
        assert!(Record::decode(Bytes::from_static(&[0; 8])).is_err());
        assert!(Record::decode(Bytes::from_static(&[9; 20])).is_err());
        assert!(GroupState::decode(&[1; 48]).is_err());
        assert!(GroupState::decode(&[2; 49]).is_err());
    }
}
