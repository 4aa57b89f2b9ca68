//! Recent entries of one replica in memory.
//!
//! Invariant I3: the cache holds every index above persisted. Behind that it keeps what fits, for
//! followers that are nearly up to date and for apply.

use crate::types::LogEntry;
use std::collections::VecDeque;

/// A contiguous tail of the log.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

/// What an entry costs in memory beside its data.
const ENTRY_OVERHEAD: usize = 64;

fn cost(entry: &LogEntry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD
}

impl Cache {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// First index held; `None` when empty.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|e| e.index)
    }

    /// Appends `entry`; entries at its index and above go first (they were overwritten).
    pub(crate) fn append(&mut self, entry: LogEntry) {
        while self.entries.back().is_some_and(|e| e.index >= entry.index) {
            let gone = self.entries.pop_back().expect("just seen");
            self.bytes -= cost(&gone);
        }
        if self.entries.back().is_some_and(|e| e.index + 1 != entry.index) {
            self.clear();
        }
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// The entry at `index`, if held.
    pub(crate) fn get(&self, index: u64) -> Option<&LogEntry> {
        let first = self.first_index()?;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Entries from `index` on, if that one is held.
    pub(crate) fn from(&self, index: u64) -> impl Iterator<Item = &LogEntry> + Clone {
        let first = self.first_index().unwrap_or(u64::MAX);
        let at = index.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        self.entries.range(at.unwrap_or(usize::MAX).min(self.entries.len())..)
    }

    /// Drops entries up to `index`, oldest first, until at most `bytes_max` are held.
    pub(crate) fn trim(&mut self, index: u64, bytes_max: usize) {
        while self.bytes > bytes_max && self.entries.front().is_some_and(|e| e.index <= index) {
            let gone = self.entries.pop_front().expect("just seen");
            self.bytes -= cost(&gone);
        }
    }

    /// Keeps no room beyond what is held.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EntryKind;
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::from(vec![0; 36]) }
    }

    #[test]
    fn overwritten_entries_leave_the_cache() {
        let mut cache = Cache::default();
        (1..=5).for_each(|i| cache.append(entry(i, 1)));
        cache.append(entry(3, 2));
        assert_eq!(cache.get(3).unwrap().term, 2);
        assert!(cache.get(4).is_none());
        assert_eq!(cache.bytes(), 300);
    }

    #[test]
    fn only_the_front_up_to_an_index_is_trimmed() {
        let mut cache = Cache::default();
        (1..=5).for_each(|i| cache.append(entry(i, 1)));
        cache.trim(3, 0);
        assert_eq!((cache.first_index(), cache.bytes()), (Some(4), 200));
        cache.trim(5, 150);
        assert_eq!(cache.first_index(), Some(5));
    }
}
