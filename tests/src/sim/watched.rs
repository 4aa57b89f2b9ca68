//! The real KV state machine, with a record of everything that it was given to apply and told, and a
//! way to have it fail at an entry.

use super::engine::SimEngine;
use flotilla_kvserver::kv::KvStateMachine;
use flotilla_raftstore::message::Standing;
use flotilla_raftstore::{
    AppliedState, Error, Fatal, GroupApply, GroupDesc, GroupId, LeaderStop, LogPosition, ReplicaId,
    StateMachine,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::io::{Read, Write};
use std::sync::Arc;

/// One entry as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// The group.
    pub group: GroupId,
    /// Its place in the log.
    pub position: LogPosition,
    /// Hash over its commands.
    pub content: u64,
    /// One hash a command.
    pub commands: Vec<u64>,
    /// The members that it makes.
    pub members: Option<Arc<GroupDesc>>,
    /// Commit index that is stored with it.
    pub commit: u64,
    /// Number of the engine write that it is in.
    pub engine_write: u64,
}

/// See the module.
pub struct Watched {
    inner: Arc<KvStateMachine>,
    engine: Arc<SimEngine>,
    /// Applied entries wait in a table for the engine's next write of their group.
    table: bool,
    applied: Mutex<Vec<AppliedEntry>>,
    /// Members as the callback told them.
    told: Mutex<Vec<GroupDesc>>,
    parts: Mutex<Parts>,
}

/// What the callbacks told, held against what they promise.
#[derive(Default)]
struct Parts {
    standing: BTreeMap<GroupId, Standing>,
    /// Term of the last applied entry.
    applied_term: BTreeMap<GroupId, u64>,
    /// The next apply is to fail; where, by this number.
    failure_due: Option<u64>,
    /// The entries at which groups failed, and whether that was told.
    failed: BTreeMap<GroupId, (u64, bool)>,
    /// Groups whose state is damaged, and those whose state machine was told.
    damaged: BTreeSet<GroupId>,
    quarantined: BTreeSet<GroupId>,
    violations: Vec<String>,
}

impl Parts {
    fn complain(&mut self, group: GroupId, what: &str) {
        let standing = self.standing.get(&group);
        self.violations.push(format!("callbacks: group {group}: {what}, after {standing:?}"));
    }

    fn begin(&mut self, group: GroupId, next: Standing) {
        let before = self.standing.get(&group).copied().unwrap_or_default();
        if !before.is_idle() || next.term() < before.term() {
            self.complain(group, &format!("told {next:?}"));
        }
        if self.failed.contains_key(&group) || self.quarantined.contains(&group) {
            self.complain(group, &format!("told {next:?} of a replica that has stopped"));
        }
        self.standing.insert(group, next);
    }

    fn end(&mut self, group: GroupId, expected: impl Fn(Standing) -> bool) {
        let before = self.standing.get(&group).copied().unwrap_or_default();
        if !expected(before) {
            self.complain(group, "told the end of another part");
        }
        self.standing.insert(group, Standing::Idle { term: before.term() });
    }
}

/// What identifies a command: clients never send the same bytes twice.
#[must_use]
pub fn command_hash(command: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(command)
}

impl Watched {
    /// Watches `inner`, which writes to `engine`, through a table or not.
    #[must_use]
    pub fn new(inner: Arc<KvStateMachine>, engine: Arc<SimEngine>, table: bool) -> Self {
        let (applied, told, parts) = (Mutex::default(), Mutex::default(), Mutex::default());
        Watched { inner, engine, table, applied, told, parts }
    }

    fn note_applied(&self, batch: &[GroupApply]) {
        let mut applied = self.applied.lock();
        let mut parts = self.parts.lock();
        for GroupApply { group, entries, commit, .. } in batch {
            let engine_write = self.engine.writes(*group).0 + u64::from(self.table);
            if parts.failed.get(group).is_some_and(|(index, _)| entries[0].position.index >= *index)
            {
                parts.complain(*group, "an entry applied behind a failure");
            }
            for entry in entries {
                parts.applied_term.insert(*group, entry.position.term);
                let commands: Vec<u64> = entry.commands.iter().map(|c| command_hash(c)).collect();
                let mut content = rustc_hash::FxHasher::default();
                commands.iter().for_each(|hash| content.write_u64(*hash));
                if let Some(members) = &entry.members {
                    content.write(format!("{members:?}").as_bytes());
                }
                applied.push(AppliedEntry {
                    group: *group,
                    position: entry.position,
                    content: content.finish(),
                    commands,
                    members: entry.members.clone(),
                    commit: commit.index,
                    engine_write,
                });
            }
        }
    }

    /// The next apply fails in one of its groups, at one of its entries: `draw` says where.
    pub fn fail_next(&self, draw: u64) {
        self.parts.lock().failure_due = Some(draw);
    }

    /// Some group has failed, or is to.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let parts = self.parts.lock();
        parts.failure_due.is_some() || !parts.failed.is_empty()
    }

    /// The entry at which a group failed.
    #[must_use]
    pub fn failed_at(&self, group: GroupId) -> Option<u64> {
        self.parts.lock().failed.get(&group).map(|(index, _)| *index)
    }

    /// Callbacks that must not have been since the last call.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.parts.lock().violations)
    }

    /// Fails in one group; gives the batch that is applied all the same.
    fn fail(&self, batch: &mut [GroupApply], draw: u64) -> Vec<GroupApply> {
        let mut passed = batch.to_vec();
        let at = (draw % batch.len() as u64) as usize;
        let group = &mut batch[at];
        let keep = (draw >> 32) as usize % group.entries.len();
        let index = group.entries[keep].position.index;
        group.fail(index, "simulated");
        self.parts.lock().failed.insert(group.group, (index, false));
        passed[at].entries.truncate(keep);
        passed.retain(|apply| !apply.entries.is_empty());
        passed
    }

    /// The state of a group is damaged, and somebody reads it.
    pub fn damage(&self, group: GroupId) {
        self.parts.lock().damaged.insert(group);
    }

    /// Members that the callback told since the last call, in order.
    #[must_use]
    pub fn take_told(&self) -> Vec<GroupDesc> {
        std::mem::take(&mut self.told.lock())
    }

    /// The state machine itself.
    #[must_use]
    pub fn inner(&self) -> &Arc<KvStateMachine> {
        &self.inner
    }

    /// Entries applied since the last call, in order.
    #[must_use]
    pub fn take_applied(&self) -> Vec<AppliedEntry> {
        std::mem::take(&mut self.applied.lock())
    }
}

impl StateMachine for Watched {
    fn recovered(&self, group: GroupId) -> AppliedState {
        self.inner.recovered(group)
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let due = self.parts.lock().failure_due.take();
        let Some(draw) = due else {
            self.inner.apply(batch)?;
            self.note_applied(batch);
            return Ok(());
        };
        let mut passed = self.fail(batch, draw);
        self.inner.apply(&mut passed)?;
        self.note_applied(&passed);
        for apply in passed {
            let same = batch.iter_mut().find(|own| own.group == apply.group);
            same.expect("it is a part of the batch").answers = apply.answers;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.inner.sync()
    }

    /// Durable when it returns.
    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        self.inner.destroy(group)?;
        self.engine.settle(group);
        let mut parts = self.parts.lock();
        if !parts.standing.remove(&group).unwrap_or_default().is_idle() {
            parts.complain(group, "destroyed before its part has ended");
        }
        parts.failed.remove(&group);
        parts.damaged.remove(&group);
        parts.quarantined.remove(&group);
        Ok(())
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        self.inner.snapshot_save(group, out)
    }

    /// Durable when it returns.
    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        self.inner.snapshot_load(group, position, from)?;
        self.engine.settle(group);
        Ok(())
    }

    fn on_membership(&self, _group: GroupId, members: &GroupDesc) {
        self.told.lock().push(members.clone());
    }

    fn on_leader_start(&self, group: GroupId, term: u64) {
        self.inner.on_leader_start(group, term);
        let mut parts = self.parts.lock();
        parts.begin(group, Standing::Leads { term });
        if parts.applied_term.get(&group) < Some(&term) {
            parts.complain(group, "leads before its first entry is applied");
        }
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.inner.on_leader_stop(group, reason);
        self.parts.lock().end(group, |part| matches!(part, Standing::Leads { .. }));
    }

    fn on_following_start(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.inner.on_following_start(group, leader, term);
        self.parts.lock().begin(group, Standing::Follows { leader, term });
    }

    fn on_following_stop(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.inner.on_following_stop(group, leader, term);
        self.parts.lock().end(group, |part| part == Standing::Follows { leader, term });
    }

    fn on_error(&self, group: GroupId, error: &Error) {
        self.inner.on_error(group, error);
        let mut parts = self.parts.lock();
        let standing = parts.standing.get(&group).copied().unwrap_or_default();
        let expected = match (parts.failed.get_mut(&group), error) {
            (Some((at, told)), Error::Stopped { index, .. }) => {
                at == index && !std::mem::replace(told, true)
            }
            (None, Error::Quarantined { .. }) => {
                parts.damaged.contains(&group) && parts.quarantined.insert(group)
            }
            _ => false,
        };
        if !expected || !standing.is_idle() {
            parts.complain(group, &format!("error: {error}"));
        }
    }
}
