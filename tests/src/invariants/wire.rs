//! I2 seen from outside: what a message promises must be on its sender's disk when it leaves.
//!
//! - Every message but those about pre-votes claims a term: the disk holds that term or a later.
//! - A granted vote, or the request for one: the disk holds that vote.
//! - An accepted append: the disk holds the log up to that index.

use crate::sim::node::Node;
use flotilla_raftstore::{Envelope, Payload};
use prost::Message;

/// The fields of the library's message that promise something.
#[derive(Clone, PartialEq, prost::Message)]
struct Claims {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "6")]
    index: u64,
    #[prost(bool, tag = "10")]
    reject: bool,
}

const APPEND_RESPONSE: i32 = 4;
const REQUEST_VOTE: i32 = 5;
const REQUEST_VOTE_RESPONSE: i32 = 6;
const REQUEST_PRE_VOTE: i32 = 17;
const REQUEST_PRE_VOTE_RESPONSE: i32 = 18;

/// What is wrong with a message that leaves `node` now.
#[must_use]
pub fn unkept_promise(node: &Node, envelope: &Envelope) -> Option<String> {
    let Payload::Raft { bytes, .. } = &envelope.payload else { return None };
    let Ok(claims) = Claims::decode(bytes.clone()) else {
        return Some(format!("an undecodable message leaves store {}", node.store));
    };
    let disk = node.log.with_group(envelope.group, |log| (log.hard_state, log.last_index()));
    let (hard_state, last_index) = disk.unwrap_or_default();
    let Claims { kind, to, from, term, index, reject } = claims;
    let kept = match kind {
        REQUEST_PRE_VOTE | REQUEST_PRE_VOTE_RESPONSE => true,
        _ if hard_state.term < term => false,
        REQUEST_VOTE => hard_state.term > term || hard_state.vote == from,
        REQUEST_VOTE_RESPONSE if !reject => hard_state.term > term || hard_state.vote == to,
        APPEND_RESPONSE if !reject => index <= last_index,
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
