//! The child processes: spawned, watched, stopped.
//!
//! Each child is its own process group, so that Ctrl-C in a terminal reaches the playground
//! alone and the stop keeps its order; its standard input is a pipe held here (see
//! [`PARENT_PIPE`]).

use super::plan::{ChildSpec, PLACEMENT};
use crate::process::PARENT_PIPE;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

/// A child that did not stop by then is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A child that ended.
#[derive(Debug)]
pub struct Exited {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Exit code, or `signal-N`.
    pub status: String,
    /// Its log file.
    pub log: PathBuf,
    log_start: u64,
}

impl Exited {
    /// The last line that this run of the child wrote.
    pub fn last_line(&self) -> Option<String> {
        let text = std::fs::read(&self.log).ok()?;
        let start = usize::try_from(self.log_start).ok()?.min(text.len());
        let text = String::from_utf8_lossy(&text[start..]).into_owned();
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

struct Running {
    name: String,
    pid: u32,
    _input: Option<ChildStdin>,
}

/// All children. Dropping it closes their pipes, which ends them too.
pub struct Children {
    running: Vec<Running>,
    exits: mpsc::UnboundedReceiver<Exited>,
    exit_sender: mpsc::UnboundedSender<Exited>,
}

impl Default for Children {
    fn default() -> Self {
        let (exit_sender, exits) = mpsc::unbounded_channel();
        Children { running: Vec::new(), exits, exit_sender }
    }
}

impl Children {
    /// Starts a child; its output is appended to its log file.
    pub fn spawn(&mut self, spec: &ChildSpec) -> std::io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(&spec.program);
        // Everything a child needs is on its command line, which is printed: no setting may
        // reach it in another way.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLOTILLA_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(&spec.args)
            .env(PARENT_PIPE, "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = child.id().expect("a child that was not waited for has an id");
        // Taken out: waiting closes the pipe otherwise, and that would end the child.
        let input = child.stdin.take();
        self.running.push(Running { name: spec.name.clone(), pid, _input: input });
        let (name, log, sender) = (spec.name.clone(), spec.log.clone(), self.exit_sender.clone());
        tokio::spawn(async move {
            let status = match child.wait().await {
                Ok(status) => status_word(status),
                Err(e) => format!("unknown:{}", e.kind()),
            };
            // Nobody listens any more only when the playground itself is gone.
            let _ = sender.send(Exited { name, pid, status, log, log_start });
        });
        Ok(())
    }

    /// The process id of a running child.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|child| child.name == name).map(|child| child.pid)
    }

    /// Waits for the next child that ends.
    pub async fn exited(&mut self) -> Exited {
        let ended = self.exits.recv().await.expect("a sender is held here");
        self.running.retain(|child| child.pid != ended.pid);
        ended
    }

    /// Stops the children in the reverse order of their start, the stores all at once: SIGTERM,
    /// and SIGKILL for what does not end in time.
    pub async fn stop(&mut self) {
        self.stop_those(|name| name != PLACEMENT).await;
        self.stop_those(|_| true).await;
    }

    async fn stop_those(&mut self, which: fn(&str) -> bool) {
        self.signal_those(which, Signal::TERM);
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.wait_for_those(which)).await;
        if ended.is_err() {
            self.signal_those(which, Signal::KILL);
            self.wait_for_those(which).await;
        }
    }

    async fn wait_for_those(&mut self, which: fn(&str) -> bool) {
        while self.running.iter().any(|child| which(&child.name)) {
            self.exited().await;
        }
    }

    fn signal_those(&self, which: fn(&str) -> bool, signal: Signal) {
        for child in self.running.iter().filter(|child| which(&child.name)) {
            let pid = i32::try_from(child.pid).ok().and_then(Pid::from_raw);
            // It may have ended by itself a moment ago.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }
}

fn status_word(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal-{signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
