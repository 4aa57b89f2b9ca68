//! The apply worker: everything queued goes into the state machine in one atomic batch.

use super::{ApplyEntry, GroupApply, StateMachine};
use crate::completion::{Answer, Outcome, Reply};
use crate::error::Fatal;
use crate::message::{Applied, ApplyTask, Committed, RoleEvent};
use crate::types::GroupId;
use std::sync::Arc;

/// What an apply leaves to be done, in this order: replies, applied.
#[derive(Debug, Default)]
pub struct ApplyDone {
    /// Callers with their results.
    pub replies: Vec<(Reply, Outcome)>,
    /// One list a shard.
    pub applied: Vec<(usize, Vec<Applied>)>,
}

/// Pure bookkeeping around [`StateMachine::apply`].
pub struct ApplyWorker {
    state_machine: Arc<dyn StateMachine>,
}

/// One group's share of the batch, while it is put together.
struct Share {
    apply: GroupApply,
    callers: Vec<Vec<Reply>>,
    roles: Vec<RoleEvent>,
    shard: usize,
    bytes: usize,
}

impl ApplyWorker {
    /// A worker for `state_machine`.
    #[must_use]
    pub fn new(state_machine: Arc<dyn StateMachine>) -> Self {
        ApplyWorker { state_machine }
    }

    /// Applies `tasks` in order as one batch. An error ends the process: an entry is never skipped.
    pub fn run_once(&mut self, tasks: Vec<ApplyTask>) -> Result<ApplyDone, Fatal> {
        let mut done = ApplyDone::default();
        let mut shares: Vec<Share> = Vec::new();
        for task in tasks {
            gather(&mut shares, task);
        }
        let (mut batch, rests): (Vec<GroupApply>, Vec<Rest>) =
            shares.into_iter().map(Share::split).unzip();
        let with_entries = batch.iter().any(|apply| !apply.entries.is_empty());
        if with_entries {
            batch.retain(|apply| !apply.entries.is_empty());
            self.state_machine.apply(&mut batch)?;
        }
        let mut applied = batch.into_iter().peekable();
        for rest in rests {
            let index = match applied.next_if(|apply| apply.group == rest.group) {
                Some(apply) => answer(apply, rest.callers, &mut done),
                None => 0,
            };
            for event in rest.roles {
                self.tell(rest.group, event);
            }
            let note = Applied { group: rest.group, index, bytes: rest.bytes };
            match done.applied.iter_mut().find(|(shard, _)| *shard == rest.shard) {
                Some((_, list)) => list.push(note),
                None => done.applied.push((rest.shard, vec![note])),
            }
        }
        Ok(done)
    }

    fn tell(&self, group: GroupId, event: RoleEvent) {
        match event {
            RoleEvent::LeaderStart(term) => self.state_machine.on_leader_start(group, term),
            RoleEvent::LeaderStop(reason) => self.state_machine.on_leader_stop(group, reason),
        }
    }
}

struct Rest {
    group: GroupId,
    callers: Vec<Vec<Reply>>,
    roles: Vec<RoleEvent>,
    shard: usize,
    bytes: usize,
}

impl Share {
    fn split(self) -> (GroupApply, Rest) {
        let rest = Rest {
            group: self.apply.group,
            callers: self.callers,
            roles: self.roles,
            shard: self.shard,
            bytes: self.bytes,
        };
        (self.apply, rest)
    }
}

/// Adds `task` to its group's share. A role event follows its entries; entries that come after
/// one in the same batch are applied before it is told, which no state machine can tell apart
/// from a slow callback.
fn gather(shares: &mut Vec<Share>, task: ApplyTask) {
    let at = shares.iter().position(|s| s.apply.group == task.group).unwrap_or_else(|| {
        let apply = GroupApply {
            group: task.group,
            entries: Vec::new(),
            commit: task.commit,
            answer: false,
            answers: Vec::new(),
        };
        shares.push(Share {
            apply,
            callers: Vec::new(),
            roles: Vec::new(),
            shard: task.shard,
            bytes: 0,
        });
        shares.len() - 1
    });
    let share = &mut shares[at];
    share.bytes += task.bytes;
    share.roles.extend(task.role);
    if !task.entries.is_empty() {
        share.apply.commit = task.commit;
    }
    for Committed { entry, callers } in task.entries {
        share.apply.answer |= !callers.is_empty();
        share.apply.entries.push(entry);
        share.callers.push(callers);
    }
}

/// Pairs callers with answers; the last applied index.
fn answer(apply: GroupApply, callers: Vec<Vec<Reply>>, done: &mut ApplyDone) -> u64 {
    let commands: usize = apply.entries.iter().map(|e| e.commands.len()).sum();
    assert!(
        !apply.answer || apply.answers.len() == commands,
        "group {}: {} answers for {commands} commands",
        apply.group,
        apply.answers.len()
    );
    let index = apply.entries.last().map_or(0, |e: &ApplyEntry| e.position.index);
    let mut answers = apply.answers.into_iter();
    for (entry, callers) in apply.entries.iter().zip(callers) {
        let mut own = answers.by_ref().take(entry.commands.len());
        for caller in callers {
            let result = own.next().expect("one caller a command");
            done.replies.push((caller, Ok(Answer::Applied(result))));
        }
        own.for_each(drop);
    }
    index
}
