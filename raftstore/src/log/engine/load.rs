//! Every group's log at start, judged: what raft-engine recovered against what must be there.
//!
//! A group's standing, in every write of the group, says which entries it has. What raft-engine
//! recovered beyond them is history (see [`settle`]); what is missing or bad is the group's
//! `damage`, and the others load on.

use super::Engine;
use super::codec::{RECORD, STANDING, decode_group_record, decode_standing};
use super::scan::{Seen, Table, Tables};
use crate::error::LogError;
use crate::log::GroupLog;
use crate::log::extent::Extent;
use crate::log::folder::RESTORE;
use crate::log::groups::{Loaded, Standing};
use crate::types::{EntryKind, GroupId};
use raft_engine::{Command, LogBatch};

/// Every group that `engine` holds, in order.
pub(super) fn load(engine: &Engine, mut tables: Tables) -> Result<Vec<Loaded>, LogError> {
    let mut ids = engine.raft_groups();
    ids.sort_unstable();
    let mut settled = LogBatch::default();
    let mut groups = Vec::with_capacity(ids.len());
    for id in ids {
        let table = tables.remove(&id).unwrap_or_default();
        let (loaded, standing) = load_group(engine, GroupId(id), &table)?;
        if loaded.log.damage.is_none() {
            settle(engine, id, &standing, &mut settled);
        }
        groups.push(loaded);
    }
    if let Some((id, _)) = tables.first_key_value() {
        return Err(unusable(GroupId(*id), "raft-engine does not know it, but its entries"));
    }
    // Not synced: without it the next start does the same again.
    engine.write(&mut settled, false).map_err(|e| LogError::Io(format!("write the log: {e}")))?;
    Ok(groups)
}

/// Removes entries that were truncated: raft-engine may have forgotten it, when the files that
/// said so are gone and copies of the entries are not.
fn settle(engine: &Engine, id: u64, standing: &Standing, settled: &mut LogBatch) {
    let (Some(first), Some(last)) = (engine.first_index(id), engine.last_index(id)) else {
        return;
    };
    let Standing { truncated, last_index, .. } = standing;
    if truncated.index == *last_index {
        // The log is empty; what was behind its end was overwritten before.
        settled.add_command(id, Command::Compact { index: last.max(*last_index) + 1 });
    } else if first <= truncated.index {
        settled.add_command(id, Command::Compact { index: truncated.index + 1 });
    }
}

fn load_group(
    engine: &Engine,
    group: GroupId,
    table: &Table,
) -> Result<(Loaded, Standing), LogError> {
    let value = |key, name: &str| {
        engine
            .get(group.0, key)
            .ok_or_else(|| unusable(group, &format!("its {name} is missing; it")))
    };
    let record = decode_group_record(group, &value(RECORD, "record")?)
        .map_err(|why| unusable(group, &format!("its record is bad: {why}; it")))?;
    let standing = decode_standing(&value(STANDING, "standing")?)
        .map_err(|why| unusable(group, &format!("{why}; it")))?;
    let mut log = GroupLog {
        group,
        record,
        hard_state: standing.hard_state,
        truncated: standing.truncated,
        last_index: standing.truncated.index,
        terms: Vec::new(),
        memberships: Vec::new(),
        installing: standing.installing,
        damage: None,
    };
    let mut extent = Extent::new(standing.truncated);
    log.damage = take_entries(table, &standing, &mut log, &mut extent)
        .and_then(|()| agree(engine, group, &standing))
        .err();
    if let Some(reason) = &log.damage {
        tracing::error!(group = group.0, reason, "the log of a group is damaged: quarantined");
    }
    Ok((Loaded { log, extent }, standing))
}

/// Takes every entry that the standing names; the error says what is damaged.
fn take_entries(
    table: &Table,
    standing: &Standing,
    log: &mut GroupLog,
    extent: &mut Extent,
) -> Result<(), String> {
    let Standing { truncated, last_index, .. } = standing;
    let mut before = truncated.term;
    for index in truncated.index + 1..=*last_index {
        let Some(seen) = table.get(index) else {
            let missing = (index..=*last_index).take_while(|at| table.get(*at).is_none());
            let end = missing.last().unwrap_or(index);
            return Err(format!("entries {index} to {end} are missing"));
        };
        let (term, kind, bytes) = match seen {
            Seen::Whole { term, kind, bytes } => (*term, *kind, *bytes),
            Seen::Damaged(why) => return Err(format!("entry {index}: {why}")),
        };
        if term < before {
            return Err(format!("entry {index} has term {term} after term {before}"));
        }
        if log.terms.is_empty() || term > before {
            log.terms.push((index, term));
        }
        if kind == EntryKind::Membership {
            log.memberships.push(index);
        }
        before = term;
        extent.push(index, bytes);
        log.last_index = index;
    }
    if truncated.index < *last_index && table.end() > last_index + 1 {
        return Err(format!("entries behind the last one, {last_index}, came back"));
    }
    Ok(())
}

/// raft-engine must have recovered the same entries.
fn agree(engine: &Engine, group: GroupId, standing: &Standing) -> Result<(), String> {
    let Standing { truncated, last_index, .. } = standing;
    if truncated.index == *last_index {
        return Ok(());
    }
    let (first, last) = (engine.first_index(group.0), engine.last_index(group.0));
    if first.is_some_and(|first| first <= truncated.index + 1) && last == Some(*last_index) {
        return Ok(());
    }
    Err(format!(
        "raft-engine recovered the entries {first:?} to {last:?} instead of {} to {last_index}",
        truncated.index + 1
    ))
}

fn unusable(group: GroupId, what: &str) -> LogError {
    LogError::Io(format!("the log's group {group} cannot be used: {what} must be there; {RESTORE}"))
}
