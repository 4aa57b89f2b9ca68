//! The log writer: everything queued goes to disk in one synced write, for all groups.
//!
//! While one write is under way new tasks queue up; the next write takes them all. After it the
//! shards hear `Persisted`, one list a shard, and *then* the held messages leave: the shard must
//! know that its vote or entry is durable before an answer to it can come back.

use super::{GroupWrite, Install, LogStore};
use crate::completion::Reply;
use crate::error::Fatal;
use crate::message::{LogTask, Persisted};
use crate::transport::Envelope;
use crate::types::{GroupId, StoreId};
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// What a write leaves to be done, in this order: persisted, held, created.
#[derive(Debug, Default)]
pub struct LogDone {
    /// One list a shard: (shard, what is durable).
    pub persisted: Vec<(usize, Vec<Persisted>)>,
    /// Messages that may leave now, by destination.
    pub held: Vec<(StoreId, Vec<Envelope>)>,
    /// Callers whose group's creation is durable.
    pub created: Vec<Reply>,
    /// Whether anything was written and synced.
    pub synced: bool,
}

/// Pure bookkeeping around [`LogStore::write`].
pub struct LogWriter {
    log: Arc<dyn LogStore>,
}

impl LogWriter {
    /// A writer to `log`. There is one a store.
    #[must_use]
    pub fn new(log: Arc<dyn LogStore>) -> Self {
        LogWriter { log }
    }

    /// Makes `tasks` durable in one write. Blocks on the disk. An error ends the process.
    pub fn run_once(&mut self, tasks: Vec<LogTask>) -> Result<LogDone, Fatal> {
        let mut done = LogDone::default();
        let count = tasks.len();
        let mut writes: Vec<GroupWrite> = Vec::with_capacity(count);
        let mut places: FxHashMap<GroupId, usize> =
            FxHashMap::with_capacity_and_hasher(count, Default::default());
        for LogTask { shard, replica, write, ready, held, created } in tasks {
            let group = write.group;
            if write.is_tombstone() {
                // What the replica promised before is nobody's promise any more.
                done.held.iter_mut().for_each(|(_, held)| held.retain(|e| e.group != group));
            }
            if !write.is_empty() {
                match places.entry(group) {
                    Entry::Vacant(place) => {
                        place.insert(writes.len());
                        writes.push(write);
                    }
                    Entry::Occupied(place) => merge(&mut writes[*place.get()], write),
                }
            }
            if ready > 0 || !created.is_empty() {
                push(&mut done.persisted, shard, Persisted { group, replica, ready }, count);
            }
            for (store, envelope) in held {
                push(&mut done.held, store, envelope, count);
            }
            done.created.extend(created);
        }
        if !writes.is_empty() {
            self.log.write(&writes)?;
            done.synced = true;
        }
        Ok(done)
    }
}

/// `later` comes after `into` in the log's order.
fn merge(into: &mut GroupWrite, later: GroupWrite) {
    if later.is_tombstone() {
        *into = later;
        return;
    }
    if matches!(later.install, Some(Install::Begin(..))) {
        // What it replaces is not written any more; nothing comes behind it before it is durable.
        into.append.clear();
        into.truncate = None;
    }
    let begins = matches!(into.install, Some(Install::Begin(..)));
    assert!(!begins, "a write to group {} behind an install that begins", into.group);
    // A shard waits for the end of the state before the group begins anew.
    assert!(!into.is_tombstone(), "a write to group {} behind its tombstone", into.group);
    if let Some(first) = later.append.first() {
        if !crate::mutant::active("merge_keeps_overwritten") {
            into.append.retain(|e| e.index < first.index);
        }
        into.append.extend(later.append);
    }
    into.record = later.record.or(into.record.take());
    into.hard_state = later.hard_state.or(into.hard_state);
    into.truncate = later.truncate.or(into.truncate);
    into.install = later.install.or(into.install);
}

/// A new list has room for `room` values, so that it hardly ever grows.
fn push<K: PartialEq, V>(lists: &mut Vec<(K, Vec<V>)>, key: K, value: V, room: usize) {
    match lists.iter_mut().find(|(k, _)| *k == key) {
        Some((_, list)) => list.push(value),
        None => {
            let mut list = Vec::with_capacity(room);
            list.push(value);
            lists.push((key, list));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryKind, HardState, LogEntry, LogPosition, ReplicaId};
    use bytes::Bytes;

    fn append(range: std::ops::Range<u64>, term: u64) -> GroupWrite {
        let entry = |index| LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::new() };
        GroupWrite {
            group: GroupId(1),
            append: range.map(entry).collect(),
            ..GroupWrite::default()
        }
    }

    #[test]
    fn a_later_append_overwrites_what_it_overlaps() {
        let mut write = append(5..9, 1);
        merge(&mut write, append(7..8, 2));
        let got: Vec<_> = write.append.iter().map(|e| (e.index, e.term)).collect();
        assert_eq!(got, [(5, 1), (6, 1), (7, 2)]);
    }

    #[test]
    fn a_tombstone_takes_earlier_changes_and_held_messages_away() {
        let log = crate::log::MemoryLog::new();
        let mut writer = LogWriter::new(log.clone());
        let desc = crate::types::GroupDesc::new(GroupId(1), Vec::new());
        let mut record = crate::types::GroupRecord::new(desc, ReplicaId(4));
        let envelope = |group| Envelope {
            group: GroupId(group),
            from: ReplicaId(4),
            to: ReplicaId(5),
            payload: crate::transport::Payload::DurableApplied(1),
        };
        let task = |write, ready, held| LogTask {
            shard: 0,
            replica: ReplicaId(4),
            write,
            ready,
            held,
            created: Vec::new(),
        };
        let create = GroupWrite { record: Some(record.clone()), ..append(1..3, 1) };
        record.removed = true;
        let end = GroupWrite { record: Some(record.clone()), ..append(0..0, 1) };
        let held = vec![(StoreId(2), envelope(1)), (StoreId(2), envelope(7))];
        let done = writer.run_once(vec![task(create, 3, held), task(end, 9, Vec::new())]).unwrap();
        assert_eq!(done.held, [(StoreId(2), vec![envelope(7)])]);
        assert_eq!(done.persisted[0].1.len(), 2, "the shard hears of both");
        assert_eq!((&log.load().unwrap()[0].record, log.live_bytes()), (&record, 0));
    }

    #[test]
    fn the_last_hard_state_and_truncation_win() {
        let mut write = append(5..6, 1);
        write.hard_state = Some(HardState { term: 1, vote: 2, commit: 0 });
        let mut later = GroupWrite { group: GroupId(1), ..GroupWrite::default() };
        later.truncate = Some(LogPosition { index: 3, term: 1 });
        merge(&mut write, later);
        assert_eq!(write.hard_state.unwrap().vote, 2);
        assert_eq!(write.truncate.unwrap().index, 3);
        assert_eq!(write.append.len(), 1);
    }
}
