//! Reading every group's log at start, and judging it.
//!
//! 1. Read the directory of groups. Damage there cannot be told to any one group: an error.
//! 2. Per group, read its records in key order: hard state, truncated position, entries. Check
//!    each checksum, that indexes follow one another, that terms never go back.
//! 3. What is wrong within one group becomes its `damage`; the others load on. A damaged table
//!    block is met by each group that has records in it, and by no other.

use super::codec::{self, Key};
use crate::error::LogError;
use crate::log::extent::Extent;
use crate::log::folder::RESTORE;
use crate::log::groups::Loaded;
use crate::log::{GroupLog, LogPosition};
use crate::snapshot::SnapshotId;
use crate::types::{EntryKind, GroupId, GroupRecord, HardState};
use rocksdb::{DB, ErrorKind, ReadOptions};
use std::ops::Range;

/// Every group in `db`.
pub(super) fn load(db: &DB) -> Result<Vec<Loaded>, LogError> {
    let directory = directory(db)?;
    let mut groups = Vec::with_capacity(directory.len());
    // The ranges touch: a record of a group that is not in the directory is met by a neighbour.
    let mut from = GroupId(1);
    let ends = directory.iter().skip(1).map(|(group, _)| *group).chain([GroupId(u64::MAX)]);
    for ((group, record), end) in directory.iter().zip(ends) {
        groups.push(load_group(db, *group, record, from..end)?);
        from = end;
    }
    if directory.is_empty() {
        refuse_any_record(db)?;
    }
    Ok(groups)
}

fn directory(db: &DB) -> Result<Vec<(GroupId, GroupRecord)>, LogError> {
    let damaged = |why: String| {
        LogError::Io(format!("the log's directory of groups is damaged: {why}; {RESTORE}"))
    };
    let mut groups = Vec::new();
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(codec::first_key(GroupId(1)));
    let mut records = db.raw_iterator_opt(options);
    records.seek_to_first();
    while let Some((key, value)) = records.item() {
        let Some(Key::Directory(group)) = Key::decode(key) else {
            return Err(damaged(format!("a key {key:02x?} does not belong there")));
        };
        let record = codec::decode_record(key, group, value)
            .map_err(|why| damaged(format!("the record of group {group}: {why}")))?;
        groups.push((group, record));
        records.next();
    }
    records.status().map_err(|e| damaged(e.to_string()))?;
    Ok(groups)
}

fn refuse_any_record(db: &DB) -> Result<(), LogError> {
    let mut records = db.raw_iterator();
    records.seek_to_first();
    match (records.key().and_then(owner), records.status()) {
        (Some(owner), _) => Err(orphan(owner)),
        (None, Err(error)) => Err(LogError::Io(format!("cannot read the log: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

fn orphan(owner: GroupId) -> LogError {
    LogError::Io(format!(
        "the log holds records of group {owner} but not the group itself; {RESTORE}"
    ))
}

/// The log of `group`, the only one whose records may lie `within` these.
fn load_group(
    db: &DB,
    group: GroupId,
    record: &GroupRecord,
    within: Range<GroupId>,
) -> Result<Loaded, LogError> {
    let mut loading = Loading {
        hard_state: HardState::default(),
        extent: Extent::default(),
        terms: Vec::new(),
        memberships: Vec::new(),
        installing: None,
        group,
    };
    let mut options = ReadOptions::default();
    options.set_iterate_range(codec::first_key(within.start)..codec::first_key(within.end));
    let mut records = db.raw_iterator_opt(options);
    records.seek_to_first();
    let mut damage = None;
    while let Some((key, value)) = records.item() {
        if let Some(owner) = owner(key).filter(|owner| *owner != group) {
            return Err(orphan(owner));
        }
        if let Err(why) = loading.take(key, value) {
            damage = Some(why);
            break;
        }
        records.next();
    }
    if let Err(error) = records.status() {
        if error.kind() != ErrorKind::Corruption {
            return Err(LogError::Io(format!("cannot read the log of group {group}: {error}")));
        }
        damage = Some(error.to_string());
    }
    if let Some(reason) = &damage {
        tracing::error!(group = group.0, reason, "the log of a group is damaged: quarantined");
    }
    Ok(loading.finish(record.clone(), damage))
}

fn owner(key: &[u8]) -> Option<GroupId> {
    Some(GroupId(u64::from_be_bytes(*key.first_chunk()?)))
}

struct Loading {
    group: GroupId,
    hard_state: HardState,
    extent: Extent,
    terms: Vec<(u64, u64)>,
    memberships: Vec<u64>,
    installing: Option<SnapshotId>,
}

impl Loading {
    /// Takes the next record; the error says what is damaged.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match Key::decode(key) {
            Some(Key::HardState(_)) => {
                self.hard_state = codec::decode_hard_state(key, value)
                    .map_err(|why| format!("the hard state: {why}"))?;
            }
            Some(Key::Truncated(_)) => {
                let (truncated, installing) = codec::decode_beginning(key, value)
                    .map_err(|why| format!("the truncated position: {why}"))?;
                self.installing = installing;
                self.extent = Extent::new(truncated);
            }
            Some(Key::Entry(_, index)) => self.take_entry(key, index, value)?,
            Some(Key::Directory(_)) | None => {
                return Err(format!("a key {key:02x?} that is no record"));
            }
        }
        Ok(())
    }

    fn take_entry(&mut self, key: &[u8], index: u64, value: &[u8]) -> Result<(), String> {
        let expected = self.extent.last_index() + 1;
        if index > expected {
            return Err(format!("entries {expected} to {} are missing", index - 1));
        }
        if index < expected {
            return Err(format!("entry {index} is below the log's start {expected}"));
        }
        let (term, kind, data) =
            codec::decode_entry_head(key, value).map_err(|why| format!("entry {index}: {why}"))?;
        let before = self.terms.last().map_or(self.extent.truncated().term, |(_, term)| *term);
        if term < before {
            return Err(format!("entry {index} has term {term} after term {before}"));
        }
        if self.terms.is_empty() || term > before {
            self.terms.push((index, term));
        }
        if kind == EntryKind::Membership {
            self.memberships.push(index);
        }
        self.extent.push(index, data.len());
        Ok(())
    }

    fn finish(self, record: GroupRecord, damage: Option<String>) -> Loaded {
        let truncated: LogPosition = self.extent.truncated();
        let log = GroupLog {
            group: self.group,
            record,
            hard_state: self.hard_state,
            truncated,
            last_index: self.extent.last_index(),
            terms: self.terms,
            memberships: self.memberships,
            installing: self.installing,
            damage,
        };
        Loaded { log, extent: self.extent }
    }
}
