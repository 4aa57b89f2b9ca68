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
use bytes::{Buf, Bytes};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

const REJECT: u8 = 1;
const STAMPED: u8 = 2;

/// Encodes `message`, in one allocation of its exact size.
pub(crate) fn encode(message: &Message, stamp: Option<Stamp>) -> Bytes {
    let mut length = Length(2);
    put_fields(&mut length, message, stamp);
    let mut out = Vec::with_capacity(length.0);
    out.push(message.msg_type as u8);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(flag(message.reject, REJECT) | flag(stamp.is_some(), STAMPED));
    put_fields(&mut out, message, stamp);
    debug_assert_eq!(out.len(), length.0);
    Bytes::from(out)
}

/// Where fields go.
trait Sink {
    fn varint(&mut self, value: u64);
    fn bytes(&mut self, bytes: &[u8]);
}

/// Only counts.
struct Length(usize);

impl Sink for Length {
    fn varint(&mut self, value: u64) {
        let bits = 64 - (value | 1).leading_zeros() as usize;
        self.0 += bits.div_ceil(7);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.0 += bytes.len();
    }
}

impl Sink for Vec<u8> {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

fn put_fields(out: &mut impl Sink, message: &Message, stamp: Option<Stamp>) {
    for field in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.priority as u64,
    ] {
        out.varint(field);
    }
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
    let mut input = bytes.clone();
    let kind = take_u8(&mut input)?;
    let flags = take_u8(&mut input)?;
    let mut message = Message::default();
    message.set_msg_type(message_type(kind)?);
    message.reject = flags & REJECT != 0;
    message.to = take_varint(&mut input)?;
    message.from = take_varint(&mut input)?;
    message.term = take_varint(&mut input)?;
    message.log_term = take_varint(&mut input)?;
    message.index = take_varint(&mut input)?;
    message.commit = take_varint(&mut input)?;
    message.commit_term = take_varint(&mut input)?;
    message.request_snapshot = take_varint(&mut input)?;
    message.reject_hint = take_varint(&mut input)?;
    message.priority = take_varint(&mut input)? as i64;
    message.context = take_bytes(&mut input)?;
    let count = take_varint(&mut input)?;
    if count > input.len() as u64 {
        return Err(format!("{count} entries in {} bytes", input.len()));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(take_u8(&mut input)?)?);
        entry.term = take_varint(&mut input)?;
        entry.index = take_varint(&mut input)?;
        entry.data = take_bytes(&mut input)?;
        entry.context = take_bytes(&mut input)?;
        entries.push(entry);
    }
    message.entries = entries.into();
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let manifest = Manifest::decode(&take_bytes(&mut input)?)?;
        message.set_snapshot(conf_snapshot(&manifest));
    }
    let stamp = match flags & STAMPED {
        0 => None,
        _ => Some(Stamp { sent: take_varint(&mut input)?, promise_ms: take_varint(&mut input)? }),
    };
    match input.len() {
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

fn take_u8(input: &mut Bytes) -> Result<u8, String> {
    if input.is_empty() { Err("cut short".to_owned()) } else { Ok(input.get_u8()) }
}

fn take_varint(input: &mut Bytes) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number longer than 64 bits".to_owned())
}

fn take_bytes(input: &mut Bytes) -> Result<Bytes, String> {
    let len = take_varint(input)?;
    if len > input.len() as u64 {
        return Err(format!("{len} bytes announced, {} left", input.len()));
    }
    Ok(input.split_to(len as usize))
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
