//! Drives Flotilla, then etcd, with the same rows.

use super::etcd::{self, Cluster};
use super::{KEYS, PREFIX};
use crate::error::Error;
use crate::keys::{KeyMode, Keys, SPREAD_KEY_BYTES};
use crate::load;
use crate::machine;
use crate::playground::{Options, Playground, STORES};
use crate::processes::{self, why_incomplete};
use crate::report::{Row, Setup};
use crate::suite::REGIONS;
use crate::table::{self, Observer, Times, blocking};
use crate::workload::{BATCH_OPS_MAX, Rpc, Workload};
use flotilla_client::Consistency;

/// Name, in flight, percent of writes.
const ROWS: [(&str, usize, u32); 6] = [
    ("put-1", 1, 100),
    ("put-64", 64, 100),
    ("put-512", 512, 100),
    ("mix-512", 512, 90),
    ("get-1", 1, 0),
    ("get-512", 512, 0),
];
/// Transactions of 100 puts in flight.
const TRANSACTIONS: usize = 64;
/// The row of batches and transactions.
const BATCHES: &str = "put-100";

/// How many rows a pass has.
pub const ROWS_A_PASS: usize = 3 * ROWS.len() + 2;

/// Runs all passes. A system that does not start costs its rows of that pass, a row that cannot be
/// measured costs itself.
pub async fn run(times: Times, observer: &mut dyn Observer) -> Result<(), Error> {
    let version = etcd::version()?;
    for pass in 1..=times.passes {
        observer.starting(&format!("pass {pass} of {}: starting Flotilla", times.passes));
        flotilla(times, pass, observer).await?;
        observer
            .starting(&format!("pass {pass} of {}: starting 3 nodes of {version}", times.passes));
        peer(times, pass, &version, observer).await?;
    }
    Ok(())
}

async fn flotilla(times: Times, pass: usize, observer: &mut dyn Observer) -> Result<(), Error> {
    let options = Options {
        storage: "rocksdb".to_owned(),
        stores: STORES,
        regions: REGIONS,
        split_at: Vec::new(),
        log_engine: None,
        config: None,
    };
    let playground = match blocking(move || Playground::start(&options, |_| {})).await {
        Ok(playground) => playground,
        Err(error) => {
            observer.failed("all rows of Flotilla", &error);
            return Ok(());
        }
    };
    let at = [playground.placement().to_owned()];
    let mut rows = Vec::new();
    for (name, in_flight, write_percent) in ROWS {
        for rpc in [Rpc::Unary, Rpc::Stream] {
            rows.push((name, workload(times, rpc, false, in_flight, write_percent)));
        }
    }
    rows.push((BATCHES, workload(times, Rpc::Stream, true, TRANSACTIONS * BATCH_OPS_MAX, 100)));
    for (name, workload) in rows {
        let name = format!("{PREFIX}{name}");
        match table::run_own(&name, &workload, &at, observer).await {
            Ok(row) => observer.finished(row, pass)?,
            Err(error) => observer.failed(&format!("{name}, {}", workload.rpc.name()), &error),
        }
    }
    if let Err(error) = blocking(move || playground.stop()).await {
        observer.failed("stopping Flotilla", &error);
    }
    Ok(())
}

async fn peer(
    times: Times,
    pass: usize,
    version: &str,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let cluster = match Cluster::start().await {
        Ok(cluster) => cluster,
        Err(error) => {
            observer.failed(&format!("all rows of {version}"), &error);
            return Ok(());
        }
    };
    let mut rows: Vec<_> = ROWS
        .into_iter()
        .map(|(name, in_flight, percent)| {
            (name, workload(times, Rpc::Unary, false, in_flight, percent))
        })
        .collect();
    rows.push((BATCHES, workload(times, Rpc::Unary, true, TRANSACTIONS, 100)));
    for (name, workload) in rows {
        match etcd_row(name, &workload, &cluster, version, observer).await {
            Ok(mut row) => {
                if workload.batching {
                    row.sent.in_flight *= BATCH_OPS_MAX;
                }
                observer.finished(row, pass)?;
            }
            Err(error) => observer.failed(&format!("{PREFIX}{name}, {version}"), &error),
        }
    }
    Ok(())
}

async fn etcd_row(
    name: &str,
    workload: &Workload,
    cluster: &Cluster,
    version: &str,
    observer: &mut dyn Observer,
) -> Result<Row, Error> {
    let mut targets = Vec::new();
    for _ in 0..workload.clients {
        targets.push(cluster.connect(workload.batching).await?);
    }
    let mut servers = cluster.servers();
    servers.extend(processes::find(&[], &[])?);
    let label = format!("{version}, {name}");
    let progress = |progress| observer.running(&label, progress);
    let keys = Keys::new(workload.keys, &[], workload.key_bytes);
    let measured = load::run(workload, targets, keys, &servers, progress).await?;
    let setup = Setup {
        storage: Some("etcd".to_owned()),
        sync: Some(true),
        regions: 1,
        file_system: machine::file_system(cluster.dir()),
        ..Setup::default()
    };
    let nodes: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
    let missing = why_incomplete(&measured.processes, &nodes);
    let mut row = Row::new(&format!("{PREFIX}{name}"), workload.into(), setup, measured, missing);
    row.system = Some(version.to_owned());
    Ok(row)
}

fn workload(
    times: Times,
    rpc: Rpc,
    batching: bool,
    in_flight: usize,
    write_percent: u32,
) -> Workload {
    Workload {
        clients: in_flight.min(2),
        batching,
        rpc,
        write_percent,
        consistency: Consistency::default(),
        key_bytes: SPREAD_KEY_BYTES,
        value_bytes: 16,
        keys: KeyMode::Spread(KEYS),
        in_flight,
        rate: None,
        seconds: times.seconds,
        warmup: times.warmup,
    }
}
