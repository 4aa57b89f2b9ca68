//! What a state machine is given to apply, and what it gives back.

use crate::members::GroupDesc;
use crate::types::{GroupId, LogPosition};
use bytes::Bytes;
use std::sync::Arc;

/// One committed entry with its commands, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyEntry {
    /// Place of the entry in the log.
    pub position: LogPosition,
    /// The commands of [`crate::Store::propose`], in order; empty for a leader's first entry.
    pub commands: Vec<Bytes>,
    /// The members from here on, when this entry changes them; it has no commands then.
    pub members: Option<Arc<GroupDesc>>,
}

/// Where and why a state machine stopped in a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state machine failed at entry {index}: {reason}")]
pub struct ApplyError {
    /// The entry that it could not apply: everything before it is applied, nothing from it on.
    pub index: u64,
    /// In its own words: what is wrong, and what to do.
    pub reason: String,
}

/// One group's share of an apply batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupApply {
    /// The group.
    pub group: GroupId,
    /// Contiguous entries, right after what was applied before; at least one.
    pub entries: Vec<ApplyEntry>,
    /// To be stored with the data: the smaller of commit and persisted index (never below the
    /// last entry here), and its term.
    pub commit: LogPosition,
    /// Callers wait: fill `answers`. On followers nobody does, and the work can be saved.
    pub answer: bool,
    /// Filled by [`crate::StateMachine::apply`] when `answer`: one a command, over all entries in
    /// order.
    pub answers: Vec<Bytes>,
    /// Set by [`crate::StateMachine::apply`] when it cannot apply an entry of this group; see
    /// [`GroupApply::fail`].
    pub failure: Option<ApplyError>,
}

impl GroupApply {
    /// Entries to apply; nobody waits for answers.
    #[must_use]
    pub fn new(group: GroupId, entries: Vec<ApplyEntry>, commit: LogPosition) -> Self {
        GroupApply { group, entries, commit, answer: false, answers: Vec::new(), failure: None }
    }

    /// Gives every command to `apply`, with its entry's place and in order, and keeps what it
    /// answers. An error ends the group at that entry ([`GroupApply::fail`]); what earlier commands
    /// of the same entry changed is the caller's to undo, or never to be shown or saved.
    pub fn each(&mut self, mut apply: impl FnMut(LogPosition, &Bytes) -> Result<Bytes, String>) {
        for ApplyEntry { position, commands, .. } in &self.entries {
            for command in commands {
                match apply(*position, command) {
                    Ok(answer) if self.answer => self.answers.push(answer),
                    Ok(_) => {}
                    Err(reason) => {
                        self.failure = Some(ApplyError { index: position.index, reason });
                        return;
                    }
                }
            }
        }
    }

    /// The entry at `index` cannot be applied, so neither can any behind it. `reason` says what is
    /// wrong and what to do. Those before it count as applied, with their answers.
    ///
    /// The replica stops there: callers get [`crate::Error::Failed`] and from then on
    /// [`crate::Error::Stopped`], status and log show it, [`crate::StateMachine::on_error`] is told,
    /// other groups go on. The next start gives the same entry again.
    pub fn fail(&mut self, index: u64, reason: impl Into<String>) {
        self.failure = Some(ApplyError { index, reason: reason.into() });
    }

    /// The last entry of this batch that is applied, once [`crate::StateMachine::apply`] went
    /// through it: none when the first one failed.
    #[must_use]
    pub fn applied(&self) -> Option<LogPosition> {
        let failed_at = self.failure.as_ref().map_or(u64::MAX, |failure| failure.index);
        let positions = self.entries.iter().map(|entry| entry.position);
        positions.take_while(|position| position.index < failed_at).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> GroupApply {
        let entry = |(index, commands): (u64, &[&'static str])| ApplyEntry {
            position: LogPosition { index, term: 3 },
            commands: commands
                .iter()
                .map(|command| Bytes::from_static(command.as_bytes()))
                .collect(),
            members: None,
        };
        let entries: [(u64, &[&str]); 4] =
            [(5, &["a", "b"]), (6, &[]), (7, &["c", "d"]), (8, &["e"])];
        let commit = LogPosition { index: 9, term: 3 };
        GroupApply::new(GroupId(1), entries.map(entry).into(), commit)
    }

    #[test]
    fn each_command_is_answered_in_order_when_somebody_waits() {
        let mut given = Vec::new();
        let mut batch = GroupApply { answer: true, ..batch() };
        batch.each(|position, command| {
            given.push(position.index);
            Ok(command.clone())
        });
        assert_eq!(given, [5, 5, 7, 7, 8]);
        assert_eq!(batch.answers, ["a", "b", "c", "d", "e"]);
        assert_eq!(batch.applied().map(|position| position.index), Some(8));
        let mut silent = self::batch();
        silent.each(|_, command| Ok(command.clone()));
        assert!(silent.answers.is_empty());
    }

    #[test]
    fn an_error_ends_the_group_before_its_entry() {
        let mut given = 0;
        let mut batch = batch();
        batch.each(|_, command| {
            given += 1;
            if command == "d" { Err("no d".to_owned()) } else { Ok(Bytes::new()) }
        });
        assert_eq!((given, batch.applied().map(|position| position.index)), (4, Some(6)));
        let failure = batch.failure.clone().expect("it failed");
        assert_eq!(failure.to_string(), "the state machine failed at entry 7: no d");
        batch.fail(5, "not even that");
        assert_eq!(batch.applied(), None);
    }
}
