//! The product's table over the simulated engine: what a crash loses then is the table as well.

use super::engine::SimEngine;
use bytes::Bytes;
use flotilla_kvserver::kv::engine::table::{Base, GroupCheckpoint, Pace};
use flotilla_kvserver::kv::engine::{Change, Column, Engine, GroupChanges, View};
use flotilla_raftstore::{Fatal, GroupId};
use std::sync::Arc;

/// A checkpoint is one write of each group and a sync, which may be slow or fail.
pub struct SimBase(pub Arc<SimEngine>);

impl Base for SimBase {
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], _pace: &Pace<'_>) -> Result<(), Fatal> {
        let changes = groups.iter().map(|group| {
            let columns = [(Column::Data, group.data), (Column::System, group.system)];
            let changes = columns.into_iter().flat_map(|(column, records)| {
                let copy = Bytes::copy_from_slice;
                let change =
                    move |(key, value): (&[u8], Option<&[u8]>)| (copy(key), value.map(copy));
                records.sorted(&Pace::full()).map(change).map(move |(key, value)| Change {
                    column,
                    key,
                    value,
                })
            });
            GroupChanges { group: group.group, changes: changes.collect() }
        });
        self.0.count_checkpoint();
        self.0.write(&changes.collect::<Vec<_>>())?;
        self.0.sync()
    }

    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.0.view(group).get(column, key)
    }

    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        let (all, _) = self.0.view(group).scan(column, start, end, usize::MAX, usize::MAX)?;
        let _ = all.iter().all(|(key, value)| take(key, value));
        Ok(())
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        Ok(self.0.view(group))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        self.0.groups()
    }
}
