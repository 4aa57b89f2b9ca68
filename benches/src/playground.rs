//! A whole cluster as a child process: `kvserver playground`, started, watched and stopped.
//!
//! 1. [`Playground::start`] picks free ports and a temporary folder, starts the child and reads
//!    its standard output until the line `ready placement=…`.
//! 2. A thread goes on reading, so that the child never blocks, and hands lines to a listener.
//! 3. [`Playground::stop`] asks it to end and waits; dropping does the same, silently.

use crate::error::Error;
use crate::interrupt::tie;
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a cluster may take to become ready, with ten thousand groups.
const READY_MAX: Duration = Duration::from_secs(180);
/// How long a child may take to end after SIGTERM, before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Ports from the base that a playground uses (contract: placement at +0…, stores at +10…).
const PORTS: u16 = 20;
/// Below the range that outgoing connections take their ports from.
const BASE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Stores of a cluster that has as many replicas of each region.
pub const STORES: u16 = 3;

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// `rocksdb` or `memory`.
    pub storage: String,
    /// How many stores.
    pub stores: u16,
    /// Number of regions; ignored when `split_at` is not empty.
    pub regions: usize,
    /// Where regions are cut, in the escaped form of the command line.
    pub split_at: Vec<String>,
    /// What holds the log; `None`: the default.
    pub log_engine: Option<String>,
    /// A settings file's text for every store.
    pub config: Option<String>,
}

/// A running cluster; ends when it is dropped.
pub struct Playground {
    child: Owned,
    placement: String,
    dir: tempfile::TempDir,
}

impl Playground {
    /// Starts a cluster and waits until it is ready. `listener` gets every line
    /// that it prints, in a thread of its own, until it ends.
    pub fn start(
        options: &Options,
        listener: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let dir = tempfile::Builder::new()
            .prefix("flotilla-")
            .tempdir()
            .map_err(Error::system("cannot create a temporary folder"))?;
        let log_path = dir.path().join("playground.log");
        let log = std::fs::File::create(&log_path).map_err(Error::system("cannot write a log"))?;
        let mut command = Command::new(sibling("kvserver")?);
        clear_settings(&mut command, "FLOTILLA_");
        command.arg("playground").arg("--storage").arg(&options.storage);
        command.arg("--stores").arg(options.stores.to_string());
        command.arg("--dir").arg(dir.path().join("cluster"));
        command.arg("--base-port").arg(free_ports()?.to_string());
        if options.split_at.is_empty() {
            command.arg("--regions").arg(options.regions.to_string());
        } else {
            command.arg("--split-at").arg(options.split_at.join(","));
        }
        if let Some(engine) = &options.log_engine {
            command.env("FLOTILLA_LOG_ENGINE", engine);
        }
        if let Some(config) = &options.config {
            let path = dir.path().join("store.toml");
            std::fs::write(&path, config).map_err(Error::system("cannot write a settings file"))?;
            command.arg("--config").arg(path);
        }
        tie(&mut command);
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = Owned::spawn("playground", &mut command)?;
        let lines = read_lines(child.output(), listener);
        let placement = wait_ready(&lines, &log_path)?;
        Ok(Playground { child, placement, dir })
    }

    /// The placement's address.
    #[must_use]
    pub fn placement(&self) -> &str {
        &self.placement
    }

    /// Process id of the playground itself, the parent of the servers.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Where the cluster's data lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the cluster and removes its data; an error when it does not end cleanly.
    pub fn stop(mut self) -> Result<(), Error> {
        self.child.stop()
    }
}

fn wait_ready(lines: &Receiver<String>, log: &Path) -> Result<String, Error> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(address) = line.strip_prefix("ready placement=") {
                    return Ok(address.trim().to_owned());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let seconds = READY_MAX.as_secs();
                return Err(Error::Cluster(format!(
                    "the playground is not ready after {seconds} s{}",
                    last_line(log)
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let text = last_line(log);
                return Err(Error::Cluster(format!("the playground ended early{text}")));
            }
        }
    }
}

/// `: ` and the last line of a log that says something.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .map_or_else(String::new, |l| format!(": {l}"))
}

fn read_lines(output: ChildStdout, listener: impl Fn(&str) + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            listener(&line);
            // Nobody waits for lines once it is ready.
            let _ = sender.send(line);
        }
    });
    lines
}

/// The program `name` from the folder of this one.
pub fn sibling(name: &str) -> Result<PathBuf, Error> {
    let own =
        std::env::current_exe().map_err(Error::system("cannot tell this program's folder"))?;
    let path = own.with_file_name(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoProgram(path)) }
}

/// Keeps settings in this program's environment from a server that is to be measured: it has
/// those of its row.
pub fn clear_settings(command: &mut Command, prefix: &str) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(prefix) {
            command.env_remove(name);
        }
    }
}

/// The first of a run of ports of which none is in use.
pub fn free_ports() -> Result<u16, Error> {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..100)
        .map(|_| rand::random_range(BASE_PORTS))
        .find(|base| (*base..base + PORTS).all(free))
        .ok_or_else(|| Error::Cluster("no run of free ports was found".to_owned()))
}

/// A child of ours that never outlives its owner.
pub struct Owned(Child, &'static str);

impl Owned {
    /// Starts `command`.
    pub fn spawn(name: &'static str, command: &mut Command) -> Result<Self, Error> {
        let child = command.spawn().map_err(Error::system(format!("cannot start {name}")))?;
        Ok(Owned(child, name))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("process ids fit 31 bits")
    }

    /// The ends of its standard input and output, which were both piped; once.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let input = self.0.stdin.take().expect("standard input was piped");
        (input, self.output())
    }

    /// The end of its standard output, which was piped; once.
    pub fn output(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("standard output was piped")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// SIGTERM, then waiting, then SIGKILL; an error unless it ended by itself with status 0.
    pub fn stop(&mut self) -> Result<(), Error> {
        if self.is_running() {
            signal(self.pid(), Signal::TERM);
        }
        self.wait()
    }

    /// Waits for its end, which is near, then SIGKILL; an error as with [`Owned::stop`].
    pub fn wait(&mut self) -> Result<(), Error> {
        let failed = |text: String| Err(Error::Cluster(text));
        let deadline = Instant::now() + STOP_MAX;
        while self.is_running() {
            if Instant::now() > deadline {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return failed(format!("{} did not stop in {} s", self.1, STOP_MAX.as_secs()));
            }
            std::thread::sleep(POLL);
        }
        match self.0.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => failed(format!("{} ended with {status}", self.1)),
            Err(error) => failed(format!("{}: {error}", self.1)),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Sends a signal to a process that this program started, directly or through a playground.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let child = Owned::spawn("sleep", Command::new("sleep").arg("60")).unwrap();
        let pid = child.pid();
        drop(child);
        assert!(procfs::process::Process::new(pid).is_err());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = sibling("no-such-program").unwrap_err().to_string();
        assert!(error.contains("no-such-program is missing: build it"), "{error}");
    }
}
