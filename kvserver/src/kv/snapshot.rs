//! A region as a snapshot: written from a view of one moment, read into the place of what is there.
//!
//! ```text
//! "FLOTSNAP" | format u8 = 1 | region: length u32, its JSON | applied state: length u32, its bytes
//! then a record, ascending by key: key length u32 | value length u32 | key | value
//! at the end: all ones u32 | records u64
//! ```
//!
//! Numbers are little endian. It is the same for every engine; the library adds checksums. Runs on
//! the snapshot threads.

use super::engine::{Column, Engine, Pair, View};
use super::keys;
use super::record::GroupState;
use super::region::RegionMeta;
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use std::io::{self, ErrorKind, Read, Write};

const MAGIC: &[u8; 8] = b"FLOTSNAP";
const FORMAT: u8 = 1;
const END: u32 = u32::MAX;
/// Longest part that is believed: far above every limit on keys, values and regions.
const PART_BYTES_MAX: u32 = 64 << 20;
/// Bytes of records of one step.
const STEP_BYTES: usize = 1 << 20;

/// Writes what `view` has of the group; the last applied index, unless there is nothing yet.
pub fn save(view: &dyn View, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
    let meta = view.get(Column::System, &keys::meta(group))?;
    let state = view.get(Column::System, &keys::state(group))?;
    let (Some(text), Some(state)) = (meta, state) else { return Ok(None) };
    let meta = RegionMeta::decode(group, &text)?;
    let fatal = |e: io::Error| Fatal::new(format!("write a snapshot of group {group}"), e);
    let mut head = Vec::with_capacity(text.len() + 64);
    head.extend_from_slice(MAGIC);
    head.push(FORMAT);
    for part in [&text, &state] {
        head.extend_from_slice(&length(part).to_le_bytes());
        head.extend_from_slice(part);
    }
    out.write_all(&head).map_err(fatal)?;
    let (mut start, mut records) = (meta.start.to_vec(), 0_u64);
    loop {
        let (page, more) = view.scan(Column::Data, &start, &meta.end, usize::MAX, STEP_BYTES)?;
        records += page.len() as u64;
        for (key, value) in &page {
            out.write_all(&length(key).to_le_bytes()).map_err(fatal)?;
            out.write_all(&length(value).to_le_bytes()).map_err(fatal)?;
            out.write_all(key).map_err(fatal)?;
            out.write_all(value).map_err(fatal)?;
        }
        match page.last() {
            Some((key, _)) if more => {
                start.clear();
                start.extend_from_slice(key);
                start.push(0);
            }
            _ => break,
        }
    }
    let end = [&END.to_le_bytes()[..], &records.to_le_bytes()].concat();
    out.write_all(&end).map_err(fatal)?;
    Ok(Some(GroupState::decode(&state)?.recovered().applied))
}

fn length(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("keys and values are limited to far below 4 GiB")
}

/// A snapshot that is being read.
pub struct Reading<'a> {
    from: &'a mut dyn Read,
    group: GroupId,
    /// The region that it is of.
    pub meta: RegionMeta,
    /// Its state.
    pub state: GroupState,
}

impl<'a> Reading<'a> {
    /// Reads up to the first record.
    pub fn begin(group: GroupId, from: &'a mut dyn Read) -> Result<Self, Fatal> {
        let fatal = |e: io::Error| Fatal::new(format!("read a snapshot of group {group}"), e);
        let mut head = [0; MAGIC.len() + 1];
        from.read_exact(&mut head).map_err(fatal)?;
        if head[..MAGIC.len()] != MAGIC[..] || head[MAGIC.len()] != FORMAT {
            return Err(fatal(invalid(format!(
                "it begins with {head:02x?}: made by a newer version?"
            ))));
        }
        let mut part = || -> io::Result<Vec<u8>> {
            let length = number(from)?;
            bytes(from, length)
        };
        let meta = RegionMeta::decode(group, &part().map_err(fatal)?)?;
        let state = GroupState::decode(&part().map_err(fatal)?)?;
        Ok(Reading { from, group, meta, state })
    }

    /// Gives all records to `engine`, whose range is empty.
    pub fn copy_records(&mut self, engine: &dyn Engine) -> Result<(), Fatal> {
        let group = self.group;
        let mut records = Records { reading: self, before: None, count: 0, ended: false };
        engine.ingest(group, &mut records)?;
        assert!(records.ended, "an engine that reports no error has taken everything");
        // To its end, so that the library checks all of it.
        io::copy(self.from, &mut io::sink()).map(drop).map_err(|e| self.fatal(e))
    }

    fn fatal(&self, error: io::Error) -> Fatal {
        Fatal::new(format!("read a snapshot of group {}", self.group), error)
    }

    fn record(&mut self) -> io::Result<Option<Pair>> {
        let key = number(self.from)?;
        if key == END {
            return Ok(None);
        }
        let value = number(self.from)?;
        let key = bytes(self.from, key)?;
        Ok(Some((Bytes::from(key), Bytes::from(bytes(self.from, value)?))))
    }
}

/// The records of a snapshot, checked: each belongs to the region and comes behind the one before.
struct Records<'r, 'a> {
    reading: &'r mut Reading<'a>,
    /// The last key.
    before: Option<Bytes>,
    count: u64,
    /// All were there.
    ended: bool,
}

impl Records<'_, '_> {
    fn read(&mut self) -> io::Result<Option<Pair>> {
        let Some((key, value)) = self.reading.record()? else {
            let mut count = [0; 8];
            self.reading.from.read_exact(&mut count)?;
            let count = u64::from_le_bytes(count);
            self.ended = true;
            return match self.count {
                all if all == count => Ok(None),
                some => Err(invalid(format!("it has {count} of {some} records"))),
            };
        };
        self.count += 1;
        if self.before.replace(key.clone()).is_some_and(|before| before >= key) {
            return Err(invalid(format!("its records are not in order at {key:?}")));
        }
        if !self.reading.meta.contains(&key) {
            return Err(invalid(format!("{key:?} is not of its region")));
        }
        Ok(Some((key, value)))
    }
}

impl Iterator for Records<'_, '_> {
    type Item = Result<Pair, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.read().map_err(|error| self.reading.fatal(error)).transpose()
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn number(from: &mut dyn Read) -> io::Result<u32> {
    let mut number = [0; 4];
    from.read_exact(&mut number)?;
    Ok(u32::from_le_bytes(number))
}

fn bytes(from: &mut dyn Read, length: u32) -> io::Result<Vec<u8>> {
    if length > PART_BYTES_MAX {
        return Err(invalid(format!("a part of {length} bytes")));
    }
    let mut part = vec![0; length as usize];
    from.read_exact(&mut part)?;
    Ok(part)
}
