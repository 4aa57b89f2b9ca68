//! Tests of the replicated map and its dump.

use super::*;
use flotilla_raftstore::ApplyEntry;
use flotilla_raftstore::StoreId;

const GROUP: GroupId = GroupId(9);

fn entry(index: u64, nonce: &str) -> GroupApply {
    let command = Command::AddStore { nonce: nonce.into(), address: "h:1".into() };
    let position = LogPosition { index, term: 2 };
    let commands = vec![encode_command(&command)];
    let entries = vec![ApplyEntry { position, commands, members: None }];
    GroupApply { answer: true, ..GroupApply::new(GROUP, entries, position) }
}

fn apply(machine: &MapMachine, index: u64, nonce: &str) -> Answer {
    let mut batch = [entry(index, nonce)];
    machine.apply(&mut batch).unwrap();
    assert_eq!(batch[0].answers.len(), 1);
    decode_answer(&batch[0].answers[0]).unwrap()
}

#[test]
fn a_dump_is_found_again_and_what_came_later_is_left_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let machine = MapMachine::open(dir.path(), GROUP).unwrap();
    assert_eq!(machine.recovered(GROUP), AppliedState::default());
    assert_eq!(apply(&machine, 1, "a"), Answer::Store { store: StoreId(1) });
    machine.sync().unwrap();
    apply(&machine, 2, "b");

    let again = MapMachine::open(dir.path(), GROUP).unwrap();
    assert_eq!(again.recovered(GROUP).applied, 1);
    assert_eq!(again.recovered(GROUP).commit, LogPosition { index: 1, term: 2 });
    assert_eq!(again.read(|map| map.stores.len()), 1);
    assert_eq!(apply(&again, 2, "b"), Answer::Store { store: StoreId(2) }, "replayed the same");
    assert_eq!(again.read(ClusterMap::clone), machine.read(ClusterMap::clone));
}

#[test]
fn a_gap_in_the_log_and_a_foreign_command_are_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let machine = MapMachine::open(dir.path(), GROUP).unwrap();
    assert!(machine.apply(&mut [entry(2, "a")]).unwrap_err().reason.contains("index 2 after 0"));
    let mut foreign = entry(1, "a");
    foreign.entries[0].commands[0] = Bytes::from_static(b"{\"command\":\"fly\"}");
    assert!(machine.apply(&mut [foreign]).unwrap_err().reason.contains("fly"));
    assert_eq!(machine.recovered(GROUP).applied, 0);
}

#[test]
fn a_damaged_or_newer_dump_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let machine = MapMachine::open(dir.path(), GROUP).unwrap();
    apply(&machine, 1, "a");
    machine.sync().unwrap();
    let file = dir.path().join(FILE);
    let good = fs::read(&file).unwrap();
    let refused = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        let error = MapMachine::open(dir.path(), GROUP).err().expect("refused");
        assert_eq!(fs::read(&file).unwrap(), content);
        error
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x04;
        refused(&bad);
        refused(&good[..at]);
    }
    let newer = String::from_utf8(good.clone()).unwrap().replacen("state 1 ", "state 2 ", 1);
    assert!(refused(newer.as_bytes()).to_string().contains("format 2"));
}

#[test]
fn a_dump_that_cannot_be_written_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let machine = MapMachine::open(dir.path(), GROUP).unwrap();
    machine.sync().unwrap();
    apply(&machine, 1, "a");
    fs::create_dir(dir.path().join("STATE.tmp")).unwrap();
    assert!(machine.sync().unwrap_err().what.contains("STATE"));
}
