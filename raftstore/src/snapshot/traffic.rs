//! What the snapshot threads of a store share: which of its transfers are still wanted, and the room
//! on the disk that all its snapshots take.
//!
//! A replica that has no use for a snapshot any more has it removed, whatever a thread does with it
//! just then: that thread looks here between two blocks, ends, and removes it itself.

use super::SnapshotId;
use crate::message::Asker;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

/// See the module.
pub(crate) struct Traffic {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<SnapshotId, Running>,
    /// Bytes of what is, or will be, on the disk.
    bytes: BTreeMap<SnapshotId, u64>,
}

/// Made or fetched by a thread, or in a queue to it.
struct Running {
    asker: Asker,
    wanted: bool,
}

impl Traffic {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Traffic { bytes_max, state: Mutex::default() }
    }

    /// `asker` wants `id`; whether a thread is to begin with it. One that is at it already will
    /// answer this asker.
    pub(crate) fn begin(&self, id: SnapshotId, asker: Asker) -> bool {
        self.state.lock().running.insert(id, Running { asker, wanted: true }).is_none()
    }

    /// Nobody wants `id` any more; whether it is to be removed now. Otherwise the thread that is at
    /// it will do so.
    pub(crate) fn give_up(&self, id: SnapshotId) -> bool {
        match self.state.lock().running.get_mut(&id) {
            Some(running) => {
                running.wanted = false;
                false
            }
            None => true,
        }
    }

    /// An error when nobody wants `id` any more.
    pub(crate) fn check(&self, id: SnapshotId) -> io::Result<()> {
        match self.state.lock().running.get(&id) {
            Some(running) if running.wanted => Ok(()),
            _ => Err(io::Error::new(ErrorKind::Interrupted, "nobody wants it any more")),
        }
    }

    /// A thread is done with `id`: whom it tells, and whether it is to be kept.
    pub(crate) fn end(&self, id: SnapshotId) -> Option<(Asker, bool)> {
        let running = self.state.lock().running.remove(&id)?;
        Some((running.asker, running.wanted))
    }

    /// Takes room for `bytes` of `id` in all.
    pub(crate) fn reserve(&self, id: SnapshotId, bytes: u64) -> io::Result<()> {
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
    pub(crate) fn found(&self, id: SnapshotId, bytes: u64) {
        self.state.lock().bytes.insert(id, bytes);
    }

    /// `id` is removed.
    pub(crate) fn release(&self, id: SnapshotId) {
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
        assert!(traffic.give_up(ID), "nobody is at it");
        assert!(traffic.begin(ID, asker(1)));
        assert!(traffic.check(ID).is_ok());
        assert!(!traffic.give_up(ID), "the thread removes it");
        assert!(traffic.check(ID).is_err());
        assert!(!traffic.begin(ID, asker(2)), "no second thread");
        assert!(traffic.check(ID).is_ok());
        assert_eq!(traffic.end(ID), Some((asker(2), true)));
        assert!(traffic.begin(ID, asker(3)) && !traffic.give_up(ID));
        assert_eq!(traffic.end(ID), Some((asker(3), false)));
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
