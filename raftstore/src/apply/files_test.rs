use super::*;
use crate::apply::ApplyEntry;
use bytes::Bytes;
use std::collections::BTreeMap;

const GROUP: GroupId = GroupId(7);

/// The commands of each group, one behind the other; refuses "bad" in the middle of an entry.
#[derive(Default)]
struct Texts(Mutex<BTreeMap<GroupId, (u64, String)>>);

impl Texts {
    fn of(&self, group: GroupId) -> String {
        self.0.lock().get(&group).map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

impl StateMachine for Texts {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut groups = self.0.lock();
        for apply in batch {
            let (applied, text) = groups.entry(apply.group).or_default();
            apply.each(|_, command| {
                if command == "bad" {
                    return Err("bad".to_owned());
                }
                text.push_str(&String::from_utf8_lossy(command));
                Ok(Bytes::new())
            });
            *applied = apply.applied().map_or(*applied, |position| position.index);
        }
        Ok(())
    }

    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        let Some((applied, text)) = self.0.lock().get(&group).cloned() else { return Ok(None) };
        out.write_all(text.as_bytes()).map_err(|e| Fatal::new("save", e))?;
        Ok(Some(applied))
    }

    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let mut text = String::new();
        from.read_to_string(&mut text).map_err(|e| Fatal::new("load", e))?;
        self.0.lock().insert(group, (position.index, text));
        Ok(())
    }
}

fn open(dir: &Path) -> Arc<StateFiles<Texts>> {
    StateFiles::open(dir, Texts::default()).unwrap()
}

fn apply(files: &StateFiles<Texts>, group: GroupId, index: u64, commands: &[&'static str]) {
    let position = LogPosition { index, term: 2 };
    let commands = commands.iter().map(|command| Bytes::from_static(command.as_bytes())).collect();
    let entries = vec![ApplyEntry { position, commands, members: None }];
    let commit = LogPosition { index: index + 1, term: 2 };
    files.apply(&mut [GroupApply::new(group, entries, commit)]).unwrap();
}

fn state(files: &StateFiles<Texts>, group: GroupId) -> (u64, u64, String) {
    let AppliedState { applied, commit } = files.recovered(group);
    (applied, commit.index, files.machine().of(group))
}

#[test]
fn a_start_finds_what_the_last_sync_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path());
    apply(&files, GROUP, 1, &["a", "b"]);
    apply(&files, GroupId(8), 1, &["x"]);
    files.sync().unwrap();
    apply(&files, GROUP, 2, &["c"]);
    assert_eq!(state(&files, GROUP), (2, 3, "abc".to_owned()));
    let files = open(dir.path());
    assert_eq!(state(&files, GROUP), (1, 2, "ab".to_owned()));
    assert_eq!(state(&files, GroupId(8)), (1, 2, "x".to_owned()));
    assert_eq!(files.recovered(GroupId(9)), AppliedState::default());
}

#[test]
fn a_snapshot_is_durable_and_a_destroyed_group_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path());
    apply(&files, GROUP, 1, &["old"]);
    let position = LogPosition { index: 9, term: 3 };
    files.snapshot_load(GROUP, position, &mut &b"new"[..]).unwrap();
    let files = open(dir.path());
    assert_eq!(state(&files, GROUP), (9, 9, "new".to_owned()));
    files.destroy(GROUP).unwrap();
    files.destroy(GROUP).unwrap();
    files.sync().unwrap();
    assert_eq!(open(dir.path()).recovered(GROUP), AppliedState::default());
}

/// What it did of the entry at which it failed is never saved: the next start meets the whole entry.
#[test]
fn a_group_that_failed_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path());
    apply(&files, GROUP, 1, &["a"]);
    files.sync().unwrap();
    apply(&files, GROUP, 2, &["half", "bad"]);
    files.sync().unwrap();
    assert_eq!(files.recovered(GROUP).applied, 1);
    assert_eq!(state(&open(dir.path()), GROUP), (1, 2, "a".to_owned()));
}

#[test]
fn a_damaged_file_is_put_aside_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path());
    apply(&files, GROUP, 1, &["a"]);
    files.sync().unwrap();
    let path = files.path(GROUP);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(open(dir.path()).recovered(GROUP), AppliedState::default(), "bit {bit}");
        assert!(path.with_extension("damaged").exists() && !path.exists());
    }
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(open(dir.path()).recovered(GROUP), AppliedState::default(), "cut at {end}");
    }
    let mut newer = whole[..whole.len() - CRC_BYTES].to_vec();
    newer[0] = FORMAT + 1;
    newer.put_u32_le(crc32c::crc32c(&newer));
    fs::write(&path, &newer).unwrap();
    let refused = StateFiles::open(dir.path(), Texts::default()).err().expect("it is newer");
    assert!(refused.to_string().contains("format 2"), "{refused}");
}

/// A state machine that saves something older would make the log be cut too far.
#[test]
fn a_save_that_is_not_of_now_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path());
    apply(&files, GROUP, 1, &["a"]);
    files.machine().0.lock().get_mut(&GROUP).unwrap().0 = 0;
    let refused = files.sync().unwrap_err().to_string();
    assert!(refused.contains("applied is entry 1"), "{refused}");
}
