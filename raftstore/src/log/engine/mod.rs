//! The log in TiKV's `raft-engine`: an append-only log of all groups with an index in memory.
//!
//! ```text
//! DIR/LOCK, DIR/FORMAT   see `../folder.rs`
//! DIR/files/N.raftlog    what is appended; raft-engine's, with SPAN and spare-N of our own
//! DIR/files/N.rewrite    copies of what deleted files still held
//! ```
//!
//! 1. [`RaftEngineLog::open`] claims the folder, judges every file and cuts a torn end
//!    (`scan.rs`, `batch.rs`, `span.rs`), lets raft-engine recover in its strictest mode and
//!    checks what it found (`load.rs`).
//! 2. The log writer calls [`LogStore::write`]: all groups of the call become one `LogBatch` and
//!    one sync. Entries and key-values are in `codec.rs`. The first failed write or sync is
//!    remembered by `files.rs`; it fences the log, and nothing is written after it.
//! 3. Shards and readers call [`LogStore::entries`] at any time.
//! 4. Old files are deleted by a thread of their own (`purge.rs`).

mod batch;
mod codec;
mod files;
mod load;
mod purge;
mod scan;
mod span;

use self::codec::{Entries, Entry, RECORD, STANDING};
use self::files::Files;
use self::purge::Purger;
use self::span::Span;
use super::fence::Fenced;
use super::folder::{Claim, Format, RESTORE, io};
use super::groups::{Groups, Prepared};
use super::{GroupLog, GroupWrite, LogEngine, LogStore};
use crate::error::{Fatal, LogError};
use crate::types::{EntryKind, GroupId, LogEntry};
use parking_lot::Mutex;
use raft_engine::{Command, Config, LogBatch, ReadableSize, RecoveryMode};
use std::cell::Cell;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const FORMAT: Format = Format { engine: LogEngine::RaftEngine.name(), version: codec::FORMAT };
/// Old files are purged when there are more than so many.
const FILES_KEPT: u64 = 4;

type Engine = raft_engine::Engine<Files>;

/// Settings of a [`RaftEngineLog`].
#[derive(Clone, Debug)]
pub struct RaftEngineLogOptions {
    /// Sync every write. Without it a power cut loses acknowledged entries, and may leave
    /// a log that does not open; for measurements only. Default: true.
    pub sync: bool,
    /// Bytes of a file before the next one is begun. The log takes about nine times as much on
    /// disk beside its live entries. Smaller: more small syncs. Default: 32 MiB.
    pub file_bytes: u64,
}

impl Default for RaftEngineLogOptions {
    fn default() -> Self {
        RaftEngineLogOptions { sync: true, file_bytes: 32 << 20 }
    }
}

/// A [`LogStore`] in TiKV's `raft-engine`: one batch and one sync for all groups of a write.
///
/// Starting checks every record; what is damaged within the entries of some groups quarantines
/// them. While a group is quarantined, no file is deleted, so the log's folder grows; then all its
/// files count as live, and the limit on the log stops the writes before the disk is full.
pub struct RaftEngineLog {
    // In the order in which they end: thread, engine, lock.
    purger: Purger,
    engine: Arc<Engine>,
    files: Arc<Files>,
    options: RaftEngineLogOptions,
    /// Tells this log from others that a thread reads.
    number: u64,
    /// What the start found, until it is asked for or outdated.
    found: Mutex<Option<Vec<GroupLog>>>,
    groups: Groups,
    /// Held through a write; the log writer is the only one who takes it.
    writer: Mutex<Fenced<Writer>>,
    _claim: Claim,
}

#[derive(Default)]
struct Writer {
    batch: LogBatch,
    entries: Vec<Entry>,
    /// Bytes since the last purge.
    unpurged: u64,
}

impl RaftEngineLog {
    /// Opens the log in `dir`, or creates it in a missing or empty folder.
    ///
    /// Blocks while it reads the whole log. A damaged group is no error here, see
    /// [`GroupLog::damage`].
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder is in use, foreign, of a newer format or damaged beyond
    /// single groups; the text says what to do. Nothing is changed then.
    pub fn open(dir: &Path, options: RaftEngineLogOptions) -> Result<Arc<Self>, LogError> {
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let mut claim = Claim::take(dir, FORMAT)?;
        let path = dir.join("files");
        let mut span = prepare_files(&path, claim.creating)?;
        let tables =
            if claim.creating { scan::Tables::new() } else { scan::scan(&path, &mut span)? };
        let files = Arc::new(Files::new(&path, span).map_err(|e| io("list", &path, &e))?);
        let engine = Engine::open_with_file_system(config(&path, &options), Arc::clone(&files))
            .map_err(|error| explain(&path, &files, &error.to_string()))?;
        let engine = Arc::new(engine);
        if claim.creating {
            sync_all(&path).map_err(|e| io("sync", &path, &e))?;
        }
        let (groups, found) = Groups::new(load::load(&engine, tables)?);
        if let Some(failure) = files.failure() {
            return Err(explain(&path, &files, failure));
        }
        let purger = if found.iter().all(|log| log.damage.is_none()) {
            Purger::start(Arc::clone(&engine), Arc::clone(&files))
                .map_err(|e| LogError::Io(format!("cannot start a thread: {e}")))?
        } else {
            Purger::none()
        };
        claim.ready()?;
        Ok(Arc::new(RaftEngineLog {
            purger,
            engine,
            files,
            options,
            number: OPENED.fetch_add(1, Ordering::Relaxed),
            found: Mutex::new(Some(found)),
            groups,
            writer: Mutex::default(),
            _claim: claim,
        }))
    }

    /// Bytes of all files but the two that are being written.
    fn full_files_bytes(&self) -> u64 {
        (self.engine.get_used_size() as u64).saturating_sub(2 * self.options.file_bytes)
    }

    /// Adds the changes of all groups to the batch, in the order that the contract asks for.
    fn fill(&self, writer: &mut Writer, writes: &[GroupWrite]) -> Result<(), String> {
        let prepared = self.groups.prepare(writes)?;
        let Writer { batch, entries, .. } = writer;
        for (write, Prepared { plan, after }) in writes.iter().zip(&prepared) {
            let group = write.group;
            let said = |e: raft_engine::Error| format!("group {group}: {e}");
            if let Some(record) = &write.record {
                batch.put(group.0, RECORD.to_vec(), codec::encode_record(record)).map_err(said)?;
            }
            entries.extend(write.append.iter().map(|entry| Entry::new(group, entry.clone())));
            // Removes every index behind the appended ones, too.
            batch.add_entries::<Entries>(group.0, entries).map_err(said)?;
            entries.clear();
            if !plan.removed.is_empty() {
                let index = plan.removed.end;
                batch.add_command(group.0, Command::Compact { index });
            }
            batch.put(group.0, STANDING.to_vec(), codec::encode_standing(after)).map_err(said)?;
        }
        Ok(())
    }

    fn commit(&self, writer: &mut Writer) -> Result<(), String> {
        let written = self.engine.write(&mut writer.batch, self.options.sync);
        if let Some(failure) = self.files.failure() {
            return Err(failure.to_owned());
        }
        writer.unpurged += written.map_err(|e| e.to_string())? as u64;
        if writer.unpurged >= self.options.file_bytes {
            writer.unpurged = 0;
            self.purger.wake();
        }
        Ok(())
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
        let mut bytes = 0;
        for index in low..high {
            let found = match self.engine.get_entry::<Entries>(group.0, index) {
                Ok(found) => found.ok_or_else(|| damaged(format!("entry {index} is missing")))?,
                Err(raft_engine::Error::Io(e)) => {
                    return Err(LogError::Io(format!("cannot read group {group}: {e}")));
                }
                Err(e) => return Err(damaged(format!("entry {index}: {e}"))),
            };
            if found.group != group {
                return Err(damaged(format!("entry {index} is of group {}", found.group)));
            }
            bytes += found.entry.data.len();
            out.push(found.entry);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(())
    }

    /// Reads on a thread whose copy of the last block is of this log.
    ///
    /// raft-engine keeps that block per thread and knows it by its place in a file, not by the
    /// log: a thread that reads several logs would get one log's entries from another.
    fn on_own_thread(
        &self,
        read: impl FnOnce() -> Result<(), LogError> + Send,
    ) -> Result<(), LogError> {
        thread_local! {
            static READS: Cell<u64> = const { Cell::new(0) };
        }
        if READS.get() == 0 {
            READS.set(self.number);
        }
        if READS.get() == self.number {
            return self.files.reading(read);
        }
        let ended = std::thread::scope(|scope| scope.spawn(|| self.files.reading(read)).join());
        ended.unwrap_or_else(|_| Err(LogError::Io("a read of the log panicked".to_owned())))
    }
}

fn config(path: &Path, options: &RaftEngineLogOptions) -> Config {
    Config {
        dir: path.display().to_string(),
        recovery_mode: RecoveryMode::AbsoluteConsistency,
        recovery_read_block_size: ReadableSize::kb(256),
        // One after the other: raft-engine merges what threads recovered less strictly.
        recovery_threads: 1,
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(options.file_bytes),
        purge_threshold: ReadableSize(options.file_bytes * FILES_KEPT),
        enable_log_recycle: false,
        ..Config::default()
    }
}

/// Makes the folder of files empty, or checks it; gives the files that must be in it.
fn prepare_files(path: &Path, creating: bool) -> Result<Span, LogError> {
    if creating {
        if path.exists() {
            fs::remove_dir_all(path).map_err(|e| io("empty", path, &e))?;
        }
        fs::create_dir(path).map_err(|e| io("create", path, &e))?;
        return Ok(Span::default());
    }
    Span::read(path)
}

/// Makes all files and the folder durable.
fn sync_all(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn explain(path: &Path, files: &Files, error: &str) -> LogError {
    let text = files.failure().unwrap_or(error);
    if text.contains("another instance") {
        return super::folder::in_use(path);
    }
    LogError::Io(format!(
        "cannot open {}: {text}; if files of it are lost or damaged, {RESTORE}",
        path.display()
    ))
}

impl LogStore for RaftEngineLog {
    fn load(&self) -> Result<Vec<GroupLog>, LogError> {
        if let Some(found) = self.found.lock().take() {
            return Ok(found);
        }
        let mut groups = self.groups.describe();
        for log in groups.iter_mut().filter(|log| log.damage.is_none()) {
            let mut entries = Vec::new();
            let (low, high) = (log.truncated.index + 1, log.last_index + 1);
            log.damage = self
                .entries(log.group, low, high, usize::MAX, &mut entries)
                .err()
                .map(|error| error.to_string());
            for entry in entries {
                if entry.kind == EntryKind::Membership {
                    log.memberships.push(entry.index);
                }
                if log.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                    log.terms.push((entry.index, entry.term));
                }
            }
        }
        Ok(groups)
    }

    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal> {
        self.writer.lock().write(|writer| {
            self.found.lock().take();
            self.fill(writer, writes)?;
            self.commit(writer)?;
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
        let mut paused = false;
        loop {
            let changes = self.groups.readable(group, low, high)?;
            let out = &mut *out;
            let result = self.on_own_thread(|| {
                if paused {
                    self.purger.paused(|| self.read(group, low, high, bytes_max, out))
                } else {
                    self.read(group, low, high, bytes_max, out)
                }
            });
            if result.is_ok() {
                return result;
            }
            // A gap may come from a write that cut this log meanwhile, a failed read from a file
            // that was deleted after its last entries were copied: then look again.
            if self.groups.readable(group, low, high)? == changes && paused {
                return result;
            }
            paused = true;
            out.truncate(before);
        }
    }

    fn group_bytes(&self, group: GroupId) -> u64 {
        self.groups.group_bytes(group)
    }

    fn live_bytes(&self) -> u64 {
        let live = self.groups.live_bytes();
        // What nobody deletes takes its place on the disk, needed or not.
        if self.purger.works() { live } else { live.max(self.full_files_bytes()) }
    }
}

#[cfg(test)]
impl RaftEngineLog {
    /// Deletes one entry, and those before it, behind the log's back.
    pub(super) fn lose_entry(&self, group: GroupId, index: u64) {
        let mut batch = LogBatch::default();
        batch.add_command(group.0, Command::Compact { index: index + 1 });
        self.engine.write(&mut batch, false).unwrap();
    }

    /// Creates a group with entries and a hard state as a build of format 1 did.
    pub(super) fn write_format_1(&self, record: &crate::types::GroupRecord, write: &GroupWrite) {
        let group = record.desc.group;
        let entries: Vec<Entry> =
            write.append.iter().map(|entry| Entry::new(group, entry.clone())).collect();
        let standing = super::groups::Standing {
            hard_state: write.hard_state.unwrap_or_default(),
            last_index: write.append.last().map_or(0, |entry| entry.index),
            ..Default::default()
        };
        let mut batch = LogBatch::default();
        batch.put(group.0, RECORD.to_vec(), codec::encode_record_1(record)).unwrap();
        batch.add_entries::<Entries>(group.0, &entries).unwrap();
        batch.put(group.0, STANDING.to_vec(), codec::encode_standing(&standing)).unwrap();
        self.engine.write(&mut batch, true).unwrap();
    }

    /// Puts another value in the place of a group's record.
    fn spoil_record(&self, group: GroupId, value: &[u8]) {
        let mut batch = LogBatch::default();
        batch.put(group.0, RECORD.to_vec(), value.to_vec()).unwrap();
        self.engine.write(&mut batch, true).unwrap();
    }
}

#[cfg(test)]
mod copies_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod purge_test;
