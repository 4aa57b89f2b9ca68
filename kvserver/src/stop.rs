//! When to stop: SIGTERM, Ctrl-C, or the end of the parent that holds our standard input.

use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Set to `1` by a parent that holds the child's standard input as a pipe: the child stops when
/// that pipe closes, so that even a parent killed by SIGKILL leaves nothing behind.
pub const PARENT_PIPE: &str = "FLOTILLA_PARENT_PIPE";

/// Tells every holder once that the process is to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// Listens to the signals from now on; inside a Tokio runtime.
    pub fn listen() -> std::io::Result<Stop> {
        let (sender, receiver) = watch::channel(None);
        for (kind, name) in
            [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "Ctrl-C")]
        {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    sender.send_replace(Some(name));
                }
            });
        }
        if std::env::var_os(PARENT_PIPE).is_some_and(|value| value == "1") {
            std::thread::Builder::new().name("parent-pipe".to_owned()).spawn(move || {
                wait_for_end_of_input();
                sender.send_replace(Some("the parent process ended"));
            })?;
        }
        Ok(Stop(receiver))
    }

    /// Waits until the process is to stop; the reason is for the log.
    pub async fn requested(&self) -> &'static str {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or("stop"),
            // Without senders nobody can ask any more: wait for ever.
            Err(_) => std::future::pending().await,
        }
    }
}

fn wait_for_end_of_input() {
    let mut buffer = [0; 256];
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
