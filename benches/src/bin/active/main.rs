//! `active`: what idle groups take from busy ones.
//!
//! The same load goes to 24 groups of a cluster that has no others, and to 24 groups of one that has
//! many more, turn by turn, each time on a cluster of its own. In both the 24 are led by all stores
//! alike; the others are asleep by then.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::keys::{KeyMode, Keys};
use flotilla_benches::leaders::Leaders;
use flotilla_benches::load::{self, Flotilla, Measured};
use flotilla_benches::machine;
use flotilla_benches::playground::{Options, Playground, STORES};
use flotilla_benches::processes;
use flotilla_benches::program::{self, JsonLines};
use flotilla_benches::regions::key_in;
use flotilla_benches::table::{SPREAD_MAX, blocking};
use flotilla_benches::workload::{Rpc, Workload};
use flotilla_client::pb::{Region, RoutesResponse};
use flotilla_client::{Client, Consistency};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

// As the other programs of the kind: the load shares the machine with the servers.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Groups that are busy.
const BUSY: usize = 24;
/// Distinct keys of the load.
const KEYS: u64 = 1_000_000;
const CLIENTS: usize = 8;
const IN_FLIGHT: usize = 4_096;
/// Groups sleep some seconds after their last entry is durable everywhere.
const SETTLE: Duration = Duration::from_secs(15);
const WARMUP: Duration = Duration::from_secs(3);
/// Share of the throughput of 24 groups alone.
const AIM_PERCENT: f64 = 97.0;

/// Prints what idle groups take from the throughput of busy ones.
#[derive(Debug, Parser)]
#[command(name = "active", version)]
struct Cli {
    /// Groups in all, of which 24 are busy
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(24..=65_536))]
    groups: u64,
    /// Length of each window, in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Pairs of clusters
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    passes: u16,
    /// What holds the data
    #[arg(long, default_value = "rocksdb", value_parser = ["rocksdb", "memory"])]
    storage: String,
    /// Append each window to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::run("active", run(&cli))
}

async fn run(cli: &Cli) -> Result<(), Error> {
    let json = JsonLines::append(cli.json.as_deref())?;
    println!("{}\n", machine::here());
    println!(
        "| pass | groups | busy | ops/s | errors | p50 | p99, ms | server CPU µs an operation |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    for pass in 1..=cli.passes {
        // The first of a pair has another machine than the second: they take turns in that, too.
        let mut order = [(BUSY, &mut alone), (cli.groups as usize, &mut among)];
        if pass.is_multiple_of(2) {
            order.reverse();
        }
        for (groups, rates) in order {
            rates.push(window(cli, &json, pass, groups).await?);
        }
    }
    let shares = among.iter().zip(&alone).map(|(among, alone)| among / alone * 100.0).collect();
    let (of_pairs, of_medians) = (median(shares), median(among) / median(alone) * 100.0);
    let verdict = if of_medians >= AIM_PERCENT { "reached" } else { "NOT REACHED" };
    println!(
        "\n{BUSY} busy groups among {} reach {of_medians:.1} % of what {BUSY} alone do (medians; median \
         of the pairs {of_pairs:.1} %; aim: {AIM_PERCENT} %: {verdict})",
        cli.groups
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

/// Operations a second on 24 of so many groups.
async fn window(cli: &Cli, json: &JsonLines, pass: u16, groups: usize) -> Result<f64, Error> {
    let options = Options {
        storage: cli.storage.clone(),
        stores: STORES,
        regions: groups,
        split_at: Vec::new(),
        log_engine: None,
        config: None,
    };
    let playground = blocking(move || Playground::start(&options, |_| {})).await?;
    tokio::time::sleep(SETTLE).await;
    let at = [playground.placement().to_owned()];
    let workload = Workload {
        clients: CLIENTS,
        batching: true,
        rpc: Rpc::Stream,
        write_percent: 90,
        consistency: Consistency::Linearizable,
        key_bytes: 16,
        value_bytes: 16,
        keys: KeyMode::Spread(KEYS),
        in_flight: IN_FLIGHT,
        rate: None,
        seconds: Duration::from_secs(cli.seconds),
        warmup: WARMUP,
    };
    workload.validate()?;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Flotilla::connect(&at, &workload).await?);
    }
    let routes = clients[0].routes().await;
    let routes = routes.map_err(|error| Error::Cluster(error.to_string()))?;
    let stores: Vec<_> = routes.stores.iter().map(|s| (s.store, s.address.clone())).collect();
    let servers = processes::find(&stores, &at)?;
    let busy = busy(&routes)?;
    let keys = (0..KEYS).map(|i| key_in(busy[(i % BUSY as u64) as usize], i)).collect();
    let before = Leaders::wait_even(&stores, groups, SPREAD_MAX).await;
    let targets = clients.iter().map(Flotilla::new).collect();
    let measured = load::run(&workload, targets, Keys::Listed(keys), &servers, |_| {}).await?;
    let after = Leaders::read(&stores).await;
    if before != after {
        eprintln!("pass {pass}, {groups} groups: leaders moved while it was measured");
    }
    blocking(move || playground.stop()).await?;
    show(json, pass, groups, &measured)
}

/// As many of each leader's store as of any other.
fn busy(routes: &RoutesResponse) -> Result<Vec<&Region>, Error> {
    let each = BUSY / usize::from(STORES);
    let mut busy = Vec::new();
    for store in &routes.stores {
        let led: Vec<&Region> =
            routes.regions.iter().filter(|region| region.leader_store == store.store).collect();
        if led.len() < each {
            let text = format!("store {} leads {} groups, not {each}", store.store, led.len());
            return Err(Error::Cluster(text));
        }
        // From all over the key space.
        busy.extend(led.iter().step_by(led.len() / each).take(each));
    }
    Ok(busy)
}

fn show(json: &JsonLines, pass: u16, groups: usize, measured: &Measured) -> Result<f64, Error> {
    if measured.ops == 0 {
        return Err(Error::Cluster(format!("pass {pass}: not one operation succeeded")));
    }
    let rate = measured.ops as f64 / measured.took.as_secs_f64();
    let at = |quantile: f64| measured.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let of_servers = measured.processes.iter().filter(|p| p.name != processes::LOAD);
    let cpu_us = of_servers.map(|p| p.cpu_s).sum::<f64>() * 1e6 / measured.ops as f64;
    println!(
        "| {pass} | {groups} | {BUSY} | {rate:.0} | {} | {:.2} | {:.2} | {cpu_us:.2} |",
        measured.errors,
        at(0.5),
        at(0.99)
    );
    json.write(&json!({
        "pass": pass, "groups": groups, "busy": BUSY, "ops_per_s": rate, "errors": measured.errors,
        "p50_ms": at(0.5), "p99_ms": at(0.99), "server_cpu_us_per_op": cpu_us,
        "steal_percent": measured.shares.steal_percent,
    }))?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_client::pb::Store;

    #[test]
    fn busy_groups_are_led_by_all_stores_alike() {
        let store = |store| Store { store, ..Store::default() };
        let region = |region| Region { region, leader_store: region % 3 + 1, ..Region::default() };
        let routes = RoutesResponse {
            stores: (1..=3).map(store).collect(),
            regions: (0..1_000).map(region).collect(),
            ..RoutesResponse::default()
        };
        let busy = busy(&routes).unwrap();
        assert_eq!(busy.len(), BUSY);
        for store in 1..=3 {
            assert_eq!(busy.iter().filter(|region| region.leader_store == store).count(), 8);
        }
        let few = RoutesResponse { regions: (0..12).map(region).collect(), ..routes };
        assert!(super::busy(&few).unwrap_err().to_string().contains("leads 4 groups"));
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![4.0, 1.0, 3.0]), 3.0);
    }
}
