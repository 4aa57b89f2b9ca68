//! How much room a store's disks have left, and when that is too little.
//!
//! 1. Whoever starts a [`crate::Store`] measures now and then ([`DiskGauge::measure`]) and tells it
//!    ([`crate::Store::set_disk`]).
//! 2. Its shards tell those of other stores, and refuse what takes room while no quorum of a group has any
//!    (`shard/room.rs`).
//!
//! What comes in takes its room from one [`SpareRoom`] for all shards of a store: a part for each would refuse
//! for ever what is larger than a part, though the disk has room for it.
//!
//! Being short ends only when there is a good deal more room than where it began, so that a store
//! at its limit does not change its mind with every deleted file.

use crate::types::StoreId;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

/// Of a file system's size: where a store becomes short of room by default.
const SHARE_BY_DEFAULT: u64 = 20;
const RESERVE_BYTES_LEAST: u64 = 512 << 20;
const RESERVE_BYTES_MOST: u64 = 4 << 30;
/// However small the file system is, the default leaves so much of it to be used.
const SHARE_MOST: u64 = 4;

/// A store's disk has less room than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes below which writes are refused.
    pub limit: u64,
}

impl Shortage {
    /// So little is left that the store is to get no entries if that can be: it must do for votes,
    /// members, deletes, checkpoints and compaction.
    #[must_use]
    pub const fn is_severe(self) -> bool {
        self.free < self.limit / 4
    }

    /// Bytes that are kept for votes, members, deletes, checkpoints and compaction, whoever needs the store.
    pub(crate) const fn reserve(self) -> u64 {
        self.limit / 8
    }

    /// What members that are not needed may still take, and what all others may.
    pub(crate) const fn spare(self, needed: bool) -> u64 {
        let kept = if needed { self.reserve() } else { self.limit / 4 };
        self.free.saturating_sub(kept)
    }

    /// How many eighths of the limit are free. Others hear of a store's room as often as that changes: it is as
    /// exact as the difference between what they and what the store itself allow ([`Self::spare`]).
    pub(crate) fn eighths(self) -> u64 {
        self.free.saturating_mul(8) / self.limit.max(1)
    }

    /// Only the reserve is left: what has piled up for the store elsewhere stays there.
    #[must_use]
    pub const fn is_critical(self) -> bool {
        self.free < self.reserve()
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB are free, the limit is {} MiB", self.free >> 20, self.limit >> 20)
    }
}

/// Bytes of its disk that a snapshot of `bytes` takes: as blocks, in the data, and there once more while
/// files are rewritten.
pub(crate) const fn room_of_snapshot(bytes: u64) -> u64 {
    bytes.saturating_mul(3)
}

/// What the shards of a store take of its disk while that is short of room.
///
/// Whoever measures says so here first and then to the shards, each of which counts then what is on its way to
/// it. What of that is on the disk already counts twice: rather too much is kept than too little.
#[derive(Debug, Default)]
pub struct SpareRoom(Mutex<Spare>);

#[derive(Debug, Default)]
struct Spare {
    /// Of what there was when the disk was measured, without what entries have taken since.
    left: u64,
    /// Promised to snapshots since then.
    promised: u64,
    /// By shard: what all snapshots on their way there take.
    coming: BTreeMap<usize, u64>,
}

impl SpareRoom {
    /// The disk was measured.
    pub fn measured(&self, shortage: Option<Shortage>) {
        let spare = &mut *self.0.lock();
        spare.left = shortage.map_or(0, |shortage| shortage.spare(true));
        spare.promised = 0;
    }

    /// Takes `bytes` for entries, if there are so many or they are taken `anyway`.
    pub(crate) fn take(&self, bytes: u64, anyway: bool) -> bool {
        let spare = &mut *self.0.lock();
        let taken = anyway || bytes <= spare.left.saturating_sub(spare.promised);
        if taken {
            spare.left = spare.left.saturating_sub(bytes);
        }
        taken
    }

    /// Promises `bytes` to a snapshot that is to come to `shard`.
    ///
    /// # Errors
    /// There are not so many: those that there are.
    pub(crate) fn promise(&self, shard: usize, bytes: u64) -> Result<(), u64> {
        let spare = &mut *self.0.lock();
        let coming = spare.coming.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        let left = spare.left.saturating_sub(coming);
        if bytes > left {
            return Err(left);
        }
        spare.promised += bytes;
        *spare.coming.entry(shard).or_default() += bytes;
        Ok(())
    }

    /// All that snapshots on their way to `shard` take by now.
    pub(crate) fn count(&self, shard: usize, coming: u64) {
        self.0.lock().coming.insert(shard, coming);
    }
}

/// The stores that are short of room, as far as known.
pub(crate) type Shortages = Arc<BTreeMap<StoreId, Shortage>>;

/// Room on the file systems of some folders.
#[derive(Debug)]
pub struct DiskGauge {
    folders: Vec<PathBuf>,
    /// `None` = by the size of each file system.
    reserve_bytes: Option<u64>,
    short: bool,
}

impl DiskGauge {
    /// A gauge of the file systems that `folders` are on. A store is short of room when one of them has
    /// fewer than `reserve_bytes` free; 0 = never; `None` = a twentieth of the file system, at least
    /// 512 MiB and at most 4 GiB, but never more than a quarter of it.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, reserve_bytes: Option<u64>) -> Self {
        DiskGauge { folders, reserve_bytes, short: false }
    }

    /// Looks at the file systems: the one that is shortest of room, if one is.
    ///
    /// # Errors
    /// A folder's file system does not answer; what was known stays as it was.
    pub fn measure(&mut self) -> io::Result<Option<Shortage>> {
        let looks = self.folders.iter().map(|folder| self.look(folder));
        let looks = looks.collect::<io::Result<Vec<Shortage>>>()?;
        let margin = |look: &Shortage| i128::from(look.free) - i128::from(look.limit);
        let Some(found) = looks.into_iter().min_by_key(margin) else { return Ok(None) };
        self.short = is_short(found, self.short);
        Ok(self.short.then_some(found))
    }

    fn look(&self, folder: &Path) -> io::Result<Shortage> {
        let found = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let limit = self.reserve_bytes.unwrap_or_else(|| reserve_of(bytes(found.f_blocks)));
        Ok(Shortage { free: bytes(found.f_bavail), limit })
    }
}

/// What is to stay free of a file system of `bytes`, unless it is said otherwise.
fn reserve_of(bytes: u64) -> u64 {
    let share = (bytes / SHARE_BY_DEFAULT).clamp(RESERVE_BYTES_LEAST, RESERVE_BYTES_MOST);
    share.min(bytes / SHARE_MOST)
}

fn is_short(found: Shortage, before: bool) -> bool {
    let enough = if before { found.limit / 4 } else { 0 };
    found.free < found.limit.saturating_add(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_ends_with_more_room_than_it_began_with() {
        let at = |free| Shortage { free, limit: 100 };
        assert!(!is_short(at(100), false) && is_short(at(99), false));
        assert!(is_short(at(124), true) && !is_short(at(125), true));
        assert!(!at(25).is_severe() && at(24).is_severe());
        assert!(!at(12).is_critical() && at(11).is_critical());
        assert_eq!((at(90).spare(false), at(90).spare(true)), (65, 78));
        assert_eq!((at(20).spare(false), at(20).spare(true), at(12).spare(true)), (0, 8, 0));
        let off = Shortage { free: 0, limit: 0 };
        assert!(!is_short(off, false) && !is_short(off, true) && !off.is_severe());
        assert!(!off.is_critical());
        assert_eq!([0, 12, 13, 99, 124].map(|free| at(free).eighths()), [0, 0, 1, 7, 9]);
        assert_eq!((off.eighths(), Shortage { free: u64::MAX, limit: u64::MAX }.eighths()), (0, 1));
    }

    /// It may be larger than what there is for each shard.
    #[test]
    fn a_snapshot_may_take_all_of_the_spare_room_that_no_other_takes() {
        let room = SpareRoom::default();
        let measured = |free| room.measured(Some(Shortage { free, limit: 800 }));
        measured(700);
        assert_eq!(room.promise(3, 601), Err(600), "an eighth of the limit stays");
        assert_eq!(room.promise(3, 400), Ok(()), "of eight shards");
        assert_eq!((room.promise(5, 201), room.promise(3, 201)), (Err(200), Err(200)));
        assert!(!room.take(201, false) && room.take(200, false), "entries leave it its room");
        // Some of it has come.
        measured(600);
        room.count(3, 400);
        assert_eq!(room.promise(5, 101), Err(100));
        assert_eq!(room.promise(5, 100), Ok(()));
        // It is installed.
        measured(400);
        room.count(3, 0);
        assert_eq!(room.promise(3, 200), Ok(()), "100 of 300 are for the other one");
        room.measured(None);
        assert_eq!(room.promise(3, 1), Err(0));
    }

    #[test]
    fn the_default_scales_with_the_file_system() {
        const GIB: u64 = 1 << 30;
        assert_eq!(reserve_of(GIB), GIB / 4);
        assert_eq!(reserve_of(4 * GIB), GIB / 2);
        assert_eq!(reserve_of(40 * GIB), 2 * GIB);
        assert_eq!(reserve_of(4_000 * GIB), 4 * GIB);
    }

    #[test]
    fn a_real_file_system_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let folders = || vec![dir.path().to_owned()];
        assert_eq!(DiskGauge::new(folders(), Some(0)).measure().unwrap(), None);
        let mut gauge = DiskGauge::new(folders(), Some(u64::MAX / 2));
        let found = gauge.measure().unwrap().expect("no disk is that large");
        assert!(found.free > 0 && found.limit == u64::MAX / 2, "{found:?}");
        let gone = vec![dir.path().to_owned(), dir.path().join("gone")];
        assert!(DiskGauge::new(gone, None).measure().is_err());
    }
}
