//! The data folder: who holds it and whose it is. Used before anything inside is opened.
//!
//! ```text
//! DIR/LOCK           held while a process uses the folder
//! DIR/identity       TOML: format, storage, log engine, nonce; cluster and store once placement gave them
//! DIR/peers          TOML: last known addresses of the other stores
//! DIR/describe.json  every replica in figures, as of the last SIGUSR2
//! DIR/log            the Raft log
//! DIR/data           the key-value data
//! ```
//! `identity` is the first file written, so that a folder without it but with other things in it
//! is somebody else's and stays untouched.

use crate::config::Storage;
use flotilla_raftstore::log::LogEngine;
use flotilla_raftstore::{ClusterId, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the folder's layout that this program reads and writes.
pub const FORMAT: u32 = 1;

const LOCK: &str = "LOCK";
const IDENTITY: &str = "identity";
const PEERS: &str = "peers";
const DESCRIBE: &str = "describe.json";
const LOG: &str = "log";
const DATA: &str = "data";

/// Why a folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process works in it.
    #[error("folder {0} is in use by another process: stop that process or choose another --dir")]
    InUse(PathBuf),
    /// Nothing to work on.
    #[error("folder {0} holds no store that has joined a cluster: give the --dir of one")]
    NoStore(PathBuf),
    /// A file stands there.
    #[error("{0} is a file, not a directory: choose another --dir")]
    NotADirectory(PathBuf),
    /// The system refused.
    #[error(
        "folder {path} cannot be used: {what}: {source}; check its owner and permissions or choose another --dir"
    )]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not empty, and not a folder of this program.
    #[error(
        "folder {path} is not empty and holds no {owner} (it has '{example}'): choose an empty --dir"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What was expected in it.
        owner: &'static str,
        /// One of the things in it.
        example: String,
    },
    /// Written by a newer version.
    #[error(
        "folder {path} has format {found}, this version reads up to {FORMAT}: use the newer version that wrote it"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another storage was asked for than the folder holds.
    #[error(
        "folder {path} holds a store with storage {holds}, not {asked}: leave out --storage or choose another --dir"
    )]
    OtherStorage {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        holds: Storage,
        /// What was asked for.
        asked: Storage,
    },
    /// Another log engine was asked for than the folder holds.
    #[error(
        "folder {path} holds a log of the engine {holds}, not {asked}: leave out --log-engine or choose another --dir"
    )]
    OtherLogEngine {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        holds: LogEngine,
        /// What was asked for.
        asked: LogEngine,
    },
    /// A part of a registered store is gone.
    #[error(
        "folder {path} is of store {store}, but its folder '{missing}' is missing: without it the store \
         could break what it has promised, so it must not come back under this id; restore the whole \
         folder as it was when the store stopped, or start with an empty --dir to join as a new store"
    )]
    Wiped {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        store: StoreId,
        /// What is not there.
        missing: &'static str,
    },
    /// The identity file does not parse.
    #[error(
        "folder {path}: its file '{file}' is damaged: {reason}; keep this store's folder, and restore it from a copy that was taken while the store was stopped: no other store can rebuild it yet"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Who the store in a folder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the layout.
    pub format: u32,
    /// What holds the data.
    pub storage: Storage,
    /// What keeps the log. Folders that do not say it are older than the choice.
    #[serde(default = "first_log_engine")]
    pub log_engine: LogEngine,
    /// Made with the folder: lets placement give the same id when the first answer got lost.
    pub nonce: String,
    /// Cluster and store, once registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
}

/// What every folder held before there was a choice.
pub(crate) fn first_log_engine() -> LogEngine {
    LogEngine::Rocksdb
}

/// A store of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// 32 hexadecimal digits.
    pub cluster: String,
    /// The store's id in it.
    pub store: StoreId,
}

impl Member {
    /// The cluster's id as a number; the text is checked when it enters an identity.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster.parse().expect("a cluster id is checked before it becomes part of an identity")
    }
}

/// An opened folder; the lock is held until it is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    _lock: FolderLock,
}

impl Folder {
    /// Opens or creates the folder of a store. `storage` and `log_engine` as asked for; a new
    /// folder without them gets RocksDB and the default engine.
    pub fn open(
        path: &Path,
        storage: Option<Storage>,
        log_engine: Option<LogEngine>,
    ) -> Result<Folder, FolderError> {
        let lock = FolderLock::acquire(path, IDENTITY, "Flotilla store")?;
        let identity = match read_text(path, IDENTITY)? {
            Some(text) => parse_identity(path, &text)?,
            None => {
                let identity = Identity {
                    format: FORMAT,
                    storage: storage.unwrap_or(Storage::Rocksdb),
                    log_engine: log_engine.unwrap_or_default(),
                    nonce: format!("{:032x}", rand::random::<u128>()),
                    member: None,
                };
                write_toml(path, IDENTITY, &identity)?;
                identity
            }
        };
        check_whole(path, &identity)?;
        let path = path.to_owned();
        match (storage, log_engine) {
            (Some(asked), _) if asked != identity.storage => {
                Err(FolderError::OtherStorage { path, holds: identity.storage, asked })
            }
            (_, Some(asked)) if asked != identity.log_engine => {
                Err(FolderError::OtherLogEngine { path, holds: identity.log_engine, asked })
            }
            _ => Ok(Folder { path, identity, _lock: lock }),
        }
    }

    /// Opens the folder of a store that was there before.
    pub fn open_existing(path: &Path) -> Result<Folder, FolderError> {
        match Folder::is_registered(path) {
            true => Folder::open(path, None, None),
            false => Err(FolderError::NoStore(path.to_owned())),
        }
    }

    /// Whether the folder's store has its id, asked from outside and without the lock.
    #[must_use]
    pub fn is_registered(path: &Path) -> bool {
        let text = read_text(path, IDENTITY).ok().flatten();
        text.and_then(|text| parse_identity(path, &text).ok()).is_some_and(|i| i.member.is_some())
    }

    /// Who the store is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Writes down who the store is, durably, before it acts under that name.
    pub fn set_member(&mut self, member: Member) -> Result<(), FolderError> {
        let identity = Identity { member: Some(member), ..self.identity.clone() };
        write_toml(&self.path, IDENTITY, &identity)?;
        self.identity = identity;
        Ok(())
    }

    /// Where the Raft log lives.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where snapshots are, made here or on their way here.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// Where the data lives.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// The other stores' addresses as last seen: a hint, so that stores find each other while
    /// placement is down. A damaged file counts as empty.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<StoreId, String> {
        let text = read_text(&self.path, PEERS).ok().flatten().unwrap_or_default();
        let peers: Peers = toml::from_str(&text).unwrap_or_default();
        peers.stores.into_iter().map(|peer| (peer.store, peer.address)).collect()
    }

    /// A handle for whoever describes the store when it is asked to.
    #[must_use]
    pub fn describe_file(&self) -> DescribeFile {
        DescribeFile { dir: self.path.clone() }
    }

    /// A handle for the one task that keeps the peers' addresses.
    #[must_use]
    pub fn peers_file(&self) -> PeersFile {
        PeersFile { dir: self.path.clone() }
    }
}

/// Writes the addresses of the other stores.
#[derive(Clone, Debug)]
pub struct PeersFile {
    dir: PathBuf,
}

impl PeersFile {
    /// Replaces the file atomically.
    pub fn write(&self, stores: &BTreeMap<StoreId, String>) -> Result<(), FolderError> {
        let stores = stores
            .iter()
            .map(|(store, address)| Peer { store: *store, address: address.clone() })
            .collect();
        write_toml(&self.dir, PEERS, &Peers { stores })
    }
}

/// Writes what the store says of itself.
#[derive(Clone, Debug)]
pub struct DescribeFile {
    dir: PathBuf,
}

impl DescribeFile {
    /// Replaces the file atomically; its path.
    pub fn write(&self, text: &str) -> Result<PathBuf, FolderError> {
        write_text(&self.dir, DESCRIBE, text)?;
        Ok(self.dir.join(DESCRIBE))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Peers {
    stores: Vec<Peer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    store: StoreId,
    address: String,
}

/// The lock of a folder, given back by the system even after kill -9.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates the folder if it is missing, refuses one that is neither empty nor has the file
    /// `marker`, and locks it.
    pub fn acquire(
        path: &Path,
        marker: &str,
        owner: &'static str,
    ) -> Result<FolderLock, FolderError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| FolderError::Io { path: path.to_owned(), what, source }
        };
        if fs::metadata(path).is_ok_and(|m| !m.is_dir()) {
            return Err(FolderError::NotADirectory(path.to_owned()));
        }
        fs::create_dir_all(path).map_err(io("creating it"))?;
        if !path.join(marker).exists() {
            for entry in fs::read_dir(path).map_err(io("reading it"))? {
                let name = entry.map_err(io("reading it"))?.file_name();
                let name = name.to_string_lossy().into_owned();
                // A lock or a half-written marker is what a start that was cut short leaves.
                if name != LOCK && name != format!("{marker}.new") {
                    let path = path.to_owned();
                    return Err(FolderError::Foreign { path, owner, example: name });
                }
            }
        }
        let file = File::create(path.join(LOCK)).map_err(io("creating LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io("locking LOCK")(source)),
        }
    }
}

/// The text of a file in the folder, `None` when it does not exist.
pub fn read_text(dir: &Path, file: &str) -> Result<Option<String>, FolderError> {
    match fs::read_to_string(dir.join(file)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            Err(FolderError::Io { path: dir.to_owned(), what: format!("reading {file}"), source })
        }
    }
}

/// Replaces a file atomically and durably: a crash leaves the old one or the new one.
pub fn write_toml<T: Serialize>(dir: &Path, file: &str, value: &T) -> Result<(), FolderError> {
    let text = toml::to_string(value).expect("plain structs of text and numbers are TOML");
    write_text(dir, file, &text)
}

/// As [`write_toml`], for any text.
pub fn write_text(dir: &Path, file: &str, text: &str) -> Result<(), FolderError> {
    let fresh = dir.join(format!("{file}.new"));
    let write = || {
        let mut out = File::create(&fresh)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&fresh, dir.join(file))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| FolderError::Io {
        path: dir.to_owned(),
        what: format!("writing {file}"),
        source,
    })
}

/// A store opens its log and its data before it registers: later both are there, or somebody has taken
/// one away, and with it terms, votes and entries that others count on (Raft paper, figure 2).
fn check_whole(path: &Path, identity: &Identity) -> Result<(), FolderError> {
    let Some(Member { store, .. }) = identity.member else { return Ok(()) };
    // The memory engine writes nothing before its first checkpoint.
    let filled = |part| part == LOG || identity.storage == Storage::Rocksdb;
    for missing in [LOG, DATA] {
        let empty = match fs::read_dir(path.join(missing)) {
            Ok(mut entries) => filled(missing) && entries.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            // Opening it tells what is wrong.
            Err(_) => false,
        };
        if empty {
            return Err(FolderError::Wiped { path: path.to_owned(), store, missing });
        }
    }
    Ok(())
}

fn parse_identity(path: &Path, text: &str) -> Result<Identity, FolderError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |reason: String| FolderError::Damaged {
        path: path.to_owned(),
        file: IDENTITY,
        reason: reason.trim().replace('\n', " "),
    };
    // The format first: a newer one may hold anything else.
    let Format { format } = toml::from_str(text).map_err(|e| damaged(e.message().to_owned()))?;
    if format > FORMAT {
        return Err(FolderError::Newer { path: path.to_owned(), found: format });
    }
    let identity: Identity = toml::from_str(text).map_err(|e| damaged(e.message().to_owned()))?;
    match &identity.member {
        Some(member) if member.cluster.parse::<ClusterId>().is_err() || member.store.0 == 0 => {
            Err(damaged(format!("cluster '{}', store {}", member.cluster, member.store)))
        }
        _ => Ok(identity),
    }
}

#[cfg(test)]
#[path = "folder_test.rs"]
mod tests;
