//! What every group of a store on disk holds, in memory: both stores judge writes and reads by it.
//!
//! 1. [`Groups::prepare`] judges all parts of a write and hides what they take away.
//! 2. The store makes the write durable. The lock here is never held across that.
//! 3. [`Groups::publish`] shows what was appended.
//!
//! A reader asks [`Groups::readable`] before and, when it met a gap, after: the log may have been
//! cut meanwhile.

use super::extent::{Extent, Plan};
use super::{GroupLog, GroupWrite, Install};
use crate::error::LogError;
use crate::snapshot::SnapshotId;
use crate::types::{GroupId, GroupRecord, HardState, LogPosition};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::hash_map;

/// The groups of one store.
pub(super) struct Groups {
    held: Mutex<FxHashMap<GroupId, Box<Group>>>,
}

struct Group {
    record: GroupRecord,
    hard_state: HardState,
    installing: Option<SnapshotId>,
    extent: Extent,
    damage: Option<String>,
    /// Part of the write under way.
    writing: bool,
}

/// A group's log as found at start, and its indexes.
pub(super) struct Loaded {
    pub log: GroupLog,
    pub extent: Extent,
}

/// A write that fits, and what holds after it.
pub(super) struct Prepared {
    pub plan: Plan,
    pub after: Standing,
}

/// What a group's log is but for its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Standing {
    pub hard_state: HardState,
    pub truncated: LogPosition,
    pub last_index: u64,
    pub installing: Option<SnapshotId>,
}

impl Groups {
    /// The groups that the start found.
    pub fn new(loaded: Vec<Loaded>) -> (Self, Vec<GroupLog>) {
        let mut groups = FxHashMap::default();
        let mut found = Vec::with_capacity(loaded.len());
        for Loaded { log, extent } in loaded {
            let group = Group {
                record: log.record.clone(),
                hard_state: log.hard_state,
                installing: log.installing,
                extent,
                damage: log.damage.clone(),
                writing: false,
            };
            groups.insert(log.group, Box::new(group));
            found.push(log);
        }
        (Groups { held: Mutex::new(groups) }, found)
    }

    /// Judges every write and hides what they take away.
    pub fn prepare(&self, writes: &[GroupWrite]) -> Result<Vec<Prepared>, String> {
        let mut groups = self.held.lock();
        let mut all = Vec::with_capacity(writes.len());
        for write in writes {
            let id = write.group;
            let group = match (groups.entry(id), &write.record) {
                (hash_map::Entry::Occupied(held), record) => {
                    let held = held.into_mut();
                    if record.as_ref().is_some_and(|record| !held.record.may_become(record)) {
                        return Err(format!("group {id} exists with another record"));
                    }
                    held
                }
                (hash_map::Entry::Vacant(place), Some(record)) => place.insert(Box::new(Group {
                    record: record.clone(),
                    hard_state: HardState::default(),
                    installing: None,
                    extent: Extent::default(),
                    damage: None,
                    writing: false,
                })),
                (hash_map::Entry::Vacant(_), None) => {
                    return Err(format!("group {id} is not created"));
                }
            };
            all.push(group.prepare(write).map_err(|why| format!("group {id} {why}"))?);
        }
        Ok(all)
    }

    /// Shows what is durable now.
    pub fn publish(&self, writes: &[GroupWrite]) {
        let mut groups = self.held.lock();
        for write in writes {
            let group = groups.get_mut(&write.group).expect("a prepared group exists");
            group.extent.extend(&write.append);
            if let Some(record) = &write.record {
                if record.removed {
                    group.hard_state = HardState::default();
                    group.installing = None;
                    group.damage = None;
                }
                group.record = record.clone();
            }
            group.hard_state = write.hard_state.unwrap_or(group.hard_state);
            group.installing = installing(write, group.installing);
            group.writing = false;
        }
    }

    /// Checks that the range can be read, and tells how often the group's log was cut so far.
    pub fn readable(&self, group: GroupId, low: u64, high: u64) -> Result<u64, LogError> {
        let damaged = |reason: String| LogError::Damaged { group, reason };
        let groups = self.held.lock();
        let held = groups.get(&group).ok_or_else(|| damaged("not in this log".to_owned()))?;
        if let Some(damage) = &held.damage {
            return Err(damaged(damage.clone()));
        }
        held.extent.readable(group, low, high)?;
        Ok(held.extent.changes())
    }

    /// Bytes of one group's entries, approximately.
    pub fn group_bytes(&self, group: GroupId) -> u64 {
        self.held.lock().get(&group).map_or(0, |group| group.extent.bytes())
    }

    /// Bytes of all entries, approximately.
    pub fn live_bytes(&self) -> u64 {
        self.held.lock().values().map(|group| group.extent.bytes()).sum()
    }

    /// Every group but for the terms of its entries.
    pub fn describe(&self) -> Vec<GroupLog> {
        let groups = self.held.lock();
        let describe = |group: GroupId, held: &Group| GroupLog {
            group,
            record: held.record.clone(),
            hard_state: held.hard_state,
            truncated: held.extent.truncated(),
            last_index: held.extent.last_index(),
            terms: Vec::new(),
            memberships: Vec::new(),
            installing: held.installing,
            damage: held.damage.clone(),
        };
        let mut all: Vec<GroupLog> =
            groups.iter().map(|(group, held)| describe(*group, held)).collect();
        all.sort_by_key(|log| log.group);
        all
    }
}

/// The install that is under way after `write`.
pub(super) fn installing(write: &GroupWrite, before: Option<SnapshotId>) -> Option<SnapshotId> {
    match write.install {
        None => before,
        Some(Install::Begin(_, id)) => Some(id),
        Some(Install::Done) => None,
    }
}

impl Group {
    fn prepare(&mut self, write: &GroupWrite) -> Result<Prepared, String> {
        if self.writing {
            return Err("is twice in one write".to_owned());
        }
        if let Some(damage) = self.damage.as_ref().filter(|_| !write.is_tombstone()) {
            return Err(format!("is quarantined: {damage}"));
        }
        if write.record.as_ref().is_some_and(|record| record.removed) {
            if !write.is_tombstone() {
                return Err("refuses it: a tombstone comes alone".to_owned());
            }
            let plan = self.extent.plan_clear();
            self.extent.clear();
            self.writing = true;
            return Ok(Prepared { plan, after: Standing::default() });
        }
        let plan = self.extent.plan(write).map_err(|why| format!("refuses it: {why}"))?;
        self.extent.shrink(&plan);
        self.writing = true;
        let appended = write.append.last().map_or(0, |entry| entry.index);
        let after = Standing {
            hard_state: write.hard_state.unwrap_or(self.hard_state),
            truncated: self.extent.truncated(),
            last_index: self.extent.last_index().max(appended),
            installing: installing(write, self.installing),
        };
        Ok(Prepared { plan, after })
    }
}
