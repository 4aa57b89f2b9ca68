//! Runs rows of the [`suite`](crate::suite) over clusters that it starts and stops itself.
//!
//! 1. Each pass goes over all rows, so that repetitions of a row lie far apart in time: what
//!    disturbs the machine for a minute does not hit all of them.
//! 2. Open-loop rows come last, in passes and on clusters of their own: the rates that they offer are
//!    shares of the median of all passes of the row [`MAXIMUM`].
//! 3. A row is written as soon as it is measured: a run that is cut short leaves what it has.
//! 4. A cluster that does not start costs its rows, not the table.
//! 5. Before the first row that only reads a cluster is filled.

use crate::error::Error;
use crate::keys::{KeyMode, Keys};
use crate::leaders::{self, Leaders};
use crate::load::{self, Flotilla, Progress};
use crate::machine;
use crate::median;
use crate::playground::Playground;
use crate::processes::{self, OURS, why_incomplete};
use crate::report::{Row, Setup};
use crate::status;
use crate::suite::{Kind, MAXIMUM};
use crate::workload::Workload;
use flotilla_client::Client;
use flotilla_kvserver::config::KvSettings;
use flotilla_raftstore::log::LogEngine;
use std::time::Duration;

/// How long leaders may take to spread before a row.
pub const SPREAD_MAX: Duration = Duration::from_secs(20);

/// Fillings of a cluster before a row that only reads.
const FILLS_MAX: usize = 10;

/// How long each row runs, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The counted window.
    pub seconds: Duration,
    /// Before it.
    pub warmup: Duration,
    /// Passes over all rows.
    pub passes: usize,
}

/// What the table tells while it runs.
pub trait Observer {
    /// A cluster is being started.
    fn starting(&mut self, text: &str);
    /// A row's load runs; `row` is its name and keys.
    fn running(&mut self, row: &str, progress: Progress);
    /// A row of pass `pass` is finished. An error ends the table.
    fn finished(&mut self, row: Row, pass: usize) -> Result<(), Error>;
    /// Rows that could not be measured, and why.
    fn failed(&mut self, rows: &str, error: &Error);
}

/// Runs all passes over `kinds`, one cluster for each kind of servers.
pub async fn run(kinds: &[Kind], times: Times, observer: &mut dyn Observer) -> Result<(), Error> {
    let (open, closed): (Vec<Kind>, Vec<Kind>) =
        kinds.iter().partition(|kind| kind.share.is_some());
    let mut maxima = Vec::new();
    run_passes(&closed, times, None, &mut maxima, observer).await?;
    let maximum = median::lower(maxima);
    run_passes(&open, times, maximum, &mut Vec::new(), observer).await
}

/// `maximum` is what open loops take their shares of; `maxima` gets the rates of its row.
async fn run_passes(
    kinds: &[Kind],
    times: Times,
    maximum: Option<f64>,
    maxima: &mut Vec<f64>,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    for pass in 1..=times.passes {
        for kinds in kinds.chunk_by(|a, b| a.servers == b.servers) {
            let servers = kinds[0].servers;
            observer.starting(&format!(
                "pass {pass} of {}: starting 1 placement and 3 stores: {}",
                times.passes,
                servers.text()
            ));
            let options = servers.options();
            match blocking(move || Playground::start(&options, |_| {})).await {
                Ok(playground) => {
                    let run = Pass { times, pass, maximum };
                    run.rows(kinds, &playground, maxima, observer).await?;
                    if let Err(error) = blocking(move || playground.stop()).await {
                        observer.failed(&format!("stopping after {}", names(kinds)), &error);
                    }
                }
                Err(error) => observer.failed(&names(kinds), &error),
            }
        }
    }
    Ok(())
}

fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

/// One pass over rows that share a cluster.
struct Pass {
    times: Times,
    pass: usize,
    maximum: Option<f64>,
}

impl Pass {
    async fn rows(
        &self,
        kinds: &[Kind],
        playground: &Playground,
        maxima: &mut Vec<f64>,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let at = [playground.placement().to_owned()];
        // The keys most of which are there.
        let mut filled = None;
        for kind in kinds {
            if kind.share.is_some() && self.maximum.is_none() {
                let missing = format!("the row {MAXIMUM} with spread keys gave no rate to take of");
                observer.failed(kind.name, &Error::Cluster(missing));
                continue;
            }
            let workload = kind.workload(self.times.seconds, self.times.warmup, self.maximum);
            if workload.write_percent == 0 && filled != Some(workload.keys) {
                let name = format!("{}: its records", kind.name);
                if let Err(error) = fill(&name, &workload.filling(), &at, observer).await {
                    observer.failed(kind.name, &error);
                    continue;
                }
                filled = Some(workload.keys);
            }
            match run_own(kind.name, &workload, &at, observer).await {
                Ok(mut row) => {
                    row.invalid = row.invalid.take().or_else(|| wrong_servers(kind, &row));
                    row.sent.offered_percent = kind.share;
                    if row.invalid.is_none() && workload.fills(row.ops) {
                        filled = Some(workload.keys);
                    }
                    let spread = matches!(kind.keys, KeyMode::Spread(_));
                    if kind.name == MAXIMUM && spread && row.invalid.is_none() {
                        maxima.push(row.ops_per_s);
                    }
                    observer.finished(row, self.pass)?;
                }
                Err(error) => observer.failed(kind.name, &error),
            }
        }
        Ok(())
    }
}

/// Puts until most of the keys are there.
async fn fill(
    name: &str,
    filling: &Workload,
    placements: &[String],
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let mut ops = 0;
    for _ in 0..FILLS_MAX {
        let row = run_own(name, filling, placements, observer).await?;
        if let Some(why) = row.invalid {
            return Err(Error::Cluster(why));
        }
        ops += row.ops;
        if filling.fills(ops) {
            return Ok(());
        }
    }
    Err(Error::Cluster(format!("{ops} puts are too few for the keys {}", filling.keys)))
}

/// Runs one load against a cluster of three stores and a placement on this machine, each of which
/// must be measured.
pub async fn run_own(
    name: &str,
    workload: &Workload,
    placements: &[String],
    observer: &mut dyn Observer,
) -> Result<Row, Error> {
    let mut row = run_row(name, workload, placements, SPREAD_MAX, observer).await?;
    row.invalid = row.invalid.take().or_else(|| why_incomplete(&row.processes, &OURS));
    Ok(row)
}

/// Servers that are not what the row is named after.
fn wrong_servers(kind: &Kind, row: &Row) -> Option<String> {
    let (asked, got) = (kind.servers, &row.setup);
    let wrong = |what: &str, is: String| Some(format!("{what} of the servers is {is}"));
    if got.storage.as_deref() != Some(asked.storage) {
        return wrong("storage", format!("{:?}", got.storage));
    }
    if got.pipeline != Some(asked.pipeline) || got.sync != Some(asked.sync) {
        return wrong("pipeline, sync", format!("{:?}, {:?}", got.pipeline, got.sync));
    }
    let log_engine = asked.log_engine.unwrap_or(LogEngine::default().name());
    if got.log_engine.as_deref() != Some(log_engine) {
        return wrong("log engine", format!("{:?} instead of {log_engine}", got.log_engine));
    }
    let table_bytes = if asked.direct { 0 } else { KvSettings::default().table_bytes_max };
    let table_mib = (table_bytes >> 20) as u64;
    if got.kv_table_mib != Some(table_mib) {
        return wrong("kv_table_mib", format!("{:?} instead of {table_mib}", got.kv_table_mib));
    }
    None
}

/// Runs what waits for processes away from the tasks.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.expect("starting and stopping children does not panic")
}

/// Runs one load against the cluster at `placements`, once its leaders are spread evenly or
/// `patience` is over.
pub async fn run_row(
    name: &str,
    workload: &Workload,
    placements: &[String],
    patience: Duration,
    observer: &mut dyn Observer,
) -> Result<Row, Error> {
    workload.validate()?;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..workload.clients {
        clients.push(Flotilla::connect(placements, workload).await?);
    }
    let routes = clients[0].routes().await.map_err(|error| {
        Error::Cluster(format!("the cluster does not tell its regions: {error}"))
    })?;
    let starts: Vec<_> = routes.regions.iter().map(|region| region.start.clone()).collect();
    if starts.is_empty() || routes.stores.is_empty() {
        return Err(Error::Cluster("the cluster has no regions yet".to_owned()));
    }
    let stores: Vec<_> = routes.stores.iter().map(|s| (s.store, s.address.clone())).collect();
    let servers = processes::find(&stores, placements)?;
    let mut setup = read_setup(&stores[0].1, starts.len()).await;
    let data = processes::data_folder(&servers);
    setup.file_system = data.and_then(|folder| machine::file_system(&folder));
    let keys = Keys::new(workload.keys, &starts, workload.key_bytes);
    let label = format!("{name}, {}", workload.keys);

    let before = Leaders::wait_even(&stores, starts.len(), patience).await;
    let targets = clients.iter().map(Flotilla::new).collect();
    let progress = |progress| observer.running(&label, progress);
    let measured = load::run(workload, targets, keys, &servers, progress).await?;
    let after = Leaders::read(&stores).await;
    let invalid = leaders::why_invalid(before.as_ref(), after.as_ref(), starts.len());
    Ok(Row::new(name, workload.into(), setup, measured, invalid))
}

async fn read_setup(address: &str, regions: usize) -> Setup {
    let status = status::read(address).await.unwrap_or_default();
    let text = |field: &str| status[field].as_str().map(str::to_owned);
    Setup {
        storage: text("storage"),
        pipeline: status["pipeline"].as_bool(),
        sync: status["log_sync"].as_bool(),
        regions,
        log_engine: text("log_engine"),
        kv_table_mib: status["kv_table_mib"].as_u64(),
        file_system: None,
    }
}
