//! Reads through a table: active records, then sealed ones, then what is below.
//!
//! A view holds its group's lock. So the active records stand still, and the sealed ones stay:
//! the only change that the base can see of this group meanwhile is their checkpoint, which
//! changes nothing that they do not hide. That makes the three one moment without a snapshot.

use super::base::Base;
use super::records::{Place, Records};
use super::{Group, Stripe};
use crate::kv::engine::{Column, Page, Pair, View};
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId, mutant};
use parking_lot::RwLockReadGuard;
use std::sync::Arc;

/// See the module.
pub struct TableView<'a> {
    pub(super) stripe: RwLockReadGuard<'a, Stripe>,
    pub(super) group: GroupId,
    pub(super) base: &'a dyn Base,
}

impl TableView<'_> {
    /// The table's records of a column, those that hide others first.
    fn layers(&self, column: Column) -> impl Iterator<Item = &Records> {
        self.stripe.get(&self.group).into_iter().flat_map(move |group| group.layers(column))
    }
}

impl Group {
    fn layers(&self, column: Column) -> impl Iterator<Item = &Records> {
        std::iter::once(&self.active).chain(self.sealed.as_deref()).map(move |columns| match column
        {
            Column::Data => &columns.data,
            Column::System => &columns.system,
        })
    }
}

impl View for TableView<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let found = self.layers(column).find_map(|records| records.get(key));
        match found {
            None => self.base.get(self.group, column, key),
            Some(None) if mutant::active("delete_hides_nothing") => {
                self.base.get(self.group, column, key)
            }
            Some(value) => Ok(value.map(Bytes::copy_from_slice)),
        }
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        let mut above = Merge::new(self.layers(column).collect(), start, end);
        let mut page = Page::new(limit, bytes_max);
        let mut more = false;
        self.base.scan(self.group, column, start, end, &mut |key, value| {
            more = !above.push_below(Some(key), &mut page)
                || !above.hides(key) && !page.push(key, value);
            !more
        })?;
        more = more || !above.push_below(None, &mut page);
        Ok((page.pairs, more))
    }
}

/// The records of all layers of a range, ascending.
struct Merge<'a> {
    layers: Vec<&'a Records>,
    cursors: Vec<Cursor<'a>>,
    end: &'a [u8],
    /// The smallest key that is left.
    head: Option<&'a [u8]>,
}

struct Cursor<'a> {
    records: &'a Records,
    run: Arc<[Place]>,
    next: usize,
}

impl<'a> Cursor<'a> {
    fn key(&self) -> Option<&'a [u8]> {
        self.run.get(self.next).map(|place| self.records.key(*place))
    }
}

impl<'a> Merge<'a> {
    fn new(layers: Vec<&'a Records>, start: &[u8], end: &'a [u8]) -> Self {
        let cursors = layers.iter().flat_map(|records| {
            records.runs().into_iter().map(|run| {
                let next = run.partition_point(|place| records.key(*place) < start);
                Cursor { records, run, next }
            })
        });
        let mut merge = Merge { cursors: cursors.collect(), layers, end, head: None };
        merge.find_head();
        merge
    }

    fn find_head(&mut self) {
        let smallest = self.cursors.iter().filter_map(Cursor::key).min();
        self.head = smallest.filter(|key| self.end.is_empty() || *key < self.end);
    }

    fn advance(&mut self) {
        for cursor in &mut self.cursors {
            if cursor.key() == self.head {
                cursor.next += 1;
            }
        }
        self.find_head();
    }

    /// Pushes the records below `key` (`None` = all that are left) and the one of `key` itself;
    /// `false` when the page is full.
    fn push_below(&mut self, key: Option<&[u8]>, page: &mut Page) -> bool {
        while let Some(head) = self.head
            && key.is_none_or(|key| head <= key)
        {
            let value = self.layers.iter().find_map(|records| records.get(head));
            let value = value.expect("what is in a run is in its table");
            if let Some(value) = value
                && !page.push(head, value)
            {
                return false;
            }
            self.advance();
        }
        true
    }

    /// Whether a layer has `key`, deleted or not.
    fn hides(&self, key: &[u8]) -> bool {
        self.layers.iter().any(|records| records.get(key).is_some())
    }
}
