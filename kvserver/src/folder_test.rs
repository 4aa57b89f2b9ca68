//! Every folder that must be refused is refused by name and left as it was.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn refused(path: &Path, storage: Option<Storage>) -> String {
    Folder::open(path, storage, None).unwrap_err().to_string()
}

fn member() -> Member {
    Member { cluster: ClusterId(7).to_string(), store: StoreId(3) }
}

/// What opening log and data leaves.
fn fill(folder: &Folder) {
    for dir in [folder.log_dir(), folder.data_dir()] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "").unwrap();
    }
}

/// Bug 16: a store that has lost its log, or its data, does not come back under its id.
#[test]
fn a_store_that_was_wiped_in_part_does_not_come_back() {
    type Wipe = fn(&Folder);
    let wipes: [(Wipe, &str); 4] = [
        (|folder| fs::remove_dir_all(folder.log_dir()).unwrap(), "'log'"),
        (|folder| fs::remove_file(folder.log_dir().join("file")).unwrap(), "'log'"),
        (|folder| fs::remove_dir_all(folder.data_dir()).unwrap(), "'data'"),
        (|folder| fs::remove_file(folder.data_dir().join("file")).unwrap(), "'data'"),
    ];
    for (wipe, word) in wipes {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(dir.path(), None, None).unwrap();
        fill(&folder);
        folder.set_member(member()).unwrap();
        wipe(&folder);
        drop(folder);
        let error = refused(dir.path(), None);
        assert!(error.contains("store 3") && error.contains(word), "{error}");
    }
}

#[test]
fn a_new_folder_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er");
    let mut folder = Folder::open(&path, Some(Storage::Memory), None).unwrap();
    assert_eq!(folder.identity().member, None);
    assert!(!Folder::is_registered(&path) && !Folder::is_registered(dir.path()));
    let nonce = folder.identity().nonce.clone();
    folder.set_member(member()).unwrap();
    fill(&folder);
    folder.peers_file().write(&BTreeMap::from([(StoreId(1), "h:1".to_owned())])).unwrap();
    assert!(Folder::is_registered(&path));
    drop(folder);
    let folder = Folder::open(&path, None, None).unwrap();
    assert_eq!(folder.identity().member, Some(member()));
    assert_eq!(folder.identity().nonce, nonce);
    assert_eq!(folder.identity().storage, Storage::Memory);
    assert_eq!(folder.peers()[&StoreId(1)], "h:1");
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path(), None, None).unwrap();
    assert!(refused(dir.path(), None).contains("in use by another process"));
    drop(folder);
    Folder::open(dir.path(), None, None).unwrap();
}

#[test]
fn another_storage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Folder::open(dir.path(), None, None).unwrap());
    let error = refused(dir.path(), Some(Storage::Memory));
    assert!(error.contains("storage rocksdb, not memory"), "{error}");
}

#[test]
fn a_folder_keeps_its_log_engine() {
    let dir = tempfile::tempdir().unwrap();
    let open = |asked| Folder::open(dir.path(), None, asked);
    assert_eq!(open(None).unwrap().identity().log_engine, LogEngine::RaftEngine);
    let error = open(Some(LogEngine::Rocksdb)).unwrap_err().to_string();
    assert!(error.contains("engine raft-engine, not rocksdb"), "{error}");
    // As written before there was a choice.
    let path = dir.path().join(IDENTITY);
    let text = fs::read_to_string(&path).unwrap();
    let old = text.replace("log_engine = \"raft-engine\"\n", "");
    assert_ne!(old, text);
    fs::write(&path, old).unwrap();
    assert_eq!(open(None).unwrap().identity().log_engine, LogEngine::Rocksdb);
    let error = open(Some(LogEngine::RaftEngine)).unwrap_err().to_string();
    assert!(error.contains("engine rocksdb, not raft-engine"), "{error}");
}

#[test]
fn a_file_a_foreign_folder_and_a_closed_folder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refused(&file, None).contains("not a directory"));
    let error = refused(dir.path(), None);
    assert!(error.contains("not empty") && error.contains("'file'"), "{error}");
    assert!(!dir.path().join(LOCK).exists(), "a foreign folder stays as it was");

    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere: then there is nothing to refuse.
    if let Err(error) = Folder::open(&closed, None, None) {
        assert!(error.to_string().contains("permissions"), "{error}");
    }
}

#[test]
fn a_newer_format_and_damage_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    drop(Folder::open(dir.path(), None, None).unwrap());
    fs::write(dir.path().join(IDENTITY), "format = 9\nwhat = 'ever'\n").unwrap();
    let error = refused(dir.path(), None);
    assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");
    fs::write(dir.path().join(IDENTITY), "format = 1\n").unwrap();
    let error = refused(dir.path(), None);
    assert!(error.contains("'identity' is damaged"), "{error}");
}
