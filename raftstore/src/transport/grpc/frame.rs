//! The frame: envelopes of many groups in one buffer. Pure; called by sender and receiver tasks.
//!
//! ```text
//! u32  crc32c of everything after it        little-endian, as all fixed fields
//! u128 cluster id
//! u64  sending store
//! u64  receiving store
//! u32  number of envelopes
//! then per envelope, ids and lengths as LEB128 varints:
//!   u8 kind, group, from, to, and then by kind:
//!   0 raft, 1 raft with entries, 3 members       length, bytes
//!   2 durable applied                            index
//!   4 snapshot failed, 5 damaged                 nothing
//!   6 sleep                                      index and term of the last entry
//!   7 alive, 11 alive with a slow disk           shard, shards, life, limit (0: none) and free bytes of a
//!                                                disk that is short
//!   8 question for a read index, 9 the same, a lease will do
//!                                                number
//!   10 read index                                number, index, term
//! ```
//!
//! TCP's checksum misses about one damaged segment in 65,536 and nothing protects a frame inside
//! a broken process or proxy: so every frame carries its own, checked before anything is read.

use crate::disk::Shortage;
use crate::transport::{Alive, Envelope, Payload};
use crate::types::{ClusterId, GroupId, LogPosition, ReplicaId, StoreId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the first envelope.
pub const HEADER_BYTES: usize = 4 + 16 + 8 + 8 + 4;

/// What an envelope takes in a frame at most, besides its payload's bytes.
pub const ENVELOPE_OVERHEAD_BYTES_MAX: usize = 1 + 8 * VARINT_BYTES_MAX;

const VARINT_BYTES_MAX: usize = 10;
const CRC_BYTES: usize = 4;

/// Kind, group, sender and receiver, with small numbers.
const ENVELOPE_BYTES_MIN: usize = 4;

const KIND_RAFT: u8 = 0;
const KIND_RAFT_BULK: u8 = 1;
const KIND_DURABLE_APPLIED: u8 = 2;
const KIND_MEMBERS: u8 = 3;
const KIND_SNAPSHOT_FAILED: u8 = 4;
const KIND_DAMAGED: u8 = 5;
const KIND_SLEEP: u8 = 6;
const KIND_ALIVE: u8 = 7;
const KIND_ASK_INDEX: u8 = 8;
const KIND_ASK_INDEX_BY_LEASE: u8 = 9;
const KIND_READ_INDEX: u8 = 10;
const KIND_ALIVE_SLOW: u8 = 11;

/// Whose frame it is; the same on every frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The cluster both belong to.
    pub cluster: ClusterId,
    /// The sending store.
    pub from: StoreId,
    /// The receiving store.
    pub to: StoreId,
}

/// Why a frame was refused. Nothing of it was delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends early, or its checksum does not match.
    #[error("damaged frame of {bytes} bytes: {reason}")]
    Damaged {
        /// Its length as received.
        bytes: usize,
        /// What does not fit.
        reason: &'static str,
    },
    /// It is whole, but not for this stream.
    #[error(
        "frame of store {} in cluster {} for store {}, on a stream of store {} in cluster {} for store {}",
        .got.from, .got.cluster, .got.to, .expected.from, .expected.cluster, .expected.to
    )]
    WrongLink {
        /// What the frame says.
        got: Link,
        /// What the stream's handshake said.
        expected: Link,
    },
}

/// Packs `envelopes` into one frame: one allocation, whatever their number.
///
/// # Panics
/// With more than `u32::MAX` envelopes; callers limit a frame by its bytes.
#[must_use]
pub fn encode(link: Link, envelopes: &[Envelope]) -> Bytes {
    let size: usize = envelopes.iter().map(encoded_size_max).sum();
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + size);
    frame.put_u32_le(0);
    frame.put_u128_le(link.cluster.0);
    frame.put_u64_le(link.from.0);
    frame.put_u64_le(link.to.0);
    frame.put_u32_le(u32::try_from(envelopes.len()).expect("invariant: frames are limited"));
    for envelope in envelopes {
        put_envelope(&mut frame, envelope);
    }
    let crc = crc32c::crc32c(&frame[CRC_BYTES..]);
    frame[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    frame.freeze()
}

/// Bytes that `envelope` takes in a frame at most: what limits and capacities are counted in.
#[must_use]
pub fn encoded_size_max(envelope: &Envelope) -> usize {
    let payload = match &envelope.payload {
        Payload::Raft { bytes, .. } | Payload::Members(bytes) => bytes.len(),
        // Their numbers are part of the overhead.
        Payload::DurableApplied(_)
        | Payload::SnapshotFailed
        | Payload::Damaged
        | Payload::Sleep(_)
        | Payload::Alive(_)
        | Payload::AskIndex { .. }
        | Payload::ReadIndex { .. } => 0,
    };
    payload + ENVELOPE_OVERHEAD_BYTES_MAX
}

/// Unpacks a frame of the stream `link`. Payloads are slices of `frame`: nothing is copied, and
/// the frame's memory lives as long as one of them.
///
/// # Errors
/// [`FrameError`]; then nothing of the frame may be used.
pub fn decode(link: Link, frame: Bytes) -> Result<Vec<Envelope>, FrameError> {
    let bytes = frame.len();
    let damaged = |reason| FrameError::Damaged { bytes, reason };
    if bytes < HEADER_BYTES {
        return Err(damaged("shorter than a header"));
    }
    let mut rest = frame;
    let crc = rest.get_u32_le();
    if crc32c::crc32c(&rest) != crc {
        return Err(damaged("checksum mismatch"));
    }
    let got = Link {
        cluster: ClusterId(rest.get_u128_le()),
        from: StoreId(rest.get_u64_le()),
        to: StoreId(rest.get_u64_le()),
    };
    if got != link {
        return Err(FrameError::WrongLink { got, expected: link });
    }
    let count = rest.get_u32_le() as usize;
    // So a wrong count cannot ask for absurd memory.
    if count > rest.len() / ENVELOPE_BYTES_MIN {
        return Err(damaged("more envelopes than bytes"));
    }
    let mut envelopes = Vec::with_capacity(count);
    for _ in 0..count {
        envelopes.push(get_envelope(&mut rest).ok_or_else(|| damaged("bad envelope"))?);
    }
    if rest.has_remaining() {
        return Err(damaged("bytes after the last envelope"));
    }
    Ok(envelopes)
}

fn put_envelope(frame: &mut BytesMut, envelope: &Envelope) {
    let kind = match &envelope.payload {
        Payload::Raft { bulk: false, .. } => KIND_RAFT,
        Payload::Raft { bulk: true, .. } => KIND_RAFT_BULK,
        Payload::DurableApplied(_) => KIND_DURABLE_APPLIED,
        Payload::Members(_) => KIND_MEMBERS,
        Payload::SnapshotFailed => KIND_SNAPSHOT_FAILED,
        Payload::Damaged => KIND_DAMAGED,
        Payload::Sleep(_) => KIND_SLEEP,
        Payload::Alive(Alive { slow: false, .. }) => KIND_ALIVE,
        Payload::Alive(Alive { slow: true, .. }) => KIND_ALIVE_SLOW,
        Payload::AskIndex { by_lease: false, .. } => KIND_ASK_INDEX,
        Payload::AskIndex { by_lease: true, .. } => KIND_ASK_INDEX_BY_LEASE,
        Payload::ReadIndex { .. } => KIND_READ_INDEX,
    };
    frame.put_u8(kind);
    put_varint(frame, envelope.group.0);
    put_varint(frame, envelope.from.0);
    put_varint(frame, envelope.to.0);
    match &envelope.payload {
        Payload::Raft { bytes, .. } | Payload::Members(bytes) => {
            put_varint(frame, bytes.len() as u64);
            frame.put_slice(bytes);
        }
        Payload::DurableApplied(index) => put_varint(frame, *index),
        Payload::AskIndex { number, .. } => put_varint(frame, *number),
        Payload::ReadIndex { number, position } => {
            put_varint(frame, *number);
            put_varint(frame, position.index);
            put_varint(frame, position.term);
        }
        Payload::SnapshotFailed | Payload::Damaged => {}
        Payload::Sleep(last) => {
            put_varint(frame, last.index);
            put_varint(frame, last.term);
        }
        Payload::Alive(Alive { shard, shards, life, shortage, slow: _ }) => {
            put_varint(frame, u64::from(*shard));
            put_varint(frame, u64::from(*shards));
            put_varint(frame, *life);
            // No limit is 0.
            put_varint(frame, shortage.map_or(0, |shortage| shortage.limit));
            put_varint(frame, shortage.map_or(0, |shortage| shortage.free));
        }
    }
}

fn get_envelope(rest: &mut Bytes) -> Option<Envelope> {
    let kind = rest.try_get_u8().ok()?;
    let group = GroupId(get_varint(rest)?);
    let from = ReplicaId(get_varint(rest)?);
    let to = ReplicaId(get_varint(rest)?);
    let payload = match kind {
        KIND_RAFT | KIND_RAFT_BULK => {
            Payload::Raft { bytes: get_bytes(rest)?, bulk: kind == KIND_RAFT_BULK }
        }
        KIND_MEMBERS => Payload::Members(get_bytes(rest)?),
        KIND_SNAPSHOT_FAILED => Payload::SnapshotFailed,
        KIND_DAMAGED => Payload::Damaged,
        KIND_SLEEP => {
            Payload::Sleep(LogPosition { index: get_varint(rest)?, term: get_varint(rest)? })
        }
        KIND_ALIVE | KIND_ALIVE_SLOW => Payload::Alive(Alive {
            shard: u32::try_from(get_varint(rest)?).ok()?,
            shards: u32::try_from(get_varint(rest)?).ok()?,
            life: get_varint(rest)?,
            slow: kind == KIND_ALIVE_SLOW,
            shortage: {
                let (limit, free) = (get_varint(rest)?, get_varint(rest)?);
                (limit > 0).then_some(Shortage { free, limit })
            },
        }),
        KIND_DURABLE_APPLIED => Payload::DurableApplied(get_varint(rest)?),
        KIND_ASK_INDEX | KIND_ASK_INDEX_BY_LEASE => {
            let by_lease = kind == KIND_ASK_INDEX_BY_LEASE;
            Payload::AskIndex { number: get_varint(rest)?, by_lease }
        }
        KIND_READ_INDEX => {
            let number = get_varint(rest)?;
            let position = LogPosition { index: get_varint(rest)?, term: get_varint(rest)? };
            Payload::ReadIndex { number, position }
        }
        _ => return None,
    };
    Some(Envelope { group, from, to, payload })
}

fn get_bytes(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(get_varint(rest)?).ok()?;
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn put_varint(frame: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        frame.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    frame.put_u8(value as u8);
}

fn get_varint(rest: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..VARINT_BYTES_MAX as u32).map(|i| i * 7) {
        let byte = rest.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{COMMAND_OVERHEAD, pack};
    use crate::replica::codec;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn link() -> Link {
        Link { cluster: ClusterId(0x0123_4567_89ab_cdef << 50), from: StoreId(1), to: StoreId(2) }
    }

    #[test]
    fn the_smallest_envelope_of_each_kind_passes_alone() {
        for payload in [
            Payload::Raft { bytes: Bytes::new(), bulk: false },
            Payload::Raft { bytes: Bytes::new(), bulk: true },
            Payload::DurableApplied(0),
            Payload::Members(Bytes::new()),
            Payload::SnapshotFailed,
            Payload::Damaged,
            Payload::Sleep(LogPosition::default()),
            Payload::Alive(Alive { shard: 0, shards: 1, life: 0, slow: false, shortage: None }),
            Payload::Alive(Alive { shard: 0, shards: 1, life: 0, slow: true, shortage: None }),
        ] {
            let (group, from, to) = (GroupId(1), ReplicaId(1), ReplicaId(2));
            let envelopes = vec![Envelope { group, from, to, payload }];
            assert_eq!(decode(link(), encode(link(), &envelopes)), Ok(envelopes));
        }
    }

    fn any_u64(rng: &mut SmallRng) -> u64 {
        rng.random::<u64>() >> rng.random_range(0..64)
    }

    fn any_envelope(rng: &mut SmallRng) -> Envelope {
        let payload = if rng.random_bool(0.2) {
            let last = LogPosition { index: any_u64(rng), term: any_u64(rng) };
            let (shard, shards, number) = (rng.random(), rng.random(), any_u64(rng));
            match rng.random_range(0..7) {
                0 => Payload::DurableApplied(last.index),
                1 => Payload::SnapshotFailed,
                2 => Payload::Damaged,
                3 => Payload::Sleep(last),
                4 => Payload::AskIndex { number, by_lease: rng.random() },
                5 => Payload::ReadIndex { number, position: last },
                _ => {
                    let slow = rng.random();
                    let shortage = Shortage { free: any_u64(rng), limit: any_u64(rng).max(1) };
                    let shortage = rng.random_bool(0.5).then_some(shortage);
                    Payload::Alive(Alive { shard, shards, life: last.term, slow, shortage })
                }
            }
        } else {
            let length = rng.random_range(0..300);
            let bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
            if rng.random_bool(0.2) {
                Payload::Members(bytes.into())
            } else {
                Payload::Raft { bytes: bytes.into(), bulk: rng.random() }
            }
        };
        Envelope {
            group: GroupId(any_u64(rng)),
            from: ReplicaId(any_u64(rng)),
            to: ReplicaId(any_u64(rng)),
            payload,
        }
    }

    fn any_envelopes(rng: &mut SmallRng) -> Vec<Envelope> {
        (0..rng.random_range(0..40)).map(|_| any_envelope(rng)).collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..500 {
            let envelopes = any_envelopes(&mut rng);
            let frame = encode(link(), &envelopes);
            let size: usize = envelopes.iter().map(encoded_size_max).sum();
            assert!(frame.len() <= HEADER_BYTES + size);
            assert_eq!(decode(link(), frame), Ok(envelopes));
        }
    }

    /// Entries of many commands, and of one: with their own headers they are a little larger.
    #[test]
    fn the_largest_entry_fits_a_frame_with_its_headers() {
        let largest = crate::config::ENTRY_BYTES_MAX;
        let many = [largest / 2; 2].map(|length| length - COMMAND_OVERHEAD);
        for commands in [&many[..], &[largest]] {
            let commands: Vec<Bytes> = commands.iter().map(|n| vec![7; *n].into()).collect();
            let message = codec::largest_append(pack(commands.iter()));
            // A lease's stamp follows.
            let bytes = [&message[..], &[0; 64]].concat().into();
            let payload = Payload::Raft { bytes, bulk: true };
            let (group, from, to) = (GroupId(u64::MAX), ReplicaId(u64::MAX), ReplicaId(1));
            let envelope = Envelope { group, from, to, payload };
            assert!(HEADER_BYTES + encoded_size_max(&envelope) <= super::super::ENVELOPE_BYTES_MAX);
        }
    }

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let bytes = Bytes::from(vec![7u8; 100]);
        let envelope = Envelope {
            group: GroupId(1),
            from: ReplicaId(1),
            to: ReplicaId(2),
            payload: Payload::Raft { bytes, bulk: true },
        };
        let frame = encode(link(), &[envelope]);
        let memory = frame.as_ptr_range();
        let decoded = decode(link(), frame.clone()).unwrap();
        let Payload::Raft { bytes, .. } = &decoded[0].payload else { panic!("raft expected") };
        assert!(memory.contains(&bytes.as_ptr()));
    }

    #[test]
    fn truncated_and_flipped_frames_are_refused() {
        let mut rng = SmallRng::seed_from_u64(2);
        for _ in 0..200 {
            let frame = encode(link(), &any_envelopes(&mut rng));
            let cut = rng.random_range(0..frame.len());
            assert!(matches!(decode(link(), frame.slice(..cut)), Err(FrameError::Damaged { .. })));
            let mut flipped = frame.to_vec();
            let bit = rng.random_range(0..flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(link(), flipped.into()), Err(FrameError::Damaged { .. })));
        }
    }

    /// A body that does not parse must be refused even when its checksum fits (a sender's bug).
    #[test]
    fn random_bodies_with_a_fitting_checksum_never_panic() {
        let mut rng = SmallRng::seed_from_u64(3);
        for _ in 0..2_000 {
            let mut frame = encode(link(), &any_envelopes(&mut rng)).to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(HEADER_BYTES - 4..frame.len());
                frame[at] = rng.random();
            }
            let crc = crc32c::crc32c(&frame[CRC_BYTES..]);
            frame[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
            let _ = decode(link(), frame.into());
        }
    }

    #[test]
    fn a_frame_of_another_stream_is_refused() {
        let frame = encode(link(), &[]);
        let other = Link { cluster: ClusterId(9), ..link() };
        let error = decode(other, frame).unwrap_err();
        assert!(error.to_string().contains("store 1 in cluster"), "{error}");
    }
}
