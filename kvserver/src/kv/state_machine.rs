//! The replicated state machine: regions with their groups' states over one engine.
//!
//! Owned by the apply threads (one at a time per group); readers and the service share it. The
//! applied state of every group is kept in memory and written with the data, never read back
//! while running; a region's meta changes by creation, destruction and snapshots here, and by applied
//! entries that change the members.

use super::engine::{Change, Column, Engine, GroupChanges, KeyRange};
use super::garbage::{self, Garbage};
use super::record::GroupState;
use super::region::{Epoch, RegionMeta};
use super::{apply, hash, keys, snapshot};
use bytes::Bytes;
use flotilla_raftstore::{
    AppliedState, Fatal, GroupApply, GroupId, LogPosition, StateMachine, mutant,
};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The KV state machine of a store. See [`StateMachine`] for what it promises.
pub struct KvStateMachine {
    engine: Arc<dyn Engine>,
    table: RwLock<Table>,
    /// Creations, one at a time: they write and sync between check and publication.
    creation: Mutex<()>,
    /// How often a region came, went or changed.
    changes: AtomicU64,
    /// Deleted records, whose room was not given back yet.
    garbage: Mutex<Garbage>,
}

#[derive(Default)]
struct Table {
    groups: FxHashMap<GroupId, Arc<Group>>,
    /// region → its group.
    regions: FxHashMap<u64, Arc<Group>>,
    /// Start key → group. Regions do not overlap.
    by_start: BTreeMap<Bytes, GroupId>,
    /// Regions whose snapshot is being loaded: their place is taken.
    loading: FxHashMap<GroupId, RegionMeta>,
}

struct Group {
    meta: RwLock<Arc<RegionMeta>>,
    state: Mutex<GroupState>,
}

impl Group {
    fn meta(&self) -> Arc<RegionMeta> {
        self.meta.read().clone()
    }
}

impl KvStateMachine {
    /// Loads regions and applied states from the engine's `System` column.
    pub fn new(engine: Arc<dyn Engine>) -> Result<Arc<Self>, Fatal> {
        let mut table = Table::default();
        for group in engine.groups()? {
            let view = engine.view(group);
            let meta = view.get(Column::System, &keys::meta(group))?;
            let state = view.get(Column::System, &keys::state(group))?;
            let (Some(meta), Some(state)) = (meta, state) else {
                let reason = "its region or its applied state is missing";
                return Err(Fatal::new(format!("load group {group}"), reason));
            };
            let meta = RegionMeta::decode(group, &meta)?;
            table.refuse_overlap(&meta)?;
            table.insert(meta, GroupState::decode(&state)?);
        }
        let table = RwLock::new(table);
        let (creation, changes) = Default::default();
        let garbage = Mutex::new(Garbage::new(Instant::now()));
        Ok(Arc::new(KvStateMachine { engine, table, creation, changes, garbage }))
    }

    /// Creates one region, as [`Self::create_regions`] does.
    pub fn create_region(&self, meta: &RegionMeta) -> Result<(), Fatal> {
        self.create_regions(std::slice::from_ref(meta))
    }

    /// Creates empty regions; durable when it returns. Those that this store has already are left
    /// alone. Overlapping regions or a group of another region are [`Fatal`], and nothing is
    /// created. Blocks on the disk, once for all of them.
    pub fn create_regions(&self, metas: &[RegionMeta]) -> Result<(), Fatal> {
        let _one_at_a_time = self.creation.lock();
        let new: Vec<&RegionMeta> = {
            let table = self.table.read();
            let known = |meta: &RegionMeta| {
                table.meta(meta.group).is_some_and(|known| known.region == meta.region)
            };
            metas.iter().filter(|meta| !known(meta)).collect()
        };
        let mut together = Table::default();
        for meta in &new {
            self.table.read().refuse_overlap(meta)?;
            together.refuse_overlap(meta)?;
            together.insert((*meta).clone(), GroupState::default());
        }
        if new.is_empty() {
            return Ok(());
        }
        let state = |meta: &RegionMeta| GroupState { epoch: meta.epoch, ..GroupState::default() };
        let regions: Vec<_> = new.into_iter().map(|meta| (meta, state(meta))).collect();
        self.write_regions(&regions)?;
        self.engine.sync()?;
        self.change(|table| {
            regions.into_iter().for_each(|(meta, state)| table.insert(meta.clone(), state));
        });
        Ok(())
    }

    /// Deletes a region with all its records, durably: the records first, so that a region that is
    /// gone has left nothing behind. Again after a crash in the middle.
    fn destroy_region(&self, meta: &RegionMeta) -> Result<(), Fatal> {
        self.delete_records(meta)?;
        let system = [keys::state(meta.group), keys::meta(meta.group)];
        let delete = |key| Change { column: Column::System, key, value: None };
        let changes = system.map(delete).into();
        self.engine.write(&[GroupChanges { group: meta.group, changes }])?;
        self.engine.sync()
    }

    fn delete_records(&self, meta: &RegionMeta) -> Result<(), Fatal> {
        // They are in files soon, and known there.
        self.garbage.lock().forget(meta.group);
        self.engine.erase(meta.group, &meta.start, &meta.end)
    }

    /// Gives the room of deleted records back to the file system, of one range a call, if it is worth while
    /// now and what stays takes at most `room` bytes; whether that was done. Blocks on the disk, for long
    /// with a large region.
    pub fn reclaim(&self, room: u64, now: Instant) -> Result<bool, Fatal> {
        let ranges = garbage::cover(&self.regions());
        let keys: Vec<KeyRange> = ranges.iter().map(|(_, range)| range.clone()).collect();
        let found = self.engine.deleted(&keys)?;
        let Some(due) = self.garbage.lock().due(&ranges, &found, room, now) else {
            return Ok(false);
        };
        let (start, end) = due.range.clone();
        tracing::info!(?start, ?end, "the room of deleted records is given back");
        // What is deleted in memory only takes its room on the disk still.
        self.engine.sync()?;
        let begun = Instant::now();
        let whole = self.engine.reclaim(&start, &end)?;
        self.garbage.lock().rewritten(due, whole, now + begun.elapsed());
        Ok(whole)
    }

    /// The process is about to end: see [`Engine::close`].
    pub fn close(&self) {
        self.engine.close();
    }

    /// Writes each region with its state in one; nobody sees them yet.
    fn write_regions(&self, regions: &[(&RegionMeta, GroupState)]) -> Result<(), Fatal> {
        let system = |key, value| Change { column: Column::System, key, value: Some(value) };
        let changes = |(meta, state): &(&RegionMeta, GroupState)| GroupChanges {
            group: meta.group,
            changes: vec![
                system(keys::meta(meta.group), meta.encode()),
                system(keys::state(meta.group), state.encode()),
            ],
        };
        self.engine.write(&regions.iter().map(changes).collect::<Vec<_>>())
    }

    /// The region as the engine has it, shown or not.
    fn stored(&self, group: GroupId) -> Result<Option<RegionMeta>, Fatal> {
        let text = self.engine.view(group).get(Column::System, &keys::meta(group))?;
        text.map(|text| RegionMeta::decode(group, &text)).transpose()
    }

    /// Every region of this store, also one that a snapshot is just bringing, ascending by start
    /// key.
    #[must_use]
    pub fn regions(&self) -> Vec<RegionMeta> {
        let table = self.table.read();
        table.by_start.values().filter_map(|group| table.meta(*group)).collect()
    }

    /// Group, id and epoch of each of [`Self::regions`], in no order: cheaper than all of it.
    #[must_use]
    pub fn epochs(&self) -> Vec<(GroupId, u64, Epoch)> {
        let table = self.table.read();
        let told = |meta: &RegionMeta| (meta.group, meta.region, meta.epoch);
        let shown = table.groups.values().map(|group| told(&group.meta.read()));
        let loading = table.loading.values().filter(|meta| !table.groups.contains_key(&meta.group));
        shown.chain(loading.map(told)).collect()
    }

    /// Grows with every change of [`Self::regions`].
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Changes which regions there are.
    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.write());
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// One region, if this store has it whole.
    #[must_use]
    pub fn region(&self, region: u64) -> Option<Arc<RegionMeta>> {
        self.table.read().regions.get(&region).map(|group| group.meta())
    }

    /// The revision of `group` after its last finished apply.
    #[must_use]
    pub fn revision(&self, group: GroupId) -> Option<u64> {
        self.group(group).map(|group| group.state.lock().revision)
    }

    /// Applied index and hash of the group's content at one moment: equal for equal content on
    /// every engine. Reads the whole region.
    pub fn content_hash(&self, group: GroupId) -> Result<(u64, u64), Fatal> {
        let Some(known) = self.group(group) else {
            return Err(Fatal::new("hash a group's content", format!("no group {group} here")));
        };
        hash::content(&*self.engine.view(group), &known.meta())
    }

    /// What the engine counts.
    #[must_use]
    pub fn metrics(&self) -> prometheus::Registry {
        self.engine.metrics()
    }

    /// The engine below: for reads at one moment.
    pub(super) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn group(&self, group: GroupId) -> Option<Arc<Group>> {
        self.table.read().groups.get(&group).cloned()
    }
}

impl Table {
    /// The region of a group, shown or being loaded.
    fn meta(&self, group: GroupId) -> Option<RegionMeta> {
        let shown = self.groups.get(&group).map(|group| (*group.meta()).clone());
        shown.or_else(|| self.loading.get(&group).cloned())
    }

    /// Another region is in the place of `meta`.
    fn refuse_overlap(&self, meta: &RegionMeta) -> Result<(), Fatal> {
        let same_id = self.regions.get(&meta.region).map(|group| (*group.meta()).clone());
        let before = self.by_start.range(..=meta.start.clone()).next_back();
        let behind = self.by_start.range(meta.start.clone()..).next();
        let neighbours = before.into_iter().chain(behind);
        let overlapping = neighbours
            .filter_map(|(_, group)| self.meta(*group))
            .find(|known| known.overlaps(&meta.start, &meta.end));
        let known = self.meta(meta.group).or(same_id).or(overlapping);
        let Some(known) = known else { return Ok(()) };
        Err(Fatal::new(
            format!("place region {} of group {}", meta.region, meta.group),
            format!("region {} of group {} is in its place", known.region, known.group),
        ))
    }

    /// The place of a region is taken from now on.
    fn load(&mut self, meta: RegionMeta) {
        self.by_start.insert(meta.start.clone(), meta.group);
        self.loading.insert(meta.group, meta);
    }

    fn remove(&mut self, group: GroupId) {
        if let Some(meta) = self.meta(group) {
            self.by_start.remove(&meta.start);
            self.regions.remove(&meta.region);
        }
        self.loading.remove(&group);
        self.groups.remove(&group);
    }

    fn insert(&mut self, meta: RegionMeta, state: GroupState) {
        let (group, region, start) = (meta.group, meta.region, meta.start.clone());
        let entry = Arc::new(Group { meta: RwLock::new(Arc::new(meta)), state: Mutex::new(state) });
        self.by_start.insert(start, group);
        self.regions.insert(region, entry.clone());
        self.groups.insert(group, entry);
        self.loading.remove(&group);
    }
}

impl StateMachine for KvStateMachine {
    fn recovered(&self, group: GroupId) -> AppliedState {
        self.group(group).map_or_else(AppliedState::default, |g| g.state.lock().recovered())
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut changes = Vec::with_capacity(batch.len());
        let mut states = Vec::with_capacity(batch.len());
        for task in batch {
            let Some(group) = self.group(task.group) else {
                let first = task.entries.first().expect("a group has entries to apply").position;
                task.fail(first.index, "this store has no region for it: have the replica rebuilt");
                continue;
            };
            let before = *group.state.lock();
            let done = apply::apply(group.meta(), before, task)?;
            changes.push(done.changes);
            states.push((group, done.meta, done.state));
        }
        if mutant::active("applied_apart_from_data") {
            let states = changes.iter_mut().map(apply::split_state).collect::<Vec<_>>();
            self.engine.write(&changes)?;
            changes = states;
        }
        self.engine.write(&changes)?;
        for (group, meta, state) in states {
            if let Some(meta) = meta {
                *group.meta.write() = meta;
                self.changes.fetch_add(1, Ordering::AcqRel);
            }
            *group.state.lock() = state;
        }
        let mut deletes = changes.iter().filter(|changes| garbage::deletes(changes)).peekable();
        if deletes.peek().is_some() {
            self.garbage.lock().count(deletes);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.engine.sync_at_leisure()
    }

    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        let _one_at_a_time = self.creation.lock();
        // Readers find no region from here on.
        self.change(|table| table.remove(group));
        // One that a snapshot was to replace is not shown, but there.
        self.stored(group)?.map_or(Ok(()), |meta| self.destroy_region(&meta))
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        snapshot::save(&*self.engine.pin(group)?, group, out)
    }

    /// What is here goes first. Then the new region is there, with nothing applied, so that whoever ends
    /// it after a crash knows its range; then the records come, and the state last.
    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let mut reading = snapshot::Reading::begin(group, from)?;
        let (meta, state) = (reading.meta.clone(), reading.state);
        if (meta.group, state.recovered().applied) != (group, position.index) {
            let what = format!("load a snapshot of group {group} at {}", position.index);
            let reason = format!("it is of {meta:?} at {}", state.recovered().applied);
            return Err(Fatal::new(what, reason));
        }
        let state = GroupState { commit: position, ..state };
        let empty = GroupState { epoch: meta.epoch, ..GroupState::default() };
        {
            let _one_at_a_time = self.creation.lock();
            // Readers find no region from here on.
            self.change(|table| table.remove(group));
            self.table.read().refuse_overlap(&meta)?;
            self.change(|table| table.load(meta.clone()));
        }
        if let Some(before) = self.stored(group)? {
            self.delete_records(&before)?;
        }
        let early = mutant::active("install_state_first");
        self.write_regions(&[(&meta, if early { state } else { empty })])?;
        self.delete_records(&meta)?;
        reading.copy_records(&*self.engine)?;
        self.write_regions(&[(&meta, state)])?;
        self.engine.sync()?;
        self.change(|table| table.insert(meta, state));
        Ok(())
    }

    fn may_wait(&self) -> bool {
        self.engine.may_wait()
    }
}

#[cfg(test)]
#[path = "state_machine_test.rs"]
mod tests;
