//! The seam to the network: what leaves a store and what comes in.
//!
//! 1. A shard groups a round's messages by destination store and calls [`Transport::send`].
//! 2. The transport packs envelopes of all groups into frames on one stream to that store.
//! 3. The receiving end hands whole frames to [`Inbound::deliver`].
//!
//! Messages may be lost, never reordered between two stores, and duplicated only by a broken
//! network; Raft tolerates all three.

use crate::disk::Shortage;
use crate::snapshot::SnapshotId;
use crate::types::{GroupId, LogPosition, ReplicaId, StoreId};
use bytes::Bytes;
use std::io;

#[cfg(feature = "grpc")]
pub mod grpc;
mod memory;

pub use memory::MemoryNetwork;

/// What one replica tells another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A message of the consensus library, encoded. `bulk` = it carries entries: such messages
    /// use the lane that catch-up traffic may fill; all others use the small lane.
    Raft {
        /// The encoded message.
        bytes: Bytes,
        /// It carries log entries.
        bulk: bool,
    },
    /// "My state machine holds everything up to this index on disk": bounds log truncation.
    DurableApplied(u64),
    /// "These are the members, committed": an encoded [`crate::GroupDesc`]. See [`crate::members`].
    Members(Bytes),
    /// "The snapshot that you sent me did not come."
    SnapshotFailed,
    /// "Up to which index must I have applied for a read that begins now?"
    AskIndex {
        /// Of this question; never used again by the sender.
        number: u64,
        /// A leader with a lease need not ask the others.
        by_lease: bool,
    },
    /// The answer to [`Payload::AskIndex`].
    ReadIndex {
        /// Of the question.
        number: u64,
        /// The entry up to which it is; index 0 = this replica cannot tell.
        position: LogPosition,
    },
    /// "I am damaged and take no part."
    Damaged,
    /// "I sleep until something happens, and hold everything up to here": from an idle leader, with
    /// its last index and its term.
    Sleep(LogPosition),
    /// From a shard to a store, for all groups that they share: no replica is named.
    Alive(Alive),
}

/// "I live": what stands for the heartbeats of groups that sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The shard that says so.
    pub shard: u32,
    /// How many there are on its store: a group is in that of its number modulo this.
    pub shards: u32,
    /// Another one after every start.
    pub life: u64,
    /// The disk of its log is slow: its store is to be given no leadership.
    pub slow: bool,
    /// How short of room its store's disk is, if it is.
    pub shortage: Option<Shortage>,
}

/// One message between two replicas of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group both belong to.
    pub group: GroupId,
    /// The sender.
    pub from: ReplicaId,
    /// The receiver; a store drops what is addressed to a replica that it does not have.
    pub to: ReplicaId,
    /// The message.
    pub payload: Payload,
}

impl Envelope {
    /// Bytes that this envelope counts for in queue limits.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.payload {
            Payload::Raft { bytes, .. } => bytes.len() + 32,
            Payload::DurableApplied(_)
            | Payload::SnapshotFailed
            | Payload::Damaged
            | Payload::Sleep(_)
            | Payload::Alive(_)
            | Payload::AskIndex { .. }
            | Payload::ReadIndex { .. } => 32,
            Payload::Members(bytes) => bytes.len() + 32,
        }
    }

    /// Whether it belongs to the bulk lane.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self.payload, Payload::Raft { bulk: true, .. })
    }
}

/// Sends messages to other stores.
///
/// To be correct, `send` must never block and must keep the order of what it does not drop, per
/// lane and destination. It may drop anything, and then reports the store through
/// [`Inbound::unreachable`] so that leaders stop streaming to it.
pub trait Transport: Send + Sync {
    /// Queues `envelopes` for `to`. Called by shard threads and by the log writer.
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>);

    /// Asks `from` for the blocks of a snapshot from `first` on, on a stream of their own. Called by snapshot
    /// threads; waits, as its answer does, until the next block is here or the stream ends. An error of
    /// kind `WouldBlock` says that none has come for a moment: ask on. A block is never given that
    /// differs from what the other store has.
    fn fetch(&self, from: StoreId, id: SnapshotId, first: u64) -> io::Result<Blocks>;
}

/// Blocks as they come.
pub type Blocks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// The receiving end: implemented by [`crate::Store`].
pub trait Inbound: Send + Sync {
    /// Hands in what arrived from `from`; never blocks. When the shard's queue is full the
    /// messages are dropped, as a network would.
    fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>);

    /// A block of a snapshot that this store has; `NotFound` behind the last one. Blocks on the disk.
    fn snapshot_block(&self, id: SnapshotId, number: u64) -> io::Result<Bytes>;

    /// Nothing reaches `store` at the moment. Say it once per outage or dropped frame.
    fn unreachable(&self, store: StoreId);
}
