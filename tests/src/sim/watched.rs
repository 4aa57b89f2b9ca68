//! The real KV state machine, with a record of everything that it was given to apply.

use super::engine::SimEngine;
use flotilla_kvserver::kv::KvStateMachine;
use flotilla_raftstore::{
    AppliedState, Fatal, GroupApply, GroupId, LeaderStop, LogPosition, StateMachine,
};
use parking_lot::Mutex;
use std::hash::Hasher;
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
        Watched { inner, engine, table, applied: Mutex::default() }
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
                applied.push(AppliedEntry {
                    group: *group,
                    position: entry.position,
                    content: content.finish(),
                    commands,
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

    fn on_leader_start(&self, group: GroupId, term: u64) {
        self.inner.on_leader_start(group, term);
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.inner.on_leader_stop(group, reason);
    }
}
