//! Real files, damaged in every way that a disk, a power cut or a failing write does.

use super::batch::{HEADER_BYTES, batch_at};
use super::*;
use crate::log::contract_test::{
    append, create, ending, ends_and_begins_again, entries, later_record, once_free, tombstone,
};
use crate::types::{HardState, LogPosition};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder in memory where there is one: the damage is made by hand, syncs only cost time.
pub(super) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open(dir: &Path) -> Result<Arc<RaftEngineLog>, LogError> {
    once_free(|| RaftEngineLog::open(dir, RaftEngineLogOptions::default()))
}

fn refusal(dir: &Path) -> String {
    match open(dir) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error.to_string(),
    }
}

pub(super) fn copy(from: &Path) -> TempDir {
    let to = folder();
    fs::create_dir(to.path().join("files")).unwrap();
    for part in ["", "files"] {
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.path().join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    to
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join("files").join(format!("{number:016}.raftlog"))
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut data = fs::read(path).unwrap();
    change(&mut data);
    fs::write(path, data).unwrap();
}

/// Where the batches of a file are.
fn batches(path: &Path, number: u64) -> Vec<Range<usize>> {
    let data = fs::read(path).unwrap();
    let mut at = HEADER_BYTES;
    let mut found = Vec::new();
    while let Some(batch) = batch_at(&data, at, number) {
        found.push(at..batch.end);
        at = batch.end;
    }
    found
}

/// A closed log of two groups in one file.
struct Written {
    dir: TempDir,
    /// What the log held after each write.
    steps: Vec<Vec<GroupLog>>,
    batches: Vec<Range<usize>>,
}

fn written(writes: &[Vec<GroupWrite>]) -> Written {
    let dir = folder();
    let log = open(dir.path()).unwrap();
    let mut steps = Vec::new();
    for write in writes {
        log.write(write).unwrap();
        steps.push(log.load().unwrap());
    }
    drop(log);
    let batches = batches(&file(dir.path(), 1), 1);
    assert_eq!(batches.len(), writes.len());
    Written { dir, steps, batches }
}

fn small() -> Written {
    let hard_state = Some(HardState { term: 1, vote: 11, commit: 1 });
    written(&[
        vec![create(1), create(2)],
        vec![append(1, 1, &[1, 1]), append(2, 1, &[1])],
        vec![append(1, 3, &[1])],
        vec![GroupWrite { hard_state, ..append(1, 4, &[1]) }, append(2, 2, &[1])],
    ])
}

impl Written {
    fn damaged(&self, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
        let dir = copy(self.dir.path());
        edit(&file(dir.path(), 1), change);
        dir
    }

    /// Opens the damaged copy, which must hold what it held after `n` writes, and go on.
    fn recovers(&self, n: usize, change: impl FnOnce(&mut Vec<u8>), what: &str) {
        let dir = self.damaged(change);
        let log = open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(log.load().unwrap(), self.steps[n - 1], "{what}");
        let next = self.steps[n - 1][0].last_index + 1;
        log.write(&[append(1, next, &[9])]).unwrap();
        drop(log);
        let log = open(dir.path()).unwrap();
        assert_eq!(log.load().unwrap()[0].last_index, next, "{what}");
    }
}

#[test]
fn a_last_record_cut_or_damaged_at_any_byte_is_removed() {
    let log = small();
    for at in log.batches[3].clone() {
        log.recovers(3, |data| data.truncate(at), &format!("cut at {at}"));
        log.recovers(3, |data| data[at] ^= 1 << (at % 8), &format!("flip at {at}"));
    }
}

#[test]
fn what_follows_the_last_record_is_removed() {
    let log = small();
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for bytes in [1, 7, 16, 100, 4096, 100_000] {
        log.recovers(4, |data| data.resize(data.len() + bytes, 0), &format!("{bytes} zeroes"));
        let garbage: Vec<u8> = (0..bytes).map(|_| noise()).collect();
        log.recovers(4, |data| data.extend(garbage), &format!("{bytes} bytes of garbage"));
    }
    // A former life of the file: whole records that carry another file's number.
    let former = copy(log.dir.path());
    let data = fs::read(file(former.path(), 1)).unwrap();
    assert!(
        batch_at(&data, HEADER_BYTES, 1).is_some() && batch_at(&data, HEADER_BYTES, 2).is_none()
    );
    let mut other = data[HEADER_BYTES..].to_vec();
    for batch in &log.batches {
        let crc = batch.end - HEADER_BYTES - 4;
        other[crc] ^= 1 ^ 2;
    }
    log.recovers(4, |data| data.extend(other), "a former life");
}

#[test]
fn a_large_last_record_whose_pages_arrived_in_part_is_removed() {
    let mut large = append(1, 1, &[1]);
    large.append = entries(1, &[1, 1], 60_000);
    let log = written(&[vec![create(1)], vec![large]]);
    for page in [4096, 32_768, 98_304] {
        assert!(log.batches[1].contains(&page));
        let lost = |data: &mut Vec<u8>| data[page..page + 4096].fill(0);
        log.recovers(1, lost, &format!("page at {page}"));
    }
}

/// Bad entries are told to their groups, by the items behind them; all else stops the store.
#[test]
fn damage_in_the_middle_is_never_silent() {
    let log = small();
    let middle = log.batches[1].clone();
    let entries_bytes = 3 * (25 + 20) + 4;
    let in_entries = middle.start + 16..middle.start + 16 + entries_bytes;
    for at in middle.clone() {
        let dir = log.damaged(|data| data[at] ^= 1 << (at % 8));
        let before = fs::read(file(dir.path(), 1)).unwrap();
        if in_entries.contains(&at) {
            let found = open(dir.path()).unwrap().load().unwrap();
            for group in found {
                let damage = group.damage.unwrap_or_else(|| panic!("flip at {at} is not seen"));
                assert!(damage.contains("entry 1: its checksum"), "flip at {at}: {damage}");
            }
        } else {
            let error = refusal(dir.path());
            assert!(error.contains("is damaged at byte"), "flip at {at}: {error}");
            assert!(error.contains("a valid record follows at byte"), "flip at {at}: {error}");
            assert_eq!(fs::read(file(dir.path(), 1)).unwrap(), before, "flip at {at}");
        }
    }
    let dir = log.damaged(|data| data[middle].fill(0));
    assert!(refusal(dir.path()).contains("a valid record follows"));
}

#[test]
fn a_quarantined_group_stays_out_and_the_others_go_on() {
    let log = small();
    // The third write holds an entry of group 1 only.
    let at = log.batches[2].start + 30;
    let dir = log.damaged(|data| data[at] ^= 1);
    for start in 0..3 {
        let opened = open(dir.path()).unwrap();
        let found = opened.load().unwrap();
        assert_eq!(found[0].damage.as_deref(), Some("entry 3: its checksum does not match"));
        assert_eq!((found[1].damage.as_ref(), found[1].last_index), (None, 2 + start));
        opened.write(&[append(2, 3 + start, &[1])]).unwrap();
        let error = opened.entries(GroupId(1), 1, 2, 100, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, LogError::Damaged { group: GroupId(1), .. }), "{error}");
        let error = opened.write(&[append(1, 5, &[1])]).unwrap_err();
        assert!(error.reason.contains("quarantined"), "{error}");
    }
}

#[test]
fn a_quarantined_group_ends_by_a_tombstone_and_begins_again() {
    let log = small();
    let at = log.batches[2].start + 30;
    let dir = log.damaged(|data| data[at] ^= 1);
    ends_and_begins_again(|| open(dir.path()).unwrap());
}

#[test]
fn members_and_a_tombstone_that_come_last_are_there_or_not() {
    for last in [2, 3] {
        let log = written(&ending()[..=last]);
        for at in log.batches[last].clone() {
            log.recovers(last, |data| data.truncate(at), &format!("cut at {at}"));
            log.recovers(last, |data| data[at] ^= 1 << (at % 8), &format!("flip at {at}"));
        }
    }
}

/// Only entries that the tombstone takes away anyway may be bad.
#[test]
fn members_and_a_tombstone_in_the_middle_are_never_lost_silently() {
    let log = written(&ending());
    let entry = log.batches[2].start + 16..log.batches[2].start + 16 + 25 + 20 + 4;
    let whole = log.steps.last().unwrap();
    for at in log.batches[2].start..log.batches[3].end {
        let dir = log.damaged(|data| data[at] ^= 1 << (at % 8));
        if entry.contains(&at) {
            assert_eq!(&open(dir.path()).unwrap().load().unwrap(), whole, "flip at {at}");
        } else {
            let error = refusal(dir.path());
            assert!(error.contains("0001.raftlog is damaged at byte"), "flip at {at}: {error}");
            assert!(error.contains("a valid record follows"), "flip at {at}: {error}");
        }
    }
}

/// Its checksums in the file fit, its own does not: whose log it is cannot be told.
#[test]
fn a_bad_record_stops_the_store_and_is_named() {
    for end in [tombstone(1), GroupWrite { record: Some(later_record(1)), ..append(1, 1, &[1]) }] {
        let dir = folder();
        let log = open(dir.path()).unwrap();
        log.write(&[create(1), create(2)]).unwrap();
        log.write(std::slice::from_ref(&end)).unwrap();
        let good = codec::encode_record(end.record.as_ref().unwrap());
        drop(log);
        for at in [0, 4, 12, 20, good.len() - 1] {
            let dir = copy(dir.path());
            let log = open(dir.path()).unwrap();
            let mut bad = good.clone();
            bad[at] ^= 1;
            log.spoil_record(GroupId(1), &bad);
            drop(log);
            let error = refusal(dir.path());
            let named = error.contains("group 1") && error.contains("its record is bad");
            assert!(named, "flip at {at}: {error}");
        }
    }
}

/// Group 1 writes and truncates all the time, group 2 never again.
pub(super) fn busy(log: &RaftEngineLog, rounds: Range<u64>) {
    for index in rounds {
        let truncate = (index > 10).then(|| LogPosition { index: index - 10, term: 1 });
        // Sizes of all kinds: some files are cut to their length when the next one begins, others
        // are just full then.
        let append = entries(index, &[1], 700 + index as usize % 16 * 16);
        log.write(&[GroupWrite { append, truncate, ..create(1) }]).unwrap();
    }
}

const SMALL_FILES: RaftEngineLogOptions = RaftEngineLogOptions { sync: true, file_bytes: 8 << 10 };

pub(super) fn open_small(dir: &Path) -> Arc<RaftEngineLog> {
    once_free(|| RaftEngineLog::open(dir, SMALL_FILES)).unwrap()
}

fn many_files() -> (TempDir, Vec<GroupLog>) {
    let dir = folder();
    let log = open_small(dir.path());
    log.write(&[create(2)]).unwrap();
    log.write(&[append(2, 1, &[1, 1, 1])]).unwrap();
    busy(&log, 1..32);
    let found = log.load().unwrap();
    drop(log);
    (dir, found)
}

#[test]
fn a_lost_file_is_refused() {
    let (dir, found) = many_files();
    let span = Span::read(&dir.path().join("files")).unwrap();
    assert!(span.append.last > span.append.first + 1, "{span:?}");
    assert_eq!(open_small(copy(dir.path()).path()).load().unwrap(), found);
    for number in span.append.first..=span.append.last {
        let dir = copy(dir.path());
        fs::remove_file(file(dir.path(), number)).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains(&format!("{number:016}.raftlog is missing")), "{error}");
    }
    let lost = copy(dir.path());
    fs::remove_file(lost.path().join("files/SPAN")).unwrap();
    assert!(refusal(lost.path()).contains("SPAN"));
    let lost = copy(dir.path());
    edit(&lost.path().join("files/SPAN"), |data| data[8] ^= 1);
    assert!(refusal(lost.path()).contains("SPAN is damaged"));
    let lost = copy(dir.path());
    fs::remove_dir_all(lost.path().join("files")).unwrap();
    assert!(refusal(lost.path()).contains("SPAN"));
    assert!(!lost.path().join("files").exists(), "no empty log took its place");
}

#[test]
fn only_the_last_file_may_be_torn() {
    let (dir, found) = many_files();
    let span = Span::read(&dir.path().join("files")).unwrap();
    let torn = copy(dir.path());
    edit(&file(torn.path(), span.append.last - 1), |data| data.truncate(data.len() - 1));
    let error = refusal(torn.path());
    assert!(error.contains("it is not the last file"), "{error}");
    // A file whose creation was cut short holds nothing: it goes.
    for header in [&b""[..], b"RAFT-LOG", &[0; 100]] {
        let torn = copy(dir.path());
        fs::write(file(torn.path(), span.append.last + 1), header).unwrap();
        assert_eq!(open_small(torn.path()).load().unwrap(), found);
        let torn = copy(dir.path());
        let mut newer = span;
        let path = file(torn.path(), span.append.last + 1);
        fs::write(&path, header).unwrap();
        newer.created(&path, &torn.path().join("files")).unwrap();
        assert_eq!(open_small(torn.path()).load().unwrap(), found);
    }
    let torn = copy(dir.path());
    edit(&file(torn.path(), span.append.last), |data| data[3] ^= 1);
    assert!(refusal(torn.path()).contains("its header"));
}

/// An earlier version moved the first number behind the last one, and named new files then.
#[test]
fn a_span_that_forgot_its_first_files_is_repaired_where_they_are() {
    let (dir, found) = many_files();
    let span = Span::read(&dir.path().join("files")).unwrap();
    let last = span.append.last;
    for first in [last, last + 1, last + 2] {
        let spoilt = copy(dir.path());
        let files = spoilt.path().join("files");
        let mut wrong = span;
        wrong.append.first = first;
        wrong.write(&files).unwrap();
        let lost = copy(spoilt.path());
        assert_eq!(open_small(spoilt.path()).load().unwrap(), found, "first {first}");
        assert!(Span::read(&files).unwrap().append.first <= span.append.first);
        fs::remove_file(file(lost.path(), last)).unwrap();
        let error = refusal(lost.path());
        assert!(error.contains(&format!("{last:016}.raftlog is missing")), "{error}");
    }
}

#[test]
fn old_files_are_deleted_and_what_they_held_stays() {
    let dir = folder();
    let log = open_small(dir.path());
    log.write(&[create(2), create(3)]).unwrap();
    log.write(&[append(2, 1, &[1, 1, 1]), append(3, 1, &[1, 1, 1, 1])]).unwrap();
    busy(&log, 1..200);
    // What was copied is truncated, overwritten and truncated, and copied again.
    let cut = |group, index| GroupWrite {
        truncate: Some(LogPosition { index, term: 1 }),
        group: GroupId(group),
        ..GroupWrite::default()
    };
    log.write(&[cut(2, 2)]).unwrap();
    log.write(&[append(3, 2, &[1])]).unwrap();
    log.write(&[cut(3, 2)]).unwrap();
    busy(&log, 200..400);
    let found = log.load().unwrap();
    drop(log);
    for _ in 0..2 {
        let log = open_small(dir.path());
        assert_eq!(log.load().unwrap(), found);
        let mut out = Vec::new();
        log.entries(GroupId(2), 3, 4, 1000, &mut out).unwrap();
        assert_eq!(out, entries(3, &[1], 20));
    }
    assert_eq!((found[2].truncated.index, found[2].last_index), (2, 2));
    let log = open_small(dir.path());
    log.write(&[append(3, 3, &[2])]).unwrap();
    drop(log);
    assert_eq!(open_small(dir.path()).load().unwrap()[2].last_index, 3);
    let span = Span::read(&dir.path().join("files")).unwrap();
    assert!(span.append.first > 20, "nothing was deleted: {span:?}");
    assert!(span.append.last < span.append.first + 12, "{span:?}");
}

#[test]
fn the_first_failed_write_or_sync_is_the_last_change() {
    for what in ["write to", "sync"] {
        let dir = folder();
        let log = open(dir.path()).unwrap();
        log.write(&[create(1)]).unwrap();
        log.write(&[append(1, 1, &[1, 1])]).unwrap();
        log.files.watch(Box::new(move |after, change, _| {
            assert!(!after || change != what, "{change} after a failure");
            if change == what { Err(std::io::Error::other("broken disk")) } else { Ok(()) }
        }));
        let error = log.write(&[append(1, 3, &[1])]).unwrap_err();
        let expected = format!("cannot {what} ");
        assert!(error.reason.starts_with(&expected), "{error}");
        assert!(error.reason.contains("raftlog: broken disk"), "{error}");
        log.files.watch(Box::new(|_, change, _| panic!("{change} after a failure")));
        let error = log.write(&[append(1, 3, &[1])]).unwrap_err();
        assert!(error.reason.contains("refused after an earlier failure"), "{error}");
        assert_eq!(log.load().unwrap()[0].last_index, 2);
        drop(log);
        let found = open(dir.path()).unwrap().load().unwrap();
        assert!((2..=3).contains(&found[0].last_index), "{found:?}");
        assert_eq!(found[0].damage, None);
    }
}

/// Group 1's last index after a start; everything else is as it was, and every file is noted.
fn recovered(image: &Path) -> u64 {
    let found = open_small(image).load().unwrap();
    assert!(found.iter().all(|log| log.damage.is_none()), "{found:?}");
    let group = |id| found.iter().find(|log| log.group == GroupId(id));
    assert_eq!(group(2).unwrap().last_index, 3);
    let span = Span::read(&image.join("files")).unwrap();
    assert!(span.append.first <= span.append.last, "{span:?}");
    assert!(!file(image, span.append.last + 1).exists(), "a file is not noted: {span:?}");
    group(1).map_or(0, |log| log.last_index)
}

#[test]
fn a_file_that_could_not_be_noted_is_removed() {
    let dir = folder();
    let log = open_small(dir.path());
    log.write(&[create(2)]).unwrap();
    log.write(&[append(2, 1, &[1, 1, 1])]).unwrap();
    log.files.watch(Box::new(|_, what, _| {
        if what == "note in SPAN" { Err(std::io::Error::other("broken disk")) } else { Ok(()) }
    }));
    let write = |index| GroupWrite { append: entries(index, &[1], 900), ..create(1) };
    let failed = (1..20).find(|index| log.write(&[write(*index)]).is_err()).unwrap();
    drop(log);
    for start in 0..3 {
        assert_eq!(recovered(dir.path()), failed - 1 + start);
        open_small(dir.path()).write(&[write(failed + start)]).unwrap();
    }
}

/// What a kill or a power cut leaves after any change of a file: the folder as it is, and, before
/// the sync, without the last record or with half of it.
#[test]
fn a_cut_after_any_change_loses_nothing_acknowledged() {
    let dir = folder();
    let log = open_small(dir.path());
    log.write(&[create(2)]).unwrap();
    log.write(&[append(2, 1, &[1, 1, 1])]).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let images = Arc::new(Mutex::new(Vec::new()));
    let (own, taken, from) = (acknowledged.clone(), images.clone(), dir.path().to_owned());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let kinds = seen.clone();
    log.files.watch(Box::new(move |after, what, path| {
        if after {
            let extension = path.extension().unwrap_or_default().display().to_string();
            let unsynced = (what == "write to" && extension == "raftlog").then(|| path.to_owned());
            kinds.lock().insert(format!("{what} {extension}"));
            taken.lock().push((copy(&from), own.load(Ordering::SeqCst), unsynced));
        }
        Ok(())
    }));
    for index in 1..120 {
        busy(&log, index..index + 1);
        acknowledged.store(index, Ordering::SeqCst);
    }
    drop(log);
    let images = std::mem::take(&mut *images.lock());
    let check = |image: &Path, acknowledged: u64| {
        let last = recovered(image);
        assert!((acknowledged..=acknowledged + 1).contains(&last), "{last}, not {acknowledged}");
        // A start may spoil what only the next one meets, or what is written in between.
        busy(&open_small(image), last + 1..last + 12);
        assert_eq!(recovered(image), last + 11);
    };
    assert!(images.len() > 200, "{}", images.len());
    let seen = seen.lock();
    for kind in [
        "create raftlog",
        "note in SPAN raftlog",
        "strike from SPAN raftlog",
        "delete raftlog",
        "truncate raftlog",
        "write to rewrite",
    ] {
        assert!(seen.contains(kind), "{kind} never happened: {seen:?}");
    }
    let mut torn = 0;
    for (image, acknowledged, unsynced) in &images {
        if let Some(path) = unsynced {
            let name = path.file_name().unwrap();
            let number = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            for part in 1..=2 {
                let image = copy(image.path());
                let path = image.path().join("files").join(name);
                if let Some(last) = batches(&path, number).pop() {
                    let from = last.end - last.len() / part;
                    edit(&path, |data| data[from..last.end].fill(0));
                    torn += 1;
                }
                check(image.path(), *acknowledged);
            }
        }
        check(image.path(), *acknowledged);
    }
    assert!(torn > 100, "{torn}");
}
