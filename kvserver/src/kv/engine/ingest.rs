//! Sorted files of one region alone, which the database takes over: what a snapshot's load gives.
//!
//! 1. [`RocksEngine::ingest_files`] writes records to one file of limited size at a time, in short slices of
//!    work, and syncs it little by little, so that no other write to the disk waits long.
//! 2. The database takes each file over by its name. Nothing goes through its log and memtable, and the
//!    file lands as low as no other file is in its way. Where the region has no neighbours in one
//!    file, that is the last level, and no compaction follows.
//! 3. While many files wait in the first level, the next one waits: checkpoints never wait because of a load.
//!
//! The file has a name of its own, beside that of a checkpoint, since both are made at the same time. What a
//! crash leaves of it is deleted when the database is opened. Made by whoever loads a snapshot.

use super::checkpoint::{LOWEST_KEY, remove};
use super::rocks::COMPRESSION;
use super::table::Pace;
use super::{Incoming, Pair, RocksEngine};
use flotilla_raftstore::Fatal;
use rocksdb::{Options, SstFileWriter};
use std::io;
use std::path::{Path, PathBuf};

/// The file under way, in the database's folder.
const FILE: &str = "next.ingest";
/// A file as it is on the disk: as large as RocksDB's own.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// A file's records before they are compressed: the writer keeps eight bytes of memory a record.
const RECORD_BYTES_MAX: u64 = 128 << 20;
/// Bytes of records between two looks at the clock: less than a tenth of a millisecond.
const STEP_BYTES: u64 = 32 << 10;
/// Fewer than checkpoints wait for: there is room for theirs.
const LEVEL_0_FILES_MAX: u64 = 8;
const WHAT: &str = "add a snapshot's records to the KV database";

/// How files are written.
pub(super) struct Files {
    path: PathBuf,
    options: Options,
    /// [`FILE_BYTES_MAX`] and [`RECORD_BYTES_MAX`].
    pub(super) bytes_max: (u64, u64),
}

impl Files {
    /// In the folder of a database; what is there of one goes.
    pub(super) fn new(dir: &Path) -> io::Result<Files> {
        let path = dir.join(FILE);
        remove(&path)?;
        let options = RocksEngine::file_options(COMPRESSION);
        Ok(Files { path, options, bytes_max: (FILE_BYTES_MAX, RECORD_BYTES_MAX) })
    }

    /// Writes `first` and the records behind it, as many as there is room for, and syncs the file.
    fn write(&self, first: Pair, records: Incoming<'_>, pace: &Pace<'_>) -> Result<(), Fatal> {
        let fatal = |e: &dyn std::fmt::Display| {
            Fatal::new(format!("write the records of a snapshot to {}", self.path.display()), e)
        };
        // Never written over: it may be a second name of a file that the database took over.
        remove(&self.path).map_err(|e| fatal(&e))?;
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(&self.path).map_err(|e| fatal(&e))?;
        let (mut next, mut bytes, mut stepped) = (Some(first), 0, 0);
        while let Some((key, value)) = next {
            if &key[..] < LOWEST_KEY {
                return Err(fatal(&"a record has no key"));
            }
            writer.put(&key, &value).map_err(|e| fatal(&e))?;
            bytes += (key.len() + value.len()) as u64;
            if bytes - stepped >= STEP_BYTES {
                stepped = bytes;
                pace.step();
            }
            let full = bytes >= self.bytes_max.1 || writer.file_size() >= self.bytes_max.0;
            next = if full { None } else { records.next().transpose()? };
        }
        writer.finish().map_err(|e| fatal(&e))
    }
}

impl RocksEngine {
    /// Makes `records` part of `data`, above all others of their range, a file at a time; durable when it
    /// returns. An error leaves some of them.
    pub(super) fn ingest_files(&self, records: Incoming<'_>, pace: &Pace<'_>) -> Result<(), Fatal> {
        let files = self.ingest.lock();
        while let Some(first) = records.next().transpose()? {
            if let Err(fatal) = files.write(first, records, pace) {
                // It may be why the disk is full; the next open would delete it as well.
                let _ = remove(&files.path);
                return Err(fatal);
            }
            self.wait_for_compactions(LEVEL_0_FILES_MAX)?;
            self.take_over(&files.path, WHAT)?;
            pace.step();
        }
        Ok(())
    }
}
