//! `moved`: what the move of a big region to a new store costs the other regions.
//!
//! 1. Four stores and a placement on this machine; one region is filled.
//! 2. An open loop of gets and puts goes to all other regions: first for a while as it is, then while a
//!    replica of the big region is added on the store that has none, then while another one is removed.
//! 3. The latencies of the three windows stand side by side, and what the move took. The next pass
//!    moves a replica to the store that is free then.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod mover;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::keys::{KeyMode, Keys, spread_key};
use flotilla_benches::load::{self, Flotilla, Measured};
use flotilla_benches::machine;
use flotilla_benches::playground::{Options, Playground, STORES};
use flotilla_benches::processes::{self, Server};
use flotilla_benches::program::{self, JsonLines};
use flotilla_benches::regions::{fill, holds, key_in};
use flotilla_benches::table::blocking;
use flotilla_benches::workload::{Rpc, Workload};
use flotilla_client::pb::Region;
use flotilla_client::{Client, Consistency};
use mover::Mover;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

// As the other programs of the kind: the load shares the machine with the servers.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const REGIONS: usize = 24;
const VALUE_BYTES: usize = 8 << 10;
const CLIENTS: usize = 4;
const IN_FLIGHT_MAX: usize = 4_096;
/// Distinct keys of the load.
const KEYS: u64 = 100_000;
const WARMUP: Duration = Duration::from_secs(3);
/// A move that takes longer ends the run.
const MOVE_MAX: Duration = Duration::from_secs(600);
/// After the fill, until what it left is written down.
const SETTLE: Duration = Duration::from_secs(15);
/// How long a removed replica is looked at: its records go after it.
const REMOVAL: Duration = Duration::from_secs(10);
/// For calls while the cluster is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of the moved region that are read at its new place.
const SAMPLES: u64 = 1_000;
/// How much worse than before the 99th percentile may become.
const AIM: f64 = 2.0;

/// Moves a big region between stores and prints what that costs the other regions.
#[derive(Debug, Parser)]
#[command(name = "moved", version)]
struct Cli {
    /// Size of the region, in MiB
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    mib: u64,
    /// Operations a second on the other regions, half of them puts
    #[arg(long, default_value_t = 5_000.0, value_parser = rate)]
    rate: f64,
    /// How long to measure before each move, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Moves
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    passes: u16,
    /// What holds the data
    #[arg(long, default_value = "rocksdb", value_parser = ["rocksdb", "memory"])]
    storage: String,
    /// Settings of all stores, a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Append each window to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1.0..=1e6).contains(rate));
    rate.ok_or_else(|| "expected operations a second, from 1 to 1000000".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::run("moved", run(&cli))
}

async fn run(cli: &Cli) -> Result<(), Error> {
    println!("{}\n", machine::here());
    let config = cli.config.as_ref().map(std::fs::read_to_string).transpose();
    let options = Options {
        storage: cli.storage.clone(),
        stores: STORES + 1,
        regions: REGIONS,
        split_at: Vec::new(),
        log_engine: None,
        config: config.map_err(Error::system("--config"))?,
    };
    let playground = blocking(move || Playground::start(&options, |_| {})).await?;
    let bench = Bench::prepare(cli, playground.placement()).await?;
    let (mut ratios, mut newest) = (Vec::new(), 0);
    println!("| pass | window | seconds | ops/s | errors | p50 | p99 | p99.9 | longest, ms |");
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    for pass in 1..=cli.passes {
        let (ratio, to) = bench.pass(pass).await?;
        ratios.push(ratio);
        newest = to;
    }
    bench.check(newest).await?;
    blocking(move || playground.stop()).await?;
    ratios.sort_by(f64::total_cmp);
    // Of two the worse one.
    let median = ratios[ratios.len() / 2];
    let verdict = if median <= AIM { "reached" } else { "NOT REACHED" };
    println!(
        "\np99 of the other regions during the move against before: {median:.2} × (median of {} \
         moves; aim: at most {AIM} ×: {verdict})",
        ratios.len()
    );
    Ok(())
}

/// A cluster with its big region.
struct Bench<'a> {
    cli: &'a Cli,
    json: JsonLines,
    placement: String,
    client: Client,
    region: Region,
    servers: Vec<Server>,
    others: Keys,
    records: u64,
}

impl<'a> Bench<'a> {
    async fn prepare(cli: &'a Cli, placement: &str) -> Result<Bench<'a>, Error> {
        let at = [placement.to_owned()];
        let client = Client::connect(&at).await.map_err(said)?.with_timeout(PATIENCE);
        let routes = client.routes().await.map_err(said)?;
        let first = routes.regions.first().cloned();
        let region = first.ok_or_else(|| Error::Cluster("there are no regions".to_owned()))?;
        let records = cli.mib * (1 << 20) / VALUE_BYTES as u64;
        let begun = Instant::now();
        fill(&client, records, |number| record(&region, number)).await?;
        println!(
            "one of {REGIONS} regions filled with {records} records of {VALUE_BYTES} bytes in \
             {:.1} s; {} operations a second on the others, half of them puts\n",
            begun.elapsed().as_secs_f64(),
            cli.rate
        );
        tokio::time::sleep(SETTLE).await;
        let stores: Vec<_> = routes.stores.iter().map(|s| (s.store, s.address.clone())).collect();
        let others = (0..KEYS).map(spread_key).filter(|key| !holds(&region, key)).collect();
        Ok(Bench {
            cli,
            json: JsonLines::append(cli.json.as_deref())?,
            placement: placement.to_owned(),
            client,
            region,
            servers: processes::find(&stores, &at)?,
            others: Keys::Listed(others),
            records,
        })
    }

    /// The 99th percentile of the worse window of the move against the one before it, and where the
    /// replica is now.
    async fn pass(&self, pass: u16) -> Result<(f64, u64), Error> {
        let before = self.window(Duration::from_secs(self.cli.seconds), std::future::pending());
        let before = before.await?;
        self.show(pass, "before", &before)?;
        let mover = Mover::choose(&self.client, &self.placement, self.region.group).await?;
        let (adding, added) = self.during(mover.add()).await?;
        self.show(pass, "a replica is added", &adding)?;
        let (removing, removed) = self
            .during(async {
                let removed = mover.remove().await;
                tokio::time::sleep(REMOVAL).await;
                removed
            })
            .await?;
        self.show(pass, "another is removed", &removing)?;
        println!(
            "\npass {pass}: from store {} to store {}: {} MiB; first block after {:.1} s, all after \
             {:.1} s, votes after {:.1} s; the old replica gone after {:.1} s more\n",
            mover.from,
            mover.to,
            added.bytes >> 20,
            added.first.as_secs_f64(),
            added.received.as_secs_f64(),
            added.voter.as_secs_f64(),
            removed.as_secs_f64()
        );
        let p99 = |measured: &Measured| measured.latency_us.value_at_quantile(0.99);
        let during = p99(&adding).max(p99(&removing));
        Ok((during as f64 / p99(&before).max(1) as f64, mover.to))
    }

    /// The load while `work` runs, and what came of it.
    async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<(Measured, T), Error> {
        let mut result = None;
        let ended = async { result = Some(work.await) };
        let measured = self.window(MOVE_MAX, ended).await?;
        let late = || Error::Cluster(format!("the move took longer than {MOVE_MAX:?}"));
        Ok((measured, result.ok_or_else(late)??))
    }

    async fn window(
        &self,
        seconds: Duration,
        ended: impl Future<Output = ()>,
    ) -> Result<Measured, Error> {
        let workload = Workload {
            clients: CLIENTS,
            batching: true,
            rpc: Rpc::Stream,
            write_percent: 50,
            consistency: Consistency::Linearizable,
            key_bytes: 16,
            value_bytes: 100,
            keys: KeyMode::Spread(KEYS),
            in_flight: IN_FLIGHT_MAX,
            rate: Some(self.cli.rate),
            seconds,
            warmup: WARMUP,
        };
        workload.validate()?;
        let mut targets = Vec::new();
        for _ in 0..CLIENTS {
            let client =
                Flotilla::connect(std::slice::from_ref(&self.placement), &workload).await?;
            targets.push(Flotilla::new(&client));
        }
        load::run_until(&workload, targets, self.others.clone(), &self.servers, ended).await
    }

    fn show(&self, pass: u16, window: &str, measured: &Measured) -> Result<(), Error> {
        let at = |quantile: f64| measured.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        let (seconds, longest) = (measured.took.as_secs_f64(), measured.latency_us.max());
        println!(
            "| {pass} | {window} | {seconds:.1} | {:.0} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            measured.ops as f64 / seconds,
            measured.errors,
            at(0.5),
            at(0.99),
            at(0.999),
            longest as f64 / 1e3
        );
        for (text, count) in &measured.error_texts {
            println!("{count} errors: {text}");
        }
        let cpu: Vec<_> = measured
            .processes
            .iter()
            .map(|p| json!({ "name": p.name, "cpu_s": p.cpu_s }))
            .collect();
        self.json.write(&json!({
            "pass": pass, "window": window, "mib": self.cli.mib, "storage": self.cli.storage,
            "rate": self.cli.rate, "seconds": seconds, "ops": measured.ops,
            "errors": measured.errors, "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999),
            "max_ms": longest as f64 / 1e3, "busy_percent": measured.shares.busy_percent,
            "steal_percent": measured.shares.steal_percent, "processes": cpu,
        }))
    }

    /// The region is whole on `store`, which leads it from here on.
    async fn check(&self, store: u64) -> Result<(), Error> {
        mover::order(&self.placement, self.region.group, "transfer-leader", store).await?;
        let step = (self.records / SAMPLES).max(1);
        for number in (0..self.records).step_by(usize::try_from(step).unwrap_or(1)) {
            let (key, value) = record(&self.region, number);
            let got = self.client.get(key).await.map_err(said)?;
            if got.value.as_ref() != Some(&value) {
                return Err(Error::Cluster(format!("record {number} is not what was put")));
            }
        }
        Ok(())
    }
}

fn record(region: &Region, number: u64) -> (bytes::Bytes, bytes::Bytes) {
    (key_in(region, number), format!("{number:08}").repeat(VALUE_BYTES / 8).into())
}

fn said(error: flotilla_client::Error) -> Error {
    Error::Cluster(error.to_string())
}
