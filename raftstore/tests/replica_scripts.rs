//! Golden scripts of replica behaviour: one group on three of five stores, stepped by hand.
//!
//! A script in `scripts/` is a list of commands and what they print. Nothing runs by itself: no
//! threads, and a clock that goes on by 100 ms with every tick of a store, or of all of them. `UPDATE_GOLDENFILES=1` writes the outputs anew; read the difference.
//!
//! - `tick STORE [COUNT]` ticks; `ticks COUNT` ticks all stores; `elect STORE` ticks it alone until
//!   it leads.
//! - `settle` delivers and writes until nothing is left to do.
//! - `propose STORE TEXT`, `transfer STORE TO` and `read STORE [HOW]` ask, and print what is answered;
//!   HOW is `lease` or `follower`.
//! - `wait MS` lets time pass without a tick; `lease STORE` says whether it has one.
//! - `freeze STORE`, `thaw STORE` stop and release its disk: writes wait, held messages too.
//! - `cut STORE`, `mend STORE` take it off the network and back; `restart STORE` starts it anew
//!   from its log, losing what waits for the disk.
//! - `change STORE OPERATION PART…` asks for a change of the members; the parts are
//!   `voter/ID@STORE`, `learner/ID@STORE`, `promote/ID`, `demote/ID`, `remove/ID`,
//!   `priority/ID@PRIORITY`, `cancel/OPERATION` and `force`.
//! - `leave STORE` tells it that it is about to stop.
//! - `keep STORE` remembers what is sent to a store from now on, `replay STORE` sends it again.
//! - `sync STORE` makes its state durable, so that its log can be cut; at most four entries of a log are
//!   kept for a member that lags. `snapshot STORE` has one made.
//! - `fail STORE TEXT` has its state machine fail at that command, `fail STORE` at none. `told STORE`
//!   prints what its callbacks were told since the last time.
//! - `disk STORE MIB` says that so much of its disk is free, with a limit of 100; `disk STORE` that it has
//!   room. `delete STORE TEXT` proposes what only takes away.
//! - `damage STORE` says that its state was found damaged.
//! - `status` prints every replica, `members STORE` the members as one knows them, `record STORE`
//!   what its log has of the group.

use bytes::Bytes;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::message::{
    ApplyTask, DurableApplied, LogTask, ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask,
};
use flotilla_raftstore::snapshot::{MemorySnapshots, Receiving};
use flotilla_raftstore::{
    Answer, AppliedState, ApplyWorker, Change, ChangeRequest, Completion, Config, Envelope, Fatal,
    GroupApply, GroupDesc, GroupId, GroupRecord, LeaderStop, LogPosition, LogStore, LogWriter,
    Membership, Nanos, OperationId, Outcome, Priority, ReadMode, ReplicaDesc, ReplicaId,
    ReplicaRole, Reply, Request, Role, Shard, ShardConfig, Shortage, SnapshotStore, SnapshotWorker,
    StateMachine, StoreId, reader, recover,
};
use goldenscript::{Command, Context};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const GROUP: GroupId = GroupId(1);
const STORES: u64 = 5;
/// The first ones have the group from the beginning.
const MEMBERS: u64 = 3;
const TICKS_MAX: usize = 60;
const TICK_MS: u64 = 100;

/// Answers with the commands applied so far, joined: the last one shows the order of all.
#[derive(Default)]
struct Journal(Mutex<State>);

#[derive(Default)]
struct State {
    applied: AppliedState,
    commands: Vec<String>,
    /// It fails at this one.
    bad: Option<String>,
    told: Vec<String>,
}

impl Journal {
    fn state(&self) -> MutexGuard<'_, State> {
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
        let written = out.write_all(state.commands.join(",").as_bytes());
        written.map_err(|e| Fatal::new("save", e))?;
        Ok(Some(state.applied.applied))
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

#[derive(Default)]
struct Answers(Mutex<Vec<(u64, Outcome)>>);

impl Completion for Answers {
    fn complete(&self, ticket: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((ticket, outcome));
    }
}

struct Store {
    id: StoreId,
    shard: Shard,
    inbox: Vec<ShardMessage>,
    log: Arc<MemoryLog>,
    journal: Arc<Journal>,
    to_log: Vec<LogTask>,
    to_apply: Vec<ApplyTask>,
    apply: ApplyWorker,
    /// One for all stores: whatever one has made, the others have received.
    snapshots: SnapshotWorker,
    frozen: bool,
    cut: bool,
    /// What was sent to it, when it is to be remembered.
    kept: Option<Vec<(StoreId, Vec<Envelope>)>>,
}

#[derive(Default)]
struct Cluster {
    stores: BTreeMap<u64, Store>,
    answers: Arc<Answers>,
    tickets: u64,
    now: Nanos,
}

fn record(store: StoreId) -> GroupRecord {
    let replica = |store| ReplicaDesc {
        replica: ReplicaId(store * 10),
        store: StoreId(store),
        role: ReplicaRole::Voter,
    };
    let desc = GroupDesc::new(GROUP, (1..=MEMBERS).map(replica).collect());
    GroupRecord::new(desc, ReplicaId(store.0 * 10))
}

fn apply_worker(journal: &Arc<Journal>) -> ApplyWorker {
    ApplyWorker::new(Arc::clone(journal) as Arc<dyn StateMachine>)
}

fn open(
    id: StoreId,
    log: &Arc<MemoryLog>,
    journal: &Arc<Journal>,
    snapshots: &SnapshotWorker,
) -> Result<Shard, Fatal> {
    let store_log = Arc::clone(log) as Arc<dyn LogStore>;
    let groups = recover(&*store_log, &**journal, snapshots).expect("a log in memory is readable");
    let config = Config {
        group_log_entries_max: 4,
        truncate_entries_min: 1,
        snapshot_retry_ticks: 6,
        ..Config::default()
    };
    let config = Arc::new(config);
    let parts = ShardConfig { config, shard: 0, store: id, seed: id.0, log: store_log };
    Shard::new(parts, groups)
}

fn read_mode(how: Option<&str>) -> Result<ReadMode, Box<dyn Error>> {
    Ok(match how {
        None => ReadMode::Linearizable,
        Some("lease") => ReadMode::Lease,
        Some("follower") => ReadMode::Follower,
        Some(other) => return Err(format!("read how: {other}?").into()),
    })
}

impl Store {
    /// One round; the messages that may leave at once.
    fn round(&mut self, now: Nanos) -> Result<Vec<(StoreId, Vec<Envelope>)>, Fatal> {
        let round = self.shard.round(std::mem::take(&mut self.inbox), now)?;
        self.to_log.extend(round.log);
        self.to_apply.extend(round.apply);
        let fetched = reader::fetch(&*self.log, round.fetch).into_iter().map(|(_, list)| list);
        self.inbox.extend(fetched.map(ShardMessage::Fetched));
        for task in round.snapshots {
            self.snapshot(task)?;
        }
        Ok(round.sends)
    }

    fn snapshot(&mut self, task: SnapshotTask) -> Result<(), Fatal> {
        let (asker, id, event) = match task {
            SnapshotTask::Make { asker, id } => {
                let made = self.snapshots.make(id, asker.group, &mut |_| Ok(()))?;
                (asker, id, SnapshotEvent::Made(made))
            }
            SnapshotTask::Fetch { asker, manifest, .. } => {
                let id = manifest.id;
                let receiving = Receiving::resume(self.snapshots.store(), manifest);
                let received = receiving.and_then(Receiving::finish);
                let received = received.map_err(|error| error.to_string());
                (asker, id, SnapshotEvent::Received(received))
            }
            SnapshotTask::Load { asker, manifest } => {
                let loaded = self.snapshots.load(&manifest, &mut |_| Ok(()));
                let loaded = loaded.map_err(|error| format!("{error:?}"));
                (asker, manifest.id, SnapshotEvent::Loaded(loaded))
            }
            SnapshotTask::Remove(_) => return Ok(()),
        };
        self.inbox.push(ShardMessage::Snapshots(vec![SnapshotNote { asker, id, event }]));
        Ok(())
    }

    /// Writes what waits for the disk, applies what is committed; the messages released by that.
    fn work(&mut self) -> Result<Vec<(StoreId, Vec<Envelope>)>, Fatal> {
        let mut held = Vec::new();
        if !self.frozen && !self.to_log.is_empty() {
            let mut writer = LogWriter::new(Arc::clone(&self.log) as Arc<dyn LogStore>);
            let done = writer.run_once(std::mem::take(&mut self.to_log))?;
            let persisted = done.persisted.into_iter().map(|(_, list)| list);
            self.inbox.extend(persisted.map(ShardMessage::Persisted));
            done.created.into_iter().for_each(|reply| reply.send(Ok(Answer::Accepted)));
            held = done.held;
        }
        if !self.to_apply.is_empty() {
            let done = self.apply.run_once(std::mem::take(&mut self.to_apply))?;
            done.replies.into_iter().for_each(|(reply, outcome)| reply.send(outcome));
            let applied = done.applied.into_iter().map(|(_, list)| list);
            self.inbox.extend(applied.map(ShardMessage::Applied));
        }
        Ok(held)
    }

    fn idle(&self) -> bool {
        let disk_waits = !self.to_log.is_empty() && !self.frozen;
        self.inbox.is_empty() && self.to_apply.is_empty() && !disk_waits
    }

    fn role(&self) -> Option<Role> {
        self.shard.statuses().first().map(|replica| replica.role)
    }

    fn members(&self) -> String {
        let Some(view) = self.shard.views().into_iter().next() else {
            return format!("store {}: no replica", self.id);
        };
        let desc = view.record.desc;
        let member = |r: &ReplicaDesc| format!("{} {}@{}", r.role, r.replica, r.store);
        let members: Vec<String> = desc.replicas.iter().map(member).collect();
        let Membership { version, position, pending, priorities, .. } = desc.membership;
        let pending = pending.map(|p| format!(", pending {}", p.operation.0)).unwrap_or_default();
        let (id, index, members) = (self.id, position.index, members.join(", "));
        let priority =
            |(id, priority): (&ReplicaId, &Priority)| format!(", {id} priority {priority}");
        let priorities: String = priorities.iter().map(priority).collect();
        format!("store {id}: version {version} at index {index}: {members}{pending}{priorities}")
    }

    fn record(&self) -> String {
        let logs = self.log.load().expect("a log in memory is readable");
        let Some(log) = logs.first() else { return format!("store {}: nothing", self.id) };
        let what = if log.record.removed { "tombstone of replica" } else { "replica" };
        let (id, replica) = (self.id, log.record.replica);
        format!("store {id}: {what} {replica}, log up to {}", log.last_index)
    }

    fn status(&mut self) -> Option<String> {
        let statuses = self.shard.describe();
        let replica = statuses.first()?;
        let role = match replica.role {
            Role::Leader => "leader",
            Role::Stopped => "stopped",
            Role::Quarantined => "quarantined",
            _ => "follower",
        };
        Some(format!(
            "store {}: {role} term={} commit={} applied={} persisted={} first={} last={}",
            self.id,
            replica.term,
            replica.commit,
            replica.applied,
            replica.persisted,
            replica.first_index,
            replica.last_index
        ))
    }
}

impl Cluster {
    fn store(&mut self, name: &str) -> Result<&mut Store, Box<dyn Error>> {
        Ok(self.stores.get_mut(&name.parse()?).ok_or("no such store")?)
    }

    fn deliver(&mut self, from: u64, sends: Vec<(StoreId, Vec<Envelope>)>) {
        let from_cut = self.stores[&from].cut;
        for (to, envelopes) in sends {
            let target = self.stores.get_mut(&to.0).expect("five stores");
            if let Some(kept) = &mut target.kept {
                kept.push((StoreId(from), envelopes.clone()));
            }
            if !from_cut && !target.cut {
                target.inbox.push(ShardMessage::Deliver { from: StoreId(from), envelopes });
            }
        }
    }

    fn settle(&mut self) -> Result<(), Fatal> {
        let now = self.now;
        while self.stores.values().any(|store| !store.idle()) {
            for id in 1..=STORES {
                let store = self.stores.get_mut(&id).expect("five stores");
                let sends = store.round(now)?;
                self.deliver(id, sends);
                let held = self.stores.get_mut(&id).expect("five stores").work()?;
                self.deliver(id, held);
            }
        }
        Ok(())
    }

    fn ask(
        &mut self,
        store: &str,
        request: impl FnOnce(Reply) -> Request,
    ) -> Result<(), Box<dyn Error>> {
        self.tickets += 1;
        let reply = Reply::new(Arc::clone(&self.answers) as Arc<dyn Completion>, self.tickets);
        self.store(store)?.inbox.push(ShardMessage::Requests(vec![request(reply)]));
        Ok(())
    }

    fn take_answers(&mut self, out: &mut String) {
        for (ticket, outcome) in self.answers.0.lock().unwrap().drain(..) {
            let text = match outcome {
                Ok(Answer::Applied(journal)) => {
                    format!("applied, journal {}", String::from_utf8_lossy(&journal))
                }
                Ok(other) => format!("{other:?}"),
                Err(error) => format!("refused: {error}"),
            };
            let _ = writeln!(out, "request {ticket}: {text}");
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now = Nanos(self.now.0 + milliseconds * 1_000_000);
    }

    fn tick(&mut self, store: &str) -> Result<(), Box<dyn Error>> {
        self.store(store)?.inbox.push(ShardMessage::Tick);
        Ok(self.settle()?)
    }

    fn elect(&mut self, store: &str) -> Result<(), Box<dyn Error>> {
        for _ in 0..TICKS_MAX {
            if self.store(store)?.role() == Some(Role::Leader) {
                return Ok(self.settle()?);
            }
            self.pass(TICK_MS);
            self.tick(store)?;
        }
        Err(format!("store {store} does not lead after {TICKS_MAX} ticks").into())
    }
}

impl goldenscript::Runner for Cluster {
    type Command = Command;

    fn start_script(&mut self) -> Result<(), Box<dyn Error>> {
        let made = MemorySnapshots::new();
        for id in (1..=STORES).map(StoreId) {
            let (log, journal) = (MemoryLog::new(), Arc::new(Journal::default()));
            let machine = Arc::clone(&journal) as Arc<dyn StateMachine>;
            let store = Arc::clone(&made) as Arc<dyn SnapshotStore>;
            let snapshots = SnapshotWorker::new(store, machine, 4);
            let shard = open(id, &log, &journal, &snapshots)?;
            let (inbox, to_log, to_apply) = (Vec::new(), Vec::new(), Vec::new());
            let apply = apply_worker(&journal);
            let (frozen, cut, kept) = (false, false, None);
            let store = Store {
                id,
                shard,
                inbox,
                log,
                journal,
                to_log,
                to_apply,
                apply,
                snapshots,
                frozen,
                cut,
                kept,
            };
            self.stores.insert(id.0, store);
            if id.0 <= MEMBERS {
                let record = record(id);
                self.ask(&id.to_string(), |reply| Request::CreateGroup { record, reply })?;
            }
        }
        self.settle()?;
        self.answers.0.lock().unwrap().clear();
        self.tickets = 0;
        Ok(())
    }

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let store = args.next_pos().unwrap_or_default().to_owned();
        let more = args.next_pos().map(str::to_owned);
        let mut out = String::new();
        match command.name.as_str() {
            "tick" => {
                let count: usize = more.as_deref().unwrap_or("1").parse()?;
                for _ in 0..count {
                    self.pass(TICK_MS);
                    self.tick(&store)?;
                }
            }
            "ticks" => {
                for _ in 0..store.parse()? {
                    self.pass(TICK_MS);
                    (1..=STORES).try_for_each(|id| self.tick(&id.to_string()))?;
                }
            }
            "elect" => self.elect(&store)?,
            "settle" => self.settle()?,
            "propose" | "delete" => {
                let text = Bytes::from(more.ok_or("what?")?);
                let (group, takes_away) = (GROUP, command.name == "delete");
                let propose = |reply| Request::Propose { group, command: text, takes_away, reply };
                self.ask(&store, propose)?;
                self.settle()?;
            }
            "read" => {
                let mode = read_mode(more.as_deref())?;
                self.ask(&store, |reply| Request::ReadBarrier { group: GROUP, mode, reply })?;
                self.settle()?;
            }
            "wait" => self.pass(store.parse()?),
            "lease" => {
                let moment = self.now.into();
                let holds = self.store(&store)?.shard.leased_term(GROUP, moment).is_some();
                let _ =
                    writeln!(out, "store {store}: {}", if holds { "a lease" } else { "no lease" });
            }
            "transfer" => {
                let to = ReplicaId(more.ok_or("to whom?")?.parse::<u64>()? * 10);
                self.ask(&store, |reply| Request::TransferLeader { group: GROUP, to, reply })?;
                self.settle()?;
            }
            "change" => {
                let operation = OperationId(more.ok_or("which operation?")?.parse()?);
                let mut request = ChangeRequest { operation, changes: Vec::new(), force: false };
                while let Some(part) = args.next_pos() {
                    match part {
                        "force" => request.force = true,
                        part => request.changes.push(parse_change(part)?),
                    }
                }
                let ask = |reply| Request::ChangeMembers { group: GROUP, request, reply };
                self.ask(&store, ask)?;
                self.settle()?;
            }
            "leave" => {
                self.store(&store)?.inbox.push(ShardMessage::Leave);
                self.settle()?;
            }
            "sync" => {
                let target = self.store(&store)?;
                let durable = target.journal.recovered(GROUP).applied;
                let replica = target.shard.statuses().first().ok_or("no replica")?.replica;
                let log_needed = target.journal.log_needed(GROUP);
                let durable = DurableApplied { group: GROUP, replica, index: durable, log_needed };
                target.inbox.push(ShardMessage::DurableApplied(vec![durable]));
                self.settle()?;
            }
            "snapshot" => {
                self.ask(&store, |reply| Request::Snapshot { group: GROUP, reply })?;
                self.settle()?;
            }
            "disk" => {
                let free = more.map(|mib| mib.parse::<u64>()).transpose()?;
                let limit = 100 << 20;
                let shortage = free.map(|mib| Shortage { free: mib << 20, limit });
                self.store(&store)?.inbox.push(ShardMessage::Disk(shortage));
                self.settle()?;
            }
            "damage" => {
                let target = self.store(&store)?;
                let replica = target.shard.statuses().first().ok_or("no replica")?.replica;
                let reason = "a block does not match its checksum".to_owned();
                let (group, inbox) = (GROUP, &mut target.inbox);
                inbox.push(ShardMessage::StateDamaged { group, replica, reason });
                self.settle()?;
            }
            "fail" => self.store(&store)?.journal.state().bad = more,
            "told" => {
                let told = std::mem::take(&mut self.store(&store)?.journal.state().told);
                told.iter().try_for_each(|text| writeln!(out, "store {store}: {text}"))?;
            }
            "keep" => self.store(&store)?.kept = Some(Vec::new()),
            "replay" => {
                let target = self.store(&store)?;
                let kept = target.kept.take().ok_or("nothing was kept")?;
                let deliver = |(from, envelopes)| ShardMessage::Deliver { from, envelopes };
                target.inbox.extend(kept.into_iter().map(deliver));
                self.settle()?;
            }
            "members" => writeln!(out, "{}", self.store(&store)?.members())?,
            "record" => writeln!(out, "{}", self.store(&store)?.record())?,
            "freeze" => self.store(&store)?.frozen = true,
            "thaw" => {
                self.store(&store)?.frozen = false;
                self.settle()?;
            }
            "cut" => self.store(&store)?.cut = true,
            "mend" => self.store(&store)?.cut = false,
            "restart" => {
                let store = self.store(&store)?;
                store.shard = open(store.id, &store.log, &store.journal, &store.snapshots)?;
                (store.inbox, store.to_log, store.to_apply) = (Vec::new(), Vec::new(), Vec::new());
                store.apply = apply_worker(&store.journal);
                store.frozen = false;
            }
            "status" => {
                for status in self.stores.values_mut().filter_map(Store::status) {
                    writeln!(out, "{status}")?;
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        self.take_answers(&mut out);
        Ok(out)
    }
}

fn parse_change(part: &str) -> Result<Change, Box<dyn Error>> {
    let (what, whom) = part.split_once('/').ok_or("WHAT/WHOM")?;
    let (replica, at) = whom.split_once('@').unwrap_or((whom, "0"));
    let replica = ReplicaId(replica.parse()?);
    if what == "priority" {
        let priority = Priority(at.parse()?);
        return Ok(Change::SetPriority { replica, priority });
    }
    let store = StoreId(at.parse()?);
    Ok(match what {
        "voter" => Change::AddVoter { replica, store },
        "learner" => Change::AddLearner { replica, store },
        "promote" => Change::Promote(replica),
        "demote" => Change::Demote(replica),
        "remove" => Change::Remove(replica),
        "cancel" => Change::Cancel(OperationId(u128::from(replica.0))),
        other => return Err(format!("unknown change {other}").into()),
    })
}

fn script(name: &str) {
    let path = format!("tests/scripts/{name}");
    goldenscript::run(&mut Cluster::default(), path).expect("the script can be run");
}

#[test]
fn election() {
    script("election");
}

#[test]
fn replication() {
    script("replication");
}

#[test]
fn restart() {
    script("restart");
}

#[test]
fn members_are_replaced() {
    script("members_replace");
}

#[test]
fn members_are_not_changed_against_the_rules() {
    script("members_refusals");
}

/// Bug 25: several membership changes in flight.
#[test]
fn members_change_one_at_a_time() {
    script("members_one_at_a_time");
}

#[test]
fn a_leader_leaves() {
    script("members_leader");
}

/// Bugs 18 and 26: nobody comes back, and a message for another replica is not taken.
#[test]
fn a_tombstone_stays() {
    script("members_tombstone");
}

/// Bug 24: what is applied is what was committed.
#[test]
fn members_survive_restarts() {
    script("members_restart");
}

/// Bug 24: so is what a snapshot holds.
#[test]
fn a_snapshot_holds_committed_members() {
    script("members_snapshot");
}

/// Bug 17: it counts as a quorum only once its disk has what it says.
#[test]
fn a_sole_voter_waits_for_its_disk() {
    script("sole_voter");
}

#[test]
fn read_index() {
    script("read_index");
}

#[test]
fn term_change() {
    script("term_change");
}

#[test]
fn transfer() {
    script("transfer");
}

/// Bug 3: a paused leader, and one that is cut off, serves by its lease for as long as it holds. Bug
/// 38: a stall costs the lease until the next answers, not more.
#[test]
fn a_lease_ends_in_time() {
    script("lease_expires");
}

#[test]
fn a_lease_serves_reads() {
    script("lease");
}

/// Bug 4: a lease is not kept through a leader transfer.
#[test]
fn a_lease_is_given_up_for_a_transfer() {
    script("lease_transfer");
}

/// Bugs 5 and 7: a follower's read is not dropped silently, and fails with the leadership that it asked.
#[test]
fn followers_read() {
    script("follower_read");
}

/// Bug 2: each question has a name of its own.
#[test]
fn a_late_answer_confirms_no_later_read() {
    script("read_late");
}

/// Bug 4, for reads that ask a quorum.
#[test]
fn a_transfer_ends_by_its_deadline() {
    script("transfer_deadline");
}

#[test]
fn the_preferred_one_leads() {
    script("priority");
}

#[test]
fn a_store_leads_nothing_when_it_stops() {
    script("leave");
}

/// In order, and each part ends before the next begins.
#[test]
fn callbacks() {
    script("callbacks");
}

/// At the same entry again after a restart, and no further; the others go on.
#[test]
fn a_state_machine_that_fails_stops_its_replica() {
    script("apply_fails");
}

#[test]
fn snapshot() {
    script("snapshot");
}

/// Bug 35: what takes room is refused while no quorum has any; all else goes on.
#[test]
fn full_disks_refuse_writes() {
    script("full_disks");
}

/// One damaged replica is out until it is rebuilt; the others go on.
#[test]
fn a_damaged_state_quarantines_its_replica() {
    script("damaged_state");
}

/// A member without room for a snapshot is not sent one again and again, and gets it when it has room.
#[test]
fn a_snapshot_waits_for_room() {
    script("snapshot_no_room");
}
