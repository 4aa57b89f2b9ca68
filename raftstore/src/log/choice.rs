//! Which engine keeps a log, and opening one by its name.

use super::{LogStore, RaftEngineLog, RaftEngineLogOptions, RocksLog, RocksLogOptions, folder};
use crate::error::LogError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// What keeps the log of all groups of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogEngine {
    /// [`RocksLog`].
    Rocksdb,
    /// [`RaftEngineLog`]: a fraction of the CPU time for each write.
    #[default]
    RaftEngine,
}

impl LogEngine {
    /// Every engine.
    pub const ALL: [LogEngine; 2] = [LogEngine::Rocksdb, LogEngine::RaftEngine];

    /// As in flags, files and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LogEngine::Rocksdb => "rocksdb",
            LogEngine::RaftEngine => "raft-engine",
        }
    }
}

impl fmt::Display for LogEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LogEngine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        LogEngine::ALL.into_iter().find(|engine| engine.name() == name).ok_or_else(|| {
            let known = LogEngine::ALL.map(LogEngine::name).join(", ");
            format!("log engine {name:?} is unknown: must be one of {known}")
        })
    }
}

/// Settings that every engine has.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Sync every write. Without it a power cut loses acknowledged entries, and may leave
    /// a log that does not open; for measurements only. Default: true.
    pub sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { sync: true }
    }
}

/// Opens the log in `dir`, or creates it in a missing or empty folder.
///
/// Without an `engine` a folder is opened with the one that it holds, a new one with the
/// default; the second value tells which. Blocks while it reads the whole log.
///
/// # Errors
/// [`LogError::Io`] when the folder is in use, foreign, of another engine, of a newer format or
/// damaged beyond single groups; the text says what to do. Nothing is changed then.
pub fn open(
    dir: &Path,
    engine: Option<LogEngine>,
    options: LogOptions,
) -> Result<(Arc<dyn LogStore>, LogEngine), LogError> {
    let LogOptions { sync } = options;
    let engine = match engine {
        Some(engine) => engine,
        None => held(dir)?.unwrap_or_default(),
    };
    let log: Arc<dyn LogStore> = match engine {
        LogEngine::Rocksdb => {
            RocksLog::open(dir, RocksLogOptions { sync, ..RocksLogOptions::default() })?
        }
        LogEngine::RaftEngine => {
            RaftEngineLog::open(dir, RaftEngineLogOptions { sync, ..Default::default() })?
        }
    };
    Ok((log, engine))
}

/// The engine whose log the folder holds, if any.
fn held(dir: &Path) -> Result<Option<LogEngine>, LogError> {
    let Some(name) = folder::engine_of(dir)? else {
        return Ok(None);
    };
    name.parse().map(Some).map_err(|e| LogError::Io(format!("{}: {e}", dir.display())))
}
