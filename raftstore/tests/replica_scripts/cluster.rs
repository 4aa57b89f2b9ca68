//! The stores of a script, the network between them, and the commands.

use super::store::{Spoiled, Store};
use bytes::Bytes;
use flotilla_raftstore::message::{DurableApplied, ShardMessage};
use flotilla_raftstore::snapshot::MemorySnapshots;
use flotilla_raftstore::{
    Answer, Change, ChangeRequest, Completion, Envelope, Fatal, GroupDesc, GroupId, GroupRecord,
    Nanos, OperationId, Outcome, Priority, ReadMode, RecoverRequest, ReplicaDesc, ReplicaId,
    ReplicaRole, Reply, Request, Role, Shortage, StateMachine, StoreId,
};
use goldenscript::{Command, Context};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

const GROUP: GroupId = GroupId(1);
const STORES: u64 = 5;
/// The first ones have the group from the beginning.
const MEMBERS: u64 = 3;
const TICKS_MAX: usize = 60;
const TICK_MS: u64 = 100;

#[derive(Default)]
struct Answers(Mutex<Vec<(u64, Outcome)>>);

impl Completion for Answers {
    fn complete(&self, ticket: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((ticket, outcome));
    }
}

/// See the module.
#[derive(Default)]
pub struct Cluster {
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

fn read_mode(how: Option<&str>) -> Result<ReadMode, Box<dyn Error>> {
    Ok(match how {
        None => ReadMode::Linearizable,
        Some("lease") => ReadMode::Lease,
        Some("follower") => ReadMode::Follower,
        Some(other) => return Err(format!("read how: {other}?").into()),
    })
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
            self.stores.insert(id.0, Store::start(id, &made)?);
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
            "recover" => {
                let operation = OperationId(more.ok_or("which operation?")?.parse()?);
                let (mut lost, mut gone) = (Vec::new(), Vec::new());
                while let Some(part) = args.next_pos() {
                    match part.strip_prefix("gone/") {
                        Some(replica) => gone.push(ReplicaId(replica.parse()?)),
                        None => lost.push(StoreId(part.parse()?)),
                    }
                }
                let request = RecoverRequest { operation, lost, gone, replica_max: ReplicaId(0) };
                self.ask(&store, |reply| Request::Recover { group: GROUP, request, reply })?;
                self.settle()?;
            }
            "leave" => {
                self.store(&store)?.inbox.push(ShardMessage::Leave);
                self.settle()?;
            }
            "sync" => {
                let target = self.store(&store)?;
                target.journal.sync().map_err(|fatal| fatal.to_string())?;
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
            "timed" => {
                self.store(&store)?.interval_s = more.as_deref().unwrap_or("0").parse()?;
                self.store(&store)?.restart()?;
            }
            "made" => {
                let made = self.store(&store)?.made;
                writeln!(out, "store {store}: {made} snapshots made")?;
            }
            "hold" => self.store(&store)?.held = Some(Vec::new()),
            "lose" => {
                self.store(&store)?.lose();
                self.settle()?;
            }
            "release" => {
                self.store(&store)?.release()?;
                self.settle()?;
            }
            "disk" => {
                let free = more.map(|mib| mib.parse::<u64>()).transpose()?;
                let limit = 100 << 20;
                let shortage = free.map(|mib| Shortage { free: mib << 20, limit });
                let target = self.store(&store)?;
                target.room.measured(shortage);
                let room = Arc::clone(&target.room);
                target.inbox.push(ShardMessage::Disk(shortage, room));
                self.settle()?;
            }
            "spoil" => {
                let off = more.as_deref() == Some("off");
                self.store(&store)?.spoiled = (!off).then_some(Spoiled::Loads);
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
            "restart" => self.store(&store)?.restart()?,
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
    if what == "rebuild" {
        return Ok(Change::Rebuild { replica, new: ReplicaId(at.parse()?) });
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
