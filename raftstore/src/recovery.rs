//! What a store's groups look like after a start: log and state machine, held against each other.

use crate::apply::StateMachine;
use crate::log::{GroupLog, LogStore};
use crate::members::codec;
use crate::start::StartError;
use crate::types::LogPosition;

/// One group as recovered. With `damage` it is quarantined, loudly, and takes no part.
#[derive(Clone, Debug)]
pub struct RecoveredGroup {
    /// What the log holds.
    pub log: GroupLog,
    /// Last index in the state machine.
    pub applied: u64,
    /// Highest index known committed, from the log and the state machine.
    pub commit: u64,
    /// Why it cannot take part.
    pub damage: Option<String>,
}

/// Reads all groups and checks each (invariants I4 and I5; the consensus library aborts on a
/// state that breaks them).
pub fn recover(
    log: &dyn LogStore,
    state_machine: &dyn StateMachine,
) -> Result<Vec<RecoveredGroup>, StartError> {
    let mut groups = Vec::new();
    for group in log.load()? {
        if group.record.removed {
            // The store may have stopped between the tombstone and the end of the state.
            state_machine.destroy(group.group)?;
        }
        let mut group = check(group, state_machine);
        if group.damage.is_none() {
            group.damage = catch_up(&mut group, log).err();
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Takes the members from the log that the record misses: an entry may be applied, durably, before
/// the record behind it is.
fn catch_up(group: &mut RecoveredGroup, log: &dyn LogStore) -> Result<(), String> {
    let RecoveredGroup { log: held, applied, .. } = group;
    let known = held.record.desc.membership.position.index;
    let missed = held.memberships.iter().rev().find(|index| **index <= *applied);
    let Some(index) = missed.copied().filter(|index| *index > known) else { return Ok(()) };
    let mut entries = Vec::new();
    log.entries(held.group, index, index + 1, usize::MAX, &mut entries)
        .map_err(|error| error.to_string())?;
    let entry = entries.first().ok_or_else(|| format!("membership entry {index} is missing"))?;
    held.record.desc =
        codec::decode(&entry.data).map_err(|why| format!("membership entry {index}: {why}"))?;
    held.record.desc.membership.position = LogPosition { index, term: entry.term };
    Ok(())
}

fn check(log: GroupLog, state_machine: &dyn StateMachine) -> RecoveredGroup {
    let state = state_machine.recovered(log.group);
    let applied = state.applied;
    // The members come from a committed entry, too.
    let members = log.record.desc.membership.position.index;
    let commit = log.hard_state.commit.max(state.commit.index).max(members).min(log.last_index);
    let damage = log.damage.clone().or_else(|| {
        if log.last_index < applied {
            Some(format!("the log ends at {} before the applied index {applied}", log.last_index))
        } else if log.truncated.index > applied {
            let start = log.truncated.index + 1;
            Some(format!("the log starts at {start}, after the applied index {applied}"))
        } else if commit < applied {
            Some(format!("the applied index {applied} is beyond the commit index {commit}"))
        } else {
            None
        }
    });
    RecoveredGroup { log, applied, commit, damage }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{AppliedState, GroupApply};
    use crate::error::Fatal;
    use crate::log::{GroupWrite, MemoryLog};
    use crate::types::{
        EntryKind, GroupDesc, GroupId, GroupRecord, LogEntry, ReplicaDesc, ReplicaId, ReplicaRole,
        StoreId,
    };
    use bytes::Bytes;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Has applied up to an index, until it is destroyed.
    struct Applied(AtomicU64);

    impl StateMachine for Applied {
        fn recovered(&self, _group: GroupId) -> AppliedState {
            let applied = self.0.load(Ordering::Relaxed);
            AppliedState { applied, commit: LogPosition { index: applied, term: 1 } }
        }

        fn apply(&self, _batch: &mut [GroupApply]) -> Result<(), Fatal> {
            Ok(())
        }

        fn sync(&self) -> Result<(), Fatal> {
            Ok(())
        }

        fn destroy(&self, _group: GroupId) -> Result<(), Fatal> {
            self.0.store(0, Ordering::Relaxed);
            Ok(())
        }
    }

    fn desc(version: u64, members: u64) -> GroupDesc {
        let member = |id| ReplicaDesc {
            replica: ReplicaId(id),
            store: StoreId(id),
            role: ReplicaRole::Voter,
        };
        let mut desc = GroupDesc::new(GroupId(1), (1..=members).map(member).collect());
        desc.membership.version = version;
        desc.membership.replica_max = ReplicaId(9);
        desc
    }

    /// Entries 2, 4 and 6 change the members; the record knows of none.
    fn log() -> (std::sync::Arc<MemoryLog>, GroupRecord) {
        let log = MemoryLog::new();
        let record = GroupRecord::new(desc(0, 3), ReplicaId(3));
        let entry = |index: u64| {
            let (kind, data) = match index {
                2 | 4 => (EntryKind::Membership, codec::encode(&desc(index / 2, 2 + index / 2))),
                6 => (EntryKind::Membership, codec::encode(&desc(3, 2))),
                _ => (EntryKind::Normal, Bytes::new()),
            };
            LogEntry { index, term: 1, kind, data }
        };
        log.write(&[GroupWrite {
            group: GroupId(1),
            record: Some(record.clone()),
            append: (1..=6).map(entry).collect(),
            ..GroupWrite::default()
        }])
        .unwrap();
        (log, record)
    }

    #[test]
    fn members_that_the_record_missed_come_from_the_log() {
        for (applied, version) in [(0, 0), (1, 0), (2, 1), (3, 1), (5, 2)] {
            let (log, record) = log();
            let found = recover(&*log, &Applied(AtomicU64::new(applied))).unwrap();
            let now = &found[0].log.record;
            assert_eq!((now.desc.membership.version, found[0].damage.clone()), (version, None));
            assert_eq!(now.replica, record.replica);
            let index = now.desc.membership.position.index;
            assert_eq!(index, 2 * version, "applied {applied}");
            assert!(found[0].commit >= index && found[0].commit >= applied);
        }
        // It had applied its own removal.
        let (log, record) = log();
        let found = recover(&*log, &Applied(AtomicU64::new(6))).unwrap();
        assert!(found[0].log.record.desc.has_left(record.replica));
    }

    /// Its group stays out, and says which entry it is.
    #[test]
    fn members_that_cannot_be_read_quarantine_their_group() {
        let whole = codec::encode(&desc(2, 4));
        let newer = [&[9], &whole[1..]].concat();
        for (data, why) in [
            (Bytes::new(), "cut short"),
            (whole.slice(..whole.len() - 1), "cut short"),
            (Bytes::from([&whole[..], b"x"].concat()), "1 bytes follow"),
            (Bytes::from(newer), "format 9"),
        ] {
            let (log, _) = log();
            let bad = LogEntry { index: 4, term: 2, kind: EntryKind::Membership, data };
            let write =
                GroupWrite { group: GroupId(1), append: vec![bad], ..GroupWrite::default() };
            log.write(&[write]).unwrap();
            let found = recover(&*log, &Applied(AtomicU64::new(4))).unwrap();
            let damage = found[0].damage.clone().unwrap_or_default();
            assert!(damage.contains("membership entry 4: ") && damage.contains(why), "{damage}");
        }
    }

    #[test]
    fn a_record_ahead_of_the_state_is_committed_and_a_tombstone_ends_the_state() {
        let (log, mut record) = log();
        record.desc = desc(2, 3);
        record.desc.membership.position = LogPosition { index: 4, term: 1 };
        let write = |record: &GroupRecord| GroupWrite {
            group: GroupId(1),
            record: Some(record.clone()),
            ..GroupWrite::default()
        };
        log.write(&[write(&record)]).unwrap();
        let machine = Applied(AtomicU64::new(2));
        let found = recover(&*log, &machine).unwrap();
        assert_eq!((found[0].applied, found[0].commit), (2, 4));
        assert_eq!(found[0].log.record, record);

        record.removed = true;
        log.write(&[write(&record)]).unwrap();
        let found = recover(&*log, &machine).unwrap();
        assert_eq!((found[0].applied, found[0].damage.clone()), (0, None));
    }
}
