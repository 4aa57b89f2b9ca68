//! Every message between the threads of a store, in one file.
//!
//! ```text
//! callers, network ── ShardMessage ──► shard ── LogTask ───► log writer ─┐
//!                         ▲              ├───── ApplyTask ─► apply ──────┤
//!                         │              ├───── FetchTask ─► reader ─────┤
//!                         │              └───── envelopes ─► transport   │
//!                         │              └───── SnapshotTask ► snapshots ─┤
//!                         └── Persisted, Applied, Fetched, SnapshotNote ──┘
//! ```

use crate::apply::{ApplyEntry, ApplyError, LeaderStop};
use crate::completion::Reply;
use crate::disk::{Shortage, SpareRoom};
use crate::error::{Error, LogError};
use crate::events::Levels;
use crate::log::GroupWrite;
use crate::members::{ChangeRequest, GroupDesc, RecoverRequest};
use crate::snapshot::{Content, Manifest, SnapshotId};
use crate::status::ReplicaStatus;
use crate::transport::Envelope;
use crate::types::{GroupId, GroupRecord, LogEntry, LogPosition, Nanos, ReplicaId, StoreId};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What a caller asks of one group.
#[derive(Debug)]
pub enum Request {
    /// Replicate and apply `command`; answered with [`crate::Answer::Applied`].
    Propose {
        /// The group.
        group: GroupId,
        /// Opaque to this library.
        command: Bytes,
        /// It takes nothing but away, so it is let through where there is no room for more: on a nearly full
        /// disk, and in the last eighth of the log's bytes.
        takes_away: bool,
        /// The way back.
        reply: Reply,
    },
    /// Answered with [`crate::Answer::ReadReady`] once a local read is what `mode` says.
    ReadBarrier {
        /// The group.
        group: GroupId,
        /// What the read must see.
        mode: ReadMode,
        /// The way back.
        reply: Reply,
    },
    /// Hand leadership to `to`; answered with [`crate::Answer::Accepted`] when that one leads.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// The voter that is to lead.
        to: ReplicaId,
        /// The way back.
        reply: Reply,
    },
    /// Change the group's members; answered with [`crate::Answer::Accepted`] once a majority has
    /// the request and it is applied here: from then on every leader carries it out.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// What is to change.
        request: ChangeRequest,
        /// The way back.
        reply: Reply,
    },
    /// Go on without a lost majority, at a replica that follows nobody; answered with
    /// [`crate::Answer::Accepted`] when that is durable and applied.
    Recover {
        /// The group.
        group: GroupId,
        /// What is lost.
        request: RecoverRequest,
        /// The way back.
        reply: Reply,
    },
    /// Make a snapshot of the group's state here; answered with [`crate::Answer::SnapshotMade`], on any
    /// replica.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The way back.
        reply: Reply,
    },
    /// Create this store's replica; answered when the record is durable, also when it was before.
    CreateGroup {
        /// The group with all its members, and which of them is this store's.
        record: GroupRecord,
        /// The way back.
        reply: Reply,
    },
}

/// What a read must see, and where it may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Everything that was acknowledged before: at the leader, confirmed by a quorum (ReadIndex).
    /// Rests on no clock.
    #[default]
    Linearizable,
    /// The same at the leader, at once while it has a lease: rests on clocks, whose rates may
    /// differ by a tenth. Without a lease as [`ReadMode::Linearizable`].
    Lease,
    /// The same at any replica, which asks the leader. Rests on no clock.
    Follower,
    /// Everything that was acknowledged `bound` before, at any replica, by its own clock. It asks the leader
    /// when its state may be older, and refuses with [`crate::Error::TooOld`] when none answers.
    Stale {
        /// How old the state may be.
        bound: Nanos,
    },
}

impl Request {
    /// The group asked for.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Request::Propose { group, .. }
            | Request::ReadBarrier { group, .. }
            | Request::TransferLeader { group, .. }
            | Request::ChangeMembers { group, .. }
            | Request::Recover { group, .. }
            | Request::Snapshot { group, .. } => *group,
            Request::CreateGroup { record, .. } => record.desc.group,
        }
    }
}

/// The inbox of a shard.
#[derive(Debug)]
pub enum ShardMessage {
    /// From callers; already admitted.
    Requests(Vec<Request>),
    /// From another store.
    Deliver {
        /// The sending store, as authenticated by the transport.
        from: StoreId,
        /// For groups of this shard.
        envelopes: Vec<Envelope>,
    },
    /// Nothing reaches this store.
    Unreachable(StoreId),
    /// From the log writer, in the order of its writes.
    Persisted(Vec<Persisted>),
    /// From the apply worker, in order.
    Applied(Vec<Applied>),
    /// From the maintenance thread: how far the state machine is durable.
    DurableApplied(Vec<DurableApplied>),
    /// From the reader: entries for followers that lag behind the cache.
    Fetched(Vec<Fetched>),
    /// From the snapshot threads.
    Snapshots(Vec<SnapshotNote>),
    /// A snapshot cannot be read here: whoever offers it makes another one.
    SnapshotDamaged(SnapshotId),
    /// The state of a replica was found damaged when it was read.
    StateDamaged {
        /// The group.
        group: GroupId,
        /// Whose state it was.
        replica: ReplicaId,
        /// What is wrong, and where.
        reason: String,
    },
    /// How short of room the store's disk is, if it is, and what its shards may take of it.
    Disk(Option<Shortage>, Arc<SpareRoom>),
    /// One tick of time; several waiting ones count as one.
    Tick,
    /// Report every replica.
    Describe(Sender<Vec<ReplicaStatus>>),
    /// Count what there is, for metrics.
    Measure(Sender<Levels>),
    /// The disk of this store's log has become slow, or fast again.
    DiskSlow(bool),
    /// Hand over what is led here, and lead nothing from now on: the store is about to stop.
    Leave,
    /// Fail all callers and end.
    Stop,
}

/// The `ready` of the write that leaves a tombstone.
pub const REMOVAL: u64 = u64::MAX;

/// One replica's share of a log write. `held` leaves after it is durable.
#[derive(Debug)]
pub struct LogTask {
    /// The shard that hears `Persisted`.
    pub shard: usize,
    /// The replica that writes.
    pub replica: ReplicaId,
    /// The change.
    pub write: GroupWrite,
    /// Number of the `ready` it belongs to; 0 = none (creation, truncation, members); [`REMOVAL`].
    pub ready: u64,
    /// Messages that must not leave before this and all earlier writes are durable.
    pub held: Vec<(StoreId, Envelope)>,
    /// Callers of a group's creation.
    pub created: Vec<Reply>,
}

/// A ready's write is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The group.
    pub group: GroupId,
    /// The replica that wrote.
    pub replica: ReplicaId,
    /// The highest ready number covered.
    pub ready: u64,
}

/// One committed entry with the callers that wait for its commands.
#[derive(Debug)]
pub struct Committed {
    /// The entry.
    pub entry: ApplyEntry,
    /// One a command, or empty when nobody waits here.
    pub callers: Vec<Reply>,
}

/// A replica's part in its group, as its state machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It neither leads nor follows anybody.
    Idle {
        /// In this term.
        term: u64,
    },
    /// It follows.
    Follows {
        /// Whom.
        leader: ReplicaId,
        /// In this term.
        term: u64,
    },
    /// It leads, and everything of earlier terms is handed to apply.
    Leads {
        /// In this term.
        term: u64,
    },
}

impl Default for Standing {
    fn default() -> Self {
        Standing::Idle { term: 0 }
    }
}

impl Standing {
    /// The term in which it is so.
    #[must_use]
    pub const fn term(self) -> u64 {
        match self {
            Standing::Idle { term } | Standing::Follows { term, .. } | Standing::Leads { term } => {
                term
            }
        }
    }

    /// Neither leads nor follows.
    #[must_use]
    pub const fn is_idle(self) -> bool {
        matches!(self, Standing::Idle { .. })
    }
}

/// What the state machine is told beside the entries, in its place among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The replica's part has changed.
    Becomes(Standing),
    /// It has no part any more.
    Ends(LeaderStop),
    /// These are the members: a snapshot brought them.
    Members(Arc<GroupDesc>),
    /// The replica was found damaged and stops; requests get this error.
    Fails(Error),
    /// The replica was removed and its tombstone is durable: its state is to be destroyed.
    Destroy,
}

/// One group's committed entries of a round.
#[derive(Debug)]
pub struct ApplyTask {
    /// The shard that hears `Applied`.
    pub shard: usize,
    /// The group.
    pub group: GroupId,
    /// The replica: another one may follow it here.
    pub replica: ReplicaId,
    /// Contiguous.
    pub entries: Vec<Committed>,
    /// See [`crate::GroupApply::commit`].
    pub commit: LogPosition,
    /// Bytes that these entries count for in the apply queue.
    pub bytes: usize,
    /// When the first of those entries was proposed for which callers wait here.
    pub proposed: Option<Nanos>,
    /// To be told after the entries.
    pub notice: Option<Notice>,
}

impl ApplyTask {
    /// No entries, only something to tell.
    pub(crate) fn notice(
        shard: usize,
        group: GroupId,
        replica: ReplicaId,
        notice: Notice,
    ) -> ApplyTask {
        let (entries, commit) = (Vec::new(), LogPosition::default());
        let (bytes, proposed, notice) = (0, None, Some(notice));
        ApplyTask { shard, group, replica, entries, commit, bytes, proposed, notice }
    }
}

/// Entries up to `index` are applied and their callers answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The group.
    pub group: GroupId,
    /// The replica that applied.
    pub replica: ReplicaId,
    /// Last applied index; unchanged when the task carried no entry.
    pub index: u64,
    /// Bytes released from the apply queue.
    pub bytes: usize,
    /// The replica's state is gone, durably.
    pub destroyed: bool,
    /// The state machine cannot apply what comes next: the replica stops.
    pub failure: Option<ApplyError>,
}

/// How far one group's state machine is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableApplied {
    /// The group.
    pub group: GroupId,
    /// The replica whose state it is.
    pub replica: ReplicaId,
    /// Everything up to here is durable.
    pub index: u64,
    /// See [`crate::StateMachine::log_needed`].
    pub log_needed: u64,
}

/// A read of old entries for a follower.
#[derive(Debug)]
pub struct FetchTask {
    /// The shard that hears `Fetched`.
    pub shard: usize,
    /// The group.
    pub group: GroupId,
    /// The replica that asks.
    pub replica: ReplicaId,
    /// First index wanted.
    pub low: u64,
    /// One past the last index wanted.
    pub high: u64,
    /// Size limit of the answer.
    pub bytes_max: usize,
}

/// The answer to a [`FetchTask`].
#[derive(Debug)]
pub struct Fetched {
    /// The group.
    pub group: GroupId,
    /// The replica that asked.
    pub replica: ReplicaId,
    /// As asked.
    pub low: u64,
    /// What was read.
    pub entries: Result<Vec<LogEntry>, LogError>,
}

/// What the snapshot threads are to do, away from shards and apply.
#[derive(Clone, Debug)]
pub enum SnapshotTask {
    /// Have the state machine write the group's state; answered with [`SnapshotEvent::Made`].
    Make {
        /// Who asks.
        asker: Asker,
        /// The new snapshot.
        id: SnapshotId,
        /// What is durable of the state is older than the members: without a sync before it, nobody who joined
        /// since could take the snapshot.
        sync: bool,
    },
    /// Get the blocks from another store; answered with [`SnapshotEvent::Received`].
    Fetch {
        /// Who asks.
        asker: Asker,
        /// The store that made it.
        from: StoreId,
        /// What is to come.
        manifest: Manifest,
    },
    /// Replace the group's state; answered with [`SnapshotEvent::Loaded`].
    Load {
        /// Who asks.
        asker: Asker,
        /// What was received.
        manifest: Manifest,
    },
    /// Delete the blocks; not answered.
    Remove(SnapshotId),
}

/// The replica that a snapshot task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its shard.
    pub shard: usize,
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
}

/// What became of a [`SnapshotTask`].
#[derive(Clone, Debug)]
pub struct SnapshotNote {
    /// Who asked.
    pub asker: Asker,
    /// The snapshot.
    pub id: SnapshotId,
    /// What became of it.
    pub event: SnapshotEvent,
}

/// See [`SnapshotNote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotEvent {
    /// The last index that is in it, and its blocks; or why there is none.
    Made(Result<(u64, Content), String>),
    /// All blocks are here, durable and checked; or why they are not.
    Received(Result<(), String>),
    /// The state machine holds it, durably; or what is damaged.
    Loaded(Result<(), String>),
}
