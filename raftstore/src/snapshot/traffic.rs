//! What the snapshot threads of a store share: which snapshots are still wanted, and the room on the disk
//! that all of them take.
//!
//! A replica that has no use for a snapshot any more has it removed, whatever a thread does with it
//! just then: that thread looks here between two blocks, ends, and removes it itself. The next replica of
//! the group may be offered the same snapshot before that, so a removal looks here, too: what is wanted
//! again stays, and who begins with what is being removed hears that it failed.

use super::SnapshotId;
use crate::message::{Asker, SnapshotTask};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

/// See the module.
pub struct Traffic {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Made or fetched for a replica that has not given them up.
    wanted: BTreeSet<SnapshotId>,
    running: BTreeMap<SnapshotId, Running>,
    /// Bytes of what is, or will be, on the disk.
    bytes: BTreeMap<SnapshotId, u64>,
}

/// Made, fetched or removed by a thread, or in a queue to one that makes or fetches: for whom, if anybody
/// asked for it.
type Running = Option<Asker>;

impl Traffic {
    /// Of a store whose snapshots may take so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Traffic { bytes_max, state: Mutex::default() }
    }

    /// A replica hands this out: whether a thread is to do it. If not, one is at this snapshot already
    /// and will answer the new asker, or remove it.
    pub fn admit(&self, task: &SnapshotTask) -> bool {
        match task {
            SnapshotTask::Make { asker, id, .. } => self.begin(*id, *asker),
            SnapshotTask::Fetch { asker, manifest, .. } => self.begin(manifest.id, *asker),
            SnapshotTask::Load { .. } => true,
            SnapshotTask::Remove(id) => self.give_up(*id),
        }
    }

    fn begin(&self, id: SnapshotId, asker: Asker) -> bool {
        let state = &mut *self.state.lock();
        state.wanted.insert(id);
        state.running.insert(id, Some(asker)).is_none()
    }

    fn give_up(&self, id: SnapshotId) -> bool {
        let state = &mut *self.state.lock();
        state.wanted.remove(&id);
        !state.running.contains_key(&id)
    }

    /// An error when nobody wants `id` any more.
    pub fn check(&self, id: SnapshotId) -> io::Result<()> {
        if self.state.lock().wanted.contains(&id) {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::Interrupted, "nobody wants it any more"))
    }

    /// A thread is done with `id`: whom it tells. What nobody wants then is to be removed.
    pub fn end(&self, id: SnapshotId) -> Option<Asker> {
        self.state.lock().running.remove(&id)?
    }

    /// Whether `id` may be removed now. Who begins with it meanwhile is told by [`Self::end`].
    pub fn begin_removal(&self, id: SnapshotId) -> bool {
        let state = &mut *self.state.lock();
        let free = !state.wanted.contains(&id) && !state.running.contains_key(&id);
        if free {
            state.running.insert(id, None);
        }
        free
    }

    /// Takes room for `bytes` of `id` in all.
    pub fn reserve(&self, id: SnapshotId, bytes: u64) -> io::Result<()> {
        let state = &mut *self.state.lock();
        let others = state.bytes.iter().filter(|(other, _)| **other != id);
        let taken: u64 = others.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if taken.saturating_add(bytes) > self.bytes_max {
            let max = self.bytes_max;
            let why = format!("{taken} of snapshot_disk_bytes_max = {max} bytes are taken");
            return Err(io::Error::new(ErrorKind::StorageFull, why));
        }
        state.bytes.insert(id, bytes);
        Ok(())
    }

    /// A start found `id` on the disk.
    pub fn found(&self, id: SnapshotId, bytes: u64) {
        self.state.lock().bytes.insert(id, bytes);
    }

    /// `id` is removed.
    pub fn release(&self, id: SnapshotId) {
        self.state.lock().bytes.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GroupId, ReplicaId};

    const ID: SnapshotId = SnapshotId(1);

    fn asker(replica: u64) -> Asker {
        Asker { shard: 0, group: GroupId(1), replica: ReplicaId(replica) }
    }

    #[test]
    fn a_transfer_that_nobody_wants_ends_and_one_that_is_wanted_again_goes_on() {
        let traffic = Traffic::new(100);
        let make = |replica| SnapshotTask::Make { asker: asker(replica), id: ID, sync: false };
        let remove = SnapshotTask::Remove(ID);
        assert!(traffic.admit(&remove), "nobody is at it");
        assert!(traffic.admit(&make(1)));
        assert!(traffic.check(ID).is_ok());
        assert!(!traffic.admit(&remove), "the thread removes it");
        assert!(traffic.check(ID).is_err());
        assert!(!traffic.admit(&make(2)), "no second thread");
        assert!(traffic.check(ID).is_ok());
        assert_eq!(traffic.end(ID), Some(asker(2)));
        assert!(traffic.check(ID).is_ok());
        assert!(traffic.admit(&make(3)) && !traffic.admit(&remove));
        assert_eq!(traffic.end(ID), Some(asker(3)));
        assert!(traffic.check(ID).is_err());
        assert_eq!(traffic.end(ID), None);
    }

    #[test]
    fn a_removal_leaves_what_is_wanted_again() {
        let traffic = Traffic::new(100);
        let make = |replica| SnapshotTask::Make { asker: asker(replica), id: ID, sync: false };
        let remove = SnapshotTask::Remove(ID);
        assert!(traffic.admit(&make(1)) && traffic.end(ID).is_some());
        assert!(traffic.admit(&remove), "it is queued behind others");
        assert!(traffic.admit(&make(2)));
        assert!(!traffic.begin_removal(ID), "a thread is at it");
        assert_eq!(traffic.end(ID), Some(asker(2)));
        assert!(!traffic.begin_removal(ID), "it came, and is needed");
        assert!(traffic.admit(&remove) && traffic.begin_removal(ID));
        assert!(!traffic.admit(&make(3)), "not while it is being removed");
        assert!(!traffic.begin_removal(ID));
        assert_eq!(traffic.end(ID), Some(asker(3)), "who hears that it failed");
        assert!(traffic.admit(&remove) && traffic.begin_removal(ID));
        assert_eq!(traffic.end(ID), None);
    }

    #[test]
    fn the_room_of_all_snapshots_is_limited() {
        let traffic = Traffic::new(100);
        traffic.found(ID, 30);
        traffic.reserve(SnapshotId(2), 70).unwrap();
        traffic.reserve(SnapshotId(2), 60).unwrap();
        let full = traffic.reserve(SnapshotId(3), 11).unwrap_err();
        assert!(full.to_string().contains("snapshot_disk_bytes_max = 100"), "{full}");
        assert!(traffic.reserve(SnapshotId(3), u64::MAX).is_err());
        traffic.release(ID);
        traffic.reserve(SnapshotId(3), 40).unwrap();
    }
}
