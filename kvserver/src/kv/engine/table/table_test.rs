//! What a table must keep over a base that fails and forgets as disks do.

use super::*;
use crate::kv::engine::{MemoryBase, Page, Pair};
use crate::kv::keys;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// One group's records: (column, key) → value.
type Content = BTreeMap<(Column, Vec<u8>), Vec<u8>>;

/// How a checkpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// The process dies before anything is written.
    Before,
    /// Groups are durable one by one; it dies between two of them.
    Between,
    /// Everything is durable, but nobody is told.
    After,
}

/// A disk: survives its engine.
#[derive(Default)]
struct Disk {
    content: DiskContent,
    mishap: Mutex<Option<Mishap>>,
    checkpoint_takes: Mutex<Duration>,
    /// The last checkpoint was to leave out what need not be done.
    hurried: AtomicBool,
    failed: AtomicBool,
}

enum DiskContent {
    /// The plainest correct base.
    Maps(Arc<Maps>),
    /// The dumps of a [`MemoryBase`].
    Dumps(tempfile::TempDir),
}

impl Default for DiskContent {
    fn default() -> Self {
        DiskContent::Maps(Arc::default())
    }
}

impl Disk {
    fn of_dumps() -> Disk {
        Disk { content: DiskContent::Dumps(tempfile::tempdir().unwrap()), ..Disk::default() }
    }

    /// What a process finds after the last one.
    fn base(&self) -> Box<dyn Base> {
        match &self.content {
            DiskContent::Maps(maps) => Box::new(Arc::clone(maps)),
            DiskContent::Dumps(dir) => Box::new(MemoryBase::open(dir.path()).unwrap()),
        }
    }
}

/// The base of a disk whose checkpoints can fail.
struct DiskBase {
    disk: Arc<Disk>,
    base: Box<dyn Base>,
}

impl Base for DiskBase {
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], pace: &Pace<'_>) -> Result<(), Fatal> {
        assert!(!self.disk.failed.load(Ordering::Relaxed), "asked again after a failure");
        std::thread::sleep(*self.disk.checkpoint_takes.lock());
        pace.step();
        self.disk.hurried.store(pace.hurries(), Ordering::Relaxed);
        let mishap = self.disk.mishap.lock().take();
        let durable = match mishap {
            Some(Mishap::Before) => 0,
            Some(Mishap::Between) => groups.len() / 2,
            Some(Mishap::After) | None => groups.len(),
        };
        self.base.checkpoint(&groups[..durable], pace)?;
        if mishap.is_some() {
            if let (DiskContent::Dumps(dir), Some(next)) = (&self.disk.content, groups.get(durable))
            {
                let beside = dir.path().join(format!("group-{}.tmp", next.group));
                std::fs::write(beside, b"half a du").unwrap();
            }
            self.disk.failed.store(true, Ordering::Relaxed);
            return Err(Fatal::new("checkpoint", "the disk is gone"));
        }
        Ok(())
    }

    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.base.get(group, column, key)
    }

    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        self.base.scan(group, column, start, end, take)
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        self.base.pin(group)
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        self.base.groups()
    }
}

#[derive(Default)]
struct Maps(RwLock<BTreeMap<GroupId, Content>>);

impl Base for Arc<Maps> {
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], _pace: &Pace<'_>) -> Result<(), Fatal> {
        for GroupCheckpoint { group, data, system } in groups {
            let mut held = self.0.write();
            let content = held.entry(*group).or_default();
            for (column, records) in [(Column::Data, data), (Column::System, system)] {
                for (key, value) in records.sorted(&Pace::full()) {
                    match value {
                        Some(value) => content.insert((column, key.to_vec()), value.to_vec()),
                        None => content.remove(&(column, key.to_vec())),
                    };
                }
            }
        }
        Ok(())
    }

    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let groups = self.0.read();
        let value = groups.get(&group).and_then(|content| content.get(&(column, key.to_vec())));
        Ok(value.map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        for (key, value) in in_range(self.0.read().get(&group), column, start, end) {
            if !take(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        Ok(Box::new(Frozen(self.0.read().get(&group).cloned().unwrap_or_default())))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let groups = self.0.read();
        let system =
            |content: &Content| content.keys().any(|(column, _)| *column == Column::System);
        Ok(groups.iter().filter(|(_, content)| system(content)).map(|(id, _)| *id).collect())
    }
}

struct Frozen(Content);

impl View for Frozen {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.0.get(&(column, key.to_vec())).map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        let mut page = Page::new(limit, bytes_max);
        let mut records = in_range(Some(&self.0), column, start, end).into_iter();
        let more = !records.all(|(key, value)| page.push(&key, &value));
        Ok((page.pairs, more))
    }
}

/// What is pinned stays, whatever is written and made durable behind it, and holds no write up.
#[test]
fn a_pinned_group_is_of_the_last_checkpoint_and_stays() {
    for disk in [Disk::default(), Disk::of_dumps()] {
        let engine = open(&Arc::new(disk), 1 << 20);
        let group = GroupId(3);
        let put_both = |value: &[u8]| {
            let state = change(Column::System, &keys::state(group), Some(value));
            write(&engine, group, vec![put(b"key", value), state]).unwrap();
        };
        let seen = |view: &dyn View| {
            let value = view.get(Column::Data, b"key").unwrap().unwrap();
            assert_eq!(view.get(Column::System, &keys::state(group)).unwrap(), Some(value.clone()));
            assert_eq!(view.scan(Column::Data, b"", b"", 9, 99).unwrap().0[0].1, value);
            value
        };
        // It was in no checkpoint: it gets one.
        put_both(b"one");
        assert_eq!(seen(&*engine.pin(group).unwrap()), "one");
        put_both(b"two");
        let pinned = engine.pin(group).unwrap();
        engine.sync().unwrap();
        put_both(b"three");
        assert_eq!(seen(&*pinned), "one");
        assert_eq!(seen(&*engine.pin(group).unwrap()), "two");
    }
}

/// The memory of a checkpoint's records, and nothing else of them, is there for the next.
#[test]
fn a_checkpoint_leaves_its_memory_and_no_record() {
    let engine = open(&Arc::default(), 8 << 20);
    let group = GroupId(3);
    let mut content = BTreeMap::new();
    for round in 0..5_u32 {
        let keys = (0..2_000_u32).filter(|n| n % 5 != round);
        let value = |n: u32| (n % 3 != round % 3).then(|| (n + round).to_be_bytes());
        content.extend(keys.clone().map(|n| (n, value(n))));
        let changes =
            keys.map(|n| change(Column::Data, &n.to_be_bytes(), value(n).as_ref().map(|v| &v[..])));
        write(&engine, group, changes.collect()).unwrap();
        for synced in [false, true] {
            if synced {
                engine.sync().unwrap();
            }
            let view = engine.view(group);
            for (n, value) in &content {
                let found = view.get(Column::Data, &n.to_be_bytes()).unwrap();
                assert_eq!(found.as_deref(), value.as_ref().map(|v| &v[..]), "{n} in {round}");
            }
            drop(view);
            let kept = engine.table.stripe(group).read()[&group].spare.is_some();
            assert_eq!(kept, synced || round > 0);
        }
    }
    // Nobody writes to the group any more.
    write(&engine, GroupId(4), vec![put(b"key", b"value")]).unwrap();
    engine.sync().unwrap();
    assert!(!engine.table.stripe(group).read().contains_key(&group));
}

/// A store has very many groups in which nothing happens.
#[test]
fn a_group_without_data_takes_no_memory_after_its_checkpoint() {
    let engine = open(&Arc::default(), 8 << 20);
    let (idle, busy) = (GroupId(3), GroupId(4));
    let state = |value| change(Column::System, b"state", Some(value));
    write(&engine, idle, vec![state(b"one")]).unwrap();
    write(&engine, busy, vec![state(b"one"), put(b"key", b"value")]).unwrap();
    engine.sync().unwrap();
    let held = |group| engine.table.stripe(group).read().contains_key(&group);
    assert_eq!((held(idle), held(busy)), (false, true));
    let seen = engine.view(idle).get(Column::System, b"state").unwrap();
    assert_eq!(seen.as_deref(), Some(&b"one"[..]));
    write(&engine, idle, vec![state(b"two")]).unwrap();
    let seen = engine.view(idle).get(Column::System, b"state").unwrap();
    assert_eq!(seen.as_deref(), Some(&b"two"[..]));
}

fn in_range(content: Option<&Content>, column: Column, start: &[u8], end: &[u8]) -> Vec<Pair> {
    let Some(content) = content else { return Vec::new() };
    let from = content.range((column, start.to_vec())..);
    from.take_while(|((c, key), _)| *c == column && (end.is_empty() || &key[..] < end))
        .map(|((_, key), value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
        .collect()
}

fn open(disk: &Arc<Disk>, bytes_max: usize) -> TableEngine {
    disk.failed.store(false, Ordering::Relaxed);
    let base = DiskBase { disk: Arc::clone(disk), base: disk.base() };
    TableEngine::new(Box::new(base), bytes_max)
}

/// All that a base has of a group.
fn content_of(base: &dyn Base, group: GroupId) -> Content {
    let mut content = Content::new();
    for column in [Column::Data, Column::System] {
        base.scan(group, column, b"", b"", &mut |key, value| {
            content.insert((column, key.to_vec()), value.to_vec());
            true
        })
        .unwrap();
    }
    content
}

fn change(column: Column, key: &[u8], value: Option<&[u8]>) -> Change {
    let copy = Bytes::copy_from_slice;
    Change { column, key: copy(key), value: value.map(copy) }
}

fn put(key: &[u8], value: &[u8]) -> Change {
    change(Column::Data, key, Some(value))
}

fn write(engine: &TableEngine, group: GroupId, changes: Vec<Change>) -> Result<(), Fatal> {
    engine.write(&[GroupChanges { group, changes }])
}

/// Every state of a group since the start, and which of them is surely durable.
#[derive(Default)]
struct Model {
    states: Vec<Content>,
    durable: usize,
}

impl Model {
    fn last(&self) -> Content {
        self.states.last().cloned().unwrap_or_default()
    }
}

const GROUPS: u64 = 3;
const KEYS: u32 = 60;

fn random_changes(rng: &mut SmallRng, group: GroupId, number: usize) -> Vec<Change> {
    let mut changes: Vec<Change> = (0..rng.random_range(0..6))
        .map(|_| {
            let key = (rng.random_range(0..KEYS) * 31).to_string();
            let value = "v".repeat(rng.random_range(0..9)) + &number.to_string();
            let value = rng.random_bool(0.6).then_some(value.as_bytes());
            change(Column::Data, key.as_bytes(), value)
        })
        .collect();
    changes.push(change(Column::System, &keys::state(group), Some(&number.to_be_bytes())));
    changes
}

fn check_reads(rng: &mut SmallRng, engine: &TableEngine, group: GroupId, content: &Content) {
    let view = engine.view(group);
    for _ in 0..4 {
        let key = (rng.random_range(0..KEYS) * 31).to_string().into_bytes();
        let expected = content.get(&(Column::Data, key.clone()));
        assert_eq!(view.get(Column::Data, &key).unwrap().as_deref(), expected.map(|v| &v[..]));
    }
    let bound = |rng: &mut SmallRng| rng.random_range(0..KEYS * 31).to_string().into_bytes();
    let (start, end) = (bound(rng), if rng.random_bool(0.3) { Vec::new() } else { bound(rng) });
    let limit = *[1, 3, 1_000].get(rng.random_range(0..3)).unwrap();
    for column in [Column::Data, Column::System] {
        let start = if column == Column::Data { &start[..] } else { &[] };
        let end = if column == Column::Data { &end[..] } else { &[] };
        let (found, more) = view.scan(column, start, end, limit, usize::MAX).unwrap();
        let expected = in_range(Some(content), column, start, end);
        assert_eq!(more, expected.len() > limit);
        assert!(found.iter().eq(expected.iter().take(limit)), "{found:?} {expected:?}");
    }
}

/// Random writes, reads, checkpoints, failures and crashes against plain maps. After each crash
/// every group is at one of its own moments, and none is before the last `sync`.
#[test]
fn behaves_like_maps_that_crash_to_a_moment_at_or_after_the_last_sync() {
    let (mut waits, mut mishaps, mut later) = (0, BTreeSet::new(), 0);
    // Dumps are synced for real, so fewer of them.
    let runs = (0..60).map(|seed| (seed, false)).chain((0..12).map(|seed| (seed, true)));
    for (seed, dumps) in runs {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let bytes_max = *[150, 2_000, 1 << 20].get(seed as usize % 3).unwrap();
        let disk = Arc::new(if dumps { Disk::of_dumps() } else { Disk::default() });
        let mut engine = open(&disk, bytes_max);
        let mut models: BTreeMap<GroupId, Model> = BTreeMap::new();
        for step in 0..400 {
            let group = GroupId(rng.random_range(1..=GROUPS));
            let mut crash = rng.random_bool(0.02);
            match rng.random_range(0..10) {
                0..5 => {
                    let model = models.entry(group).or_default();
                    let changes = random_changes(rng, group, step);
                    let mut next = model.last();
                    for Change { column, key, value } in &changes {
                        match value {
                            Some(value) => next.insert((*column, key.to_vec()), value.to_vec()),
                            None => next.remove(&(*column, key.to_vec())),
                        };
                    }
                    match write(&engine, group, changes) {
                        Ok(()) => model.states.push(next),
                        Err(_) => crash = true,
                    }
                }
                5 => match engine.sync() {
                    Ok(()) => models.values_mut().for_each(|m| m.durable = m.states.len()),
                    Err(_) => crash = true,
                },
                6 if rng.random_bool(0.1) => {
                    let mishap =
                        [Mishap::Before, Mishap::Between, Mishap::After][rng.random_range(0..3)];
                    *disk.mishap.lock() = Some(mishap);
                    mishaps.insert(format!("{mishap:?}"));
                }
                _ => {}
            }
            let content = models.get(&group).map(Model::last).unwrap_or_default();
            // A fenced engine still shows everything; then it is reopened.
            check_reads(rng, &engine, group, &content);
            if crash {
                if disk.failed.load(Ordering::Relaxed) {
                    assert!(engine.sync().is_err() && write(&engine, group, vec![]).is_err());
                }
                waits += engine.table.metrics.waits.get();
                drop(engine);
                *disk.mishap.lock() = None;
                engine = open(&disk, bytes_max);
                for (group, model) in &mut models {
                    let held = content_of(&*engine.table.base, *group);
                    let at = match model.states.iter().rposition(|state| *state == held) {
                        Some(at) => at + 1,
                        None => {
                            assert!(held.is_empty(), "group {group} is at no moment of its own");
                            0
                        }
                    };
                    assert!(at >= model.durable, "group {group} lost what was synced");
                    later += usize::from(at > model.durable);
                    model.states.truncate(at);
                    model.durable = at;
                }
                let with_state = models.iter().filter(|(_, model)| !model.states.is_empty());
                assert!(with_state.map(|(id, _)| *id).eq(engine.groups().unwrap()));
            }
        }
    }
    assert!(waits > 0 && mishaps.len() == 3 && later > 0, "{waits} {mishaps:?} {later}");
}

#[test]
fn a_sync_that_nobody_waits_for_rests_longer() {
    let disk = Arc::new(Disk::default());
    let work = Duration::from_millis(2);
    *disk.checkpoint_takes.lock() = work;
    let engine = open(&disk, 1 << 20).with_flusher().unwrap();
    let timed = |sync: &dyn Fn() -> Result<(), Fatal>| {
        write(&engine, GroupId(1), vec![put(b"key", b"value")]).unwrap();
        let begin = Instant::now();
        sync().unwrap();
        begin.elapsed()
    };
    let longest = Duration::from_millis(20);
    assert!(timed(&|| engine.sync_at_leisure()) >= work + longest);
    // Five times the work; but the machine may be busy: one of many is enough.
    assert!((0..100).any(|_| timed(&|| engine.sync()) < longest));
}

#[test]
fn a_checkpoint_hurries_when_the_table_is_nearly_full() {
    let disk = Arc::new(Disk::default());
    *disk.checkpoint_takes.lock() = Duration::from_millis(2);
    let engine = open(&disk, 4_000).with_flusher().unwrap();
    for (bytes, hurries) in [(1_000, false), (3_500, true), (1_000, false)] {
        write(&engine, GroupId(1), vec![put(b"key", &vec![0; bytes])]).unwrap();
        engine.sync().unwrap();
        assert_eq!(disk.hurried.load(Ordering::Relaxed), hurries, "{bytes} bytes");
    }
}

#[test]
fn many_writers_never_hold_more_than_allowed_and_lose_nothing() {
    const BYTES_MAX: usize = 20_000;
    let disk = Arc::new(Disk::default());
    *disk.checkpoint_takes.lock() = Duration::from_millis(2);
    let engine = open(&disk, BYTES_MAX).with_flusher().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3)
            .map(|group| {
                let engine = &engine;
                scope.spawn(move || {
                    for n in 0..1_500_u32 {
                        let changes = vec![
                            put(&n.to_be_bytes(), b"some value"),
                            put(b"last", &n.to_be_bytes()),
                        ];
                        write(engine, GroupId(group), changes).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(engine.table.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
                for group in (1..=3).map(GroupId) {
                    let view = engine.view(group);
                    let last = view.get(Column::Data, b"last").unwrap();
                    let last =
                        last.map_or(0, |n| u32::from_be_bytes(n[..].try_into().unwrap()) + 1);
                    let end = u32::MAX.to_be_bytes();
                    let (found, _) = view.scan(Column::Data, b"\0", &end, 9_999, 1 << 20).unwrap();
                    let numbers =
                        found.iter().filter(|(key, _)| key.len() == 4 && &key[..] != b"last");
                    assert_eq!(numbers.count() as u32, last, "of one moment");
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    engine.sync().unwrap();
    assert_eq!(engine.table.bytes.load(Ordering::Relaxed), 0);
    assert!(engine.table.metrics.waits.get() > 0, "the table was never full");
    drop(engine);
    let base = disk.base();
    assert!((1..=3).all(|group| content_of(&*base, GroupId(group)).len() == 1_501));
}

#[test]
fn one_write_larger_than_the_table_is_taken() {
    let disk = Arc::new(Disk::default());
    let engine = open(&disk, 100);
    for _ in 0..3 {
        write(&engine, GroupId(1), vec![put(b"key", &[7; 1_000])]).unwrap();
        write(&engine, GroupId(1), vec![put(b"other", b"small")]).unwrap();
    }
    let view = engine.view(GroupId(1));
    assert_eq!(view.get(Column::Data, b"key").unwrap().unwrap().len(), 1_000);
}

#[test]
fn says_when_a_write_might_wait_for_a_checkpoint() {
    let engine = open(&Arc::default(), 4_000);
    let group = GroupId(1);
    let mut waits = Vec::new();
    for n in 0..100_u64 {
        waits.push(engine.may_wait());
        write(&engine, group, vec![put(&n.to_be_bytes(), &[0; 50])]).unwrap();
        if engine.table.metrics.waits.get() > 0 {
            break;
        }
    }
    assert!(!waits[0] && waits.is_sorted(), "from some fill on: {waits:?}");
    let late = waits.iter().filter(|wait| **wait).count();
    assert!((late * 4).abs_diff(waits.len()) <= 4, "in the last quarter: {waits:?}");
    engine.sync().unwrap();
    assert!(!engine.may_wait());
}

#[test]
fn overwrites_are_absorbed_and_counted() {
    let disk = Arc::new(Disk::default());
    let engine = open(&disk, 10_000);
    for n in 0..5_000_u32 {
        write(&engine, GroupId(1), vec![put(b"key", &n.to_be_bytes())]).unwrap();
    }
    let bytes = engine.table.bytes.load(Ordering::Relaxed);
    assert!(bytes < 100, "{bytes} bytes for one key");
    engine.sync().unwrap();
    engine.sync().unwrap();
    let metrics = &engine.table.metrics;
    assert_eq!((metrics.changes.get(), metrics.records_written.get()), (5_000, 1));
    assert_eq!(metrics.checkpoint_seconds.get_sample_count(), 1, "nothing to do the second time");
}

#[test]
fn the_thread_makes_checkpoints_before_the_table_is_full() {
    let disk = Arc::new(Disk::default());
    let engine = open(&disk, 1 << 20).with_flusher().unwrap();
    let made = || engine.table.metrics.checkpoint_seconds.get_sample_count();
    let mut n = 0_u32;
    while engine.table.bytes.load(Ordering::Relaxed) <= 1 << 19 && made() == 0 {
        write(&engine, GroupId(1), vec![put(&n.to_be_bytes(), b"value")]).unwrap();
        n += 1;
    }
    assert_eq!(engine.table.metrics.waits.get(), 0, "the table is half full only");
    let begin = Instant::now();
    while made() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no write woke the thread");
        std::thread::yield_now();
    }
}
