//! System calls of every thread, and syncs, counted by `perf stat`.

use crate::threads::Thread;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::marks::now_ns;
use flotilla_benches::perf::try_out;
use flotilla_benches::playground::Owned;
use flotilla_benches::processes::Server;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

const ALL: &str = "raw_syscalls:sys_enter";
const SYNCS: [&str; 2] = ["syscalls:sys_enter_fdatasync", "syscalls:sys_enter_fsync"];
const POLL: Duration = Duration::from_millis(20);

/// What was counted in a window.
pub struct Counted {
    /// The window, in the boot clock's nanoseconds.
    pub window: Range<u64>,
    /// System calls by thread.
    pub calls: Vec<(Thread, u64)>,
    /// `fdatasync` and `fsync` of all processes.
    pub syncs: u64,
}

/// Whether perf is there and may count system calls.
pub fn check() -> Result<(), Error> {
    try_out(
        stat(&["--", "true"]).stdout(Stdio::null()),
        "perf cannot count system calls here, it needs root and tracefs",
    )
}

/// A process with its perf, and what that says.
type Running<'a> = (&'a Server, Owned, tempfile::NamedTempFile);

/// Counts for `time`. Blocks.
pub fn count(
    processes: &[Server],
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Counted, Error> {
    let seconds = time.as_secs_f64().to_string();
    // One perf a process, all at once: the lines name threads only.
    let start = |server| start(server, &seconds);
    let mut running = processes.iter().map(start).collect::<Result<Vec<Running<'_>>, Error>>()?;
    let mut end_ns = now_ns();
    while running.iter_mut().any(|(_, perf, _)| perf.is_running()) {
        interrupt.sleep(POLL)?;
        end_ns = now_ns();
    }
    // perf begins to count when it is ready, and ends with its sleep.
    let nanos = u64::try_from(time.as_nanos()).expect("at most minutes");
    let window = end_ns.saturating_sub(nanos)..end_ns;
    let mut counted = Counted { window, calls: Vec::new(), syncs: 0 };
    for (server, mut perf, said) in running {
        perf.stop()?;
        let process = &server.name;
        let text = std::fs::read_to_string(said.path())
            .map_err(Error::system("cannot read what perf counted"))?;
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

fn start<'a>(server: &'a Server, seconds: &str) -> Result<Running<'a>, Error> {
    let said =
        tempfile::NamedTempFile::new().map_err(Error::system("cannot create a temporary file"))?;
    let errors = said.reopen().map_err(Error::system("cannot write a temporary file"))?;
    let pid = server.pid.to_string();
    let mut command = stat(&["--per-thread", "--pid", &pid, "--", "sleep", seconds]);
    command.stdout(Stdio::null()).stderr(errors);
    Ok((server, Owned::spawn("perf", &mut command)?, said))
}

fn stat(arguments: &[&str]) -> Command {
    let events = [ALL, SYNCS[0], SYNCS[1]].join(",");
    let mut command = Command::new("perf");
    command.args(["stat", "--field-separator", ";", "--event", &events]).args(arguments);
    command.stdin(Stdio::null());
    command
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
