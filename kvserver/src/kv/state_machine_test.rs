//! Golden behaviour of the state machine, on each engine.

use super::*;
use crate::kv::Epoch;
use crate::kv::answer::{Answer, Refusal};
use crate::kv::command::Command;
use crate::kv::engine::{self, RocksEngine, open_rocks};
use crate::kv::reader::{Range, ReadError, Reader};
use flotilla_client::pb;
use flotilla_raftstore::{
    ApplyEntry, GroupDesc, LogPosition, ReplicaDesc, ReplicaId, ReplicaRole, StoreId,
};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

const EPOCH: Epoch = Epoch { version: 4, members: 2 };

fn region(number: u64, start: &'static [u8], end: &'static [u8]) -> RegionMeta {
    RegionMeta {
        region: number,
        group: GroupId(number),
        start: Bytes::from_static(start),
        end: Bytes::from_static(end),
        epoch: EPOCH,
        replicas: vec![ReplicaDesc {
            replica: ReplicaId(number * 10),
            store: StoreId(1),
            role: ReplicaRole::Voter,
        }],
    }
}

fn open_rocks_direct(dir: &Path) -> Arc<KvStateMachine> {
    KvStateMachine::new(Arc::new(RocksEngine::open(&dir.join("rocks")).unwrap())).unwrap()
}

/// Over RocksDB, with a checkpoint after a few writes.
fn open_table(dir: &Path) -> Arc<KvStateMachine> {
    KvStateMachine::new(open_rocks(&dir.join("table"), 2_000).unwrap()).unwrap()
}

fn open_memory(dir: &Path) -> Arc<KvStateMachine> {
    KvStateMachine::new(engine::open_memory(&dir.join("memory"), 1 << 20).unwrap()).unwrap()
}

/// Two regions on each engine: 1 = up to "m", 2 = from there.
fn each(test: impl Fn(Arc<KvStateMachine>)) {
    let dir = tempfile::tempdir().unwrap();
    for open in [open_rocks_direct, open_table, open_memory] {
        let machine = open(dir.path());
        machine.create_region(&region(1, b"", b"m")).unwrap();
        machine.create_region(&region(2, b"m", b"")).unwrap();
        test(machine);
    }
}

/// A put, or a delete when the value is absent.
type Write<'a> = (&'a str, Option<&'a str>);

fn command_of(region: u64, epoch: Epoch, writes: &[Write<'_>]) -> Bytes {
    let writes = writes
        .iter()
        .map(|(key, value)| pb::Write {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        })
        .collect();
    let batch = Bytes::from(pb::WriteBatch { writes }.encode_to_vec());
    Command { region, epoch, batch }.encode()
}

fn command(region: u64, writes: &[Write<'_>]) -> Bytes {
    command_of(region, EPOCH, writes)
}

fn task(group: u64, index: u64, commands: Vec<Bytes>) -> GroupApply {
    let position = LogPosition { index, term: 3 };
    let entries = vec![ApplyEntry { position, commands, members: None }];
    let commit = LogPosition { index: index + 5, term: 3 };
    GroupApply { answer: true, ..GroupApply::new(GroupId(group), entries, commit) }
}

fn apply(machine: &KvStateMachine, group: u64, index: u64, commands: Vec<Bytes>) -> Vec<Answer> {
    let mut batch = [task(group, index, commands)];
    machine.apply(&mut batch).unwrap();
    batch[0].answers.iter().map(|answer| Answer::decode(answer).unwrap()).collect()
}

/// (revision of the region, the key's value and revision)
fn get(machine: &Arc<KvStateMachine>, region: u64, key: &str) -> (u64, Option<(String, u64)>) {
    let reader = Reader::new(machine.clone());
    let gets = reader.gets(region, EPOCH, &[Bytes::copy_from_slice(key.as_bytes())]).unwrap();
    let record = gets.records[0].clone();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    (gets.revision, record.map(|record| (text(&record.value), record.revision)))
}

#[test]
fn every_write_counts_one_revision() {
    each(|machine| {
        let answers = apply(
            &machine,
            1,
            1,
            vec![
                command(1, &[("a", Some("1")), ("b", Some("2")), ("a", Some("3"))]),
                command(1, &[("absent", None)]),
                command(1, &[]),
                command(1, &[("b", None), ("c", Some(""))]),
            ],
        );
        assert_eq!(answers, [3, 4, 4, 6].map(Answer::Written));
        assert_eq!(get(&machine, 1, "a"), (6, Some(("3".into(), 3))));
        assert_eq!(get(&machine, 1, "b"), (6, None));
        assert_eq!(get(&machine, 1, "c"), (6, Some((String::new(), 6))));
        assert_eq!(machine.revision(GroupId(1)), Some(6));
        assert_eq!(machine.revision(GroupId(2)), Some(0), "each region has its own");
    });
}

#[test]
fn a_refused_command_writes_nothing_and_counts_nothing() {
    each(|machine| {
        let other_epoch = Epoch { version: 5, ..EPOCH };
        let put = [("a", Some("1"))];
        let mut torn = command(1, &[("a", Some("1")), ("b", Some("2"))]).to_vec();
        torn.pop();
        let answers = apply(
            &machine,
            1,
            1,
            vec![
                command(1, &put),
                command_of(1, other_epoch, &[("a", Some("2"))]),
                command(2, &[("a", Some("2"))]),
                command(1, &[("a", Some("2")), ("m", Some("out"))]),
                command(1, &[("", Some("empty key"))]),
                Bytes::from(torn),
                Bytes::new(),
                Bytes::from_static(b"\x63rubbish"),
                command(1, &[("b", Some("2"))]),
            ],
        );
        let refused = Answer::Refused;
        assert_eq!(answers[0], Answer::Written(1));
        assert_eq!(answers[1..3], [refused(Refusal::EpochNotMatch); 2]);
        assert_eq!(answers[3..5], [1, 0].map(|n| refused(Refusal::OutOfRange(n))));
        for answer in &answers[5..8] {
            assert!(matches!(answer, Answer::Refused(Refusal::Malformed(_))), "{answer:?}");
        }
        assert_eq!(answers[8], Answer::Written(2));
        assert_eq!(get(&machine, 1, "a"), (2, Some(("1".into(), 1))));
        assert_eq!(get(&machine, 1, "b"), (2, Some(("2".into(), 2))));
    });
}

#[test]
fn applied_index_and_commit_come_back_with_the_data() {
    let dir = tempfile::tempdir().unwrap();
    for open in [open_rocks_direct, open_table, open_memory] {
        let machine = open(dir.path());
        assert_eq!(machine.recovered(GroupId(1)), AppliedState::default());
        machine.create_region(&region(1, b"", b"m")).unwrap();
        machine.create_region(&region(2, b"m", b"")).unwrap();
        let mut batch = [task(1, 1, vec![command(1, &[("a", Some("1"))])]), task(2, 1, vec![])];
        batch[1].answer = false;
        machine.apply(&mut batch).unwrap();
        apply(&machine, 1, 2, vec![command(1, &[("a", Some("2"))])]);
        machine.sync().unwrap();
        let hashes = [1, 2].map(|group| machine.content_hash(GroupId(group)).unwrap());
        assert_eq!((hashes[0].0, hashes[1].0), (2, 1));
        drop(machine);

        let machine = open(dir.path());
        assert_eq!(machine.regions(), vec![region(1, b"", b"m"), region(2, b"m", b"")]);
        let commit = |index| LogPosition { index, term: 3 };
        let recovered = [1, 2].map(|group| machine.recovered(GroupId(group)));
        assert_eq!(recovered[0], AppliedState { applied: 2, commit: commit(7) });
        assert_eq!(recovered[1], AppliedState { applied: 1, commit: commit(6) });
        assert_eq!(get(&machine, 1, "a"), (2, Some(("2".into(), 2))));
        assert_eq!([1, 2].map(|group| machine.content_hash(GroupId(group)).unwrap()), hashes);
        // It goes on where it was.
        let next = apply(&machine, 1, 3, vec![command(1, &[("a", None)])]);
        assert_eq!(next, [Answer::Written(3)]);
    }
}

#[test]
fn a_memory_store_killed_after_a_dump_replays_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (1..=20)
        .map(|n: u64| command(1, &[("key", Some(&n.to_string())), (&format!("k{n}"), None)]))
        .collect();
    let machine = open_memory(dir.path());
    machine.create_region(&region(1, b"", b"")).unwrap();
    for (n, entry) in (1..).zip(&entries) {
        apply(&machine, 1, n, vec![entry.clone()]);
        if n == 12 {
            machine.sync().unwrap();
        }
    }
    let before = machine.content_hash(GroupId(1)).unwrap();
    drop(machine);

    let machine = open_memory(dir.path());
    let from = machine.recovered(GroupId(1)).applied;
    assert_eq!(from, 12);
    for (n, entry) in (1..).zip(&entries).skip(from as usize) {
        apply(&machine, 1, n, vec![entry.clone()]);
    }
    assert_eq!(machine.content_hash(GroupId(1)).unwrap(), before);
}

#[test]
fn entries_out_of_order_are_fatal() {
    each(|machine| {
        apply(&machine, 1, 1, vec![]);
        for index in [1, 3] {
            let error = machine.apply(&mut [task(1, index, vec![])]).unwrap_err();
            assert!(error.to_string().contains("group 1"), "{error}");
        }
        let mut ahead = task(1, 2, vec![]);
        ahead.commit.index = 1;
        assert!(machine.apply(&mut [ahead]).is_err(), "applied beyond the commit");
    });
}

/// Its replica stops, and no other.
#[test]
fn a_group_without_a_region_fails_alone() {
    each(|machine| {
        let mut batch = [task(9, 1, vec![]), task(1, 1, vec![])];
        machine.apply(&mut batch).unwrap();
        assert_eq!(batch.each_ref().map(|task| task.applied().map(|at| at.index)), [None, Some(1)]);
        assert_eq!(machine.recovered(GroupId(9)).applied, 0);
    });
}

#[test]
fn creation_is_idempotent_and_regions_never_overlap() {
    each(|machine| {
        apply(&machine, 1, 1, vec![command(1, &[("a", Some("1"))])]);
        machine.create_region(&region(1, b"", b"m")).unwrap();
        assert_eq!(machine.revision(GroupId(1)), Some(1), "nothing was reset");
        assert!(machine.create_region(&region(3, b"k", b"l")).is_err());
        assert!(machine.create_region(&region(3, b"", b"")).is_err());
        assert!(machine.create_regions(&[region(4, b"m", b"p"), region(5, b"o", b"q")]).is_err());
        assert_eq!(machine.regions().len(), 2, "all of them or none");
        assert!(machine.create_region(&RegionMeta { region: 3, ..region(1, b"", b"m") }).is_err());
        assert_eq!(machine.regions().len(), 2);
    });
}

/// A replica was removed: nothing of its region stays, also on disk, and the others do.
#[test]
fn a_destroyed_region_leaves_nothing_and_may_begin_anew() {
    for open in [open_rocks_direct, open_table, open_memory] {
        let dir = tempfile::tempdir().unwrap();
        let machine = open(dir.path());
        machine.create_region(&region(1, b"", b"m")).unwrap();
        machine.create_region(&region(2, b"m", b"")).unwrap();
        for index in 1..=60 {
            let (key, other) = (format!("a{index}"), format!("z{index}"));
            apply(&machine, 1, index, vec![command(1, &[(&key, Some("mine")), ("b", None)])]);
            apply(&machine, 2, index, vec![command(2, &[(&other, Some("theirs"))])]);
        }
        machine.sync().unwrap();
        apply(&machine, 1, 61, vec![command(1, &[("b", Some("not yet durable"))])]);
        let left = machine.content_hash(GroupId(2)).unwrap();
        machine.destroy(GroupId(1)).unwrap();
        machine.destroy(GroupId(1)).unwrap();
        drop(machine);

        let machine = open(dir.path());
        let regions: Vec<u64> = machine.regions().iter().map(|meta| meta.region).collect();
        assert_eq!(regions, [2]);
        assert_eq!(machine.recovered(GroupId(1)), AppliedState::default());
        assert_eq!(machine.content_hash(GroupId(2)).unwrap(), left);
        machine.create_region(&region(1, b"", b"m")).unwrap();
        for key in ["a1", "a60", "b"] {
            assert_eq!(get(&machine, 1, key), (0, None));
        }
        let answers = apply(&machine, 1, 1, vec![command(1, &[("a1", Some("new"))])]);
        assert_eq!(answers, [Answer::Written(1)]);
    }
}

#[test]
fn equal_input_gives_equal_content_on_all_engines() {
    let dir = tempfile::tempdir().unwrap();
    let machines = [open_rocks_direct, open_table, open_memory].map(|open| open(dir.path()));
    machines.iter().for_each(|machine| machine.create_region(&region(1, b"", b"")).unwrap());
    let mut rng = SmallRng::seed_from_u64(4);
    let mut hashes = Vec::new();
    for index in 1..=300 {
        let commands: Vec<_> = (0..rng.random_range(0..5))
            .map(|_| {
                let keys: Vec<_> = (0..rng.random_range(0..20))
                    .map(|_| (rng.random_range(0..400).to_string(), rng.random_range(0..9)))
                    .collect();
                let writes: Vec<Write<'_>> = keys
                    .iter()
                    .map(|(key, digit)| (&key[..], (*digit > 2).then_some(&"vvvvvvvvv"[*digit..])))
                    .collect();
                let epoch = if rng.random_bool(0.9) { EPOCH } else { Epoch::default() };
                command_of(1, epoch, &writes)
            })
            .collect();
        let answers = machines.each_ref().map(|m| apply(m, 1, index, commands.clone()));
        assert!(answers.iter().all(|each| *each == answers[0]));
        if index % 50 == 0 {
            let each = machines.each_ref().map(|m| m.content_hash(GroupId(1)).unwrap());
            assert!(each.iter().all(|hash| *hash == each[0]));
            hashes.push(each[0]);
        }
    }
    hashes.dedup_by_key(|hash| hash.1);
    assert_eq!(hashes.len(), 6, "other content, other hash");
}

#[test]
fn reads_check_epoch_and_range_in_their_view() {
    each(|machine| {
        apply(&machine, 1, 1, vec![command(1, &[("a", Some("1")), ("l", Some("2"))])]);
        apply(&machine, 2, 1, vec![command(2, &[("m", Some("3"))])]);
        let reader = Reader::new(machine.clone());
        let key = |key: &'static str| Bytes::from_static(key.as_bytes());
        let stale = Epoch { version: 3, ..EPOCH };
        let refused = |refusal| Err(ReadError::Refused(refusal));
        assert_eq!(reader.gets(1, stale, &[key("a")]), refused(Refusal::EpochNotMatch));
        let outside = reader.gets(1, EPOCH, &[key("a"), key("m")]);
        assert_eq!(outside, refused(Refusal::OutOfRange(1)));
        assert_eq!(reader.gets(9, EPOCH, &[]), Err(ReadError::NoRegion));

        let scan = |range: Range| {
            let page = reader.scan(1, EPOCH, &range).unwrap();
            let keys: Vec<_> = page.records.into_iter().map(|(key, _)| key).collect();
            (page.revision, keys, page.more)
        };
        let all = Range { end: key("z"), ..Range::default() };
        assert_eq!(scan(Range::default()), (2, vec![key("a"), key("l")], false));
        assert_eq!(scan(all), (2, vec![key("a"), key("l")], false), "not the other region's");
        let one = Range { start: key("a"), limit: 1, ..Range::default() };
        assert_eq!(scan(one), (2, vec![key("a")], true));
        let beyond = Range { start: key("x"), ..Range::default() };
        assert_eq!(scan(beyond), (2, vec![], false));
        assert!(reader.scan(1, stale, &Range::default()).is_err());
    });
}

#[test]
fn a_region_follows_its_members() {
    let dir = tempfile::tempdir().unwrap();
    let voter = |replica| ReplicaDesc {
        replica: ReplicaId(replica),
        store: StoreId(replica),
        role: ReplicaRole::Voter,
    };
    let mut desc = GroupDesc::new(GroupId(1), vec![voter(11), voter(12)]);
    desc.membership.version = 7;
    for open in [open_rocks_direct, open_table, open_memory] {
        let machine = open(dir.path());
        machine.create_region(&region(1, b"", b"m")).unwrap();
        let mut batch = [task(1, 1, vec![command(1, &[("a", Some("1"))])])];
        let position = LogPosition { index: 2, term: 3 };
        let members = Some(Arc::new(desc.clone()));
        batch[0].entries.push(ApplyEntry { position, commands: Vec::new(), members });
        machine.apply(&mut batch).unwrap();
        machine.sync().unwrap();
        let followed = |machine: &Arc<KvStateMachine>| {
            let meta = machine.region(1).unwrap();
            assert_eq!(meta.epoch, Epoch { members: 8, ..EPOCH });
            assert_eq!(meta.replicas, desc.replicas);
            // Whoever knows the range only may go on.
            assert_eq!(get(machine, 1, "a"), (1, Some(("1".into(), 1))));
        };
        followed(&machine);
        drop(machine);
        let machine = open(dir.path());
        followed(&machine);
        let answers = apply(&machine, 1, 3, vec![command(1, &[("a", Some("2"))])]);
        assert_eq!(answers, [Answer::Written(2)]);
    }
}

#[test]
fn long_gets_are_answered_in_part() {
    each(|machine| {
        let value = "v".repeat(1 << 20);
        let keys: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
        for (index, key) in (1..).zip(&keys) {
            apply(&machine, 1, index, vec![command(1, &[(key, Some(&value))])]);
        }
        let keys: Vec<Bytes> = keys.into_iter().map(Bytes::from).collect();
        let reader = Reader::new(machine.clone());
        assert_eq!(reader.gets(1, EPOCH, &keys).unwrap().records.len(), 3);
        let page = reader.scan(1, EPOCH, &Range::default()).unwrap();
        assert!(page.more && page.records.len() == 3);
    });
}

fn snapshot_of(machine: &KvStateMachine, group: GroupId) -> (u64, Vec<u8>) {
    let mut bytes = Vec::new();
    let index = machine.snapshot_save(group, &mut bytes).unwrap().unwrap();
    (index, bytes)
}

/// A snapshot of each engine replaces what another one has, which may be another state of the region or
/// nothing; and wherever an attempt is cut off, the process with it, the next one gets there.
#[test]
fn a_snapshot_replaces_a_region_on_every_engine_and_after_every_cut() {
    each(|source| {
        for index in 1..=40 {
            let (key, value) = (format!("k{}", index % 23), "v".repeat(index));
            let writes = [(key.as_str(), Some(value.as_str())), ("gone", None)];
            apply(&source, 1, index as u64, vec![command(1, &writes)]);
        }
        source.sync().unwrap();
        let (index, bytes) = snapshot_of(&source, GroupId(1));
        assert_eq!(index, 40);
        // Taken from one moment: what is applied later is not in it.
        apply(&source, 1, 41, vec![command(1, &[("later", Some("1"))])]);
        let position = LogPosition { index, term: 3 };
        let mut expected = None;
        for open in [open_rocks_direct, open_table, open_memory] {
            for cut in [None, Some(0), Some(20), Some(400), Some(900), Some(bytes.len() - 1)] {
                let dir = tempfile::tempdir().unwrap();
                let machine = open(dir.path());
                if cut.is_none_or(|cut| cut % 40 == 0) {
                    machine.create_region(&region(1, b"", b"m")).unwrap();
                    apply(
                        &machine,
                        1,
                        1,
                        vec![command(1, &[("before", Some("1")), ("gone", Some("2"))])],
                    );
                    machine.sync().unwrap();
                }
                machine.create_region(&region(2, b"m", b"")).unwrap();
                apply(&machine, 2, 1, vec![command(2, &[("other", Some("1"))])]);
                machine.sync().unwrap();
                if let Some(cut) = cut {
                    let loaded = machine.snapshot_load(GroupId(1), position, &mut &bytes[..cut]);
                    assert!(loaded.is_err(), "cut at {cut}");
                    machine.sync().unwrap();
                    assert!(machine.recovered(GroupId(1)).applied < index);
                    let begun = cut >= 400;
                    let taken = machine.create_region(&region(3, b"a", b"b")).is_err();
                    assert_eq!(taken, begun || cut % 40 == 0, "cut at {cut}: its place is taken");
                    machine.destroy(GroupId(3)).unwrap();
                    if begun {
                        // Placement orders what it misses: the region is on its way.
                        assert_eq!(machine.regions().len(), 2);
                        machine.create_region(&region(1, b"", b"m")).unwrap();
                        assert_eq!(machine.region(1), None);
                    }
                }
                drop(machine);
                let machine = open(dir.path());
                assert!(machine.recovered(GroupId(1)).applied < index);
                machine.snapshot_load(GroupId(1), position, &mut &bytes[..]).unwrap();
                let state = AppliedState { applied: index, commit: position };
                drop(machine);
                let machine = open(dir.path());
                assert_eq!(machine.recovered(GroupId(1)), state, "durable");
                assert_eq!(get(&machine, 1, "before").1, None);
                assert_eq!(get(&machine, 1, "later").1, None);
                assert_eq!(get(&machine, 2, "other").1, Some(("1".to_owned(), 1)));
                let content = machine.content_hash(GroupId(1)).unwrap();
                assert_eq!(*expected.get_or_insert(content), content);
                assert_eq!(snapshot_of(&machine, GroupId(1)).0, index, "and it goes on from here");
                apply(&machine, 1, 41, vec![command(1, &[("later", Some("1"))])]);
            }
        }
    });
}

/// A replica may be removed in the middle of it: nothing of what was loaded stays behind.
#[test]
fn a_load_that_was_cut_off_leaves_nothing_when_its_group_ends() {
    each(|source| {
        apply(&source, 1, 1, vec![command(1, &[("a", Some("1")), ("b", Some("2"))])]);
        source.sync().unwrap();
        let (index, bytes) = snapshot_of(&source, GroupId(1));
        let position = LogPosition { index, term: 3 };
        for open in [open_rocks_direct, open_table, open_memory] {
            for reopened in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let mut machine = open(dir.path());
                let cut = &bytes[..bytes.len() - 1];
                assert!(machine.snapshot_load(GroupId(1), position, &mut &cut[..]).is_err());
                if reopened {
                    machine.sync().unwrap();
                    drop(machine);
                    machine = open(dir.path());
                }
                machine.destroy(GroupId(1)).unwrap();
                machine.create_region(&region(1, b"", b"m")).unwrap();
                assert_eq!(get(&machine, 1, "a").1, None);
                assert_eq!(get(&machine, 1, "b").1, None);
            }
        }
    });
}

#[test]
fn a_snapshot_of_a_region_in_anothers_place_is_refused() {
    each(|machine| {
        apply(&machine, 1, 1, vec![command(1, &[("a", Some("1"))])]);
        machine.sync().unwrap();
        let (index, bytes) = snapshot_of(&machine, GroupId(1));
        let dir = tempfile::tempdir().unwrap();
        let other = open_memory(dir.path());
        other.create_region(&region(3, b"", b"b")).unwrap();
        let position = LogPosition { index, term: 3 };
        let error = other.snapshot_load(GroupId(1), position, &mut &bytes[..]).unwrap_err();
        assert!(error.to_string().contains("region 3 of group 3 is in its place"), "{error}");
        assert!(other.snapshot_load(GroupId(9), position, &mut &bytes[..]).is_err());
        assert_eq!(other.snapshot_save(GroupId(9), &mut Vec::new()).unwrap(), None);
        // A newer form.
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert!(machine.snapshot_load(GroupId(1), position, &mut &newer[..]).is_err());
    });
}
