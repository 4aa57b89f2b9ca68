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
//! more, and says so before it changes anything. Runs before everything else of a store.

use super::engine::{Change, Column, Engine, GroupChanges, KeyRange, OpenError, RocksEngine};
use super::keys;
use super::record::GroupState;
use super::region::RegionMeta;
use bytes::Bytes;
use flotilla_raftstore::{DiskGauge, Fatal, GroupId, Shortage};
use std::path::Path;

/// What of a copy may wait to be compressed, or is being rewritten, while it is made.
const UNCOMPRESSED_BYTES: u64 = 512 << 20;

/// Does so with the RocksDB in `dir`, if damage was noted there. The groups that were left out.
///
/// # Errors
/// What cannot be told to a group is damaged, or the disk fails: nothing is lost that was not.
pub fn salvage(dir: &Path) -> Result<Vec<GroupId>, OpenError> {
    let Some(damage) = RocksEngine::damage(dir) else { return Ok(Vec::new()) };
    tracing::warn!(damage, "the KV data were found damaged: every region is read");
    let mut engine = RocksEngine::open(dir)?;
    let found = look(&engine).map_err(|error| OpenError::of(dir, &error))?;
    let files = engine.file_bytes(&found.whole).map_err(|error| OpenError::of(dir, &error))?;
    room_for(dir, found.needs(files))?;
    leave_out(&mut engine, found).map_err(|error| OpenError::of(dir, &error))
}

/// What is in the database.
struct Found {
    /// The ranges that can be read.
    whole: Vec<KeyRange>,
    /// Bytes of their records, not compressed.
    bytes: u64,
    lost: Vec<GroupChanges>,
}

impl Found {
    /// Bytes that a second copy needs, where the files have `files` of the first one.
    fn needs(&self, files: u64) -> u64 {
        // Files may hold what was overwritten; indexes and filters come on top of records.
        let records = self.bytes.saturating_add(self.bytes / 8);
        records.min(files.saturating_add(UNCOMPRESSED_BYTES))
    }
}

fn look(engine: &RocksEngine) -> Result<Found, Fatal> {
    let mut found = Found { whole: Vec::new(), bytes: 0, lost: Vec::new() };
    for group in engine.groups()? {
        let meta = engine.view(group).get(Column::System, &keys::meta(group))?;
        let Some(text) = meta else {
            return Err(Fatal::new(format!("read group {group}"), "its region is missing"));
        };
        let meta = RegionMeta::decode(group, &text)?;
        match engine.read_through(&meta.start, &meta.end) {
            Ok(bytes) => {
                found.bytes += bytes;
                found.whole.push((meta.start, meta.end));
            }
            Err(error) if error.damage => {
                let reason = &error.reason;
                tracing::error!(group = group.0, region = meta.region, reason, "left out");
                found.lost.push(emptied(&meta));
            }
            Err(error) => return Err(error),
        }
    }
    found.whole.sort_unstable();
    Ok(found)
}

/// Whether there is room for `needed` bytes.
fn room_for(dir: &Path, needed: u64) -> Result<(), OpenError> {
    let mut gauge = DiskGauge::new(vec![dir.to_owned()], Some(needed));
    match gauge.measure().map_err(|error| OpenError::io(dir, error))? {
        None => Ok(()),
        Some(Shortage { free, limit }) => Err(OpenError::NoRoom {
            dir: dir.to_owned(),
            needed_mib: limit.div_ceil(1 << 20),
            free_mib: free >> 20,
        }),
    }
}

fn leave_out(engine: &mut RocksEngine, found: Found) -> Result<Vec<GroupId>, Fatal> {
    let Found { whole, lost, .. } = found;
    engine.write(&lost)?;
    engine.sync()?;
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
