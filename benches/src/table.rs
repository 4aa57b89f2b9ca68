//! The table: the four published rows and a few more, over playgrounds of its own.
//!
//! Rows that need the same servers (storage, pipeline) share one playground; the gets come last
//! on theirs, so that most of their keys exist.

use crate::error::Error;
use crate::keys::{KeyMode, Keys, SPREAD_KEY_BYTES};
use crate::load::{self, Progress};
use crate::playground::{Options, Playground};
use crate::processes;
use crate::report::{HEADER, Row, Setup};
use crate::status;
use crate::workload::{Rpc, Workload};
use flotilla_client::Client;
use std::time::Duration;

const REGIONS: usize = 24;
const VALUE_BYTES: usize = 16;
/// Keys of the mode `spread` in the table.
pub const SPREAD_KEYS: u64 = 1_000_000;

/// A row's settings, apart from the key mode and the times.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As in `--rows`.
    pub name: &'static str,
    /// What the published program reached with these settings, on its own machines.
    pub published: Option<&'static str>,
    storage: &'static str,
    pipeline: bool,
    clients: usize,
    batching: bool,
    in_flight: usize,
    write_percent: u32,
    start_keys: bool,
}

/// All rows; the first four are the published ones.
pub const KINDS: [Kind; 7] = [
    Kind {
        name: "unbatched-one-append",
        published: Some("75 k ops/s on 3 × 16 cores"),
        storage: "memory",
        pipeline: false,
        clients: 2,
        batching: false,
        in_flight: 512,
        write_percent: 90,
        start_keys: true,
    },
    Kind {
        name: "unbatched",
        published: Some("100 k+ ops/s on 3 × 16 cores"),
        storage: "memory",
        pipeline: true,
        clients: 2,
        batching: false,
        in_flight: 512,
        write_percent: 90,
        start_keys: true,
    },
    Kind {
        name: "batched-memory",
        published: Some("400 k+ ops/s on 3 × 16 cores"),
        storage: "memory",
        pipeline: true,
        clients: 8,
        batching: true,
        in_flight: 4096,
        write_percent: 90,
        start_keys: true,
    },
    Kind {
        name: "batched-rocksdb",
        published: Some("250 k+ ops/s on 3 × 16 cores"),
        storage: "rocksdb",
        pipeline: true,
        clients: 8,
        batching: true,
        in_flight: 4096,
        write_percent: 90,
        start_keys: true,
    },
    Kind { name: "one-put", in_flight: 1, write_percent: 100, ..ONE },
    Kind { name: "one-get", in_flight: 1, write_percent: 0, ..ONE },
    Kind { name: "gets", in_flight: 512, write_percent: 0, ..ONE },
];

const ONE: Kind = Kind {
    name: "",
    published: None,
    storage: "rocksdb",
    pipeline: true,
    clients: 1,
    batching: false,
    in_flight: 1,
    write_percent: 0,
    start_keys: false,
};

impl Kind {
    /// The rows among [`KINDS`] that are compared with published figures.
    #[must_use]
    pub fn published() -> Vec<Kind> {
        KINDS.into_iter().filter(|kind| kind.published.is_some()).collect()
    }

    fn same_servers(&self, other: &Kind) -> bool {
        self.storage == other.storage && self.pipeline == other.pipeline
    }

    fn workload(&self, keys: KeyMode, times: Times) -> Workload {
        Workload {
            clients: self.clients,
            batching: self.batching,
            rpc: Rpc::Stream,
            write_percent: self.write_percent,
            key_bytes: SPREAD_KEY_BYTES,
            value_bytes: VALUE_BYTES,
            keys,
            in_flight: self.in_flight,
            seconds: times.seconds,
            warmup: times.warmup,
        }
    }

    /// The servers' storage.
    #[must_use]
    pub fn storage(&self) -> &'static str {
        self.storage
    }
}

/// How long each row runs.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The counted window.
    pub seconds: Duration,
    /// Before it.
    pub warmup: Duration,
}

/// Which key modes a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// The published program's and ours.
    Both,
    /// Spread keys only.
    SpreadOnly,
}

/// What the table tells while it runs.
pub trait Observer {
    /// A cluster is being started.
    fn starting(&mut self, text: &str);
    /// A row's load runs; `row` is its name and keys.
    fn running(&mut self, row: &str, progress: Progress);
    /// A row is finished.
    fn finished(&mut self, row: &Row);
}

/// Runs `kinds`, one playground for each kind of servers, and returns the rows with what stands
/// beside them.
pub async fn run(
    kinds: &[Kind],
    modes: Modes,
    times: Times,
    observer: &mut dyn Observer,
) -> Result<Vec<(Row, Option<&'static str>)>, Error> {
    let mut rows = Vec::new();
    for servers in kinds.chunk_by(Kind::same_servers) {
        let Kind { storage, pipeline, .. } = servers[0];
        observer.starting(&format!(
            "starting 1 placement and 3 stores: {storage}, pipeline {}",
            if pipeline { "on" } else { "off" }
        ));
        let options = Options {
            storage: storage.to_owned(),
            regions: REGIONS,
            split_at: Vec::new(),
            config: (!pipeline).then(|| "[raft]\npipeline = false\n".to_owned()),
        };
        let playground = blocking(move || Playground::start(&options, |_| {})).await?;
        for kind in servers {
            for keys in [KeyMode::StartKey, KeyMode::Spread(SPREAD_KEYS)] {
                if keys == KeyMode::StartKey && !(kind.start_keys && modes == Modes::Both) {
                    continue;
                }
                let workload = kind.workload(keys, times);
                let at = [playground.placement().to_owned()];
                let row = run_row(kind.name, &workload, &at, observer).await?;
                observer.finished(&row);
                rows.push((row, kind.published));
            }
        }
        blocking(move || playground.stop()).await?;
    }
    Ok(rows)
}

/// Runs what waits for processes away from the tasks.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.expect("starting and stopping children does not panic")
}

/// Runs one load against the cluster at `placements`.
pub async fn run_row(
    name: &str,
    workload: &Workload,
    placements: &[String],
    observer: &mut dyn Observer,
) -> Result<Row, Error> {
    workload.validate()?;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..workload.clients {
        clients.push(load::connect(placements, workload).await?);
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
    let status = status::read(&stores[0].1).await.unwrap_or_default();
    let setup = Setup {
        storage: status["storage"].as_str().map(str::to_owned),
        pipeline: status["pipeline"].as_bool(),
        sync: status["log_sync"].as_bool(),
        regions: starts.len(),
    };
    let keys = Keys::new(workload.keys, &starts, workload.key_bytes);
    let label = format!("{name}, {}", workload.keys);
    let progress = |progress| observer.running(&label, progress);
    let measured = load::run(workload, clients, keys, &servers, progress).await?;
    Ok(Row::new(name, workload, setup, measured))
}

/// The Markdown table of `rows` beside the published figures.
#[must_use]
pub fn markdown(rows: &[(Row, Option<&str>)]) -> String {
    let mut lines = vec![HEADER.to_owned()];
    lines.extend(rows.iter().map(|(row, published)| row.markdown(*published)));
    lines.join("\n")
}
