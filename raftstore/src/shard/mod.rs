//! One shard: owns a fixed subset of the store's replicas and decides for them, without I/O.
//!
//! A round:
//! 1. Drain the inbox, in order; messages only mark replicas dirty. Several ticks count as one.
//! 2. For each dirty replica: this round's commands into one entry, its reads into one context,
//!    then everything its `ready` holds.
//! 3. Hand out the [`Round`]. `Persisted`, `Applied` and `Fetched` come back as messages.
//!
//! The same code runs under threads (`run.rs`) and under a simulator.

mod hibernate;
pub(crate) mod inbox;
pub(crate) mod lane;
mod measure;
mod membership;
mod parked;
mod read;
mod room;
mod round;
pub(crate) mod run;
mod shed;
mod slot;
pub(crate) mod sync;
mod turns;

pub(crate) use hibernate::NO_GROUP;
pub use round::{ReadCounts, Round};

use hibernate::Hibernation;
use parked::apply_bytes;
use room::Room;
use round::RoundSize;
use shed::Shedding;
use slot::{Live, Quarantined, Slot};
use turns::Turns;

use crate::clock::{Elapsed, Moment, Time};
use crate::completion::Reply;
use crate::config::Config;
use crate::error::{Error, Fatal};
use crate::events::Event;
use crate::log::{GroupLog, LogStore};
use crate::message::{
    Asker, DurableApplied, Notice, Request, ShardMessage, SnapshotEvent, SnapshotNote,
};
use crate::recovery::RecoveredGroup;
use crate::replica::{Refused, Replica, ReplicaParts};
use crate::slow::Disks;
use crate::status::{GroupView, ReplicaStatus};
use crate::transport::{Envelope, Payload};
use crate::types::{GroupId, GroupRecord, ReplicaId, StoreId};
use membership::Gone;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a shard is made of.
#[derive(Clone)]
pub struct ShardConfig {
    /// The store's settings.
    pub config: Arc<Config>,
    /// This shard's number, below `config.shards`.
    pub shard: usize,
    /// The store it belongs to.
    pub store: StoreId,
    /// Source of election timeouts: the same seed gives the same timeouts.
    pub seed: u64,
    /// Where old entries are read from.
    pub log: Arc<dyn LogStore>,
}

/// See the module.
pub struct Shard {
    parts: ShardConfig,
    /// Hashed without a seed: the same groups come in the same order in every run.
    slots: FxHashMap<GroupId, Slot>,
    /// Groups whose replica had applied its removal before the start; its tombstone is not written.
    left: Vec<GroupRecord>,
    /// Groups found damaged at the start, whose state machines are not told yet.
    damaged: Vec<GroupId>,
    dirty: Vec<GroupId>,
    /// Of its rounds.
    size: RoundSize,
    elapsed: Elapsed,
    /// Of this round.
    time: Time,
    /// Reads that are let through at the end of this round.
    let_through: Vec<Reply>,
    /// Groups whose committed entries wait for room in the apply queue.
    parked: BTreeSet<GroupId>,
    /// Bytes handed to apply and not yet reported applied.
    apply_bytes: usize,
    turns: Turns,
    hibernation: Hibernation,
    /// Whose are slow; its replicas share it.
    disks: Arc<Disks>,
    shedding: Shedding,
    room: Room,
    /// Messages from peers that were malformed or misaddressed.
    dropped_messages: u64,
    stopped: bool,
}

impl Shard {
    /// A shard over its recovered groups.
    pub fn new(parts: ShardConfig, groups: Vec<RecoveredGroup>) -> Result<Self, Fatal> {
        let shard_number = parts.shard;
        let small_entries_max = parts.config.small_entries_max;
        let life = parts.seed;
        let room = Room::new(parts.store);
        let mut shard = Shard {
            parts,
            slots: FxHashMap::default(),
            left: Vec::new(),
            damaged: Vec::new(),
            dirty: Vec::new(),
            size: RoundSize::new(shard_number),
            elapsed: Elapsed::default(),
            time: Time::default(),
            let_through: Vec::new(),
            parked: BTreeSet::new(),
            apply_bytes: 0,
            turns: Turns::new(small_entries_max),
            hibernation: Hibernation::new(life),
            disks: Arc::default(),
            shedding: Shedding::default(),
            room,
            dropped_messages: 0,
            stopped: false,
        };
        for group in groups {
            let id = group.log.group;
            let slot = match group.damage {
                Some(reason) => {
                    tracing::error!(group = id.0, reason, "replica quarantined at start");
                    shard.damaged.push(id);
                    Slot::Quarantined(Box::new(Quarantined::found(group.log, reason)))
                }
                None if group.log.record.removed => {
                    Slot::Gone(Box::new(Gone::recovered(group.log.record)))
                }
                None if group.log.record.desc.has_left(group.log.record.replica) => {
                    shard.left.push(GroupRecord { removed: true, ..group.log.record });
                    continue;
                }
                None => {
                    let mut replica = shard
                        .replica(&group.log, group.applied, group.commit)
                        .map_err(|e| Fatal::new("start of a replica", e))?;
                    replica.hold_log(group.log_needed);
                    replica.find_snapshots(&group.snapshots);
                    Slot::Live(Box::new(Live::new(replica)))
                }
            };
            shard.place(id, slot);
        }
        Ok(shard)
    }

    fn place(&mut self, group: GroupId, slot: Slot) {
        self.slots.insert(group, slot);
        self.hibernation.insert(group);
    }

    fn replica(&self, log: &GroupLog, applied: u64, commit: u64) -> Result<Replica, Error> {
        let parts = ReplicaParts {
            config: &self.parts.config,
            store: self.parts.store,
            log: &self.parts.log,
            disks: &self.disks,
            seed: self.parts.seed,
        };
        let mut replica = Replica::new(&parts, log, applied, commit)?;
        replica.know_short(self.room.told());
        Ok(replica)
    }

    /// What the store publishes of every group at start, in no order.
    #[must_use]
    pub fn views(&self) -> Vec<GroupView> {
        let view = |slot: &Slot| match slot {
            Slot::Live(live) => Some(live.replica.group_view()),
            Slot::Quarantined(q) => {
                let record = q.record.clone();
                Some(GroupView { record, leader: None, term: 0, leading: false })
            }
            Slot::Gone(_) => None,
        };
        self.slots.values().filter_map(view).collect()
    }

    /// The replicas that were removed before this start, in no order.
    #[must_use]
    pub(crate) fn tombstones(&self) -> Vec<(GroupId, ReplicaId)> {
        let gone = |(group, slot): (&GroupId, &Slot)| match slot {
            Slot::Gone(gone) => Some((*group, gone.replica())),
            Slot::Live(_) | Slot::Quarantined(_) => None,
        };
        self.slots.iter().filter_map(gone).collect()
    }

    /// Whether [`ShardMessage::Stop`] was taken: no further round is needed.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// One round, at a moment that was looked up after `inbox` was taken: what the lease covers then,
    /// no read in it came too late for. Never blocks on I/O, except for the inline reads of old
    /// entries that the consensus library demands.
    pub fn round(
        &mut self,
        inbox: Vec<ShardMessage>,
        moment: impl Into<Moment>,
    ) -> Result<Round, Fatal> {
        self.time = self.elapsed.advance(moment.into());
        self.decide(inbox)
    }

    fn decide(&mut self, inbox: Vec<ShardMessage>) -> Result<Round, Fatal> {
        let mut round = Round::like(&self.size, self.time.now);
        for record in std::mem::take(&mut self.left) {
            self.remove(record.desc.group, record, &mut round);
        }
        for group in std::mem::take(&mut self.damaged) {
            self.tell_quarantine(group, &mut round);
        }
        let mut ticked = false;
        for message in inbox {
            match message {
                ShardMessage::Tick => ticked = true,
                other => self.take(other, &mut round),
            }
        }
        if ticked {
            self.turns.tick();
            self.watch(&mut round);
            self.tick(&mut round);
            self.shed();
            self.make_room();
        }
        self.unpark(&mut round)?;
        for group in std::mem::take(&mut self.dirty) {
            self.settle(group, false, &mut round);
        }
        while let Some(group) = self.turns.next() {
            self.settle(group, true, &mut round);
        }
        self.let_reads_through();
        round.close();
        self.size.note(&round);
        Ok(round)
    }

    fn take(&mut self, message: ShardMessage, round: &mut Round) {
        match message {
            ShardMessage::Requests(requests) => {
                requests.into_iter().for_each(|r| self.request(r, round));
            }
            ShardMessage::Deliver { from, envelopes } => {
                envelopes.into_iter().for_each(|e| self.deliver(from, e, round));
            }
            ShardMessage::Unreachable(store) => {
                self.live().for_each(|live| live.replica().unreachable(store));
            }
            ShardMessage::Persisted(list) => {
                list.into_iter().for_each(|p| self.persisted(p, round));
            }
            ShardMessage::Applied(list) => {
                list.into_iter().for_each(|a| self.applied(a, round));
            }
            ShardMessage::DurableApplied(list) => {
                for DurableApplied { group, replica, index, log_needed } in list {
                    self.touch_same(group, replica, |replica| {
                        replica.hold_log(log_needed);
                        replica.on_durable_applied(index);
                    });
                }
            }
            ShardMessage::Fetched(list) => list.into_iter().for_each(|f| {
                self.touch_same(f.group, f.replica, |replica| replica.on_fetched(f));
            }),
            ShardMessage::Snapshots(list) => {
                list.into_iter().for_each(|note| self.snapshot_done(note, round));
            }
            ShardMessage::SnapshotDamaged(id) => self.live().for_each(|live| {
                live.replica().withdraw_offer(id);
            }),
            ShardMessage::StateDamaged { group, replica, reason } => {
                let ignored = crate::mutant::active("damage_ignored");
                if self.same(group, replica).is_some() && !ignored {
                    self.quarantine(group, reason, round);
                }
            }
            ShardMessage::Disk(shortage, spare) => self.measured(shortage, spare),
            ShardMessage::Describe(to) => {
                // The asker may have given up; then nobody reads it.
                let _ = to.send(self.describe());
            }
            ShardMessage::Measure(to) => {
                let _ = to.send(self.levels());
            }
            ShardMessage::DiskSlow(slow) => self.disk_changed(slow),
            ShardMessage::Leave => {
                let groups: Vec<GroupId> = self.slots.keys().copied().collect();
                for group in groups {
                    self.rouse(group);
                    self.touch(group, Replica::leave);
                }
            }
            ShardMessage::Stop => {
                self.live().for_each(|live| live.replica().close(&Error::Closed));
                self.stopped = true;
                self.tell_closing(round);
            }
            ShardMessage::Tick => unreachable!("ticks are counted by the round"),
        }
    }

    fn request(&mut self, request: Request, round: &mut Round) {
        let group = request.group();
        if self.stopped {
            return refuse(request, &Error::Closed);
        }
        let max = self.parts.config.group_apply_bytes_max;
        let group_full = match self.slots.get(&group) {
            Some(Slot::Live(live)) => live.apply_bytes >= max,
            Some(Slot::Quarantined(q)) => {
                let error = q.error.clone();
                return refuse(request, &error);
            }
            Some(Slot::Gone(_)) | None => {
                return match request {
                    Request::CreateGroup { record, reply } => self.create(record, reply, round),
                    other => refuse(other, &Error::NoGroup { group }),
                };
            }
        };
        if self.request_wakes(&request) {
            self.rouse(group);
        }
        match request {
            Request::Propose { command, takes_away, reply, .. } => {
                let refusal = if self.apply_full() {
                    Some(Error::Busy { group, what: "the apply queue is full" })
                } else if group_full {
                    Some(Error::Busy { group, what: "the group's part of the apply queue is full" })
                } else if takes_away {
                    None
                } else {
                    self.lacks_room(group)
                };
                if let Some(error) = refusal {
                    round.note(Event::WriteRefused);
                    return reply.send(Err(error));
                }
                match self.in_line(group) {
                    Some(replica) if replica.has_room(&command) => {
                        replica.queue_write(command, reply)
                    }
                    // It learns first what is applied by now.
                    _ => drop(self.touch(group, |replica| replica.queue_write(command, reply))),
                }
            }
            Request::ReadBarrier { mode, reply, .. } => self.read(group, mode, reply, round),
            Request::TransferLeader { to, reply, .. } => {
                self.touch(group, |replica| replica.transfer_leader(to, reply));
            }
            Request::ChangeMembers { request, reply, .. } => {
                self.touch(group, |replica| replica.change_members(&request, reply));
            }
            Request::Recover { request, reply, .. } => {
                self.rouse(group);
                if self.hears_lost_leader(group, &request) {
                    let what = "the store of its leader was heard a moment ago; if that stays so, a lost \
                                store still runs: stop it";
                    return reply.send(Err(Error::Busy { group, what }));
                }
                let time = self.time;
                self.touch(group, |replica| replica.recover(&request, reply, time, round));
            }
            Request::Snapshot { reply, .. } => {
                self.touch(group, |replica| replica.make_snapshot(reply));
            }
            Request::CreateGroup { record, reply } => self.created_before(&record, reply),
        }
    }

    /// A snapshot thread has done what a replica asked of it.
    fn snapshot_done(&mut self, note: SnapshotNote, round: &mut Round) {
        let Asker { group, replica: id, .. } = note.asker;
        let (snapshot, loaded) = (note.id, matches!(note.event, SnapshotEvent::Loaded(_)));
        let mut here = false;
        let mut damage = None;
        let mut members = None;
        self.touch_same(group, id, |replica| {
            here = true;
            let loading = replica.loading();
            damage = replica.on_snapshot(note, round);
            let loaded = loading && !replica.loading() && !replica.installing();
            members = loaded.then(|| Arc::clone(&replica.record().desc));
        });
        if let Some(members) = members {
            self.tell(group, id, Notice::Members(members), round);
        }
        if loaded && !here {
            self.loaded_in_vain(group, snapshot, round);
        }
        if let Some(reason) = damage {
            self.quarantine(group, reason, round);
        }
    }

    fn deliver(&mut self, from: StoreId, envelope: Envelope, round: &mut Round) {
        if let Payload::Alive(alive) = envelope.payload {
            self.disk_told(from, alive.shortage);
            return self.heard_alive(from, alive);
        }
        let group = envelope.group;
        match envelope.payload {
            Payload::DurableApplied(_) => {}
            // Nobody watches over it yet: it stays awake.
            Payload::Sleep(_) if !self.is_watched(from, group) => return,
            // Who sleeps is woken by this one, too: an old one must not leave it neither asleep nor ticked.
            _ => self.rouse(group),
        }
        let no_entries =
            if self.apply_full() { Some("apply is full") } else { self.room.refuses(&envelope) };
        if !matches!(self.slots.get(&group), Some(Slot::Live(_))) {
            return self.deliver_to_none(from, &envelope, round);
        }
        let time = self.time;
        match self.touch(group, |replica| replica.step(from, envelope, no_entries, time)) {
            None | Some(Ok(())) => {}
            Some(Err(Refused::Dropped(reason))) => {
                self.dropped_messages += 1;
                tracing::debug!(group = group.0, store = from.0, reason, "message dropped");
            }
            Some(Err(Refused::Left(sender))) => {
                self.touch(group, |replica| replica.tell_removed(sender, from, round));
            }
            Some(Err(Refused::Removed(record))) => self.remove(group, *record, round),
            Some(Err(Refused::Damaged(reason))) => self.quarantine(group, reason, round),
        }
    }

    fn quarantine(&mut self, group: GroupId, reason: String, round: &mut Round) {
        tracing::error!(group = group.0, reason, "replica quarantined");
        self.end(group, Error::Quarantined { group, reason }, round);
        self.tell_quarantine(group, round);
    }

    /// Ends the work of a live replica, whose place something else takes: nobody waits for it now.
    fn close(&mut self, group: GroupId, error: &Error) {
        if let Some(Slot::Live(live)) = self.slots.get_mut(&group) {
            live.replica.close(error);
            self.turns.count(live.mood.entry_under_way, false);
        }
        self.parked.remove(&group);
    }

    fn tick(&mut self, round: &mut Round) {
        let time = self.time;
        let election_ticks = self.parts.config.election_ticks;
        for group in self.hibernation.awake() {
            let powerless = match self.slots.get(&group) {
                Some(Slot::Live(live)) => {
                    live.replica.is_leader() && self.is_powerless(&live.replica)
                }
                _ => false,
            };
            match self.slots.get_mut(&group) {
                Some(Slot::Gone(gone)) => gone.tick(),
                Some(Slot::Quarantined(damaged)) => damaged.tick(election_ticks, round),
                _ => drop(self.touch(group, |replica| {
                    replica.keep_awake(powerless);
                    replica.tick(time);
                })),
            }
        }
    }

    /// When the store's log is nearly full the largest logs here give back half, whoever lags.
    fn make_room(&mut self) {
        let (live, max) = (self.parts.log.live_bytes(), self.parts.config.log_bytes_max);
        if live < max / 4 * 3 {
            return;
        }
        let log = Arc::clone(&self.parts.log);
        let mut sizes: Vec<(u64, GroupId)> =
            self.slots.keys().map(|group| (log.group_bytes(*group), *group)).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = live;
        for (bytes, group) in sizes.into_iter().filter(|(bytes, _)| *bytes > 0) {
            if left < max / 2 {
                break;
            }
            left -= (bytes / 2).min(left);
            self.touch(group, Replica::crowd);
        }
    }

    /// Step 2 of the round, for one replica; `turn`: it has waited in line.
    fn settle(&mut self, group: GroupId, turn: bool, round: &mut Round) {
        let time = self.time;
        let mut apply_full = self.apply_full();
        let group_max = self.parts.config.group_apply_bytes_max;
        let cache_max = self.parts.config.group_cache_bytes(self.slots.len());
        let handed = round.apply.len();
        let gather = self.turns.crowded() && !turn;
        let Some(Slot::Live(live)) = self.slots.get_mut(&group) else { return };
        if turn && !live.waits {
            return; // It left the line: not leader any more, or its entry became large.
        }
        live.dirty = false;
        apply_full |= live.apply_bytes >= group_max;
        let replica = live.replica();
        replica.look_around(round);
        replica.propose_queued(gather, turn, time);
        replica.confirm_queued_reads(time, round);
        let lack = self.room.promise(self.parts.shard, replica);
        replica.drive_snapshots(lack, round);
        replica.take_readies(time, apply_full, round);
        if replica.has_queued_reads() && replica.removal().is_none() {
            // A context that was under way is confirmed: the next one may start.
            replica.confirm_queued_reads(time, round);
            replica.take_readies(time, apply_full, round);
        }
        replica.answer_members(round);
        if replica.asleep() && self.hibernation.fell_asleep(group) {
            round.note(Event::Slept);
        }
        let removal = replica.removal();
        if removal.is_none() {
            replica.tell_and_truncate(round);
            replica.trim_cache(cache_max);
            if replica.has_parked() {
                self.parked.insert(group);
            }
        }
        let (mood, waits) = (replica.mood(), replica.has_queued_writes());
        self.turns.count(live.mood.entry_under_way, mood.entry_under_way);
        live.mood = mood;
        if waits && !live.waits {
            self.turns.wait(group);
        }
        live.waits = waits;
        let bytes = apply_bytes(&round.apply[handed..]);
        live.apply_bytes += bytes;
        self.apply_bytes += bytes;
        if let Some(record) = removal {
            self.remove(group, record, round);
        }
    }

    /// Every replica as it is now.
    #[must_use]
    pub fn describe(&mut self) -> Vec<ReplicaStatus> {
        self.live().for_each(Live::catch_up);
        let mut all = self.statuses();
        for status in &mut all {
            status.lease_ms = self.lease_ms(status.group);
        }
        all
    }

    /// Every replica as it knows itself: it may have to hear yet of what it wrote and applied. Without
    /// the lease, which is costly to ask for.
    #[must_use]
    pub fn statuses(&self) -> Vec<ReplicaStatus> {
        let mut all: Vec<_> = self.slots.values().filter_map(Slot::status).collect();
        all.sort_unstable_by_key(|replica| replica.group);
        all
    }
}

fn refuse(request: Request, error: &Error) {
    let (Request::Propose { reply, .. }
    | Request::ReadBarrier { reply, .. }
    | Request::TransferLeader { reply, .. }
    | Request::ChangeMembers { reply, .. }
    | Request::Recover { reply, .. }
    | Request::Snapshot { reply, .. }
    | Request::CreateGroup { reply, .. }) = request;
    reply.send(Err(error.clone()));
}

#[cfg(test)]
#[path = "promise_test.rs"]
mod promise_tests;
#[cfg(test)]
#[path = "read_test.rs"]
mod read_tests;

#[cfg(test)]
#[path = "limits_test.rs"]
mod limits_tests;
