//! The log's folder: who may use it, what it holds, how its RocksDB is opened.
//!
//! ```text
//! DIR/LOCK     held by the process that uses the folder
//! DIR/FORMAT   one line: flotilla-raft-log ENGINE VERSION STATE
//! DIR/db/      RocksDB
//! ```
//!
//! 1. Take the lock: everything below may change files.
//! 2. Read FORMAT. None: the folder must be empty, and becomes ours with the state `creating`.
//!    Another engine, a newer version: refused before anything is touched.
//! 3. Unless it is `creating`, and so without any entry: check the write-ahead files and cut a
//!    torn end ([`wal::repair`]).
//! 4. Open RocksDB; create it only in the state `creating`, so that a lost `db/` is an error and
//!    not a fresh, empty log.
//! 5. Write the state `ready`.

use super::codec::FORMAT;
use crate::error::LogError;
use crate::log::wal;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "flotilla-raft-log";
const ENGINE: &str = "rocksdb";
const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
/// Every group appends at its own end: remembering that place for each (group, kind), the first
/// 9 bytes of a key, saves the search in the memtable.
const INSERT_HINTS: &str = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.9";
const FORMAT_NEW_FILE: &str = "FORMAT.new";

/// An opened folder; the lock lives as long as this and outlives the database.
pub(super) struct Folder {
    pub db: DB,
    _lock: File,
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
    fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
    let lock = lock(dir)?;
    let create = match read_format(dir)? {
        Some(state) => state == State::Creating,
        None => {
            refuse_foreign(dir)?;
            write_format(dir, State::Creating)?;
            true
        }
    };
    let path = dir.join("db");
    if !create && path.exists() {
        wal::check_manifest(&path)?;
        wal::repair(&path)?;
    }
    let db = options(create, write_buffer_bytes)
        .and_then(|options| DB::open(&options, &path))
        .map_err(|error| explain(&path, error))?;
    if create {
        write_format(dir, State::Ready)?;
    }
    Ok(Folder { db, _lock: lock })
}

fn options(create: bool, write_buffer_bytes: usize) -> Result<Options, rocksdb::Error> {
    let mut options = Options::default().get_options_from_string(INSERT_HINTS)?;
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

/// Takes the folder's lock, or says that another process has it.
fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io("write to", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(e)) => Err(io("lock", &path, &e)),
    }
}

fn in_use(dir: &Path) -> LogError {
    LogError::Io(format!(
        "the log folder {} is in use by another process: stop it, or choose another folder",
        dir.display()
    ))
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Creating,
    Ready,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Ready => "ready",
        }
    }
}

/// What FORMAT says; `None` without such a file.
fn read_format(dir: &Path) -> Result<Option<State>, LogError> {
    let path = dir.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("read", &path, &e)),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let [NAME, engine, version, state] = words[..] else {
        return Err(refused(&path, &format!("it is not a {NAME} line: {:?}", text.trim_end())));
    };
    let Ok(version) = version.parse::<u32>() else {
        return Err(refused(&path, &format!("its version {version:?} is not a number")));
    };
    if engine != ENGINE {
        return Err(refused(&path, &format!("it holds the engine {engine}, not {ENGINE}")));
    }
    if version > FORMAT {
        let why = format!(
            "it has the newer format {version}, and this build reads up to format {FORMAT}; use \
             the newer build"
        );
        return Err(refused(&path, &why));
    }
    match [State::Creating, State::Ready].into_iter().find(|known| known.word() == state) {
        Some(state) => Ok(Some(state)),
        None => Err(refused(&path, &format!("its state {state:?} is unknown"))),
    }
}

fn write_format(dir: &Path, state: State) -> Result<(), LogError> {
    let new = dir.join(FORMAT_NEW_FILE);
    let line = format!("{NAME} {ENGINE} {FORMAT} {}\n", state.word());
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FORMAT_FILE))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e: std::io::Error| io("write", &new, &e))
}

/// A folder without FORMAT must hold nothing but what an interrupted start left.
fn refuse_foreign(dir: &Path) -> Result<(), LogError> {
    for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
        let name = entry.map_err(|e| io("list", dir, &e))?.file_name();
        if name != LOCK_FILE && name != FORMAT_NEW_FILE {
            let why = format!(
                "it holds {} but no {FORMAT_FILE} file, so it is not a log folder; choose an \
                 empty one",
                PathBuf::from(name).display()
            );
            return Err(refused(dir, &why));
        }
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> LogError {
    LogError::Io(format!("{} is refused: {why}", path.display()))
}

/// RocksDB's error with what to do about it.
fn explain(path: &Path, error: rocksdb::Error) -> LogError {
    let text = error.to_string();
    if text.contains("lock file") || text.contains("lock hold by current process") {
        return in_use(path);
    }
    LogError::Io(format!(
        "cannot open {}: {text}; if files of it are lost or damaged, remove this store's folder \
         and let the cluster rebuild it",
        path.display()
    ))
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> LogError {
    LogError::Io(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
#[path = "folder_test.rs"]
mod tests;
