//! Recovery of lost majorities on a store that is stopped, in its log: see `members/recover.rs`.
//!
//! The next start finds the new members in the record, takes the whole log as committed, and goes on.

use crate::error::{Fatal, LogError};
use crate::log::{GroupLog, GroupWrite, LogStore};
use crate::members::{ChangeRefusal, RecoverRequest, codec, recovered};
use crate::types::{
    EntryKind, GroupDesc, GroupId, GroupRecord, HardState, LogEntry, LogPosition, ReplicaId,
};

/// A replica of a group that cannot decide without the lost stores.
#[derive(Clone, Debug)]
pub struct Stranded {
    /// The group with its latest members, as this log knows them.
    pub desc: GroupDesc,
    /// The replica that is here.
    pub replica: ReplicaId,
    /// The end of its log: of the replicas that are left the one whose is the last, by term and then
    /// index, should go on.
    pub last: LogPosition,
    /// Why it cannot go on.
    pub damage: Option<String>,
    hard_state: HardState,
}

/// Why a group was not recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It cannot be.
    #[error("group {group}: {refusal}")]
    Refused {
        /// The group.
        group: GroupId,
        /// Why.
        refusal: ChangeRefusal,
    },
    /// This replica cannot go on.
    #[error("group {group}: its replica here is damaged: {damage}; recover it on another store")]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is damaged.
        damage: String,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// The groups in `log` that cannot decide without what `request` gives up. Blocks on the disk.
pub fn stranded(log: &dyn LogStore, request: &RecoverRequest) -> Result<Vec<Stranded>, LogError> {
    let mut found = Vec::new();
    for group in log.load()? {
        if group.record.removed {
            continue;
        }
        let (desc, damage) = match latest(&group, log) {
            Ok(desc) => (desc, None),
            Err(damage) => (GroupDesc::clone(&group.record.desc), Some(damage)),
        };
        let replica = group.record.replica;
        let decides = desc.has_quorum(|member| !request.gives_up(member));
        if desc.replica(replica).is_some() && !decides {
            let unfinished =
                group.installing.map(|id| format!("snapshot {id} is installed in part"));
            let term = group.terms.last().map_or(group.truncated.term, |(_, term)| *term);
            let last = LogPosition { index: group.last_index, term };
            let invited = group.record.desc.membership.version > 0;
            let empty = (invited && group.last_index == 0)
                .then(|| "it never got its first snapshot, so it has nothing".to_owned());
            let damage = group.damage.clone().or(damage).or(unfinished).or(empty);
            found.push(Stranded { desc, replica, last, damage, hard_state: group.hard_state });
        }
    }
    Ok(found)
}

/// The members by the last change that the log holds, applied or not.
fn latest(group: &GroupLog, log: &dyn LogStore) -> Result<GroupDesc, String> {
    let known = &group.record.desc;
    let Some(index) = group.memberships.last().filter(|i| **i > known.membership.position.index)
    else {
        return Ok(GroupDesc::clone(known));
    };
    let mut entries = Vec::new();
    log.entries(group.group, *index, index + 1, usize::MAX, &mut entries)
        .map_err(|error| error.to_string())?;
    let entry = entries.first().ok_or_else(|| format!("membership entry {index} is missing"))?;
    codec::decode(&entry.data).map_err(|why| format!("membership entry {index}: {why}"))
}

/// Has the group go on with its replica here as the only voter; the members from then on. One synced
/// write. The same operation again changes nothing.
pub fn go_on_alone(
    log: &dyn LogStore,
    stranded: &Stranded,
    request: &RecoverRequest,
) -> Result<GroupDesc, OfflineError> {
    let Stranded { desc, replica, last, damage, hard_state } = stranded;
    let group = desc.group;
    if let Some(damage) = damage.clone() {
        return Err(OfflineError::Damaged { group, damage });
    }
    let refused = |refusal| OfflineError::Refused { group, refusal };
    let mut next = recovered(desc, *replica, request).map_err(refused)?;
    let (index, term) = (last.index + 1, hard_state.term.max(last.term) + 1);
    let data = codec::encode(&next);
    next.membership.position = LogPosition { index, term };
    log.write(&[GroupWrite {
        group,
        record: Some(GroupRecord::new(next.clone(), *replica)),
        hard_state: Some(HardState { term, vote: 0, commit: index }),
        append: vec![LogEntry { index, term, kind: EntryKind::Membership, data }],
        ..GroupWrite::default()
    }])?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::MemoryLog;
    use crate::members::OperationId;
    use crate::types::StoreId;
    use bytes::Bytes;

    fn request(lost: &[u64]) -> RecoverRequest {
        RecoverRequest {
            operation: OperationId(9),
            gone: Vec::new(),
            lost: lost.iter().map(|store| StoreId(*store)).collect(),
            replica_max: ReplicaId(0),
        }
    }

    fn write(group: u64) -> GroupWrite {
        GroupWrite { group: GroupId(group), ..GroupWrite::default() }
    }

    /// Group 1 has three voters, and a fourth by an entry that the record does not know; group 2 is whole.
    fn log() -> std::sync::Arc<MemoryLog> {
        let log = MemoryLog::new();
        let stores = |last: u64| (1..=last).map(StoreId);
        let record = |group, last| {
            GroupRecord::new(GroupDesc::of_voters(GroupId(group), stores(last)), ReplicaId(3))
        };
        let mut later = GroupDesc::of_voters(GroupId(1), stores(4));
        later.membership.version = 1;
        let entry = |index: u64, term: u64| {
            let (kind, data) = match index {
                3 => (EntryKind::Membership, codec::encode(&later)),
                _ => (EntryKind::Normal, Bytes::new()),
            };
            LogEntry { index, term, kind, data }
        };
        let append = vec![entry(1, 1), entry(2, 4), entry(3, 4)];
        let hard_state = Some(HardState { term: 6, vote: 3, commit: 1 });
        let record_one = Some(record(1, 3));
        log.write(&[GroupWrite { record: record_one, append, hard_state, ..write(1) }]).unwrap();
        log.write(&[GroupWrite { record: Some(record(2, 5)), ..write(2) }]).unwrap();
        log
    }

    #[test]
    fn a_stopped_store_goes_on_alone_with_one_write() {
        let log = log();
        let found = stranded(&*log, &request(&[1, 2])).unwrap();
        assert_eq!(found.len(), 1, "three of five voters of group 2 are left");
        assert_eq!(found[0].last, LogPosition { index: 3, term: 4 });
        let next = go_on_alone(&*log, &found[0], &request(&[1, 2])).unwrap();
        let ids: Vec<u64> = next.replicas.iter().map(|r| r.replica.0).collect();
        assert_eq!(ids, [3, (1 << 36) + 5], "itself, and one in the place of the fourth");
        let held = log.load().unwrap().remove(0);
        assert_eq!(*held.record.desc, next);
        assert_eq!(held.last_index, 4);
        assert_eq!(held.hard_state, HardState { term: 7, vote: 0, commit: 4 });
        assert_eq!(next.membership.position, LogPosition { index: 4, term: 7 });
        assert!(stranded(&*log, &request(&[1, 2])).unwrap().is_empty(), "it decides alone now");
        let again = go_on_alone(&*log, &found[0], &request(&[4, 5])).unwrap_err();
        assert!(again.to_string().contains("nothing to recover"), "{again}");
    }

    #[test]
    fn a_replica_that_never_got_its_first_snapshot_does_not_go_on() {
        let log = MemoryLog::new();
        let mut desc = GroupDesc::of_voters(GroupId(1), (1..=3).map(StoreId));
        desc.membership.version = 1;
        let record = Some(GroupRecord::new(desc, ReplicaId(3)));
        log.write(&[GroupWrite { record, ..write(1) }]).unwrap();
        let found = stranded(&*log, &request(&[1, 2])).unwrap();
        let refused = go_on_alone(&*log, &found[0], &request(&[1, 2])).unwrap_err();
        assert!(refused.to_string().contains("never got its first snapshot"), "{refused}");
    }

    #[test]
    fn a_damaged_replica_does_not_go_on() {
        let log = log();
        let mut found = stranded(&*log, &request(&[1, 2])).unwrap();
        found[0].damage = Some("a hole".to_owned());
        let before = log.load().unwrap();
        let refused = go_on_alone(&*log, &found[0], &request(&[1, 2])).unwrap_err();
        assert!(refused.to_string().contains("a hole"), "{refused}");
        assert_eq!(log.load().unwrap(), before);
    }
}
