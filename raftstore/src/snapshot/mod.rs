//! Snapshots: a group's state as checksummed blocks, for members that the log cannot bring up.
//!
//! 1. A leader's log begins behind what a follower needs, or an invited replica asks for a beginning:
//!    the library asks its storage for a snapshot. Without one at hand the replica has one made
//!    ([`crate::message::SnapshotTask::Make`]); a snapshot thread has the state machine write it into the
//!    [`SnapshotStore`] (`worker.rs`), from a view that holds nobody up.
//! 2. The snapshot's [`Manifest`] travels to the follower as an ordinary message.
//! 3. The follower's snapshot thread asks the leader's store for the blocks, on a stream of their own
//!    ([`crate::Transport::fetch`]), and goes on where it was after a cut, or after a restart. Each
//!    block carries its checksum; when all are there the whole is read back and checked.
//! 4. Only then the message reaches the consensus library, and not before all that this replica wrote and
//!    applied is finished. One log write drops the log, names the snapshot as being installed, and
//!    takes members, term and commit over. The leader hears of it when that is durable.
//! 5. The snapshot thread gives the blocks to the state machine. Until it is done nothing of the group
//!    is applied, and the replica does not campaign. A start that finds an install unfinished
//!    does step 5 first.
//!
//! `replica/snapshot.rs` decides all of it; threads and queues are in `run.rs`.

mod dir;
mod manifest;
mod memory;
mod rate;
pub(crate) mod run;
mod traffic;
mod worker;

pub(crate) use dir::BLOCK_BYTES_MAX;
pub use dir::SnapshotDir;
pub use manifest::{Content, Manifest, SnapshotId};
pub use memory::MemorySnapshots;
pub(crate) use rate::Rate;
pub use traffic::Traffic;
pub use worker::{LoadError, Receiving, SnapshotWorker};

use bytes::Bytes;
use std::io;

/// A sync that failed. What was written before it may be lost, though later ones succeed: the store ends.
#[derive(Debug, thiserror::Error)]
#[error("sync: {0}")]
pub struct SyncFailed(pub io::Error);

/// Whether `error` is that of a sync.
fn is_sync_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SyncFailed>())
}

/// Where a store keeps the blocks of snapshots: those that it made and those that it receives.
///
/// To be correct, an implementation must give back a block exactly as it was written, or an error of
/// kind [`io::ErrorKind::InvalidData`] when it is damaged; and keep, through a crash, all that was
/// written of a snapshot before its [`SnapshotStore::seal`] returned. Other blocks may be lost or
/// damaged by one. When a sync fails the error must hold a [`SyncFailed`] (`io::Error::other(SyncFailed(error))`):
/// others are tried again.
///
/// All calls block on the disk; several threads call at a time, of one snapshot one at most writes.
pub trait SnapshotStore: Send + Sync {
    /// Every snapshot of which something is here.
    fn list(&self) -> io::Result<Vec<SnapshotId>>;

    /// Writes the block `number`, counted from 0. May have blocks written before go to the disk.
    fn write(&self, id: SnapshotId, number: u64, block: &[u8]) -> io::Result<()>;

    /// Reads the block `number`; `NotFound` when it is not here.
    fn read(&self, id: SnapshotId, number: u64) -> io::Result<Bytes>;

    /// Keeps `manifest` with the blocks, and makes all that is here of the snapshot durable. Again, when
    /// more blocks have come.
    fn seal(&self, id: SnapshotId, manifest: &[u8]) -> io::Result<()>;

    /// What was kept by [`SnapshotStore::seal`]; `NotFound` when nothing was.
    fn manifest(&self, id: SnapshotId) -> io::Result<Bytes>;

    /// Forgets the snapshot; nothing happens when it is not here.
    fn remove(&self, id: SnapshotId) -> io::Result<()>;
}
