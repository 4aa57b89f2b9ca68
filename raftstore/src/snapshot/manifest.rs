//! What a snapshot is, in a few bytes: they travel in the consensus message and lie beside the blocks.
//!
//! ```text
//! format u8 = 1, id, index, term u64, bytes, blocks u64, CRC-32C of all bytes u32,
//! then the group with its members at that index (`members/codec.rs`)
//! ```
//!
//! Numbers are little endian.

use crate::members::{GroupDesc, codec};
use crate::types::LogPosition;
use bytes::{Buf, BufMut, Bytes};
use std::fmt;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + 5 * 8 + 4;

/// One snapshot; drawn at random by the store that makes it, so that none is taken for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What all blocks of a snapshot are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Their sum.
    pub bytes: u64,
    /// Their number.
    pub blocks: u64,
    /// CRC-32C over all of them in order.
    pub crc: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The snapshot.
    pub id: SnapshotId,
    /// The group with its members at `position`.
    pub desc: GroupDesc,
    /// The last entry that is in it.
    pub position: LogPosition,
    /// Its blocks.
    pub content: Content,
}

impl Manifest {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let members = codec::encode(&self.desc);
        let mut out = Vec::with_capacity(HEAD_BYTES + members.len());
        out.put_u8(FORMAT);
        let Content { bytes, blocks, crc } = self.content;
        for number in [self.id.0, self.position.index, self.position.term, bytes, blocks] {
            out.put_u64_le(number);
        }
        out.put_u32_le(crc);
        out.extend_from_slice(&members);
        Bytes::from(out)
    }

    /// What [`Manifest::encode`] made; the error says what is wrong with the bytes.
    ///
    /// # Errors
    /// They are cut short, of a newer format, or of a snapshot that holds nothing.
    pub fn decode(mut bytes: &[u8]) -> Result<Manifest, String> {
        match bytes.first() {
            Some(&FORMAT) if bytes.len() >= HEAD_BYTES => {}
            Some(&FORMAT) | None => {
                return Err("the manifest of a snapshot is cut short".to_owned());
            }
            Some(other) => {
                return Err(format!("a snapshot in format {other}, written by a newer version"));
            }
        }
        bytes.advance(1);
        let id = SnapshotId(bytes.get_u64_le());
        let position = LogPosition { index: bytes.get_u64_le(), term: bytes.get_u64_le() };
        let content = Content {
            bytes: bytes.get_u64_le(),
            blocks: bytes.get_u64_le(),
            crc: bytes.get_u32_le(),
        };
        let desc = codec::decode(bytes)?;
        if position.index == 0 || position.term == 0 {
            return Err("a snapshot of an empty log".to_owned());
        }
        Ok(Manifest { id, desc, position, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GroupId;

    #[test]
    fn a_manifest_survives_and_a_torn_one_is_refused() {
        let manifest = Manifest {
            id: SnapshotId(u64::MAX - 4),
            desc: GroupDesc::new(GroupId(7), Vec::new()),
            position: LogPosition { index: 9, term: 3 },
            content: Content { bytes: 70, blocks: 2, crc: 5 },
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let newer = [&[2], &bytes[1..]].concat();
        assert!(Manifest::decode(&newer).unwrap_err().contains("format 2"));
    }
}
