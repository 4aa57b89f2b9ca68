//! The scripts' state machine.

use bytes::Bytes;
use flotilla_raftstore::{
    AppliedState, Fatal, GroupApply, GroupDesc, GroupId, LeaderStop, LogPosition, ReplicaId,
    StateMachine,
};
use std::io;
use std::sync::{Mutex, MutexGuard};

/// Answers with the commands applied so far, joined: the last one shows the order of all.
#[derive(Default)]
pub struct Journal(Mutex<State>);

#[derive(Default)]
pub struct State {
    applied: AppliedState,
    commands: Vec<String>,
    /// As of the last sync, if there was one: what a snapshot is made from then.
    synced: Option<(AppliedState, Vec<String>)>,
    /// It fails at this one.
    pub bad: Option<String>,
    pub told: Vec<String>,
}

impl Journal {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn tell(&self, text: String) {
        self.state().told.push(text);
    }
}

impl StateMachine for Journal {
    fn recovered(&self, _group: GroupId) -> AppliedState {
        self.state().applied
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let State { applied, commands, bad, .. } = &mut *self.state();
        for task in batch {
            assert_eq!(task.entries[0].position.index, applied.applied + 1);
            task.each(|_, command| {
                let command = String::from_utf8_lossy(command).into_owned();
                if bad.as_ref() == Some(&command) {
                    return Err(format!("{command} is not for it"));
                }
                commands.push(command);
                Ok(Bytes::from(commands.join(",")))
            });
            if let Some(last) = task.applied() {
                *applied = AppliedState { applied: last.index, commit: task.commit };
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        let state = &mut *self.state();
        state.synced = Some((state.applied, state.commands.clone()));
        Ok(())
    }

    fn destroy(&self, _group: GroupId) -> Result<(), Fatal> {
        let told = std::mem::take(&mut self.state().told);
        *self.state() = State { told, ..State::default() };
        Ok(())
    }

    fn snapshot_save(
        &self,
        _group: GroupId,
        out: &mut dyn io::Write,
    ) -> Result<Option<u64>, Fatal> {
        let state = self.state();
        let now = || (state.applied, state.commands.clone());
        let (applied, commands) = state.synced.clone().unwrap_or_else(now);
        let written = out.write_all(commands.join(",").as_bytes());
        written.map_err(|e| Fatal::new("save", e))?;
        Ok(Some(applied.applied))
    }

    fn snapshot_load(
        &self,
        _group: GroupId,
        position: LogPosition,
        from: &mut dyn io::Read,
    ) -> Result<(), Fatal> {
        let mut text = String::new();
        from.read_to_string(&mut text).map_err(|e| Fatal::new("load", e))?;
        let commands = text.split(',').filter(|command| !command.is_empty());
        let mut state = self.state();
        state.commands = commands.map(str::to_owned).collect();
        state.applied = AppliedState { applied: position.index, commit: position };
        state.synced = Some((state.applied, state.commands.clone()));
        Ok(())
    }

    fn on_leader_start(&self, _group: GroupId, term: u64) {
        let commands = self.state().commands.len();
        self.tell(format!("leads in term {term}, {commands} commands applied"));
    }

    fn on_leader_stop(&self, _group: GroupId, reason: LeaderStop) {
        self.tell(format!("leads no longer: {reason:?}"));
    }

    fn on_following_start(&self, _group: GroupId, leader: ReplicaId, term: u64) {
        self.tell(format!("follows {leader} in term {term}"));
    }

    fn on_following_stop(&self, _group: GroupId, leader: ReplicaId, term: u64) {
        self.tell(format!("follows {leader} in term {term} no longer"));
    }

    fn on_membership(&self, _group: GroupId, members: &GroupDesc) {
        self.tell(format!("members of version {}", members.membership.version));
    }

    fn on_error(&self, _group: GroupId, error: &flotilla_raftstore::Error) {
        self.tell(format!("error: {error}"));
    }
}
