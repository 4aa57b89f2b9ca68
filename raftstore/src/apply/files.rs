//! A state in memory, kept in files: one a group, written whole at each sync.
//!
//! ```text
//! DIR/group-ID    format u8 = 1, group, applied index, applied term, commit index, commit term u64,
//!                 then what the state machine saves, then the CRC-32C of all before u32
//! ```
//!
//! Numbers are little endian. A file is written beside its place, synced and renamed into it. What is
//! applied since then is in the log.

use super::{AppliedState, GroupApply, LeaderStop, StateMachine};
use crate::error::{Error, Fatal};
use crate::members::GroupDesc;
use crate::types::{GroupId, LogPosition, ReplicaId};
use bytes::{Buf, BufMut};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + 5 * 8;
const CRC_BYTES: usize = 4;
const PREFIX: &str = "group-";

/// Makes a state machine in memory durable, by its snapshots: it needs `apply`, `snapshot_save` and
/// `snapshot_load` only, and `snapshot_save` must write what is applied *now*.
///
/// For small states: at each sync every group that has changed is written out whole, and applies wait while
/// it goes to memory. All other calls go on to the state machine inside.
pub struct StateFiles<M> {
    dir: PathBuf,
    machine: M,
    /// Held through applies, so that a save lies between two of them.
    groups: Mutex<FxHashMap<GroupId, Kept>>,
    /// One file is written or deleted at a time. Taken before `groups`.
    saving: Mutex<()>,
}

/// How far a group is.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    applied: LogPosition,
    commit: LogPosition,
    /// Its file holds the state up to here.
    saved: u64,
    /// The state may hold a part of the entry behind `applied`: it is never saved.
    failed: bool,
}

impl<M: StateMachine> StateFiles<M> {
    /// Gives `machine` the states that are kept in `dir`, which is created when it is not there. Whoever
    /// opens it must have the store's data folder for itself.
    ///
    /// A damaged file is put aside, under a name that ends in `.damaged`: its group's state is made anew
    /// from the log, or the replica is quarantined when the log is cut.
    ///
    /// # Errors
    /// The folder cannot be used, a file is of a newer format, or the state machine refuses one.
    pub fn open(dir: &Path, machine: M) -> Result<Arc<Self>, Fatal> {
        let failed = |e: io::Error| Fatal::new(format!("open the states in {}", dir.display()), e);
        fs::create_dir_all(dir).map_err(failed)?;
        let mut groups = FxHashMap::default();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(group) = group_of(&path) else { continue };
            let bytes = fs::read(&path).map_err(failed)?;
            match decode(group, &bytes) {
                Ok((kept, mut state)) => {
                    machine.snapshot_load(group, kept.applied, &mut state)?;
                    groups.insert(group, kept);
                }
                Err(Unreadable::Newer(format)) => {
                    let reason = format!(
                        "{} is of format {format}: start the newer version",
                        path.display()
                    );
                    return Err(Fatal::new("open a state", reason));
                }
                Err(Unreadable::Damaged(reason)) => {
                    tracing::error!(group = group.0, path = %path.display(), reason, "state damaged, put aside");
                    fs::rename(&path, path.with_extension("damaged")).map_err(failed)?;
                }
            }
        }
        let dir = dir.to_owned();
        let (groups, saving) = (Mutex::new(groups), Mutex::default());
        Ok(Arc::new(StateFiles { dir, machine, groups, saving }))
    }

    /// The state machine inside.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    fn path(&self, group: GroupId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{group}"))
    }

    /// Writes the group's state out, unless its file holds it. The caller holds `saving`.
    fn save(&self, group: GroupId) -> Result<(), Fatal> {
        let mut bytes = Vec::new();
        let kept = {
            let groups = self.groups.lock();
            let changed = |kept: &&Kept| kept.applied.index > kept.saved && !kept.failed;
            let Some(kept) = groups.get(&group).filter(changed) else { return Ok(()) };
            encode_head(group, kept, &mut bytes);
            let saved = self.machine.snapshot_save(group, &mut bytes)?;
            if saved != Some(kept.applied.index) {
                let reason = format!("it is of {saved:?}, applied is entry {}", kept.applied.index);
                return Err(Fatal::new(format!("save the state of group {group}"), reason));
            }
            *kept
        };
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        self.replace(group, &bytes)
            .map_err(|e| Fatal::new(format!("save the state of group {group}"), e))?;
        if let Some(now) = self.groups.lock().get_mut(&group) {
            now.saved = kept.applied.index;
        }
        Ok(())
    }

    /// A crash leaves the old or the new file, whole and durable.
    fn replace(&self, group: GroupId, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(group);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.dir)?.sync_all()
    }
}

fn group_of(path: &Path) -> Option<GroupId> {
    let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    digits.parse().ok().map(GroupId)
}

fn encode_head(group: GroupId, kept: &Kept, out: &mut Vec<u8>) {
    let Kept { applied, commit, .. } = kept;
    out.put_u8(FORMAT);
    for number in [group.0, applied.index, applied.term, commit.index, commit.term] {
        out.put_u64_le(number);
    }
}

enum Unreadable {
    Newer(u8),
    Damaged(&'static str),
}

/// How far a file's state is, and the state.
fn decode(group: GroupId, bytes: &[u8]) -> Result<(Kept, &[u8]), Unreadable> {
    let Some(rest) = bytes.len().checked_sub(CRC_BYTES).filter(|rest| *rest >= HEAD_BYTES) else {
        return Err(Unreadable::Damaged("it is cut short"));
    };
    let (content, mut crc) = bytes.split_at(rest);
    if crc.get_u32_le() != crc32c::crc32c(content) {
        return Err(Unreadable::Damaged("its checksum does not match"));
    }
    let (mut head, state) = content.split_at(HEAD_BYTES);
    match head.get_u8() {
        FORMAT => {}
        newer => return Err(Unreadable::Newer(newer)),
    }
    if head.get_u64_le() != group.0 {
        return Err(Unreadable::Damaged("it is of another group"));
    }
    let mut position = || LogPosition { index: head.get_u64_le(), term: head.get_u64_le() };
    let (applied, commit) = (position(), position());
    Ok((Kept { applied, commit, saved: applied.index, failed: false }, state))
}

impl<M: StateMachine> StateMachine for StateFiles<M> {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut groups = self.groups.lock();
        self.machine.apply(batch)?;
        for apply in &*batch {
            let kept = groups.entry(apply.group).or_default();
            kept.failed = apply.failure.is_some();
            if let Some(applied) = apply.applied() {
                (kept.applied, kept.commit) = (applied, apply.commit);
            }
        }
        Ok(())
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        self.machine.snapshot_save(group, out)
    }

    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let _one_at_a_time = self.saving.lock();
        self.groups.lock().remove(&group);
        self.machine.snapshot_load(group, position, from)?;
        let kept = Kept { applied: position, commit: position, saved: 0, failed: false };
        self.groups.lock().insert(group, kept);
        self.save(group)
    }

    fn recovered(&self, group: GroupId) -> AppliedState {
        let kept = self.groups.lock().get(&group).copied().unwrap_or_default();
        let applied = if kept.failed { kept.saved } else { kept.applied.index };
        AppliedState { applied, commit: kept.commit }
    }

    fn sync(&self) -> Result<(), Fatal> {
        let groups: Vec<GroupId> = self.groups.lock().keys().copied().collect();
        for group in groups {
            let _one_at_a_time = self.saving.lock();
            self.save(group)?;
        }
        self.machine.sync()
    }

    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        let _one_at_a_time = self.saving.lock();
        self.groups.lock().remove(&group);
        let deleted = match fs::remove_file(self.path(group)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => File::open(&self.dir).and_then(|dir| dir.sync_all()),
        };
        deleted.map_err(|e| Fatal::new(format!("delete the state of group {group}"), e))?;
        self.machine.destroy(group)
    }

    fn log_needed(&self, group: GroupId) -> u64 {
        self.machine.log_needed(group)
    }

    fn may_wait(&self) -> bool {
        self.machine.may_wait()
    }

    fn on_leader_start(&self, group: GroupId, term: u64) {
        self.machine.on_leader_start(group, term);
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.machine.on_leader_stop(group, reason);
    }

    fn on_following_start(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.machine.on_following_start(group, leader, term);
    }

    fn on_following_stop(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.machine.on_following_stop(group, leader, term);
    }

    fn on_membership(&self, group: GroupId, members: &GroupDesc) {
        self.machine.on_membership(group, members);
    }

    fn on_error(&self, group: GroupId, error: &Error) {
        self.machine.on_error(group, error);
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
