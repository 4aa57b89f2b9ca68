//! System calls of every thread, and syncs, counted by `perf stat`.

use crate::threads::Thread;
use flotilla_benches::Error;
use flotilla_benches::processes::Server;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const ALL: &str = "raw_syscalls:sys_enter";
const SYNCS: [&str; 2] = ["syscalls:sys_enter_fdatasync", "syscalls:sys_enter_fsync"];

/// What was counted in a window.
pub struct Counted {
    /// The window's length.
    pub window: Duration,
    /// System calls by thread.
    pub calls: Vec<(Thread, u64)>,
    /// `fdatasync` and `fsync` of all processes.
    pub syncs: u64,
}

/// Whether perf is there and may count system calls.
pub fn check() -> Result<(), Error> {
    let output = stat(&["--", "true"])?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Cluster(format!(
        "perf cannot count system calls here, it needs root and tracefs. It said: {}",
        text.trim()
    )))
}

/// Counts for `time`. Blocks.
pub fn count(processes: &[Server], time: Duration) -> Result<Counted, Error> {
    let mut counted = Counted { window: Duration::ZERO, calls: Vec::new(), syncs: 0 };
    let began = Instant::now();
    // One perf a process, all at once: the lines name threads only.
    let seconds = time.as_secs_f64().to_string();
    let outputs: Vec<(String, Result<Output, Error>)> = std::thread::scope(|scope| {
        let spawn = |server: &Server| {
            let (name, pid) = (server.name.clone(), server.pid.to_string());
            let seconds = seconds.clone();
            let stat = scope
                .spawn(move || stat(&["--per-thread", "--pid", &pid, "--", "sleep", &seconds]));
            (name, stat)
        };
        let running: Vec<_> = processes.iter().map(spawn).collect();
        let join = |(name, stat): (String, std::thread::ScopedJoinHandle<'_, _>)| {
            (name, stat.join().expect("waiting for a child does not panic"))
        };
        running.into_iter().map(join).collect()
    });
    // Starting perf is not counted, but it is short beside the window.
    counted.window = time.min(began.elapsed());
    for (process, output) in outputs {
        let text = String::from_utf8_lossy(&output?.stderr).into_owned();
        let lines = parse(&text);
        if lines.is_empty() {
            let reason = format!("perf stat counted nothing of {process}: {}", text.trim());
            return Err(Error::Cluster(reason));
        }
        for (name, count, event) in lines {
            if event == ALL {
                counted.calls.push((Thread { process: process.clone(), name }, count));
            } else {
                counted.syncs += count;
            }
        }
    }
    Ok(counted)
}

fn stat(arguments: &[&str]) -> Result<Output, Error> {
    let events = [ALL, SYNCS[0], SYNCS[1]].join(",");
    Command::new("perf")
        .args(["stat", "--field-separator", ";", "--event", &events])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(Error::system("cannot start perf: install it (Debian: linux-perf)"))
}

/// Lines `thread-tid;count;;event;…`: thread, count, event.
fn parse(text: &str) -> Vec<(String, u64, String)> {
    let line = |line: &str| {
        let mut cells = line.split(';');
        let (thread, count) = (cells.next()?, cells.next()?);
        let event = cells.nth(1)?;
        let (name, _) = thread.trim().rsplit_once('-')?;
        Some((name.to_owned(), count.trim().parse().ok()?, event.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_lines_are_read() {
        let text = "# started\n\
             rocksdb:low-123;7;;syscalls:sys_enter_fdatasync;1000;100.00;;\n    \
             net-45;1234;;raw_syscalls:sys_enter;1000;100.00;;\n\
             log-6;<not counted>;;raw_syscalls:sys_enter;0;100.00;;\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], ("rocksdb:low".to_owned(), 7, SYNCS[0].to_owned()));
        assert_eq!(lines[1], ("net".to_owned(), 1_234, ALL.to_owned()));
    }
}
