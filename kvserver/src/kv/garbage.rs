//! Room that deleted records take on the disk, and when it is worth while to give it back.
//!
//! 1. The key space is looked at range by range: every region, and every gap between two, where regions
//!    that are gone have left something.
//! 2. How many records of a range are deleted is known from the engine's files, also after a restart; those
//!    that are in no file yet were counted when they were applied.
//! 3. To give their room back a range is rewritten whole. So one of which a tenth is deleted is rewritten once
//!    in ten seconds at most, and one that has lost a record of a million once in eleven days.
//! 4. A rewrite needs room before it gives any back: for what stays, but no more than for two of the
//!    engine's compactions, of which it is made. One that has not so much waits.
//! 5. What was counted goes when that has succeeded, and not before.

use super::engine::{COMPACTION_BYTES_MAX, Change, Column, Deleted, GroupChanges, KeyRange};
use super::region::RegionMeta;
use bytes::Bytes;
use flotilla_raftstore::GroupId;
use std::collections::BTreeMap;
use std::time::Instant;

/// See the module.
pub(super) struct Garbage {
    /// Deletes that were applied since the room of the group's region was given back.
    counted: BTreeMap<GroupId, u64>,
    /// When the range that begins there was rewritten last.
    rewritten: BTreeMap<Bytes, Instant>,
    /// Before that nothing was.
    began: Instant,
}

/// A range that is to be rewritten.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) range: KeyRange,
    /// Whose it is, and how many deletes were counted so far.
    counted: Option<(GroupId, u64)>,
}

impl Garbage {
    pub(super) fn new(now: Instant) -> Self {
        Garbage { counted: BTreeMap::new(), rewritten: BTreeMap::new(), began: now }
    }

    /// Takes note of what was applied.
    pub(super) fn count<'a>(&mut self, changes: impl Iterator<Item = &'a GroupChanges>) {
        for GroupChanges { group, changes } in changes {
            let count = changes.iter().filter(|change| is_delete(change)).count();
            *self.counted.entry(*group).or_default() += count as u64;
        }
    }

    /// The group is here no more.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.counted.remove(&group);
    }

    /// The range of which the largest part is deleted, if its turn has come, among those whose rewrite
    /// needs at most `room` bytes. `ranges` are those of [`cover`], `found` what the engine says of each.
    pub(super) fn due(
        &self,
        ranges: &[(Option<GroupId>, KeyRange)],
        found: &[Deleted],
        room: u64,
        now: Instant,
    ) -> Option<Due> {
        let mut best: Option<(f64, Due)> = None;
        for ((group, range), found) in ranges.iter().zip(found) {
            let counted = group.and_then(|group| Some((group, *self.counted.get(&group)?)));
            let deleted = found.deleted.max(counted.map_or(0, |(_, count)| count));
            let share = deleted as f64 / found.records.max(deleted).max(1) as f64;
            let since = self.rewritten.get(&range.0).copied().unwrap_or(self.began);
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            let stays = found.bytes as f64 * (1.0 - share);
            let needed = stays.min(2.0 * COMPACTION_BYTES_MAX as f64);
            if deleted > 0
                && needed <= room as f64
                && share * seconds >= 1.0
                && best.as_ref().is_none_or(|(most, _)| share > *most)
            {
                best = Some((share, Due { range: range.clone(), counted }));
            }
        }
        best.map(|(_, due)| due)
    }

    /// The range was rewritten; if not to its end, what was counted stays.
    pub(super) fn rewritten(&mut self, due: Due, whole: bool, now: Instant) {
        self.rewritten.insert(due.range.0, now);
        if let Some((group, before)) = due.counted.filter(|_| whole)
            && let Some(count) = self.counted.get_mut(&group)
        {
            *count = count.saturating_sub(before);
            if *count == 0 {
                self.counted.remove(&group);
            }
        }
    }
}

/// Whether the changes have a delete in them.
pub(super) fn deletes(changes: &GroupChanges) -> bool {
    changes.changes.iter().any(is_delete)
}

fn is_delete(change: &Change) -> bool {
    change.column == Column::Data && change.value.is_none()
}

/// The ranges of `regions`, ascending and apart, and of the gaps between them.
pub(super) fn cover(regions: &[RegionMeta]) -> Vec<(Option<GroupId>, KeyRange)> {
    let mut ranges = Vec::with_capacity(2 * regions.len() + 1);
    // `None`: the end of all keys is reached.
    let mut reached = Some(Bytes::new());
    for region in regions {
        if let Some(reached) = reached.take().filter(|reached| *reached < region.start) {
            ranges.push((None, (reached, region.start.clone())));
        }
        ranges.push((Some(region.group), (region.start.clone(), region.end.clone())));
        reached = Some(region.end.clone()).filter(|end| !end.is_empty());
    }
    if let Some(reached) = reached {
        ranges.push((None, (reached, Bytes::new())));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Epoch;
    use std::time::Duration;

    fn region(group: u64, start: &'static str, end: &'static str) -> RegionMeta {
        RegionMeta {
            region: group,
            group: GroupId(group),
            start: Bytes::from(start),
            end: Bytes::from(end),
            epoch: Epoch { version: 1, members: 1 },
            replicas: Vec::new(),
        }
    }

    fn deletes_of(group: u64, count: usize) -> GroupChanges {
        let change = |value| Change { column: Column::Data, key: Bytes::from("k"), value };
        let mut changes = vec![change(None); count];
        changes.push(change(Some(Bytes::new())));
        changes.push(Change { column: Column::System, ..change(None) });
        GroupChanges { group: GroupId(group), changes }
    }

    fn shown(ranges: &[(Option<GroupId>, KeyRange)]) -> Vec<(u64, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let show = |(group, (start, end)): &(Option<GroupId>, KeyRange)| {
            (group.map_or(0, |group| group.0), format!("{}-{}", text(start), text(end)))
        };
        ranges.iter().map(show).collect()
    }

    #[test]
    fn regions_and_gaps_cover_all_keys() {
        let of = |regions: &[RegionMeta]| shown(&cover(regions));
        let part = |group, text: &str| (group, text.to_owned());
        assert_eq!(of(&[]), [part(0, "-")]);
        assert_eq!(of(&[region(1, "", "")]), [part(1, "-")]);
        assert_eq!(
            of(&[region(1, "b", "c"), region(2, "c", "d"), region(3, "f", "")]),
            [part(0, "-b"), part(1, "b-c"), part(2, "c-d"), part(0, "d-f"), part(3, "f-")]
        );
        assert_eq!(of(&[region(1, "", "c")]), [part(1, "-c"), part(0, "c-")]);
    }

    #[test]
    fn the_more_is_deleted_the_sooner_it_is_rewritten() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let ranges = cover(&[region(1, "", "m"), region(2, "m", "")]);
        let mut garbage = Garbage::new(start);
        let group = |due: Option<Due>| due.and_then(|due| Some(due.counted?.0.0));
        let found = [Deleted { records: 1_000, ..Deleted::default() }; 2];
        assert_eq!(
            garbage.due(&ranges, &found, u64::MAX, after(1_000_000)),
            None,
            "nothing is deleted"
        );
        // One of a thousand, and one of ten.
        garbage.count([deletes_of(1, 1), deletes_of(2, 100)].iter());
        assert_eq!(garbage.due(&ranges, &found, u64::MAX, after(9)), None);
        assert_eq!(group(garbage.due(&ranges, &found, u64::MAX, after(10))), Some(2));
        assert_eq!(
            group(garbage.due(&ranges, &found, u64::MAX, after(2_000))),
            Some(2),
            "the largest part"
        );

        // More is deleted meanwhile, and it does not succeed.
        let due = garbage.due(&ranges, &found, u64::MAX, after(10)).unwrap();
        garbage.rewritten(due, false, after(20));
        assert_eq!(garbage.due(&ranges, &found, u64::MAX, after(29)), None, "it has had its turn");
        let due = garbage.due(&ranges, &found, u64::MAX, after(30)).unwrap();
        garbage.count([deletes_of(2, 50)].iter());
        garbage.rewritten(due, true, after(40));
        assert_eq!(group(garbage.due(&ranges, &found, u64::MAX, after(59))), None);
        assert_eq!(
            group(garbage.due(&ranges, &found, u64::MAX, after(60))),
            Some(2),
            "one of twenty"
        );
        let due = garbage.due(&ranges, &found, u64::MAX, after(60)).unwrap();
        garbage.rewritten(due, true, after(60));
        assert_eq!(group(garbage.due(&ranges, &found, u64::MAX, after(999))), None);
        assert_eq!(
            group(garbage.due(&ranges, &found, u64::MAX, after(1_000))),
            Some(1),
            "its turn at last"
        );
    }

    /// Half of region 1 is deleted and 500 bytes stay, a fourth of region 2 and 75.
    #[test]
    fn a_rewrite_that_would_fill_the_disk_waits() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let ranges = cover(&[region(1, "", "m"), region(2, "m", "")]);
        let garbage = Garbage::new(start);
        let found = [
            Deleted { deleted: 50, records: 100, bytes: 1_000 },
            Deleted { deleted: 25, records: 100, bytes: 100 },
        ];
        let begin = |room| garbage.due(&ranges, &found, room, later).map(|due| due.range.0);
        assert_eq!(begin(500), Some(Bytes::new()));
        assert_eq!(begin(499), Some(Bytes::from("m")), "the other one fits");
        assert_eq!(begin(74), None);
        let large = [Deleted { deleted: 1, records: 2, bytes: u64::MAX }, Deleted::default()];
        let most = 2 * COMPACTION_BYTES_MAX;
        assert!(garbage.due(&ranges, &large, most, later).is_some(), "in pieces");
        assert!(garbage.due(&ranges, &large, most - 1, later).is_none());
    }

    /// What is in the files is known after a restart, too, and where no region is.
    #[test]
    fn what_the_files_have_counts_as_well() {
        let start = Instant::now();
        let ranges = cover(&[region(1, "", "m")]);
        let garbage = Garbage::new(start);
        let found = [Deleted::default(), Deleted { deleted: 10, records: 10, bytes: 0 }];
        let due = garbage.due(&ranges, &found, u64::MAX, start + Duration::from_secs(1)).unwrap();
        assert_eq!((due.range.0, due.counted), (Bytes::from("m"), None));
    }
}
