//! Whose turn it is to propose a small entry, when very many groups write at once.
//!
//! Most of a small entry's cost is fixed: messages, log records, and memory that no processor cache
//! holds. So only so many groups of a shard have an entry under way at a time; the others gather
//! commands and wait in line. The line moves with every commit. An entry that is large anyway does
//! not wait, and nobody waits longer than about two ticks, whatever is stuck before it.

use crate::types::GroupId;
use std::collections::VecDeque;

/// See the module.
pub(super) struct Turns {
    max: usize,
    under_way: usize,
    /// With the tick in which the group came. A group may have left meanwhile.
    line: VecDeque<(GroupId, u64)>,
    tick: u64,
}

impl Turns {
    pub(super) fn new(max: usize) -> Self {
        Turns { max, under_way: 0, line: VecDeque::new(), tick: 0 }
    }

    /// Small entries have to wait: nobody passes those in line.
    pub(super) fn crowded(&self) -> bool {
        self.under_way >= self.max || !self.line.is_empty()
    }

    /// A group's entry got under way, or none of its is any more.
    pub(super) fn count(&mut self, before: bool, after: bool) {
        self.under_way = self.under_way + usize::from(after) - usize::from(before);
    }

    pub(super) fn wait(&mut self, group: GroupId) {
        self.line.push_back((group, self.tick));
    }

    pub(super) fn tick(&mut self) {
        self.tick += 1;
    }

    /// The next whose turn has come.
    pub(super) fn next(&mut self) -> Option<GroupId> {
        let (_, came) = *self.line.front()?;
        if self.under_way >= self.max && came + 2 > self.tick {
            return None;
        }
        self.line.pop_front().map(|(group, _)| group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_moves_with_commits_and_with_time() {
        let mut turns = Turns::new(1);
        assert!(!turns.crowded());
        turns.count(false, true);
        assert!(turns.crowded());
        turns.wait(GroupId(7));
        turns.wait(GroupId(8));
        assert_eq!(turns.next(), None);
        turns.count(true, false);
        assert!(turns.crowded(), "others are in line");
        assert_eq!(turns.next(), Some(GroupId(7)));
        turns.count(false, true);
        turns.tick();
        assert_eq!(turns.next(), None);
        turns.tick();
        assert_eq!(turns.next(), Some(GroupId(8)));
        assert_eq!(turns.next(), None);
    }
}
