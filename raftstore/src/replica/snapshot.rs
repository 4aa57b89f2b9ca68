//! Snapshots, as this replica makes, offers and installs them. The flow is in [`crate::snapshot`].

use super::Replica;
use super::storage::Offer;
use crate::completion::{Answer, Reply};
use crate::error::Error;
use crate::log::{GroupWrite, Install};
use crate::message::{Asker, LogTask, SnapshotEvent, SnapshotNote, SnapshotTask};
use crate::shard::Round;
use crate::snapshot::{Content, Manifest, SnapshotId};
use crate::transport::{Envelope, Payload};
use crate::types::{HardState, LogPosition, ReplicaId, StoreId};
use raft::eraftpb::Message;
use raft::{ProgressState, SnapshotStatus};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// See the module.
pub(super) struct Snapshots {
    rng: SmallRng,
    ticks: u64,
    /// A tick has passed since the last look.
    due: bool,
    /// Being made.
    making: Option<SnapshotId>,
    /// Followers that get it as soon as it is made.
    waiting: Vec<u64>,
    /// Who waits for one.
    callers: Vec<Reply>,
    /// The tick at which the one at hand was last of use.
    used: u64,
    /// Since when each follower is waited for.
    sent: BTreeMap<u64, u64>,
    incoming: Option<Incoming>,
    /// Blocks to delete.
    garbage: Vec<SnapshotId>,
}

/// A snapshot on its way here.
struct Incoming {
    manifest: Manifest,
    from: StoreId,
    leader: ReplicaId,
    message: Option<Message>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be asked of the other store.
    New,
    Fetching,
    /// Did not come; what came is kept for the next attempt.
    Failed,
    /// All blocks are here.
    Here,
    /// The library has it; the log write under way is this ready's.
    Writing(u64),
    /// The log has it.
    Written,
    /// The state machine takes it.
    Loading,
    /// Its blocks were damaged: the same are being fetched again.
    Repairing,
}

impl Snapshots {
    pub(super) fn new(seed: u64) -> Self {
        Snapshots {
            rng: SmallRng::seed_from_u64(seed ^ 0x736e_6170),
            ticks: 0,
            due: false,
            making: None,
            waiting: Vec::new(),
            callers: Vec::new(),
            used: 0,
            sent: BTreeMap::new(),
            incoming: None,
            garbage: Vec::new(),
        }
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.due = true;
    }

    pub(super) fn close(&mut self, error: &Error) {
        self.callers.drain(..).for_each(|reply| reply.send(Err(error.clone())));
    }

    /// Nothing is being made, sent, fetched or installed, and nobody waits.
    pub(super) fn idle(&self) -> bool {
        self.making.is_none()
            && self.callers.is_empty()
            && self.waiting.is_empty()
            && self.sent.is_empty()
            && self.incoming.is_none()
    }

    /// The log begins behind a state that is not there yet.
    pub(super) fn installing(&self) -> bool {
        self.stage().is_some_and(|stage| {
            matches!(stage, Stage::Writing(_) | Stage::Written | Stage::Loading | Stage::Repairing)
        })
    }

    /// The log write that begins an install is under way.
    pub(super) fn writing(&self) -> bool {
        matches!(self.stage(), Some(Stage::Writing(_)))
    }

    /// A snapshot thread has, or will have, the state in its hands.
    pub(super) fn loading(&self) -> bool {
        matches!(self.stage(), Some(Stage::Loading))
    }

    /// It waits for what was written and applied before.
    pub(super) fn waits(&self) -> bool {
        matches!(self.stage(), Some(Stage::Here))
    }

    fn stage(&self) -> Option<Stage> {
        self.incoming.as_ref().map(|incoming| incoming.stage)
    }

    fn set(&mut self, stage: Stage) {
        if let Some(incoming) = &mut self.incoming {
            incoming.stage = stage;
        }
    }

    /// The write of this ready is durable.
    pub(super) fn persisted(&mut self, number: u64) {
        if matches!(self.stage(), Some(Stage::Writing(ready)) if ready <= number) {
            self.set(Stage::Written);
        }
    }

    fn forget_incoming(&mut self) {
        self.garbage.extend(self.incoming.take().map(|incoming| incoming.manifest.id));
    }
}

impl Replica {
    /// A member that was invited has nothing, and the log of the others does not hold all that made
    /// their state: it begins with a snapshot.
    fn lacks_beginning(&self) -> bool {
        let invited = self.record.desc.membership.version > 0;
        invited && self.raw.store().terms().last_index() == 0
    }

    /// Whether the library is to ask its leader for a snapshot; it forgets it when the term changes.
    pub(super) fn ask_for_beginning(&mut self) {
        if self.lacks_beginning() {
            self.raw.raft.pending_request_snapshot = 1;
        }
    }

    /// A follower's answer meets what it asked for before: without this the library sends another one.
    pub(super) fn note_beginning(&mut self, message: &Message) {
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(message.from)
            && !message.reject
            && message.index >= progress.pending_request_snapshot
        {
            progress.pending_request_snapshot = raft::INVALID_INDEX;
        }
    }

    /// An operator asks for one.
    pub(crate) fn make_snapshot(&mut self, reply: Reply) {
        self.snapshots.callers.push(reply);
    }

    /// A leader offers a snapshot. The library hears of it when all of it is here.
    pub(super) fn offered(&mut self, store: StoreId, message: Message) -> Result<(), String> {
        let manifest = Manifest::decode(message.get_snapshot().get_data())?;
        if manifest.desc.group != self.group() {
            return Err(format!("a snapshot of group {}", manifest.desc.group));
        }
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let LogPosition { index, term } = manifest.position;
        let known = index <= log.committed || log.match_term(index, term);
        if message.term < raft.term || (known && !self.lacks_beginning()) {
            // Of no use: it answers how far this replica is.
            let _ = self.raw.step(message);
            return Ok(());
        }
        if self.snapshots.installing() {
            return Err("a snapshot comes while another one is installed".to_owned());
        }
        // The library would go back to those, and this replica's record would not.
        if manifest.desc.membership.version < self.record.desc.membership.version {
            return Err("a snapshot with older members than are known here".to_owned());
        }
        let leader = ReplicaId(message.from);
        let known = self.snapshots.incoming.as_ref().filter(|i| i.manifest == manifest);
        let stage = match known.map(|incoming| incoming.stage) {
            None => {
                self.snapshots.forget_incoming();
                Stage::New
            }
            Some(Stage::Failed) => Stage::New,
            Some(stage) => stage,
        };
        let message = Some(message);
        self.snapshots.incoming = Some(Incoming { manifest, from: store, leader, message, stage });
        Ok(())
    }

    /// A follower could not get the snapshot.
    pub(super) fn snapshot_failed(&mut self, from: ReplicaId) {
        if self.is_leader() {
            self.snapshots.sent.remove(&from.0);
            self.raw.report_snapshot(from.0, SnapshotStatus::Failure);
        }
    }

    /// What a snapshot thread has done.
    pub(crate) fn on_snapshot(&mut self, note: SnapshotNote, round: &mut Round) -> Option<String> {
        let mine = self.snapshots.incoming.as_ref().is_some_and(|i| i.manifest.id == note.id);
        let stage = self.snapshots.stage().filter(|_| mine);
        match (note.event, stage) {
            (SnapshotEvent::Made(made), _) => self.made(note.id, made),
            (SnapshotEvent::Received(Ok(())), Some(Stage::Fetching)) => {
                self.snapshots.set(Stage::Here);
            }
            (SnapshotEvent::Received(Err(reason)), Some(Stage::Fetching)) => {
                tracing::info!(group = self.group().0, reason, "snapshot did not come");
                self.snapshots.set(Stage::Failed);
                self.tell_failed(round);
            }
            (SnapshotEvent::Received(Ok(())), Some(Stage::Repairing)) => {
                self.snapshots.set(Stage::Written);
            }
            (SnapshotEvent::Received(Err(reason)), Some(Stage::Repairing)) => {
                return Some(format!("its snapshot is damaged, and not to be had again: {reason}"));
            }
            (SnapshotEvent::Loaded(Ok(())), Some(Stage::Loading)) => self.installed(round),
            (SnapshotEvent::Loaded(Err(reason)), Some(Stage::Loading)) => {
                tracing::error!(group = self.group().0, reason, "snapshot damaged here");
                self.snapshots.set(Stage::Repairing);
                self.fetch(round);
            }
            // Of one that another took the place of.
            (SnapshotEvent::Received(_), None) => self.snapshots.garbage.push(note.id),
            _ => {}
        }
        None
    }

    fn made(&mut self, id: SnapshotId, made: Result<(u64, Content), String>) {
        if self.snapshots.making != Some(id) {
            self.snapshots.garbage.push(id);
            return;
        }
        self.snapshots.making = None;
        let callers = std::mem::take(&mut self.snapshots.callers);
        let outcome = made.and_then(|(index, content)| self.offer(id, index, content));
        let waiting = std::mem::take(&mut self.snapshots.waiting);
        let send = outcome.is_ok() && self.is_leader();
        for follower in waiting.into_iter().filter(|_| send) {
            if let Some(progress) = self.raw.raft.mut_prs().get_mut(follower) {
                progress.resume();
                self.raw.raft.send_append(follower);
            }
        }
        let group = self.group();
        match outcome {
            Ok(()) => callers.into_iter().for_each(|reply| reply.send(Ok(Answer::Accepted))),
            Err(reason) => {
                self.snapshots.garbage.push(id);
                tracing::info!(group = group.0, reason, "no snapshot made");
                let error = Error::Busy { group, what: "no snapshot could be made now" };
                callers.into_iter().for_each(|reply| reply.send(Err(error.clone())));
            }
        }
    }

    /// Has the new snapshot at hand for followers, in the place of an older one.
    fn offer(&mut self, id: SnapshotId, index: u64, content: Content) -> Result<(), String> {
        let terms = self.raw.store().terms();
        let term = terms.term(index).ok_or_else(|| format!("entry {index} is cut by now"))?;
        if self.record.desc.membership.position.index > index {
            return Err("the members have changed meanwhile".to_owned());
        }
        let desc = self.record.desc.clone();
        let position = LogPosition { index, term };
        let manifest = Manifest { id, desc, position, content };
        let before = self.raw.mut_store().set_offer(Some(Offer::new(manifest)));
        self.snapshots.garbage.extend(before.map(|offer| offer.manifest().id));
        self.snapshots.used = self.snapshots.ticks;
        Ok(())
    }

    fn tell_failed(&self, round: &mut Round) {
        if let Some(incoming) = &self.snapshots.incoming {
            let envelope = Envelope {
                group: self.group(),
                from: self.me.replica,
                to: incoming.leader,
                payload: Payload::SnapshotFailed,
            };
            round.send(incoming.from, envelope);
        }
    }

    fn asker(&self, round: &Round) -> Asker {
        Asker { shard: round.shard, group: self.group(), replica: self.me.replica }
    }

    fn fetch(&self, round: &mut Round) {
        if let Some(incoming) = &self.snapshots.incoming {
            let (asker, from) = (self.asker(round), incoming.from);
            let manifest = incoming.manifest.clone();
            round.snapshots.push(SnapshotTask::Fetch { asker, from, manifest });
        }
    }

    /// What is to be done about snapshots, in each round before the ready.
    pub(crate) fn drive_snapshots(&mut self, round: &mut Round) {
        if std::mem::take(&mut self.snapshots.due) {
            self.look_after_followers();
        }
        for follower in self.raw.mut_store().take_snapshot_wanted() {
            if !self.snapshots.waiting.contains(&follower) {
                self.snapshots.waiting.push(follower);
            }
        }
        let wanted = !self.snapshots.waiting.is_empty();
        if self.raw.mut_store().take_offered() {
            self.snapshots.used = self.snapshots.ticks;
        }
        if (wanted || !self.snapshots.callers.is_empty())
            && self.snapshots.making.is_none()
            && !self.snapshots.installing()
        {
            let id = SnapshotId(self.snapshots.rng.random());
            self.snapshots.making = Some(id);
            let asker = self.asker(round);
            round.snapshots.push(SnapshotTask::Make { asker, id });
        }
        match self.snapshots.stage() {
            Some(Stage::New) => {
                self.snapshots.set(Stage::Fetching);
                self.fetch(round);
            }
            Some(Stage::Here) => self.begin_install(),
            Some(Stage::Written) => self.load(round),
            _ => {}
        }
        let garbage = self.snapshots.garbage.drain(..);
        round.snapshots.extend(garbage.map(SnapshotTask::Remove));
    }

    /// Gives the message to the library, when nothing of earlier is under way any more (trap 14).
    fn begin_install(&mut self) {
        let settled = self.unpersisted.is_empty() && self.feed.is_settled();
        if !settled {
            return;
        }
        let incoming = self.snapshots.incoming.as_mut().expect("it is here");
        if incoming.manifest.desc.membership.version < self.record.desc.membership.version {
            // Members have come by the log meanwhile.
            return self.snapshots.forget_incoming();
        }
        if let Some(message) = incoming.message.take() {
            // An error means that it is of no use.
            let _ = self.raw.step(message);
        }
        if self.raw.snap().is_none() {
            self.snapshots.forget_incoming();
        }
    }

    /// Takes the snapshot of a ready: the change of the log that begins its install.
    pub(super) fn install_write(&mut self, number: u64, round: &mut Round) -> GroupWrite {
        let incoming = self.snapshots.incoming.as_mut().expect("one that this replica stepped");
        incoming.stage = Stage::Writing(number);
        let Manifest { id, desc, position, .. } = incoming.manifest.clone();
        let newer = desc.membership.version > self.record.desc.membership.version;
        if newer {
            self.adopt(desc, round);
        }
        let late = u64::from(crate::mutant::active("install_truncates_wrong"));
        let cut = LogPosition { index: position.index - late, ..position };
        self.raw.mut_store().begin_anew(cut);
        self.feed.jump(position.index);
        self.saved = HardState { commit: position.index, ..self.saved };
        let install = Some(Install::Begin(cut, id));
        tracing::info!(group = self.group().0, index = position.index, "snapshot is installed");
        GroupWrite {
            group: self.group(),
            record: newer.then(|| self.record.clone()),
            hard_state: Some(self.saved),
            install: install.filter(|_| !crate::mutant::active("install_not_recorded")),
            ..GroupWrite::default()
        }
    }

    /// Has the state machine take it: the log has it.
    fn load(&mut self, round: &mut Round) {
        self.snapshots.set(Stage::Loading);
        let asker = self.asker(round);
        let incoming = self.snapshots.incoming.as_ref().expect("it is written");
        let manifest = incoming.manifest.clone();
        round.snapshots.push(SnapshotTask::Load { asker, manifest });
    }

    /// The state machine has it, durably.
    fn installed(&mut self, round: &mut Round) {
        let Some(incoming) = &self.snapshots.incoming else { return };
        let index = incoming.manifest.position.index;
        self.snapshots.forget_incoming();
        self.feed.loaded(index);
        self.raw.advance_apply_to(index);
        self.on_durable_applied(index);
        self.members.applied(index);
        round.log.push(LogTask {
            shard: round.shard,
            replica: self.me.replica,
            write: GroupWrite {
                group: self.group(),
                install: Some(Install::Done),
                ..GroupWrite::default()
            },
            ready: 0,
            held: Vec::new(),
            created: Vec::new(),
        });
    }

    /// Once a tick: whoever did not take a snapshot in time is told of it again, and the one at hand goes
    /// when nobody needs it.
    fn look_after_followers(&mut self) {
        self.ask_for_beginning();
        let ticks = self.snapshots.ticks;
        let waiting: Vec<u64> = if self.is_leader() {
            let in_snapshot = |(id, progress): (&u64, &raft::Progress)| {
                (progress.state == ProgressState::Snapshot).then_some(*id)
            };
            self.raw.raft.prs().iter().filter_map(in_snapshot).collect()
        } else {
            Vec::new()
        };
        self.snapshots.sent.retain(|id, _| waiting.contains(id));
        for id in waiting {
            let since = *self.snapshots.sent.entry(id).or_insert(ticks);
            if ticks - since >= self.config.snapshot_retry_ticks {
                self.snapshots.sent.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
        let kept = self.config.snapshot_keep_ticks.max(self.in_use_ticks());
        if ticks - self.snapshots.used > kept || self.offer_is_old() {
            let offer = self.raw.mut_store().set_offer(None);
            self.snapshots.garbage.extend(offer.map(|offer| offer.manifest().id));
        }
    }

    fn offer_is_old(&self) -> bool {
        let cut = self.raw.store().terms().truncated().index;
        let members = self.record.desc.membership.version;
        self.raw.store().offer().is_some_and(|offer| {
            let Manifest { position, desc, .. } = offer.manifest();
            position.index < cut || desc.membership.version < members
        })
    }

    /// A follower that takes a snapshot is told of it again in less than this.
    fn in_use_ticks(&self) -> u64 {
        2 * self.config.snapshot_retry_ticks + self.config.election_ticks as u64
    }

    /// The log behind this index is needed by a follower that takes a snapshot.
    pub(super) fn snapshot_floor(&self) -> u64 {
        let waiting = self.snapshots.ticks - self.snapshots.used <= self.in_use_ticks();
        match self.raw.store().offer() {
            Some(offer) if waiting => offer.manifest().position.index,
            _ => u64::MAX,
        }
    }

    /// Every snapshot that this replica has something of: they go with it.
    pub(crate) fn take_snapshots(&mut self) -> Vec<SnapshotId> {
        if !self.snapshots.loading() {
            self.snapshots.forget_incoming();
        }
        let offer = self.raw.mut_store().set_offer(None);
        let mut all = std::mem::take(&mut self.snapshots.garbage);
        all.extend(offer.map(|offer| offer.manifest().id));
        all
    }

    /// The snapshot that a snapshot thread gives to the state machine right now.
    pub(crate) fn loading(&self) -> Option<SnapshotId> {
        let incoming = self.snapshots.incoming.as_ref()?;
        self.snapshots.loading().then_some(incoming.manifest.id)
    }
}
