//! RocksDB below a table: a checkpoint is one sorted file that the database takes over whole.
//!
//! Nothing of it goes through RocksDB's log and memtable. One file in one column family is taken
//! over atomically, so the data and the applied state of all groups are in it together: the
//! `System` records are one record, [`SYSTEM_KEY`], which sorts first and which no user can
//! write, since keys of users are not empty. It holds all `System` records that are newer than
//! those in their own column family. They are moved there ([`fold`]) when the database is opened,
//! so that it can be used with and without a table.
//!
//! A small checkpoint is one synced write through RocksDB's log instead, with what there is to
//! fold: a few records in a file of their own would cost more syncs and many small files.
//!
//! ```text
//! version u8 = 1, then: key length u32 | value length u32, all ones: deleted | key | value
//! ```
//!
//! Made by whoever makes a checkpoint of the table; read by everyone.

use super::rocks::RocksView;
use super::table::{Base, GroupCheckpoint, Pace, Sorted};
use super::{Column, Deleted, Incoming, KeyRange, OpenError, Page, Pair, RocksEngine, View};
use crate::kv::keys;
use bytes::{Buf, Bytes};
use flotilla_raftstore::{Fatal, GroupId};
use parking_lot::{Mutex, RwLock};
use rocksdb::{DBCompressionType, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch};
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// In the data column family.
const SYSTEM_KEY: &[u8] = b"";
/// Lowest key that a user can have.
pub(super) const LOWEST_KEY: &[u8] = &[0];
/// The file of the checkpoint under way, in the database's folder.
const FILE: &str = "next.checkpoint";
const VERSION: u8 = 1;
/// A checkpoint of up to so many bytes goes through RocksDB's log: three thousand small records.
const LOGGED_BYTES_MAX: usize = 256 << 10;
const DELETED: u32 = u32::MAX;
/// More files than this in the first level slow down reads: a checkpoint waits for compactions.
const LEVEL_0_FILES_MAX: u64 = 24;
/// Of the file, between two looks at the clock: a third of a millisecond.
const READ_BYTES: usize = 128 << 10;
/// Records between two looks at the clock.
const STEP: usize = 64;

/// `System` records: key → value, `None` = deleted.
type SystemChanges = BTreeMap<Bytes, Option<Bytes>>;

/// See the module.
pub struct RocksBase {
    pub(super) engine: RocksEngine,
    file: PathBuf,
    file_options: Options,
    /// All `System` records. Small: two a group.
    system: RwLock<BTreeMap<Bytes, Bytes>>,
    /// Those that are in [`SYSTEM_KEY`]'s record.
    changed: Mutex<SystemChanges>,
    pub(super) logged_bytes_max: usize,
}

impl RocksBase {
    /// A base over the database in `dir`, which is created when it is not there.
    pub fn open(dir: &Path) -> Result<RocksBase, OpenError> {
        let engine = RocksEngine::open(dir)?;
        let system = engine.system_records().map_err(|e| OpenError::of(dir, &e))?;
        let file = dir.join(FILE);
        remove(&file).map_err(|e| OpenError::io(&file, e))?;
        Ok(RocksBase {
            engine,
            file,
            file_options: RocksEngine::file_options(DBCompressionType::None),
            system: RwLock::new(system),
            changed: Mutex::default(),
            logged_bytes_max: LOGGED_BYTES_MAX,
        })
    }

    /// Writes the file and syncs it.
    fn write_file(
        &self,
        system: &[u8],
        groups: Vec<Sorted<'_>>,
        pace: &Pace<'_>,
    ) -> Result<(), Fatal> {
        let fatal = |e: &dyn std::fmt::Display| {
            Fatal::new(format!("write the checkpoint {}", self.file.display()), e)
        };
        // Never written over: it may be a second name of a file that the database took over.
        remove(&self.file).map_err(|e| fatal(&e))?;
        let mut writer = SstFileWriter::create(&self.file_options);
        let write = || {
            writer.open(&self.file)?;
            writer.put(SYSTEM_KEY, system)?;
            for (i, (key, value)) in groups.into_iter().flatten().enumerate() {
                match value {
                    Some(value) => writer.put(key, value)?,
                    None => writer.delete(key)?,
                }
                if i % STEP == 0 {
                    pace.step();
                }
            }
            writer.finish()
        };
        write().map_err(|e: rocksdb::Error| fatal(&e))?;
        // RocksDB's writer drops what it wrote from the system's cache. Reads will want it, and
        // until it is taken over they do not wait for it. On a busy disk it takes seconds.
        let Ok(mut file) = File::open(&self.file) else { return Ok(()) };
        // The system would read megabytes ahead at once, and syncs of the log would wait behind them. Only advice.
        let _ = fadvise(&file, 0, None, Advice::Random);
        let mut piece = vec![0; READ_BYTES];
        // An error is for whoever needs what is there; this is for speed only.
        while !pace.hurries() && file.read(&mut piece).is_ok_and(|read| read > 0) {
            pace.step();
        }
        Ok(())
    }

    /// Writes the records through RocksDB's log, durably, with what is to fold.
    fn write_logged(
        &self,
        groups: &[GroupCheckpoint<'_>],
        data: Vec<Sorted<'_>>,
    ) -> Result<(), Fatal> {
        let mut changed = self.changed.lock();
        let mut batch = WriteBatch::default();
        if !changed.is_empty() {
            fold_into(&mut batch, &self.engine, std::mem::take(&mut changed));
        }
        let (data_family, system_family) = self.engine.families();
        let system = groups.iter().map(|group| group.system.sorted(&Pace::full()));
        let data = data.into_iter().flatten().map(|record| (data_family, record));
        for (family, (key, value)) in system.flatten().map(|r| (system_family, r)).chain(data) {
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        self.engine.write_synced(batch)
    }

    /// Makes the file that the database takes over.
    fn make_file(
        &self,
        groups: &[GroupCheckpoint<'_>],
        data: Vec<Sorted<'_>>,
        pace: &Pace<'_>,
    ) -> Result<(), Fatal> {
        let mut changed = self.changed.lock();
        for group in groups {
            let copy = Bytes::copy_from_slice;
            changed.extend(
                group.system.sorted(&Pace::full()).map(|(key, value)| (copy(key), value.map(copy))),
            );
        }
        self.engine.wait_for_compactions(LEVEL_0_FILES_MAX)?;
        self.write_file(&encode(&changed), data, pace)
    }
}

impl Base for RocksBase {
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], pace: &Pace<'_>) -> Result<(), Fatal> {
        let data = in_order(groups, pace)?;
        let bytes = |group: &GroupCheckpoint<'_>| group.data.bytes() + group.system.bytes();
        if groups.iter().map(bytes).sum::<usize>() > self.logged_bytes_max {
            self.make_file(groups, data, pace)?;
            self.engine.take_over(&self.file, "add a checkpoint to the KV database")?;
        } else {
            self.write_logged(groups, data)?;
        }
        let mut system = self.system.write();
        for group in groups {
            for (key, value) in group.system.sorted(&Pace::full()) {
                match value {
                    Some(value) => {
                        system.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
                    }
                    None => system.remove(key),
                };
            }
        }
        Ok(())
    }

    fn get(&self, _group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        match column {
            Column::Data => self.engine.get_data(key),
            Column::System => Ok(self.system.read().get(key).cloned()),
        }
    }

    fn scan(
        &self,
        _group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        if column == Column::Data {
            return self.engine.scan_data(start.max(LOWEST_KEY), end, take);
        }
        let system = self.system.read();
        let from = Bytes::copy_from_slice(start);
        for (key, value) in system.range(from..) {
            if !(end.is_empty() || &key[..] < end) || !take(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        let of_group = |(key, _): &(&Bytes, &Bytes)| keys::group_of(key) == Some(group);
        let system = self.system.read();
        let system =
            system.iter().filter(of_group).map(|(key, value)| (key.clone(), value.clone()));
        Ok(Box::new(PinnedView { system: system.collect(), data: self.engine.pinned() }))
    }

    fn erase(&self, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        self.engine.erase_range(start, end)
    }

    fn ingests(&self) -> bool {
        !self.engine.is_damaged()
    }

    fn ingest(&self, records: Incoming<'_>, pace: &Pace<'_>) -> Result<(), Fatal> {
        self.engine.ingest_files(records, pace)
    }

    fn reclaim(&self, start: &[u8], end: &[u8]) -> Result<bool, Fatal> {
        self.engine.compact(start.max(LOWEST_KEY), end)
    }

    fn deleted(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        self.engine.deleted_in(ranges)
    }

    fn close(&self) {
        self.engine.cancel();
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let mut groups = Vec::new();
        for key in self.system.read().keys() {
            let Some(group) = keys::group_of(key) else {
                return Err(Fatal::new("read the system records", format!("key {key:?}")));
            };
            groups.push(group);
        }
        groups.dedup();
        Ok(groups)
    }
}

/// The database at one moment, with the group's `System` records of that moment.
struct PinnedView<'a> {
    system: BTreeMap<Bytes, Bytes>,
    data: RocksView<'a>,
}

impl View for PinnedView<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        match column {
            Column::Data => self.data.get(column, key),
            Column::System => Ok(self.system.get(key).cloned()),
        }
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        if column == Column::Data {
            return self.data.scan(column, start.max(LOWEST_KEY), end, limit, bytes_max);
        }
        let mut page = Page::new(limit, bytes_max);
        let within = |(key, _): &(&Bytes, &Bytes)| end.is_empty() || &key[..] < end;
        let mut records = self.system.range(Bytes::copy_from_slice(start)..).take_while(within);
        let more = !records.all(|(key, value)| page.push(key, value));
        Ok((page.pairs, more))
    }
}

/// The groups' data as one ascending sequence: their ranges are apart.
fn in_order<'a>(groups: &[GroupCheckpoint<'a>], pace: &Pace<'_>) -> Result<Vec<Sorted<'a>>, Fatal> {
    let sort = |group: &GroupCheckpoint<'a>| (group.data.sorted(pace), group.group);
    let mut sorted: Vec<_> = groups.iter().map(sort).collect();
    sorted.retain(|(records, _)| records.bounds().is_some());
    sorted.sort_by(|(a, _), (b, _)| a.bounds().cmp(&b.bounds()));
    for pair in sorted.windows(2) {
        let ((a, first), (b, second)) = (&pair[0], &pair[1]);
        if a.bounds().map(|(_, last)| last) >= b.bounds().map(|(first, _)| first) {
            let what = "make a checkpoint";
            return Err(Fatal::new(what, format!("keys of groups {first} and {second} overlap")));
        }
    }
    Ok(sorted.into_iter().map(|(records, _)| records).collect())
}

/// Moves the `System` records of the last checkpoint into their own column family, durably.
pub(super) fn fold(engine: &RocksEngine, dir: &Path) -> Result<(), OpenError> {
    let Some(record) = engine.get_data(SYSTEM_KEY).map_err(|e| OpenError::of(dir, &e))? else {
        return Ok(());
    };
    let Some(changes) = decode(record) else {
        return Err(OpenError::damaged(dir, "the system records of its last checkpoint are cut"));
    };
    let mut batch = WriteBatch::default();
    fold_into(&mut batch, engine, changes);
    engine.write_synced(batch).map_err(|e| OpenError::io(dir, e))
}

fn fold_into(batch: &mut WriteBatch, engine: &RocksEngine, changes: SystemChanges) {
    let (data, system) = engine.families();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put_cf(system, key, value),
            None => batch.delete_cf(system, key),
        }
    }
    batch.delete_cf(data, SYSTEM_KEY);
}

/// What `take_over` asks for.
pub(super) fn ingest_options() -> IngestExternalFileOptions {
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    options
}

/// A file that may be there.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn encode(changes: &SystemChanges) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (key, value) in changes {
        let length = value.as_ref().map_or(DELETED, |value| value.len() as u32);
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    out
}

/// `None`: not whole, or of another version.
fn decode(mut bytes: Bytes) -> Option<SystemChanges> {
    let mut changes = SystemChanges::new();
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    while bytes.has_remaining() {
        let key = bytes.try_get_u32_le().ok()?;
        let value = bytes.try_get_u32_le().ok()?;
        let mut cut =
            |length: u32| (bytes.len() >= length as usize).then(|| bytes.split_to(length as usize));
        let key = cut(key)?;
        let value = if value == DELETED { None } else { Some(cut(value)?) };
        changes.insert(key, value);
    }
    Some(changes)
}

#[cfg(test)]
#[path = "checkpoint_test.rs"]
mod tests;
