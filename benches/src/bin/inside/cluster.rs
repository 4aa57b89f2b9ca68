//! The measured cluster: a placement and three stores with a load inside, as direct children.

use crate::drive;
use crate::protocol::{Groups, Order, Tally, Work};
use flotilla_benches::Error;
use flotilla_benches::interrupt::{Interrupt, tie};
use flotilla_benches::leaders::is_even;
use flotilla_benches::load::DRAIN_MAX;
use flotilla_benches::machine::{self, MachineTime, Shares};
use flotilla_benches::playground::{Owned, clear_settings, free_ports, sibling};
use flotilla_benches::processes::{Sample, Server, Usage};
use flotilla_kvserver::config::Storage;
use flotilla_raftstore::{Clock, SystemClock};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const STORES: usize = 3;
/// Time for elections and for placement to spread the leaders.
const EVEN_MAX: Duration = Duration::from_secs(60);
const EVEN_POLL: Duration = Duration::from_millis(100);
/// From the order to the load's first request: a store sorts its keys first.
const LEAD_IN: Duration = Duration::from_millis(500);
/// How long a store that has nothing to wait for may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether the end was asked for.
const HEAR_POLL: Duration = Duration::from_millis(50);

/// A store process and the two ends of its pipes.
struct Member {
    child: Owned,
    orders: ChildStdin,
    answers: Answers,
    number: usize,
}

/// What a store says, read by a thread of its own: it may say nothing for ever.
struct Answers(Receiver<String>);

/// See the module. Dropping it stops everything.
pub struct Cluster {
    stores: Vec<Member>,
    placement: Owned,
    regions: usize,
    dir: tempfile::TempDir,
}

/// What all stores counted over one window.
pub struct Measured {
    /// One a store.
    pub tallies: Vec<Tally>,
    /// The window's length.
    pub window: Duration,
    /// Use of every process.
    pub processes: Vec<Usage>,
    /// What the machine's processors did.
    pub shares: Shares,
    /// Load average of the last minute.
    pub load_average: f64,
    /// Groups.
    pub regions: usize,
    /// Distinct keys of the puts.
    pub keys: u64,
    /// What the stores' folders lie on.
    pub file_system: Option<String>,
}

impl Cluster {
    /// Starts everything; [`Cluster::wait_even`] waits until it serves.
    pub fn start(storage: Storage, regions: u32) -> Result<Self, Error> {
        let dir = tempfile::Builder::new()
            .prefix("flotilla-inside-")
            .tempdir()
            .map_err(Error::system("cannot create a temporary folder"))?;
        let base = free_ports()?;
        let address = |offset: usize| format!("127.0.0.1:{}", usize::from(base) + offset);
        let mut command = Command::new(sibling("placement")?);
        clear_settings(&mut command, "FLOTILLA_");
        command.arg("run").arg("--dir").arg(dir.path().join("placement"));
        command.args(["--addr", &address(0), "--stores", &STORES.to_string()]);
        command.args(["--regions", &regions.to_string()]);
        tie(&mut command);
        command.stdout(Stdio::null());
        command.stderr(log(dir.path(), "placement")?);
        let placement = Owned::spawn("placement", &mut command)?;
        let mut stores = Vec::new();
        for number in 1..=STORES {
            stores.push(Member::start(number, &address(number), &address(0), storage, dir.path())?);
        }
        Ok(Cluster { stores, placement, regions: regions as usize, dir })
    }

    /// Waits until every group has a leader and each store leads as many, give or take one.
    pub fn wait_even(&mut self, interrupt: &Interrupt) -> Result<(), Error> {
        let until = Instant::now() + EVEN_MAX;
        loop {
            let mut groups: Vec<Groups> = Vec::new();
            for store in &mut self.stores {
                store.tell(&Order::Groups)?;
                groups.push(store.hear(ANSWER_MAX, interrupt)?);
            }
            let led: Vec<usize> = groups.iter().map(|g| g.led.len()).collect();
            let complete = groups.iter().all(|g| g.all == self.regions);
            if complete && is_even(&led, self.regions) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::Cluster(format!(
                    "after {} s the stores lead {led:?} of {} groups",
                    EVEN_MAX.as_secs(),
                    self.regions
                )));
            }
            interrupt.sleep(EVEN_POLL)?;
        }
    }

    /// One load over all stores, `in_flight` in total.
    pub fn run(
        &mut self,
        work: Work,
        in_flight: usize,
        warmup: Duration,
        window: Duration,
        interrupt: &Interrupt,
    ) -> Result<Measured, Error> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).expect("at most an hour");
        let start_ns = SystemClock.now().0 + nanos(LEAD_IN + warmup);
        let end_ns = start_ns + nanos(window);
        for (at, store) in self.stores.iter_mut().enumerate() {
            let share = in_flight / STORES + usize::from(at < in_flight % STORES);
            store.tell(&Order::Run { work, in_flight: share, start_ns, end_ns })?;
        }
        let servers = self.servers();
        sleep_until(start_ns, interrupt)?;
        let (before, machine_before) = (Sample::take(&servers), MachineTime::now()?);
        sleep_until(end_ns, interrupt)?;
        let (after, machine_after) = (Sample::take(&servers), MachineTime::now()?);
        let load_average = machine::load_average()?;
        let mut tallies = Vec::new();
        for store in &mut self.stores {
            tallies.push(store.hear(DRAIN_MAX + ANSWER_MAX, interrupt)?);
        }
        Ok(Measured {
            tallies,
            window,
            processes: after.since(&before, &servers),
            shares: machine_after.since(machine_before),
            load_average,
            regions: self.regions,
            keys: drive::KEYS,
            file_system: machine::file_system(self.dir.path()),
        })
    }

    fn servers(&self) -> Vec<Server> {
        let placement = Server { name: "placement-1".to_owned(), pid: self.placement.pid() };
        let store = |s: &Member| Server { name: format!("store-{}", s.number), pid: s.child.pid() };
        std::iter::once(placement).chain(self.stores.iter().map(store)).collect()
    }

    /// Stops all processes; an error when one does not end cleanly.
    pub fn stop(mut self) -> Result<(), Error> {
        for store in &mut self.stores {
            store.child.stop()?;
        }
        self.placement.stop()
    }
}

impl Member {
    fn start(
        number: usize,
        address: &str,
        placement: &str,
        storage: Storage,
        dir: &Path,
    ) -> Result<Self, Error> {
        let own =
            std::env::current_exe().map_err(Error::system("cannot tell this program's file"))?;
        let name = format!("store-{number}");
        let mut command = Command::new(own);
        clear_settings(&mut command, "FLOTILLA_");
        command.arg("store").arg("--dir").arg(dir.join(&name));
        command.args(["--addr", address, "--placement", placement]);
        command.args(["--storage", &storage.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log(dir, &name)?);
        let mut child = Owned::spawn("a store", &mut command)?;
        let (orders, answers) = child.pipes();
        Ok(Member { child, orders, answers: Answers::of(answers), number })
    }

    fn tell(&mut self, order: &Order) -> Result<(), Error> {
        let line = serde_json::to_string(order).expect("plain structs are JSON");
        writeln!(self.orders, "{line}")
            .map_err(Error::system(format!("store-{} takes no orders", self.number)))
    }

    fn hear<T: DeserializeOwned>(&self, most: Duration, interrupt: &Interrupt) -> Result<T, Error> {
        let no_answer =
            |text: String| Error::Cluster(format!("store-{} gave no answer: {text}", self.number));
        let line = self.answers.next(most, interrupt)?.map_err(no_answer)?;
        serde_json::from_str(&line).map_err(|error| no_answer(error.to_string()))
    }
}

impl Answers {
    fn of(output: ChildStdout) -> Self {
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more after an interruption.
                let _ = sender.send(line);
            }
        });
        Answers(answers)
    }

    /// The next line, or why none came within `most`; an error as soon as the end is asked for.
    fn next(&self, most: Duration, interrupt: &Interrupt) -> Result<Result<String, String>, Error> {
        let until = Instant::now() + most;
        loop {
            match self.0.recv_timeout(HEAR_POLL) {
                Ok(line) => return Ok(Ok(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Err("it ended".to_owned())),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Ok(Err(format!("none within {} s", most.as_secs_f64())));
                }
                Err(RecvTimeoutError::Timeout) => interrupt.sleep(Duration::ZERO)?,
            }
        }
    }
}

fn log(dir: &Path, name: &str) -> Result<std::fs::File, Error> {
    std::fs::File::create(dir.join(format!("{name}.log")))
        .map_err(Error::system("cannot write a log"))
}

fn sleep_until(at_ns: u64, interrupt: &Interrupt) -> Result<(), Error> {
    let left = at_ns.saturating_sub(SystemClock.now().0);
    interrupt.sleep(Duration::from_nanos(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_says_nothing_or_ends_is_told() {
        let (sender, lines) = channel();
        let (answers, interrupt) = (Answers(lines), Interrupt::default());
        let next = || answers.next(Duration::from_millis(10), &interrupt).unwrap();
        assert_eq!(next().unwrap_err(), "none within 0.01 s");
        sender.send("{}".to_owned()).unwrap();
        assert_eq!(next().unwrap(), "{}");
        interrupt.ask("SIGTERM");
        assert!(answers.next(Duration::from_secs(60), &interrupt).is_err(), "the end is heard");
        drop(sender);
        assert_eq!(next().unwrap_err(), "it ended");
    }
}
