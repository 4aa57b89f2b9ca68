//! The data folder: who holds it and whose it is. Used before anything inside is opened.
//!
//! ```text
//! DIR/LOCK           held while a process uses the folder
//! DIR/member         TOML: format, cluster, number of the member
//! DIR/STATE          the last dump of the cluster map
//! DIR/log            the Raft log
//! DIR/describe.json  what the member says of itself, as of the last SIGUSR2
//! ```
//! `member` is the first file written: a folder without it but with other things in it is
//! somebody else's and stays untouched.

use crate::machine::write_atomically;
use crate::state::cluster_text;
use flotilla_raftstore::ClusterId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Version of the folder's layout that this program reads and writes.
pub const FORMAT: u32 = 1;
const LOCK: &str = "LOCK";
const MEMBER: &str = "member";

/// Why a folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process works in it.
    #[error("folder {} is in use by another process: stop that process or choose another --dir", .0.display())]
    InUse(PathBuf),
    /// A file stands there.
    #[error("{} is a file, not a directory: choose another --dir", .0.display())]
    NotADirectory(PathBuf),
    /// The system refused.
    #[error("folder {} cannot be used: {what}: {source}; check its owner and permissions or choose another --dir", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not empty, and not a folder of this program.
    #[error("folder {} is not empty and holds no placement member (it has '{example}'): choose an empty --dir", .path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        example: String,
    },
    /// Written by a newer version.
    #[error("folder {} has format {found}, this version reads up to {FORMAT}: use the newer version that wrote it", .path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The identity does not parse.
    #[error("folder {}: its file '{MEMBER}' is damaged: {reason}; restore it from a copy", .path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Who the member in a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the layout.
    pub format: u32,
    /// The cluster that it serves.
    #[serde(with = "cluster_text")]
    pub cluster: ClusterId,
    /// Its number among the placement members, from 1.
    pub member: u64,
}

/// An opened folder; its lock is given back when it is dropped, or by the system after a kill.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl Folder {
    /// Opens the folder, or makes it the folder of the first member of a new cluster `fresh`.
    pub fn open(path: &Path, fresh: ClusterId) -> Result<Folder, FolderError> {
        if fs::metadata(path).is_ok_and(|m| !m.is_dir()) {
            return Err(FolderError::NotADirectory(path.to_path_buf()));
        }
        fs::create_dir_all(path).map_err(io(path, "create it"))?;
        if read_identity(path)?.is_none() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        // Read again under the lock: another process may have made the folder its own meanwhile.
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => {
                let identity = Identity { format: FORMAT, cluster: fresh, member: 1 };
                let text = toml::to_string(&identity).expect("an identity has a TOML form");
                write_atomically(&path.join(MEMBER), text.as_bytes())
                    .map_err(io(path, "write its file 'member'"))?;
                identity
            }
        };
        Ok(Folder { path: path.to_path_buf(), identity, _lock: lock })
    }

    /// Who the member is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the Raft log lives.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the member's description goes when it is asked for.
    #[must_use]
    pub fn describe_file(&self) -> PathBuf {
        self.path.join("describe.json")
    }

    /// Where snapshots are, made here or on their way here.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> FolderError {
    let path = path.to_path_buf();
    move |source| FolderError::Io { path, what, source }
}

fn lock(path: &Path) -> Result<File, FolderError> {
    let open = File::options().create(true).append(true).open(path.join(LOCK));
    let file = open.map_err(io(path, "open its file 'LOCK'"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse(path.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(io(path, "lock it")(source)),
    }
}

/// A lock or an unfinished identity is what a start that was cut off leaves; all else is not ours.
fn refuse_foreign(path: &Path) -> Result<(), FolderError> {
    for entry in fs::read_dir(path).map_err(io(path, "list it"))? {
        let name = entry.map_err(io(path, "list it"))?.file_name();
        if name != LOCK && name != "member.tmp" {
            let example = name.to_string_lossy().into_owned();
            return Err(FolderError::Foreign { path: path.to_path_buf(), example });
        }
    }
    Ok(())
}

fn read_identity(path: &Path) -> Result<Option<Identity>, FolderError> {
    let text = match fs::read_to_string(path.join(MEMBER)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(path, "read its file 'member'")(e)),
    };
    let damaged = |e: toml::de::Error| FolderError::Damaged {
        path: path.to_path_buf(),
        reason: e.message().to_string(),
    };
    // The format first: a newer one may have any other fields.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = toml::from_str(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(FolderError::Newer { path: path.to_path_buf(), found: format });
    }
    toml::from_str(&text).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: ClusterId = ClusterId(0xabc);

    fn refused(path: &Path) -> FolderError {
        Folder::open(path, FRESH).expect_err("refused")
    }

    #[test]
    fn an_identity_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/down");
        let first = Folder::open(&path, FRESH).unwrap().identity();
        assert_eq!(first, Identity { format: FORMAT, cluster: FRESH, member: 1 });
        assert_eq!(Folder::open(&path, ClusterId(7)).unwrap().identity(), first);
    }

    #[test]
    fn a_folder_in_use_is_refused_until_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let held = Folder::open(dir.path(), FRESH).unwrap();
        assert!(refused(dir.path()).to_string().contains("in use by another process"));
        drop(held);
        Folder::open(dir.path(), FRESH).unwrap();
    }

    #[test]
    fn foreign_newer_and_damaged_folders_stay_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("photo.jpg");
        fs::write(&file, "x").unwrap();
        assert!(matches!(refused(dir.path()), FolderError::Foreign { .. }));
        assert!(!dir.path().join(LOCK).exists());
        assert!(matches!(refused(&file), FolderError::NotADirectory(_)));
        fs::remove_file(&file).unwrap();

        let member = dir.path().join(MEMBER);
        fs::write(&member, "format = 2\nwings = true\n").unwrap();
        assert!(refused(dir.path()).to_string().contains("format 2"));
        for text in ["", "format = 1", "format = 1\ncluster = \"xyz\"\nmember = 1", "{", "\u{1}"] {
            fs::write(&member, text).unwrap();
            assert!(matches!(refused(dir.path()), FolderError::Damaged { .. }), "{text}");
            assert_eq!(fs::read_to_string(&member).unwrap(), text);
        }
        assert!(!dir.path().join(LOCK).exists());
    }
}
