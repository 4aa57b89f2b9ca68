//! A log's folder: who may use it and which engine's log it holds, the same for both engines.
//!
//! ```text
//! DIR/LOCK     held by the process that uses the folder
//! DIR/FORMAT   one line: flotilla-raft-log ENGINE VERSION STATE
//! ```
//!
//! 1. Take the lock: everything below may change files.
//! 2. Read FORMAT. None: the folder must be empty, and becomes ours with the state `creating`.
//!    Another engine, a newer version: refused before anything is touched.
//! 3. The engine opens its files; it may create them only in the state `creating`, so that lost
//!    files are an error and not a fresh, empty log.
//! 4. Write the state `ready`, also when the folder is of an older version, which every engine reads:
//!    what it writes from now on an older build would not understand.

use crate::error::LogError;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "flotilla-raft-log";
const LOCK_FILE: &str = "LOCK";
pub(super) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NEW_FILE: &str = "FORMAT.new";

/// What to do about lost or damaged files; ends an error's text.
pub(super) const RESTORE: &str = "keep this store's folder, and restore it from a copy that was \
    taken while the store was stopped; this version cannot rebuild a store from the others";

/// What an engine writes into FORMAT, and the newest version of it that this build reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub engine: &'static str,
    pub version: u32,
}

/// A locked folder that holds, or is to hold, the log of one engine.
#[derive(Debug)]
pub(super) struct Claim {
    dir: PathBuf,
    format: Format,
    /// The engine's files do not exist yet, or were never used.
    pub creating: bool,
    /// An older version's.
    outdated: bool,
    _lock: File,
}

impl Claim {
    /// Locks `dir`, which is created when it is missing, and checks that it is `format`'s.
    pub fn take(dir: &Path, format: Format) -> Result<Claim, LogError> {
        fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
        let lock = lock(dir)?;
        let (state, version) = match read_format(dir, format)? {
            Some(found) => found,
            None => {
                refuse_foreign(dir)?;
                write_format(dir, format, State::Creating)?;
                (State::Creating, format.version)
            }
        };
        let creating = state == State::Creating;
        let outdated = version < format.version;
        Ok(Claim { dir: dir.to_owned(), format, creating, outdated, _lock: lock })
    }

    /// The engine has opened: from now on its files must exist, and are of the newest version.
    pub fn ready(&mut self) -> Result<(), LogError> {
        if self.creating || self.outdated {
            write_format(&self.dir, self.format, State::Ready)?;
            (self.creating, self.outdated) = (false, false);
        }
        Ok(())
    }
}

/// The engine that the folder names; `None` when it holds no log yet.
pub(super) fn engine_of(dir: &Path) -> Result<Option<String>, LogError> {
    let text = read_text(&dir.join(FORMAT_FILE))?;
    Ok(text.and_then(|text| text.split_whitespace().nth(1).map(str::to_owned)))
}

/// Takes the folder's lock, or says that another process has it.
fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io("write to", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(e)) => Err(io("lock", &path, &e)),
    }
}

pub(super) fn in_use(dir: &Path) -> LogError {
    LogError::Io(format!(
        "the log folder {} is in use by another process: stop it, or choose another folder",
        dir.display()
    ))
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Creating,
    Ready,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Ready => "ready",
        }
    }
}

fn read_text(path: &Path) -> Result<Option<String>, LogError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("read", path, &e)),
    }
}

/// State and version as FORMAT says; `None` without such a file.
fn read_format(dir: &Path, format: Format) -> Result<Option<(State, u32)>, LogError> {
    let path = dir.join(FORMAT_FILE);
    let Some(text) = read_text(&path)? else {
        return Ok(None);
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let [NAME, engine, version, state] = words[..] else {
        return Err(refused(&path, &format!("it is not a {NAME} line: {:?}", text.trim_end())));
    };
    let Ok(version) = version.parse::<u32>() else {
        return Err(refused(&path, &format!("its version {version:?} is not a number")));
    };
    if engine != format.engine {
        return Err(refused(
            &path,
            &format!("it holds the engine {engine}, not {}", format.engine),
        ));
    }
    if version > format.version {
        let why = format!(
            "it has the newer format {version}, and this build reads up to format {}; use the \
             newer build",
            format.version
        );
        return Err(refused(&path, &why));
    }
    match [State::Creating, State::Ready].into_iter().find(|known| known.word() == state) {
        Some(state) => Ok(Some((state, version))),
        None => Err(refused(&path, &format!("its state {state:?} is unknown"))),
    }
}

fn write_format(dir: &Path, format: Format, state: State) -> Result<(), LogError> {
    let new = dir.join(FORMAT_NEW_FILE);
    let line = format!("{NAME} {} {} {}\n", format.engine, format.version, state.word());
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FORMAT_FILE))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e: std::io::Error| io("write", &new, &e))
}

/// A folder without FORMAT must hold nothing but what an interrupted start left.
fn refuse_foreign(dir: &Path) -> Result<(), LogError> {
    for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
        let name = entry.map_err(|e| io("list", dir, &e))?.file_name();
        if name != LOCK_FILE && name != FORMAT_NEW_FILE {
            let why = format!(
                "it holds {} but no {FORMAT_FILE} file, so it is not a log folder; choose an \
                 empty one",
                PathBuf::from(name).display()
            );
            return Err(refused(dir, &why));
        }
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> LogError {
    LogError::Io(format!("{} is refused: {why}", path.display()))
}

pub(super) fn io(what: &str, path: &Path, error: &std::io::Error) -> LogError {
    LogError::Io(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
#[path = "folder_test.rs"]
mod tests;
