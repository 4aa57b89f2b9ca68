//! Linearizability of a whole region from the revisions in the answers, in O(n log n).
//!
//! Every write of a region counts its revision by one, and every answer tells the region's
//! revision, so the order that the servers claim is known and only has to be checked:
//!
//! - no two writes have one revision;
//! - real time: what was asked after an answer with revision r has a revision above r (a write)
//!   or at least r (a read);
//! - a read at revision r of a key sees the key's last write at or below r, or a later one that
//!   was not acknowledged;
//! - what it sees was really asked for, before the read ended, and was not refused.

use super::{Action, Operation, Outcome, Value, Verdict};
use rustc_hash::FxHashMap;

/// Judges all operations of one region.
#[must_use]
pub fn check(operations: &[Operation]) -> Verdict {
    let complaint = duplicate_revision(operations)
        .or_else(|| backwards(operations))
        .or_else(|| wrong_read(operations));
    complaint.map_or(Verdict::Valid, Verdict::Violated)
}

fn revision_of(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Written { revision } | Outcome::Read { revision, .. } => Some(revision),
        Outcome::NotApplied | Outcome::Unknown => None,
    }
}

fn duplicate_revision(operations: &[Operation]) -> Option<String> {
    let mut writers: FxHashMap<u64, &Operation> = FxHashMap::default();
    for operation in operations {
        let Outcome::Written { revision } = operation.outcome else { continue };
        if let Some(other) = writers.insert(revision, operation) {
            return Some(format!("revision {revision} given twice: {other:?} and {operation:?}"));
        }
    }
    None
}

/// Walks invocations and completions in time: the highest answered revision binds what follows.
fn backwards(operations: &[Operation]) -> Option<String> {
    let mut by_invocation: Vec<&Operation> =
        operations.iter().filter(|o| revision_of(o).is_some()).collect();
    let mut by_completion = by_invocation.clone();
    by_invocation.sort_unstable_by_key(|o| o.invoked);
    by_completion.sort_unstable_by_key(|o| o.completed);
    let mut answered = by_completion.into_iter().peekable();
    let mut highest: Option<&Operation> = None;
    for operation in by_invocation {
        while let Some(done) = answered.next_if(|o| o.completed < operation.invoked) {
            if highest.is_none_or(|h| revision_of(h) < revision_of(done)) {
                highest = Some(done);
            }
        }
        let Some(before) = highest else { continue };
        let (floor, revision) = (revision_of(before)?, revision_of(operation)?);
        let write = matches!(operation.outcome, Outcome::Written { .. });
        if revision < floor || (write && revision == floor) {
            return Some(format!("{operation:?} was asked after {before:?} was answered"));
        }
    }
    None
}

/// What is known of one key's writes.
#[derive(Default)]
struct Key<'a> {
    /// Acknowledged, by revision.
    written: Vec<(u64, &'a Operation)>,
    /// Every write that may be in effect, by value.
    by_value: FxHashMap<u64, &'a Operation>,
    /// Some delete has an unknown outcome.
    open_delete: Option<&'a Operation>,
    /// What reads said that a revision wrote.
    seen: FxHashMap<u64, Value>,
}

fn wrong_read(operations: &[Operation]) -> Option<String> {
    let mut keys: FxHashMap<u64, Key<'_>> = FxHashMap::default();
    for operation in operations.iter().filter(|o| o.may_be_written()) {
        let Action::Write(value) = operation.action else { continue };
        let key = keys.entry(operation.key).or_default();
        if let Outcome::Written { revision } = operation.outcome {
            key.written.push((revision, operation));
        }
        match value {
            Some(value) => {
                key.by_value.insert(value, operation);
            }
            None if operation.outcome == Outcome::Unknown => {
                let first = key.open_delete.get_or_insert(operation);
                if operation.invoked < first.invoked {
                    *first = operation;
                }
            }
            None => {}
        }
    }
    for key in keys.values_mut() {
        key.written.sort_unstable_by_key(|(revision, _)| *revision);
    }
    operations.iter().find_map(|read| {
        let Outcome::Read { value, mod_revision, revision } = read.outcome else { return None };
        let key = keys.entry(read.key).or_default();
        judge_read(key, value, mod_revision, revision, read)
    })
}

fn judge_read(
    key: &mut Key<'_>,
    value: Value,
    mod_revision: u64,
    revision: u64,
    read: &Operation,
) -> Option<String> {
    let below = key.written.partition_point(|(written, _)| *written <= revision);
    let last = below.checked_sub(1).map(|i| key.written[i]);
    let Some(value) = value else {
        return match last {
            Some((_, write)) if write.action != Action::Write(None) => match key.open_delete {
                Some(delete) if delete.invoked < read.completed => None,
                _ => Some(format!("{read:?} does not see {write:?}")),
            },
            _ => None,
        };
    };
    if mod_revision > revision {
        return Some(format!("{read:?} sees a revision above its own"));
    }
    let Some(write) = key.by_value.get(&value) else {
        return Some(format!("{read:?} sees a value that nobody wrote, or that was refused"));
    };
    if write.invoked > read.completed {
        return Some(format!("{read:?} sees the future {write:?}"));
    }
    if let Outcome::Written { revision: written } = write.outcome
        && written != mod_revision
    {
        return Some(format!("{read:?} sees {write:?} under another revision"));
    }
    if let Some((written, later)) = last
        && written > mod_revision
    {
        return Some(format!("{read:?} does not see the later {later:?}"));
    }
    let first = *key.seen.entry(mod_revision).or_insert(Some(value));
    (first != Some(value))
        .then(|| format!("{read:?}: revision {mod_revision} wrote another value before: {first:?}"))
}
