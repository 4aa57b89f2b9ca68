//! SIGUSR2: the running member writes what `/status` says into its folder, for when the port does not
//! answer, or to be kept.

use crate::machine::write_atomically;
use crate::service::Shared;
use crate::status;
use std::path::PathBuf;
use std::sync::Weak;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from now on: without it the signal would end the process. What comes before [`on_signal`] is kept.
pub(crate) fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::user_defined2())
}

/// Answers until the runtime ends; a member that was stopped is not kept by it.
pub(crate) fn on_signal(mut signals: Signal, shared: Weak<Shared>, file: PathBuf) {
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let Some(shared) = shared.upgrade() else { return };
            let path = file.clone();
            // Waits for the shards and the disk: not on a network thread.
            let written = tokio::task::spawn_blocking(move || {
                write_atomically(&path, status::json(&shared).as_bytes())
            });
            match written.await.expect("writing a file does not panic") {
                Ok(()) => tracing::info!(path = %file.display(), "described"),
                Err(error) => tracing::warn!(%error, "not described"),
            }
        }
    });
}
