//! The apply worker: everything queued goes into the state machine in one atomic batch.

use super::{ApplyEntry, GroupApply, StateMachine};
use crate::completion::{Answer, Outcome, Reply};
use crate::error::Fatal;
use crate::members::GroupDesc;
use crate::message::{Applied, ApplyTask, Committed, RoleEvent};
use crate::types::{GroupId, ReplicaId};
use rustc_hash::FxHashMap;
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

/// What the state machine is told behind the entries.
enum Event {
    Role(RoleEvent),
    Members(Arc<GroupDesc>),
}

/// One group's share of the batch, while it is put together.
struct Share {
    apply: GroupApply,
    callers: Vec<Vec<Reply>>,
    events: Vec<Event>,
    replica: ReplicaId,
    shard: usize,
    bytes: usize,
}

impl ApplyWorker {
    /// A worker for `state_machine`.
    #[must_use]
    pub fn new(state_machine: Arc<dyn StateMachine>) -> Self {
        ApplyWorker { state_machine }
    }

    /// See [`StateMachine::may_wait`].
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.state_machine.may_wait()
    }

    /// Applies `tasks` in order as one batch. An error ends the process: an entry is never skipped.
    pub fn run_once(&mut self, tasks: Vec<ApplyTask>) -> Result<ApplyDone, Fatal> {
        let mut done = ApplyDone::default();
        let shares = gather(tasks);
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
            let Rest { group, replica, bytes, .. } = rest;
            let mut destroyed = false;
            for event in rest.events {
                destroyed |= matches!(event, Event::Role(RoleEvent::Destroy));
                self.tell(group, event)?;
            }
            let note = Applied { group, replica, index, bytes, destroyed };
            match done.applied.iter_mut().find(|(shard, _)| *shard == rest.shard) {
                Some((_, list)) => list.push(note),
                None => done.applied.push((rest.shard, vec![note])),
            }
        }
        Ok(done)
    }

    fn tell(&self, group: GroupId, event: Event) -> Result<(), Fatal> {
        let machine = &self.state_machine;
        match event {
            Event::Role(RoleEvent::LeaderStart(term)) => machine.on_leader_start(group, term),
            Event::Role(RoleEvent::LeaderStop(reason)) => machine.on_leader_stop(group, reason),
            Event::Role(RoleEvent::Destroy) => machine.destroy(group)?,
            Event::Members(members) => machine.on_membership(group, &members),
        }
        Ok(())
    }
}

struct Rest {
    group: GroupId,
    replica: ReplicaId,
    callers: Vec<Vec<Reply>>,
    events: Vec<Event>,
    shard: usize,
    bytes: usize,
}

impl Share {
    /// Nothing yet, for the group of `task`.
    fn new(task: &ApplyTask) -> Self {
        let apply = GroupApply {
            group: task.group,
            entries: Vec::with_capacity(task.entries.len()),
            commit: task.commit,
            answer: false,
            answers: Vec::new(),
        };
        let callers = Vec::with_capacity(task.entries.len());
        let (replica, shard) = (task.replica, task.shard);
        Share { apply, callers, events: Vec::new(), replica, shard, bytes: 0 }
    }

    fn add(&mut self, task: ApplyTask) {
        self.bytes += task.bytes;
        if !task.entries.is_empty() {
            self.apply.commit = task.commit;
        }
        for Committed { entry, callers } in task.entries {
            self.apply.answer |= !callers.is_empty();
            self.events.extend(entry.members.clone().map(Event::Members));
            self.apply.entries.push(entry);
            self.callers.push(callers);
        }
        self.events.extend(task.role.map(Event::Role));
    }

    fn split(self) -> (GroupApply, Rest) {
        let rest = Rest {
            group: self.apply.group,
            replica: self.replica,
            callers: self.callers,
            events: self.events,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::AppliedState;
    use crate::completion::OnceCompletion;
    use crate::types::LogPosition;
    use bytes::Bytes;
    use parking_lot::Mutex;

    /// Answers every command with itself.
    #[derive(Default)]
    struct Echo(Mutex<Vec<(GroupId, Vec<u64>)>>);

    impl StateMachine for Echo {
        fn recovered(&self, _group: GroupId) -> AppliedState {
            AppliedState::default()
        }

        fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
            for apply in batch {
                apply.answers = apply.entries.iter().flat_map(|e| e.commands.clone()).collect();
                let indexes = apply.entries.iter().map(|e| e.position.index).collect();
                self.0.lock().push((apply.group, indexes));
            }
            Ok(())
        }

        fn sync(&self) -> Result<(), Fatal> {
            Ok(())
        }

        fn destroy(&self, _group: GroupId) -> Result<(), Fatal> {
            Ok(())
        }

        fn snapshot_save(
            &self,
            _group: GroupId,
            _out: &mut dyn std::io::Write,
        ) -> Result<Option<u64>, Fatal> {
            Ok(None)
        }

        fn snapshot_load(
            &self,
            _group: GroupId,
            _position: LogPosition,
            _from: &mut dyn std::io::Read,
        ) -> Result<(), Fatal> {
            Ok(())
        }
    }

    #[test]
    fn tasks_of_a_group_merge_and_every_caller_gets_its_own_answer() {
        let (sender, answers) = std::sync::mpsc::channel();
        let task = |group: u64, index: u64| {
            let position = LogPosition { index, term: 1 };
            let (sender, command) = (sender.clone(), Bytes::from(format!("{group}/{index}")));
            let asked = command.clone();
            let caller = OnceCompletion::reply(move |got| sender.send((asked, got)).unwrap());
            let entry = ApplyEntry { position, commands: vec![command], members: None };
            let entries = vec![Committed { entry, callers: vec![caller] }];
            let (group, shard) = (GroupId(group), group as usize % 2);
            let (replica, role) = (ReplicaId(1), None);
            ApplyTask { shard, group, replica, entries, commit: position, bytes: 10, role }
        };
        let machine = Arc::new(Echo::default());
        let mut worker = ApplyWorker::new(machine.clone());
        let order = [(3, 1), (2, 5), (3, 2), (1, 9), (2, 6)];
        let done = worker.run_once(order.map(|(group, index)| task(group, index)).into()).unwrap();

        let applied = [(GroupId(3), vec![1, 2]), (GroupId(2), vec![5, 6]), (GroupId(1), vec![9])];
        assert_eq!(*machine.0.lock(), applied, "groups in the order in which they first came");
        let note = |group, index, bytes| {
            let (group, replica) = (GroupId(group), ReplicaId(1));
            Applied { group, replica, index, bytes, destroyed: false }
        };
        let odd = vec![note(3, 2, 20), note(1, 9, 10)];
        assert_eq!(done.applied, [(1, odd), (0, vec![note(2, 6, 20)])]);
        Reply::send_all(done.replies);
        for (asked, got) in answers.try_iter() {
            assert_eq!(got, Ok(Answer::Applied(asked)));
        }
    }
}
