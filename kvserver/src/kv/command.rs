//! The log command: which region and epoch the client meant, then its encoded `WriteBatch`.
//!
//! ```text
//! version (1 byte) | region | epoch.version | epoch.members (varints) | WriteBatch, as received
//! ```
//!
//! The batch is never decoded into objects: [`writes`] walks the protobuf bytes and gives slices
//! of them, in the service to check the limits and at apply to write. At apply every replica
//! sees the same bytes, so a malformed command must be the same refusal everywhere, not a panic.

use super::region::Epoch;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

const VERSION: u8 = 1;

/// Longest key in bytes; the shortest has one.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest encoded batch in bytes.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// A command as the state machine reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The region that the client meant.
    pub region: u64,
    /// The region's epoch that the client knew.
    pub epoch: Epoch,
    /// The encoded `WriteBatch`; see [`writes`].
    pub batch: Bytes,
}

impl Command {
    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 3 * 10 + self.batch.len());
        out.put_u8(VERSION);
        for field in [self.region, self.epoch.version, self.epoch.members] {
            put_varint(&mut out, field);
        }
        out.put_slice(&self.batch);
        out.freeze()
    }

    /// Reads a command back; `batch` is a slice of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Command, Malformed> {
        if bytes.first() != Some(&VERSION) {
            return Err(Malformed { at: 0 });
        }
        let mut at = 1;
        let region = varint(bytes, &mut at)?;
        let version = varint(bytes, &mut at)?;
        let members = varint(bytes, &mut at)?;
        Ok(Command { region, epoch: Epoch { version, members }, batch: bytes.slice(at..) })
    }
}

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {at}")]
pub struct Malformed {
    /// Where reading stopped.
    pub at: usize,
}

/// One write of a batch, as ranges of the batch's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key; empty when the message had none.
    pub key: Range<usize>,
    /// The value of a put; `None` = delete.
    pub value: Option<Range<usize>>,
}

/// Walks an encoded `WriteBatch` without allocating. After an error the walk is over.
///
/// Reads what protobuf allows: unknown fields are skipped, of a repeated field the last wins.
pub fn writes(batch: &[u8]) -> Writes<'_> {
    Writes { batch, at: 0 }
}

/// The walk of [`writes`].
pub struct Writes<'a> {
    batch: &'a [u8],
    at: usize,
}

impl Iterator for Writes<'_> {
    type Item = Result<Write, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.batch.len() {
            let found = match field(self.batch, &mut self.at) {
                Ok((1, Some(write))) => parse_write(self.batch, write),
                Ok((1, None)) => Err(Malformed { at: self.at }),
                Ok(_) => continue,
                Err(malformed) => Err(malformed),
            };
            if found.is_err() {
                self.at = self.batch.len();
            }
            return Some(found);
        }
        None
    }
}

fn parse_write(batch: &[u8], range: Range<usize>) -> Result<Write, Malformed> {
    let message = &batch[..range.end];
    let mut at = range.start;
    let mut write = Write { key: range.start..range.start, value: None };
    while at < message.len() {
        match field(message, &mut at)? {
            (1, Some(key)) => write.key = key,
            (2, Some(value)) => write.value = Some(value),
            (1 | 2, None) => return Err(Malformed { at }),
            _ => {}
        }
    }
    Ok(write)
}

/// One field at `at`: its number, and the range of its bytes when it is length-delimited.
fn field(bytes: &[u8], at: &mut usize) -> Result<(u64, Option<Range<usize>>), Malformed> {
    const VARINT: u64 = 0;
    const FIXED_64: u64 = 1;
    const LENGTH_DELIMITED: u64 = 2;
    const FIXED_32: u64 = 5;

    let start = *at;
    let tag = varint(bytes, at)?;
    let number = tag >> 3;
    if number == 0 {
        return Err(Malformed { at: start });
    }
    let len = match tag & 7 {
        VARINT => {
            varint(bytes, at)?;
            return Ok((number, None));
        }
        FIXED_64 => 8,
        FIXED_32 => 4,
        LENGTH_DELIMITED => varint(bytes, at)?,
        _ => return Err(Malformed { at: start }),
    };
    if len > (bytes.len() - *at) as u64 {
        return Err(Malformed { at: *at });
    }
    let content = *at..*at + len as usize;
    *at = content.end;
    Ok((number, (tag & 7 == LENGTH_DELIMITED).then_some(content)))
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(&byte) = bytes.get(*at) else {
            break;
        };
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed { at: *at })
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Checks a client's batch against the limits; the error names field, value and limit.
///
/// Gives how many of its writes are puts: without one it only takes away.
pub fn check_batch(batch: &[u8]) -> Result<usize, String> {
    if batch.len() > BATCH_BYTES_MAX {
        return Err(format!("writes: {} bytes, at most {BATCH_BYTES_MAX} a batch", batch.len()));
    }
    let (mut count, mut puts) = (0, 0);
    for write in writes(batch) {
        let write = write.map_err(|malformed| format!("writes: not a WriteBatch: {malformed}"))?;
        check_key("key", &batch[write.key]).map_err(|e| format!("writes[{count}].{e}"))?;
        if let Some(value) = &write.value
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(format!(
                "writes[{count}].value: {} bytes, at most {VALUE_BYTES_MAX}",
                value.len()
            ));
        }
        count += 1;
        puts += usize::from(write.value.is_some());
    }
    Ok(puts)
}

/// Checks the length of a key; the error names `field`, the length and the limit.
pub fn check_key(field: &str, key: &[u8]) -> Result<(), String> {
    match key.len() {
        0 => Err(format!("{field}: empty, at least 1 byte")),
        len if len > KEY_BYTES_MAX => Err(format!("{field}: {len} bytes, at most {KEY_BYTES_MAX}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "command_test.rs"]
mod tests;
