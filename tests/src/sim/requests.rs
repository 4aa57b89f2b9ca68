//! The way of an operation: from a client to a node, through the product, and back.

use super::clients::{Attempt, Live, Seen, Wish};
use super::clock::{MICROS, MILLIS, SECONDS};
use super::codec;
use super::world::{Event, Work, World};
use crate::history;
use flotilla_kvserver::kv::Reader;
use flotilla_raftstore::message::ShardMessage;
use flotilla_raftstore::{Answer, Error, Fatal, Outcome, ReadMode, Reply, Request};
use rand::Rng;

/// How long a client waits for an operation, all its attempts together.
const PATIENCE: u64 = 4 * SECONDS;

impl World {
    /// A client begins its next operation.
    pub(super) fn client_next(&mut self, client: usize) {
        if !self.clients.closed {
            let operation = self.clients.begin(client, &mut self.rng);
            self.after(PATIENCE, Event::Timeout(operation));
            self.attempt(operation);
        }
    }

    /// The final read of a region.
    pub(super) fn audit(&mut self, region: usize) {
        let operation = self.clients.begin_audit(region);
        self.after(PATIENCE, Event::Timeout(operation));
        self.attempt(operation);
    }

    /// Sends an operation on its way once more.
    fn attempt(&mut self, operation: u64) {
        let ticket = self.clients.id();
        let Some(live) = self.clients.live.get_mut(&operation) else { return };
        live.ticket = ticket;
        let (client, region, mode) = (live.client, live.region, live.mode);
        let anywhere = matches!(mode, ReadMode::Follower | ReadMode::Stale { .. });
        let node = if anywhere {
            self.rng.random_range(0..self.nodes.len())
        } else {
            self.clients.leader(client)
        };
        let (incarnation, floor, lacks_room) = (None, 0, false);
        let attempt = Attempt { operation, node, region, incarnation, floor, lacks_room };
        self.clients.attempts.insert(ticket, attempt);
        let delay = self.rng.random_range(50 * MICROS..MILLIS);
        self.after(delay, Event::Request(node, ticket));
    }

    /// A request arrives at a node.
    pub(super) fn request(&mut self, node: usize, ticket: u64) {
        if let Some(until) = self.paused(node) {
            return self.after(until - self.now, Event::Request(node, ticket));
        }
        let Some(attempt) = self.clients.attempts.get(&ticket) else { return };
        let group = self.regions[attempt.region].group;
        let operation = attempt.operation;
        let lacks_room = self.leads_without_room(node, group, operation);
        let Some(attempt) = self.clients.attempts.get_mut(&ticket) else { return };
        let Some(process) = &self.nodes[node].process else {
            self.clients.attempts.remove(&ticket);
            let delay = self.rng.random_range(50 * MICROS..MILLIS);
            let refused = Err(Error::NotLeader { group, leader: None });
            return self.after(delay, Event::Answer(ticket, refused));
        };
        attempt.incarnation = Some(self.nodes[node].incarnation);
        attempt.floor = self.invariants.read_floor(group);
        attempt.lacks_room = lacks_room;
        let Some(live) = self.clients.live.get(&attempt.operation) else {
            self.clients.attempts.remove(&ticket); // The client gave up before it was sent.
            return;
        };
        let reply = process.reply(ticket);
        let request = if live.wish.is_write() {
            let (command, takes_away) = (live.command.clone(), live.wish.takes_away());
            Request::Propose { group, command, takes_away, reply }
        } else {
            if let ReadMode::Stale { .. } = live.mode {
                attempt.floor = 0; // Its history tells.
            }
            Request::ReadBarrier { group, mode: live.mode, reply }
        };
        let shard = process.shard_of(group);
        self.note("request: ticket, group", node, [ticket, group.0, 0]);
        self.tell(node, shard, ShardMessage::Requests(vec![request]));
    }

    /// Hands leadership of a region to another store.
    pub(super) fn transfer(&mut self, region: usize, node: usize, to: usize) {
        let group = self.regions[region].group;
        let store = self.nodes[to].store;
        let Some(to) = self.desc_on(node, group).and_then(|desc| desc.on_store(store)) else {
            return;
        };
        let to = to.replica;
        let order = |reply| Request::TransferLeader { group, to, reply };
        if let Some(ticket) = self.order(region, node, order) {
            self.note_transfer(node, group, ticket);
        }
    }

    /// Gives a node an order that no client asked for; its ticket.
    pub(super) fn order(
        &mut self,
        region: usize,
        node: usize,
        request: impl FnOnce(Reply) -> Request,
    ) -> Option<u64> {
        let process = self.nodes[node].process.as_ref()?;
        let ticket = self.clients.id();
        let incarnation = Some(self.nodes[node].incarnation);
        let (operation, floor, lacks_room) = (0, 0, false);
        let attempt = Attempt { operation, node, region, incarnation, floor, lacks_room };
        self.clients.attempts.insert(ticket, attempt);
        let request = request(process.reply(ticket));
        let shard = process.shard_of(self.regions[region].group);
        self.tell(node, shard, ShardMessage::Requests(vec![request]));
        Some(ticket)
    }

    /// The product completed a request.
    pub(super) fn completed(&mut self, node: usize, ticket: u64, outcome: Outcome) {
        let Some(attempt) = self.clients.attempts.get(&ticket).copied() else {
            self.violations.push(format!("request {ticket} was answered twice: {outcome:?}"));
            return;
        };
        self.note("outcome: ticket, ok", node, [ticket, u64::from(outcome.is_ok()), 0]);
        let group = self.regions[attempt.region].group;
        match &outcome {
            Ok(Answer::ReadReady) => {
                let problem = self.invariants.read_ready(node, group, attempt.floor);
                self.violations.extend(problem);
                let delay = self.jitter();
                return self.work_after(delay, node, Work::Read(ticket));
            }
            Ok(Answer::Applied(_)) => {
                let live = self.clients.live.get(&attempt.operation);
                if let Some(hash) = live.map(|l| l.hash) {
                    let problem = self.invariants.acknowledge(node, group, hash);
                    self.violations.extend(problem);
                }
                if attempt.lacks_room {
                    self.written_without_room(node, group, attempt.operation);
                }
            }
            Ok(Answer::Accepted | Answer::SnapshotMade { .. }) => {
                self.accepted(node, group, ticket)
            }
            Err(Error::Refused { .. }) => self.counts.add("membership changes refused"),
            Err(Error::NotTransferred { .. }) => self.counts.add("leader transfers refused"),
            Err(Error::DiskFull { .. }) => self.counts.add("writes refused for want of room"),
            Err(Error::Busy { .. }) => self.counts.add("busy answers"),
            Err(Error::Unknown { .. }) => self.counts.add("unknown outcomes"),
            Err(Error::Failed { .. }) => self.counts.add("answers of failed state machines"),
            Err(Error::Stopped { .. }) => self.counts.add("refusals of stopped replicas"),
            Err(Error::TooOld { .. }) => self.counts.add("reads too old"),
            Err(_) => {}
        }
        if outcome.as_ref().is_err_and(|error| !error.is_unknown()) {
            self.recovery_refused(attempt.region, ticket);
        }
        self.clients.attempts.remove(&ticket);
        let delay = self.rng.random_range(50 * MICROS..MILLIS);
        self.after(delay, Event::Answer(ticket, outcome));
    }

    /// A service thread reads after its barrier.
    pub(super) fn read(&mut self, node: usize, ticket: u64) -> Result<(), Fatal> {
        let Some(attempt) = self.clients.attempts.remove(&ticket) else { return Ok(()) };
        let Some(live) = self.clients.live.get(&attempt.operation) else { return Ok(()) };
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let reader = Reader::new(process.state_machine().clone());
        let seen = self.look(&reader, live).unwrap_or_else(Seen::Refused);
        let delay = self.rng.random_range(50 * MICROS..MILLIS);
        self.note("read: ticket", node, [ticket, 0, 0]);
        self.after(delay, Event::ReadAnswer(ticket, seen));
        Ok(())
    }

    fn look(&self, reader: &Reader, live: &Live) -> Result<Seen, String> {
        let meta = &self.regions[live.region];
        let (registers, sets) = self.clients.targets(live);
        let mut got = codec::registers(reader, meta, &registers)?;
        let mut elements = Vec::new();
        for set in sets {
            elements.push((set, codec::elements(reader, meta, set)?));
        }
        Ok(match live.wish {
            Wish::Get(_) => Seen::Register(got.remove(0).1),
            Wish::Members(_) => Seen::Elements(elements.remove(0).1),
            _ => Seen::All(got, elements),
        })
    }

    /// The operation that still waits for this ticket.
    fn waiting_for(&self, ticket: u64) -> Option<u64> {
        self.clients.live.iter().find(|(_, live)| live.ticket == ticket).map(|(id, _)| *id)
    }

    /// An outcome arrives at its client.
    pub(super) fn client_answer(&mut self, ticket: u64, outcome: Outcome) {
        self.clients.attempts.remove(&ticket);
        let Some(operation) = self.waiting_for(ticket) else { return };
        let live = &self.clients.live[&operation];
        let (client, stale) = (live.client, matches!(live.wish, Wish::Stale(..)));
        match outcome {
            Ok(Answer::Applied(bytes)) => match (codec::answer(&bytes), stale) {
                (Ok(revision), false) => {
                    self.end(operation, history::Outcome::Written { revision });
                }
                (Err(_), true) => {
                    self.counts.add("stale requests refused");
                    self.end(operation, history::Outcome::NotApplied);
                }
                (answer, _) => self.violations.push(format!(
                    "a {} command was answered with {answer:?}: {:?}",
                    if stale { "stale" } else { "good" },
                    self.clients.live[&operation].wish
                )),
            },
            Ok(other) => self.violations.push(format!("a write was answered with {other:?}")),
            Err(error) if error.is_unknown() => self.end(operation, history::Outcome::Unknown),
            Err(Error::Invalid { group, reason }) => {
                self.violations
                    .push(format!("group {group}: a good request was invalid: {reason}"));
            }
            Err(error) => {
                let hint = match error {
                    Error::NotLeader { leader, .. } => {
                        leader.map(|l| Some((l.store.0 - 1) as usize)).unwrap_or_default()
                    }
                    Error::Busy { .. } => Some(self.clients.leader(client)),
                    _ => None,
                };
                self.clients.follow(client, hint, &mut self.rng);
                self.retry(operation);
            }
        }
    }

    fn retry(&mut self, operation: u64) {
        let Some(live) = self.clients.live.get_mut(&operation) else { return };
        live.ticket = 0;
        let delay = self.rng.random_range(5 * MILLIS..100 * MILLIS);
        self.after(delay, Event::Again(operation));
    }

    /// A client asks again after a refusal.
    pub(super) fn client_again(&mut self, operation: u64) {
        self.attempt(operation);
    }

    /// A read's result arrives at its client.
    pub(super) fn client_read_answer(&mut self, ticket: u64, seen: Seen) {
        let Some(operation) = self.waiting_for(ticket) else { return };
        let client = self.clients.live[&operation].client;
        let audit = self.clients.live[&operation].wish == Wish::Audit;
        if let Seen::Refused(why) = &seen {
            self.violations.push(format!("a good read was refused: {why}"));
        }
        self.clients.end_read(operation, seen);
        self.counts.add(if audit { "audits" } else { "reads answered" });
        self.pause_client(client);
    }

    /// A client gives up on an operation. Between attempts everything was refused; otherwise the
    /// last attempt may take effect at any later time.
    pub(super) fn client_timeout(&mut self, operation: u64) {
        let Some(live) = self.clients.live.get(&operation) else { return };
        let (client, ticket) = (live.client, live.ticket);
        self.clients.follow(client, None, &mut self.rng);
        let refused = ticket == 0;
        self.counts.add("operations timed out");
        self.end(
            operation,
            if refused { history::Outcome::NotApplied } else { history::Outcome::Unknown },
        );
    }

    fn end(&mut self, operation: u64, outcome: history::Outcome) {
        let client = self.clients.live[&operation].client;
        if matches!(outcome, history::Outcome::Written { .. }) {
            self.counts.add("writes acknowledged");
            let deleted = self.clients.live[&operation].wish.takes_away();
            self.counts.add_many("deletes acknowledged", u64::from(deleted));
        }
        self.clients.end(operation, outcome);
        self.pause_client(client);
    }

    fn pause_client(&mut self, client: usize) {
        let think = self.rng.random_range(MILLIS..=self.plan.think_max);
        self.after(think, Event::Next(client));
    }
}
