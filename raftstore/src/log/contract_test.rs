//! What every [`LogStore`] must do, run against each of them.

use super::*;
use crate::snapshot::SnapshotId;
use crate::types::{EntryKind, GroupDesc, ReplicaDesc, ReplicaId, ReplicaRole, StoreId};
use bytes::Bytes;
use std::sync::Arc;

/// A store under test.
pub(super) trait Fixture {
    /// The store itself.
    fn log(&self) -> &dyn LogStore;
    /// Closes the store and opens it again.
    fn reopen(&mut self);
    /// Makes one entry disappear behind the store's back; the store may need a reopen to see it.
    fn lose_entry(&mut self, group: GroupId, index: u64);
}

/// Opens a log whose folder may have been closed just now: a process that another test starts holds
/// its lock for a moment, until its own program runs.
#[allow(clippy::disallowed_methods)] // A test may wait.
pub(super) fn once_free<T>(open: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
    for _ in 0..1000 {
        match open() {
            Err(error) if error.to_string().contains("in use by another process") => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
    open()
}

pub(super) fn record(group: u64) -> GroupRecord {
    let replicas = (1..=3)
        .map(|n| ReplicaDesc {
            replica: ReplicaId(group * 10 + n),
            store: StoreId(n),
            role: ReplicaRole::Voter,
        })
        .collect();
    GroupRecord::new(GroupDesc::new(GroupId(group), replicas), ReplicaId(group * 10 + 1))
}

pub(super) fn create(group: u64) -> GroupWrite {
    GroupWrite { group: GroupId(group), record: Some(record(group)), ..GroupWrite::default() }
}

/// Entries from `first` on, one for each term, with data that tells them apart.
pub(super) fn entries(first: u64, terms: &[u64], bytes: usize) -> Vec<LogEntry> {
    (first..)
        .zip(terms)
        .map(|(index, &term)| LogEntry {
            index,
            term,
            kind: if index % 7 == 3 { EntryKind::Membership } else { EntryKind::Normal },
            data: Bytes::from(format!("{index}/{term}-").repeat(bytes / 4 + 1)[..bytes].to_owned()),
        })
        .collect()
}

pub(super) fn append(group: u64, first: u64, terms: &[u64]) -> GroupWrite {
    GroupWrite { group: GroupId(group), append: entries(first, terms, 20), ..GroupWrite::default() }
}

fn truncate(group: u64, index: u64, term: u64) -> GroupWrite {
    GroupWrite {
        group: GroupId(group),
        truncate: Some(LogPosition { index, term }),
        ..GroupWrite::default()
    }
}

fn read(log: &dyn LogStore, group: u64, low: u64, high: u64) -> Result<Vec<LogEntry>, LogError> {
    let mut out = Vec::new();
    log.entries(GroupId(group), low, high, usize::MAX, &mut out).map(|()| out)
}

fn loaded(log: &dyn LogStore, group: u64) -> GroupLog {
    let groups = log.load().unwrap();
    groups.into_iter().find(|log| log.group == GroupId(group)).unwrap()
}

fn an_append_is_read_back_with_record_and_hard_state(f: &mut dyn Fixture) {
    let hard_state = HardState { term: 3, vote: 11, commit: 2 };
    let write = GroupWrite {
        hard_state: Some(hard_state),
        append: entries(1, &[1, 1, 3], 20),
        ..create(1)
    };
    f.log().write(std::slice::from_ref(&write)).unwrap();
    for _ in 0..2 {
        assert_eq!(read(f.log(), 1, 1, 4).unwrap(), write.append);
        let expected = GroupLog {
            group: GroupId(1),
            record: record(1),
            hard_state,
            truncated: LogPosition::default(),
            last_index: 3,
            terms: vec![(1, 1), (3, 3)],
            memberships: vec![3],
            installing: None,
            damage: None,
        };
        assert_eq!(f.log().load().unwrap(), [expected]);
        f.reopen();
    }
}

fn an_append_removes_the_longer_suffix(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1])]).unwrap();
    f.log().write(&[append(1, 4, &[2, 2])]).unwrap();
    for _ in 0..2 {
        let log = loaded(f.log(), 1);
        assert_eq!((log.last_index, log.terms), (5, vec![(1, 1), (4, 2)]));
        assert_eq!(read(f.log(), 1, 1, 6).unwrap()[3..], entries(4, &[2, 2], 20));
        assert!(matches!(read(f.log(), 1, 5, 7), Err(LogError::Damaged { .. })));
        f.reopen();
    }
    // What was removed stays removed behind later appends.
    f.log().write(&[append(1, 6, &[3])]).unwrap();
    f.reopen();
    assert_eq!(loaded(f.log(), 1).last_index, 6);
    assert_eq!(read(f.log(), 1, 6, 7).unwrap(), entries(6, &[3], 20));
}

fn truncation_keeps_the_term_of_the_removed_position(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1, 1, 2, 2, 4])]).unwrap();
    f.log().write(&[truncate(1, 3, 2)]).unwrap();
    for _ in 0..2 {
        let log = loaded(f.log(), 1);
        assert_eq!(log.truncated, LogPosition { index: 3, term: 2 });
        assert_eq!((log.last_index, log.terms), (5, vec![(4, 2), (5, 4)]));
        let compacted = LogError::Compacted { group: GroupId(1), truncated: 3 };
        assert_eq!(read(f.log(), 1, 3, 6), Err(compacted));
        assert_eq!(read(f.log(), 1, 4, 6).unwrap(), entries(4, &[2, 4], 20));
        f.reopen();
    }
    // The whole log, and going on behind it; a truncation that goes back changes nothing.
    f.log().write(&[truncate(1, 5, 4)]).unwrap();
    f.log().write(&[truncate(1, 2, 1)]).unwrap();
    f.reopen();
    let log = loaded(f.log(), 1);
    assert_eq!((log.truncated.index, log.last_index, log.terms), (5, 5, vec![]));
    assert_eq!(f.log().live_bytes(), 0);
    f.log().write(&[append(1, 6, &[5])]).unwrap();
    assert_eq!(read(f.log(), 1, 6, 7).unwrap(), entries(6, &[5], 20));
}

fn truncation_comes_after_the_append_of_the_same_write(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    let write = GroupWrite {
        truncate: Some(LogPosition { index: 2, term: 1 }),
        ..append(1, 1, &[1, 1, 1])
    };
    f.log().write(&[write]).unwrap();
    f.reopen();
    let log = loaded(f.log(), 1);
    assert_eq!((log.truncated.index, log.last_index, log.damage), (2, 3, None));
    assert_eq!(read(f.log(), 1, 3, 4).unwrap(), entries(3, &[1], 20));
}

/// An overwritten suffix must not come back when the log was emptied below it.
fn a_suffix_that_was_overwritten_stays_away(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1; 10])]).unwrap();
    f.reopen();
    f.log().write(&[append(1, 8, &[2])]).unwrap();
    f.log().write(&[truncate(1, 8, 2)]).unwrap();
    for _ in 0..2 {
        f.reopen();
        let log = loaded(f.log(), 1);
        assert_eq!((log.truncated.index, log.last_index, log.damage), (8, 8, None));
        assert_eq!(f.log().live_bytes(), 0);
    }
    f.log().write(&[append(1, 9, &[3, 3])]).unwrap();
    f.reopen();
    assert_eq!(loaded(f.log(), 1).last_index, 10);
    assert_eq!(read(f.log(), 1, 9, 11).unwrap(), entries(9, &[3, 3], 20));
}

fn entries_stop_at_the_byte_limit_but_give_one(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1; 10])]).unwrap();
    let count = |bytes_max| {
        let mut out = Vec::new();
        f.log().entries(GroupId(1), 2, 11, bytes_max, &mut out).unwrap();
        out.len()
    };
    assert_eq!([count(0), count(19), count(20), count(40), count(1000)], [1, 1, 2, 3, 9]);
    let mut out = entries(1, &[1], 20);
    f.log().entries(GroupId(1), 2, 4, 1000, &mut out).unwrap();
    assert_eq!(out, entries(1, &[1, 1, 1], 20), "entries are added to those given");
    assert_eq!(read(f.log(), 1, 4, 4).unwrap(), []);
}

fn a_lost_entry_is_damage_and_spares_other_groups(f: &mut dyn Fixture) {
    f.log().write(&[create(1), create(2), create(3)]).unwrap();
    let terms = [1, 1, 1, 1, 1];
    f.log().write(&[append(1, 1, &terms), append(2, 1, &terms), append(3, 1, &terms)]).unwrap();
    f.lose_entry(GroupId(2), 3);
    assert!(matches!(read(f.log(), 2, 1, 6), Err(LogError::Damaged { .. })));
    f.reopen();
    let error = read(f.log(), 2, 1, 6).unwrap_err().to_string();
    assert!(error.contains("group 2") && error.contains('3'), "{error}");
    let damage = loaded(f.log(), 2).damage.unwrap();
    assert!(damage.contains('3') && damage.contains("missing"), "{damage}");
    for group in [1, 3] {
        assert_eq!(loaded(f.log(), group).damage, None);
        assert_eq!(read(f.log(), group, 1, 6).unwrap(), entries(1, &terms, 20));
        f.log().write(&[append(group, 6, &[1])]).unwrap();
    }
}

fn one_write_holds_many_groups(f: &mut dyn Fixture) {
    let writes: Vec<GroupWrite> = (1..=200)
        .map(|group| GroupWrite {
            hard_state: Some(HardState { term: group, vote: 0, commit: 0 }),
            append: entries(1, &[group, group], 800),
            ..create(group)
        })
        .collect();
    f.log().write(&writes).unwrap();
    let groups = f.log().load().unwrap();
    f.reopen();
    assert_eq!(f.log().load().unwrap(), groups);
    assert_eq!(groups.len(), 200);
    for group in groups {
        assert_eq!((group.last_index, group.hard_state.term), (2, group.group.0));
    }
    let bytes = f.log().live_bytes();
    assert!((320_000..400_000).contains(&bytes), "{bytes}");
}

fn nothing_of_a_refused_write_stays_and_none_is_taken_after_it(f: &mut dyn Fixture) {
    f.log().write(&[create(1), create(2)]).unwrap();
    f.log().write(&[append(1, 1, &[1]), append(2, 1, &[1])]).unwrap();
    let before = f.log().load().unwrap();
    let error = f.log().write(&[append(1, 2, &[1]), append(2, 5, &[1])]).unwrap_err().to_string();
    assert!(error.contains("group 2") && error.contains("index 5"), "{error}");
    let error = f.log().write(&[append(1, 2, &[1])]).unwrap_err().to_string();
    assert!(error.contains("refused after an earlier failure"), "{error}");
    assert_eq!(f.log().load().unwrap(), before);
}

fn refusals(f: &mut dyn Fixture, open: &dyn Fn() -> Box<dyn Fixture>) {
    let busy_tombstone = GroupWrite { record: tombstone(1).record, ..append(1, 1, &[1]) };
    let cases: [(&[GroupWrite], &str); 5] = [
        (&[busy_tombstone], "a tombstone comes alone"),
        (&[append(9, 1, &[1])], "not created"),
        (&[append(1, 1, &[1]), append(1, 2, &[1])], "twice"),
        (&[GroupWrite { record: Some(record(2)), ..append(1, 1, &[1]) }], "another record"),
        (&[append(1, 2, &[1])], "append at index 2"),
    ];
    for (writes, text) in cases {
        let fresh = open();
        fresh.log().write(&[create(1)]).unwrap();
        let error = fresh.log().write(writes).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    // The same record again changes nothing.
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[create(1)]).unwrap();
    assert!(matches!(read(f.log(), 7, 1, 2), Err(LogError::Damaged { .. })));
}

pub(super) fn tombstone(group: u64) -> GroupWrite {
    let record = GroupRecord { removed: true, ..record(group) };
    GroupWrite { record: Some(record), ..create(group) }
}

/// The record after a change of the members.
pub(super) fn later_record(group: u64) -> GroupRecord {
    let mut later = record(group);
    let desc = Arc::make_mut(&mut later.desc);
    desc.membership.version = 2;
    desc.replicas.remove(2);
    later
}

/// Group 1's members change, it ends, and group 2 goes on: the write of the members, of the end.
pub(super) fn ending() -> [Vec<GroupWrite>; 5] {
    [
        vec![create(1), create(2)],
        vec![append(1, 1, &[1, 1])],
        vec![GroupWrite { record: Some(later_record(1)), ..append(1, 3, &[1]) }],
        vec![tombstone(1)],
        vec![append(2, 1, &[1])],
    ]
}

fn a_record_follows_the_members(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1, 1, 1, 1])]).unwrap();
    let later = later_record(1);
    let write = GroupWrite { record: Some(later.clone()), ..append(1, 5, &[2]) };
    f.log().write(&[write]).unwrap();
    for _ in 0..2 {
        let log = loaded(f.log(), 1);
        assert_eq!((&log.record, log.last_index, log.damage), (&later, 5, None));
        assert_eq!(log.memberships, [3]);
        f.reopen();
    }
    let back = f.log().write(&[create(1)]).unwrap_err().to_string();
    assert!(back.contains("another record"), "{back}");
}

/// Group 1 of the folder is damaged: its tombstone ends that, and a later replica finds nothing of it.
pub(super) fn ends_and_begins_again<L: LogStore + ?Sized>(open: impl Fn() -> Arc<L>) {
    let log = open();
    assert!(log.load().unwrap()[0].damage.is_some());
    let error = log.write(&[append(1, 5, &[1])]).unwrap_err();
    assert!(error.reason.contains("quarantined"), "{error}");
    drop(log);
    open().write(&[tombstone(1)]).unwrap();
    let mut later = create(1);
    later.record.as_mut().unwrap().replica.0 += 100;
    later.append = append(1, 1, &[7]).append;
    for restarted in [false, true] {
        let log = open();
        let found = log.load().unwrap().remove(0);
        assert_eq!((found.damage, found.last_index), (None, u64::from(restarted)));
        if !restarted {
            assert!(found.record.removed);
            log.write(&[later.clone()]).unwrap();
        }
        let mut out = Vec::new();
        log.entries(GroupId(1), 1, 2, 100, &mut out).unwrap();
        assert_eq!(out, later.append);
    }
}

/// A tombstone is all that is left, through every restart, and only a later replica comes back.
fn a_tombstone_outlives_its_log(f: &mut dyn Fixture) {
    let state = GroupWrite {
        hard_state: Some(HardState { term: 9, vote: 3, commit: 8 }),
        ..append(1, 1, &[1; 40])
    };
    f.log().write(&[create(1), create(2)]).unwrap();
    f.log().write(&[state, append(2, 1, &[1; 40])]).unwrap();
    f.log().write(&[truncate(1, 5, 1)]).unwrap();
    f.log().write(&[tombstone(1)]).unwrap();
    for _ in 0..2 {
        let log = loaded(f.log(), 1);
        assert_eq!(log.record, tombstone(1).record.unwrap());
        assert_eq!((log.last_index, log.truncated, log.damage), (0, LogPosition::default(), None));
        assert_eq!((log.hard_state, log.memberships), (HardState::default(), vec![]));
        assert_eq!(loaded(f.log(), 2).last_index, 40);
        assert!(read(f.log(), 1, 6, 7).is_err());
        f.reopen();
    }
    // A replica may begin and end within one write, also in a group that never was here.
    for group in [1, 3] {
        let mut brief = tombstone(group);
        brief.record.as_mut().unwrap().replica = ReplicaId(98);
        f.log().write(std::slice::from_ref(&brief)).unwrap();
        f.reopen();
        assert_eq!(Some(loaded(f.log(), group).record), brief.record);
    }
    let mut next = record(1);
    next.replica = ReplicaId(99);
    let begin = GroupWrite { record: Some(next.clone()), ..append(1, 1, &[11, 12]) };
    f.log().write(&[begin]).unwrap();
    for round in 0..60 {
        // Old files are purged and copied meanwhile, where there are files.
        f.log().write(&[append(2, 41 + round, &[2])]).unwrap();
        f.log().write(&[append(1, 3 + round, &[13])]).unwrap();
        if round % 20 == 0 {
            f.log().write(&[truncate(2, 20 + round, if 20 + round > 40 { 2 } else { 1 })]).unwrap();
            f.reopen();
        }
    }
    f.reopen();
    let log = loaded(f.log(), 1);
    assert_eq!((log.record, log.last_index, log.damage), (next, 62, None));
    assert_eq!(log.terms, [(1, 11), (2, 12), (3, 13)]);
    assert_eq!(read(f.log(), 1, 1, 3).unwrap(), entries(1, &[11, 12], 20));
    assert_eq!(loaded(f.log(), 2).last_index, 100);
}

/// What comes behind a snapshot's place is all that is left, through every restart, and that an
/// install began is known until it is over.
fn an_install_replaces_the_log(f: &mut dyn Fixture) {
    let install = |step| GroupWrite { install: Some(step), ..append(1, 0, &[]) };
    let begin =
        |index, term, id| install(Install::Begin(LogPosition { index, term }, SnapshotId(id)));
    f.log().write(&[GroupWrite { append: entries(1, &[1; 6], 900), ..create(1) }]).unwrap();
    f.log().write(&[create(2)]).unwrap();
    // Beyond the end, and in the middle of entries that a snapshot contradicts.
    for (position, id) in [((20, 3), 7), ((21, 4), 8)] {
        let (index, term) = position;
        let members = GroupWrite { hard_state: None, ..begin(index, term, id) };
        f.log().write(&[members, append(2, id - 6, &[9])]).unwrap();
        for _ in 0..2 {
            let held = loaded(f.log(), 1);
            assert_eq!(held.truncated, LogPosition { index, term });
            assert_eq!((held.last_index, held.installing), (index, Some(SnapshotId(id))));
            assert_eq!((held.terms, held.damage), (vec![], None));
            assert!(matches!(
                read(f.log(), 1, index, index + 1),
                Err(LogError::Compacted { truncated, .. }) if truncated == index
            ));
            assert_eq!(f.log().group_bytes(GroupId(1)), 0);
            f.reopen();
        }
        f.log().write(&[append(1, index + 1, &[term, term, term])]).unwrap();
        f.reopen();
        assert_eq!(read(f.log(), 1, index + 1, index + 4).unwrap().len(), 3);
        assert_eq!(loaded(f.log(), 1).installing, Some(SnapshotId(id)));
    }
    f.log().write(&[install(Install::Done)]).unwrap();
    for _ in 0..2 {
        let held = loaded(f.log(), 1);
        assert_eq!((held.installing, held.last_index), (None, 24));
        assert_eq!(held.truncated, LogPosition { index: 21, term: 4 });
        f.reopen();
    }
    let error = f.log().write(&[begin(21, 4, 9)]).unwrap_err();
    assert!(error.reason.contains("an install up to 21"), "{error}");
}

fn readers_see_no_hole_while_the_log_is_cut(f: &mut dyn Fixture) {
    f.log().write(&[create(1)]).unwrap();
    f.log().write(&[append(1, 1, &[1; 40])]).unwrap();
    let log = f.log();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0u64;
            while reads < 50 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                let state = loaded(log, 1);
                match read(log, 1, state.truncated.index + 1, state.last_index + 1) {
                    Ok(found) => {
                        assert!(found.windows(2).all(|w| w[0].index + 1 == w[1].index));
                    }
                    Err(LogError::Damaged { reason, .. }) => {
                        assert!(reason.contains("beyond the last index"), "{reason}");
                    }
                    Err(LogError::Compacted { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                reads += 1;
            }
        });
        for round in 1..150 {
            log.write(&[append(1, round + 20, &[round + 1; 20])]).unwrap();
            log.write(&[append(1, round + 20, &[round + 1; 5])]).unwrap();
            log.write(&[truncate(1, round, 1)]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
}

fn check(open: &dyn Fn() -> Box<dyn Fixture>) {
    let tests = [
        an_append_is_read_back_with_record_and_hard_state,
        an_append_removes_the_longer_suffix,
        truncation_keeps_the_term_of_the_removed_position,
        truncation_comes_after_the_append_of_the_same_write,
        a_suffix_that_was_overwritten_stays_away,
        entries_stop_at_the_byte_limit_but_give_one,
        a_lost_entry_is_damage_and_spares_other_groups,
        one_write_holds_many_groups,
        a_record_follows_the_members,
        a_tombstone_outlives_its_log,
        an_install_replaces_the_log,
        nothing_of_a_refused_write_stays_and_none_is_taken_after_it,
        readers_see_no_hole_while_the_log_is_cut,
    ];
    for test in tests {
        test(open().as_mut());
    }
    refusals(open().as_mut(), open);
}

struct Memory(Arc<MemoryLog>);

impl Fixture for Memory {
    fn log(&self) -> &dyn LogStore {
        &*self.0
    }
    fn reopen(&mut self) {}
    fn lose_entry(&mut self, group: GroupId, index: u64) {
        self.0.lose_entry(group, index);
    }
}

struct Rocks {
    log: Option<Arc<RocksLog>>,
    dir: tempfile::TempDir,
}

impl Rocks {
    fn open(dir: &tempfile::TempDir) -> Option<Arc<RocksLog>> {
        // The contract does not depend on the sync, and the suite runs faster without.
        let options = RocksLogOptions { sync: false, ..RocksLogOptions::default() };
        Some(RocksLog::open(dir.path(), options).unwrap())
    }
}

impl Fixture for Rocks {
    fn log(&self) -> &dyn LogStore {
        &**self.log.as_ref().unwrap()
    }
    fn reopen(&mut self) {
        self.log = None;
        self.log = Rocks::open(&self.dir);
    }
    fn lose_entry(&mut self, group: GroupId, index: u64) {
        self.log.as_ref().unwrap().lose_entry(group, index);
    }
}

/// With files so small that they are purged all the time.
struct RaftEngine {
    log: Option<Arc<RaftEngineLog>>,
    dir: tempfile::TempDir,
}

impl RaftEngine {
    fn open(dir: &tempfile::TempDir) -> Option<Arc<RaftEngineLog>> {
        let options = RaftEngineLogOptions { sync: false, file_bytes: 4 << 10 };
        Some(RaftEngineLog::open(dir.path(), options).unwrap())
    }
}

impl Fixture for RaftEngine {
    fn log(&self) -> &dyn LogStore {
        &**self.log.as_ref().unwrap()
    }
    fn reopen(&mut self) {
        self.log = None;
        self.log = RaftEngine::open(&self.dir);
    }
    fn lose_entry(&mut self, group: GroupId, index: u64) {
        self.log.as_ref().unwrap().lose_entry(group, index);
    }
}

#[test]
fn the_memory_log_keeps_the_contract() {
    check(&|| Box::new(Memory(MemoryLog::new())));
}

#[test]
fn the_rocks_log_keeps_the_contract() {
    check(&|| {
        let dir = tempfile::tempdir().unwrap();
        Box::new(Rocks { log: Rocks::open(&dir), dir })
    });
}

#[test]
fn the_raft_engine_log_keeps_the_contract() {
    check(&|| {
        let dir = tempfile::tempdir().unwrap();
        Box::new(RaftEngine { log: RaftEngine::open(&dir), dir })
    });
}

#[test]
fn a_failed_write_of_the_memory_log_is_the_last_one() {
    let log = MemoryLog::new();
    log.write(&[create(1)]).unwrap();
    log.fail_next_write("no space left");
    assert!(log.write(&[append(1, 1, &[1])]).unwrap_err().reason.contains("no space left"));
    assert!(log.write(&[append(1, 1, &[1])]).unwrap_err().reason.contains("refused after"));
    assert_eq!(loaded(&*log, 1).last_index, 0);
}
