//! The handle to a running store.

use crate::apply::ApplyEntry;
use crate::completion::Reply;
use crate::disk::Shortage;
use crate::error::ReadLogError;
use crate::log::committed;
use crate::members::{ChangeRequest, RecoverRequest};
use crate::message::{ReadMode, Request, ShardMessage};
use crate::router::Router;
use crate::shard::sync::Unsynced;
use crate::snapshot::{SnapshotId, SnapshotStore};
use crate::start::Threads;
use crate::status::{GroupView, QueueStatus, ReplicaStatus};
use crate::transport::{Envelope, Inbound};
use crate::types::{GroupId, GroupRecord, ReplicaId, StoreId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A running store: cheap to clone. No call blocks but those that say so.
#[derive(Clone)]
pub struct Store {
    pub(crate) router: Arc<Router>,
    pub(crate) unsynced: Arc<Mutex<Unsynced>>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) threads: Arc<Mutex<Option<Threads>>>,
}

impl Store {
    /// Submits requests, each with its way back. Requests of one group keep their order.
    pub fn submit(&self, requests: Vec<Request>) {
        self.router.submit(requests);
    }

    /// Replicates and applies `command`. Answers [`crate::Answer::Applied`] after the local apply,
    /// which follows a synced write on a majority.
    ///
    /// Errors: `NotLeader`, `Busy`, `DiskFull`, `NoGroup`, `Quarantined`, `Invalid` and `Closed` mean
    /// *not applied*; `Unknown` means that it may be, now or later. A command that only takes away is
    /// better submitted as [`Request::Propose`], which can say so.
    pub fn propose(&self, group: GroupId, command: Bytes, reply: Reply) {
        self.submit(vec![Request::Propose { group, command, takes_away: false, reply }]);
    }

    /// Answers [`crate::Answer::ReadReady`] once what is read from the state machine *after* the
    /// answer is what `mode` says.
    ///
    /// Errors: `NotLeader` (with [`ReadMode::Follower`]: none is known), `Busy` (not confirmed in time, too
    /// many wait), `TooOld` ([`ReadMode::Stale`] only), `NoGroup`, `Quarantined`, `Closed`.
    pub fn read_barrier(&self, group: GroupId, mode: ReadMode, reply: Reply) {
        self.submit(vec![Request::ReadBarrier { group, mode, reply }]);
    }

    /// Hands the group's leadership to `to`. [`crate::Answer::Accepted`] says that it leads now.
    ///
    /// Errors: `NotTransferred` tells why not, at once or after an election timeout, and that this
    /// replica leads on; while the other takes over, proposals get `Busy`. `NotLeader`, `NoGroup`,
    /// `Quarantined` and `Closed` mean *not begun*. `Unknown`: this replica stepped down, and who
    /// leads was not heard in time.
    pub fn transfer_leader(&self, group: GroupId, to: ReplicaId, reply: Reply) {
        self.submit(vec![Request::TransferLeader { group, to, reply }]);
    }

    /// Changes the group's members: any set of changes at once, see [`crate::members`].
    /// [`crate::Answer::Accepted`] says that the request is replicated and that every leader from
    /// now on carries it out; [`Store::group`] shows how far it is
    /// ([`crate::Membership::pending`]). The same operation again is accepted again and not done
    /// twice.
    ///
    /// Errors: `Refused` tells which rule forbids it; `NotLeader`, `Busy`, `NoGroup`, `Quarantined`
    /// and `Closed` mean *not done*; after `Unknown` ask again with the same operation.
    pub fn change_members(&self, group: GroupId, request: ChangeRequest, reply: Reply) {
        self.submit(vec![Request::ChangeMembers { group, request, reply }]);
    }

    /// Has the replica here go on as the only voter of a group whose majority is lost for good; the
    /// other members that are left are replaced by new ones. [`crate::Answer::Accepted`] says that this is
    /// durable. It may lose what only the lost replicas had, so: ask every store that is left, and choose
    /// the replica whose log ends last; see that no lost store comes back under its id. The same operation
    /// again is accepted and not done twice.
    ///
    /// Errors: `Refused` when somebody leads, or the others are a majority; `Busy`, `NoGroup`,
    /// `Quarantined` and `Closed` mean *not done*; after `Unknown` ask again with the same operation.
    pub fn recover(&self, group: GroupId, request: RecoverRequest, reply: Reply) {
        self.submit(vec![Request::Recover { group, request, reply }]);
    }

    /// Makes a snapshot of the group's state here. [`crate::Answer::SnapshotMade`] says that it is
    /// at hand for followers for a while.
    ///
    /// Errors: `Busy` when nothing is applied durably yet, the members change, or a member is taking the
    /// last one; `NoGroup`, `Quarantined` and `Closed`.
    pub fn snapshot(&self, group: GroupId, reply: Reply) {
        self.submit(vec![Request::Snapshot { group, reply }]);
    }

    /// Creates this store's replica of a group. Every member must be created with the same
    /// description. Idempotent; answered when the record is durable.
    pub fn create_group(&self, record: GroupRecord, reply: Reply) {
        self.submit(vec![Request::CreateGroup { record, reply }]);
    }

    /// Committed entries of the group's log from the index `from` on, in order: at least one, up to the one
    /// with which their commands exceed `bytes_max` bytes, and none that the state machine here was not
    /// given yet. A command whose answer has come is among them; after a [`Store::read_barrier`] so is
    /// every command that was answered anywhere before.
    ///
    /// An index counts entries from 1, not commands: one entry holds all commands of its group and
    /// round, a leader's first entry and a change of the members hold none. The state machine sees the
    /// same entries and may note where what is. Blocks on the disk, on the caller's thread: no shard
    /// waits for it.
    ///
    /// # Errors
    /// `NotYet` from the next entry on; `Cut` when the log begins later (see
    /// [`crate::StateMachine::log_needed`], which keeps it); `NoGroup`; `Log` for damage and a failing disk.
    pub fn read_log(
        &self,
        group: GroupId,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<ApplyEntry>, ReadLogError> {
        let applied = self.unsynced.lock().applied(group);
        let applied = match applied {
            Some(applied) => applied,
            None if self.group(group).is_some() => 0,
            None => return Err(ReadLogError::NoGroup { group }),
        };
        committed::read(&*self.router.log, group, from..=applied, bytes_max)
    }

    /// A group as last published, a moment old.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Arc<GroupView>> {
        self.router.views.read().get(&group).cloned()
    }

    /// The replica of `group` that was removed here, unless one is here again: only one with a
    /// larger id may be created. A moment old, as [`Self::group`].
    #[must_use]
    pub fn removed(&self, group: GroupId) -> Option<ReplicaId> {
        self.router.tombstones.read().get(&group).copied()
    }

    /// Grows with every change of what [`Self::groups`] shows, just before it is shown: whoever saw the same
    /// count before and after a look has seen the latest.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let _views = self.router.views.read();
        self.router.changes.load(Ordering::Acquire)
    }

    /// All groups of this store, by id.
    #[must_use]
    pub fn groups(&self) -> Vec<Arc<GroupView>> {
        let mut groups: Vec<_> = self.router.views.read().values().cloned().collect();
        groups.sort_by_key(|view| view.record.desc.group);
        groups
    }

    /// Every replica in figures. Asks the shards and blocks for up to one second; shards that do
    /// not answer are left out.
    #[must_use]
    pub fn describe(&self) -> Vec<ReplicaStatus> {
        let (sender, receiver) = mpsc::channel();
        self.router.tell_all(|| ShardMessage::Describe(sender.clone()));
        drop(sender);
        let mut all = Vec::new();
        while let Ok(part) = receiver.recv_timeout(Duration::from_secs(1)) {
            all.extend(part);
        }
        all.sort_by_key(|status: &ReplicaStatus| status.group);
        all
    }

    /// Hands every leadership over and takes none from now on: the step before
    /// [`Store::shutdown`] that spares callers an election. Voters of equal priority share the
    /// groups. Blocks until nothing is led here that another store could lead, and all callers
    /// have their answers; until there was no progress for one and a half election timeouts; or
    /// for `limit`. The number of groups that are still led.
    #[must_use]
    pub fn hand_over(&self, limit: Duration) -> usize {
        const LOOK_INTERVAL: Duration = Duration::from_millis(10);
        let config = &self.router.config;
        let election = config.election_ticks as u64 * config.tick_interval_ms;
        let patience = Duration::from_millis(election * 3 / 2);
        self.router.tell_all(|| ShardMessage::Leave);
        let over = crossbeam::channel::after(limit);
        let mut stuck = crossbeam::channel::after(patience);
        let mut fewest = usize::MAX;
        loop {
            let led = self.groups().iter().filter(|view| view.leads_others()).count();
            let waiting = || self.describe().iter().any(|r| r.waiting_proposals > 0);
            if led == 0 && !waiting() {
                return led;
            }
            if led < fewest {
                fewest = led;
                stuck = crossbeam::channel::after(patience);
            }
            crossbeam::channel::select! {
                recv(over) -> _ => return led,
                recv(stuck) -> _ => return led,
                default(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Whether the disk of the log is slow ([`crate::Config::slow_sync_ms`]): leaderships go to other
    /// stores then, and none should be given to this one.
    #[must_use]
    pub fn disk_is_slow(&self) -> bool {
        self.router.disk_is_slow()
    }

    /// Tells the store how short of room its disk is, if it is: see [`crate::disk`]. To be said as soon
    /// as that changes, and once a second while it lasts.
    pub fn set_disk(&self, shortage: Option<Shortage>) {
        let before = std::mem::replace(&mut *self.router.shortage.lock(), shortage);
        if before != shortage || shortage.is_some() {
            let room = &self.router.spare_room;
            room.measured(shortage);
            self.router.tell_all(|| ShardMessage::Disk(shortage, Arc::clone(room)));
        }
    }

    /// The state of the replica of `group` here was found damaged when it was read: it is quarantined as one
    /// that a start finds damaged, and the other groups go on.
    pub fn report_damage(&self, group: GroupId, reason: &str) {
        if let Some(view) = self.group(group) {
            let (replica, reason) = (view.record.replica, reason.to_owned());
            self.router.tell(group, ShardMessage::StateDamaged { group, replica, reason });
        }
    }

    /// How full the queues are.
    #[must_use]
    pub fn queues(&self) -> QueueStatus {
        self.router.queues()
    }

    /// The registry that holds the engine's metrics. To gather them asks the shards and blocks for up to
    /// one second, as [`Store::describe`].
    #[must_use]
    pub fn metrics(&self) -> prometheus::Registry {
        self.router.metrics.registry.clone()
    }

    /// Stops: callers are answered, queued writes finished, the state machine synced. Blocks until
    /// every thread has ended. Further calls do nothing.
    pub fn shutdown(&self) {
        if let Some(threads) = self.threads.lock().take() {
            threads.stop(&self.router);
        }
    }
}

impl Inbound for Store {
    fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>) {
        self.router.deliver(from, envelopes);
    }

    fn snapshot_block(&self, id: SnapshotId, number: u64) -> io::Result<Bytes> {
        let block = self.snapshots.read(id, number);
        if matches!(&block, Err(error) if error.kind() == io::ErrorKind::InvalidData) {
            tracing::error!(snapshot = %id, number, "a block of a snapshot is damaged here");
            self.router.tell_all(|| ShardMessage::SnapshotDamaged(id));
        }
        let bytes = block.as_ref().map_or(0, |block| block.len() as u64);
        self.router.metrics.snapshot_bytes_sent.inc_by(bytes);
        block
    }

    fn unreachable(&self, store: StoreId) {
        self.router.tell_all(|| ShardMessage::Unreachable(store));
    }
}
