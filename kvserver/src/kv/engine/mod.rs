//! The seam to what stores the data: RocksDB, ordered maps in memory, or the simulator's disk.
//!
//! One key space shared by all regions, so a later split moves no data. An engine knows columns
//! and bytes; records, revisions and regions belong to the state machine above it.
//!
//! - `rocks.rs`: one RocksDB for all groups.
//! - `memory.rs`: one ordered map a group (`cow_map.rs`), dumped to files (`dump.rs`).

use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// User records.
    Data,
    /// System records of a group (applied state, region meta): out of reach of user keys. Every
    /// key begins with the group's id, 8 bytes big endian.
    System,
}

/// One change. `value` `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Column of the key.
    pub column: Column,
    /// The key. An engine that keeps it copies it: it may be a slice of a large log entry.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
}

/// All changes of one group in one atomic write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChanges {
    /// The group whose range the `Data` keys belong to.
    pub group: GroupId,
    /// In order; a later change of a key wins.
    pub changes: Vec<Change>,
}

/// A record seen by a scan.
pub type Pair = (Bytes, Bytes);

/// Storage of the KV state machine.
///
/// To be correct, an implementation must apply each [`GroupChanges`] atomically, for views and
/// for crashes, and all of one `write` in order, and recover after a crash to a prefix of the
/// writes of each group that holds everything written before the last `sync`.
pub trait Engine: Send + Sync {
    /// Applies the changes; visible to later views when it returns, durable after the next
    /// `sync`. At most one element per group; one caller per group at a time.
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal>;

    /// Makes all earlier writes durable. Blocks on the disk; runs beside `write`.
    fn sync(&self) -> Result<(), Fatal>;

    /// The state of `group` at this moment. Hold it briefly: it may keep `write` waiting.
    fn view(&self, group: GroupId) -> Box<dyn View + '_>;

    /// Every group that has a `System` record, ascending. Read at start.
    fn groups(&self) -> Result<Vec<GroupId>, Fatal>;
}

/// One group's columns at one moment: no write is seen in part or in the middle.
pub trait View {
    /// The value of `key`, if any.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Records of `[start, end)`, ascending (`end` empty = to the end), at most `limit` records,
    /// stopping after the one that makes keys and values reach `bytes_max`. The flag says that
    /// more follow.
    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal>;
}
