//! What travels: the client's frames, the log's commands, the frames between stores.

use super::Case;
use crate::keys::spread_key;
use bytes::Bytes;
use flotilla_client::pb;
use flotilla_kvserver::kv::Epoch;
use flotilla_kvserver::kv::command::{self, Command};
use flotilla_raftstore::commands::{pack, unpack};
use flotilla_raftstore::transport::grpc::frame::{self, Link};
use flotilla_raftstore::{ClusterId, Envelope, GroupId, Payload, ReplicaId, StoreId};
use prost::Message;
use std::hint::black_box;

const OPS: u64 = 100;
const GROUPS: u64 = 24;
/// Bytes of an entry with 20 puts.
const ENTRY_BYTES: usize = 800;

fn writes(range: std::ops::Range<u64>) -> Bytes {
    let value = Some(Bytes::from_static(b"sixteen bytes..."));
    let put = |i| pb::Write { key: spread_key(i), value: value.clone() };
    Bytes::from(pb::WriteBatch { writes: range.map(put).collect() }.encode_to_vec())
}

fn request(id: u64, writes: Bytes) -> pb::Request {
    let epoch = Some(pb::Epoch { version: 1, members: 1 });
    pb::Request { id, region: 7, epoch, writes, ..Default::default() }
}

fn frame_of(one_request: bool) -> (pb::RequestFrame, &'static str) {
    if one_request {
        (pb::RequestFrame { requests: vec![request(1, writes(0..OPS))] }, "100 puts in a request")
    } else {
        let requests = (0..OPS).map(|i| request(i, writes(i..i + 1))).collect();
        (pb::RequestFrame { requests }, "a request a put")
    }
}

/// The client's frame to bytes.
#[must_use]
pub fn encode_requests(one_request: bool) -> Case<()> {
    let (frame, name) = frame_of(one_request);
    let run = move |()| drop(black_box(frame.encode_to_vec()));
    Case::new(format!("frame/encode, {name}"), OPS, || (), run)
}

/// And back, at the server.
#[must_use]
pub fn decode_requests(one_request: bool) -> Case<()> {
    let (frame, name) = frame_of(one_request);
    let bytes = Bytes::from(frame.encode_to_vec());
    let run = move |()| {
        let frame = pb::RequestFrame::decode(bytes.clone()).expect("it was encoded here");
        black_box(frame);
    };
    Case::new(format!("frame/decode, {name}"), OPS, || (), run)
}

/// A put as it goes into the log: checked, wrapped, packed into an entry, and walked at apply.
#[must_use]
pub fn commands() -> Case<()> {
    let batches: Vec<Bytes> = (0..OPS).map(|i| writes(i..i + 1)).collect();
    let run = move |()| {
        let log = |batch: &Bytes| {
            command::check_batch(batch).expect("a legal batch");
            let epoch = Epoch { version: 1, members: 1 };
            Command { region: 7, epoch, batch: batch.clone() }.encode()
        };
        let commands: Vec<Bytes> = batches.iter().map(log).collect();
        let entry = pack(commands.iter());
        for bytes in unpack(&entry).expect("it was packed here") {
            let command = Command::decode(&bytes).expect("it was encoded here");
            command::writes(&command.batch).for_each(|write| drop(black_box(write)));
        }
    };
    Case::new("command/a put through the log's forms", OPS, || (), run)
}

/// A round's appends to one follower: packed and unpacked.
#[must_use]
pub fn envelopes() -> Case<()> {
    let link = Link { cluster: ClusterId(7), from: StoreId(1), to: StoreId(2) };
    let envelope = |group| Envelope {
        group: GroupId(group),
        from: ReplicaId(group * 10 + 1),
        to: ReplicaId(group * 10 + 2),
        payload: Payload::Raft { bytes: Bytes::from(vec![7; ENTRY_BYTES]), bulk: true },
    };
    let envelopes: Vec<Envelope> = (1..=GROUPS).map(envelope).collect();
    let run = move |()| {
        let bytes = frame::encode(link, &envelopes);
        black_box(frame::decode(link, bytes).expect("it was encoded here"));
    };
    Case::new("frame/24 appends of 800 B between stores", GROUPS, || (), run)
}
