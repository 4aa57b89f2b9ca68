//! A cluster as a user starts it: `kvserver playground` and the `kv` tool.

use crate::process::{Process, command, free_ports, run_within};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// How long a playground may take until it says that it is ready.
const READY_MAX: Duration = Duration::from_secs(90);
/// Limit of one `kv` call; its own deadlines are shorter.
const KV_MAX: Duration = Duration::from_secs(60);
/// Limit of one silence in an HTTP answer.
const HTTP_MAX: Duration = Duration::from_secs(10);
/// Placement at the base port, stores from +10 on.
const PORTS: u16 = 20;

/// See the module. Dropping it kills the playground, and that ends its children.
pub struct Playground {
    process: Process,
    output: PathBuf,
    base_port: u16,
}

impl Playground {
    /// Starts three stores in `dir` and waits for the line `ready placement=…`.
    ///
    /// # Panics
    /// When that takes longer than a minute and a half.
    #[must_use]
    pub fn start(dir: &Path, flags: &[&str]) -> Playground {
        let base_port = free_ports(PORTS);
        let mut words =
            vec!["playground".to_owned(), "--dir".to_owned(), dir.display().to_string()];
        words.extend(["--base-port".to_owned(), base_port.to_string()]);
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        let output = dir.with_extension(format!("{base_port}.out"));
        let process = Process::new("playground", "kvserver", words, output.clone());
        let mut playground = Playground { process, output, base_port };
        playground.process.start();
        let ready = format!("ready placement={}", playground.placement());
        playground.wait_line(READY_MAX, |line| line == ready);
        playground
    }

    /// `HOST:PORT` of placement.
    #[must_use]
    pub fn placement(&self) -> String {
        format!("127.0.0.1:{}", self.base_port)
    }

    /// The playground's own process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All lines that it printed so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a line and gives it.
    ///
    /// # Panics
    /// When none comes within `limit`, or the playground ended.
    pub fn wait_line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let running = self.process.is_running();
            if let Some(line) = self.lines().into_iter().find(|line| wanted(line)) {
                return line;
            }
            assert!(running, "the playground ended: {}", self.process.log_tail());
            assert!(Instant::now() < deadline, "no such line: {}", self.process.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs `kv` against this cluster.
    #[must_use]
    pub fn kv(&self, words: &[&str]) -> Kv {
        kv(&self.placement(), words)
    }
}

/// What a `kv` call said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Kv {
    /// Standard output as JSON lines.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

impl From<Output> for Kv {
    fn from(output: Output) -> Kv {
        Kv {
            code: output.status.code().expect("ended by itself"),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// Runs `kv --placement placement words…`.
#[must_use]
pub fn kv(placement: &str, words: &[&str]) -> Kv {
    let mut kv = command("kv");
    kv.args(["--placement", placement]).args(words);
    run_within(kv, KV_MAX).into()
}

/// Status code and body of `GET http://address/path`.
///
/// # Panics
/// When nothing answers.
#[must_use]
pub fn http_get(address: &str, path: &str) -> (u16, String) {
    try_http_get(address, path).unwrap_or_else(|error| panic!("GET {path} of {address}: {error}"))
}

/// The same for a server that may not be there.
///
/// # Errors
/// When nothing answers in time, or not in HTTP.
pub fn try_http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(HTTP_MAX))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parts = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    });
    parts.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
