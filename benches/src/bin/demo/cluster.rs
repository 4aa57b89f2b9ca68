//! The demo's cluster: the playground, and the store that the demo itself brings back.

use flotilla_benches::interrupt::tie;
use flotilla_benches::playground::{Options, Owned, Playground, STORES, signal};
use flotilla_benches::processes::{self, Server, served_address};
use flotilla_benches::{Error, table};
use rustix::process::Signal;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// A store as the demo sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its id.
    pub id: u64,
    /// Where it listens.
    pub address: String,
}

/// The running servers. Dropping it ends them all.
pub struct Cluster {
    // Ended first: it belongs to the demo, not to the playground.
    restarted: Option<Owned>,
    playground: Playground,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// Starts it; `show` gets what the playground prints.
    pub async fn start(
        split_at: Vec<String>,
        show: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = printed.clone();
        let options = Options {
            storage: "rocksdb".to_owned(),
            stores: STORES,
            regions: 24,
            split_at,
            log_engine: None,
            config: None,
        };
        let listener = move |line: &str| {
            lines.lock().expect("nobody panics with it").push(line.to_owned());
            show(line);
        };
        let start = move || Playground::start(&options, listener);
        let playground = table::blocking(start).await?;
        Ok(Cluster { restarted: None, playground, printed })
    }

    /// The placement's address.
    pub fn placement(&self) -> &str {
        self.playground.placement()
    }

    /// The process that serves `store` now.
    pub fn process_of(&self, store: &Store) -> Result<Server, Error> {
        let servers = processes::find(&[(store.id, store.address.clone())], &[])?;
        let name = format!("store-{}", store.id);
        servers
            .into_iter()
            .find(|server| server.name == name)
            .ok_or_else(|| Error::Cluster(format!("no process serves {}", store.address)))
    }

    /// SIGKILL to the store's process; returns its process id.
    pub fn kill(&self, store: &Store) -> Result<i32, Error> {
        let server = self.process_of(store)?;
        signal(server.pid, Signal::KILL);
        Ok(server.pid)
    }

    /// Runs the command that the playground printed for `store`, and returns it.
    pub fn restart(&mut self, store: &Store) -> Result<String, Error> {
        let command = self.printed_command(&store.address).ok_or_else(|| {
            Error::Cluster(format!("the playground printed no command for {}", store.address))
        })?;
        let log = self.playground.dir().join("restarted.log");
        let log = std::fs::File::create(&log).map_err(Error::system("cannot write a log"))?;
        let errors = log.try_clone().map_err(Error::system("cannot write a log"))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {command}"));
        tie(&mut shell);
        shell.stdout(log).stderr(errors);
        self.restarted = Some(Owned::spawn("the restarted store", &mut shell)?);
        Ok(command)
    }

    /// Whether the restarted store still runs.
    pub fn restarted_runs(&mut self) -> bool {
        self.restarted.as_mut().is_none_or(Owned::is_running)
    }

    /// Stops everything; an error when anything does not end by itself with status 0.
    pub async fn stop(self) -> Result<(), Error> {
        table::blocking(move || {
            let Cluster { restarted, playground, .. } = self;
            let store = restarted.map_or(Ok(()), |mut store| store.stop());
            playground.stop().and(store)
        })
        .await
    }

    /// From a line `  store-2: COMMAND` whose command serves `address`.
    fn printed_command(&self, address: &str) -> Option<String> {
        let printed = self.printed.lock().expect("nobody panics with it");
        printed.iter().find_map(|line| {
            let (_, command) = line.trim().split_once(": ")?;
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            (served_address(&words) == Some(address)).then(|| command.to_owned())
        })
    }
}
