//! The cluster map as the state machine of one replicated group.
//!
//! `apply` runs on the apply thread, `sync` on the maintenance thread of `raftstore`; readers take
//! a cheap snapshot (`Arc`) from any thread. The map lives in memory and is dumped whole to one
//! checksummed file; the log replays what came after the dump.
//!
//! File `STATE`: one line `flotilla-placement-state FORMAT crc32c=HEX`, then JSON.

use crate::state::{Answer, ClusterMap, Command};
use bytes::Bytes;
use flotilla_raftstore::{
    AppliedState, Fatal, GroupApply, GroupId, LeaderStop, LogPosition, StateMachine,
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The dump's name in the data folder.
pub const FILE: &str = "STATE";
const MAGIC: &str = "flotilla-placement-state";
const FORMAT: u32 = 1;

/// Why a dump cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be read.
    #[error("{path}: {reason}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: std::io::Error,
    },
    /// It is of another format.
    #[error("{path}: format {found}, this program knows {FORMAT}: start the newer program", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its content does not match its checksum, or does not parse.
    #[error("{path}: damaged: {reason}; restore the folder from a copy", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

/// The map at a place in the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    applied: LogPosition,
    commit: LogPosition,
    map: ClusterMap,
}

/// See the module's text.
pub struct MapMachine {
    group: GroupId,
    file: PathBuf,
    current: RwLock<Arc<Snapshot>>,
    dumped: Mutex<Arc<Snapshot>>,
    leads: AtomicBool,
}

impl MapMachine {
    /// Loads the dump in `dir`, if there is one. `group` is the only group it takes.
    pub fn open(dir: &Path, group: GroupId) -> Result<Arc<Self>, DumpError> {
        let file = dir.join(FILE);
        let snapshot = Arc::new(load(&file)?);
        Ok(Arc::new(MapMachine {
            group,
            file,
            current: RwLock::new(Arc::clone(&snapshot)),
            dumped: Mutex::new(snapshot),
            leads: AtomicBool::new(false),
        }))
    }

    /// Runs `read` on the map as applied here.
    pub fn read<T>(&self, read: impl FnOnce(&ClusterMap) -> T) -> T {
        let snapshot = Arc::clone(&self.current.read());
        read(&snapshot.map)
    }

    /// Whether this member leads and has applied everything of earlier terms.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    fn apply_group(&self, batch: &mut GroupApply) -> Result<(), Fatal> {
        if batch.group != self.group {
            let reason = format!("group {}, only {} is known", batch.group, self.group);
            return Err(Fatal::new("apply a command", reason));
        }
        let mut next = Snapshot::clone(&self.current.read());
        for entry in &batch.entries {
            if entry.position.index != next.applied.index + 1 {
                let (at, last) = (entry.position.index, next.applied.index);
                return Err(Fatal::new("apply a command", format!("index {at} after {last}")));
            }
            for command in &entry.commands {
                let answer = next.map.apply(decode(command)?);
                if batch.answer {
                    batch.answers.push(encode(&answer));
                }
            }
            next.applied = entry.position;
        }
        next.commit = batch.commit;
        *self.current.write() = Arc::new(next);
        Ok(())
    }
}

impl StateMachine for MapMachine {
    fn recovered(&self, group: GroupId) -> AppliedState {
        if group != self.group {
            return AppliedState::default();
        }
        let snapshot = self.current.read();
        AppliedState { applied: snapshot.applied.index, commit: snapshot.commit }
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        batch.iter_mut().try_for_each(|group| self.apply_group(group))
    }

    fn sync(&self) -> Result<(), Fatal> {
        let snapshot = Arc::clone(&self.current.read());
        let mut dumped = self.dumped.lock();
        if dumped.applied != snapshot.applied {
            dump(&self.file, &snapshot)
                .map_err(|e| Fatal::new(format!("write {}", self.file.display()), e))?;
            *dumped = snapshot;
        }
        Ok(())
    }

    /// Placement's group has one member for life; whatever else is here is not kept apart.
    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        if group != self.group {
            return Ok(());
        }
        *self.current.write() = Arc::default();
        self.sync()
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        let snapshot = Arc::clone(&self.dumped.lock());
        if group != self.group || snapshot.applied.index == 0 {
            return Ok(None);
        }
        out.write_all(&encode(&*snapshot)).map_err(|e| Fatal::new("write a snapshot", e))?;
        Ok(Some(snapshot.applied.index))
    }

    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let fatal = |e: &dyn std::fmt::Display| Fatal::new("read a snapshot", e);
        let mut json = Vec::new();
        from.read_to_end(&mut json).map_err(|e| fatal(&e))?;
        let snapshot: Snapshot = serde_json::from_slice(&json).map_err(|e| fatal(&e))?;
        if group != self.group || snapshot.applied.index != position.index {
            return Err(fatal(&format!("it is of {:?}, not {position:?}", snapshot.applied)));
        }
        let snapshot = Snapshot { applied: position, commit: position, ..snapshot };
        *self.current.write() = Arc::new(snapshot);
        self.sync()
    }

    fn on_leader_start(&self, _group: GroupId, term: u64) {
        tracing::info!(term, "leads the placement group");
        self.leads.store(true, Ordering::Release);
    }

    fn on_leader_stop(&self, _group: GroupId, _reason: LeaderStop) {
        tracing::info!("leads the placement group no longer");
        self.leads.store(false, Ordering::Release);
    }
}

/// A command as it goes through the log.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    encode(command)
}

/// An answer as `propose` gives it.
pub fn decode_answer(answer: &[u8]) -> Result<Answer, String> {
    serde_json::from_slice(answer).map_err(|e| format!("an answer that does not parse: {e}"))
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("commands and answers have a JSON form").into()
}

/// A committed command that does not parse was written by a newer program: going on without it
/// would let members differ.
fn decode(command: &[u8]) -> Result<Command, Fatal> {
    serde_json::from_slice(command).map_err(|e| {
        Fatal::new("read a command of the log", format!("{e}; start the newer program"))
    })
}

fn load(file: &Path) -> Result<Snapshot, DumpError> {
    let path = file.to_path_buf();
    let content = match fs::read(file) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Snapshot::default()),
        Err(reason) => return Err(DumpError::Io { path, reason }),
    };
    let damaged = |reason: &str| DumpError::Damaged { path: path.clone(), reason: reason.into() };
    let end = content.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("no first line"))?;
    let (head, json) = (&content[..end], &content[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| damaged("the first line is not text"))?;
    let fields: Vec<&str> = head.split(' ').collect();
    if fields.len() < 2 || fields[0] != MAGIC {
        return Err(damaged("the first line is not a placement state's"));
    }
    let found: u32 = fields[1].parse().map_err(|_| damaged("the format is not a number"))?;
    if found != FORMAT {
        return Err(DumpError::Newer { path, found });
    }
    let sum = fields.get(2).and_then(|f| f.strip_prefix("crc32c="));
    let sum = sum.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    if sum != Some(crc32c::crc32c(json)) {
        return Err(damaged("the checksum does not match"));
    }
    serde_json::from_slice(json).map_err(|e| damaged(&e.to_string()))
}

fn dump(file: &Path, snapshot: &Snapshot) -> std::io::Result<()> {
    let json = serde_json::to_vec(snapshot)?;
    let mut content =
        format!("{MAGIC} {FORMAT} crc32c={:08x}\n", crc32c::crc32c(&json)).into_bytes();
    content.extend_from_slice(&json);
    write_atomically(file, &content)
}

/// Replaces `file` by `content`: a crash leaves the old or the new file, whole and durable.
pub(crate) fn write_atomically(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut out = File::create(&temporary)?;
    out.write_all(content)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    let dir = file.parent().expect("a file in a folder has a parent");
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
