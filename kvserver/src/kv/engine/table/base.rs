//! What is below a table: it takes checkpoints and gives records.

use super::pace::Pace;
use super::records::Records;
use crate::kv::engine::{Column, Deleted, Incoming, KeyRange, View};
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};

/// Storage that gets whole checkpoints from a table.
///
/// To be correct, an implementation must apply the records of each group atomically, for readers
/// and for crashes, and recover after a crash to a state that holds, of every group, all
/// checkpoints up to some one and none after it, the last one that returned included.
pub trait Base: Send + Sync {
    /// Applies the changes of all `groups`, durable when it returns. Blocks on the disk, and
    /// steps with `pace`. One caller at a time. Not called again after it failed.
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], pace: &Pace<'_>) -> Result<(), Fatal>;

    /// The value of `key`, if any. Blocks on the disk.
    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Gives the records of `[start, end)` (`end` empty = to the end), ascending, to `take`,
    /// until that says `false`. Blocks on the disk.
    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal>;

    /// The group as the last checkpoint left it, for as long as it is held. Not called while a
    /// checkpoint is made.
    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal>;

    /// Deletes every record of `[start, end)` in `Column::Data` without reading them, durable when it
    /// returns. Not called while a checkpoint is made, and only where a read has found damage.
    fn erase(&self, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        let what = format!("delete damaged records from {start:?} to {end:?}");
        Err(Fatal::new(what, "this storage never finds any"))
    }

    /// Whether it takes [`Base::ingest`] now. If not, records come by checkpoints.
    fn ingests(&self) -> bool {
        false
    }

    /// Makes `records` of `Column::Data` part of it, ascending, above what it has of their range; durable when
    /// it returns. Blocks on the disk, and steps with `pace`. Checkpoints of other groups are made
    /// meanwhile.
    fn ingest(&self, _records: Incoming<'_>, _pace: &Pace<'_>) -> Result<(), Fatal> {
        Err(Fatal::new("take over records", "this storage gets them by checkpoints"))
    }

    /// See [`crate::kv::engine::Engine::reclaim`].
    fn reclaim(&self, _start: &[u8], _end: &[u8]) -> Result<bool, Fatal> {
        Ok(true)
    }

    /// See [`crate::kv::engine::Engine::deleted`].
    fn deleted(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        Ok(vec![Deleted::default(); ranges.len()])
    }

    /// See [`crate::kv::engine::Engine::close`].
    fn close(&self) {}

    /// Every group that has a `System` record, ascending.
    fn groups(&self) -> Result<Vec<GroupId>, Fatal>;
}

/// What changed in a group between two moments, the last change of each key only.
pub struct GroupCheckpoint<'a> {
    /// The group.
    pub group: GroupId,
    /// `Column::Data`.
    pub data: &'a Records,
    /// `Column::System`.
    pub system: &'a Records,
}
