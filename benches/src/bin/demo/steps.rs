//! The steps of the demo, in order. Each says what it does, and fails where a promise is broken.

use crate::Args;
use crate::cluster::{Cluster, Store};
use crate::consumers::{self, Consumers, Ledger};
use crate::leaders::Leaders;
use crate::pauses::{self, Pauses};
use crate::screen::{Rows, Screen};
use crate::{layout, metadata, places};
use flotilla_benches::keys::KeyMode;
use flotilla_benches::playground::sibling;
use flotilla_benches::report::{Row, thousands};
use flotilla_benches::suite;
use flotilla_benches::table::{self, Times};
use flotilla_benches::{Error, machine};
use flotilla_client::Client;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many steps there are.
pub const STEPS: usize = 9;

/// Client handles that the consumers share.
const CLIENTS: usize = 4;
/// Commits before the kill, and between the writes' return and the restart.
const CALM: Duration = Duration::from_secs(4);
/// Longest pause of writes that is promised.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Answers that the dead store had sent may still arrive for so long; no election is as fast.
const LATE_ANSWERS: Duration = Duration::from_millis(200);
/// Waiting for anything longer than this has failed.
const WAIT_MAX: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(100);

/// What a killed store left behind.
struct Outage {
    victim: Store,
    led: Vec<u64>,
    killed: Instant,
}

/// Runs all of it.
pub async fn run(args: &Args, screen: &mut Screen) -> Result<(), Error> {
    println!("Flotilla at its main job, on {}.", machine::here());
    screen.step("Start a cluster: 1 placement, 3 stores, RocksDB, every log write synced");
    let mut cluster = start(args, screen).await?;
    let client = connect(&cluster).await?;
    let routes = routes(&client).await?;
    let regions = routes.regions.len();
    screen.say(&format!("{regions} regions; leaders: {}", Leaders::of(&routes)));

    screen.step("Import message-queue metadata, written by a real RocketMQ broker");
    kv(&cluster, "import", &args.data).await?;

    screen.step(&format!("{} live consumers commit their offsets, all the time", args.consumers));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&cluster).await?);
    }
    let consumers = Consumers::start(&clients, layout::live_keys(usize::from(args.consumers)));
    commit_for(CALM, &consumers, screen).await;

    screen.step("Kill the store that leads most regions, with SIGKILL");
    let outage = kill(&cluster, &client, screen).await?;
    wait_resumed(&consumers, &outage, screen).await?;
    commit_for(CALM, &consumers, screen).await;

    screen.step("Bring it back");
    let back = restart(&mut cluster, &client, &outage, &consumers, regions, screen).await?;
    commit_for(CALM / 2, &consumers, screen).await;

    screen.step("Check every acknowledged offset with linearizable reads");
    let ledgers = consumers.stop().await;
    let commits = check(&client, &ledgers, screen).await?;
    let acknowledged: Vec<_> = ledgers.iter().flat_map(|l| l.times.iter().copied()).collect();
    let pauses = pauses::measure(&acknowledged, outage.killed, &outage.led_by(&acknowledged));
    show_pauses(&pauses, screen)?;

    screen.step("Export the imported metadata and compare");
    let files = export(&cluster, &args.data, screen).await?;

    screen.step("Stop the cluster");
    drop((client, clients));
    let began = Instant::now();
    cluster.stop().await?;
    screen.say(&format!("stopped cleanly in {:.1} s", began.elapsed().as_secs_f64()));

    screen.step("The four rows of the throughput table, each over a fresh cluster");
    let rows = throughput(args, screen).await?;
    screen.end();
    conclude(&Proof { args, commits, outage, pauses, back, files, rows }, screen);
    Ok(())
}

fn broken<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Cluster(text.into()))
}

async fn start(args: &Args, screen: &mut Screen) -> Result<Cluster, Error> {
    if !args.data.is_dir() {
        return broken(format!("--data {} is no folder", args.data.display()));
    }
    let show = screen.printer();
    screen.busy("waiting until every region has a leader");
    let split_at = layout::split_at(usize::from(args.consumers));
    Cluster::start(split_at, show).await
}

async fn connect(cluster: &Cluster) -> Result<Client, Error> {
    Client::connect(&[cluster.placement()])
        .await
        .map_err(|error| Error::Cluster(format!("cannot connect: {error}")))
}

async fn routes(client: &Client) -> Result<flotilla_client::pb::RoutesResponse, Error> {
    client.routes().await.map_err(|error| Error::Cluster(format!("no routes: {error}")))
}

/// `kv import|export rocketmq FOLDER`; it draws its own progress.
async fn kv(cluster: &Cluster, verb: &str, folder: &Path) -> Result<(), Error> {
    let mut command = tokio::process::Command::new(sibling("kv")?);
    command.arg("--placement").arg(cluster.placement());
    command.args([verb, "rocketmq"]).arg(folder).args(["--cluster", layout::IMPORTED]);
    let status = command.kill_on_drop(true).status().await;
    let status = status.map_err(Error::system("cannot run kv"))?;
    if status.success() {
        return Ok(());
    }
    broken(format!("kv {verb} rocketmq {} ended with {status}", folder.display()))
}

async fn commit_for(time: Duration, consumers: &Consumers, screen: &mut Screen) {
    let (began, first) = (Instant::now(), consumers.acknowledged());
    while began.elapsed() < time {
        tokio::time::sleep(POLL).await;
        let rate = (consumers.acknowledged() - first) as f64 / began.elapsed().as_secs_f64();
        let total = thousands(consumers.acknowledged());
        screen.busy(format!("{total} commits acknowledged, {rate:.0} a second"));
    }
    let rate = (consumers.acknowledged() - first) as f64 / began.elapsed().as_secs_f64();
    let total = thousands(consumers.acknowledged());
    screen.say(&format!("{total} commits acknowledged so far, {rate:.0} a second"));
}

async fn kill(cluster: &Cluster, client: &Client, screen: &Screen) -> Result<Outage, Error> {
    let leaders = Leaders::of(&routes(client).await?);
    screen.say(&format!("regions led: {leaders}"));
    let Some((victim, led)) = leaders.busiest() else { return broken("no store leads a region") };
    let pid = cluster.kill(victim)?;
    let killed = Instant::now();
    screen.say(&format!("killed store-{} (pid {pid}), leader of {} regions", victim.id, led.len()));
    Ok(Outage { victim: victim.clone(), led: led.to_vec(), killed })
}

impl Outage {
    /// The victim's regions that the consumers write to.
    fn led_by(&self, acknowledged: &[pauses::Acknowledged]) -> Vec<u64> {
        let written = |region: &u64| acknowledged.iter().any(|a| a.region == *region);
        self.led.iter().copied().filter(written).collect()
    }
}

async fn wait_resumed(
    consumers: &Consumers,
    outage: &Outage,
    screen: &mut Screen,
) -> Result<(), Error> {
    loop {
        let waiting = consumers.without_commit_since(outage.killed + LATE_ANSWERS, &outage.led);
        let seconds = outage.killed.elapsed().as_secs_f64();
        if waiting == 0 {
            screen.say(&format!("every region takes commits again, {seconds:.2} s after the kill"));
            return Ok(());
        }
        if outage.killed.elapsed() > WAIT_MAX {
            return broken(format!(
                "{waiting} regions take no commits {seconds:.0} s after the kill"
            ));
        }
        screen.busy(format!("{waiting} regions wait for a new leader, {seconds:.1} s"));
        tokio::time::sleep(POLL / 10).await;
    }
}

/// Restarts the victim; returns how long catching up took, and spreading the leaders.
async fn restart(
    cluster: &mut Cluster,
    client: &Client,
    outage: &Outage,
    consumers: &Consumers,
    regions: usize,
    screen: &mut Screen,
) -> Result<(Duration, Duration), Error> {
    let down = outage.killed.elapsed();
    let began = Instant::now();
    let command = cluster.restart(&outage.victim)?;
    screen.say(&format!("after {:.1} s of absence: {command}", down.as_secs_f64()));
    let stores = Leaders::of(&routes(client).await?).stores();
    let mut caught_up = None;
    while began.elapsed() < WAIT_MAX {
        if !cluster.restarted_runs() {
            return broken("the restarted store ended again");
        }
        let commits = thousands(consumers.acknowledged());
        if caught_up.is_none() {
            let behind = behind(&outage.victim, &stores, regions).await;
            if behind == Some(0) {
                caught_up = Some(began.elapsed());
                let seconds = began.elapsed().as_secs_f64();
                screen.say(&format!("caught up with every region in {seconds:.2} s"));
            }
            let text = behind.map_or("is starting".to_owned(), |n| format!("{n} regions behind"));
            screen.busy(format!("store-{} {text}; {commits} commits", outage.victim.id));
        } else {
            let leaders = Leaders::of(&routes(client).await?);
            if let (true, Some(caught_up)) = (leaders.is_even(regions), caught_up) {
                let spread = began.elapsed();
                let seconds = spread.as_secs_f64();
                screen.say(&format!("leaders spread again after {seconds:.2} s: {leaders}"));
                return Ok((caught_up, spread));
            }
            screen.busy(format!("leaders move: {leaders}; {commits} commits"));
        }
        tokio::time::sleep(POLL).await;
    }
    let leaders = Leaders::of(&routes(client).await?);
    match caught_up {
        None => broken(format!("store-{} did not catch up in time", outage.victim.id)),
        Some(_) => broken(format!("leaders did not spread again: {leaders}")),
    }
}

/// Regions in which `store` has not applied what any store knew as committed a moment before.
/// `None` while it does not answer.
async fn behind(store: &Store, all: &[Store], regions: usize) -> Option<usize> {
    let mut others = Vec::new();
    for other in all.iter().filter(|other| *other != store) {
        others.push(places::of_store(&other.address).await?);
    }
    let own = places::of_store(&store.address).await?;
    let committed = |group: &u64| {
        others.iter().filter_map(|o| o.get(group)).map(|place| place.commit).max().unwrap_or(0)
    };
    let level = own.iter().filter(|(group, place)| place.applied >= committed(group)).count();
    Some(regions.saturating_sub(level))
}

/// Returns the number of acknowledged commits.
async fn check(client: &Client, ledgers: &[Ledger], screen: &mut Screen) -> Result<u64, Error> {
    let total = ledgers.len();
    let progress = |done| screen.busy(format!("{done} of {total} offsets read"));
    let right = consumers::check(client, ledgers, progress).await;
    let right = right.map_err(|text| Error::Cluster(format!("an offset is wrong: {text}")))?;
    let sum = |count: fn(&Ledger) -> u64| ledgers.iter().map(count).sum::<u64>();
    let commits = sum(|l| l.times.len() as u64) + sum(|l| l.unknown_landed);
    screen.say(&format!(
        "{right} of {total} offsets are right; {} commits acknowledged, {} ended as unknown \
         ({} of them found in place by reading, none sent twice), {} refused",
        thousands(commits),
        sum(|l| l.unknown),
        sum(|l| l.unknown_landed),
        sum(|l| l.refused),
    ));
    Ok(commits)
}

fn show_pauses(pauses: &Pauses, screen: &Screen) -> Result<(), Error> {
    screen.say(&format!(
        "writes paused: {} at most in a region that the killed store led (median {}), {} in any \
         other, {} without any commit at all",
        seconds(pauses.affected_longest),
        seconds(pauses.affected_median),
        seconds(pauses.others_longest),
        seconds(pauses.overall),
    ));
    if !pauses.not_resumed.is_empty() {
        return broken(format!("regions {:?} took no commits any more", pauses.not_resumed));
    }
    if pauses.affected_longest > PAUSE_MAX {
        return broken(format!(
            "writes paused for {}, longer than the {} that are promised",
            seconds(pauses.affected_longest),
            seconds(PAUSE_MAX)
        ));
    }
    Ok(())
}

async fn export(cluster: &Cluster, data: &Path, screen: &mut Screen) -> Result<usize, Error> {
    let folder = tempfile::Builder::new()
        .prefix("flotilla-export-")
        .tempdir()
        .map_err(Error::system("cannot create a temporary folder"))?;
    kv(cluster, "export", folder.path()).await?;
    let files = metadata::compare(data, folder.path()).map_err(Error::Cluster)?;
    screen.say(&format!("{files} files, equal to the input as data"));
    Ok(files)
}

async fn throughput(args: &Args, screen: &mut Screen) -> Result<Vec<Row>, Error> {
    if args.seconds == 0 {
        screen.say("left out (--seconds 0)");
        return Ok(Vec::new());
    }
    let seconds = Duration::from_secs(args.seconds.into());
    let times = Times { seconds, warmup: Duration::from_secs(1), passes: 1 };
    let kinds: Vec<_> = suite::short()
        .into_iter()
        .filter(|kind| kind.published.is_some() && kind.keys != KeyMode::StartKey)
        .collect();
    let mut measured = Rows::new(screen);
    table::run(&kinds, times, &mut measured).await?;
    let rows = measured.rows;
    if rows.len() < kinds.len() {
        return broken(format!("{} of {} rows were measured", rows.len(), kinds.len()));
    }
    for row in &rows {
        if row.ops == 0 {
            return broken(format!("row {}: no operation succeeded", row.name));
        }
    }
    Ok(rows)
}

/// All that the last lines say.
struct Proof<'a> {
    args: &'a Args,
    commits: u64,
    outage: Outage,
    pauses: Pauses,
    back: (Duration, Duration),
    files: usize,
    rows: Vec<Row>,
}

fn conclude(proof: &Proof, screen: &Screen) {
    let Proof { args, commits, outage, pauses, back, files, rows } = proof;
    println!("\nWhat this run has proven:");
    println!(
        "  - Nothing acknowledged was lost: {} offset commits of {} consumers were acknowledged while a\n    store was killed and came back; linearizable reads found every consumer's offset right.",
        thousands(*commits),
        args.consumers,
    );
    println!(
        "  - Writes go on without a store: store-{} led {} regions when it was killed; their writes paused\n    for {} at most, those of all other regions for {}.",
        outage.victim.id,
        outage.led.len(),
        seconds(pauses.affected_longest),
        seconds(pauses.others_longest),
    );
    println!(
        "  - A store comes back by itself: it had caught up {} after its restart and led its share after {}.",
        seconds(back.0),
        seconds(back.1),
    );
    println!(
        "  - Real metadata survives all this: {files} files imported and exported, equal as data."
    );
    for row in rows {
        println!(
            "  - {} ops/s: {} clients, batching {}, {}, pipeline {}, synced, 9:1, spread keys, {} errors.",
            thousands(row.ops_per_s as u64),
            row.sent.clients,
            if row.sent.batching { "on" } else { "off" },
            row.setup.storage.as_deref().unwrap_or("?"),
            if row.setup.pipeline == Some(true) { "on" } else { "off" },
            row.errors,
        );
    }
    println!("  All in {:.0} s; nothing is left running.", screen.elapsed().as_secs_f64());
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
