//! The consensus library's view of one replica's log: cache first, then the log store.
//!
//! Entries show here as soon as the shard has taken them from a `ready`, before they are durable
//! (design trap 2). Reads for a lagging follower never block the shard: they answer "not yet",
//! leave a [`Wanted`] behind, and are repeated when the reader thread has brought the entries.
//! Every other read is inline.

use crate::disk::room_of_snapshot;
use crate::error::LogError;
use crate::log::LogStore;
use crate::log::cache::Cache;
use crate::log::terms::Terms;
use crate::snapshot::Manifest;
use crate::types::{
    EntryKind, GroupDesc, GroupId, HardState, LogEntry, LogPosition, ReplicaDesc, ReplicaId,
    ReplicaRole,
};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// A read for a lagging follower that the reader thread is to do.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) bytes_max: usize,
    pub(super) context: GetEntriesContext,
}

/// See the module.
pub(super) struct ReplicaStorage {
    group: GroupId,
    log: Arc<dyn LogStore>,
    /// The library asks once, when it begins.
    initial: Cell<Option<Box<RaftState>>>,
    terms: Terms,
    cache: Cache,
    wanted: RefCell<Vec<Wanted>>,
    fetched: Vec<LogEntry>,
    /// The snapshot at hand.
    offer: Option<Box<Offer>>,
    /// The library took it since the last look.
    offered: Cell<bool>,
    /// The library asked for one in vain, for these members.
    snapshot_wanted: RefCell<Vec<u64>>,
    /// Members that take no more than so many bytes of their disks for one.
    rooms: Vec<(u64, u64)>,
}

/// A snapshot that followers may have.
pub(super) struct Offer {
    manifest: Manifest,
    snapshot: Snapshot,
}

impl Offer {
    pub(super) fn new(manifest: Manifest) -> Self {
        let snapshot = conf_snapshot(&manifest);
        Offer { manifest, snapshot }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl ReplicaStorage {
    pub(super) fn new(
        desc: &GroupDesc,
        hard_state: HardState,
        terms: Terms,
        log: Arc<dyn LogStore>,
    ) -> Self {
        let state = raft::eraftpb::HardState {
            term: hard_state.term,
            vote: hard_state.vote,
            commit: hard_state.commit,
            ..Default::default()
        };
        let mut members = conf_state(desc);
        if crate::mutant::active("learner_in_quorum") {
            let learners = std::mem::take(&mut members.learners);
            members.voters.extend(learners);
        }
        ReplicaStorage {
            group: desc.group,
            log,
            initial: Cell::new(Some(Box::new(RaftState::new(state, members)))),
            terms,
            cache: Cache::default(),
            wanted: RefCell::default(),
            fetched: Vec::new(),
            offer: None,
            offered: Cell::new(false),
            snapshot_wanted: RefCell::default(),
            rooms: Vec::new(),
        }
    }

    pub(super) fn offer(&self) -> Option<&Offer> {
        self.offer.as_deref()
    }

    /// Gives the one before.
    pub(super) fn set_offer(&mut self, offer: Option<Box<Offer>>) -> Option<Box<Offer>> {
        std::mem::replace(&mut self.offer, offer)
    }

    pub(super) fn take_offered(&mut self) -> bool {
        self.offered.take()
    }

    pub(super) fn set_rooms(&mut self, rooms: Vec<(u64, u64)>) {
        self.rooms = rooms;
    }

    pub(super) fn take_snapshot_wanted(&mut self) -> Vec<u64> {
        std::mem::take(self.snapshot_wanted.get_mut())
    }

    /// A snapshot up to `position` takes the place of all entries.
    pub(super) fn begin_anew(&mut self, position: LogPosition) {
        self.terms = Terms::new(position, &[], position.index);
        self.cache = Cache::default();
        self.fetched.clear();
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Bytes of the log on disk, approximately.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.group_bytes(self.group)
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Shows `entry` from now on, and forgets what it overwrites.
    pub(super) fn append(&mut self, entry: LogEntry) {
        self.terms.append(entry.index, entry.term);
        self.fetched.clear();
        self.cache.append(entry);
    }

    pub(super) fn truncate(&mut self, position: LogPosition) {
        self.terms.truncate(position);
        self.cache.trim(position.index, 0);
    }

    /// Frees cached entries up to `index` beyond `bytes_max`.
    pub(super) fn trim_cache(&mut self, index: u64, bytes_max: usize) {
        self.cache.trim(index, bytes_max);
    }

    /// Gives back the room of cached entries that are gone.
    pub(super) fn shrink(&mut self) {
        self.cache.shrink();
        self.fetched = Vec::new();
    }

    pub(super) fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(self.wanted.get_mut())
    }

    /// Keeps what the reader brought, for the repeated read.
    pub(super) fn put_fetched(&mut self, entries: Vec<LogEntry>) {
        self.fetched = entries;
    }

    pub(super) fn drop_fetched(&mut self) {
        self.fetched.clear();
    }

    /// Entries `[low, high)`, inline, at least one, up to about `bytes_max`.
    pub(super) fn read(
        &self,
        low: u64,
        high: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let cached_from = self.cache.first_index().unwrap_or(u64::MAX);
        if low < cached_from {
            self.log.entries(self.group, low, high.min(cached_from), bytes_max, &mut out)?;
            bytes = out.iter().map(|e| e.data.len()).sum();
        }
        let mut next = low + out.len() as u64;
        while next < high && (out.is_empty() || bytes < bytes_max) {
            let Some(entry) = self.cache.get(next) else { break };
            bytes += entry.data.len();
            out.push(entry.clone());
            next += 1;
        }
        Ok(out)
    }

    fn fetched_from(&self, low: u64, high: u64) -> Option<Vec<LogEntry>> {
        let first = self.fetched.first()?.index;
        let skip = usize::try_from(low.checked_sub(first)?).ok()?;
        let found: Vec<_> =
            self.fetched.iter().skip(skip).take_while(|e| e.index < high).cloned().collect();
        (!found.is_empty()).then_some(found)
    }
}

/// The snapshot as the consensus library knows it.
pub(super) fn conf_snapshot(manifest: &Manifest) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.set_data(manifest.encode());
    let metadata = snapshot.mut_metadata();
    metadata.set_conf_state(conf_state(&manifest.desc));
    metadata.index = manifest.position.index;
    metadata.term = manifest.position.term;
    snapshot
}

/// A group's members as the library's, in ascending order.
pub(super) fn conf_state(desc: &GroupDesc) -> ConfState {
    let joint = desc.is_joint();
    let ids = |wanted: &dyn Fn(&ReplicaDesc) -> bool| -> Vec<u64> {
        let mut ids: Vec<u64> =
            desc.replicas.iter().filter(|r| wanted(r)).map(|r| r.replica.0).collect();
        ids.sort_unstable();
        ids
    };
    let mut state = ConfState::default();
    state.set_voters(ids(&|r| r.role.votes()));
    state.set_voters_outgoing(ids(&|r| joint && r.role.voted()));
    state.set_learners(ids(&|r| r.role.learns()));
    state.set_learners_next(ids(&|r| r.role == ReplicaRole::Demoting));
    state
}

/// What the library wants to see in a membership entry when it is proposed: a change that is not
/// empty, or an empty one, which leaves a joint configuration. It looks at nothing else: what the
/// change is stands in our own form in the entry's context, so that the protobuf decoder never
/// meets bytes from a peer. Equally long, because the library counts these bytes.
pub(super) const CHANGE: &[u8] = &[0x12, 2, 0x10, 1];
pub(super) const LEAVE: &[u8] = &[0x1a, 2, 0, 0];

/// Our entry as the library's.
pub(super) fn to_raft(entry: LogEntry) -> Entry {
    let LogEntry { index, term, kind, data } = entry;
    match kind {
        EntryKind::Normal => Entry { index, term, data, ..Entry::default() },
        EntryKind::Membership => Entry {
            entry_type: EntryType::EntryConfChangeV2,
            index,
            term,
            data: Bytes::from_static(CHANGE),
            context: data,
            ..Entry::default()
        },
    }
}

/// The library's entry as ours.
pub(super) fn from_raft(entry: Entry) -> LogEntry {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            (EntryKind::Membership, entry.context)
        }
    };
    LogEntry { index: entry.index, term: entry.term, kind, data }
}

/// The first of `entries`, and those behind it whose data fits `bytes_max` together with it.
fn within<E: std::borrow::Borrow<LogEntry>>(
    entries: impl Iterator<Item = E>,
    bytes_max: usize,
) -> impl Iterator<Item = E> {
    let mut bytes = 0;
    entries.enumerate().map_while(move |(at, entry)| {
        bytes += entry.borrow().data.len();
        (at == 0 || bytes <= bytes_max).then_some(entry)
    })
}

fn limit(entries: Vec<LogEntry>, bytes_max: usize) -> Vec<Entry> {
    within(entries.into_iter(), bytes_max).map(to_raft).collect()
}

impl Storage for ReplicaStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let initial = self.initial.take().expect("the library asks once");
        Ok(*initial)
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let bytes_max =
            max_size.into().map_or(usize::MAX, |b| usize::try_from(b).unwrap_or(usize::MAX));
        if low <= self.terms.truncated().index {
            return Err(StorageError::Compacted.into());
        }
        if self.cache.get(low).is_some() {
            let count = (high - low) as usize;
            let cached = self.cache.from(low).take(count);
            let fit = within(cached.clone(), bytes_max).count();
            // In one allocation of the exact size: this is asked for with each entry.
            let mut out = Vec::with_capacity(fit);
            out.extend(cached.take(fit).cloned().map(to_raft));
            return Ok(out);
        }
        if context.can_async() {
            if let Some(found) = self.fetched_from(low, high) {
                return Ok(limit(found, bytes_max));
            }
            // What the cache holds may not be on disk yet.
            let high = match self.cache.first_index() {
                Some(cached) if !crate::mutant::active("fetch_beyond_durable") => high.min(cached),
                _ => high,
            };
            let wanted = Wanted { low, high, bytes_max, context };
            // One for each follower: a commit may wait for the entry that one of them lacks.
            self.wanted.borrow_mut().push(wanted);
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        match self.read(low, high, bytes_max) {
            Ok(entries) => Ok(limit(entries, bytes_max)),
            Err(LogError::Compacted { .. }) => Err(StorageError::Compacted.into()),
            Err(error) => Err(StorageError::Other(Box::new(error)).into()),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.terms.term(index) {
            Some(term) => Ok(term),
            None if index < self.terms.truncated().index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.terms.truncated().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.terms.last_index())
    }

    /// One that reaches the log's beginning and what is asked, knows the member that it is for, and fits on
    /// its disk.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let index = request_index.max(self.terms.truncated().index);
        let fits = |offer: &&Offer| {
            let Manifest { position, desc, .. } = &offer.manifest;
            position.index >= index && desc.replica(ReplicaId(to)).is_some()
        };
        let room = self.rooms.iter().find(|(member, _)| *member == to);
        let room = room.map_or(u64::MAX, |(_, room)| *room);
        let offer = self.offer().filter(fits);
        let bytes = offer.map_or(0, |offer| room_of_snapshot(offer.manifest.content.bytes));
        if room == 0 || bytes > room {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        if let Some(offer) = offer {
            self.offered.set(true);
            return Ok(offer.snapshot.clone());
        }
        let mut wanted = self.snapshot_wanted.borrow_mut();
        if !wanted.contains(&to) {
            wanted.push(to);
        }
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;
    use raft::eraftpb::ConfChangeV2;

    /// What the library decodes of a proposal.
    #[test]
    fn the_library_takes_our_stand_ins_for_a_change_and_for_a_leave() {
        let decoded = |bytes: &[u8]| ConfChangeV2::parse_from_bytes(bytes).unwrap();
        assert_eq!(decoded(CHANGE).get_changes().len(), 1);
        assert!(decoded(LEAVE).get_changes().is_empty());
        assert_eq!(CHANGE.len(), LEAVE.len());
    }
}
