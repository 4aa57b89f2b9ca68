//! The seam to what stores the data: RocksDB, ordered maps in memory, or the simulator's disk.
//!
//! One key space shared by all regions, so a later split moves no data. An engine knows columns
//! and bytes; records, revisions and regions belong to the state machine above it.

use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// User records.
    Data,
    /// System records of a group (applied state, region meta): out of reach of user keys.
    System,
}

/// One change. `value` `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Column of the key.
    pub column: Column,
    /// The key.
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
/// To be correct, an implementation must apply each [`GroupChanges`] atomically and all of one
/// `write` in order, and recover after a crash to a prefix of the writes of each group.
pub trait Engine: Send + Sync {
    /// Applies the changes; visible to reads when it returns, durable after the next `sync`.
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal>;

    /// Makes all earlier writes durable. Runs beside `write`.
    fn sync(&self) -> Result<(), Fatal>;

    /// The value of `key`, if any.
    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// All the values of `keys` at one moment.
    fn get_many(
        &self,
        group: GroupId,
        column: Column,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, Fatal>;

    /// Records of `[start, end)` at one moment, ascending (`end` empty = to the end), at most
    /// `limit` records, stopping after the one that makes keys and values exceed `bytes_max`.
    /// The flag says that more follow.
    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal>;
}
