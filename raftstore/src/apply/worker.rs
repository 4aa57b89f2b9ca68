//! The apply worker: everything queued goes into the state machine in one atomic batch, and the
//! callbacks are told, in order.

use super::{ApplyEntry, ApplyError, GroupApply, LeaderStop, StateMachine};
use crate::completion::{Answer, Outcome, Reply};
use crate::error::{Error, Fatal};
use crate::message::{Applied, ApplyTask, Committed, Notice, Standing};
use crate::types::{GroupId, ReplicaId};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What an apply leaves to be done, in this order: replies, applied, destroys.
#[derive(Debug, Default)]
pub struct ApplyDone {
    /// Callers with their results.
    pub replies: Vec<(Reply, Outcome)>,
    /// One list a shard.
    pub applied: Vec<(usize, Vec<Applied>)>,
    /// What each shard is to be told once [`StateMachine::destroy`] has returned for the group. That takes
    /// time, so it is not done in the middle of other groups' applies; nothing more comes for such a
    /// group until its shard was told.
    pub destroys: Vec<(usize, Applied)>,
}

/// Bookkeeping around [`StateMachine::apply`]: who waits, who was told what, who failed.
pub struct ApplyWorker {
    state_machine: Arc<dyn StateMachine>,
    /// What each state machine was told last of its replica's part.
    told: FxHashMap<GroupId, Standing>,
    /// Nothing more is applied to these until they are destroyed.
    failed: FxHashMap<GroupId, ApplyError>,
}

/// One group's share of the batch, while it is put together.
struct Share {
    apply: GroupApply,
    callers: Vec<Vec<Reply>>,
    /// To be told behind the entries.
    notices: Vec<Notice>,
    replica: ReplicaId,
    shard: usize,
    bytes: usize,
}

impl ApplyWorker {
    /// A worker for `state_machine`.
    #[must_use]
    pub fn new(state_machine: Arc<dyn StateMachine>) -> Self {
        ApplyWorker { state_machine, told: FxHashMap::default(), failed: FxHashMap::default() }
    }

    /// See [`StateMachine::may_wait`].
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.state_machine.may_wait()
    }

    /// Applies `tasks` in order as one batch. What is to be destroyed is left to the caller. An error ends the
    /// process: an entry is never skipped.
    pub fn run_once(&mut self, tasks: Vec<ApplyTask>) -> Result<ApplyDone, Fatal> {
        let mut done = ApplyDone::default();
        let shares = gather(tasks);
        let (mut batch, mut rests): (Vec<GroupApply>, Vec<Rest>) =
            shares.into_iter().map(Share::split).unzip();
        for (apply, rest) in batch.iter_mut().zip(&mut rests) {
            if let Some(error) = self.failed.get(&apply.group) {
                apply.entries.clear();
                let callers = std::mem::take(&mut rest.callers);
                refuse(apply.group, error, callers, &mut done);
            }
        }
        batch.retain(|apply| !apply.entries.is_empty());
        if !batch.is_empty() {
            self.state_machine.apply(&mut batch)?;
        }
        let mut applied = batch.into_iter().peekable();
        for rest in rests {
            let (mut index, mut failure) = (0, None);
            if let Some(mut apply) = applied.next_if(|apply| apply.group == rest.group) {
                index = apply.applied().map_or(0, |position| position.index);
                failure = apply.failure.take();
                answer(apply, failure.as_ref(), rest.callers, &mut done)?;
            }
            let Rest { group, replica, bytes, notices, shard, .. } = rest;
            let destroyed = self.tell(group, notices, failure.as_ref());
            let note = Applied { group, replica, index, bytes, destroyed, failure };
            if destroyed {
                done.destroys.push((shard, note));
            } else {
                done.note(shard, note);
            }
        }
        Ok(done)
    }

    /// Tells what lies behind a group's entries; gives whether its state is to be destroyed. A group that
    /// has just failed hears of what came before that, and of its end.
    fn tell(&mut self, group: GroupId, notices: Vec<Notice>, failure: Option<&ApplyError>) -> bool {
        if let Some(error) = failure {
            let (index, reason) = (error.index, &error.reason);
            tracing::error!(group = group.0, index, reason, "state machine failed, replica stops");
            self.failed.insert(group, error.clone());
        }
        let failed_at = self.failed.get(&group).map(|error| error.index);
        let mut destroyed = false;
        for notice in notices {
            match notice {
                Notice::Members(members)
                    if failed_at.is_none_or(|at| members.membership.position.index < at) =>
                {
                    self.state_machine.on_membership(group, &members);
                }
                Notice::Becomes(next) if failed_at.is_none() => {
                    self.becomes(group, next, LeaderStop::SteppedDown { term: next.term() });
                }
                Notice::Ends(reason) if failed_at.is_none() => {
                    self.becomes(group, Standing::default(), reason);
                }
                Notice::Fails(error) if failed_at.is_none() => self.fails(group, &error),
                Notice::Destroy => {
                    self.told.remove(&group);
                    self.failed.remove(&group);
                    destroyed = true;
                }
                _ => {}
            }
        }
        if let Some(ApplyError { index, reason }) = failure.filter(|_| !destroyed).cloned() {
            self.fails(group, &Error::Stopped { group, index, reason });
        }
        destroyed
    }

    fn fails(&mut self, group: GroupId, error: &Error) {
        self.becomes(group, Standing::default(), LeaderStop::Failed);
        self.state_machine.on_error(group, error);
    }

    /// Ends the part that the state machine believes in, and begins the next.
    fn becomes(&mut self, group: GroupId, next: Standing, reason: LeaderStop) {
        let machine = &self.state_machine;
        match self.told.insert(group, next).unwrap_or_default() {
            Standing::Idle { .. } => {}
            Standing::Leads { .. } => machine.on_leader_stop(group, reason),
            Standing::Follows { leader, term } => machine.on_following_stop(group, leader, term),
        }
        match next {
            Standing::Idle { .. } => {}
            Standing::Leads { term } => machine.on_leader_start(group, term),
            Standing::Follows { leader, term } => machine.on_following_start(group, leader, term),
        }
    }
}

impl ApplyDone {
    fn note(&mut self, shard: usize, note: Applied) {
        match self.applied.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, list)) => list.push(note),
            None => self.applied.push((shard, vec![note])),
        }
    }
}

struct Rest {
    group: GroupId,
    replica: ReplicaId,
    callers: Vec<Vec<Reply>>,
    notices: Vec<Notice>,
    shard: usize,
    bytes: usize,
}

impl Share {
    /// Nothing yet, for the group of `task`.
    fn new(task: &ApplyTask) -> Self {
        let entries = Vec::with_capacity(task.entries.len());
        let apply = GroupApply::new(task.group, entries, task.commit);
        let callers = Vec::with_capacity(task.entries.len());
        let (replica, shard) = (task.replica, task.shard);
        Share { apply, callers, notices: Vec::new(), replica, shard, bytes: 0 }
    }

    fn add(&mut self, task: ApplyTask) {
        self.bytes += task.bytes;
        if !task.entries.is_empty() {
            self.apply.commit = task.commit;
        }
        for Committed { entry, callers } in task.entries {
            self.apply.answer |= !callers.is_empty();
            self.notices.extend(entry.members.clone().map(Notice::Members));
            self.apply.entries.push(entry);
            self.callers.push(callers);
        }
        self.notices.extend(task.notice);
    }

    fn split(self) -> (GroupApply, Rest) {
        let rest = Rest {
            group: self.apply.group,
            replica: self.replica,
            callers: self.callers,
            notices: self.notices,
            shard: self.shard,
            bytes: self.bytes,
        };
        (self.apply, rest)
    }
}

/// One share a group, in the order in which the groups first come. A role event follows its
/// entries; entries that come after one in the same batch are applied before it is told, which no
/// state machine can tell apart from a slow callback.
fn gather(tasks: Vec<ApplyTask>) -> Vec<Share> {
    let mut places: FxHashMap<GroupId, usize> = FxHashMap::default();
    let mut shares: Vec<Share> = Vec::new();
    for task in tasks {
        let at = *places.entry(task.group).or_insert_with(|| {
            shares.push(Share::new(&task));
            shares.len() - 1
        });
        shares[at].add(task);
    }
    shares
}

/// Pairs callers with answers. What the state machine says must fit what it was given.
fn answer(
    apply: GroupApply,
    failure: Option<&ApplyError>,
    mut callers: Vec<Vec<Reply>>,
    done: &mut ApplyDone,
) -> Result<(), Fatal> {
    let GroupApply { group, entries, answer, answers, .. } = apply;
    let broken = |reason: String| Err(Fatal::new(format!("apply to group {group}"), reason));
    let reached = match failure {
        None => entries.len(),
        Some(error) => match entries.iter().position(|e| e.position.index == error.index) {
            Some(at) => at,
            None => return broken(format!("{error}, which it was not given")),
        },
    };
    let commands = |entries: &[ApplyEntry]| entries.iter().map(|e| e.commands.len()).sum::<usize>();
    let expected = commands(&entries[..reached]);
    let fits = match failure {
        None => answers.len() == expected,
        Some(_) => answers.len() >= expected,
    };
    if answer && !fits {
        return broken(format!("{} answers for {expected} commands", answers.len()));
    }
    let failed = callers.split_off(reached);
    let mut answers = answers.into_iter();
    for (entry, callers) in entries.iter().zip(callers) {
        let mut own = answers.by_ref().take(entry.commands.len());
        for caller in callers {
            let result = own.next().expect("one caller a command");
            done.replies.push((caller, Ok(Answer::Applied(result))));
        }
        own.for_each(drop);
    }
    if let Some(error) = failure {
        refuse(group, error, failed, done);
    }
    Ok(())
}

/// Their commands are in the log: other replicas may apply them.
fn refuse(group: GroupId, error: &ApplyError, callers: Vec<Vec<Reply>>, done: &mut ApplyDone) {
    let ApplyError { index, reason } = error;
    let failed = || Error::Failed { group, index: *index, reason: reason.clone() };
    done.replies.extend(callers.into_iter().flatten().map(|caller| (caller, Err(failed()))));
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
