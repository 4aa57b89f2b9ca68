//! The wire form of a consensus message.
//!
//! Our own, for two reasons: entries decode to slices of the received frame, without a copy; and
//! the decoder of the consensus library's protobuf version (RUSTSEC-2024-0437) is never fed with
//! bytes from a peer. Of a snapshot only the manifest travels here, the rest on a stream of its own.
//!
//! Layout: type byte, flag byte, then unsigned LEB128 varints and length-prefixed bytes. What a
//! message carries for the leader's lease comes last.

use super::lease::Stamp;
use super::storage::conf_snapshot;
use crate::snapshot::Manifest;
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

const REJECT: u8 = 1;
const STAMPED: u8 = 2;
const VARINT_BYTES_MAX: usize = 10;

/// Encodes `message`, in one allocation of its exact size.
pub(crate) fn encode(message: &Message, stamp: Option<Stamp>) -> Bytes {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let mut head = Head::default();
    head.byte(message.msg_type as u8);
    head.byte(flag(message.reject, REJECT) | flag(stamp.is_some(), STAMPED));
    head.varint(message.to);
    head.varint(message.from);
    head.varint(message.term);
    head.varint(message.log_term);
    head.varint(message.index);
    head.varint(message.commit);
    head.varint(message.commit_term);
    head.varint(message.request_snapshot);
    head.varint(message.reject_hint);
    head.varint(message.priority as u64);
    let mut length = Length(head.length);
    put_rest(&mut length, message, stamp);
    let mut out = Vec::with_capacity(length.0);
    out.extend_from_slice(&head.bytes[..head.length]);
    put_rest(&mut out, message, stamp);
    debug_assert_eq!(out.len(), length.0);
    Bytes::from(out)
}

/// Type, flags and ten numbers, on the stack: what every message has, and most have little else.
struct Head {
    bytes: [u8; 2 + 10 * VARINT_BYTES_MAX],
    length: usize,
}

impl Default for Head {
    fn default() -> Self {
        Head { bytes: [0; 2 + 10 * VARINT_BYTES_MAX], length: 0 }
    }
}

impl Head {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }
}

/// Where fields go.
trait Sink {
    fn varint(&mut self, value: u64);
    fn bytes(&mut self, bytes: &[u8]);
}

/// Only counts.
struct Length(usize);

impl Sink for Length {
    #[inline]
    fn varint(&mut self, value: u64) {
        self.0 += match value {
            // Most numbers are small.
            0..0x80 => 1,
            _ => (64 - value.leading_zeros() as usize).div_ceil(7),
        };
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.0 += bytes.len();
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        if !bytes.is_empty() {
            self.extend_from_slice(bytes);
        }
    }
}

/// What comes behind the head.
fn put_rest(out: &mut impl Sink, message: &Message, stamp: Option<Stamp>) {
    out.bytes(&message.context);
    out.varint(message.entries.len() as u64);
    for entry in &message.entries {
        out.varint(entry.entry_type as u64);
        out.varint(entry.term);
        out.varint(entry.index);
        out.bytes(&entry.data);
        out.bytes(&entry.context);
    }
    if message.get_msg_type() == MessageType::MsgSnapshot {
        out.bytes(message.get_snapshot().get_data());
    }
    if let Some(stamp) = stamp {
        out.varint(stamp.sent);
        out.varint(stamp.promise_ms);
    }
}

/// Decodes what [`encode`] made; the error says what is wrong with the bytes.
pub(crate) fn decode(bytes: &Bytes) -> Result<(Message, Option<Stamp>), String> {
    let mut input = Input { all: bytes, rest: bytes };
    let kind = input.byte()?;
    let flags = input.byte()?;
    let mut message = Message::default();
    message.set_msg_type(message_type(kind)?);
    message.reject = flags & REJECT != 0;
    message.to = input.varint()?;
    message.from = input.varint()?;
    message.term = input.varint()?;
    message.log_term = input.varint()?;
    message.index = input.varint()?;
    message.commit = input.varint()?;
    message.commit_term = input.varint()?;
    message.request_snapshot = input.varint()?;
    message.reject_hint = input.varint()?;
    message.priority = input.varint()? as i64;
    message.context = input.bytes()?;
    let count = input.varint()?;
    if count > input.rest.len() as u64 {
        return Err(format!("{count} entries in {} bytes", input.rest.len()));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(input.byte()?)?);
        entry.term = input.varint()?;
        entry.index = input.varint()?;
        entry.data = input.bytes()?;
        entry.context = input.bytes()?;
        entries.push(entry);
    }
    message.entries = entries.into();
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let manifest = Manifest::decode(&input.bytes()?)?;
        message.set_snapshot(conf_snapshot(&manifest));
    }
    let stamp = match flags & STAMPED {
        0 => None,
        _ => Some(Stamp { sent: input.varint()?, promise_ms: input.varint()? }),
    };
    match input.rest.len() {
        0 => Ok((message, stamp)),
        more => Err(format!("{more} bytes too many")),
    }
}

/// The types that may cross the network. The others are local, or travel elsewhere.
fn message_type(kind: u8) -> Result<MessageType, String> {
    use MessageType::*;
    [
        MsgAppend,
        MsgAppendResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
        MsgTimeoutNow,
        MsgSnapshot,
    ]
    .into_iter()
    .find(|t| *t as u8 == kind)
    .ok_or_else(|| format!("message type {kind} does not cross the network"))
}

fn entry_type(kind: u8) -> Result<EntryType, String> {
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2]
        .into_iter()
        .find(|t| *t as u8 == kind)
        .ok_or_else(|| format!("unknown entry type {kind}"))
}

/// What is left of a message's bytes. A plain slice is cut faster than [`Bytes`].
struct Input<'a> {
    all: &'a Bytes,
    rest: &'a [u8],
}

/// What is announced is not there. In a type of its own, which takes no room beside a number.
struct Cut;

impl From<Cut> for String {
    fn from(_: Cut) -> String {
        "cut short, or a number longer than 64 bits".to_owned()
    }
}

impl Input<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Cut> {
        let (first, rest) = self.rest.split_first().ok_or(Cut)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Cut> {
        match *self.rest {
            [small @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(small))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Cut> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Cut)
    }

    /// Shares the memory of the whole.
    fn bytes(&mut self) -> Result<Bytes, Cut> {
        match self.varint()? {
            0 => Ok(Bytes::new()),
            length => {
                let length = usize::try_from(length).map_err(|_| Cut)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Cut)?;
                self.rest = rest;
                Ok(self.all.slice_ref(bytes))
            }
        }
    }
}

/// An append of one entry with `data`, whose other fields are as long as they can be.
#[cfg(test)]
pub(crate) fn largest_append(data: Bytes) -> Bytes {
    let entry =
        raft::eraftpb::Entry { term: u64::MAX, index: u64::MAX, data, ..Default::default() };
    let mut message = Message { term: u64::MAX, log_term: u64::MAX, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    (message.index, message.commit) = (u64::MAX - 1, u64::MAX);
    message.entries = vec![entry].into();
    encode(&message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.from = 300;
        message.to = 2;
        message.term = u64::MAX;
        message.priority = -1;
        message.reject = true;
        message.context = Bytes::from_static(b"read");
        let entries: Vec<Entry> = (1..4)
            .map(|i| Entry {
                index: i,
                term: 7,
                data: Bytes::from(vec![i as u8; 200]),
                ..Entry::default()
            })
            .collect();
        message.entries = entries.into();
        message
    }

    #[test]
    fn a_message_survives_the_wire() {
        let stamp = Stamp { sent: u64::MAX, promise_ms: 900 };
        for stamp in [None, Some(stamp), Some(Stamp::default())] {
            assert_eq!(decode(&encode(&sample(), stamp)).unwrap(), (sample(), stamp));
        }
    }

    #[test]
    fn torn_and_foreign_bytes_are_refused() {
        let bytes = encode(&sample(), Some(Stamp { sent: 300, promise_ms: 900 }));
        for end in 0..bytes.len() {
            assert!(decode(&bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let mut local = sample();
        local.set_msg_type(MessageType::MsgHup);
        assert!(decode(&encode(&local, None)).unwrap_err().contains("does not cross"));
    }
}
