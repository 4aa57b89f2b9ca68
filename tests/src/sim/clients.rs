//! The workload: clients that write and read registers and sets, one operation at a time.
//!
//! A client follows hints and repeats what was refused (refused means: not applied), and gives up
//! on what is unknown or takes too long. Keys rotate, so that no history of one key grows large.

use super::clock::MILLIS;
use super::codec::{self, Got, Key};
use super::swarm::Plan;
use super::watched::command_hash;
use crate::history::set::{Add, Added, Read};
use crate::history::{Action, Moment, OPEN, Operation, Outcome};
use bytes::Bytes;
use flotilla_kvserver::kv::{Epoch, RegionMeta};
use flotilla_raftstore::{GroupId, Nanos, ReadMode};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// Registers of a region in use at a time.
const REGISTERS: u64 = 3;
/// Operations after which a register is left for a fresh one.
const REGISTER_OPERATIONS: u32 = 60;
/// Adds after which a set is left for a fresh one.
const SET_ADDS: u64 = 40;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Write a register.
    Write(u64, Option<u64>),
    /// Read a register.
    Get(u64),
    /// Add an element to a set.
    Add(u64, u64),
    /// Read a set.
    Members(u64),
    /// A write that the state machine must refuse: of another epoch, or out of range.
    Stale(Epoch, Bytes),
    /// Read every register and set there ever was.
    Audit,
}

impl Wish {
    /// Whether it goes through the log.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Wish::Write(..) | Wish::Add(..) | Wish::Stale(..))
    }

    /// Whether it is a write that takes no room.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        matches!(self, Wish::Write(_, None))
    }
}

/// What a read saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A register.
    Register(Got),
    /// A set's elements.
    Elements(Vec<u64>),
    /// Everything.
    All(Vec<(u64, Got)>, Vec<(u64, Vec<u64>)>),
    /// The reader refused, in words.
    Refused(String),
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Live {
    /// Who asked.
    pub client: usize,
    /// Place of the region.
    pub region: usize,
    /// What is asked.
    pub wish: Wish,
    /// When it was asked.
    pub invoked: Moment,
    /// The ticket of the attempt under way; 0 between attempts.
    pub ticket: u64,
    /// How a read is asked.
    pub mode: ReadMode,
    /// The log command of a write.
    pub command: Bytes,
    /// Its hash.
    pub hash: u64,
    /// What comes of it is of no use: its group was recovered meanwhile.
    forgotten: bool,
}

/// One attempt at a node.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The operation; 0 for an order that no client gave.
    pub operation: u64,
    /// Place of the node asked.
    pub node: usize,
    /// Place of the region.
    pub region: usize,
    /// Its process, once the request has arrived.
    pub incarnation: Option<u64>,
    /// The index that a read must see.
    pub floor: u64,
    /// It is a write, and comes to a leader whose disk has hardly any room.
    pub lacks_room: bool,
}

/// What one region's clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Operations on registers.
    pub operations: Vec<Operation>,
    /// By set: adds and reads.
    pub sets: BTreeMap<u64, (Vec<Add>, Vec<Read>)>,
}

#[derive(Clone, Debug, Default)]
struct Region {
    history: History,
    /// Histories before this one, each ended by a recovery of the group.
    ended: Vec<History>,
    /// What is older was used in one of those only.
    first_register: u64,
    first_set: u64,
    /// Registers in use, with how often each was used.
    registers: [(u64, u32); REGISTERS as usize],
    registers_made: u64,
    set: u64,
    set_adds: u64,
}

/// All clients and what they saw.
pub struct Clients {
    regions: Vec<RegionMeta>,
    state: Vec<Region>,
    /// By client: its region, and where it believes the leader.
    clients: Vec<(usize, usize)>,
    stores: usize,
    /// Operations under way.
    pub live: BTreeMap<u64, Live>,
    /// Attempts without an outcome.
    pub attempts: BTreeMap<u64, Attempt>,
    /// No new operations.
    pub closed: bool,
    moment: Moment,
    /// Simulated time.
    pub now: u64,
    /// The last moment at each time that had one, ascending.
    moments: Vec<(u64, Moment)>,
    read_modes: bool,
    next_value: u64,
    next_id: u64,
}

impl Clients {
    /// Idle clients.
    #[must_use]
    pub fn new(plan: &Plan, regions: &[RegionMeta]) -> Self {
        let state = regions.iter().map(|_| {
            let mut region = Region { registers_made: REGISTERS, ..Region::default() };
            (0..REGISTERS).for_each(|r| region.registers[r as usize] = (r, 0));
            region
        });
        let clients = (0..plan.clients * plan.groups)
            .map(|client| ((client % plan.groups) as usize, (client % plan.stores) as usize));
        Clients {
            regions: regions.to_vec(),
            state: state.collect(),
            clients: clients.collect(),
            stores: plan.stores as usize,
            live: BTreeMap::new(),
            attempts: BTreeMap::new(),
            closed: false,
            moment: 0,
            now: 0,
            moments: Vec::new(),
            read_modes: plan.read_modes,
            next_value: 0,
            next_id: 0,
        }
    }

    /// How many clients there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// A fresh number for an operation or attempt.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Every second number is left for [`Self::moment_at`].
    fn moment(&mut self) -> Moment {
        self.moment += 2;
        match self.moments.last_mut() {
            Some((at, moment)) if *at == self.now => *moment = self.moment,
            _ => self.moments.push((self.now, self.moment)),
        }
        self.moment
    }

    /// A moment right behind all that had happened at `time`.
    fn moment_at(&self, time: u64) -> Moment {
        let before = self.moments.partition_point(|(at, _)| *at <= time);
        before.checked_sub(1).map_or(0, |last| self.moments[last].1) + 1
    }

    /// The group that an attempt speaks of.
    #[must_use]
    pub fn group_of(&self, ticket: u64) -> GroupId {
        self.attempts.get(&ticket).map_or(GroupId(0), |a| self.regions[a.region].group)
    }

    /// Attempts that wait in a node's process; they are forgotten there.
    pub fn tickets_on(&mut self, node: usize) -> Vec<u64> {
        let there = self.attempts.iter().filter(|(_, a)| a.node == node && a.incarnation.is_some());
        there.map(|(ticket, _)| *ticket).collect()
    }

    /// Where a client believes its leader.
    #[must_use]
    pub fn leader(&self, client: usize) -> usize {
        self.clients[client].1
    }

    /// A client hears of a leader, or tries another node.
    pub fn follow(&mut self, client: usize, hint: Option<usize>, rng: &mut SmallRng) {
        self.clients[client].1 = hint.unwrap_or_else(|| rng.random_range(0..self.stores));
    }

    /// Begins a client's next operation; gives its number.
    pub fn begin(&mut self, client: usize, rng: &mut SmallRng) -> u64 {
        let region = self.clients[client].0;
        let wish = self.wish(region, rng);
        let mode = if self.read_modes && !wish.is_write() {
            read_mode(rng)
        } else {
            ReadMode::Linearizable
        };
        self.begin_wish(client, region, wish, mode)
    }

    /// Begins the final read of a region.
    pub fn begin_audit(&mut self, region: usize) -> u64 {
        let client = self.clients.iter().position(|(r, _)| *r == region).expect("has clients");
        self.begin_wish(client, region, Wish::Audit, ReadMode::Linearizable)
    }

    fn begin_wish(&mut self, client: usize, region: usize, wish: Wish, mode: ReadMode) -> u64 {
        let (mut invoked, id) = (self.moment(), self.id());
        if let ReadMode::Stale { bound } = mode {
            // It is a linearizable read that was asked so much earlier, by clocks that may be slow.
            let age = bound.0 / 100 * 106;
            invoked = self.moment_at(self.now.saturating_sub(age));
        }
        let meta = &self.regions[region];
        let (epoch, key, value) = match &wish {
            Wish::Write(r, value) => (meta.epoch, codec::key(meta, Key::Register(*r)), *value),
            Wish::Add(set, e) => (meta.epoch, codec::key(meta, Key::Element(*set, *e)), Some(*e)),
            Wish::Stale(epoch, key) => (*epoch, key.clone(), Some(id)),
            Wish::Get(_) | Wish::Members(_) | Wish::Audit => (meta.epoch, Bytes::new(), None),
        };
        let command = if wish.is_write() {
            codec::write(meta.region, epoch, key, value, id)
        } else {
            Bytes::new()
        };
        let hash = command_hash(&command);
        let (ticket, forgotten) = (0, false);
        let live = Live { client, region, wish, invoked, ticket, mode, command, hash, forgotten };
        self.live.insert(id, live);
        id
    }

    fn wish(&mut self, place: usize, rng: &mut SmallRng) -> Wish {
        self.next_value += 1;
        let value = self.next_value;
        let region = &mut self.state[place];
        let slot = rng.random_range(0..REGISTERS as usize);
        let (register, used) = &mut region.registers[slot];
        match rng.random_range(0..100) {
            kind @ 0..60 => {
                *used += 1;
                if *used > REGISTER_OPERATIONS {
                    (*register, *used) = (region.registers_made, 0);
                    region.registers_made += 1;
                }
                match kind {
                    0..28 => Wish::Get(*register),
                    28..33 => Wish::Write(*register, None),
                    _ => Wish::Write(*register, Some(value)),
                }
            }
            60..82 => {
                region.set_adds += 1;
                if region.set_adds > SET_ADDS {
                    region.set += 1;
                    region.set_adds = 0;
                }
                Wish::Add(region.set, value)
            }
            82..97 => Wish::Members(region.set),
            _ => self.stale(place, rng),
        }
    }

    fn stale(&self, place: usize, rng: &mut SmallRng) -> Wish {
        let meta = &self.regions[place];
        let key = codec::key(meta, Key::Register(0));
        let Epoch { version, members } = meta.epoch;
        if self.regions.len() > 1 && rng.random_bool(0.5) {
            let other = &self.regions[(place + 1) % self.regions.len()];
            return Wish::Stale(meta.epoch, codec::key(other, Key::Register(0)));
        }
        let version = if rng.random_bool(0.5) { version - 1 } else { version + 1 };
        Wish::Stale(Epoch { version, members }, key)
    }

    /// What a read of `wish` has to look at: registers and sets.
    #[must_use]
    pub fn targets(&self, live: &Live) -> (Vec<u64>, Vec<u64>) {
        match live.wish {
            Wish::Get(register) => (vec![register], Vec::new()),
            Wish::Members(set) => (Vec::new(), vec![set]),
            _ => {
                let region = &self.state[live.region];
                let registers = region.first_register..region.registers_made;
                (registers.collect(), (region.first_set..=region.set).collect())
            }
        }
    }

    /// Writes an ended operation into the history. Without a result it stays open if it was a
    /// write that may be applied, and is forgotten if it was a read.
    pub fn end(&mut self, operation: u64, outcome: Outcome) {
        let Some(live) = self.live.remove(&operation) else { return };
        let now = self.moment();
        self.state[live.region].history.note(&live, now, outcome);
    }

    /// A region's group went on without its majority, with all that it had up to `index`: what was acknowledged
    /// later is lost. So its history ends, with everything open that is under way, and a new one begins, of
    /// keys that were never used: what the old ones hold is no history of the log that goes on.
    pub fn restart(&mut self, place: usize, index: u64) {
        let now = self.moment();
        let region = &mut self.state[place];
        for live in self.live.values_mut().filter(|live| live.region == place) {
            region.history.note(live, now, Outcome::Unknown);
            live.forgotten = true;
        }
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.region == place) {
            attempt.floor = attempt.floor.min(index);
        }
        region.ended.push(std::mem::take(&mut region.history));
        region.first_register = region.registers_made;
        for register in &mut region.registers {
            *register = (region.registers_made, 0);
            region.registers_made += 1;
        }
        (region.set, region.set_adds) = (region.set + 1, 0);
        region.first_set = region.set;
    }

    /// Writes an answered read into the history.
    pub fn end_read(&mut self, operation: u64, seen: Seen) {
        let Some(live) = self.live.remove(&operation).filter(|live| !live.forgotten) else {
            return;
        };
        let completed = self.moment();
        let (registers, sets) = match (&live.wish, seen) {
            (Wish::Get(register), Seen::Register(got)) => (vec![(*register, got)], Vec::new()),
            (Wish::Members(set), Seen::Elements(elements)) => (Vec::new(), vec![(*set, elements)]),
            (_, Seen::All(registers, sets)) => (registers, sets),
            _ => return,
        };
        let history = &mut self.state[live.region].history;
        for (key, got) in registers {
            let Got { value, mod_revision, revision } = got;
            history.operations.push(Operation {
                process: live.client as u32,
                key,
                action: Action::Read,
                invoked: live.invoked,
                completed,
                outcome: Outcome::Read { value, mod_revision, revision },
            });
        }
        for (set, elements) in sets {
            let read = Read { elements, invoked: live.invoked, completed };
            history.sets.entry(set).or_default().1.push(read);
        }
    }

    /// Each region's histories, when nothing is under way.
    pub fn histories(&self) -> impl Iterator<Item = (usize, &History)> {
        self.state.iter().enumerate().flat_map(|(place, region)| {
            let all = region.ended.iter().chain([&region.history]);
            all.map(move |history| (place, history))
        })
    }
}

impl History {
    /// What came of `live`, if it is a write.
    fn note(&mut self, live: &Live, now: Moment, outcome: Outcome) {
        if live.forgotten {
            return;
        }
        let completed = if outcome == Outcome::Unknown { OPEN } else { now };
        match live.wish {
            Wish::Write(key, value) => self.operations.push(Operation {
                process: live.client as u32,
                key,
                action: Action::Write(value),
                invoked: live.invoked,
                completed,
                outcome,
            }),
            Wish::Add(set, element) => {
                let added = match outcome {
                    Outcome::Written { .. } => Added::Yes,
                    Outcome::NotApplied => Added::No,
                    _ => Added::Unknown,
                };
                let add = Add { element, invoked: live.invoked, completed, added };
                self.sets.entry(set).or_default().0.push(add);
            }
            Wish::Get(_) | Wish::Members(_) | Wish::Stale(..) | Wish::Audit => {}
        }
    }
}

fn read_mode(rng: &mut SmallRng) -> ReadMode {
    match rng.random_range(0..100) {
        0..25 => ReadMode::Linearizable,
        25..60 => ReadMode::Lease,
        60..80 => ReadMode::Follower,
        _ => {
            let bounds = [20 * MILLIS, 200 * MILLIS, 2_000 * MILLIS];
            ReadMode::Stale { bound: Nanos(bounds[rng.random_range(0..bounds.len())]) }
        }
    }
}
