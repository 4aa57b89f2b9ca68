//! One process of the product under test: started, killed, restarted, never left behind.
//!
//! A child holds the reading end of a pipe whose other end lives here: when the test ends, even
//! by SIGKILL, the pipe closes and the child stops by itself.

use crate::faulty_disk::FaultyDisk;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Below the range that outgoing connections take their ports from.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A program that this workspace builds, or `examples/NAME`, from the folder that the test itself was
/// built into.
///
/// # Panics
/// When it is not there, with what to do.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own file");
    // release/deps/kills-0123 for a test, release/sim for a program.
    let folder = own.parent().expect("a file has a folder");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --release --workspace --bins --examples` first \
         (`make build` does)",
        path.display()
    );
    path
}

/// A command of `name` without any setting from this process's environment.
#[must_use]
pub fn command(name: &str) -> Command {
    without_settings(Command::new(program(name)))
}

fn without_settings(mut command: Command) -> Command {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(variable);
        }
    }
    command
}

/// The first of `count` ports in a row that are free on 127.0.0.1 now.
///
/// # Panics
/// When there is no such row.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    for _ in 0..1_000 {
        let base = rand::random_range(PORTS.start..PORTS.end - count);
        if (base..base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no {count} free ports in a row on 127.0.0.1");
}

/// Runs `command` to its end.
///
/// # Panics
/// When it does not end within `limit`; it is killed then.
#[must_use]
pub fn run_within(mut command: Command, limit: Duration) -> Output {
    let text = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
    let pid = pid_of(&child);
    let (sender, ended) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = sender.send(());
        output
    });
    let in_time = ended.recv_timeout(limit).is_ok();
    if !in_time {
        let _ = kill_process(pid, Signal::KILL);
    }
    let output = waiter.join().expect("waiting does not panic").expect("a child can be waited for");
    assert!(
        in_time,
        "{text} still runs after {limit:?}; it said: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A server process with its command line, so that it can be started again.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: &'static str,
    args: Vec<String>,
    log: PathBuf,
    running: Option<(Child, Option<ChildStdin>)>,
}

impl Process {
    /// Not started yet. Its output is appended to `log`.
    pub fn new(name: &str, program: &'static str, args: Vec<String>, log: PathBuf) -> Process {
        Process { name: name.to_owned(), program, args, log, running: None }
    }

    /// Starts it, with the same arguments each time.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) {
        let mut command = command(self.program);
        command.args(&self.args);
        self.spawn(command);
    }

    /// Starts it so that every write beyond `kib` KiB of a file fails, as on a broken disk.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub fn start_with_file_limit(&mut self, kib: u64) {
        let mut limited = without_settings(Command::new("bash"));
        // Without the signal's default action the write fails with an error.
        limited.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"", &kib.to_string()]);
        limited.arg(program(self.program)).args(&self.args);
        self.spawn(limited);
    }

    /// Starts it on a disk that can have faults.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub fn start_on(&mut self, disk: &FaultyDisk) {
        let mut command = command(self.program);
        command.args(&self.args).envs(disk.variables());
        self.spawn(command);
    }

    fn spawn(&mut self, mut command: Command) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut child = command
            .env(flotilla_kvserver::process::PARENT_PIPE, "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let input = child.stdin.take();
        self.running = Some((child, input));
    }

    /// SIGKILL, and waits until it is gone. Nothing happens when it does not run.
    pub fn kill(&mut self) {
        if let Some((mut child, _input)) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it stands still, with all its connections open.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let (child, _) = self.running.as_ref().expect("it was started");
        let _ = kill_process(pid_of(child), signal);
    }

    /// SIGTERM, and waits.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end(STOP_MAX)
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it does not run, or does not end within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            let (child, _) = self.running.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.running = None;
                return status;
            }
            if Instant::now() >= deadline {
                self.kill();
                panic!("{} still runs after {limit:?}\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Its process id, if it was started and neither killed nor terminated since.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(child, _)| child.id())
    }

    /// Whether it was started, and neither killed nor terminated since.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it was started and has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        let running = self.running.as_mut();
        running.is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)))
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(15)..];
        format!("--- {} ({}):\n{}", self.name, self.log.display(), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Writes `text` to `name` in `folder` and gives the path.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn write_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file in a temporary folder");
    path
}
