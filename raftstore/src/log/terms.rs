//! The terms of a whole log as runs, always in memory: `term(index)` never touches the disk.

use crate::types::LogPosition;
use std::collections::VecDeque;

/// (first index of the run, term), ascending, over `truncated.index + 1 ..= last_index`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    truncated: LogPosition,
    runs: VecDeque<(u64, u64)>,
    last_index: u64,
}

impl Terms {
    pub(crate) fn new(truncated: LogPosition, runs: &[(u64, u64)], last_index: u64) -> Self {
        Terms { truncated, runs: runs.iter().copied().collect(), last_index }
    }

    pub(crate) fn truncated(&self) -> LogPosition {
        self.truncated
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The term at `index`, or `None` when it is truncated or not there yet.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        if index < self.truncated.index || index > self.last_index {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs[run - 1].1)
    }

    /// Entry `index` of `term` is appended; everything from `index` on is forgotten first.
    pub(crate) fn append(&mut self, index: u64, term: u64) {
        assert!(
            index > self.truncated.index && index <= self.last_index + 1,
            "append at {index} to a log of {}..={}",
            self.truncated.index + 1,
            self.last_index
        );
        while self.runs.back().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop_back();
        }
        if self.runs.back().is_none_or(|(_, last)| *last != term) {
            self.runs.push_back((index, term));
        }
        self.last_index = index;
    }

    /// Everything up to `position` is removed.
    pub(crate) fn truncate(&mut self, position: LogPosition) {
        assert!(position.index >= self.truncated.index && position.index <= self.last_index);
        self.truncated = position;
        while self.runs.len() > 1 && self.runs[1].0 <= position.index + 1 {
            self.runs.pop_front();
        }
        match self.runs.front_mut() {
            _ if position.index == self.last_index => self.runs.clear(),
            Some(front) => front.0 = front.0.max(position.index + 1),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_answer_every_index() {
        let mut terms = Terms::new(LogPosition::default(), &[], 0);
        for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 5)] {
            terms.append(index, term);
        }
        let all: Vec<_> = (0..=6).map(|i| terms.term(i)).collect();
        assert_eq!(all, [Some(0), Some(1), Some(1), Some(2), Some(2), Some(5), None]);
        terms.append(4, 6);
        assert_eq!((terms.term(3), terms.term(4), terms.term(5)), (Some(2), Some(6), None));
        terms.truncate(LogPosition { index: 3, term: 2 });
        assert_eq!((terms.term(2), terms.term(3), terms.term(4)), (None, Some(2), Some(6)));
        terms.truncate(LogPosition { index: 4, term: 6 });
        terms.append(5, 7);
        assert_eq!((terms.term(4), terms.term(5)), (Some(6), Some(7)));
    }
}
