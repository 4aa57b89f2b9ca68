//! The simulated engine below the real KV state machine: it loses what was not synced.
//!
//! Writes are visible at once and durable after a sync. A crash keeps, of every group on its
//! own, some prefix of its unsynced writes: harsher than one write-ahead log, and all that the
//! trait [`Engine`] promises.

use super::disk::NO_SPACE;
use bytes::Bytes;
use flotilla_kvserver::kv::engine::{Change, Column, Engine, GroupChanges, Pair, View};
use flotilla_raftstore::{Fatal, GroupId};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<(Column, Bytes), Bytes>;

/// One store's engine disk; survives the crashes of its process.
#[derive(Default)]
pub struct SimEngine {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    groups: BTreeMap<GroupId, Group>,
    /// Syncs take simulated time: `sync` only begins one, the world completes it.
    slow_sync: bool,
    fail_next: bool,
    full: bool,
    /// A write or sync has failed: the process must end.
    failed: bool,
    violations: Vec<String>,
    /// Made by a table above since somebody asked.
    checkpoints: u64,
}

/// One group's records. Writes are numbered from 1 within a group.
#[derive(Default)]
struct Group {
    durable: Map,
    visible: Arc<Map>,
    /// Written, not yet durable.
    pending: Vec<Vec<Change>>,
    /// Length of `pending` when the running sync began.
    syncing: usize,
    /// Writes that are durable.
    durable_writes: u64,
}

impl Group {
    fn make_durable(&mut self, count: usize) {
        for changes in self.pending.drain(..count) {
            change(&mut self.durable, &changes);
        }
        self.durable_writes += count as u64;
        self.syncing = self.syncing.saturating_sub(count);
    }
}

fn change(map: &mut Map, changes: &[Change]) {
    for change in changes {
        let key = (change.column, change.key.clone());
        match &change.value {
            Some(value) => map.insert(key, value.clone()),
            None => map.remove(&key),
        };
    }
}

impl SimEngine {
    /// From now on a sync lasts until [`SimEngine::complete_sync`].
    pub fn begin_slow_sync(&self) {
        self.inner.lock().slow_sync = true;
    }

    /// What was written before the running sync began is durable.
    pub fn complete_sync(&self) {
        let mut inner = self.inner.lock();
        inner.slow_sync = false;
        inner.groups.values_mut().for_each(|g| g.make_durable(g.syncing));
    }

    /// Everything of `group` is durable now, whatever sync runs.
    pub fn settle(&self, group: GroupId) {
        if let Some(group) = self.inner.lock().groups.get_mut(&group) {
            group.make_durable(group.pending.len());
        }
    }

    /// A table above makes a checkpoint.
    pub fn count_checkpoint(&self) {
        self.inner.lock().checkpoints += 1;
    }

    /// Checkpoints since the last call.
    pub fn take_checkpoints(&self) -> u64 {
        std::mem::take(&mut self.inner.lock().checkpoints)
    }

    /// The next sync fails.
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

    /// Broken promises since the last call.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().violations)
    }

    /// How many writes of `group` there were, and how many of them are durable.
    #[must_use]
    pub fn writes(&self, group: GroupId) -> (u64, u64) {
        let inner = self.inner.lock();
        inner
            .groups
            .get(&group)
            .map_or((0, 0), |g| (g.durable_writes + g.pending.len() as u64, g.durable_writes))
    }

    /// The process dies, the machine lives on: the next start finds every write and makes it
    /// durable when it opens the files.
    pub fn kill(&self) {
        let mut inner = self.inner.lock();
        inner.groups.values_mut().for_each(|g| g.make_durable(g.pending.len()));
        inner.forget_process();
    }

    /// The power goes: of each group a prefix of its unsynced writes survives. Returns how many
    /// writes are gone.
    pub fn crash(&self, rng: &mut SmallRng) -> usize {
        let mut inner = self.inner.lock();
        let mut lost = 0;
        for group in inner.groups.values_mut() {
            let kept = rng.random_range(0..=group.pending.len());
            lost += group.pending.len() - kept;
            group.make_durable(kept);
            group.pending.clear();
            group.visible = Arc::new(group.durable.clone());
        }
        inner.forget_process();
        lost
    }
}

impl Inner {
    fn forget_process(&mut self) {
        self.groups.values_mut().for_each(|g| g.syncing = 0);
        self.slow_sync = false;
        self.fail_next = false;
        self.failed = false;
    }

    /// Nothing comes behind the first failure.
    fn check_fence(&mut self) {
        if self.failed {
            self.violations.push("I9: the engine is used after it failed".into());
        }
    }

    fn fail(&mut self, what: &str, reason: &str) -> Result<(), Fatal> {
        self.failed = true;
        Err(Fatal::new(what, reason))
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        let mut inner = self.inner.lock();
        inner.check_fence();
        if inner.full {
            return inner.fail("engine write", NO_SPACE);
        }
        for changes in batch {
            let group = inner.groups.entry(changes.group).or_default();
            change(Arc::make_mut(&mut group.visible), &changes.changes);
            group.pending.push(changes.changes.clone());
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        let mut inner = self.inner.lock();
        inner.check_fence();
        if std::mem::take(&mut inner.fail_next) {
            return inner.fail("engine sync", "simulated input/output error");
        }
        let slow = inner.slow_sync;
        for group in inner.groups.values_mut() {
            group.syncing = group.pending.len();
            if !slow {
                group.make_durable(group.syncing);
            }
        }
        Ok(())
    }

    fn view(&self, group: GroupId) -> Box<dyn View + '_> {
        let inner = self.inner.lock();
        Box::new(SimView(
            inner.groups.get(&group).map(|g| Arc::clone(&g.visible)).unwrap_or_default(),
        ))
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        Ok(self.view(group))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let inner = self.inner.lock();
        let with_system = inner
            .groups
            .iter()
            .filter(|(_, group)| group.visible.keys().any(|(column, _)| *column == Column::System));
        Ok(with_system.map(|(id, _)| *id).collect())
    }
}

struct SimView(Arc<Map>);

impl View for SimView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.0.get(&(column, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        let mut range = self
            .0
            .range((column, Bytes::copy_from_slice(start))..)
            .take_while(|((c, key), _)| *c == column && (end.is_empty() || key.as_ref() < end));
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < limit && bytes < bytes_max {
            let Some(((_, key), value)) = range.next() else { return Ok((found, false)) };
            bytes += key.len() + value.len();
            found.push((key.clone(), value.clone()));
        }
        let more = range.next().is_some();
        Ok((found, more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    fn put(engine: &SimEngine, group: u64, key: &'static str) {
        let change = Change {
            column: Column::Data,
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::from_static(b"value")),
        };
        engine.write(&[GroupChanges { group: GroupId(group), changes: vec![change] }]).unwrap();
    }

    fn has(engine: &SimEngine, group: u64, key: &str) -> bool {
        engine.view(GroupId(group)).get(Column::Data, key.as_bytes()).unwrap().is_some()
    }

    #[test]
    fn a_slow_sync_covers_what_was_written_before_it_began() {
        let engine = SimEngine::default();
        put(&engine, 1, "before");
        engine.begin_slow_sync();
        engine.sync().unwrap();
        put(&engine, 2, "after");
        engine.complete_sync();
        assert_eq!((engine.writes(GroupId(1)), engine.writes(GroupId(2))), ((1, 1), (1, 0)));
        let lost = (0..20).map(|seed| engine.crash(&mut SmallRng::seed_from_u64(seed))).max();
        assert!(has(&engine, 1, "before") && lost <= Some(1));
    }

    #[test]
    fn nothing_comes_behind_the_first_failure() {
        let engine = SimEngine::default();
        engine.set_full(true);
        assert!(engine.write(&[]).unwrap_err().to_string().contains(NO_SPACE));
        engine.set_full(false);
        engine.sync().unwrap();
        assert_eq!(engine.take_violations().len(), 1);
        engine.kill();
        put(&engine, 1, "after");
        assert!(engine.take_violations().is_empty() && has(&engine, 1, "after"));
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_each_group() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..100 {
            let engine = SimEngine::default();
            for (group, key) in [(1, "a1"), (2, "b1"), (1, "a2"), (2, "b2")] {
                put(&engine, group, key);
            }
            engine.crash(&mut SmallRng::seed_from_u64(seed));
            let seen = [(1, "a1"), (1, "a2"), (2, "b1"), (2, "b2")]
                .map(|(group, key)| has(&engine, group, key));
            assert!(seen[0] >= seen[1] && seen[2] >= seen[3], "{seen:?}");
            outcomes.insert(seen);
        }
        assert_eq!(outcomes.len(), 9, "three prefixes of each of two groups");
    }
}
