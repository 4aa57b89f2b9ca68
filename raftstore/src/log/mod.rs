//! The log: one atomic, durable write for many groups at once.
//!
//! 1. A shard's round emits [`crate::message::LogTask`]s (entries, hard state, truncations).
//! 2. The log writer (`writer.rs`) merges everything queued into one `&[GroupWrite]`.
//! 3. [`LogStore::write`] makes it durable in one synced write.
//! 4. The shard hears `Persisted`; only then do held messages leave.
//!
//! Reads of the consensus library come through `replica/storage.rs`, first from `cache.rs`; those of
//! users through `committed.rs`.

pub(crate) mod cache;
mod choice;
pub(crate) mod committed;
mod engine;
mod extent;
mod fence;
mod folder;
mod groups;
mod memory;
pub mod reader;
mod rocks;
pub(crate) mod terms;
mod wal;
pub(crate) mod writer;

pub use choice::{LogEngine, LogOptions, open};
pub use engine::{RaftEngineLog, RaftEngineLogOptions};
pub use memory::MemoryLog;
pub use rocks::{RocksLog, RocksLogOptions};

use crate::error::{Fatal, LogError};
use crate::snapshot::SnapshotId;
use crate::types::{GroupId, GroupRecord, HardState, LogEntry, LogPosition};

/// Everything that one write changes in one group's log. Empty parts change nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupWrite {
    /// The group.
    pub group: GroupId,
    /// Written when the group is created here and when its members change. A tombstone
    /// ([`GroupRecord::removed`]) comes alone and takes everything else of the group away.
    pub record: Option<GroupRecord>,
    /// New term, vote, commit.
    pub hard_state: Option<HardState>,
    /// Contiguous entries. An append at `i` of `n` entries removes every index ≥ `i + n`.
    pub append: Vec<LogEntry>,
    /// Remove every index ≤ this one and remember its term.
    pub truncate: Option<LogPosition>,
    /// An install begins or is over.
    pub install: Option<Install>,
}

/// A step of a snapshot's install (see [`crate::snapshot`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// The state up to this position is being replaced by this snapshot: all entries go, and the log
    /// goes on behind the position. Comes without entries and truncation.
    Begin(LogPosition, SnapshotId),
    /// The state is there.
    Done,
}

impl GroupWrite {
    /// Changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let alone = self.append.is_empty() && self.hard_state.is_none() && self.truncate.is_none();
        alone && self.install.is_none() && self.record.is_none()
    }

    /// Leaves nothing of the group but its record.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        let alone = self.append.is_empty() && self.hard_state.is_none() && self.truncate.is_none();
        alone && self.install.is_none() && self.record.as_ref().is_some_and(|record| record.removed)
    }
}

/// What a group's log holds at start.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLog {
    /// The group.
    pub group: GroupId,
    /// As last written.
    pub record: GroupRecord,
    /// As last written.
    pub hard_state: HardState,
    /// Last removed position; (0, 0) when nothing was removed.
    pub truncated: LogPosition,
    /// Highest index held; `truncated.index` when the log is empty.
    pub last_index: u64,
    /// Runs of equal terms over the held entries: (first index of the run, term), ascending.
    pub terms: Vec<(u64, u64)>,
    /// Indexes of the held membership entries, ascending.
    pub memberships: Vec<u64>,
    /// The snapshot whose install began and is not known to be over.
    pub installing: Option<SnapshotId>,
    /// Set when a hole or a damaged record was found: the replica is to be quarantined.
    pub damage: Option<String>,
}

/// Durable storage of many groups' logs.
///
/// To be correct, an implementation must:
/// - make one `write` call atomic and durable when it returns `Ok`, for all its groups;
/// - within one group apply `truncate` after `append`, and drop every index ≥ `i + n` in the same
///   write that appends `n` entries at `i`;
/// - keep that an install began, until it is over;
/// - keep a group's record as [`GroupRecord::may_become`] says, a tombstone through every restart,
///   and let a group begin anew, with an empty log, behind its tombstone;
/// - report a hole or a damaged middle as an error or as `damage`, never cut it silently; only a
///   torn tail that was never acknowledged may disappear;
/// - return `Fatal` for a failed write or sync and not accept another write after it.
///
/// `write` is called by one thread (the log writer); `entries` by shards and the log writer's
/// own thread at the same time.
pub trait LogStore: Send + Sync {
    /// Every group that this store holds. Called once, before any other call.
    fn load(&self) -> Result<Vec<GroupLog>, LogError>;

    /// One atomic, synced write. Blocks until it is durable. At most one element per group.
    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal>;

    /// Appends entries `[low, high)` to `out`, stopping after the entry that makes their data
    /// exceed `bytes_max` (at least one is given). Blocks on the disk.
    fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError>;

    /// Bytes of one group's entries, approximately.
    fn group_bytes(&self, group: GroupId) -> u64;

    /// Bytes that the log cannot give back, approximately, on disk and in memory: what the store's
    /// limit is compared with.
    fn live_bytes(&self) -> u64;
}

#[cfg(test)]
mod contract_test;
#[cfg(test)]
mod process_test;
