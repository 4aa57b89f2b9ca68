//! A cluster under load, for the programs that look into it from outside (`profile`, `budget`).

use crate::error::Error;
use crate::interrupt::{Interrupt, tie};
use crate::marks::Marks;
use crate::playground::{Options, Owned, Playground, sibling};
use crate::processes::{self, LOAD, Server};
use crate::suite::REGIONS;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STORES: u64 = 3;
/// From a playground's placement to its first store (contract: stores at +10…).
const STORE_PORT_OFFSET: u64 = 10;
const POLL: Duration = Duration::from_millis(50);
/// How much longer than its times a load may take.
const LATE_MAX: Duration = Duration::from_secs(30);

/// What to send, to what.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// `rocksdb` or `memory`.
    pub storage: &'static str,
    /// Client handles.
    pub clients: usize,
    /// Whether a message carries many operations.
    pub batching: bool,
    /// In total.
    pub in_flight: usize,
    /// Share of puts.
    pub write_percent: u32,
}

/// A playground with `throughput run` beside it.
pub struct Loaded {
    load: Owned,
    playground: Playground,
    started: Instant,
    total: Duration,
    json: tempfile::NamedTempFile,
    marks: tempfile::NamedTempFile,
    /// The stores and the load, by name.
    pub processes: Vec<Server>,
}

impl Loaded {
    /// Starts both; the load is counted for `seconds` after `warmup`.
    pub fn start(load: &Load, warmup: Duration, seconds: Duration) -> Result<Self, Error> {
        let options = Options {
            storage: load.storage.to_owned(),
            regions: REGIONS,
            split_at: Vec::new(),
            log_engine: None,
            config: None,
        };
        let playground = Playground::start(&options, |_| {})?;
        let file = || {
            tempfile::NamedTempFile::new().map_err(Error::system("cannot create a temporary file"))
        };
        let (json, marks) = (file()?, file()?);
        let mut command = Command::new(sibling("throughput")?);
        command.args(["run", "--placement", playground.placement()]);
        command.args(["--clients", &load.clients.to_string()]);
        command.args(["--in-flight", &load.in_flight.to_string()]);
        command.args(["--batching", if load.batching { "on" } else { "off" }]);
        command.args(["--write-percent", &load.write_percent.to_string()]);
        command.args(["--warmup", &warmup.as_secs_f64().to_string()]);
        command.args(["--seconds", &seconds.as_secs_f64().to_string()]);
        command.arg("--json").arg(json.path()).arg("--marks").arg(marks.path());
        tie(&mut command);
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = Owned::spawn("throughput", &mut command)?;
        let addresses = store_addresses(playground.placement())?;
        let mut processes = processes::find(&addresses, &[])?;
        if processes.len() < addresses.len() + 1 {
            return Err(Error::Cluster(format!("not all of {addresses:?} were found in /proc")));
        }
        // `find` takes its own process for the load.
        processes.retain(|process| process.name != LOAD);
        processes.push(Server { name: LOAD.to_owned(), pid: child.pid() });
        let (started, total) = (Instant::now(), warmup + seconds);
        Ok(Loaded { load: child, playground, started, total, json, marks, processes })
    }

    /// The stores' addresses.
    pub fn stores(&self) -> Result<Vec<(u64, String)>, Error> {
        store_addresses(self.playground.placement())
    }

    /// Waits until operations count: the warm-up is over.
    pub fn wait_counting(&self, interrupt: &Interrupt) -> Result<(), Error> {
        let until = self.started + self.total + LATE_MAX;
        while !Marks::read(self.marks.path())?.counts() {
            if Instant::now() > until {
                return Err(Error::Cluster("the load did not begin to count".to_owned()));
            }
            interrupt.sleep(POLL)?;
        }
        Ok(())
    }

    /// Waits for the end of the load, stops the cluster, and gives the load's row and its marks.
    pub fn finish(mut self, interrupt: &Interrupt) -> Result<(Value, Marks), Error> {
        let until = self.started + self.total + LATE_MAX;
        while self.load.is_running() {
            if Instant::now() > until {
                let seconds = (self.total + LATE_MAX).as_secs();
                return Err(Error::Cluster(format!("the load did not end within {seconds} s")));
            }
            interrupt.sleep(POLL)?;
        }
        self.load.stop()?;
        self.playground.stop()?;
        let text = std::fs::read_to_string(self.json.path())
            .map_err(Error::system("cannot read the load's row"))?;
        let row = serde_json::from_str(text.trim())
            .map_err(|error| Error::Cluster(format!("the load's row is not JSON: {error}")))?;
        Ok((row, Marks::read(self.marks.path())?))
    }
}

/// The addresses of a playground's stores.
pub fn store_addresses(placement: &str) -> Result<Vec<(u64, String)>, Error> {
    let unexpected = || Error::Cluster(format!("placement address {placement}: not HOST:PORT"));
    let (host, port) = placement.rsplit_once(':').ok_or_else(unexpected)?;
    let port: u64 = port.parse().map_err(|_| unexpected())?;
    let address = |store| format!("{host}:{}", port + STORE_PORT_OFFSET + store - 1);
    Ok((1..=STORES).map(|store| (store, address(store))).collect())
}
