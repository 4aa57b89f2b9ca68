//! What a store's groups look like after a start: log and state machine, held against each other.

use crate::apply::StateMachine;
use crate::log::{GroupLog, GroupWrite, LogStore};
use crate::members::codec;
use crate::snapshot::{LoadError, Manifest, SnapshotWorker};
use crate::start::StartError;
use crate::types::LogPosition;
use std::sync::Arc;

/// One group as recovered. With `damage` it is quarantined, loudly, and takes no part.
#[derive(Clone, Debug)]
pub struct RecoveredGroup {
    /// What the log holds.
    pub log: GroupLog,
    /// Last index in the state machine.
    pub applied: u64,
    /// Highest index known committed, from the log and the state machine.
    pub commit: u64,
    /// See [`StateMachine::log_needed`].
    pub log_needed: u64,
    /// Why it cannot take part.
    pub damage: Option<String>,
    /// Snapshots of which something was received before the stop.
    pub snapshots: Vec<Manifest>,
}

/// Reads all groups, ends the installs of snapshots that a stop has cut off, deletes what else there is of
/// snapshots, but for those that were on their way here, and checks each group (invariants I4 and I5;
/// the consensus library aborts on a state that breaks them).
pub fn recover(
    log: &dyn LogStore,
    state_machine: &dyn StateMachine,
    snapshots: &SnapshotWorker,
) -> Result<Vec<RecoveredGroup>, StartError> {
    let (mut groups, mut missed) = (Vec::new(), Vec::new());
    for group in log.load()? {
        if group.record.removed {
            // The store may have stopped between the tombstone and the end of the state.
            state_machine.destroy(group.group)?;
        }
        let unfinished = finish_install(&group, state_machine, snapshots)?;
        let mut group = check(group, state_machine);
        group.damage = unfinished.or(group.damage);
        if group.damage.is_none() {
            match catch_up(&mut group, log) {
                Ok(false) => {}
                Ok(true) => missed.push(GroupWrite {
                    group: group.log.group,
                    record: Some(group.log.record.clone()),
                    ..GroupWrite::default()
                }),
                Err(damage) => group.damage = Some(damage),
            }
        }
        groups.push(group);
    }
    if !missed.is_empty() {
        // The log may be cut behind the entries that they were taken from.
        log.write(&missed)?;
    }
    if let Err(error) = tidy(&mut groups, snapshots) {
        tracing::warn!(%error, "cannot delete old snapshots");
    }
    Ok(groups)
}

/// Gives the state machine what it had not taken whole; what is damaged, if that cannot be.
fn finish_install(
    log: &GroupLog,
    state_machine: &dyn StateMachine,
    snapshots: &SnapshotWorker,
) -> Result<Option<String>, StartError> {
    let applied = state_machine.recovered(log.group).applied;
    let Some(id) = log.installing.filter(|_| applied < log.truncated.index) else {
        return Ok(None);
    };
    let unfinished = |why: String| Some(format!("snapshot {id} is installed in part: {why}"));
    if crate::mutant::active("install_not_resumed") {
        return Ok(unfinished("nobody goes on with it".to_owned()));
    }
    let manifest = match snapshots.held(id) {
        Ok(manifest) => manifest,
        Err(why) => return Ok(unfinished(why)),
    };
    match snapshots.load(&manifest, &mut |_| Ok(())) {
        Ok(()) => Ok(None),
        Err(LoadError::Damaged(why)) => Ok(unfinished(why)),
        Err(LoadError::Fatal(fatal)) if fatal.damage => Ok(unfinished(fatal.to_string())),
        Err(LoadError::Fatal(fatal)) => Err(fatal.into()),
    }
}

/// Finds the snapshots that were on their way here, and deletes the others. A damaged group keeps what is
/// left of its install.
fn tidy(groups: &mut [RecoveredGroup], snapshots: &SnapshotWorker) -> std::io::Result<()> {
    for id in snapshots.store().list()? {
        let kept = |group: &RecoveredGroup| group.log.installing == Some(id);
        if groups.iter().any(|group| group.damage.is_some() && kept(group)) {
            continue;
        }
        let coming = snapshots.partial(id);
        let needs = |group: &&mut RecoveredGroup, manifest: &Manifest| {
            let live = group.damage.is_none() && !group.log.record.removed;
            let Manifest { desc, position, .. } = manifest;
            live && group.log.group == desc.group && position.index > group.commit
        };
        if let Some(manifest) = coming
            && let Some(group) = groups.iter_mut().find(|group| needs(group, &manifest))
        {
            group.snapshots.push(manifest);
        } else {
            snapshots.store().remove(id)?;
        }
    }
    Ok(())
}

/// Takes the members from the log that the record misses: an entry may be applied, durably, before
/// the record behind it is. Whether there were any.
fn catch_up(group: &mut RecoveredGroup, log: &dyn LogStore) -> Result<bool, String> {
    let RecoveredGroup { log: held, applied, .. } = group;
    let known = held.record.desc.membership.position.index;
    let missed = held.memberships.iter().rev().find(|index| **index <= *applied);
    let Some(index) = missed.copied().filter(|index| *index > known) else { return Ok(false) };
    let mut entries = Vec::new();
    log.entries(held.group, index, index + 1, usize::MAX, &mut entries)
        .map_err(|error| error.to_string())?;
    let entry = entries.first().ok_or_else(|| format!("membership entry {index} is missing"))?;
    let mut desc =
        codec::decode(&entry.data).map_err(|why| format!("membership entry {index}: {why}"))?;
    desc.membership.position = LogPosition { index, term: entry.term };
    held.record.desc = Arc::new(desc);
    Ok(true)
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
    let log_needed = state_machine.log_needed(log.group);
    RecoveredGroup { log, applied, commit, log_needed, damage, snapshots: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{AppliedState, GroupApply};
    use crate::error::Fatal;
    use crate::log::Install;
    use crate::log::{GroupWrite, MemoryLog};
    use crate::snapshot::{Manifest, MemorySnapshots, SnapshotId, SnapshotStore};
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

        fn snapshot_save(
            &self,
            _group: GroupId,
            out: &mut dyn std::io::Write,
        ) -> Result<Option<u64>, Fatal> {
            out.write_all(b"state").map_err(|e| Fatal::new("save", e))?;
            Ok(Some(self.0.load(Ordering::Relaxed)))
        }

        fn snapshot_load(
            &self,
            _group: GroupId,
            position: LogPosition,
            from: &mut dyn std::io::Read,
        ) -> Result<(), Fatal> {
            let mut state = Vec::new();
            from.read_to_end(&mut state).map_err(|e| Fatal::new("load", e))?;
            assert_eq!(state, b"state");
            self.0.store(position.index, Ordering::Relaxed);
            Ok(())
        }
    }

    fn recover_both(log: &MemoryLog, machine: &Arc<Applied>) -> Vec<RecoveredGroup> {
        let store = MemorySnapshots::new();
        let worker = SnapshotWorker::new(store, machine.clone(), 2);
        recover(log, &**machine, &worker).unwrap()
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
            let found = recover_both(&log, &Arc::new(Applied(AtomicU64::new(applied))));
            let now = &found[0].log.record;
            assert_eq!((now.desc.membership.version, found[0].damage.clone()), (version, None));
            assert_eq!(now.replica, record.replica);
            let index = now.desc.membership.position.index;
            assert_eq!(index, 2 * version, "applied {applied}");
            assert!(found[0].commit >= index && found[0].commit >= applied);
            // Written down: the entry may be cut off before the next start.
            assert_eq!(&log.load().unwrap()[0].record, now);
        }
        // It had applied its own removal.
        let (log, record) = log();
        let found = recover_both(&log, &Arc::new(Applied(AtomicU64::new(6))));
        assert!(found[0].log.record.desc.has_left(record.replica));
    }

    /// The store may have stopped, or was cut off, before the state was gone.
    #[test]
    fn what_a_tombstone_left_is_destroyed() {
        let (log, record) = log();
        let record = GroupRecord { removed: true, ..record };
        log.write(&[GroupWrite {
            group: GroupId(1),
            record: Some(record),
            ..GroupWrite::default()
        }])
        .unwrap();
        let machine = Arc::new(Applied(AtomicU64::new(6)));
        let found = recover_both(&log, &machine);
        assert!(found[0].log.record.removed);
        assert_eq!(machine.recovered(GroupId(1)).applied, 0);
    }

    /// Its group stays out, and says which entry it is.
    #[test]
    fn members_that_cannot_be_read_quarantine_their_group() {
        let whole = codec::encode(&desc(2, 4));
        let newer = [&[9], &whole[1..]].concat();
        for (data, why) in [
            (Bytes::new(), "cut short"),
            (whole.slice(..whole.len() - 1), "cut short"),
            (Bytes::from([&whole[..], b"x"].concat()), "cut short"),
            (Bytes::from([&whole[..], &[0; 5]].concat()), "1 bytes follow"),
            (Bytes::from(newer), "format 9"),
        ] {
            let (log, _) = log();
            let bad = LogEntry { index: 4, term: 2, kind: EntryKind::Membership, data };
            let write =
                GroupWrite { group: GroupId(1), append: vec![bad], ..GroupWrite::default() };
            log.write(&[write]).unwrap();
            let found = recover_both(&log, &Arc::new(Applied(AtomicU64::new(4))));
            let damage = found[0].damage.clone().unwrap_or_default();
            assert!(damage.contains("membership entry 4: ") && damage.contains(why), "{damage}");
        }
    }

    #[test]
    fn a_record_ahead_of_the_state_is_committed_and_a_tombstone_ends_the_state() {
        let (log, mut record) = log();
        let mut later = desc(2, 3);
        later.membership.position = LogPosition { index: 4, term: 1 };
        record.desc = Arc::new(later);
        let write = |record: &GroupRecord| GroupWrite {
            group: GroupId(1),
            record: Some(record.clone()),
            ..GroupWrite::default()
        };
        log.write(&[write(&record)]).unwrap();
        let machine = Arc::new(Applied(AtomicU64::new(2)));
        let found = recover_both(&log, &machine);
        assert_eq!((found[0].applied, found[0].commit), (2, 4));
        assert_eq!(found[0].log.record, record);

        record.removed = true;
        log.write(&[write(&record)]).unwrap();
        let found = recover_both(&log, &machine);
        assert_eq!((found[0].applied, found[0].damage.clone()), (0, None));
    }

    /// At every point at which the store can stop the next start has the whole snapshot, or says
    /// what is wrong; and other snapshots are gone.
    #[test]
    fn an_install_that_was_cut_off_is_ended_at_the_next_start() {
        let source = Arc::new(Applied(AtomicU64::new(9)));
        let (id, other) = (SnapshotId(5), SnapshotId(6));
        let position = LogPosition { index: 9, term: 2 };
        for (stored, applied, expected) in
            [(true, 3, Ok(9)), (true, 9, Ok(9)), (false, 3, Err("its manifest"))]
        {
            let (log, record) = log();
            let store = MemorySnapshots::new();
            let worker = |machine| SnapshotWorker::new(store.clone(), machine, 2);
            let (index, content) = worker(source.clone())
                .make(id, GroupId(1), false, &mut |_| Ok(()))
                .unwrap()
                .unwrap();
            assert_eq!((index, content.bytes, content.blocks), (9, 5, 3));
            let manifest = Manifest { id, desc: GroupDesc::clone(&record.desc), position, content };
            if stored {
                store.seal(id, &manifest.encode()).unwrap();
            }
            store.write(other, 0, b"left over").unwrap();
            // On its way here, and one that is of no use any more.
            let coming = Manifest { id: SnapshotId(7), ..manifest.clone() };
            let coming = Manifest { position: LogPosition { index: 12, term: 2 }, ..coming };
            store.seal(coming.id, &coming.encode()).unwrap();
            let late = Manifest { id: SnapshotId(8), ..manifest.clone() };
            store.seal(late.id, &late.encode()).unwrap();
            let install = Some(Install::Begin(position, id));
            let write = GroupWrite { group: GroupId(1), install, ..GroupWrite::default() };
            log.write(&[write]).unwrap();
            let machine = Arc::new(Applied(AtomicU64::new(applied)));
            let found = recover(&*log, &*machine, &worker(machine.clone())).unwrap();
            match (expected, &found[0].damage) {
                (Ok(applied), None) => {
                    assert_eq!((found[0].applied, found[0].commit), (applied, applied));
                    assert_eq!(store.list().unwrap(), [coming.id]);
                    assert_eq!(found[0].snapshots, [coming]);
                }
                (Err(why), Some(damage)) => {
                    assert!(damage.contains(why), "{damage}");
                    assert_eq!(store.list().unwrap(), [id]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
