//! I1, I16 and I17: the one log that all replicas of a group apply, entry by entry.
//!
//! A group that goes on without its lost majority goes on with another log. It agrees with the one before up
//! to some index; what stood behind that, acknowledged or not, only the lost ones had. From the order on:
//!
//! - *One* replica may leave the log that was, at one place, until it applies the entry that recovers the group.
//! - Everything that any replica that is left had on its disk is in its log.
//! - The others of before go on by the log that was (they may have to apply what was committed long ago),
//!   and whoever joins later by the new one.

use flotilla_raftstore::{GroupId, LogPosition, ReplicaId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Ids that the lost ones may have given away unseen.
const IDS_UNSEEN: u64 = 1 << 36;

/// The logs of all groups.
#[derive(Default)]
pub struct Logs(BTreeMap<GroupId, Line>);

#[derive(Default)]
struct Line {
    log: Log,
    recovery: Option<Recovery>,
}

/// (term, content) from index 1 on.
#[derive(Clone, Default)]
struct Log {
    entries: Vec<(u64, u64)>,
    /// Where each command is.
    commands: FxHashMap<u64, u64>,
}

struct Recovery {
    goes_on: ReplicaId,
    /// Larger ids are of members that joined since.
    old_max: ReplicaId,
    /// The end of the longest log that is left.
    end: LogPosition,
    /// The log that was, as far as it was applied.
    before: Log,
    /// The entry that recovers the group is applied.
    done: bool,
}

/// An entry, as a replica applies it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place.
    pub position: LogPosition,
    /// Hash over all of it.
    pub content: u64,
    /// One hash a command.
    pub commands: &'a [u64],
    /// It is the one that recovers the group.
    pub recovers: bool,
}

/// What came of an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// What is wrong.
    pub problem: Option<String>,
    /// The log that was is left: what is known of this index and later ones is void.
    pub left_at: Option<u64>,
    /// The group is recovered; so many applied entries are lost.
    pub lost: Option<u64>,
}

impl Log {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// A command comes once: it is only sent again after a refusal, which says that it was not applied.
    fn push(&mut self, entry: Entry<'_>) -> Option<String> {
        let index = entry.position.index;
        self.entries.push((entry.position.term, entry.content));
        let twice = entry.commands.iter().find_map(|command| self.commands.insert(*command, index));
        twice.map(|first| format!("I17: the command at {first} is applied again at {index}"))
    }

    fn cut(&mut self, from: u64) {
        self.entries.truncate(from as usize - 1);
        self.commands.retain(|_, index| *index < from);
    }

    fn common(&self, other: &Log) -> u64 {
        let pairs = self.entries.iter().zip(&other.entries);
        pairs.take_while(|(one, two)| one == two).count() as u64
    }
}

impl Line {
    fn is_before(&self, replica: ReplicaId) -> bool {
        let before = |r: &Recovery| replica != r.goes_on && replica <= r.old_max;
        self.recovery.as_ref().is_some_and(before)
    }

    fn log_of(&mut self, replica: ReplicaId) -> &mut Log {
        let before = self.is_before(replica);
        match &mut self.recovery {
            Some(recovery) if before => &mut recovery.before,
            _ => &mut self.log,
        }
    }

    /// `replica` may leave the log that was.
    fn may_leave(&self, replica: ReplicaId) -> bool {
        self.recovery.as_ref().is_some_and(|r| r.goes_on == replica && !r.done)
    }

    fn recovered(&mut self, index: u64) -> Taken {
        let Some(recovery) = &mut self.recovery else { return Taken::default() };
        recovery.done = true;
        let LogPosition { index: end, term } = recovery.end;
        let held = |at: u64| self.log.entries.get(at as usize - 1).map(|(term, _)| *term);
        let whole = end < index && (end == 0 || held(end) == Some(term));
        let problem = (!whole).then(|| {
            let end = recovery.end;
            format!("I16: recovered at {index} without all that was left, up to {end:?}")
        });
        let lost = recovery.before.last() - self.log.common(&recovery.before);
        Taken { problem, left_at: None, lost: Some(lost) }
    }
}

impl Logs {
    /// `replica` applies an entry behind all that it applied before.
    pub fn apply(&mut self, group: GroupId, replica: ReplicaId, entry: Entry<'_>) -> Taken {
        let line = self.0.entry(group).or_default();
        let may_leave = line.may_leave(replica);
        let LogPosition { index, term } = entry.position;
        let this = (term, entry.content);
        let log = line.log_of(replica);
        let mut taken = Taken::default();
        match log.entries.get(index as usize - 1) {
            None if index == log.last() + 1 => taken.problem = log.push(entry),
            None => taken.problem = Some(format!("I1: index {index} leaves a hole")),
            Some(other) if *other != this && may_leave => {
                log.cut(index);
                taken.problem = log.push(entry);
                taken.left_at = Some(index);
            }
            Some(other) if *other != this => {
                let (before, now) = (other.0, this.0);
                taken.problem = Some(format!(
                    "I1: another entry is applied at {index}: of term {now}, not {before}"
                ));
            }
            Some(_) => {}
        }
        if entry.recovers && may_leave && taken.problem.is_none() {
            taken = Taken { left_at: taken.left_at, ..line.recovered(index) };
        }
        taken
    }

    /// How far the log of `replica` is known.
    #[must_use]
    pub fn last(&self, group: GroupId, replica: ReplicaId) -> u64 {
        let Some(line) = self.0.get(&group) else { return 0 };
        match &line.recovery {
            Some(recovery) if line.is_before(replica) => recovery.before.last(),
            _ => line.log.last(),
        }
    }

    /// The group went on, or is about to, without `replica`.
    #[must_use]
    pub fn is_before(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.0.get(&group).is_some_and(|line| line.is_before(replica))
    }

    /// The group went on with `replica`, or that joined since.
    #[must_use]
    pub fn is_after(&self, group: GroupId, replica: ReplicaId) -> bool {
        let recovery = |line: &Line| line.recovery.is_some() && !line.is_before(replica);
        self.0.get(&group).is_some_and(recovery)
    }

    /// The operator has `goes_on` go on alone. What is left ends at `end`, and no id above `replica_max`
    /// was seen.
    pub fn recovers(
        &mut self,
        group: GroupId,
        goes_on: ReplicaId,
        replica_max: ReplicaId,
        end: LogPosition,
    ) {
        let line = self.0.entry(group).or_default();
        let old_max = ReplicaId(replica_max.0 + IDS_UNSEEN);
        let before = line.log.clone();
        line.recovery = Some(Recovery { goes_on, old_max, end, before, done: false });
    }

    /// The order was not carried out: there is one log still.
    pub fn withdraw(&mut self, group: GroupId) -> Option<String> {
        let line = self.0.get_mut(&group)?;
        let Recovery { before, goes_on, .. } = line.recovery.take_if(|r| !r.done)?;
        let common = before.common(&line.log);
        let both = before.last().min(line.log.last());
        if before.last() > line.log.last() {
            line.log = before;
        }
        (common < both).then(|| {
            let index = common + 1;
            format!(
                "I16: replica {goes_on} was not recovered, and has applied another entry {index}"
            )
        })
    }

    /// Whether the group is recovered; `None` without an order.
    #[must_use]
    pub fn recovery(&self, group: GroupId) -> Option<bool> {
        self.0.get(&group)?.recovery.as_ref().map(|recovery| recovery.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);
    const OLD: ReplicaId = ReplicaId(1);
    const ON: ReplicaId = ReplicaId(3);
    const NEW: ReplicaId = ReplicaId((1 << 36) + 4);

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index, term }
    }

    fn apply(logs: &mut Logs, replica: ReplicaId, position: LogPosition, recovers: bool) -> Taken {
        let commands = [100 * position.term + position.index];
        let content = commands[0];
        logs.apply(GROUP, replica, Entry { position, content, commands: &commands, recovers })
    }

    /// Three entries that the old ones have applied, one of which the third has not.
    fn three() -> Logs {
        let mut logs = Logs::default();
        for index in 1..=3 {
            assert_eq!(apply(&mut logs, OLD, at(index, 1), false), Taken::default());
        }
        logs
    }

    #[test]
    fn who_goes_on_leaves_the_log_that_was_once_and_takes_all_that_is_left_along() {
        let mut logs = three();
        assert!(apply(&mut logs, ON, at(2, 2), false).problem.is_some(), "without an order");
        logs.recovers(GROUP, ON, ReplicaId(3), at(2, 1));
        assert_eq!(apply(&mut logs, ON, at(1, 1), false), Taken::default());
        assert_eq!(apply(&mut logs, ON, at(2, 1), false), Taken::default());
        let done = Taken { left_at: Some(3), lost: Some(1), problem: None };
        assert_eq!(apply(&mut logs, ON, at(3, 2), true), done);
        assert_eq!(apply(&mut logs, NEW, at(3, 2), false), Taken::default());
        assert_eq!(apply(&mut logs, OLD, at(3, 1), false), Taken::default(), "its own of before");
        assert!(apply(&mut logs, NEW, at(3, 1), false).problem.is_some());
        assert!(apply(&mut logs, ON, at(3, 3), false).problem.is_some(), "once");
        assert_eq!((logs.last(GROUP, OLD), logs.recovery(GROUP)), (3, Some(true)));
    }

    #[test]
    fn a_recovery_that_leaves_out_what_was_left_is_found() {
        let mut logs = three();
        logs.recovers(GROUP, ON, ReplicaId(3), at(2, 1));
        let problem = apply(&mut logs, ON, at(2, 2), true).problem.unwrap();
        assert!(problem.starts_with("I16"), "{problem}");
    }

    #[test]
    fn an_order_that_is_not_carried_out_leaves_one_log() {
        let mut logs = three();
        logs.recovers(GROUP, ON, ReplicaId(3), at(3, 1));
        apply(&mut logs, OLD, at(4, 1), false);
        assert_eq!(logs.withdraw(GROUP), None);
        assert_eq!((logs.last(GROUP, ON), logs.recovery(GROUP)), (4, None));
        // It has applied what nobody had committed, and then it was not to be.
        logs.recovers(GROUP, ON, ReplicaId(3), at(4, 1));
        apply(&mut logs, ON, at(4, 2), false);
        assert!(logs.withdraw(GROUP).unwrap().contains("another entry 4"));
    }

    #[test]
    fn a_command_is_applied_once() {
        let mut logs = three();
        let commands = [102];
        let entry = Entry { position: at(4, 1), content: 9, commands: &commands, recovers: false };
        assert!(logs.apply(GROUP, OLD, entry).problem.unwrap().starts_with("I17"));
    }
}
