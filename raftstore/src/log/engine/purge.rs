//! Deleting files that are not needed any more, in a thread of its own.
//!
//! The log tells it each time when about one more file was written. raft-engine then copies what
//! little an old file still holds, and deletes the file; the deletion is all that a truncation
//! ever frees. It also names groups whose many old entries keep files alive. Nothing can be done
//! for them here: a replica that lags behind needs these entries, and the store's limit on live
//! bytes stops the writes before they fill the disk. When they stay, raft-engine copies them, too.

use super::Engine;
use super::files::Files;
use crossbeam::channel::{Sender, bounded};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The thread; dropping this ends it after the purge under way.
pub(super) struct Purger {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Held through each purge.
    purging: Arc<Mutex<()>>,
    /// Whether the last purge did what it could.
    works: Arc<AtomicBool>,
}

impl Purger {
    /// Starts the thread.
    pub fn start(engine: Arc<Engine>, files: Arc<Files>) -> io::Result<Purger> {
        let (wake, woken) = bounded::<()>(1);
        let purging = Arc::new(Mutex::new(()));
        let works = Arc::new(AtomicBool::new(true));
        let (own, done) = (Arc::clone(&purging), Arc::clone(&works));
        let thread = std::thread::Builder::new().name("log-purge".to_owned()).spawn(move || {
            for () in woken {
                let _purging = own.lock();
                done.store(purge(&engine, &files), Ordering::Relaxed);
            }
        })?;
        Ok(Purger { wake: Some(wake), thread: Some(thread), purging, works })
    }

    /// For a log that must stay as it is.
    pub fn none() -> Purger {
        Purger { wake: None, thread: None, purging: Arc::default(), works: Arc::default() }
    }

    /// Whether files that are not needed any more are deleted.
    pub fn works(&self) -> bool {
        let runs = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        runs && self.works.load(Ordering::Relaxed)
    }

    /// Asks for a purge; does not wait for it.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full: the next purge is still to come, and sees everything written so far.
            let _ = wake.try_send(());
        }
    }

    /// Runs `read` while no file is being deleted.
    pub fn paused<T>(&self, read: impl FnOnce() -> T) -> T {
        let _paused = self.purging.lock();
        read()
    }
}

/// True: what could be deleted is.
fn purge(engine: &Engine, files: &Files) -> bool {
    match engine.purge_expired_files() {
        Ok(heavy) => {
            if !heavy.is_empty() {
                tracing::debug!(groups = heavy.len(), "old entries keep files of the log alive");
            }
            true
        }
        // The log's next write meets the same failure, and ends the process.
        Err(_) if files.failure().is_some() => false,
        Err(error) => {
            tracing::warn!(%error, "old files of the log are kept: they cannot be purged");
            false
        }
    }
}

impl Drop for Purger {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that deletes old files of the log ended by a panic");
        }
    }
}
