//! The simulated log disk: a [`LogStore`] that forgets what was not synced.
//!
//! 1. [`SimLog::write`] hands a batch to the disk; nobody can read it yet.
//! 2. After some simulated time the world calls [`SimLog::complete`]: the batch is durable.
//! 3. [`SimLog::crash`] keeps some of the batches in between, in order, and forgets the others;
//!    a torn one is found by its checksum at the next start and cut off.
//!
//! A failing sync answers `Fatal` once, and every write after it is a violation. So does a write that the
//! disk has no room for.

use flotilla_raftstore::{
    EntryKind, Fatal, GroupId, GroupLog, GroupRecord, GroupWrite, HardState, Install, LogEntry,
    LogError, LogPosition, LogStore, ReplicaId, SnapshotId,
};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, VecDeque};

/// How simulated disks say that they are full.
pub const NO_SPACE: &str = "simulated: no space left on device";

/// One store's log disk; survives the crashes of its process.
#[derive(Default)]
pub struct SimLog {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    groups: BTreeMap<GroupId, DurableLog>,
    /// Handed over, not yet durable.
    pending: VecDeque<Vec<GroupWrite>>,
    fail_next: bool,
    full: bool,
    failed: bool,
    violations: Vec<String>,
}

/// One group's log as it stands on disk.
#[derive(Clone, Debug, Default)]
pub struct DurableLog {
    /// As last written.
    pub record: Option<GroupRecord>,
    /// As last written.
    pub hard_state: HardState,
    /// Last removed position.
    pub truncated: LogPosition,
    /// From `truncated.index + 1`, contiguous.
    pub entries: VecDeque<LogEntry>,
    /// The snapshot whose install began.
    pub installing: Option<SnapshotId>,
    /// Highest index that was ever here: what is above it was never durable, what is not may have been
    /// overwritten or removed since somebody asked for it.
    reached: u64,
}

impl DurableLog {
    /// Highest index held.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.truncated.index + self.entries.len() as u64
    }

    /// Position of the last entry, or of the last one removed.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        let last = self.entries.back().map(|e| LogPosition { index: e.index, term: e.term });
        last.unwrap_or(self.truncated)
    }

    fn entry(&self, index: u64) -> Option<&LogEntry> {
        let at = index.checked_sub(self.truncated.index + 1)?;
        self.entries.get(at as usize)
    }

    fn change(&mut self, write: &GroupWrite) -> Result<(), String> {
        let reached = self.reached;
        let changed = self.try_change(write);
        self.reached = reached.max(self.last_index());
        changed
    }

    fn try_change(&mut self, write: &GroupWrite) -> Result<(), String> {
        if let Some(record) = &write.record {
            if self.record.as_ref().is_some_and(|held| !held.may_become(record)) {
                let held = &self.record;
                return Err(format!("I12: the record {held:?} becomes {record:?}"));
            }
            if record.removed {
                *self = DurableLog::default();
            }
            self.record = Some(record.clone());
        }
        if let Some(new) = write.hard_state {
            let old = self.hard_state;
            if new.term < old.term {
                return Err(format!("I8: the durable term goes back: {old:?} to {new:?}"));
            }
            if new.term == old.term && old.vote != 0 && new.vote != old.vote {
                return Err(format!("I8: the vote changes within a term: {old:?} to {new:?}"));
            }
            self.hard_state = new;
        }
        match write.install {
            Some(Install::Begin(position, id)) => {
                if position.index <= self.truncated.index || !write.append.is_empty() {
                    return Err(format!("an install at {position:?} in {:?}", self.truncated));
                }
                self.entries.clear();
                self.truncated = position;
                self.installing = Some(id);
            }
            Some(Install::Done) => self.installing = None,
            None => {}
        }
        self.append(&write.append)?;
        if let Some(cut) = write.truncate {
            self.truncate(cut)?;
        }
        Ok(())
    }

    fn append(&mut self, entries: &[LogEntry]) -> Result<(), String> {
        let Some(first) = entries.first() else { return Ok(()) };
        if first.index > self.last_index() + 1 {
            let last = self.last_index();
            return Err(format!("an append at {} leaves a hole after {last}", first.index));
        }
        if first.index <= self.truncated.index {
            let cut = self.truncated.index;
            return Err(format!("an append at {} rewrites what was cut at {cut}", first.index));
        }
        if entries.iter().zip(first.index..).any(|(e, index)| e.index != index) {
            return Err(format!("an append at {} has a hole", first.index));
        }
        let keep = (first.index - self.truncated.index - 1) as usize;
        let suffix: Vec<LogEntry> = if flotilla_raftstore::mutant::active("skip_overwrite_suffix") {
            self.entries.iter().skip(keep + entries.len()).cloned().collect()
        } else {
            Vec::new()
        };
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
        self.entries.extend(suffix);
        if !self.entries.iter().map(|e| e.term).is_sorted() {
            let end = entries.len() as u64 + first.index;
            return Err(format!("I8: terms go back in the log behind the append up to {end}"));
        }
        Ok(())
    }

    fn truncate(&mut self, cut: LogPosition) -> Result<(), String> {
        if cut.index <= self.truncated.index {
            return Ok(());
        }
        match self.entry(cut.index) {
            Some(entry) if entry.term == cut.term => {}
            other => return Err(format!("a cut at {cut:?} of {other:?}")),
        }
        self.entries.drain(..(cut.index - self.truncated.index) as usize);
        self.truncated = cut;
        Ok(())
    }

    fn load(&self, group: GroupId, record: &GroupRecord) -> GroupLog {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        let is_membership = |e: &&LogEntry| e.kind == EntryKind::Membership;
        GroupLog {
            memberships: self.entries.iter().filter(is_membership).map(|e| e.index).collect(),
            group,
            record: record.clone(),
            hard_state: self.hard_state,
            truncated: self.truncated,
            last_index: self.last_index(),
            terms,
            installing: self.installing,
            damage: None,
        }
    }
}

/// What a crash did to the batches that were not yet durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashedLog {
    /// Batches that survived though nobody was told.
    pub kept: usize,
    /// Batches that are gone.
    pub lost: usize,
    /// Batches of which a part reached the disk: found by checksum, cut off.
    pub torn: usize,
}

impl SimLog {
    /// The oldest batch handed over becomes durable and visible.
    pub fn complete(&self) {
        let mut inner = self.inner.lock();
        if let Some(batch) = inner.pending.pop_front() {
            inner.make_durable(&batch);
        }
    }

    /// The next write fails at its sync.
    pub fn fail_next_sync(&self) {
        self.inner.lock().fail_next = true;
    }

    /// No failure is to come.
    pub fn mend(&self) {
        self.inner.lock().fail_next = false;
    }

    /// There is no room from now on, or there is again.
    pub fn set_full(&self, full: bool) {
        self.inner.lock().full = full;
    }

    /// Whether a write has failed since the last start.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.inner.lock().failed
    }

    /// The power goes: keeps a prefix of the pending batches, tears or forgets the next.
    pub fn crash(&self, rng: &mut SmallRng) -> CrashedLog {
        let mut inner = self.inner.lock();
        let pending = std::mem::take(&mut inner.pending);
        let kept = rng.random_range(0..=pending.len());
        let mut crashed = CrashedLog { kept, ..CrashedLog::default() };
        for (i, batch) in pending.iter().enumerate() {
            match i.cmp(&kept) {
                std::cmp::Ordering::Less => inner.make_durable(batch),
                std::cmp::Ordering::Equal if rng.random_bool(0.5) => crashed.torn += 1,
                _ => crashed.lost += 1,
            }
        }
        inner.fail_next = false;
        inner.failed = false;
        crashed
    }

    /// Looks at one group's durable log.
    pub fn with_group<T>(&self, group: GroupId, look: impl FnOnce(&DurableLog) -> T) -> Option<T> {
        self.inner.lock().groups.get(&group).map(look)
    }

    /// The living replicas, by group.
    #[must_use]
    pub fn replicas(&self) -> Vec<(GroupId, ReplicaId)> {
        let inner = self.inner.lock();
        let living = |(group, log): (&GroupId, &DurableLog)| {
            let record = log.record.as_ref().filter(|record| !record.removed)?;
            Some((*group, record.replica))
        };
        inner.groups.iter().filter_map(living).collect()
    }

    /// The groups that have a replica or its tombstone here.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let inner = self.inner.lock();
        let known = inner.groups.iter().filter(|(_, log)| log.record.is_some());
        known.map(|(group, _)| *group).collect()
    }

    /// The living replica of a group.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<ReplicaId> {
        let inner = self.inner.lock();
        let record = inner.groups.get(&group)?.record.as_ref()?;
        (!record.removed).then_some(record.replica)
    }

    /// Broken promises since the last call.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().violations)
    }
}

impl Inner {
    fn make_durable(&mut self, batch: &[GroupWrite]) {
        for write in batch {
            if let Err(why) = self.groups.entry(write.group).or_default().change(write) {
                self.violations.push(format!("group {}: {why}", write.group));
            }
        }
    }
}

impl LogStore for SimLog {
    fn load(&self) -> Result<Vec<GroupLog>, LogError> {
        let inner = self.inner.lock();
        let held = inner.groups.iter();
        Ok(held.filter_map(|(id, log)| Some(log.load(*id, log.record.as_ref()?))).collect())
    }

    fn write(&self, writes: &[GroupWrite]) -> Result<(), Fatal> {
        let mut inner = self.inner.lock();
        if inner.failed {
            inner.violations.push("I9: a write after a failed sync".into());
        }
        if inner.full {
            // What was written of it is cut off at the next start.
            inner.failed = true;
            return Err(Fatal::new("log write", NO_SPACE));
        }
        inner.pending.push_back(writes.to_vec());
        if std::mem::take(&mut inner.fail_next) {
            inner.failed = true;
            return Err(Fatal::new("log sync", "simulated input/output error"));
        }
        Ok(())
    }

    fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: usize,
        out: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        let Inner { groups, violations, .. } = &mut *inner;
        let log = groups.entry(group).or_default();
        if log.record.as_ref().is_some_and(|record| record.removed) {
            // The read of a replica that ended meanwhile.
            return Err(LogError::Damaged { group, reason: "only a tombstone is left".into() });
        }
        if low <= log.truncated.index {
            return Err(LogError::Compacted { group, truncated: log.truncated.index });
        }
        let mut bytes = 0;
        for index in low..high {
            let Some(entry) = log.entry(index) else {
                let reason = format!("no entry {index}, the last is {}", log.last_index());
                if index > log.reached {
                    violations.push(format!(
                        "I3: group {group}: an entry was asked of the disk before it was durable: \
                         {reason}"
                    ));
                }
                return Err(LogError::Damaged { group, reason });
            };
            out.push(entry.clone());
            bytes += entry.data.len();
            if bytes > bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn group_bytes(&self, group: GroupId) -> u64 {
        let inner = self.inner.lock();
        let entries = inner.groups.get(&group).into_iter().flat_map(|log| log.entries.iter());
        entries.map(|e| e.data.len() as u64 + 32).sum()
    }

    fn live_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        let entries = inner.groups.values().flat_map(|log| log.entries.iter());
        entries.map(|e| e.data.len() as u64 + 32).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rand::SeedableRng;

    const GROUP: GroupId = GroupId(7);

    fn entry(index: u64, term: u64) -> LogEntry {
        let kind = flotilla_raftstore::EntryKind::Normal;
        LogEntry { index, term, kind, data: Bytes::from_static(b"data") }
    }

    fn append(log: &SimLog, entries: &[LogEntry]) {
        let write = GroupWrite { group: GROUP, append: entries.to_vec(), ..Default::default() };
        log.write(&[write]).unwrap();
    }

    /// Three entries, of which the last two are overwritten by one.
    fn overwritten() -> SimLog {
        let log = SimLog::default();
        append(&log, &[entry(1, 1), entry(2, 1), entry(3, 1)]);
        append(&log, &[entry(2, 2)]);
        log.complete();
        log.complete();
        log
    }

    #[test]
    fn an_append_removes_the_old_suffix() {
        let log = overwritten();
        assert_eq!(log.with_group(GROUP, DurableLog::last_index), Some(2));
        assert!(log.take_violations().is_empty());
    }

    #[test]
    fn a_crash_loses_a_suffix_of_what_was_not_durable() {
        let mut lasts = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let log = SimLog::default();
            for index in 1..=4 {
                append(&log, &[entry(index, 1)]);
            }
            log.complete();
            let crashed = log.crash(&mut SmallRng::seed_from_u64(seed));
            assert_eq!(crashed.kept + crashed.lost + crashed.torn, 3);
            let last = log.with_group(GROUP, DurableLog::last_index).unwrap();
            assert_eq!(last, 1 + crashed.kept as u64);
            lasts.insert(last);
        }
        assert_eq!(lasts.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_failed_sync_is_final_until_the_restart() {
        let log = SimLog::default();
        log.fail_next_sync();
        assert!(log.write(&[]).is_err() && log.has_failed());
        let _ = log.write(&[]);
        assert_eq!(log.take_violations().len(), 1);
    }

    #[test]
    fn a_full_disk_refuses_and_the_refusal_is_final_until_the_restart() {
        let log = SimLog::default();
        log.set_full(true);
        let refused = log.write(&[]).unwrap_err();
        assert!(refused.to_string().contains(NO_SPACE) && log.has_failed());
        log.set_full(false);
        let _ = log.write(&[]);
        assert_eq!(log.take_violations().len(), 1);
        log.crash(&mut SmallRng::seed_from_u64(1));
        append(&log, &[entry(1, 1)]);
        assert!(log.take_violations().is_empty());
    }

    #[test]
    fn reading_what_was_overwritten_is_an_error_and_no_violation() {
        let log = overwritten();
        let mut out = Vec::new();
        assert!(log.entries(GROUP, 1, 4, usize::MAX, &mut out).is_err());
        assert!(log.take_violations().is_empty());
        assert!(log.entries(GROUP, 4, 5, usize::MAX, &mut out).is_err());
        assert!(log.take_violations()[0].contains("I3"), "entry 4 was never here");
    }

    #[test]
    fn reading_what_is_not_durable_is_a_violation() {
        let log = SimLog::default();
        append(&log, &[entry(1, 1)]);
        let mut out = Vec::new();
        assert!(log.entries(GROUP, 1, 2, 100, &mut out).is_err());
        assert!(log.take_violations()[0].contains("I3"));
    }
}
