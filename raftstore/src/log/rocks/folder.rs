//! How the log's RocksDB is opened.
//!
//! ```text
//! DIR/LOCK, DIR/FORMAT   see `../folder.rs`
//! DIR/db/                RocksDB
//! ```
//!
//! 1. Claim the folder.
//! 2. Unless it is new, and so without any entry: check the write-ahead files and cut a torn end
//!    ([`wal::repair`]).
//! 3. Open RocksDB; create it only in a new folder, so that a lost `db/` is an error.

use super::codec;
use crate::error::LogError;
use crate::log::LogEngine;
use crate::log::folder::{Claim, Format, RESTORE, in_use};
use crate::log::wal;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options};
use std::path::Path;

const FORMAT: Format = Format { engine: LogEngine::Rocksdb.name(), version: codec::FORMAT };
/// Every group appends at its own end: remembering that place for each (group, kind), the first
/// 9 bytes of a key, saves the search in the memtable.
const INSERT_HINTS: &str = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.9";

/// RocksDB would give each new write-ahead file 70 MiB of the disk. On a nearly full one that is all there is.
const TAKE_NO_ROOM_AHEAD: &str = "allow_fallocate=false";

/// An opened folder; the lock lives as long as this and outlives the database.
pub(super) struct Folder {
    pub db: DB,
    _claim: Claim,
}

impl Folder {
    /// Lets RocksDB merge tables from now on.
    ///
    /// Only for a log without damage: merging a damaged block fails every later write, and so
    /// would stop the whole store instead of one replica.
    pub fn start_compaction(&self) -> Result<(), LogError> {
        self.db
            .set_options(&[("disable_auto_compactions", "false")])
            .map_err(|e| LogError::Io(format!("cannot start compaction: {e}")))
    }
}

/// Opens or creates the log in `dir`.
pub(super) fn open(dir: &Path, write_buffer_bytes: usize) -> Result<Folder, LogError> {
    let mut claim = Claim::take(dir, FORMAT)?;
    let create = claim.creating;
    let path = dir.join("db");
    if !create && path.exists() {
        wal::check_manifest(&path)?;
        wal::repair(&path)?;
    }
    let db = options(create, write_buffer_bytes)
        .and_then(|options| DB::open(&options, &path))
        .map_err(|error| explain(&path, error))?;
    claim.ready()?;
    Ok(Folder { db, _claim: claim })
}

fn options(create: bool, write_buffer_bytes: usize) -> Result<Options, rocksdb::Error> {
    let settings = [INSERT_HINTS, TAKE_NO_ROOM_AHEAD].join(";");
    let mut options = Options::default().get_options_from_string(settings)?;
    options.create_if_missing(create);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Until every table was read and found whole: see `Folder::start_compaction`.
    options.set_disable_auto_compactions(true);
    // A lost write-ahead file is an error, not a shorter log.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_max_background_jobs(2);
    // One thread writes.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    // Entries are read in long runs, by followers that catch up, and never one by one.
    let mut table = BlockBasedOptions::default();
    table.set_block_size(32 << 10);
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    options.set_block_based_table_factory(&table);
    Ok(options)
}

/// RocksDB's error with what to do about it.
fn explain(path: &Path, error: rocksdb::Error) -> LogError {
    let text = error.to_string();
    if text.contains("lock file") || text.contains("lock hold by current process") {
        return in_use(path);
    }
    LogError::Io(format!(
        "cannot open {}: {text}; if files of it are lost or damaged, {RESTORE}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_take_no_room_before_there_is_anything_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path(), 64 << 20).unwrap();
        folder.db.put(b"key", b"value").unwrap();
        let files = std::fs::read_dir(dir.path().join("db")).unwrap();
        let taken: u64 = files.map(|file| file.unwrap().metadata().unwrap().blocks()).sum();
        assert!(taken * 512 < 1 << 20, "{taken} blocks of 512 bytes");
    }
}
