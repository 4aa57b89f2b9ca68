//! What the limit on the log is compared with while old files are deleted, and while they are not.

use super::damage_test::{busy, folder, open_small};
use super::*;
use crate::log::contract_test::{append, create};

#[test]
fn files_count_as_live_while_nobody_deletes_them() {
    let dir = folder();
    let log = open_small(dir.path());
    log.write(&[create(2)]).unwrap();
    log.write(&[append(2, 1, &[1, 1, 1])]).unwrap();
    busy(&log, 1..200);
    assert!(log.purger.works());
    assert!(log.live_bytes() < 20_000, "{}", log.live_bytes());
    // A quarantined group keeps every file.
    log.lose_entry(GroupId(2), 1);
    drop(log);
    let log = open_small(dir.path());
    assert!(log.load().unwrap()[1].damage.is_some());
    let before = log.live_bytes();
    busy(&log, 200..400);
    assert!(!log.purger.works());
    let grown = log.live_bytes() - before;
    assert!((150_000..300_000).contains(&grown), "{grown} after {before}");
}
