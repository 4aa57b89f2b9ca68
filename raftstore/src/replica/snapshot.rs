//! Snapshots of other replicas: on their way here, and their install. The flow is in
//! [`crate::snapshot`].

use super::Replica;
use crate::disk::room_of_snapshot;
use crate::log::{GroupWrite, Install};
use crate::message::{LogTask, SnapshotEvent, SnapshotNote, SnapshotTask};
use crate::shard::Round;
use crate::snapshot::{Manifest, SnapshotId};
use crate::transport::{Envelope, Payload};
use crate::types::{HardState, LogPosition, ReplicaId, StoreId};
use raft::eraftpb::Message;

/// Fetches that may fail before a snapshot whose blocks were damaged here counts as lost, one every
/// `snapshot_retry_ticks`.
const REPAIRS_MAX: u32 = 10;
/// A rest after a failed fetch is at most so many times the first one, an election timeout.
const RESTS_MAX: u64 = 8;

/// See the module.
#[derive(Default)]
pub(super) struct Snapshots {
    ticks: u64,
    incoming: Option<Box<Incoming>>,
    /// Those of which a start found something: their blocks may be of use still.
    found: Vec<SnapshotId>,
    /// Blocks to delete.
    garbage: Vec<SnapshotId>,
    /// Fetches that failed since one came whole.
    failures: u32,
}

/// An install that has begun and is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) id: SnapshotId,
    /// A snapshot thread has, or will have, the state in its hands.
    pub(crate) loading: bool,
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
    /// Did not come; what came is kept for the next attempt. The leader hears so at this tick.
    Failing(u64),
    /// The leader knows, and offers another one.
    Failed,
    /// All blocks are here.
    Here,
    /// The library has it; the log write under way is this ready's.
    Writing(u64),
    /// The log has it.
    Written,
    /// The state machine takes it.
    Loading,
    /// Its blocks were damaged: the same are being fetched again; how often that failed.
    Repairing(u32),
    /// It failed: it begins again at this tick.
    Resting(u32, u64),
}

impl Snapshots {
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    pub(super) fn throw_away(&mut self, id: SnapshotId) {
        self.garbage.push(id);
    }

    /// Nothing is on its way here.
    pub(super) fn idle(&self) -> bool {
        self.incoming.is_none()
    }

    /// The log begins behind a state that is not there yet.
    pub(super) fn installing(&self) -> bool {
        self.stage().is_some_and(|stage| {
            !matches!(
                stage,
                Stage::New | Stage::Fetching | Stage::Failing(_) | Stage::Failed | Stage::Here
            )
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

    /// What was in the way is gone: no need to rest longer.
    pub(super) fn rested(&mut self) {
        self.failures = 0;
        if let Some(Stage::Failing(until)) = self.stage() {
            self.set(Stage::Failing(until.min(self.ticks)));
        }
    }

    /// Nothing of what is on its way here is kept on the disk.
    fn throw_away_blocks(&mut self) {
        self.garbage.extend(self.incoming.as_ref().map(|incoming| incoming.manifest.id));
        self.forget_found();
    }

    /// What a start found of snapshots is of no use any more.
    pub(super) fn forget_found(&mut self) {
        self.garbage.append(&mut self.found);
    }

    fn forget_incoming(&mut self) {
        self.garbage.extend(self.incoming.take().map(|incoming| incoming.manifest.id));
    }
}

impl Replica {
    /// A member that was invited has nothing, and the log of the others does not hold all that made
    /// their state: it begins with a snapshot.
    pub(super) fn lacks_beginning(&self) -> bool {
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
        if manifest.desc.membership.version < self.record.desc.membership.version {
            return Err("a snapshot with older members than are known here".to_owned());
        }
        self.snapshots.found.retain(|id| *id != manifest.id);
        let leader = ReplicaId(message.from);
        let known = self.snapshots.incoming.as_ref().filter(|i| i.manifest == manifest);
        let stage = match known.map(|incoming| incoming.stage) {
            None => {
                let rests = self.snapshots.stage().filter(|s| matches!(s, Stage::Failing(_)));
                self.snapshots.forget_incoming();
                rests.unwrap_or(Stage::New)
            }
            Some(Stage::Failed) => Stage::New,
            Some(stage) => stage,
        };
        let message = Some(message);
        let incoming = Incoming { manifest, from: store, leader, message, stage };
        self.snapshots.incoming = Some(Box::new(incoming));
        Ok(())
    }

    /// A start found something of these.
    pub(crate) fn find_snapshots(&mut self, found: &[Manifest]) {
        self.snapshots.found = found.iter().map(|manifest| manifest.id).collect();
    }

    /// What a snapshot thread has done.
    pub(crate) fn on_snapshot(&mut self, note: SnapshotNote, round: &mut Round) -> Option<String> {
        let mine = self.snapshots.incoming.as_ref().is_some_and(|i| i.manifest.id == note.id);
        let stage = self.snapshots.stage().filter(|_| mine);
        match (note.event, stage) {
            (SnapshotEvent::Made(made), _) => self.made(note.id, made),
            (SnapshotEvent::Received(Ok(())), Some(Stage::Fetching)) => {
                self.snapshots.failures = 0;
                self.snapshots.set(Stage::Here);
            }
            (SnapshotEvent::Received(Err(reason)), Some(Stage::Fetching)) => {
                self.fetch_failed(&reason);
            }
            (SnapshotEvent::Received(Ok(())), Some(Stage::Repairing(_))) => {
                self.snapshots.set(Stage::Written);
            }
            (SnapshotEvent::Received(Err(reason)), Some(Stage::Repairing(failures))) => {
                if failures + 1 >= REPAIRS_MAX {
                    return Some(format!(
                        "its snapshot is damaged, and not to be had again: {reason}"
                    ));
                }
                let until = self.snapshots.ticks + self.config.snapshot_retry_ticks;
                self.snapshots.set(Stage::Resting(failures + 1, until));
            }
            (SnapshotEvent::Loaded(Ok(())), Some(Stage::Loading)) => self.installed(round),
            (SnapshotEvent::Loaded(Err(reason)), Some(Stage::Loading)) => {
                tracing::error!(group = self.group().0, reason, "snapshot damaged here");
                self.snapshots.set(Stage::Repairing(0));
                self.fetch(round);
            }
            // Of one that another took the place of.
            (SnapshotEvent::Received(_), None) => self.snapshots.throw_away(note.id),
            _ => {}
        }
        None
    }

    /// It did not come. The first time another one is asked for at once: the sender may have stopped. Then
    /// it rests, twice as long each time: what is in the way, such as a full disk, may stay for long.
    fn fetch_failed(&mut self, reason: &str) {
        let rest = rest_after(self.snapshots.failures, self.config.election_ticks as u64);
        self.snapshots.failures = self.snapshots.failures.saturating_add(1);
        tracing::warn!(group = self.group().0, reason, rest_ticks = rest, "snapshot did not come");
        self.snapshots.set(Stage::Failing(self.snapshots.ticks + rest));
    }

    /// Bytes of this store's disk that a snapshot takes which waits for its first look at that.
    pub(crate) fn room_to_take(&self) -> Option<u64> {
        let incoming = self.snapshots.incoming.as_ref().filter(|i| i.stage == Stage::New)?;
        Some(room_of_snapshot(incoming.manifest.content.bytes))
    }

    /// Bytes of this store's disk that a snapshot on its way here takes, or will.
    pub(crate) fn room_taken(&self) -> u64 {
        let waits = |stage: Stage| matches!(stage, Stage::New | Stage::Failing(_) | Stage::Failed);
        let coming = self.snapshots.incoming.as_ref().filter(|i| !waits(i.stage));
        coming.map_or(0, |incoming| room_of_snapshot(incoming.manifest.content.bytes))
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

    fn fetch(&self, round: &mut Round) {
        if let Some(incoming) = &self.snapshots.incoming {
            let (asker, from) = (self.asker(round), incoming.from);
            let manifest = incoming.manifest.clone();
            round.snapshots.push(SnapshotTask::Fetch { asker, from, manifest });
        }
    }

    /// What is to be done about snapshots, in each round before the ready. `lack`: one is to be fetched, and
    /// there is no room for it, but only for so many bytes.
    pub(crate) fn drive_snapshots(&mut self, lack: Option<u64>, round: &mut Round) {
        self.drive_offers(round);
        self.ask_for_beginning();
        if self.snapshots.ticks > self.config.snapshot_keep_ticks {
            let found = std::mem::take(&mut self.snapshots.found);
            self.snapshots.garbage.extend(found);
        }
        match self.snapshots.stage() {
            Some(Stage::New) => match lack {
                Some(room) => {
                    let needed = self.room_to_take().unwrap_or_default();
                    // What came of it takes room, too.
                    self.snapshots.throw_away_blocks();
                    // There is no hurry: nothing is known to be wrong with the sender.
                    self.snapshots.failures = self.snapshots.failures.max(1);
                    self.fetch_failed(&format!(
                        "the disk is nearly full: it takes {} KiB of it, {} KiB are to spare; make room, \
                         then it is fetched",
                        needed.div_ceil(1 << 10),
                        room >> 10
                    ));
                }
                None => {
                    self.snapshots.set(Stage::Fetching);
                    self.fetch(round);
                }
            },
            Some(Stage::Failing(until)) if self.snapshots.ticks >= until => {
                self.snapshots.set(Stage::Failed);
                self.tell_failed(round);
            }
            Some(Stage::Here) => self.begin_install(),
            Some(Stage::Written) => self.load(round),
            Some(Stage::Resting(failures, until)) if self.snapshots.ticks >= until => {
                self.snapshots.set(Stage::Repairing(failures));
                self.fetch(round);
            }
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
        if desc.membership.version > self.record.desc.membership.version {
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
            record: Some(self.record.clone()),
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
        self.writes.applied(index);
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

    /// Every snapshot that this replica has something of, but for that of an install that has begun: they
    /// go with it.
    pub(crate) fn take_snapshots(&mut self) -> Vec<SnapshotId> {
        if !self.snapshots.installing() {
            self.snapshots.forget_incoming();
        }
        let mut all = std::mem::take(&mut self.snapshots.garbage);
        all.append(&mut self.snapshots.found);
        all.extend(self.offers.take_making());
        all.extend(self.raw.mut_store().set_offer(None).map(|offer| offer.manifest().id));
        all
    }

    /// The install that has begun. It outlives a replica that is quarantined: a start ends it.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let incoming = self.snapshots.incoming.as_ref().filter(|_| self.snapshots.installing())?;
        Some(Unfinished { id: incoming.manifest.id, loading: self.loading() })
    }

    /// A snapshot thread gives one to the state machine right now.
    pub(crate) fn loading(&self) -> bool {
        self.snapshots.loading()
    }
}

/// Ticks to rest after a failed fetch, when so many have failed before it.
fn rest_after(failures: u32, first: u64) -> u64 {
    match failures.checked_sub(1) {
        None => 0,
        Some(doublings) => {
            first * 1u64.checked_shl(doublings).map_or(RESTS_MAX, |n| n.min(RESTS_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_fetches_rest_longer_each_time_up_to_a_limit() {
        let rests = (0..10).map(|failures| rest_after(failures, 10));
        assert_eq!(rests.collect::<Vec<_>>(), [0, 10, 20, 40, 80, 80, 80, 80, 80, 80]);
        assert_eq!(rest_after(u32::MAX, 10), 80);
    }
}
