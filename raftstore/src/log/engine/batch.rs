//! The form of raft-engine's files (its `log_batch.rs` and `file_pipe_log/format.rs`, version 2).
//!
//! A file is a header and then batches, one for each write; what follows the last one was
//! never written, or is left from the file's former life.
//!
//! ```text
//! header   "RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5", version u64, alignment u64
//! batch    length u56, compression u8, where the items begin u64       (big endian)
//!          entries one after the other, CRC-32 of them                 (absent without entries)
//!          items, CRC-32 of them XOR the low half of the file's number
//! items    count; each: group, type u8, then by type                   (numbers as varints)
//!          1 entries: count, first index, where each entry ends in the batch's entries
//!          2 command: 1 remove the group; 2 remove entries below an index
//!          3 key-value: 1 put or 2 delete, key length, key, for a put value length, value
//! ```
//!
//! Copies of many entries go to several batches of one atomic group: each holds a key-value with
//! the group's number in place of the group, a key of its own, and which part it is.

use bytes::Buf;

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const VERSION: u64 = 2;
/// Bytes before the first batch.
pub(super) const HEADER_BYTES: usize = MAGIC.len() + 16;
const BATCH_HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
const ATOMIC_GROUP_KEY: &[u8] = b"__\x01";

/// Whether the file begins as it must.
pub(super) fn has_header(data: &[u8]) -> bool {
    let Some(mut rest) = data.strip_prefix(MAGIC) else { return false };
    rest.len() >= 16 && rest.get_u64() == VERSION && rest.get_u64() == 0
}

/// A batch whose items are whole.
pub(super) struct Batch<'a> {
    /// The entries, one after the other.
    pub entries: &'a [u8],
    /// Whether the entries' checksum matches.
    pub entries_whole: bool,
    items: &'a [u8],
    /// Where the next batch begins.
    pub end: usize,
}

/// What one item of a batch does to a group's entries.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// Entries from `first` on; each ends at `ends` in the batch's entries, the first begins
    /// at `begin`.
    Append { group: u64, first: u64, begin: usize, ends: Vec<usize> },
    /// Entries below `index` are removed.
    Compact { group: u64, index: u64 },
    /// The batch is a part of this atomic group.
    Atomic { id: u64, part: Part },
}

/// A batch's place in its atomic group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    Begin,
    Middle,
    /// With it all parts count; without it none does.
    End,
}

/// The batch at byte `at` of the file with this number, if one begins there.
pub(super) fn batch_at(data: &[u8], at: usize, number: u64) -> Option<Batch<'_>> {
    let rest = data.get(at..)?;
    let mut header = rest.get(..BATCH_HEADER_BYTES)?;
    let (length, items) = (header.get_u64(), header.get_u64());
    // Compression is off.
    if length & 0xff != 0 {
        return None;
    }
    let (length, items) = (usize::try_from(length >> 8).ok()?, usize::try_from(items).ok()?);
    if length > rest.len() || items < BATCH_HEADER_BYTES || items + CRC_BYTES >= length {
        return None;
    }
    let (entries, items) = rest[BATCH_HEADER_BYTES..length].split_at(items - BATCH_HEADER_BYTES);
    // XOR with the number: what the file's former life left does not pass.
    let items = checked(items, number as u32)?;
    let (entries, entries_whole) = if entries.is_empty() {
        (entries, true)
    } else {
        let body = &entries[..entries.len().saturating_sub(CRC_BYTES)];
        (body, checked(entries, 0).is_some())
    };
    Some(Batch { entries, entries_whole, items, end: at + length })
}

/// The body of a block that ends with its checksum, if it matches.
fn checked(block: &[u8], sign: u32) -> Option<&[u8]> {
    let (body, mut crc) = block.split_at_checked(block.len().checked_sub(CRC_BYTES)?)?;
    (crc32fast::hash(body) ^ sign == crc.get_u32_le()).then_some(body)
}

impl Batch<'_> {
    /// What it does to entries; `None` when it is in a form that this build does not know.
    pub fn items(&self) -> Option<Vec<Item>> {
        let mut rest = self.items;
        let mut found = Vec::new();
        let mut begin = 0;
        for _ in 0..varint(&mut rest)? {
            let group = varint(&mut rest)?;
            match byte(&mut rest)? {
                1 => {
                    let count = varint(&mut rest)?;
                    let first = if count > 0 { varint(&mut rest)? } else { continue };
                    let mut ends = Vec::new();
                    for _ in 0..count {
                        ends.push(usize::try_from(varint(&mut rest)?).ok()?);
                    }
                    if !ends.is_sorted() || ends[0] < begin {
                        return None;
                    }
                    let end = *ends.last()?;
                    found.push(Item::Append { group, first, begin, ends });
                    begin = end;
                }
                2 => match byte(&mut rest)? {
                    2 => found.push(Item::Compact { group, index: varint(&mut rest)? }),
                    // Groups are never removed.
                    _ => return None,
                },
                3 => {
                    let put = byte(&mut rest)? == 1;
                    let key = block(&mut rest)?;
                    let value = if put { block(&mut rest)? } else { &[] };
                    if put && key == ATOMIC_GROUP_KEY {
                        let part = match value {
                            [0] => Part::Begin,
                            [1] => Part::Middle,
                            [2] => Part::End,
                            _ => return None,
                        };
                        found.push(Item::Atomic { id: group, part });
                    }
                }
                _ => return None,
            }
        }
        (rest.is_empty() && begin == self.entries.len()).then_some(found)
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    rest.try_get_u8().ok()
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Bytes that their length stands before.
fn block<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (block, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(block)
}
