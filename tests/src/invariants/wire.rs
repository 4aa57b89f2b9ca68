//! I2 seen from outside: what a message promises must be on its sender's disk when it leaves.
//!
//! - Every message but those about pre-votes claims a term: the disk holds that term or a later.
//! - A granted vote, or the request for one: the disk holds that vote.
//! - An accepted append: the disk holds the log up to that index, unless it holds a later term
//!   already (whose leader may have overwritten entries in the very same write).

use crate::sim::node::Node;
use flotilla_raftstore::{Envelope, Payload};

/// The fields of a consensus message that promise something, in the product's wire form: type
/// byte, flag byte, then varints in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claims {
    kind: u8,
    reject: bool,
    to: u64,
    from: u64,
    term: u64,
    log_term: u64,
    index: u64,
}

impl Claims {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(2)?;
        let mut number = || varint(&mut rest);
        Some(Claims {
            kind: head[0],
            reject: head[1] & 1 == 1,
            to: number()?,
            from: number()?,
            term: number()?,
            log_term: number()?,
            index: number()?,
        })
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

const APPEND_RESPONSE: u8 = 4;
const REQUEST_VOTE: u8 = 5;
const REQUEST_VOTE_RESPONSE: u8 = 6;
const REQUEST_PRE_VOTE: u8 = 17;
const REQUEST_PRE_VOTE_RESPONSE: u8 = 18;

/// An envelope in words.
#[must_use]
pub fn describe(envelope: &Envelope) -> String {
    let group = envelope.group;
    match &envelope.payload {
        Payload::Raft { bytes, .. } => format!("group {group} {:?}", Claims::decode(bytes)),
        other => format!("group {group} {} to {}: {other:?}", envelope.from, envelope.to),
    }
}

/// Whether its sender would campaign.
#[must_use]
pub fn asks_pre_vote(envelope: &Envelope) -> bool {
    let Payload::Raft { bytes, .. } = &envelope.payload else { return false };
    bytes.first() == Some(&REQUEST_PRE_VOTE)
}

/// What is wrong with a message that leaves `node` now.
#[must_use]
pub fn unkept_promise(node: &Node, envelope: &Envelope) -> Option<String> {
    let Payload::Raft { bytes, .. } = &envelope.payload else { return None };
    let Some(claims) = Claims::decode(bytes) else {
        return Some(format!("an undecodable message leaves store {}", node.store));
    };
    let disk = node.log.with_group(envelope.group, |log| (log.hard_state, log.last_index()));
    let (hard_state, last_index) = disk.unwrap_or_default();
    let Claims { kind, to, from, term, index, reject, .. } = claims;
    let kept = match kind {
        REQUEST_PRE_VOTE | REQUEST_PRE_VOTE_RESPONSE => true,
        _ if hard_state.term < term => false,
        REQUEST_VOTE => hard_state.term > term || hard_state.vote == from,
        REQUEST_VOTE_RESPONSE if !reject => hard_state.term > term || hard_state.vote == to,
        APPEND_RESPONSE if !reject => hard_state.term > term || index <= last_index,
        _ => true,
    };
    (!kept).then(|| {
        format!(
            "I2: store {} group {}: {claims:?} leaves, on disk are {hard_state:?} and a log up to \
             {last_index}",
            node.store, envelope.group
        )
    })
}
