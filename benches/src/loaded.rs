//! A cluster under the load of a row of the [`suite`](crate::suite), for the programs that look into
//! it from outside (`profile`, `budget`).

use crate::error::Error;
use crate::interrupt::{Interrupt, tie};
use crate::marks::Marks;
use crate::playground::{Owned, Playground, STORES, sibling};
use crate::processes::{self, LOAD, Server};
use crate::report::on_off;
use crate::suite::Kind;
use crate::workload::Workload;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// From a playground's placement to its first store (contract: stores at +10…).
const STORE_PORT_OFFSET: u64 = 10;
const POLL: Duration = Duration::from_millis(50);
/// How much longer than its times a load may take.
const LATE_MAX: Duration = Duration::from_secs(30);

/// A playground with `throughput run` beside it.
pub struct Loaded {
    load: Owned,
    playground: Playground,
    until: Instant,
    json: tempfile::NamedTempFile,
    marks: tempfile::NamedTempFile,
    /// The stores, the placement and the load, by name.
    pub processes: Vec<Server>,
}

impl Loaded {
    /// Starts both; the load is counted for `seconds` after `warmup`. `maximum` is what an open-loop
    /// row takes its share of. A row that only reads finds most of its keys.
    pub fn start(
        kind: &Kind,
        warmup: Duration,
        seconds: Duration,
        maximum: Option<f64>,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        let workload = kind.workload(seconds, warmup, maximum);
        if kind.share.is_some() && workload.rate.is_none() {
            return Err(Error::Invalid(format!(
                "{} takes its share of a maximum: give the operations a second with --maximum",
                kind.name
            )));
        }
        let playground = Playground::start(&kind.servers.options(), |_| {})?;
        let placement = playground.placement().to_owned();
        if workload.write_percent == 0 {
            let fill = workload.filling();
            let mut filling = spawn(&mut command(&fill, &placement)?)?;
            wait_for_end(&mut filling, Instant::now() + fill.seconds + LATE_MAX, interrupt)?;
            filling.stop()?;
        }
        let file = || {
            tempfile::NamedTempFile::new().map_err(Error::system("cannot create a temporary file"))
        };
        let (json, marks) = (file()?, file()?);
        let mut command = command(&workload, &placement)?;
        command.arg("--json").arg(json.path()).arg("--marks").arg(marks.path());
        let load = spawn(&mut command)?;
        let until = Instant::now() + warmup + seconds + LATE_MAX;
        let addresses = store_addresses(&placement)?;
        let mut processes = processes::find(&addresses, std::slice::from_ref(&placement))?;
        if processes.len() < addresses.len() + 2 {
            let all = "the placement and its three stores";
            return Err(Error::Cluster(format!("not all of {all} at {placement} are in /proc")));
        }
        // `find` takes its own process for the load.
        processes.retain(|process| process.name != LOAD);
        processes.push(Server { name: LOAD.to_owned(), pid: load.pid() });
        Ok(Loaded { load, playground, until, json, marks, processes })
    }

    /// The stores' addresses.
    pub fn stores(&self) -> Result<Vec<(u64, String)>, Error> {
        store_addresses(self.playground.placement())
    }

    /// Waits until operations count: the warm-up is over.
    pub fn wait_counting(&mut self, interrupt: &Interrupt) -> Result<(), Error> {
        while !Marks::read(self.marks.path())?.counts() {
            if !self.load.is_running() {
                // It said why on standard error.
                self.load.stop()?;
                return Err(Error::Cluster("the load ended before it began to count".to_owned()));
            }
            if Instant::now() > self.until {
                return Err(Error::Cluster("the load did not begin to count".to_owned()));
            }
            interrupt.sleep(POLL)?;
        }
        Ok(())
    }

    /// Waits for the end of the load, stops the cluster, and gives the load's row and its marks.
    pub fn finish(mut self, interrupt: &Interrupt) -> Result<(Value, Marks), Error> {
        wait_for_end(&mut self.load, self.until, interrupt)?;
        self.load.stop()?;
        self.playground.stop()?;
        let text = std::fs::read_to_string(self.json.path())
            .map_err(Error::system("cannot read the load's row"))?;
        let row = serde_json::from_str(text.trim())
            .map_err(|error| Error::Cluster(format!("the load's row is not JSON: {error}")))?;
        Ok((row, Marks::read(self.marks.path())?))
    }
}

fn wait_for_end(load: &mut Owned, until: Instant, interrupt: &Interrupt) -> Result<(), Error> {
    while load.is_running() {
        if Instant::now() > until {
            return Err(Error::Cluster("the load did not end in time".to_owned()));
        }
        interrupt.sleep(POLL)?;
    }
    Ok(())
}

/// `throughput run` with `workload`.
fn command(workload: &Workload, placement: &str) -> Result<Command, Error> {
    let mut command = Command::new(sibling("throughput")?);
    command.args(["run", "--placement", placement]).args(flags(workload));
    Ok(command)
}

/// `workload` as flags of `throughput run`.
fn flags(workload: &Workload) -> Vec<String> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    flag("--clients", workload.clients.to_string());
    flag("--in-flight", workload.in_flight.to_string());
    flag("--batching", on_off(workload.batching).to_owned());
    flag("--rpc", workload.rpc.name().to_owned());
    flag("--write-percent", workload.write_percent.to_string());
    flag("--consistency", workload.consistency.to_string());
    flag("--key-bytes", workload.key_bytes.to_string());
    flag("--value-bytes", workload.value_bytes.to_string());
    flag("--keys", workload.keys.to_string());
    flag("--warmup", workload.warmup.as_secs_f64().to_string());
    flag("--seconds", workload.seconds.as_secs_f64().to_string());
    if let Some(rate) = workload.rate {
        flag("--rate", rate.to_string());
    }
    flags
}

fn spawn(command: &mut Command) -> Result<Owned, Error> {
    tie(command);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    Owned::spawn("throughput", command)
}

/// The addresses of a playground's stores.
pub fn store_addresses(placement: &str) -> Result<Vec<(u64, String)>, Error> {
    let unexpected = || Error::Cluster(format!("placement address {placement}: not HOST:PORT"));
    let (host, port) = placement.rsplit_once(':').ok_or_else(unexpected)?;
    let port: u64 = port.parse().map_err(|_| unexpected())?;
    let address = |store| format!("{host}:{}", port + STORE_PORT_OFFSET + store - 1);
    Ok((1..=u64::from(STORES)).map(|store| (store, address(store))).collect())
}

/// Rows of the table by name, for a command line.
#[must_use]
pub fn row_names() -> clap::builder::PossibleValuesParser {
    crate::suite::names().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;
    use flotilla_client::Consistency;

    #[test]
    fn a_row_with_lease_reads_is_run_with_lease_reads() {
        let kind = suite::find("gets-512-lease").unwrap();
        let second = Duration::from_secs(1);
        let workload = kind.workload(second, second, None);
        assert_eq!(workload.consistency, Consistency::Lease);
        let flags = flags(&workload);
        assert!(flags.windows(2).any(|pair| pair == ["--consistency", "lease"]), "{flags:?}");
        let fill = workload.filling();
        assert_eq!((fill.write_percent, fill.keys), (100, workload.keys));
    }

    #[test]
    fn an_open_loop_asks_for_its_maximum_before_anything_starts() {
        let (kind, second) = (suite::find("open-50").unwrap(), Duration::from_secs(1));
        let started = Loaded::start(&kind, second, second, None, &Interrupt::default());
        let error = started.err().unwrap();
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("--maximum"));
    }
}
