//! The seam to what stores the data: RocksDB, memory, or the simulator's disk.
//!
//! One key space shared by all regions, so a later split moves no data. An engine knows columns
//! and bytes; records, revisions and regions belong to the state machine above it.
//!
//! - `table`: a bounded table in memory over a base, which gets checkpoints.
//! - `rocks.rs`: one RocksDB for all groups; below a table with `checkpoint.rs`.
//! - `memory.rs`: a base in memory, one sorted content a group (`content.rs`), dumped to files
//!   (`dump.rs`).
//! - `ingest.rs`: sorted files of one region alone, which RocksDB takes over.

mod checkpoint;
mod content;
mod dump;
mod ingest;
mod memory;
mod rocks;
pub mod table;

pub use checkpoint::RocksBase;
pub use memory::MemoryBase;
pub(super) use rocks::COMPACTION_BYTES_MAX;
pub use rocks::RocksEngine;
pub use table::TableEngine;

use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use table::Base;

/// Why an engine's folder cannot be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("KV data {}: in use by another process; stop it first", .dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// Written by a newer version.
    #[error(
        "KV data {}: format {found}, this program knows up to {known}; use the newer program",
        .dir.display()
    )]
    NewerFormat {
        /// The folder.
        dir: PathBuf,
        /// Its format.
        found: String,
        /// The newest one that this program reads.
        known: u32,
    },
    /// Checksums or structure are wrong.
    #[error(
        "KV data {} is damaged beyond single regions: {reason}; keep this store's folder, and restore it \
         from a copy that was taken while the store was stopped, or start a store with an empty folder \
         and replace this one's replicas by its (kv admin group)",
        .dir.display()
    )]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Damaged records cannot be left out: the others have to be written once more.
    #[error(
        "KV data {}: to leave out what was found damaged needs {needed_mib} MiB, {free_mib} MiB are free; make \
         room on its disk and start the store again",
        .dir.display()
    )]
    NoRoom {
        /// The folder.
        dir: PathBuf,
        /// What all sound records take, MiB.
        needed_mib: u64,
        /// What is free, MiB.
        free_mib: u64,
    },
    /// The system refused.
    #[error("KV data {}: {reason}", .dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// The system's answer.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn io(dir: &Path, reason: impl std::fmt::Display) -> Self {
        OpenError::Io { dir: dir.to_owned(), reason: reason.to_string() }
    }

    fn damaged(dir: &Path, reason: impl std::fmt::Display) -> Self {
        OpenError::Damaged { dir: dir.to_owned(), reason: reason.to_string() }
    }

    /// What a read of the folder's data has met.
    pub(super) fn of(dir: &Path, error: &Fatal) -> Self {
        if error.damage { Self::damaged(dir, error) } else { Self::io(dir, error) }
    }
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Self {
        Fatal::new("open the KV data", error)
    }
}

/// Bytes of records that one write of [`Engine::erase`] deletes: less than a millisecond of work.
const ERASE_BYTES: usize = 256 << 10;
/// Bytes of records of one write of [`Engine::ingest`].
const INGEST_BYTES: usize = 1 << 20;

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// User records. Their keys are not empty.
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

/// From the first key up to the second one, or to the end of all if that is empty.
pub type KeyRange = (Bytes, Bytes);

/// Records on their way into an engine, ascending; nothing comes after an error.
pub type Incoming<'a> = &'a mut dyn Iterator<Item = Result<Pair, Fatal>>;

/// What deleted records leave behind in a range, by estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Records that are deleted and take room still.
    pub deleted: u64,
    /// All records, with those.
    pub records: u64,
    /// What all of them take on the disk.
    pub bytes: u64,
}

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

    /// [`sync`](Self::sync) that nobody waits for: it may leave the processor to others for longer.
    fn sync_at_leisure(&self) -> Result<(), Fatal> {
        self.sync()
    }

    /// The state of `group` at this moment. Hold it briefly: it may keep `write` waiting.
    fn view(&self, group: GroupId) -> Box<dyn View + '_>;

    /// A state of `group` that keeps nobody waiting, however long it is held: of this moment or an
    /// earlier one, not before the last `sync` that has returned. Blocks on the disk.
    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal>;

    /// Deletes every record of `[start, end)` (`end` empty = to the end) in `Data`, also those that cannot
    /// be read. Nothing else is done to the group meanwhile. Durable after the next `sync`. Blocks
    /// on the disk. Default: reads and deletes, for an engine that finds no damage when it reads.
    fn erase(&self, group: GroupId, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        erase_by_reading(self, group, start, end, &mut || {})
    }

    /// Takes many records of `group` in `Data`, ascending, where it has none that are not deleted. Nothing else
    /// is done to the group meanwhile. All that was written before is durable before the first of them;
    /// a crash leaves some of them, and all are durable after the next `sync`. An error of `records` ends it, and
    /// the engine goes on. Blocks on the disk, for long; keeps no other group waiting. Default: writes in
    /// steps, which follow each other as any writes do.
    fn ingest(&self, group: GroupId, records: Incoming<'_>) -> Result<(), Fatal> {
        ingest_by_writing(self, group, records)
    }

    /// Gives the room that deleted records of `[start, end)` take back to the file system; `false` when it was
    /// not done to the end. Blocks on the disk, for long; runs beside everything else, and ends soon
    /// after [`Engine::close`]. Default: deleted records take none.
    fn reclaim(&self, _start: &[u8], _end: &[u8]) -> Result<bool, Fatal> {
        Ok(true)
    }

    /// What is deleted in each of `ranges`, ascending and apart, as far as it is in files: that much is
    /// known after a restart. Default: nothing.
    fn deleted(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        Ok(vec![Deleted::default(); ranges.len()])
    }

    /// The process is about to end: what takes long and can be done another time is left. Nothing is written
    /// afterwards.
    fn close(&self) {}

    /// Every group that has a `System` record, ascending. Read at start.
    fn groups(&self) -> Result<Vec<GroupId>, Fatal>;

    /// Whether a `write` now might wait for the disk for long.
    fn may_wait(&self) -> bool {
        false
    }

    /// What it counts, for `/metrics`.
    fn metrics(&self) -> prometheus::Registry {
        prometheus::Registry::new()
    }
}

/// [`Engine::erase`] of an engine whose records can be read. `written` is called after each write.
fn erase_by_reading<E: Engine + ?Sized>(
    engine: &E,
    group: GroupId,
    start: &[u8],
    end: &[u8],
    written: &mut dyn FnMut(),
) -> Result<(), Fatal> {
    let delete = |key| Change { column: Column::Data, key, value: None };
    let mut start = start.to_vec();
    loop {
        let (page, more) =
            engine.view(group).scan(Column::Data, &start, end, usize::MAX, ERASE_BYTES)?;
        // Not again over what was deleted, which is there to be skipped until it is compacted.
        if let Some((last, _)) = page.last() {
            start.clear();
            start.extend_from_slice(last);
            start.push(0);
        }
        let changes = page.into_iter().map(|(key, _)| delete(key)).collect();
        engine.write(&[GroupChanges { group, changes }])?;
        written();
        if !more {
            return Ok(());
        }
    }
}

/// [`Engine::ingest`] of an engine that takes no files. Those who apply have room at any time.
fn ingest_by_writing<E: Engine + ?Sized>(
    engine: &E,
    group: GroupId,
    records: Incoming<'_>,
) -> Result<(), Fatal> {
    let (mut changes, mut bytes) = (Vec::new(), 0);
    loop {
        let record = records.next().transpose()?;
        let ended = record.is_none();
        if let Some((key, value)) = record {
            bytes += key.len() + value.len();
            changes.push(Change { column: Column::Data, key, value: Some(value) });
        }
        if bytes >= INGEST_BYTES || (ended && !changes.is_empty()) {
            if engine.may_wait() {
                engine.sync()?;
            }
            let changes = std::mem::take(&mut changes);
            engine.write(&[GroupChanges { group, changes }])?;
            bytes = 0;
        }
        if ended {
            return Ok(());
        }
    }
}

/// The database in `dir`, created when it is not there, below a table of up to `table_bytes_max`
/// bytes; 0 = without one. A database can change between the two.
pub fn open_rocks(dir: &Path, table_bytes_max: usize) -> Result<Arc<dyn Engine>, OpenError> {
    if table_bytes_max == 0 {
        return Ok(Arc::new(RocksEngine::open(dir)?));
    }
    below_table(dir, Box::new(RocksBase::open(dir)?), table_bytes_max)
}

/// Memory that is dumped to files in `dir`, created when it is not there, below a table of up to
/// `table_bytes_max` bytes.
pub fn open_memory(dir: &Path, table_bytes_max: usize) -> Result<Arc<dyn Engine>, OpenError> {
    below_table(dir, Box::new(MemoryBase::open(dir)?), table_bytes_max)
}

fn below_table(
    dir: &Path,
    base: Box<dyn Base>,
    table_bytes_max: usize,
) -> Result<Arc<dyn Engine>, OpenError> {
    let table = TableEngine::new(base, table_bytes_max);
    Ok(Arc::new(table.with_flusher().map_err(|e| OpenError::io(dir, e))?))
}

/// One group's columns at one moment: no write is seen in part or in the middle.
pub trait View {
    /// The value of `key`, if any.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Records of `[start, end)`, ascending (`end` empty = to the end), at most `limit` of them
    /// and at most `bytes_max` of keys and values together, but at least one if there is one and
    /// `limit` is not 0. The flag says that more follow.
    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal>;
}

/// Collects a scan's records up to its limits.
struct Page {
    pairs: Vec<Pair>,
    limit: usize,
    bytes_left: usize,
}

impl Page {
    fn new(limit: usize, bytes_max: usize) -> Self {
        Page { pairs: Vec::new(), limit, bytes_left: bytes_max }
    }

    /// Takes the record, or says that the page ends before it.
    fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let bytes = key.len() + value.len();
        let full = bytes > self.bytes_left && !self.pairs.is_empty();
        if full || self.pairs.len() == self.limit {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        true
    }
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod tests;

#[cfg(test)]
#[path = "ingest_test.rs"]
mod ingest_tests;

#[cfg(test)]
#[path = "reclaim_test.rs"]
mod reclaim_tests;
