//! Copies of what old files held, cut while they are copied again.

use super::damage_test::{busy, copy, folder, open_small};
use super::*;
use crate::log::contract_test::{append, create, entries};
use crate::types::LogPosition;

/// How often a part of an atomic group is in the copies: its key-value, as in `batch.rs`.
fn parts(image: &Path, part: u8) -> usize {
    let files = fs::read_dir(image.join("files")).unwrap().map(|entry| entry.unwrap().path());
    let copies = files.filter(|path| path.extension().is_some_and(|found| found == span::REWRITE));
    let marker = [b'_', b'_', 1, 1, part];
    let count = |data: Vec<u8>| data.windows(marker.len()).filter(|found| *found == marker).count();
    copies.map(|path| count(fs::read(path).unwrap())).sum()
}

/// raft-engine copies more than 128 KiB of a group in several batches; without the last one they
/// count for nothing.
#[test]
fn a_cut_while_copies_are_copied_again_leaves_the_old_ones() {
    let dir = folder();
    let log = open_small(dir.path());
    let large = GroupWrite { append: entries(1, &[1; 30], 10_000), ..create(2) };
    log.write(&[create(3), large.clone()]).unwrap();
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, from) = (images.clone(), dir.path().to_owned());
    log.files.watch(Box::new(move |after, what, path| {
        if after && what == "write to" && path.extension().is_some_and(|it| it == span::REWRITE) {
            taken.lock().push(copy(&from));
        }
        Ok(())
    }));
    // Copies of group 3 are made and truncated until most copies are useless.
    for round in 0..4 {
        log.write(&[append(3, round * 30 + 1, &[1; 30])]).unwrap();
        busy(&log, round * 60 + 1..round * 60 + 61);
        log.purger.paused(|| log.engine.purge_expired_files()).unwrap();
        let truncate = Some(LogPosition { index: round * 30 + 30, term: 1 });
        log.write(&[GroupWrite { group: GroupId(3), truncate, ..GroupWrite::default() }]).unwrap();
        log.purger.paused(|| log.engine.purge_expired_files()).unwrap();
    }
    drop(log);
    let images = std::mem::take(&mut *images.lock());
    let (begin, end) = (0, 2);
    let cut = images.iter().filter(|image| parts(image.path(), begin) > parts(image.path(), end));
    assert!(cut.count() > 1, "no atomic group was cut in {} images", images.len());
    assert!(images.iter().any(|image| parts(image.path(), end) > 0), "none was finished");
    for image in images.iter().filter(|image| parts(image.path(), begin) > 0) {
        for _ in 0..2 {
            let log = open_small(image.path());
            let found = log.load().unwrap();
            assert!(found.iter().all(|log| log.damage.is_none()), "{found:?}");
            let mut out = Vec::new();
            log.entries(GroupId(2), 1, 31, usize::MAX, &mut out).unwrap();
            assert_eq!(out, large.append);
        }
    }
}
