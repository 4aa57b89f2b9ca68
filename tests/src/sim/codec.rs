//! The workload's operations as the product's own commands, answers and reads.

use bytes::Bytes;
use flotilla_client::pb;
use flotilla_kvserver::kv::answer::Answer;
use flotilla_kvserver::kv::command::Command;
use flotilla_kvserver::kv::reader::Range;
use flotilla_kvserver::kv::record::Record;
use flotilla_kvserver::kv::{Epoch, Reader, RegionMeta};
use flotilla_raftstore::{GroupId, ReplicaDesc, ReplicaId, ReplicaRole, StoreId};
use prost::Message;

/// The ticket of requests whose outcome nobody waits for.
pub const NO_TICKET: u64 = 0;

/// Where a record lives: registers and sets share a region's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One register.
    Register(u64),
    /// One element of a set.
    Element(u64, u64),
}

/// Region `number` of `count`, from 0, with a voter on each of the first stores.
#[must_use]
pub fn region(number: u64, count: u64, members: u64) -> RegionMeta {
    let bound = |n: u64| {
        if n == 0 || n == count { Bytes::new() } else { Bytes::copy_from_slice(&[n as u8]) }
    };
    let group = number + 1;
    let replica = |store| ReplicaDesc {
        replica: ReplicaId(group * 100 + store),
        store: StoreId(store),
        role: ReplicaRole::Voter,
    };
    RegionMeta {
        region: 1_000 + group,
        group: GroupId(group),
        start: bound(number),
        end: bound(number + 1),
        epoch: Epoch { version: 2, members: 1 },
        replicas: (1..=members).map(replica).collect(),
    }
}

/// The number of the region that `meta` is.
fn number(meta: &RegionMeta) -> u8 {
    (meta.group.0 - 1) as u8
}

/// The bytes of a key of the region.
#[must_use]
pub fn key(meta: &RegionMeta, key: Key) -> Bytes {
    let mut out = vec![number(meta)];
    match key {
        Key::Register(register) => {
            out.push(b'r');
            out.extend(register.to_be_bytes());
        }
        Key::Element(set, element) => {
            out.push(b's');
            out.extend(set.to_be_bytes());
            out.extend(element.to_be_bytes());
        }
    }
    Bytes::from(out)
}

/// A put (or, without a value, a delete) of `key`. The nonce makes equal deletes different bytes:
/// it rides in a field that this version of the format does not know and skips.
#[must_use]
pub fn write(region: u64, epoch: Epoch, key: Bytes, value: Option<u64>, nonce: u64) -> Bytes {
    const NONCE_FIELD: u32 = 15;
    let value = value.map(|v| Bytes::copy_from_slice(&v.to_be_bytes()));
    let mut batch = pb::WriteBatch { writes: vec![pb::Write { key, value }] }.encode_to_vec();
    prost::encoding::uint64::encode(NONCE_FIELD, &nonce, &mut batch);
    Command { region, epoch, batch: Bytes::from(batch) }.encode()
}

/// What the state machine answered: the revision, or a refusal in words.
pub fn answer(bytes: &[u8]) -> Result<u64, String> {
    match Answer::decode(bytes) {
        Some(Answer::Written(revision)) => Ok(revision),
        other => Err(format!("{other:?}")),
    }
}

/// What a read of a register saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// The value, if any.
    pub value: Option<u64>,
    /// Revision that wrote it; 0 without a value.
    pub mod_revision: u64,
    /// The region's revision.
    pub revision: u64,
}

/// Reads registers at one moment.
pub fn registers(
    reader: &Reader,
    meta: &RegionMeta,
    registers: &[u64],
) -> Result<Vec<(u64, Got)>, String> {
    let keys: Vec<Bytes> = registers.iter().map(|r| key(meta, Key::Register(*r))).collect();
    let gets = reader.gets(meta.region, meta.epoch, &keys).map_err(|e| format!("{e:?}"))?;
    let got = |record: Option<Record>| {
        let (value, mod_revision) = match record {
            Some(record) => (Some(number_in(&record.value)), record.revision),
            None => (None, 0),
        };
        Got { value, mod_revision, revision: gets.revision }
    };
    Ok(registers.iter().copied().zip(gets.records.into_iter().map(got)).collect())
}

/// Reads a set's elements at one moment.
pub fn elements(reader: &Reader, meta: &RegionMeta, set: u64) -> Result<Vec<u64>, String> {
    let range = Range {
        start: key(meta, Key::Element(set, 0)),
        end: key(meta, Key::Element(set + 1, 0)),
        ..Range::default()
    };
    let page = reader.scan(meta.region, meta.epoch, &range).map_err(|e| format!("{e:?}"))?;
    if page.more {
        return Err("a set does not fit one page".into());
    }
    Ok(page.records.iter().map(|(_, record)| number_in(&record.value)).collect())
}

fn number_in(value: &[u8]) -> u64 {
    value.try_into().map_or(u64::MAX, u64::from_be_bytes)
}
