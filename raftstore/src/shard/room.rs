//! Room on the stores' disks: who is short of it, and what is refused then.
//!
//! 1. This store hears of its own disk by [`crate::message::ShardMessage::Disk`], and of others' with
//!    their shards' signs of life ([`Alive`](crate::transport::Alive)).
//! 2. A leader refuses commands that take room while no quorum of live voters has any: what is
//!    written all the same (deletes, members, checkpoints) needs what is left.
//! 3. A leader on a short store hands over to one on a store with room (`shed.rs`), so groups
//!    that can do without that store go on.
//! 4. What such a group writes still goes to the short store, until that is down to a quarter of its
//!    limit: from then on it is *shut*. Nobody who can do without it sends it entries
//!    (`replica/ready.rs`); it catches up when it has room again. If a quorum needs it, it takes what it has
//!    missed as long as an eighth of the limit stays free, and then only little: what is left then is
//!    for deletes and changes of the members, which make room.
//! 5. Snapshots are as entries: they are offered to a short store that its group can do without only
//!    if a quarter of its limit stays free with them (`replica/offer.rs`), and it fetches those with
//!    which an eighth does, all that are on their way together (`replica/snapshot.rs`).

use super::Shard;
use super::slot::Slot;
use crate::disk::{Shortage, Shortages, SpareRoom};
use crate::error::Error;
use crate::replica::Replica;
use crate::transport::Envelope;
use crate::types::{GroupDesc, GroupId, ReplicaDesc, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries of more bytes in one message are dropped where only the reserve is left: deletes and changes of
/// the members are small, what has piled up is not.
const ENTRIES_BYTES_SHUT: usize = 64 << 10;
/// Bytes that one byte of entries takes: in the log and in the data, and in both once more while files are
/// rewritten.
const ROOM_FACTOR: u64 = 4;

/// What is new about a store's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    /// More or less is left: who reckons with it must know.
    Figures,
    /// It has become short, shut or critical, or is so no longer.
    Level,
}

/// See the module.
pub(super) struct Room {
    store: StoreId,
    /// This store among them.
    short: BTreeMap<StoreId, Shortage>,
    /// What entries and snapshots may take of this store's disk; all of its shards take from it.
    spare: Arc<SpareRoom>,
    /// As replicas know it: figures are renewed at each eighth of the limit.
    told: Shortages,
}

impl Room {
    pub(super) fn new(store: StoreId) -> Self {
        let (short, spare, told) = Default::default();
        Room { store, short, spare, told }
    }

    /// What replicas know.
    pub(super) fn told(&self) -> Shortages {
        Arc::clone(&self.told)
    }

    /// Of this store.
    pub(super) fn own(&self) -> Option<Shortage> {
        self.short.get(&self.store).copied()
    }

    /// Why `envelope` is too much for this store's disk. What is not has its room from now on.
    pub(super) fn refuses(&self, envelope: &Envelope) -> Option<&'static str> {
        if !envelope.is_bulk() || !self.is_shut() {
            return None;
        }
        let bytes = ROOM_FACTOR * envelope.size() as u64;
        let taken = self.spare.take(bytes, envelope.size() <= ENTRIES_BYTES_SHUT);
        (!taken).then_some("the disk is nearly full")
    }

    /// Promises this store's room to the snapshot that `replica` is to fetch now, if it is; or tells how
    /// little there is for it.
    pub(super) fn promise(&self, shard: usize, replica: &Replica) -> Option<u64> {
        self.own()?;
        self.spare.promise(shard, replica.room_to_take()?).err()
    }

    fn is_short(&self, store: StoreId) -> bool {
        self.short.contains_key(&store)
    }

    /// This store's disk is so full that it takes as little as can be.
    fn is_shut(&self) -> bool {
        self.own().is_some_and(Shortage::is_severe)
    }

    /// Takes what is known of a store now. Replicas must hear of all that is new.
    fn set(&mut self, store: StoreId, shortage: Option<Shortage>) -> News {
        let level = |shortage: Option<Shortage>| {
            shortage.map(|shortage| (shortage.is_severe(), shortage.is_critical()))
        };
        let eighths = |shortage: Option<Shortage>| shortage.map(Shortage::eighths);
        let before = match shortage {
            Some(shortage) => self.short.insert(store, shortage),
            None => self.short.remove(&store),
        };
        let news = if level(before) != level(shortage) {
            News::Level
        } else if eighths(before) != eighths(shortage) {
            News::Figures
        } else {
            return News::Nothing;
        };
        self.told = Arc::new(self.short.clone());
        news
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
        let has_room = |r: &ReplicaDesc| !self.is_short(r.store) && lives(r.store);
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
        let was_short = self.room.is_short(store);
        let news = self.room.set(store, shortage);
        if news == News::Nothing {
            return;
        }
        let told = self.room.told();
        self.live().for_each(|live| live.replica.know_short(Arc::clone(&told)));
        if news == News::Figures {
            return;
        }
        let own = store == self.parts.store;
        match shortage {
            Some(shortage) if own => {
                let only_deletes = shortage.is_critical();
                tracing::warn!(%shortage, only_deletes, "the disk is nearly full");
                self.shed_anew();
            }
            None if own => tracing::info!("the disk has room again"),
            // Leaders that would rather have it lead may hand over.
            None if was_short => self.wake_with_all_of(store),
            _ => {}
        }
    }

    /// This store's disk was measured.
    pub(super) fn measured(&mut self, shortage: Option<Shortage>, spare: Arc<SpareRoom>) {
        let coming = self.live().map(|live| live.replica.room_taken());
        let coming = coming.fold(0, u64::saturating_add);
        spare.count(self.parts.shard, coming);
        self.room.spare = spare;
        self.disk_told(self.parts.store, shortage);
    }

    /// Why a leader here takes nothing now that takes room.
    pub(super) fn lacks_room(&self, group: GroupId) -> Option<Error> {
        if self.room.short.is_empty() || crate::mutant::active("short_store_accepts") {
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
    use crate::transport::Payload;
    use crate::types::{ReplicaId, ReplicaRole};
    use bytes::Bytes;

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
        assert_eq!(room.set(StoreId(2), Some(LITTLE)), News::Level);
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
        assert_eq!(room.set(StoreId(1), Some(HARDLY)), News::Level);
        assert!(room.is_shut() && room.told()[&StoreId(1)].is_severe());
        assert_eq!(lacking(&room, &three, &[]), Some(1));
        assert_eq!(room.set(StoreId(1), None), News::Level);
        assert!(room.told().is_empty());
        assert_eq!(lacking(&room, &three, &[2, 3]), None, "nobody is short");
    }

    /// Leaders reckon with it: what they believe must not be of the day when the store became short.
    #[test]
    fn replicas_hear_of_a_stores_room_at_each_eighth_of_its_limit() {
        let mut room = Room::new(StoreId(1));
        let (store, at) = (StoreId(2), |free| Some(Shortage { free, limit: 800 }));
        let mut told = Vec::new();
        for free in [799, 720, 700, 699, 610, 580, 250, 199, 110, 99, 50, 0, 420, 900] {
            let news = room.set(store, at(free));
            told.push((news, room.told()[&store].free));
        }
        let (level, figures) = (|free| (News::Level, free), |free| (News::Figures, free));
        let nothing = |free| (News::Nothing, free);
        let expected = [
            level(799),
            nothing(799),
            nothing(799),
            figures(699),
            nothing(699),
            figures(580),
            figures(250),
            level(199),
            nothing(199),
            level(99),
            nothing(99),
            nothing(99),
            level(420),
            figures(900),
        ];
        assert_eq!(told, expected);
    }

    fn entries(bytes: usize) -> Envelope {
        let bytes = Bytes::from(vec![0; bytes]);
        let payload = Payload::Raft { bytes, bulk: true };
        Envelope { group: GroupId(1), from: ReplicaId(20), to: ReplicaId(10), payload }
    }

    /// A quorum may need it: without what it has missed it could not even take deletes.
    #[test]
    fn a_shut_store_takes_what_piled_up_until_only_the_reserve_is_left() {
        const MIB: usize = 1 << 20;
        let mib = |mib| mib * MIB as u64;
        let (mut room, spare) = (Room::new(StoreId(1)), Arc::new(SpareRoom::default()));
        room.spare = Arc::clone(&spare);
        let measured = |room: &mut Room, free| {
            let shortage = Some(Shortage { free: mib(free), limit: mib(800) });
            spare.measured(shortage);
            room.set(StoreId(1), shortage);
        };
        measured(&mut room, 300);
        assert_eq!(room.refuses(&entries(500 * MIB)), None, "short, but not shut");
        // An eighth of the limit is the reserve.
        measured(&mut room, 180);
        assert!(room.is_shut());
        let taken = (0..100).take_while(|_| room.refuses(&entries(MIB)).is_none()).count();
        assert_eq!(taken, 19, "of 80 MiB, each four times");
        assert_eq!(room.refuses(&entries(ENTRIES_BYTES_SHUT / 2)), None, "little is always taken");
        // Measured again: the figures are of the disk, not what was reckoned.
        measured(&mut room, 180);
        assert_eq!(room.refuses(&entries(MIB)), None);
        measured(&mut room, 99);
        assert!(room.refuses(&entries(MIB)).is_some());
        assert_eq!(room.refuses(&entries(ENTRIES_BYTES_SHUT / 2)), None);
        room.set(StoreId(1), None);
        assert_eq!(room.refuses(&entries(500 * MIB)), None);
    }
}
