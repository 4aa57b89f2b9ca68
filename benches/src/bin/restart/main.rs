//! `restart`: how long many groups do not answer when stores end and start again.
//!
//! Three stores and a placement on this machine, some records in every group. Then, several times each: one
//! store is killed with -9 and started at once, one is stopped and started, all are killed and
//! started. Each time a client puts a record into every group and reads it back, linearizably, from
//! the moment of the start on; the stores are level once each of their replicas knows its leader and
//! has applied what is committed.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

mod stores;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::machine;
use flotilla_benches::playground::{Options, Playground, STORES};
use flotilla_benches::program::{self, JsonLines};
use flotilla_benches::regions::{fill, key_in};
use flotilla_benches::table::blocking;
use flotilla_client::pb::Region;
use flotilla_client::{Client, Error as ClientError};
use rustix::process::Signal;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use stores::Stores;

const VALUE_BYTES: usize = 100;
/// Of a call: a group that takes longer to answer ends the run.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Between two restarts.
const SETTLE: Duration = Duration::from_secs(8);
/// In seconds, until the last group answers.
const AIM: f64 = 5.0;
/// Numbers of the records that are put after a restart begin here.
const PROBES: u64 = 1 << 32;

/// Prints how long groups do not answer after restarts of their stores.
#[derive(Debug, Parser)]
#[command(name = "restart", version)]
struct Cli {
    /// How many groups
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    groups: u64,
    /// Records in each group
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    records: u64,
    /// How often each kind of restart
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    passes: u16,
    /// What holds the data
    #[arg(long, default_value = "rocksdb", value_parser = ["rocksdb", "memory"])]
    storage: String,
    /// What keeps the log; the store's default when not given
    #[arg(long, value_parser = ["raft-engine", "rocksdb"])]
    log_engine: Option<String>,
    /// Append each restart to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How stores end.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    all: bool,
    signal: Signal,
}

const KINDS: [Kind; 3] = [
    Kind { name: "one killed", all: false, signal: Signal::KILL },
    Kind { name: "one stopped", all: false, signal: Signal::TERM },
    Kind { name: "all killed", all: true, signal: Signal::KILL },
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::run("restart", run(&cli))
}

async fn run(cli: &Cli) -> Result<(), Error> {
    let json = JsonLines::append(cli.json.as_deref())?;
    println!("{}\n", machine::here());
    let options = Options {
        storage: cli.storage.clone(),
        stores: STORES,
        regions: cli.groups as usize,
        split_at: Vec::new(),
        log_engine: cli.log_engine.clone(),
        config: None,
    };
    let playground = blocking(move || Playground::start(&options, |_| {})).await?;
    let client = Client::connect(&[playground.placement().to_owned()]).await.map_err(said)?;
    let client = client.with_timeout(ANSWER_MAX);
    let routes = client.routes().await.map_err(said)?;
    let addresses = routes.stores.iter().map(|s| (s.store, s.address.clone())).collect();
    let mut stores = Stores::new(playground, addresses);
    let count = routes.regions.len() as u64;
    println!(
        "{count} groups of {} records on {STORES} stores; seconds from the start of the processes, in \
         brackets of the median group\n",
        cli.records
    );
    println!("| pass | stores | ended after | last group answers (median) | all level |");
    println!("|--:|---|--:|--:|--:|");
    let mut worst = [0.0_f64; KINDS.len()];
    for pass in 1..=cli.passes {
        // Written just before: not all of it is in the state machines yet.
        fill(&client, cli.records * count, |number| {
            let region = &routes.regions[(number % count) as usize];
            (key_in(region, number / count), vec![b'v'; VALUE_BYTES].into())
        })
        .await?;
        for (kind, worst) in KINDS.iter().zip(&mut worst) {
            let which = usize::from(pass) % usize::from(STORES);
            let ending = Instant::now();
            stores.end(*kind, which).await?;
            let ended = ending.elapsed().as_secs_f64();
            let begun = Instant::now();
            stores.start()?;
            let mut answered = answers(&client, &routes.regions, pass, begun).await?;
            answered.sort();
            stores.wait_level(count as usize, ANSWER_MAX).await?;
            let level = begun.elapsed().as_secs_f64();
            let (median, last) = (answered[answered.len() / 2], answered[answered.len() - 1]);
            let (median, last) = (median.as_secs_f64(), last.as_secs_f64());
            *worst = worst.max(last);
            let name = kind.name;
            println!("| {pass} | {name} | {ended:.2} | {last:.2} ({median:.2}) | {level:.2} |");
            json.write(&json!({
                "pass": pass, "kind": name, "groups": count, "ended_s": ended, "last_s": last,
                "median_s": median, "level_s": level, "storage": cli.storage,
                "log_engine": cli.log_engine,
            }))?;
            tokio::time::sleep(SETTLE).await;
        }
    }
    stores.stop().await?;
    println!();
    for (kind, worst) in KINDS.iter().zip(worst) {
        let verdict = if worst <= AIM { "reached" } else { "NOT REACHED" };
        println!("{}: {worst:.2} s at most (aim: {AIM} s: {verdict})", kind.name);
    }
    Ok(())
}

/// Puts and reads back one record in every region; when each was done, counted from `begun`.
async fn answers(
    client: &Client,
    regions: &[Region],
    pass: u16,
    begun: Instant,
) -> Result<Vec<Duration>, Error> {
    let mut tasks = tokio::task::JoinSet::new();
    for region in regions {
        let (client, key) = (client.clone(), key_in(region, PROBES + u64::from(pass)));
        let group = region.group;
        tasks.spawn(async move {
            let failed = |error| Error::Cluster(format!("group {group}: {error}"));
            while let Err(error) = client.put(key.clone(), "probe").await {
                if !matches!(error, ClientError::Unknown { .. }) {
                    return Err(failed(error));
                }
            }
            let got = client.get(key).await.map_err(failed)?;
            if got.value.as_deref() != Some(&b"probe"[..]) {
                return Err(Error::Cluster(format!("group {group} lost what was just put")));
            }
            Ok(begun.elapsed())
        });
    }
    let mut answered = Vec::new();
    while let Some(done) = tasks.join_next().await {
        answered.push(done.map_err(|error| Error::Cluster(error.to_string()))??);
    }
    Ok(answered)
}

fn said(error: ClientError) -> Error {
    Error::Cluster(error.to_string())
}
