//! Room on the stores' disks: who is short of it, and what is refused then.
//!
//! 1. This store hears of its own disk by [`crate::message::ShardMessage::Disk`], and of others' with
//!    their shards' signs of life ([`Alive`](crate::transport::Alive)).
//! 2. A leader refuses commands that take room while no quorum of live voters has any: what is
//!    written all the same (deletes, members, checkpoints) needs what is left.
//! 3. A leader on a short store hands over to one on a store with room (`replica/transfer.rs`), so groups
//!    that can do without that store go on.
//! 4. What such a group writes still goes to the short store, until that is down to a quarter of its
//!    limit: from then on it is *shut*. Nobody who can do without it sends it entries
//!    (`replica/ready.rs`), and it takes few (below); it catches up when it has room again.
//! 5. A short store fetches no snapshots (`replica/snapshot.rs`).

use super::Shard;
use super::slot::Slot;
use crate::disk::{Shortage, Shortages};
use crate::error::Error;
use crate::transport::Envelope;
use crate::types::{GroupDesc, GroupId, ReplicaDesc, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries of more bytes in one message are dropped where the disk is nearly full: deletes and changes of the
/// members are small, what has piled up is not.
const ENTRIES_BYTES_SHUT: usize = 64 << 10;

/// See the module.
pub(super) struct Room {
    store: StoreId,
    /// This store among them.
    short: BTreeMap<StoreId, Shortage>,
    /// As replicas know it: figures may be of a moment ago.
    told: Shortages,
}

impl Room {
    pub(super) fn new(store: StoreId) -> Self {
        Room { store, short: BTreeMap::new(), told: Shortages::default() }
    }

    /// What replicas know.
    pub(super) fn told(&self) -> Shortages {
        Arc::clone(&self.told)
    }

    /// Of this store.
    pub(super) fn own(&self) -> Option<Shortage> {
        self.short.get(&self.store).copied()
    }

    /// Why `envelope` is too much for this store's disk.
    pub(super) fn refuses(&self, envelope: &Envelope) -> Option<&'static str> {
        let much = envelope.is_bulk() && envelope.size() > ENTRIES_BYTES_SHUT;
        (much && self.is_shut()).then_some("the disk is nearly full")
    }

    /// This store's disk is so full that it takes as little as can be.
    fn is_shut(&self) -> bool {
        self.own().is_some_and(Shortage::is_severe)
    }

    /// Takes what is known of a store now; whether replicas must hear of it.
    fn set(&mut self, store: StoreId, shortage: Option<Shortage>) -> bool {
        let level = |shortage: Option<Shortage>| shortage.map(Shortage::is_severe);
        let before = match shortage {
            Some(shortage) => self.short.insert(store, shortage),
            None => self.short.remove(&store),
        };
        if level(before) == level(shortage) {
            return false;
        }
        self.told = Arc::new(self.short.clone());
        true
    }

    /// A store without which no quorum of voters that live has room; or this one, when it is shut.
    fn lacking(
        &self,
        desc: &GroupDesc,
        lives: impl Fn(StoreId) -> bool,
    ) -> Option<(StoreId, Shortage)> {
        let known = |store: StoreId| Some((store, *self.short.get(&store)?));
        if self.is_shut() {
            return known(self.store);
        }
        let has_room = |r: &ReplicaDesc| !self.short.contains_key(&r.store) && lives(r.store);
        if desc.has_quorum(has_room) {
            return None;
        }
        // Where nobody is short the others are only silent: that is not for us to judge.
        let mut voters = desc.replicas.iter().filter(|r| r.role.votes() || r.role.voted());
        known(self.store).or_else(|| voters.find_map(|r| known(r.store)))
    }
}

impl Shard {
    /// How a store's disk is.
    pub(super) fn disk_told(&mut self, store: StoreId, shortage: Option<Shortage>) {
        if !self.room.set(store, shortage) {
            return;
        }
        if store == self.parts.store {
            match shortage {
                Some(shortage) => tracing::warn!(%shortage, "the disk is nearly full"),
                None => tracing::info!("the disk has room again"),
            }
        }
        let told = self.room.told();
        self.live().for_each(|live| live.replica.know_short(Arc::clone(&told)));
    }

    /// Why a leader here takes nothing now that takes room.
    pub(super) fn lacks_room(&self, group: GroupId) -> Option<Error> {
        if self.room.short.is_empty() {
            return None;
        }
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return None };
        // Who does not lead says who does.
        if !live.replica.is_leader() {
            return None;
        }
        let desc = &live.replica.record().desc;
        let lives = |store| store == self.parts.store || self.is_watched(store, group);
        let (store, shortage) = self.room.lacking(desc, lives)?;
        Some(Error::DiskFull { group, store, shortage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ReplicaId, ReplicaRole};

    const LITTLE: Shortage = Shortage { free: 50, limit: 100 };
    const HARDLY: Shortage = Shortage { free: 24, limit: 100 };

    fn desc(roles: &[ReplicaRole]) -> GroupDesc {
        let member = |(id, role): (u64, &ReplicaRole)| ReplicaDesc {
            replica: ReplicaId(10 * id),
            store: StoreId(id),
            role: *role,
        };
        GroupDesc::new(GroupId(1), (1..).zip(roles).map(member).collect())
    }

    fn lacking(room: &Room, desc: &GroupDesc, silent: &[u64]) -> Option<u64> {
        let lives = |store: StoreId| !silent.contains(&store.0);
        room.lacking(desc, lives).map(|(store, _)| store.0)
    }

    #[test]
    fn writes_need_a_quorum_of_live_voters_with_room() {
        use ReplicaRole::{Demoting, Incoming, Learner, Voter};
        let mut room = Room::new(StoreId(1));
        let three = desc(&[Voter, Voter, Voter, Learner]);
        assert!(room.set(StoreId(2), Some(LITTLE)));
        assert!(!room.set(StoreId(2), Some(Shortage { free: 51, ..LITTLE })), "the same level");
        assert_eq!(lacking(&room, &three, &[]), None);
        assert_eq!(lacking(&room, &three, &[3]), Some(2), "store 3 is down");
        room.set(StoreId(4), Some(LITTLE));
        assert_eq!(lacking(&room, &three, &[]), None, "a learner counts for nothing");
        room.set(StoreId(1), Some(LITTLE));
        assert_eq!(lacking(&room, &three, &[]), Some(1), "its own is named first");
        // Both halves of a joint configuration decide.
        let joint = desc(&[Demoting, Demoting, Voter, Incoming]);
        room.set(StoreId(1), None);
        room.set(StoreId(4), None);
        assert_eq!(lacking(&room, &joint, &[]), None);
        room.set(StoreId(1), Some(LITTLE));
        assert_eq!(lacking(&room, &joint, &[]), Some(1));
    }

    #[test]
    fn a_leader_that_is_shut_refuses_whoever_else_has_room() {
        let mut room = Room::new(StoreId(1));
        let three = desc(&[ReplicaRole::Voter; 3]);
        room.set(StoreId(1), Some(LITTLE));
        assert!(!room.is_shut());
        assert_eq!(lacking(&room, &three, &[]), None);
        assert!(room.set(StoreId(1), Some(HARDLY)), "another level");
        assert!(room.is_shut() && room.told()[&StoreId(1)].is_severe());
        assert_eq!(lacking(&room, &three, &[]), Some(1));
        assert!(room.set(StoreId(1), None) && room.told().is_empty());
        assert_eq!(lacking(&room, &three, &[2, 3]), None, "nobody is short");
    }
}
