//! `perf record` over one process, and its samples as folded stacks.

use flotilla_benches::Error;
use flotilla_benches::playground::Owned;
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
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
    let output = Command::new("perf")
        .args(["record", "--output", "/dev/null", "--event", "cpu-clock", "--", "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system("cannot start perf: install it (Debian: linux-perf)"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Cluster(format!(
        "perf cannot sample here; as root, or after `sysctl kernel.perf_event_paranoid=1`, it \
         usually can. It said: {}",
        text.trim()
    )))
}

/// A recording that runs, or is done.
pub struct Recording {
    perf: Owned,
    data: tempfile::NamedTempFile,
    time: Duration,
}

impl Recording {
    /// Starts to record `pid` for `time`.
    pub fn start(pid: i32, time: Duration) -> Result<Self, Error> {
        let data = tempfile::NamedTempFile::new()
            .map_err(Error::system("cannot create a temporary file"))?;
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY]);
        command.args(["--call-graph", CALL_GRAPH, "--pid", &pid.to_string(), "--output"]);
        command.arg(data.path()).arg("--").args(["sleep", &time.as_secs_f64().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Recording { perf: Owned::spawn("perf", &mut command)?, data, time })
    }

    /// Waits until it is done.
    pub fn wait(&mut self) -> Result<(), Error> {
        let until = std::time::Instant::now() + self.time + WRITE_MAX;
        while self.perf.is_running() && std::time::Instant::now() < until {
            std::thread::sleep(POLL);
        }
        self.perf.stop()
    }

    /// Unwinds and folds the samples.
    pub fn fold(&self) -> Result<Stacks, Error> {
        let text = tempfile::NamedTempFile::new()
            .map_err(Error::system("cannot create a temporary file"))?;
        let out = text.reopen().map_err(Error::system("cannot open a temporary file"))?;
        let status = Command::new("perf")
            .args(["script", "--no-inline", "--input"])
            .arg(self.data.path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .status()
            .map_err(Error::system("cannot start perf script"))?;
        if !status.success() {
            return Err(Error::Cluster(format!("perf script failed: {status}")));
        }
        let file = text.reopen().map_err(Error::system("cannot open a temporary file"))?;
        let mut folded = Vec::new();
        Folder::default()
            .collapse(BufReader::new(file), &mut folded)
            .map_err(Error::system("cannot fold the samples"))?;
        Stacks::parse(&String::from_utf8_lossy(&folded))
    }
}

/// Folded stacks: `thread;caller;…;function` and the nanoseconds that each was sampled for.
#[derive(Debug)]
pub struct Stacks(Vec<(String, u64)>);

impl Stacks {
    fn parse(folded: &str) -> Result<Self, Error> {
        let line = |line: &str| {
            let (stack, count) = line.rsplit_once(' ')?;
            Some((stack.to_owned(), count.parse().ok()?))
        };
        let stacks: Vec<_> = folded.lines().filter_map(line).collect();
        if stacks.is_empty() {
            return Err(Error::Cluster("perf took no sample: did the process idle?".to_owned()));
        }
        Ok(Stacks(stacks))
    }

    /// Nanoseconds of CPU of all samples.
    pub fn total_ns(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Functions by their own share of the samples, in percent.
    pub fn top(&self, count: usize) -> Vec<(&str, f64)> {
        let mut own: HashMap<&str, u64> = HashMap::new();
        for (stack, count) in &self.0 {
            let leaf = stack.rsplit_once(';').map_or(stack.as_str(), |(_, leaf)| leaf);
            *own.entry(leaf).or_default() += count;
        }
        let mut own: Vec<_> = own.into_iter().collect();
        own.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let all = self.total_ns() as f64;
        own.into_iter().take(count).map(|(name, n)| (name, n as f64 * 100.0 / all)).collect()
    }

    /// Writes the flame graph.
    pub fn draw(&self, title: &str, path: &Path) -> Result<(), Error> {
        let failed = || Error::system(format!("cannot write {}", path.display()));
        let lines: Vec<String> =
            self.0.iter().map(|(stack, count)| format!("{stack} {count}")).collect();
        let mut options = flamegraph::Options::default();
        options.title = title.to_owned();
        options.count_name = "ns".to_owned();
        let file = File::create(path).map_err(failed())?;
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), file)
            .map_err(failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_functions_own_samples() {
        let stacks =
            Stacks::parse("net;main;read 30\nnet;main 10\nlog;main;sync;read 60\n").unwrap();
        assert_eq!(stacks.total_ns(), 100);
        assert_eq!(stacks.top(2), [("read", 90.0), ("main", 10.0)]);
        assert!(Stacks::parse("").is_err());
    }

    #[test]
    fn a_flame_graph_is_drawn() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Stacks::parse("net;main;read 3\n").unwrap().draw("a title", file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        assert!(svg.contains("a title") && svg.contains("read (3 ns"), "{svg}");
    }
}
