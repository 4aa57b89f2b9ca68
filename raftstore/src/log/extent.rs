//! Which indexes of one group's log exist, and roughly how many bytes they hold.
//!
//! Both stores keep one [`Extent`] a group in memory: it judges a write before anything is
//! touched, says which stored entries the write makes obsolete, and follows it.
//!
//! 1. [`Extent::plan`] checks a [`GroupWrite`] against what exists.
//! 2. [`Extent::shrink`] hides what the write removes or replaces, before the disk is touched:
//!    a reader that meets a gap asks again and learns that the entry was taken away on purpose.
//! 3. [`Extent::extend`] shows what was appended, once it is durable.

use super::{GroupWrite, Install};
use crate::error::LogError;
use crate::types::{GroupId, LogEntry, LogPosition};
use std::collections::VecDeque;
use std::ops::Range;

/// What an entry takes on disk beside its data: key, checksum, term, kind.
const ENTRY_DISK_BYTES: u64 = 32;
/// What it takes in memory for as long as it lives: its place in the index of raft-engine. Counted
/// like the disk, so that the limit on the log also bounds the memory of many small entries.
const ENTRY_MEMORY_BYTES: u64 = 48;
/// An entry without data.
const ENTRY_OVERHEAD: u64 = ENTRY_DISK_BYTES + ENTRY_MEMORY_BYTES;
/// Sizes are kept for runs of entries of about this size, not for each entry.
const SPAN_BYTES: u64 = 64 << 10;

/// The indexes of one group's log.
#[derive(Debug, Default)]
pub(super) struct Extent {
    truncated: LogPosition,
    last_index: u64,
    sizes: Sizes,
    changes: u64,
}

/// What one [`GroupWrite`] does to the stored entries.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Entries that stay below the append.
    kept_last: u64,
    /// Old entries behind the append: to be deleted in the same write.
    pub stale: Range<u64>,
    /// Entries at or below the truncation: to be deleted in the same write, after the append.
    pub removed: Range<u64>,
    /// The truncated position to store, when it moves.
    pub truncated: Option<LogPosition>,
    /// Everything goes, the truncated position is the new beginning.
    begins_anew: bool,
}

impl Extent {
    /// An empty log that starts behind `truncated`.
    pub fn new(truncated: LogPosition) -> Self {
        Extent { truncated, last_index: truncated.index, ..Extent::default() }
    }

    /// Last removed position.
    pub fn truncated(&self) -> LogPosition {
        self.truncated
    }

    /// Highest index held; the truncated index when the log is empty.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Bytes of the entries held, approximately.
    pub fn bytes(&self) -> u64 {
        self.sizes.bytes
    }

    /// Counts the writes that took entries away: a reader compares it to tell a hole from them.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether `[low, high)` can be read: not truncated, not beyond the end.
    pub fn readable(&self, group: GroupId, low: u64, high: u64) -> Result<(), LogError> {
        let truncated = self.truncated.index;
        if low <= truncated {
            return Err(LogError::Compacted { group, truncated });
        }
        if high > self.last_index + 1 {
            let reason = format!("entry {} is beyond the last index {}", high - 1, self.last_index);
            return Err(LogError::Damaged { group, reason });
        }
        Ok(())
    }

    /// Judges `write`; the error says what does not fit.
    pub fn plan(&self, write: &GroupWrite) -> Result<Plan, String> {
        let last = self.last_index;
        if let Some(Install::Begin(position, _)) = write.install {
            return self.plan_anew(position, write);
        }
        let mut plan = Plan {
            kept_last: last,
            stale: 0..0,
            removed: 0..0,
            truncated: write.truncate,
            begins_anew: false,
        };
        let mut new_last = last;
        if let Some(entry) = write.append.first() {
            let (low, high) = (entry.index, entry.index + write.append.len() as u64);
            if low <= self.truncated.index || low > last + 1 {
                return Err(format!(
                    "append at index {low} to a log that holds indexes {} to {last}",
                    self.truncated.index + 1
                ));
            }
            if let Some((at, entry)) =
                (low..).zip(&write.append).find(|(at, entry)| entry.index != *at)
            {
                return Err(format!("appended entries jump from {} to {}", at - 1, entry.index));
            }
            plan.kept_last = low - 1;
            if last >= high {
                plan.stale = high..last + 1;
            }
            new_last = high - 1;
        }
        match write.truncate {
            Some(to) if to.index > self.truncated.index => {
                plan.removed = self.truncated.index + 1..to.index.min(new_last) + 1;
            }
            // Behind the present start already: changes nothing.
            _ => plan.truncated = None,
        }
        Ok(plan)
    }

    /// The log is replaced by a snapshot.
    fn plan_anew(&self, position: LogPosition, write: &GroupWrite) -> Result<Plan, String> {
        if !write.append.is_empty() || write.truncate.is_some() {
            return Err("an install begins together with entries or a truncation".to_owned());
        }
        if position.index <= self.truncated.index {
            let start = self.truncated.index;
            return Err(format!("an install up to {} in a log cut at {start}", position.index));
        }
        let removed = self.truncated.index + 1..self.last_index + 1;
        Ok(Plan {
            kept_last: self.last_index,
            stale: 0..0,
            removed,
            truncated: Some(position),
            begins_anew: true,
        })
    }

    /// Hides what `plan` removes or replaces.
    pub fn shrink(&mut self, plan: &Plan) {
        if let Some(position) = plan.truncated.filter(|_| plan.begins_anew) {
            *self = Extent { changes: self.changes + 1, ..Extent::new(position) };
            return;
        }
        if plan.kept_last < self.last_index {
            self.changes += 1;
            self.last_index = plan.kept_last;
            self.sizes.remove_from(plan.kept_last + 1);
        }
        if let Some(to) = plan.truncated {
            self.changes += 1;
            self.truncated = to;
            self.last_index = self.last_index.max(to.index);
            self.sizes.remove_to(to.index);
        }
    }

    /// What a tombstone does: everything goes, also what a damaged log does not know of.
    pub fn plan_clear(&self) -> Plan {
        Plan {
            kept_last: self.last_index,
            stale: 0..0,
            removed: 0..u64::MAX,
            truncated: None,
            begins_anew: false,
        }
    }

    /// Hides everything; the log begins anew at index 1.
    pub fn clear(&mut self) {
        *self = Extent { changes: self.changes + 1, ..Extent::default() };
    }

    /// Shows the appended entries that are still above the truncated position.
    pub fn extend(&mut self, entries: &[LogEntry]) {
        let truncated = self.truncated.index;
        for entry in entries.iter().filter(|entry| entry.index > truncated) {
            self.push(entry.index, entry.data.len());
        }
    }

    /// Shows the entry `index`, which follows the last one.
    pub fn push(&mut self, index: u64, data_bytes: usize) {
        assert_eq!(index, self.last_index + 1, "entries are contiguous");
        self.last_index = index;
        self.sizes.push(index, data_bytes as u64 + ENTRY_OVERHEAD);
    }
}

/// Bytes of contiguous entries, exact in the sum, coarse in between.
#[derive(Debug, Default)]
struct Sizes {
    spans: VecDeque<Span>,
    bytes: u64,
}

#[derive(Debug)]
struct Span {
    first: u64,
    count: u64,
    bytes: u64,
}

impl Sizes {
    fn push(&mut self, index: u64, bytes: u64) {
        self.bytes += bytes;
        match self.spans.back_mut() {
            Some(span) if span.bytes < SPAN_BYTES => {
                span.count += 1;
                span.bytes += bytes;
            }
            _ => self.spans.push_back(Span { first: index, count: 1, bytes }),
        }
    }

    /// Removes every index ≥ `index`.
    fn remove_from(&mut self, index: u64) {
        while let Some(span) = self.spans.back_mut() {
            let keep = index.saturating_sub(span.first).min(span.count);
            if keep == span.count {
                return;
            }
            self.bytes -= span.shrink(span.count - keep);
            if keep > 0 {
                return;
            }
            self.spans.pop_back();
        }
    }

    /// Removes every index ≤ `index`.
    fn remove_to(&mut self, index: u64) {
        while let Some(span) = self.spans.front_mut() {
            let drop = (index + 1).saturating_sub(span.first).min(span.count);
            self.bytes -= span.shrink(drop);
            span.first += drop;
            if span.count > 0 {
                return;
            }
            self.spans.pop_front();
        }
    }
}

impl Span {
    /// Takes `count` average entries out and returns their bytes.
    fn shrink(&mut self, count: u64) -> u64 {
        let bytes = if count == self.count { self.bytes } else { self.bytes * count / self.count };
        self.count -= count;
        self.bytes -= bytes;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EntryKind;
    use bytes::Bytes;

    fn entries(indexes: Range<u64>, bytes: usize) -> Vec<LogEntry> {
        indexes
            .map(|index| LogEntry {
                index,
                term: 1,
                kind: EntryKind::Normal,
                data: Bytes::from(vec![0; bytes]),
            })
            .collect()
    }

    fn write(append: Range<u64>, truncate: Option<u64>) -> GroupWrite {
        GroupWrite {
            group: GroupId(1),
            append: entries(append, 1000),
            truncate: truncate.map(|index| LogPosition { index, term: 1 }),
            ..GroupWrite::default()
        }
    }

    fn apply(extent: &mut Extent, write: &GroupWrite) -> Plan {
        let plan = extent.plan(write).unwrap();
        extent.shrink(&plan);
        extent.extend(&write.append);
        plan
    }

    #[test]
    fn bytes_return_to_zero_whatever_the_cuts() {
        let mut extent = Extent::default();
        apply(&mut extent, &write(1..1001, None));
        assert_eq!(extent.bytes(), 1000 * 1080);
        apply(&mut extent, &write(0..0, Some(333)));
        assert_eq!(extent.bytes(), 667 * 1080);
        apply(&mut extent, &write(701..702, None));
        assert_eq!((extent.last_index(), extent.bytes()), (701, 368 * 1080));
        apply(&mut extent, &write(0..0, Some(701)));
        assert_eq!((extent.last_index(), extent.bytes()), (701, 0));
    }

    #[test]
    fn entries_without_data_count_with_their_memory() {
        let mut extent = Extent::default();
        (1..=1_000_000).for_each(|index| extent.push(index, 0));
        assert!(extent.bytes() >= 1_000_000 * ENTRY_MEMORY_BYTES, "{}", extent.bytes());
        assert_eq!(extent.bytes(), 80_000_000);
    }

    #[test]
    fn only_an_existing_suffix_is_stale() {
        let mut extent = Extent::default();
        assert!(apply(&mut extent, &write(1..11, None)).stale.is_empty());
        assert_eq!(apply(&mut extent, &write(5..7, None)).stale, 7..11);
        assert!(apply(&mut extent, &write(5..7, None)).stale.is_empty());
        assert_eq!(extent.changes(), 2);
    }

    #[test]
    fn truncation_beyond_the_end_leaves_an_empty_log_that_starts_there() {
        let mut extent = Extent::default();
        apply(&mut extent, &write(1..4, None));
        assert_eq!(apply(&mut extent, &write(0..0, Some(9))).removed, 1..4);
        assert_eq!(extent.last_index(), 9);
        apply(&mut extent, &write(10..12, Some(10)));
        assert_eq!((extent.truncated().index, extent.last_index()), (10, 11));
        assert_eq!(extent.bytes(), 1080);
        // Going back changes nothing.
        assert_eq!(apply(&mut extent, &write(0..0, Some(4))).truncated, None);
        assert_eq!(extent.truncated().index, 10);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut extent = Extent::default();
        apply(&mut extent, &write(1..6, Some(2)));
        assert!(extent.plan(&write(7..8, None)).unwrap_err().contains("holds indexes 3 to 5"));
        assert!(extent.plan(&write(2..3, None)).is_err());
        let mut jump = write(4..7, None);
        jump.append.remove(1);
        assert!(extent.plan(&jump).unwrap_err().contains("jump from 4 to 6"));
    }
}
