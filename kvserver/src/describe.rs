//! SIGUSR2: the running store writes what it knows of every replica into its folder.
//!
//! The same as `/status`, for when the port does not answer, or to be kept.

use crate::folder::DescribeFile;
use crate::status::StatusSource;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from now on: without it the signal would end the process. What comes before [`on_signal`] is kept.
pub fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::user_defined2())
}

/// Answers until the runtime ends.
pub fn on_signal(mut signals: Signal, status: Arc<StatusSource>, file: DescribeFile) {
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let (status, file) = (Arc::clone(&status), file.clone());
            // Waits for the shards and the disk: not on a network thread.
            let written = tokio::task::spawn_blocking(move || file.write(&status.json()));
            match written.await.expect("writing a file does not panic") {
                Ok(path) => tracing::info!(path = %path.display(), "described"),
                Err(error) => tracing::warn!(%error, "not described"),
            }
        }
    });
}
