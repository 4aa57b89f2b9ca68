//! What an earlier run found damaged is left out at the next start, and the rest goes on.
//!
//! 1. A read, or a compaction, has met a block that is damaged, and the engine has noted it.
//! 2. Every region is read. One that cannot be read whole becomes one with nothing applied: the group's
//!    log makes it anew, or, where that is cut, the start quarantines the replica and its group
//!    rebuilds it.
//! 3. The records of all others move into new files, and the damaged ones are deleted, before a
//!    compaction meets them (again).
//!
//! Cut off anywhere, it begins anew at the next start: the note goes last. Needs room for the data once
//! more. Runs before everything else of a store.

use super::engine::{Change, Column, Engine, GroupChanges, OpenError, RocksEngine};
use super::keys;
use super::record::GroupState;
use super::region::RegionMeta;
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use std::path::Path;

/// Does so with the RocksDB in `dir`, if damage was noted there. The groups that were left out.
///
/// # Errors
/// What cannot be told to a group is damaged, or the disk fails: nothing is lost that was not.
pub fn salvage(dir: &Path) -> Result<Vec<GroupId>, OpenError> {
    let Some(damage) = RocksEngine::damage(dir) else { return Ok(Vec::new()) };
    tracing::warn!(damage, "the KV data were found damaged: every region is read");
    let mut engine = RocksEngine::open(dir)?;
    leave_out(&mut engine).map_err(|error| OpenError::of(dir, &error))
}

fn leave_out(engine: &mut RocksEngine) -> Result<Vec<GroupId>, Fatal> {
    let (mut whole, mut lost) = (Vec::new(), Vec::new());
    for group in engine.groups()? {
        let meta = engine.view(group).get(Column::System, &keys::meta(group))?;
        let Some(text) = meta else {
            return Err(Fatal::new(format!("read group {group}"), "its region is missing"));
        };
        let meta = RegionMeta::decode(group, &text)?;
        match engine.read_through(&meta.start, &meta.end) {
            Ok(()) => whole.push((meta.start, meta.end)),
            Err(error) if error.damage => {
                let reason = &error.reason;
                tracing::error!(group = group.0, region = meta.region, reason, "left out");
                lost.push(emptied(&meta));
            }
            Err(error) => return Err(error),
        }
    }
    engine.write(&lost)?;
    engine.sync()?;
    whole.sort_unstable();
    engine.rewrite(&whole)?;
    Ok(lost.into_iter().map(|changes| changes.group).collect())
}

/// Nothing is applied to the region.
fn emptied(meta: &RegionMeta) -> GroupChanges {
    let state = GroupState { epoch: meta.epoch, ..GroupState::default() };
    let value: Option<Bytes> = Some(state.encode());
    let change = Change { column: Column::System, key: keys::state(meta.group), value };
    GroupChanges { group: meta.group, changes: vec![change] }
}

#[cfg(test)]
#[path = "salvage_test.rs"]
mod tests;
