//! The log in a RocksDB of its own.
//!
//! 1. [`RocksLog::open`] locks and checks the folder (`folder.rs`), repairs a torn end
//!    (`../wal.rs`) and reads every group's log (`load.rs`).
//! 2. The log writer calls [`LogStore::write`]: all groups of the call become one `WriteBatch`
//!    and one sync. Keys and values are in `codec.rs`.
//! 3. Shards and readers call [`LogStore::entries`] at any time.
//!
//! What each group holds stays in memory (`../groups.rs`), so that an append deletes an old
//! suffix only when there is one, and a truncation is one range deletion. The first
//! failed write fences the log: nothing is written after it.

pub(super) mod codec;
mod folder;
mod load;

use self::codec::{Encoder, Key};
use self::folder::Folder;
use super::fence::Fenced;
use super::groups::{Groups, Prepared};
use super::{GroupLog, GroupWrite, LogStore};
use crate::error::{Fatal, LogError};
use crate::types::{GroupId, LogEntry};
use parking_lot::Mutex;
use rocksdb::{DB, ReadOptions, WriteBatch, WriteOptions};
use std::path::Path;
use std::sync::Arc;

/// Settings of a [`RocksLog`].
#[derive(Clone, Debug)]
pub struct RocksLogOptions {
    /// Sync every write. Without it a power cut loses acknowledged entries, and may leave
    /// a log that does not open; for measurements only. Default: true.
    pub sync: bool,
    /// Bytes of RocksDB's memtable before it is flushed. Larger: fewer flushes, a longer start.
    /// Default: 64 MiB.
    pub write_buffer_bytes: usize,
}

impl Default for RocksLogOptions {
    fn default() -> Self {
        RocksLogOptions { sync: true, write_buffer_bytes: 64 << 20 }
    }
}

/// A [`LogStore`] in a RocksDB of its own: one batch and one sync for all groups of a write.
///
/// Starting checks every record; what is damaged within one group quarantines that group. While
/// a group is quarantined, tables are not merged, so the log's folder grows.
pub struct RocksLog {
    folder: Folder,
    sync: bool,
    /// What the start found, until it is asked for or outdated.
    found: Mutex<Option<Vec<GroupLog>>>,
    groups: Groups,
    /// Held through a write; the log writer is the only one who takes it.
    writer: Mutex<Fenced<Encoder>>,
}

impl RocksLog {
    /// Opens the log in `dir`, or creates it in a missing or empty folder.
    ///
    /// Blocks while it reads the whole log. A damaged group is no error here, see
    /// [`GroupLog::damage`].
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder is in use, foreign, of a newer format or damaged beyond
    /// single groups; the text says what to do. Nothing is changed then.
    pub fn open(dir: &Path, options: RocksLogOptions) -> Result<Arc<Self>, LogError> {
        let folder = folder::open(dir, options.write_buffer_bytes)?;
        let (groups, found) = Groups::new(load::load(&folder.db)?);
        if found.iter().all(|log| log.damage.is_none()) {
            folder.start_compaction()?;
        }
        Ok(Arc::new(RocksLog {
            folder,
            sync: options.sync,
            found: Mutex::new(Some(found)),
            groups,
            writer: Mutex::default(),
        }))
    }

    fn db(&self) -> &DB {
        &self.folder.db
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), String> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        self.db().write_opt(batch, &options).map_err(|e| e.to_string())
    }

    fn read(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        let damaged = |reason: String| LogError::Damaged { group, reason };
        let mut options = ReadOptions::default();
        let (first, end) = (Key::Entry(group, low).encode(), Key::Entry(group, high).encode());
        options.set_iterate_range(first..end);
        let mut records = self.db().raw_iterator_opt(options);
        records.seek_to_first();
        let mut bytes = 0;
        for index in low..high {
            let item = records.item();
            let expected = Key::Entry(group, index).encode();
            let Some((key, value)) = item.filter(|(key, _)| *key == expected) else {
                return match records.status() {
                    Ok(()) => Err(damaged(format!("entry {index} is missing"))),
                    Err(e) if e.kind() == rocksdb::ErrorKind::Corruption => {
                        Err(damaged(format!("entry {index}: {e}")))
                    }
                    Err(e) => Err(LogError::Io(format!("cannot read group {group}: {e}"))),
                };
            };
            let entry = codec::decode_entry(key, index, value)
                .map_err(|why| damaged(format!("entry {index}: {why}")))?;
            bytes += entry.data.len();
            out.push(entry);
            if bytes > bytes_max {
                break;
            }
            records.next();
        }
        Ok(())
    }
}

/// Adds one group's changes to the batch, in the order that the contract asks for.
fn encode(batch: &mut WriteBatch, encoder: &mut Encoder, write: &GroupWrite, to: &Prepared) {
    let (group, plan) = (write.group, &to.plan);
    if let Some(record) = &write.record {
        let key = Key::Directory(group).encode();
        batch.put(key, encoder.record(&key, record));
        if record.removed {
            batch.delete(Key::HardState(group).encode());
            batch.delete(Key::Truncated(group).encode());
        }
    }
    if let Some(state) = &write.hard_state {
        let key = Key::HardState(group).encode();
        batch.put(key, encoder.hard_state(&key, state));
    }
    for entry in &write.append {
        let key = Key::Entry(group, entry.index).encode();
        batch.put(key, encoder.entry(&key, entry));
    }
    for gone in [&plan.stale, &plan.removed] {
        if !gone.is_empty() {
            let (from, to) = (Key::Entry(group, gone.start), Key::Entry(group, gone.end));
            batch.delete_range(from.encode(), to.encode());
        }
    }
    if plan.truncated.is_some() || write.install.is_some() {
        let key = Key::Truncated(group).encode();
        batch.put(key, encoder.beginning(&key, &to.after.truncated, to.after.installing));
    }
}

#[cfg(test)]
impl RocksLog {
    /// Deletes one entry behind the log's back.
    pub(super) fn lose_entry(&self, group: GroupId, index: u64) {
        self.db().delete(Key::Entry(group, index).encode()).unwrap();
    }

    /// Creates a group with entries and a hard state as a build of format 1 did.
    pub(super) fn write_format_1(&self, record: &crate::types::GroupRecord, write: &GroupWrite) {
        let mut encoder = Encoder::default();
        let mut batch = WriteBatch::default();
        let key = Key::Directory(record.desc.group).encode();
        batch.put(key, encoder.record_1(&key, record));
        let plan = crate::log::extent::Extent::default().plan(write).unwrap();
        let prepared = Prepared { plan, after: super::groups::Standing::default() };
        encode(&mut batch, &mut encoder, write, &prepared);
        self.commit(batch).unwrap();
    }

    /// Puts another value in the place of a group's record.
    fn spoil_record(&self, group: GroupId, value: &[u8]) {
        self.db().put(Key::Directory(group).encode(), value).unwrap();
    }
}

impl LogStore for RocksLog {
    fn load(&self) -> Result<Vec<GroupLog>, LogError> {
        if let Some(found) = self.found.lock().take() {
            return Ok(found);
        }
        Ok(load::load(self.db())?.into_iter().map(|loaded| loaded.log).collect())
    }

    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal> {
        self.writer.lock().write(|encoder| {
            self.found.lock().take();
            let prepared = self.groups.prepare(writes)?;
            let bytes: usize = writes.iter().flat_map(|w| &w.append).map(|e| e.data.len()).sum();
            let mut batch = WriteBatch::with_capacity_bytes(bytes + 128 * writes.len());
            for (write, prepared) in writes.iter().zip(&prepared) {
                encode(&mut batch, encoder, write, prepared);
            }
            self.commit(batch)?;
            self.groups.publish(writes);
            Ok(())
        })
    }

    fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        let before = out.len();
        loop {
            let changes = self.groups.readable(group, low, high)?;
            let result = self.read(group, low, high, bytes_max, out);
            // A gap may come from a write that cut this log meanwhile: then look again.
            if result.is_ok() || self.groups.readable(group, low, high)? == changes {
                return result;
            }
            out.truncate(before);
        }
    }

    fn group_bytes(&self, group: GroupId) -> u64 {
        self.groups.group_bytes(group)
    }

    fn live_bytes(&self) -> u64 {
        self.groups.live_bytes()
    }
}

#[cfg(test)]
mod damage_test;
