//! The simulated cluster: one event heap, one clock, one seed.
//!
//! Every step pops the earliest event, moves the clock to it, lets one part of the product run
//! once, carries its effects to where they go, and checks the invariants. Nothing else moves
//! time, and one source of randomness decides everything, so a seed is a run.

use super::changes::Changes;
use super::clients::Clients;
use super::clock::{Clocks, MICROS, MILLIS};
use super::codec;
use super::counts::Counts;
use super::disk::NO_SPACE;
use super::lost::Loss;
use super::net::Net;
use super::node::Node;
use super::swarm::Plan;
use super::trace::Trace;
use crate::invariants::Invariants;
use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::message::{Asker, FetchTask};
use flotilla_raftstore::snapshot::Manifest;
use flotilla_raftstore::{Config, Envelope, Moment, Outcome, ReplicaId, SnapshotId, StoreId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Something that happens to one process; void once that process is gone.
#[derive(Debug)]
pub enum Work {
    /// A shard drains its inbox.
    Round(usize),
    /// The ticker ticks.
    Tick,
    /// The log writer takes what is queued and hands it to the disk.
    LogStart,
    /// The disk has it.
    LogDone,
    /// The apply worker takes what is queued.
    ApplyStart,
    /// Its results are out.
    ApplyDone,
    /// The maintenance thread begins an engine sync.
    SyncStart,
    /// The sync is over.
    SyncDone,
    /// A snapshot thread has a snapshot made.
    SnapshotMake(Asker, SnapshotId, bool),
    /// The next block of a snapshot on its way comes, or does not.
    SnapshotBlock(u64),
    /// A snapshot thread gives one to the state machine.
    SnapshotLoad(Asker, Box<Manifest>),
    /// A snapshot thread deletes one.
    SnapshotRemove(SnapshotId),
    /// The thread that destroys states is done with the first that waits.
    Destroy,
    /// Somebody reads what is damaged.
    FindDamage,
    /// The reader thread does these reads.
    Fetch(Vec<FetchTask>),
    /// A service thread reads the engine after the barrier of this ticket.
    Read(u64),
}

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    /// To the process of a node (by place) in one incarnation.
    Process(usize, u64, Work),
    /// A frame arrives: from store, at node.
    Deliver(StoreId, usize, Vec<Envelope>),
    /// A node's transport notices that a store is out of reach.
    Unreachable(usize, StoreId),
    /// A request of a client arrives at a node.
    Request(usize, u64),
    /// An answer arrives at its client.
    Answer(u64, Outcome),
    /// A read's answer arrives at its client.
    ReadAnswer(u64, super::clients::Seen),
    /// A client has waited long enough for its operation.
    Timeout(u64),
    /// A client asks for its operation again.
    Again(u64),
    /// A client begins its next operation.
    Next(usize),
    /// The next fault.
    Fault,
    /// The next state machine that fails at an entry.
    ApplyFails,
    /// The next thing that happens to a clock.
    Clock,
    /// The next follower that is away while another one hears no leader.
    Absence,
    /// It goes: node, and the leader that does not reach it when it is back.
    Away(usize, usize),
    /// The next thing that happens to a disk.
    Disk,
    /// A node's disk has room again.
    Space(usize),
    /// The next disk that runs short of room.
    Shortage,
    /// A node's disk is not short of room any more.
    Room(usize),
    /// The next state that is damaged.
    Damage,
    /// A majority is lost for good.
    Lose,
    /// The operator looks after those who lost their majority.
    Operate,
    /// The next store that loses its disks.
    Wipe,
    /// The operator looks after a node that was wiped.
    Rebuild(usize),
    /// The next change of a group's members.
    Change,
    /// The operator has every group get the members that are to stay.
    Settle,
    /// A learner of a region (by place) goes again, soon after it was added.
    Regret(usize, ReplicaId),
    /// A node that was told to stop ends, if it is in this incarnation still, for so long.
    Leave(usize, u64, u64),
    /// A node starts again.
    Start(usize),
    /// A direction is mended.
    Mend(u64, u64),
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module.
pub struct World {
    pub(super) plan: Plan,
    pub(super) config: Arc<Config>,
    pub(super) rng: SmallRng,
    pub(super) regions: Vec<RegionMeta>,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(super) clients: Clients,
    pub(super) invariants: Invariants,
    /// What was asked about members.
    pub(super) changes: Changes,
    /// The members are those that are to stay: something may be lost.
    pub(super) settled: bool,
    /// The majority that was lost.
    pub(super) loss: Option<Loss>,
    /// Faults go on.
    pub(super) stormy: bool,
    /// Bytes of messages with entries that came to each node.
    pub(super) log_bytes_received: Vec<u64>,
    /// What each node's clocks show.
    pub(super) clocks: Vec<Clocks>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    /// How often things happened.
    pub counts: Counts,
    /// What happened.
    pub trace: Trace,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Simulated time.
    pub now: u64,
}

impl World {
    /// A cluster by plan, all stores switched off.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let regions: Vec<RegionMeta> =
            (0..plan.groups).map(|n| codec::region(n, plan.groups, plan.members)).collect();
        World {
            config: Arc::new(plan.config.clone()),
            rng: SmallRng::seed_from_u64(plan.seed),
            nodes: (1..=plan.stores)
                .map(|store| Node::new(StoreId(store), plan.table_bytes_max))
                .collect(),
            net: Net::new(plan.weather),
            clients: Clients::new(&plan, &regions),
            invariants: Invariants::new(&plan, &regions),
            changes: Changes::default(),
            settled: plan.calm_at.is_none(),
            loss: None,
            stormy: true,
            log_bytes_received: vec![0; plan.stores as usize],
            clocks: plan.clocks(),
            heap: BinaryHeap::new(),
            order: 0,
            counts: Counts::default(),
            trace: Trace::default(),
            violations: Vec::new(),
            now: 0,
            regions,
            plan,
        }
    }

    /// Schedules `event` in `delay` nanoseconds.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Scheduled { at: self.now + delay, order: self.order, event }));
    }

    /// Schedules work of the process that runs on a node now.
    pub(super) fn work_after(&mut self, delay: u64, node: usize, work: Work) {
        let incarnation = self.nodes[node].incarnation;
        self.after(delay, Event::Process(node, incarnation, work));
    }

    /// A short random delay, as threads and loopback have.
    pub(super) fn jitter(&mut self) -> u64 {
        self.rng.random_range(5 * MICROS..200 * MICROS)
    }

    /// Records an event of a node.
    pub(super) fn note(&mut self, what: &'static str, node: usize, numbers: [u64; 3]) {
        self.trace.record(self.now, what, node as u64 + 1, numbers);
    }

    /// Runs until `done` says so or time is up; gives whether it was done. Stops at a violation.
    pub fn run_until(&mut self, until: u64, done: impl Fn(&World) -> bool) -> bool {
        while self.violations.is_empty() {
            if done(self) {
                return true;
            }
            match self.heap.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => {
                    self.now = self.now.max(until);
                    return false;
                }
            }
            let Reverse(next) = self.heap.pop().expect("peeked just now");
            self.now = next.at;
            self.clients.now = self.now;
            self.step(next.event);
        }
        false
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Process(node, incarnation, work) => self.process_step(node, incarnation, work),
            Event::Deliver(from, node, envelopes) => self.deliver(from, node, envelopes),
            Event::Unreachable(node, store) => self.unreachable(node, store),
            Event::Request(node, ticket) => self.request(node, ticket),
            Event::Answer(ticket, outcome) => self.client_answer(ticket, outcome),
            Event::ReadAnswer(ticket, seen) => self.client_read_answer(ticket, seen),
            Event::Timeout(operation) => self.client_timeout(operation),
            Event::Again(operation) => self.client_again(operation),
            Event::Next(client) => self.client_next(client),
            Event::Fault => self.next_fault(),
            Event::ApplyFails => self.next_apply_failure(),
            Event::Clock => self.next_clock(),
            Event::Disk => self.next_disk_fault(),
            Event::Space(node) => self.space(node),
            Event::Shortage => self.next_shortage(),
            Event::Room(node) => self.room(node),
            Event::Damage => self.next_damage(),
            Event::Lose => self.lose_majority(),
            Event::Operate => self.operate(),
            Event::Absence => self.next_absence(),
            Event::Away(node, leader) => self.away(node, leader),
            Event::Wipe => self.next_wipe(),
            Event::Rebuild(node) => self.rebuild(node),
            Event::Change => self.next_change(),
            Event::Settle => self.settle(),
            Event::Regret(region, replica) => self.regret(region, replica),
            Event::Leave(node, incarnation, time) => self.leave(node, incarnation, time),
            Event::Start(node) => self.start(node),
            Event::Mend(from, to) => self.net.mend(from, to),
        }
    }

    fn process_step(&mut self, node: usize, incarnation: u64, work: Work) {
        let target = &self.nodes[node];
        if target.incarnation != incarnation || target.process.is_none() {
            return;
        }
        if target.paused_until > self.now {
            let wait = target.paused_until - self.now;
            return self.after(wait, Event::Process(node, incarnation, work));
        }
        self.work(node, work);
        self.after_work(node);
    }

    /// Whether a node's process stands still; then until when.
    pub(super) fn paused(&self, node: usize) -> Option<u64> {
        let until = self.nodes[node].paused_until;
        (until > self.now).then_some(until)
    }

    /// Switches a node on.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let away_until = self.nodes[node].away_until;
        if away_until > self.now {
            return self.after(away_until - self.now, Event::Start(node));
        }
        // Opening files takes room as well; sometimes there is just enough.
        if self.nodes[node].full_until > self.now && self.rng.random_bool(0.5) {
            return self.start_without_room(node);
        }
        let (config, seed) = (Arc::clone(&self.config), self.plan.seed);
        let started = self.nodes[node].start(&config, &self.regions, seed);
        let incarnation = self.nodes[node].incarnation;
        self.note("start", node, [incarnation, 0, 0]);
        if incarnation > 1 {
            self.counts.add("restarts from disk");
        }
        match started {
            Ok(recovered) => {
                let machine =
                    self.nodes[node].process.as_ref().map(|p| p.state_machine().regions());
                let problems =
                    self.invariants.started(node, &recovered, &machine.unwrap_or_default());
                self.violations.extend(problems);
            }
            Err(why) if why.contains(NO_SPACE) => {
                self.nodes[node].crash(false, &mut self.rng);
                return self.start_without_room(node);
            }
            Err(why) => self.violations.push(format!("store {}: no start: {why}", node + 1)),
        }
        for shard in 0..self.config.shards {
            self.wake(node, shard);
        }
        if self.nodes[node].short.is_some() {
            self.tell_room(node);
        }
        self.keep_damage(node);
        let tick = self.rng.random_range(0..self.config.tick_interval_ms * MILLIS);
        self.work_after(tick, node, Work::Tick);
        let sync = self.rng.random_range(0..self.config.sync_interval_ms * MILLIS);
        self.work_after(sync, node, Work::SyncStart);
        self.after_work(node);
    }

    /// Switches a node off at once; its callers find their connections broken.
    pub(super) fn crash(&mut self, node: usize, power_cut: bool, down_for: u64) {
        if self.nodes[node].process.is_none() {
            return;
        }
        let (log, engine_lost) = self.nodes[node].crash(power_cut, &mut self.rng);
        self.note("crash", node, [u64::from(power_cut), log.lost as u64, engine_lost as u64]);
        self.counts.add(if power_cut { "power cuts" } else { "kills" });
        self.counts.add_many("log writes kept in a crash", log.kept as u64);
        self.counts.add_many("log writes lost in a crash", log.lost as u64);
        self.counts.add_many("log writes torn in a crash", log.torn as u64);
        self.counts.add_many("engine writes lost in a crash", engine_lost as u64);
        self.invariants.crashed(node);
        self.break_connections(node);
        self.after(down_for, Event::Start(node));
    }

    /// Hands an operation's broken connections to its clients.
    fn break_connections(&mut self, node: usize) {
        for ticket in self.clients.tickets_on(node) {
            let group = self.clients.group_of(ticket);
            let delay = self.jitter();
            let error = flotilla_raftstore::Error::Unknown { group };
            self.after(delay, Event::Answer(ticket, Err(error)));
        }
    }

    /// What a node's clocks show.
    pub(super) fn moment(&self, node: usize) -> Moment {
        self.clocks[node].read(self.now)
    }

    /// Ends a node's pause.
    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused_until = 0;
    }
}
