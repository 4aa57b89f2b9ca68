//! Reads of committed entries, for those who use the log itself: on their own threads.

use super::LogStore;
use crate::apply::ApplyEntry;
use crate::commands::unpack;
use crate::error::{LogError, ReadLogError};
use crate::members::codec;
use crate::types::{EntryKind, GroupId, LogEntry, LogPosition};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Reads from the beginning of `range`, whose end is applied here and so committed and in the log.
/// See [`crate::Store::read_log`].
pub(crate) fn read(
    log: &dyn LogStore,
    group: GroupId,
    range: RangeInclusive<u64>,
    bytes_max: usize,
) -> Result<Vec<ApplyEntry>, ReadLogError> {
    let (from, applied) = range.into_inner();
    if from > applied {
        return Err(ReadLogError::NotYet { group, from, applied });
    }
    let mut entries = Vec::new();
    match log.entries(group, from, applied + 1, bytes_max, &mut entries) {
        Ok(()) => {}
        Err(LogError::Compacted { truncated, .. }) => {
            return Err(ReadLogError::Cut { group, from, first: truncated + 1 });
        }
        Err(error) => return Err(error.into()),
    }
    let opened = entries.into_iter().map(|entry| {
        let index = entry.index;
        open(entry).map_err(|why| {
            let reason = format!("entry {index}: {why}");
            LogError::Damaged { group, reason }.into()
        })
    });
    opened.collect()
}

/// The entry as a state machine sees it.
fn open(entry: LogEntry) -> Result<ApplyEntry, String> {
    let position = LogPosition { index: entry.index, term: entry.term };
    match entry.kind {
        EntryKind::Normal => {
            Ok(ApplyEntry { position, commands: unpack(&entry.data)?, members: None })
        }
        EntryKind::Membership => {
            let mut desc = codec::decode(&entry.data)?;
            desc.membership.position = position;
            let members = Some(Arc::new(desc));
            Ok(ApplyEntry { position, commands: Vec::new(), members })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::pack;
    use crate::log::{GroupWrite, MemoryLog};
    use crate::types::{GroupDesc, GroupRecord, ReplicaId};
    use bytes::Bytes;

    const GROUP: GroupId = GroupId(4);

    /// Entries 1 to 5, of which the third changes the members.
    fn log() -> Arc<MemoryLog> {
        let log = MemoryLog::new();
        let desc = GroupDesc::new(GROUP, Vec::new());
        let entry = |index: u64| {
            let commands = [Bytes::from(index.to_string()), Bytes::from_static(b"more")];
            let (kind, data) = match index {
                3 => (EntryKind::Membership, codec::encode(&desc)),
                _ => (EntryKind::Normal, pack(commands.iter())),
            };
            LogEntry { index, term: 2, kind, data }
        };
        let append = (1..=5).map(entry).collect();
        let record = Some(GroupRecord::new(desc.clone(), ReplicaId(1)));
        log.write(&[GroupWrite { group: GROUP, record, append, ..GroupWrite::default() }]).unwrap();
        log
    }

    #[test]
    fn what_is_applied_is_read_as_the_state_machine_saw_it() {
        let log = log();
        let read = |from, applied, bytes_max| read(&*log, GROUP, from..=applied, bytes_max);
        let found = read(2, 4, usize::MAX).unwrap();
        let indexes: Vec<u64> = found.iter().map(|entry| entry.position.index).collect();
        assert_eq!(indexes, [2, 3, 4]);
        assert_eq!(found[0].commands, ["2", "more"]);
        let members = found[1].members.as_ref().expect("it changes the members");
        assert_eq!(members.membership.position, LogPosition { index: 3, term: 2 });
        assert_eq!(read(1, 5, 0).unwrap().len(), 1, "at least one");
    }

    #[test]
    fn what_is_cut_or_to_come_is_told_apart() {
        let log = log();
        let truncate = Some(LogPosition { index: 2, term: 2 });
        log.write(&[GroupWrite { group: GROUP, truncate, ..GroupWrite::default() }]).unwrap();
        let read = |from| read(&*log, GROUP, from..=4, usize::MAX);
        assert_eq!(read(2), Err(ReadLogError::Cut { group: GROUP, from: 2, first: 3 }));
        assert_eq!(read(0), Err(ReadLogError::Cut { group: GROUP, from: 0, first: 3 }));
        assert_eq!(read(5), Err(ReadLogError::NotYet { group: GROUP, from: 5, applied: 4 }));
        assert_eq!(read(3).unwrap().len(), 2);
        log.lose_entry(GROUP, 4);
        assert!(matches!(read(3), Err(ReadLogError::Log(LogError::Damaged { .. }))));
    }
}
