//! One RocksDB for all groups: column families `data` and `system`.
//!
//! Its write-ahead log is on and not synced: `sync` does that. After a crash the log is read up
//! to its first bad record (`PointInTime`), which gives a prefix of the writes; each write holds
//! a group's data and applied state together, so the Raft log replays the rest.
//!
//! Under a table (`checkpoint.rs`) nothing goes through that log: the database takes over whole
//! files.
//!
//! What RocksDB finds damaged is noted in the file `DAMAGED` beside its own: the next start leaves
//! out the groups that it is in and rewrites the others (`crate::kv::salvage`), before a
//! compaction meets it. The present data are in the column family that the record `data` of the
//! default one names, or in `data`.

use super::table::{Lull, Pace};
use super::{
    Column, Deleted, Engine, GroupChanges, Incoming, KeyRange, OpenError, Page, Pair, View,
    checkpoint, erase_by_reading, ingest, ingest_by_writing,
};
use crate::kv::command::KEY_BYTES_MAX;
use crate::kv::keys;
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRecoveryMode, ErrorKind, LiveFile, LogLevel, Options, ReadOptions,
    Snapshot, WriteBatch, WriteOptions,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The first name of the data's family; a rewrite gives it another one that begins so.
const DATA: &str = "data";
/// In the default column family: the present name of the data's family.
const DATA_KEY: &[u8] = b"data";
/// Says what is damaged.
const DAMAGED: &str = "DAMAGED";
/// Above every key that a user can have.
const BEYOND: [u8; KEY_BYTES_MAX + 1] = [0xff; KEY_BYTES_MAX + 1];
const LEVEL_0_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Compactions that failed, and did nothing for so long, have ended for good.
const LEVEL_0_PATIENCE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "system";
const DEFAULT: &str = "default";
/// In the default column family: the version of everything else.
const FORMAT_KEY: &[u8] = b"format";
/// 2: system records may be in a checkpoint's record.
const FORMAT: u32 = 2;
/// The data are in another family than `data`; written by a rewrite only, so that older versions open all
/// others.
const FORMAT_REWRITTEN: u32 = 3;

/// See the module.
pub struct RocksEngine {
    db: DB,
    dir: PathBuf,
    cache: Cache,
    /// The data's family.
    data: String,
    /// Damage was noted in this run.
    noted: AtomicBool,
    /// No compaction goes on.
    cancelled: AtomicBool,
    /// Held while records are ingested: one region at a time.
    pub(super) ingest: Mutex<ingest::Files>,
}

impl RocksEngine {
    /// Opens the database in `dir`, which is created when it is not there.
    pub fn open(dir: &Path) -> Result<RocksEngine, OpenError> {
        std::fs::create_dir_all(dir).map_err(|e| OpenError::io(dir, e))?;
        let options = db_options().map_err(|e| open_error(dir, e))?;
        // A newer version may have more column families; all must be named to get at the format.
        let mut names = vec![DEFAULT.to_owned(), SYSTEM.to_owned()];
        if dir.join("CURRENT").exists() {
            let found = DB::list_cf(&options, dir).map_err(|e| open_error(dir, e))?;
            names.extend(found.into_iter().filter(|n| ![DEFAULT, SYSTEM].contains(&&**n)));
        }
        if !names.iter().any(|name| is_data(name)) {
            names.push(DATA.to_owned());
        }
        // Four parts. The LRU cache has 64, and what is larger than one of those is never kept: the filter of a
        // file of two million records, which every get then reads and checks again.
        let cache = Cache::new_hyper_clock_cache(BLOCK_CACHE_BYTES, 0);
        // A compaction that meets the damage would end all writes before it is left out.
        let damaged = Self::damage(dir).is_some();
        let families = names.iter().map(|name| {
            let mut options = family_options(name, &cache);
            options.set_disable_auto_compactions(damaged);
            ColumnFamilyDescriptor::new(name, options)
        });
        let mut db =
            DB::open_cf_descriptors(&options, dir, families).map_err(|e| open_error(dir, e))?;
        check_format(&db, dir)?;
        let data = db.get(DATA_KEY).map_err(|e| open_error(dir, e))?;
        let data = data.map_or(DATA.to_owned(), |name| String::from_utf8_lossy(&name).into_owned());
        if db.cf_handle(&data).is_none() {
            return Err(OpenError::damaged(dir, format!("its column family {data} is missing")));
        }
        // Of a rewrite that was cut off, or that ended without deleting what it replaced.
        for name in names.iter().filter(|name| is_data(name) && **name != data) {
            db.drop_cf(name).map_err(|e| open_error(dir, e))?;
        }
        let (noted, cancelled) = Default::default();
        let ingest = Mutex::new(ingest::Files::new(dir).map_err(|e| OpenError::io(dir, e))?);
        let dir = dir.to_owned();
        let engine = RocksEngine { db, dir, cache, data, noted, cancelled, ingest };
        checkpoint::fold(&engine, &engine.dir)?;
        Ok(engine)
    }

    /// What an earlier run found damaged, in RocksDB's words.
    pub fn damage(dir: &Path) -> Option<String> {
        std::fs::read_to_string(dir.join(DAMAGED)).ok()
    }

    /// An error while the data were read or written. What is damaged is noted for the next start.
    fn failed(&self, what: &str, error: &rocksdb::Error) -> Fatal {
        if !is_damage(error) {
            return Fatal::new(what, error);
        }
        if !self.noted.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the KV database is damaged");
            // Without the note a compaction finds it again, and the next start has it then.
            if let Err(error) = std::fs::write(self.dir.join(DAMAGED), error.to_string()) {
                tracing::error!(%error, "the damage was not noted");
            }
        }
        Fatal::damage(what, error)
    }

    /// Damage was found in this run. Until the next start, fewer files mean fewer compactions that may meet it.
    pub(super) fn is_damaged(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// The same for a write: it fails because of a damage that a compaction or a flush has met, which may
    /// be in anybody's records.
    fn write_failed(&self, what: &str, error: &rocksdb::Error) -> Fatal {
        let fatal = self.failed(what, error);
        if !fatal.damage {
            return fatal;
        }
        let reason = format!(
            "{}: a compaction has met damaged records: the next start leaves out the regions that they \
             are in, and their groups rebuild these",
            fatal.reason
        );
        Fatal::new(what, reason)
    }

    /// Copies the records of `ranges`, ascending, into a new column family that takes the place of the
    /// data's: all else is gone, damaged or not. A crash in the middle leaves everything as it
    /// was.
    pub fn rewrite(&mut self, ranges: &[(Bytes, Bytes)]) -> Result<(), Fatal> {
        const WHAT: &str = "rewrite the KV database";
        let fatal = |e: rocksdb::Error| Fatal::new(WHAT, e);
        let number: u64 = self.data[DATA.len()..].parse().unwrap_or(0);
        let next = format!("{DATA}{}", number + 1);
        self.db.create_cf(&next, &family_options(&next, &self.cache)).map_err(fatal)?;
        let to = self.db.cf_handle(&next).expect("it was just created");
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let (mut batch, mut failure) = (WriteBatch::default(), None);
        for (start, end) in ranges {
            let start = (&start[..]).max(checkpoint::LOWEST_KEY);
            self.scan(Column::Data, up_to(end), start, &mut |key, value| {
                batch.put_cf(to, key, value);
                if batch.size_in_bytes() >= REWRITE_BYTES {
                    failure = self.db.write_opt(std::mem::take(&mut batch), &options).err();
                }
                failure.is_none()
            })?;
            if let Some(error) = failure.take() {
                return Err(fatal(error));
            }
        }
        self.db.write_opt(batch, &options).map_err(fatal)?;
        self.db.flush_cf(to).map_err(fatal)?;
        let mut switch = WriteBatch::default();
        switch.put(FORMAT_KEY, FORMAT_REWRITTEN.to_string());
        switch.put(DATA_KEY, &next);
        self.write_synced(switch)?;
        let old = std::mem::replace(&mut self.data, next);
        self.db.drop_cf(&old).map_err(fatal)?;
        match std::fs::remove_file(self.dir.join(DAMAGED)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Fatal::new(WHAT, e)),
            _ => Ok(()),
        }
    }

    /// Reads all records of `[start, end)` in `data`; how many bytes they are.
    pub fn read_through(&self, start: &[u8], end: &[u8]) -> Result<u64, Fatal> {
        let mut bytes = 0;
        self.scan_data(start, end, &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            true
        })?;
        Ok(bytes)
    }

    /// Deletes the records of `[start, end)` without reading them, durably.
    pub(super) fn erase_range(&self, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        let end = if end.is_empty() { &BEYOND[..] } else { end };
        let mut batch = WriteBatch::default();
        let start = start.max(checkpoint::LOWEST_KEY);
        batch.delete_range_cf(self.family(Column::Data), start, end);
        self.write_synced(batch)
    }

    /// Compacts the records of `[start, end)` down to the last level, where deletes leave nothing; `false`
    /// when that failed or was cancelled.
    pub(super) fn compact(&self, start: &[u8], end: &[u8]) -> Result<bool, Fatal> {
        // RocksDB's C interface does not say how it went.
        let failures = || self.data_property("rocksdb.background-errors");
        let before = failures()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let end = (!end.is_empty()).then_some(end);
        self.db.compact_range_cf_opt(self.family(Column::Data), Some(start), end, &options);
        Ok(failures()? == before && !self.cancelled.load(Ordering::Relaxed))
    }

    /// Ends compactions, now and for good. Nothing is to be written afterwards.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.db.cancel_all_background_work(false);
    }

    /// By the figures of the files, which RocksDB reads little by little. What of a file is in which of the
    /// ranges that it overlaps is not known: each gets an equal part.
    pub(super) fn deleted_in(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        Ok(self.files_of(ranges)?.iter().map(Files::deleted).collect())
    }

    /// Bytes that the files have of `ranges`, ascending, as they are on the disk.
    pub fn file_bytes(&self, ranges: &[KeyRange]) -> Result<u64, Fatal> {
        Ok(self.files_of(ranges)?.iter().map(|files| files.bytes).sum())
    }

    fn files_of(&self, ranges: &[KeyRange]) -> Result<Vec<Files>, Fatal> {
        let files =
            self.db.live_files().map_err(|e| Fatal::new("list the KV database's files", e))?;
        let mut found = vec![Files::default(); ranges.len()];
        for file in files.iter().filter(|file| file.column_family_name == self.data) {
            let (Some(first), Some(last)) = (&file.start_key, &file.end_key) else { continue };
            // The range that ends behind the file's first key, to the last one that begins in it.
            let from = ranges.partition_point(|(_, end)| !end.is_empty() && end[..] <= first[..]);
            let to = ranges.partition_point(|(start, _)| start[..] <= last[..]);
            let hit = found.get_mut(from..to).unwrap_or_default();
            let parts = hit.len() as u64;
            hit.iter_mut().for_each(|range| range.add(file, parts));
        }
        Ok(found)
    }

    /// The level of each file of `data`.
    #[cfg(test)]
    pub(super) fn data_levels(&self) -> Vec<i32> {
        let files = self.db.live_files().unwrap().into_iter();
        files.filter(|file| file.column_family_name == self.data).map(|file| file.level).collect()
    }

    fn family(&self, column: Column) -> &ColumnFamily {
        let (data, system) = self.families();
        match column {
            Column::Data => data,
            Column::System => system,
        }
    }

    /// `data` and `system`.
    pub(super) fn families(&self) -> (&ColumnFamily, &ColumnFamily) {
        let family = |name| self.db.cf_handle(name).expect("open names both column families");
        (family(&self.data), family(SYSTEM))
    }

    /// For files of `data` that are made outside of the database.
    pub(super) fn file_options(compression: DBCompressionType) -> Options {
        let mut options = Options::default();
        options.set_block_based_table_factory(&table_options());
        options.set_compression_type(compression);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options
    }

    /// Writes through the log and syncs it.
    pub(super) fn write_synced(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let written = self.db.write_opt(batch, &options);
        written.map_err(|e| self.write_failed("write to the KV database", &e))
    }

    /// Makes a file's records part of `data`, above all others, atomically and durably; the file
    /// is gone.
    pub(super) fn take_over(&self, file: &Path, what: &str) -> Result<(), Fatal> {
        let options = checkpoint::ingest_options();
        self.db
            .ingest_external_file_cf_opts(self.family(Column::Data), &options, vec![file])
            .map_err(|e| self.write_failed(what, &e))
    }

    /// Until there are at most `files_max` files in the first level, or no compactions any more.
    pub(super) fn wait_for_compactions(&self, files_max: u64) -> Result<(), Fatal> {
        let read = |name| self.data_property(name);
        let (mut fewest, mut idle) = (u64::MAX, Duration::ZERO);
        loop {
            let files = read("rocksdb.num-files-at-level0")?;
            if files <= files_max || self.cancelled.load(Ordering::Relaxed) {
                return Ok(());
            }
            if files < fewest {
                (fewest, idle) = (files, Duration::ZERO);
            }
            // One that has met a full disk goes on once there is room.
            if idle >= LEVEL_0_PATIENCE && read("rocksdb.background-errors")? > 0 {
                let what = "compact the KV database";
                return Err(Fatal::new(what, "it failed; its file LOG says why"));
            }
            std::thread::sleep(LEVEL_0_POLL_INTERVAL);
            idle += LEVEL_0_POLL_INTERVAL;
        }
    }

    /// A figure of `data` that RocksDB knows by `name`.
    pub(super) fn data_property(&self, name: &str) -> Result<u64, Fatal> {
        let found = self.db.property_value_cf(self.family(Column::Data), name);
        let found = found.map_err(|e| Fatal::new("ask the KV database", e))?;
        let number = found.as_deref().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| Fatal::new("ask the KV database", format!("{name} is {found:?}")))
    }

    /// Every record of `system`.
    pub(super) fn system_records(&self) -> Result<BTreeMap<Bytes, Bytes>, Fatal> {
        let mut records = BTreeMap::new();
        self.scan(Column::System, ReadOptions::default(), &[], &mut |key, value| {
            records.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            true
        })?;
        Ok(records)
    }

    /// The value of `key` in `data` right now.
    pub(super) fn get_data(&self, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.get(Column::Data, ReadOptions::default(), key)
    }

    /// Gives the records of `[start, end)` in `data`, as it is right now, to `take` until that
    /// says `false`.
    pub(super) fn scan_data(
        &self,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        self.scan(Column::Data, up_to(end), start, take)
    }

    /// Everything at this moment.
    pub(super) fn pinned(&self) -> RocksView<'_> {
        RocksView { engine: self, snapshot: self.db.snapshot() }
    }

    fn get(
        &self,
        column: Column,
        options: ReadOptions,
        key: &[u8],
    ) -> Result<Option<Bytes>, Fatal> {
        self.db
            .get_pinned_cf_opt(self.family(column), key, &options)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|e| self.failed("read from the KV database", &e))
    }

    fn scan(
        &self,
        column: Column,
        options: ReadOptions,
        start: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        // What was erased hides what is damaged below it, but not at a key that is nobody's.
        let start = match column {
            Column::Data => start.max(checkpoint::LOWEST_KEY),
            Column::System => start,
        };
        let mut records = self.db.raw_iterator_cf_opt(self.family(column), options);
        records.seek(start);
        while let Some((key, value)) = records.item() {
            if !take(key, value) {
                return Ok(());
            }
            records.next();
        }
        records.status().map_err(|e| self.failed("scan the KV database", &e))
    }
}

/// What is known of the files of a range.
#[derive(Clone, Copy, Default)]
struct Files {
    bytes: u64,
    deleted: u64,
    /// Of files of which it is known.
    live: u64,
    live_bytes: u64,
}

impl Files {
    /// One of `parts` equal parts of `file`.
    fn add(&mut self, file: &LiveFile, parts: u64) {
        let part = |whole: u64| whole.div_ceil(parts);
        let bytes = part(file.size as u64);
        self.bytes += bytes;
        self.deleted += part(file.num_deletions);
        let live = part(file.num_entries.saturating_sub(file.num_deletions));
        if live > 0 {
            self.live += live;
            self.live_bytes += bytes;
        }
    }

    fn deleted(&self) -> Deleted {
        // Files that nobody has looked into have as many records for their size as others.
        let records = u128::from(self.bytes) * u128::from(self.live);
        let live = records.checked_div(u128::from(self.live_bytes)).unwrap_or_default();
        let live = u64::try_from(live).unwrap_or(u64::MAX);
        let records = live.saturating_add(self.deleted);
        Deleted { deleted: self.deleted, records, bytes: self.bytes }
    }
}

/// Whether a column family is of data, present or former.
fn is_data(name: &str) -> bool {
    name.starts_with(DATA)
}

/// Reads that end before `end`; empty = at the end.
fn up_to(end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    if !end.is_empty() {
        options.set_iterate_upper_bound(end);
    }
    options
}

impl Engine for RocksEngine {
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        let (data, system) = (self.family(Column::Data), self.family(Column::System));
        let changes = || batch.iter().flat_map(|group| &group.changes);
        let bytes: usize = changes()
            .map(|change| 16 + change.key.len() + change.value.as_ref().map_or(0, Bytes::len))
            .sum();
        let mut write = WriteBatch::with_capacity_bytes(bytes + 16);
        for change in changes() {
            let family = match change.column {
                Column::Data => data,
                Column::System => system,
            };
            match &change.value {
                Some(value) => write.put_cf(family, &change.key, value),
                None => write.delete_cf(family, &change.key),
            }
        }
        self.db.write(write).map_err(|e| self.write_failed("write to the KV database", &e))
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.db.flush_wal(true).map_err(|e| Fatal::new("sync the KV database's log", e))
    }

    fn view(&self, _group: GroupId) -> Box<dyn View + '_> {
        Box::new(self.pinned())
    }

    fn pin(&self, _group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        Ok(Box::new(self.pinned()))
    }

    fn erase(&self, group: GroupId, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        match erase_by_reading(self, group, start, end, &mut || {}) {
            Err(fatal) if fatal.damage => self.erase_range(start, end),
            done => done,
        }
    }

    fn ingest(&self, group: GroupId, records: Incoming<'_>) -> Result<(), Fatal> {
        if self.is_damaged() {
            return ingest_by_writing(self, group, records);
        }
        self.sync()?;
        let lull = Lull::new(self.db.latest_sequence_number());
        let rest = || lull.rest(self.db.latest_sequence_number());
        self.ingest_files(records, &Pace::gentle(&rest))
    }

    fn reclaim(&self, start: &[u8], end: &[u8]) -> Result<bool, Fatal> {
        self.compact(start, end)
    }

    fn deleted(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        self.deleted_in(ranges)
    }

    fn close(&self) {
        self.cancel();
    }

    /// RocksDB slows writers down or stops them when its flushes and compactions lag.
    fn may_wait(&self) -> bool {
        ["rocksdb.is-write-stopped", "rocksdb.actual-delayed-write-rate"]
            .iter()
            .any(|name| !matches!(self.db.property_int_value(*name), Ok(None | Some(0))))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let mut groups = Vec::new();
        let mut records = self.db.raw_iterator_cf(self.family(Column::System));
        records.seek_to_first();
        while let Some(key) = records.key() {
            let Some(group) = keys::group_of(key) else {
                return Err(Fatal::new("read the system records", format!("key {key:?}")));
            };
            groups.push(group);
            let Some(next) = group.0.checked_add(1) else {
                break;
            };
            records.seek(next.to_be_bytes());
        }
        records.status().map_err(|e| self.failed("read the system records", &e))?;
        Ok(groups)
    }
}

/// The database at one moment.
pub(super) struct RocksView<'a> {
    engine: &'a RocksEngine,
    snapshot: Snapshot<'a>,
}

impl View for RocksView<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        self.engine.get(column, options, key)
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        let mut options = up_to(end);
        options.set_snapshot(&self.snapshot);
        let mut page = Page::new(limit, bytes_max);
        let mut more = false;
        self.engine.scan(column, options, start, &mut |key, value| {
            more = !page.push(key, value);
            !more
        })?;
        Ok((page.pairs, more))
    }
}

const BLOCK_CACHE_BYTES: usize = 128 << 20;
/// Small: inserting into a large memtable misses the cache. A put in batches of 100 over a million
/// keys takes 1.8 µs of CPU with 16 MiB, 2.2 with 64 MiB.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// Bytes of one write of a rewrite.
const REWRITE_BYTES: usize = 1 << 20;
/// What one compaction takes in, about; RocksDB's default.
pub(crate) const COMPACTION_BYTES_MAX: u64 = 25 * (64 << 20);
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const BYTES_PER_SYNC: u64 = 1 << 20;
/// RocksDB would give each new write-ahead file 70 MiB of the disk. On a nearly full one that is all there is.
const TAKE_NO_ROOM_AHEAD: &str = "allow_fallocate=false";
/// Of the levels that stay.
pub(super) const COMPRESSION: DBCompressionType = DBCompressionType::Lz4;

fn db_options() -> Result<Options, rocksdb::Error> {
    let mut options = Options::default().get_options_from_string(TAKE_NO_ROOM_AHEAD)?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Flushed tables of both families then show one moment, whatever became of the log.
    options.set_atomic_flush(true);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(16 * WRITE_BUFFER_BYTES as u64);
    // Write back steadily, so that a sync finds little left.
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
    options.set_max_open_files(1_024);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    Ok(options)
}

fn family_options(name: &str, cache: &Cache) -> Options {
    let mut table = table_options();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    // The first two levels are rewritten soon: compressing them costs more than it saves.
    options.set_compression_type(COMPRESSION);
    options.set_min_level_to_compress(2);
    options.set_max_compaction_bytes(COMPACTION_BYTES_MAX);
    if is_data(name) {
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(4);
    }
    options
}

fn table_options() -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    table
}

/// Reads the format record; writes it into a new database and over an older one.
fn check_format(db: &DB, dir: &Path) -> Result<(), OpenError> {
    let found = db.get(FORMAT_KEY).map_err(|e| open_error(dir, e))?;
    let found = found.map(|found| String::from_utf8_lossy(&found).into_owned());
    match found.as_deref().map(str::parse::<u32>) {
        Some(Ok(FORMAT | FORMAT_REWRITTEN)) => Ok(()),
        None | Some(Ok(1)) => {
            let mut options = WriteOptions::default();
            options.set_sync(true);
            db.put_opt(FORMAT_KEY, FORMAT.to_string(), &options).map_err(|e| open_error(dir, e))
        }
        Some(_) => Err(OpenError::NewerFormat {
            dir: dir.to_owned(),
            found: found.unwrap_or_default(),
            known: FORMAT_REWRITTEN,
        }),
    }
}

/// Whether what was read is damaged: a checksum is wrong, or the device cannot read a part of a file
/// that it was given.
fn is_damage(error: &rocksdb::Error) -> bool {
    match error.kind() {
        ErrorKind::Corruption => true,
        ErrorKind::IOError => is_unreadable(error.as_ref()),
        _ => false,
    }
}

/// The system's words for: the device cannot read it, or the file system's own checksum is wrong. Only of reads
/// of tables: after a write or a sync that failed nothing is known of what is on the disk.
fn is_unreadable(text: &str) -> bool {
    const WORDS: [&str; 4] =
        ["Input/output error", "No data available", "Structure needs cleaning", "Bad message"];
    text.contains("While pread") && WORDS.iter().any(|words| text.contains(words))
}

fn open_error(dir: &Path, error: rocksdb::Error) -> OpenError {
    let text = error.to_string();
    match error.kind() {
        _ if is_damage(&error) => OpenError::damaged(dir, text),
        ErrorKind::IOError
            if text.contains("LOCK") && text.to_lowercase().contains("lock hold")
                || text.contains("While lock file") =>
        {
            OpenError::InUse { dir: dir.to_owned() }
        }
        _ => OpenError::io(dir, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::SstFileWriter;
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
    use std::fs::DirEntry;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_fits_into_the_cache_is_read_once_however_many_records_a_file_holds() {
        const RECORDS: u64 = 2_000_000;
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(dir.path()).unwrap();
        let file = dir.path().join("records.sst");
        let options = RocksEngine::file_options(DBCompressionType::None);
        let mut writer = SstFileWriter::create(&options);
        writer.open(&file).unwrap();
        for number in 0..RECORDS {
            writer.put(number.to_be_bytes(), b"a value").unwrap();
        }
        writer.finish().unwrap();
        engine.take_over(&file, "take over the records").unwrap();

        // In a far-spread order, each block many times.
        let spread = (0..RECORDS / 10).map(|i| i * 7_919_993 % RECORDS);
        let get = |number: u64| engine.get_data(&number.to_be_bytes()).unwrap();
        assert!(spread.clone().all(|number| get(number).is_some()));
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut counts = PerfContext::default();
        counts.reset();
        assert!(spread.clone().all(|number| get(number).is_some()));
        assert!(counts.metric(PerfMetric::BlockCacheHitCount) >= RECORDS / 10);
        assert_eq!(counts.metric(PerfMetric::BlockReadCount), 0);
    }

    #[test]
    fn files_take_no_room_before_there_is_anything_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(dir.path()).unwrap();
        let mut batch = WriteBatch::default();
        batch.put_cf(engine.families().0, b"key", b"value");
        engine.write_synced(batch).unwrap();
        let taken = |entry: std::io::Result<DirEntry>| entry.unwrap().metadata().unwrap().blocks();
        let taken: u64 = std::fs::read_dir(dir.path()).unwrap().map(taken).sum();
        assert!(taken * 512 < 1 << 20, "{taken} blocks of 512 bytes");
    }

    #[test]
    fn what_a_device_cannot_read_is_damaged_and_a_failed_write_is_not() {
        let read = "IO error: While pread offset 4096 len 16389: /data/000012.sst: ";
        for words in ["Input/output error", "No data available", "Structure needs cleaning"] {
            assert!(is_unreadable(&format!("{read}{words}")), "{words}");
        }
        assert!(!is_unreadable(&format!("{read}Cannot allocate memory")));
        for what in
            ["While fdatasync", "While fsync", "While appending to file", "While open a file"]
        {
            assert!(
                !is_unreadable(&format!("IO error: {what}: /data/a: Input/output error")),
                "{what}"
            );
        }
    }
}
