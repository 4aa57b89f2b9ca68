//! Golden scripts of replica behaviour: three stores with one group, stepped by hand.
//!
//! A script in `scripts/` is a list of commands and what they print. Nothing runs by itself: no
//! clock, no threads. `UPDATE_GOLDENFILES=1` writes the outputs anew; read the difference.
//!
//! - `tick STORE [COUNT]` ticks; `elect STORE` ticks it alone until it leads.
//! - `settle` delivers and writes until nothing is left to do.
//! - `propose STORE TEXT`, `read STORE`, `transfer STORE TO` ask, and print what is answered.
//! - `freeze STORE`, `thaw STORE` stop and release its disk: writes wait, held messages too.
//! - `cut STORE`, `mend STORE` take it off the network and back; `restart STORE` starts it anew
//!   from its log, losing what waits for the disk.
//! - `status` prints every replica.

use bytes::Bytes;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::message::{ApplyTask, LogTask, ShardMessage};
use flotilla_raftstore::{
    Answer, AppliedState, ApplyWorker, Completion, Config, Envelope, Fatal, GroupApply, GroupDesc,
    GroupId, GroupRecord, LogStore, LogWriter, Nanos, Outcome, ReplicaDesc, ReplicaId, ReplicaRole,
    Reply, Request, Role, Shard, ShardConfig, StateMachine, StoreId, recover,
};
use goldenscript::{Command, Context};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

const GROUP: GroupId = GroupId(1);
const STORES: u64 = 3;
const TICKS_MAX: usize = 60;

/// Answers with the commands applied so far, joined: the last one shows the order of all.
#[derive(Default)]
struct Journal(Mutex<(AppliedState, Vec<String>)>);

impl StateMachine for Journal {
    fn recovered(&self, _group: GroupId) -> AppliedState {
        self.0.lock().unwrap().0
    }

    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let (state, journal) = &mut *self.0.lock().unwrap();
        for task in batch {
            for entry in &task.entries {
                assert_eq!(entry.position.index, state.applied + 1);
                state.applied = entry.position.index;
                for command in &entry.commands {
                    journal.push(String::from_utf8_lossy(command).into_owned());
                    task.answers.push(Bytes::from(journal.join(",")));
                }
            }
            state.commit = task.commit;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        Ok(())
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
    frozen: bool,
    cut: bool,
}

#[derive(Default)]
struct Cluster {
    stores: BTreeMap<u64, Store>,
    answers: Arc<Answers>,
    tickets: u64,
}

fn record(store: StoreId) -> GroupRecord {
    let replica = |store| ReplicaDesc {
        replica: ReplicaId(store * 10),
        store: StoreId(store),
        role: ReplicaRole::Voter,
    };
    let desc = GroupDesc { group: GROUP, replicas: (1..=STORES).map(replica).collect() };
    GroupRecord { desc, replica: ReplicaId(store.0 * 10) }
}

fn open(id: StoreId, log: &Arc<MemoryLog>, journal: &Arc<Journal>) -> Result<Shard, Fatal> {
    let store_log = Arc::clone(log) as Arc<dyn LogStore>;
    let groups = recover(&*store_log, &**journal).expect("a log in memory is readable");
    let config = Arc::new(Config::default());
    let parts = ShardConfig { config, shard: 0, store: id, seed: id.0, log: store_log };
    Shard::new(parts, groups)
}

impl Store {
    /// One round; the messages that may leave at once.
    fn round(&mut self) -> Result<Vec<(StoreId, Vec<Envelope>)>, Fatal> {
        let round = self.shard.round(std::mem::take(&mut self.inbox), Nanos(0))?;
        self.to_log.extend(round.log);
        self.to_apply.extend(round.apply);
        Ok(round.sends)
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
            let mut worker = ApplyWorker::new(Arc::clone(&self.journal) as Arc<dyn StateMachine>);
            let done = worker.run_once(std::mem::take(&mut self.to_apply))?;
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

    fn status(&mut self) -> String {
        let replica = &self.shard.describe()[0];
        let role = if replica.role == Role::Leader { "leader" } else { "follower" };
        format!(
            "store {}: {role} term={} commit={} applied={} persisted={} last={}",
            self.id,
            replica.term,
            replica.commit,
            replica.applied,
            replica.persisted,
            replica.last_index
        )
    }
}

impl Cluster {
    fn store(&mut self, name: &str) -> Result<&mut Store, Box<dyn Error>> {
        Ok(self.stores.get_mut(&name.parse()?).ok_or("no such store")?)
    }

    fn deliver(&mut self, from: u64, sends: Vec<(StoreId, Vec<Envelope>)>) {
        let from_cut = self.stores[&from].cut;
        for (to, envelopes) in sends {
            let target = self.stores.get_mut(&to.0).expect("three stores");
            if !from_cut && !target.cut {
                target.inbox.push(ShardMessage::Deliver { from: StoreId(from), envelopes });
            }
        }
    }

    fn settle(&mut self) -> Result<(), Fatal> {
        while self.stores.values().any(|store| !store.idle()) {
            for id in 1..=STORES {
                let store = self.stores.get_mut(&id).expect("three stores");
                let sends = store.round()?;
                self.deliver(id, sends);
                let held = self.stores.get_mut(&id).expect("three stores").work()?;
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

    fn tick(&mut self, store: &str) -> Result<(), Box<dyn Error>> {
        self.store(store)?.inbox.push(ShardMessage::Tick);
        Ok(self.settle()?)
    }

    fn elect(&mut self, store: &str) -> Result<(), Box<dyn Error>> {
        for _ in 0..TICKS_MAX {
            if self.store(store)?.shard.describe()[0].role == Role::Leader {
                return Ok(self.settle()?);
            }
            self.tick(store)?;
        }
        Err(format!("store {store} does not lead after {TICKS_MAX} ticks").into())
    }
}

impl goldenscript::Runner for Cluster {
    type Command = Command;

    fn start_script(&mut self) -> Result<(), Box<dyn Error>> {
        for id in (1..=STORES).map(StoreId) {
            let (log, journal) = (MemoryLog::new(), Arc::new(Journal::default()));
            let shard = open(id, &log, &journal)?;
            let (inbox, to_log, to_apply) = (Vec::new(), Vec::new(), Vec::new());
            let (frozen, cut) = (false, false);
            let store = Store { id, shard, inbox, log, journal, to_log, to_apply, frozen, cut };
            self.stores.insert(id.0, store);
            let record = record(id);
            self.ask(&id.to_string(), |reply| Request::CreateGroup { record, reply })?;
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
                (0..count).try_for_each(|_| self.tick(&store))?;
            }
            "elect" => self.elect(&store)?,
            "settle" => self.settle()?,
            "propose" => {
                let command = Bytes::from(more.ok_or("what?")?);
                self.ask(&store, |reply| Request::Propose { group: GROUP, command, reply })?;
                self.settle()?;
            }
            "read" => {
                self.ask(&store, |reply| Request::ReadBarrier { group: GROUP, reply })?;
                self.settle()?;
            }
            "transfer" => {
                let to = ReplicaId(more.ok_or("to whom?")?.parse::<u64>()? * 10);
                self.ask(&store, |reply| Request::TransferLeader { group: GROUP, to, reply })?;
                self.settle()?;
            }
            "freeze" => self.store(&store)?.frozen = true,
            "thaw" => {
                self.store(&store)?.frozen = false;
                self.settle()?;
            }
            "cut" => self.store(&store)?.cut = true,
            "mend" => self.store(&store)?.cut = false,
            "restart" => {
                let store = self.store(&store)?;
                store.shard = open(store.id, &store.log, &store.journal)?;
                (store.inbox, store.to_log, store.to_apply) = (Vec::new(), Vec::new(), Vec::new());
                store.frozen = false;
            }
            "status" => {
                for store in self.stores.values_mut() {
                    writeln!(out, "{}", store.status())?;
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        self.take_answers(&mut out);
        Ok(out)
    }
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
