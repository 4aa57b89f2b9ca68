use super::*;
use crate::completion::OnceCompletion;
use crate::types::{GroupDesc, LogPosition};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::sync::mpsc;

/// Answers every command with itself, fails at "bad", and notes all that it is told.
#[derive(Default)]
struct Echo {
    applied: Mutex<Vec<(GroupId, Vec<u64>)>>,
    told: Mutex<Vec<String>>,
}

impl Echo {
    fn tell(&self, text: String) {
        self.told.lock().push(text);
    }

    fn take_told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock())
    }
}

impl StateMachine for Echo {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        for apply in batch {
            apply.each(|_, command| match &command[..] {
                b"bad" => Err("no".to_owned()),
                _ => Ok(command.clone()),
            });
            let reached = apply.applied().map_or(0, |position| position.index);
            let indexes = apply.entries.iter().map(|e| e.position.index);
            let indexes = indexes.filter(|index| *index <= reached).collect();
            self.applied.lock().push((apply.group, indexes));
        }
        Ok(())
    }

    fn snapshot_save(&self, _group: GroupId, _out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        Ok(None)
    }

    fn snapshot_load(
        &self,
        _group: GroupId,
        _position: LogPosition,
        _from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        Ok(())
    }

    fn destroy(&self, group: GroupId) -> Result<(), Fatal> {
        self.tell(format!("{group} destroy"));
        Ok(())
    }

    fn on_leader_start(&self, group: GroupId, term: u64) {
        self.tell(format!("{group} leads in {term}"));
    }

    fn on_leader_stop(&self, group: GroupId, reason: LeaderStop) {
        self.tell(format!("{group} leads no longer: {reason:?}"));
    }

    fn on_following_start(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.tell(format!("{group} follows {leader} in {term}"));
    }

    fn on_following_stop(&self, group: GroupId, leader: ReplicaId, term: u64) {
        self.tell(format!("{group} follows {leader} in {term} no longer"));
    }

    fn on_membership(&self, group: GroupId, members: &GroupDesc) {
        self.tell(format!("{group} members of entry {}", members.membership.position.index));
    }

    fn on_error(&self, group: GroupId, error: &Error) {
        assert!(matches!(error, Error::Stopped { .. } | Error::Quarantined { .. }));
        self.tell(format!("{group} error: {error}"));
    }
}

/// A worker with its state machine, and the answers of its callers by their command.
struct Bench {
    machine: Arc<Echo>,
    worker: ApplyWorker,
    sender: mpsc::Sender<(String, Outcome)>,
    answers: mpsc::Receiver<(String, Outcome)>,
}

impl Bench {
    fn new() -> Bench {
        let machine = Arc::new(Echo::default());
        let (sender, answers) = mpsc::channel();
        Bench { worker: ApplyWorker::new(machine.clone()), machine, sender, answers }
    }

    fn caller(&self, command: &str) -> Reply {
        let (sender, command) = (self.sender.clone(), command.to_owned());
        OnceCompletion::reply(move |outcome| sender.send((command, outcome)).unwrap())
    }

    /// Entries from `index` on, each of one command that somebody waits for.
    fn entries(&self, group: u64, index: u64, commands: &[&'static str]) -> ApplyTask {
        let entries: Vec<Committed> = (index..)
            .zip(commands)
            .map(|(index, command)| {
                let position = LogPosition { index, term: 1 };
                let commands = vec![Bytes::from_static(command.as_bytes())];
                let entry = ApplyEntry { position, commands, members: None };
                Committed { entry, callers: vec![self.caller(command)] }
            })
            .collect();
        let commit = entries.last().map_or(LogPosition::default(), |c| c.entry.position);
        let (group, shard) = (GroupId(group), group as usize % 2);
        let bytes = 10 * entries.len();
        let (replica, proposed, notice) = (ReplicaId(1), None, None);
        ApplyTask { shard, group, replica, entries, commit, bytes, proposed, notice }
    }

    fn run(&mut self, tasks: Vec<ApplyTask>) -> Vec<Applied> {
        let done = self.worker.run_once(tasks).unwrap();
        Reply::send_all(done.replies);
        for (_, note) in done.destroys {
            self.machine.destroy(note.group).unwrap();
        }
        done.applied.into_iter().flat_map(|(_, applied)| applied).collect()
    }

    fn answered(&self) -> Vec<(String, Outcome)> {
        self.answers.try_iter().collect()
    }
}

fn notice(group: u64, notice: Notice) -> ApplyTask {
    ApplyTask::notice(group as usize % 2, GroupId(group), ReplicaId(1), notice)
}

/// A large state takes seconds to destroy: not between the applies of other groups.
#[test]
fn a_state_is_left_to_be_destroyed_by_who_has_time() {
    let mut bench = Bench::new();
    let tasks = vec![
        bench.entries(1, 1, &["a"]),
        notice(1, Notice::Ends(LeaderStop::Removed)),
        notice(1, Notice::Destroy),
        bench.entries(2, 1, &["b"]),
    ];
    let left = bench.worker.run_once(tasks).unwrap();
    let applied: Vec<u64> = left.applied.iter().flat_map(|(_, a)| a).map(|a| a.group.0).collect();
    assert_eq!(applied, [2], "the shard of the other hears when it is destroyed");
    let destroys: Vec<_> = left.destroys.iter().map(|(shard, a)| (*shard, a.group.0)).collect();
    assert_eq!(destroys, [(1, 1)]);
    Reply::send_all(left.replies);
    assert_eq!(bench.answered().len(), 2, "what came before it is answered");
}

fn leads(group: u64, term: u64) -> ApplyTask {
    notice(group, Notice::Becomes(Standing::Leads { term }))
}

fn follows(group: u64, leader: u64, term: u64) -> ApplyTask {
    let leader = ReplicaId(leader);
    notice(group, Notice::Becomes(Standing::Follows { leader, term }))
}

#[test]
fn tasks_of_a_group_merge_and_every_caller_gets_its_own_answer() {
    let mut bench = Bench::new();
    let tasks = vec![
        bench.entries(3, 1, &["3/1"]),
        bench.entries(2, 5, &["2/5"]),
        bench.entries(3, 2, &["3/2"]),
        bench.entries(1, 9, &["1/9"]),
        bench.entries(2, 6, &["2/6"]),
    ];
    let applied = bench.run(tasks);
    let expected = [(GroupId(3), vec![1, 2]), (GroupId(2), vec![5, 6]), (GroupId(1), vec![9])];
    assert_eq!(*bench.machine.applied.lock(), expected, "in the order in which they first came");
    let note = |group, index, bytes| {
        let (group, replica) = (GroupId(group), ReplicaId(1));
        Applied { group, replica, index, bytes, destroyed: false, failure: None }
    };
    assert_eq!(applied, [note(3, 2, 20), note(1, 9, 10), note(2, 6, 20)], "by shard");
    let answered = bench.answered();
    assert_eq!(answered.len(), 5);
    for (asked, got) in answered {
        assert_eq!(got, Ok(Answer::Applied(Bytes::from(asked))));
    }
}

#[test]
fn every_part_ends_before_the_next_begins() {
    let mut bench = Bench::new();
    bench.run(vec![follows(1, 2, 3), follows(1, 2, 3 + 1)]);
    bench.run(vec![leads(1, 5), follows(2, 9, 1)]);
    bench.run(vec![notice(1, Notice::Becomes(Standing::Idle { term: 6 }))]);
    bench.run(vec![leads(1, 7), notice(1, Notice::Ends(LeaderStop::Closing))]);
    bench.run(vec![notice(2, Notice::Ends(LeaderStop::Removed)), notice(2, Notice::Destroy)]);
    let (of_1, of_2): (Vec<String>, Vec<String>) =
        bench.machine.take_told().into_iter().partition(|told| told.starts_with('1'));
    assert_eq!(
        of_1,
        [
            "1 follows 2 in 3",
            "1 follows 2 in 3 no longer",
            "1 follows 2 in 4",
            "1 follows 2 in 4 no longer",
            "1 leads in 5",
            "1 leads no longer: SteppedDown { term: 6 }",
            "1 leads in 7",
            "1 leads no longer: Closing",
        ]
    );
    assert_eq!(of_2, ["2 follows 9 in 1", "2 follows 9 in 1 no longer", "2 destroy"]);
}

fn stopped(index: u64) -> Error {
    Error::Failed { group: GroupId(1), index, reason: "no".to_owned() }
}

#[test]
fn a_group_that_fails_stops_at_its_entry_and_others_go_on() {
    let mut bench = Bench::new();
    bench.run(vec![leads(1, 4)]);
    bench.machine.take_told();
    let mut members = bench.entries(1, 9, &["after"]);
    let mut desc = GroupDesc::new(GroupId(1), Vec::new());
    desc.membership.position.index = 9;
    members.entries[0].entry.members = Some(Arc::new(desc));
    let tasks = vec![
        bench.entries(1, 7, &["good", "bad"]),
        members,
        follows(1, 3, 5),
        bench.entries(2, 1, &["other"]),
    ];
    let applied = bench.run(tasks);
    let failure = Some(ApplyError { index: 8, reason: "no".to_owned() });
    let (group, replica, bytes) = (GroupId(1), ReplicaId(1), 30);
    let of_1 = Applied { group, replica, index: 7, bytes, destroyed: false, failure };
    assert!(applied.contains(&of_1), "{applied:?}");
    let given = bench.machine.applied.lock().clone();
    assert_eq!(given[0], (GroupId(1), vec![7]));
    let ok = |text: &str| (text.to_owned(), Ok(Answer::Applied(Bytes::from(text.to_owned()))));
    let unknown = |text: &str| (text.to_owned(), Err(stopped(8)));
    let mut answered = bench.answered();
    answered.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(answered, [unknown("after"), unknown("bad"), ok("good"), ok("other")]);
    let told = bench.machine.take_told();
    assert_eq!(told[0], "1 leads no longer: Failed");
    assert!(told[1].starts_with("1 error: group 1: this replica stopped at entry 8"), "{told:?}");
    assert_eq!(told.len(), 2, "no members and no part from then on: {told:?}");

    let tasks = vec![bench.entries(1, 10, &["late"]), leads(1, 6), bench.entries(2, 2, &["on"])];
    let applied = bench.run(tasks);
    assert_eq!(applied.iter().map(|note| note.bytes).sum::<usize>(), 20, "all bytes come back");
    assert!(applied.iter().all(|note| note.failure.is_none()), "it is told once");
    assert_eq!(bench.answered(), [unknown("late"), ok("on")]);
    assert!(bench.machine.take_told().is_empty());
    assert_eq!(bench.machine.applied.lock().iter().filter(|(g, _)| g.0 == 1).count(), 1);

    bench.run(vec![notice(1, Notice::Destroy)]);
    bench.run(vec![bench.entries(1, 1, &["anew"])]);
    assert_eq!(bench.answered(), [ok("anew")], "another replica may begin");
}

#[test]
fn a_replica_that_is_found_damaged_ends_with_its_error() {
    let mut bench = Bench::new();
    let error = Error::Quarantined { group: GroupId(1), reason: "a hole".to_owned() };
    bench.run(vec![follows(1, 2, 3), notice(1, Notice::Fails(error.clone()))]);
    let end = format!("1 error: {error}");
    let told = bench.machine.take_told();
    assert_eq!(told, ["1 follows 2 in 3", "1 follows 2 in 3 no longer", &end]);
}

/// Says of itself what cannot be.
struct Liar(Lie);

type Lie = fn(&mut GroupApply);

impl StateMachine for Liar {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        batch.iter_mut().for_each(self.0);
        Ok(())
    }

    fn snapshot_save(&self, _group: GroupId, _out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        Ok(None)
    }

    fn snapshot_load(
        &self,
        _group: GroupId,
        _position: LogPosition,
        _from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        Ok(())
    }
}

#[test]
fn a_state_machine_that_breaks_its_contract_ends_the_process() {
    let lies: [(Lie, &str); 3] = [
        (|_| {}, "0 answers for 1 commands"),
        (|apply| apply.fail(77, "?"), "entry 77: ?, which it was not given"),
        (|apply| apply.answers = vec![Bytes::new(); 2], "2 answers for 1 commands"),
    ];
    for (lie, text) in lies {
        let bench = Bench::new();
        let mut worker = ApplyWorker::new(Arc::new(Liar(lie)));
        let fatal = worker.run_once(vec![bench.entries(1, 1, &["asked"])]).unwrap_err();
        assert!(fatal.to_string().contains(text), "{fatal}");
    }
}
