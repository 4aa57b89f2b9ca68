//! `perf record` over some processes, and the stacks that it sampled.

pub mod stacks;

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::playground::Owned;
use stacks::{FIELDS, Frame};
use std::io::BufReader;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Samples a second and processor: not a multiple of anything periodic.
const FREQUENCY: &str = "499";
/// Programs are built without frame pointers, so so many bytes of each sample's stack are kept
/// and unwound afterwards.
const CALL_GRAPH: &str = "dwarf,16384";
const POLL: Duration = Duration::from_millis(50);
/// Time that perf takes to write its file.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// Whether perf is there and may be used.
pub fn check() -> Result<(), Error> {
    let mut perf = Command::new("perf");
    perf.args(["record", "--output", "/dev/null", "--event", "cpu-clock", "--", "true"]);
    try_out(
        perf.stdin(Stdio::null()),
        "perf cannot sample here; as root, or after `sysctl kernel.perf_event_paranoid=1`, it \
         usually can",
    )
}

/// Runs `perf` to its end; an error with `refused` and what it said when it fails.
pub fn try_out(perf: &mut Command, refused: &str) -> Result<(), Error> {
    let output = perf
        .output()
        .map_err(Error::system("cannot start perf: install it (Debian: linux-perf)"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Cluster(format!("{refused}. It said: {}", text.trim())))
}

/// A recording that runs, or is done.
pub struct Recording {
    perf: Owned,
    data: tempfile::NamedTempFile,
    time: Duration,
}

impl Recording {
    /// Starts to record `pids` for `time`.
    pub fn start(pids: &[i32], time: Duration) -> Result<Self, Error> {
        let data = tempfile::NamedTempFile::new()
            .map_err(Error::system("cannot create a temporary file"))?;
        let list = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY]);
        command.args(["--call-graph", CALL_GRAPH, "--pid", &list, "--output"]);
        command.arg(data.path()).arg("--").args(["sleep", &time.as_secs_f64().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Recording { perf: Owned::spawn("perf", &mut command)?, data, time })
    }

    /// Waits until it is done.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<(), Error> {
        let until = std::time::Instant::now() + self.time + WRITE_MAX;
        while self.perf.is_running() && std::time::Instant::now() < until {
            interrupt.sleep(POLL)?;
        }
        self.perf.stop()
    }

    /// Unwinds the samples and merges their stacks.
    pub fn stacks(&self) -> Result<Frame, Error> {
        let mut script = Command::new("perf")
            .args(["script", "--no-inline", "--fields", FIELDS, "--input"])
            .arg(self.data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::system("cannot start perf script"))?;
        let root = Frame::read(BufReader::new(script.stdout.take().expect("piped just now")));
        let status = script.wait().map_err(Error::system("cannot wait for perf script"))?;
        if root.is_ok() && !status.success() {
            return Err(Error::Cluster(format!("perf script failed: {status}")));
        }
        root
    }
}
