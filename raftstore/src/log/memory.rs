//! A log in memory: for unit tests and simulated disks. Durable in name only.
//!
//! It passes the same contract tests as the one on disk, and can be told to fail or to lose an
//! entry, so that the code above it can be tested against both.

use super::extent::Extent;
use super::fence::Fenced;
use super::groups::installing;
use super::{GroupLog, GroupWrite, LogStore};
use crate::error::{Fatal, LogError};
use crate::snapshot::SnapshotId;
use crate::types::{EntryKind, GroupId, GroupRecord, HardState, LogEntry};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A [`LogStore`] in memory, for tests: it can be told to fail or to lose an entry.
#[derive(Default)]
pub struct MemoryLog {
    state: Mutex<Fenced<State>>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<GroupId, Group>,
    failure: Option<String>,
}

struct Group {
    record: GroupRecord,
    hard_state: HardState,
    installing: Option<SnapshotId>,
    extent: Extent,
    entries: BTreeMap<u64, LogEntry>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(MemoryLog::default())
    }

    /// Makes the next write fail with `reason`; every later one is then refused.
    pub fn fail_next_write(&self, reason: &str) {
        self.state.lock().inner.failure = Some(reason.to_owned());
    }

    /// Loses one entry, as damage would.
    pub fn lose_entry(&self, group: GroupId, index: u64) {
        if let Some(group) = self.state.lock().inner.groups.get_mut(&group) {
            group.entries.remove(&index);
        }
    }
}

impl State {
    /// Judges every part before anything changes: the write is atomic.
    fn write(&mut self, writes: &[GroupWrite]) -> Result<(), String> {
        if let Some(reason) = self.failure.take() {
            return Err(reason);
        }
        for (at, write) in writes.iter().enumerate() {
            let group = write.group;
            if writes[..at].iter().any(|other| other.group == group) {
                return Err(format!("group {group} is twice in one write"));
            }
            let fits = match (self.groups.get(&group), &write.record) {
                (None, None) => return Err(format!("group {group} is not created")),
                (Some(old), Some(new)) if !old.record.may_become(new) => {
                    return Err(format!("group {group} exists with another record"));
                }
                (_, Some(new)) if new.removed && !write.is_tombstone() => {
                    return Err(format!("group {group}: a tombstone comes alone"));
                }
                (Some(old), _) => old.extent.plan(write),
                (None, Some(_)) => Extent::default().plan(write),
            };
            fits.map_err(|reason| format!("group {group}: {reason}"))?;
        }
        for write in writes {
            self.groups
                .entry(write.group)
                .or_insert_with(|| Group {
                    record: write.record.clone().expect("a new group has a record, checked above"),
                    hard_state: HardState::default(),
                    installing: None,
                    extent: Extent::default(),
                    entries: BTreeMap::new(),
                })
                .apply(write);
        }
        Ok(())
    }
}

impl Group {
    fn apply(&mut self, write: &GroupWrite) {
        if let Some(record) = &write.record {
            self.record = record.clone();
            if record.removed {
                self.hard_state = HardState::default();
                self.installing = None;
                self.entries.clear();
                return self.extent.clear();
            }
        }
        let plan = self.extent.plan(write).expect("the write fits, checked before");
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.installing = installing(write, self.installing);
        for entry in &write.append {
            self.entries.insert(entry.index, entry.clone());
        }
        for index in plan.stale.clone().chain(plan.removed.clone()) {
            self.entries.remove(&index);
        }
        self.extent.shrink(&plan);
        self.extent.extend(&write.append);
    }

    fn load(&self, group: GroupId) -> GroupLog {
        let truncated = self.extent.truncated();
        let mut log = GroupLog {
            group,
            record: self.record.clone(),
            hard_state: self.hard_state,
            truncated,
            last_index: truncated.index,
            terms: Vec::new(),
            memberships: Vec::new(),
            installing: self.installing,
            damage: None,
        };
        for index in truncated.index + 1..=self.extent.last_index() {
            let Some(entry) = self.entries.get(&index) else {
                log.damage = Some(format!("entry {index} is missing"));
                return log;
            };
            if log.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                log.terms.push((index, entry.term));
            }
            if entry.kind == EntryKind::Membership {
                log.memberships.push(index);
            }
            log.last_index = index;
        }
        log
    }
}

impl LogStore for MemoryLog {
    fn load(&self) -> Result<Vec<GroupLog>, LogError> {
        let state = &self.state.lock().inner;
        Ok(state.groups.iter().map(|(id, group)| group.load(*id)).collect())
    }

    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal> {
        self.state.lock().write(|state| state.write(writes))
    }

    fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        let state = &self.state.lock().inner;
        let damaged = |reason: String| LogError::Damaged { group, reason };
        let held = state.groups.get(&group).ok_or_else(|| damaged("not in this log".to_owned()))?;
        held.extent.readable(group, low, high)?;
        let mut bytes = 0;
        for index in low..high {
            let entry = held
                .entries
                .get(&index)
                .ok_or_else(|| damaged(format!("entry {index} is missing")))?;
            out.push(entry.clone());
            bytes += entry.data.len();
            if bytes > bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn group_bytes(&self, group: GroupId) -> u64 {
        self.state.lock().inner.groups.get(&group).map_or(0, |group| group.extent.bytes())
    }

    fn live_bytes(&self) -> u64 {
        self.state.lock().inner.groups.values().map(|group| group.extent.bytes()).sum()
    }
}
