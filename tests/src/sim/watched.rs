//! The real KV state machine, with a record of everything that it was given to apply.

use super::engine::SimEngine;
use flotilla_kvserver::kv::KvStateMachine;
use flotilla_raftstore::{
    AppliedState, Fatal, GroupApply, GroupDesc, GroupId, LeaderStop, LogPosition, StateMachine,
};
use parking_lot::Mutex;
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
    destroyed: Mutex<Vec<GroupId>>,
    /// Members as the callback told them.
    told: Mutex<Vec<GroupDesc>>,
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
        let (applied, destroyed, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Watched { inner, engine, table, applied, destroyed, told }
    }

    /// Groups destroyed since the last call.
    #[must_use]
    pub fn take_destroyed(&self) -> Vec<GroupId> {
        std::mem::take(&mut self.destroyed.lock())
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
        self.inner.apply(batch)?;
        let mut applied = self.applied.lock();
        for GroupApply { group, entries, commit, .. } in &*batch {
            let engine_write = self.engine.writes(*group).0 + u64::from(self.table);
            for entry in entries {
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
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.inner.sync()
    }

    /// Durable when it returns.
    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        self.inner.destroy(group)?;
        self.engine.settle(group);
        self.destroyed.lock().push(group);
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
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.inner.on_leader_stop(group, reason);
    }
}
