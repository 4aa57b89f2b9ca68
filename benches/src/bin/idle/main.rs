//! `idle`: what groups cost to which nothing happens.
//!
//! For each number of groups: three stores and a placement on this machine, the time until every group
//! has a leader, then, once the groups sleep, the processor time of each process over a window, its
//! memory then and the most since its start, beside those of a cluster of a single group.
//!
//! Exit codes: 0 done, 1 no result, 2 wrong usage.

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::interrupt::Interrupt;
use flotilla_benches::loaded::store_addresses;
use flotilla_benches::machine;
use flotilla_benches::playground::{Options, Playground, STORES};
use flotilla_benches::processes::{self, Sample};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Groups sleep some seconds after their last entry is durable everywhere.
const SETTLE: Duration = Duration::from_secs(15);

/// Prints what idle groups cost in processor time and memory.
#[derive(Debug, Parser)]
#[command(name = "idle", version)]
struct Cli {
    /// How many groups, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000],
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    groups: Vec<u64>,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Without hibernation, to compare
    #[arg(long)]
    awake: bool,
}

/// One process in the window.
struct Cost {
    name: String,
    /// Of one core.
    percent: f64,
    mib: u64,
    /// Since the start: while all groups elected, and slept not yet.
    mib_most: u64,
}

struct Row {
    groups: u64,
    start: Duration,
    costs: Vec<Cost>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Error> {
    let interrupt = Interrupt::listen()?;
    println!("{}\n", machine::describe(None));
    println!(
        "| groups | all led after | process | CPU of a core \
         | memory | a replica | at most | a replica |"
    );
    println!("|--:|--:|---|--:|--:|--:|--:|--:|");
    let base = measure(1, cli, &interrupt)?;
    print(&base, None);
    for groups in &cli.groups {
        print(&measure(*groups, cli, &interrupt)?, Some(&base));
    }
    Ok(())
}

fn measure(groups: u64, cli: &Cli, interrupt: &Interrupt) -> Result<Row, Error> {
    let config = cli.awake.then(|| "[raft]\nhibernate_ticks = 0\n".to_owned());
    let options = Options {
        storage: "rocksdb".to_owned(),
        stores: STORES,
        regions: groups as usize,
        split_at: Vec::new(),
        log_engine: None,
        config,
    };
    let begun = Instant::now();
    let playground = Playground::start(&options, |_| {})?;
    let start = begun.elapsed();
    interrupt.sleep(SETTLE)?;
    let stores = store_addresses(playground.placement())?;
    let mut servers = processes::find(&stores, &[playground.placement().to_owned()])?;
    servers.retain(|server| server.name != processes::LOAD);
    let (from, before) = (Instant::now(), Sample::take(&servers));
    interrupt.sleep(Duration::from_secs(cli.seconds))?;
    let used = Sample::take(&servers).since(&before, &servers);
    let window = from.elapsed().as_secs_f64();
    let now = |name: &str| {
        let server = servers.iter().find(|server| server.name == name)?;
        processes::resident_mib(server.pid)
    };
    let cost = |usage: processes::Usage| Cost {
        percent: usage.cpu_s / window * 100.0,
        mib: now(&usage.name).unwrap_or(usage.rss_mib),
        mib_most: usage.rss_mib,
        name: usage.name,
    };
    let costs = used.into_iter().map(cost).collect();
    playground.stop()?;
    Ok(Row { groups, start, costs })
}

fn print(row: &Row, base: Option<&Row>) {
    for cost in &row.costs {
        let alone = base.and_then(|base| base.costs.iter().find(|other| other.name == cost.name));
        let alone = alone.filter(|_| cost.name.starts_with("store"));
        let replica = |mib: fn(&Cost) -> u64| {
            let kib = |alone: &Cost| mib(cost).saturating_sub(mib(alone)) << 10;
            let text = |alone: &Cost| format!("{:.1} KiB", kib(alone) as f64 / row.groups as f64);
            alone.map(text).unwrap_or_default()
        };
        println!(
            "| {} | {:.1} s | {} | {:.2} % | {} MiB | {} | {} MiB | {} |",
            row.groups,
            row.start.as_secs_f64(),
            cost.name,
            cost.percent,
            cost.mib,
            replica(|cost| cost.mib),
            cost.mib_most,
            replica(|cost| cost.mib_most)
        );
    }
}
