//! What committed entries of one group change: a pure function of region, state and entries.

use super::answer::{ANSWER_BYTES, Answer, Refusal};
use super::command::{self, Command, Malformed};
use super::engine::{Change, Column, GroupChanges};
use super::keys;
use super::record::{GroupState, RECORD_OVERHEAD, Record};
use super::region::RegionMeta;
use bytes::{Bytes, BytesMut};
use flotilla_raftstore::{Fatal, GroupApply, mutant};
use std::sync::Arc;

/// What becomes of a group.
pub struct Done {
    /// Everything that is to be written, state and region too.
    pub changes: GroupChanges,
    /// Its new state.
    pub state: GroupState,
    /// Its region, if that has changed.
    pub meta: Option<Arc<RegionMeta>>,
}

/// Applies `task` on top of `state` and fills the answers.
pub fn apply(
    meta: Arc<RegionMeta>,
    state: GroupState,
    task: &mut GroupApply,
) -> Result<Done, Fatal> {
    let before = Arc::clone(&meta);
    let mut round = Round {
        meta,
        state,
        changes: Vec::new(),
        records: BytesMut::with_capacity(records_bytes(task)),
    };
    let commands: usize = task.entries.iter().map(|entry| entry.commands.len()).sum();
    let mut answers =
        BytesMut::with_capacity(if task.answer { commands * ANSWER_BYTES } else { 0 });

    let group = task.group;
    let fatal = |reason: String| Fatal::new(format!("apply to group {group}"), reason);
    for entry in &task.entries {
        let index = entry.position.index;
        if index != round.state.applied + 1 {
            return Err(fatal(format!("entry {index} after {}", round.state.applied)));
        }
        for command in &entry.commands {
            let answer = round.command(command);
            if task.answer {
                answer.put(&mut answers);
                task.answers.push(answers.split().freeze());
            }
        }
        if let Some(members) = &entry.members {
            round.meta = Arc::new(round.meta.with_members(members));
            round.state.epoch = round.meta.epoch;
        }
        round.state.applied = index;
    }
    if task.commit.index < round.state.applied {
        let (applied, commit) = (round.state.applied, task.commit.index);
        return Err(fatal(format!("entry {applied} is applied, {commit} is committed")));
    }
    round.state.commit = task.commit;
    let meta = (!Arc::ptr_eq(&before, &round.meta)).then(|| Arc::clone(&round.meta));
    if let Some(meta) = &meta {
        round.system(keys::meta(group), meta.encode());
    }
    round.system(keys::state(group), round.state.encode());
    Ok(Done { changes: GroupChanges { group, changes: round.changes }, state: round.state, meta })
}

/// Takes the new state out of a group's changes: only a planted bug writes it apart.
pub fn split_state(changes: &mut GroupChanges) -> GroupChanges {
    let state = changes.changes.pop().into_iter().collect();
    GroupChanges { group: changes.group, changes: state }
}

/// Room for the records of all commands, so that they share one allocation: a write with a key
/// of three bytes takes as much in its command as in its record. (Shorter keys: one more.)
fn records_bytes(task: &GroupApply) -> usize {
    let commands = task.entries.iter().flat_map(|entry| &entry.commands);
    commands.map(Bytes::len).sum::<usize>() + RECORD_OVERHEAD
}

struct Round {
    meta: Arc<RegionMeta>,
    state: GroupState,
    changes: Vec<Change>,
    records: BytesMut,
}

impl Round {
    /// All of the command's writes, or none of them and a refusal.
    fn command(&mut self, bytes: &Bytes) -> Answer {
        let before = (self.changes.len(), self.state.revision);
        match self.write(bytes) {
            Ok(()) => Answer::Written(self.state.revision),
            Err(refusal) => {
                self.changes.truncate(before.0);
                self.state.revision = before.1;
                Answer::Refused(refusal)
            }
        }
    }

    fn write(&mut self, bytes: &Bytes) -> Result<(), Refusal> {
        let malformed = |error: Malformed| Refusal::Malformed(error.at as u64);
        let Command { region, epoch, batch } = Command::decode(bytes).map_err(malformed)?;
        let unchecked = mutant::active("epoch_unchecked_at_apply");
        let meant = (region, epoch.version);
        if meant != (self.meta.region, self.meta.epoch.version) && !unchecked {
            return Err(Refusal::EpochNotMatch);
        }
        for (number, write) in command::writes(&batch).enumerate() {
            let write = write.map_err(malformed)?;
            let key = batch.slice(write.key);
            let unchecked = mutant::active("range_unchecked_at_apply");
            if key.is_empty() || !(self.meta.contains(&key) || unchecked) {
                return Err(Refusal::OutOfRange(number as u64));
            }
            self.state.revision += 1;
            let value = write.value.map(|value| {
                Record::put(&mut self.records, self.state.revision, &batch[value]);
                self.records.split().freeze()
            });
            self.changes.push(Change { column: Column::Data, key, value });
        }
        Ok(())
    }

    fn system(&mut self, key: Bytes, value: Bytes) {
        self.changes.push(Change { column: Column::System, key, value: Some(value) });
    }
}
