//! One cluster under load, cut after cut.

use super::adds::{Adds, Outcomes};
use super::disks::Disks;
use super::schedule::Cut;
use crate::cluster::{Cluster, Options, PLACEMENT, store_name};
use crate::load::{Load, Summary};
use crate::playground::try_http_get;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes must go on within this time, and every replica be level within it.
const RESUME_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Writes that a cluster must do between two cuts.
const WRITES_BETWEEN: u64 = 50;

/// Short logs, small tables and many checkpoints: each cut meets some of all that a store writes.
const SETTINGS: &str = "\
[raft]
group_log_entries_max = 100
truncate_entries_min = 16
sync_interval_ms = 200
snapshot_block_bytes = 65536
[kv]
table_bytes_max = 1048576
";

/// What one cluster runs on.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// `rocksdb` or `memory`.
    pub storage: &'static str,
    /// `raft-engine` or `rocksdb`.
    pub log_engine: &'static str,
}

/// What came of a run without violations.
#[derive(Clone, Debug)]
pub struct Report {
    /// Cuts of all stores and placement.
    pub cuts_of_all: usize,
    /// Cuts of some stores.
    pub cuts_of_some: usize,
    /// Of both, those that came while processes were starting.
    pub during_start: usize,
    /// From the start of the processes until writes succeeded in all regions and every replica was
    /// level; in order of size.
    pub served_after: Vec<Duration>,
    /// The unique keys.
    pub adds: Outcomes,
    /// The registers.
    pub registers: Summary,
}

/// Replicas by (store, group): their ids, which a cut must not change.
type Replicas = BTreeMap<(u64, u64), u64>;

/// See the module. `stores` is their number; `told` hears a line a cut.
///
/// # Errors
/// With what was wrong and the cut that it was noticed after. The judgement of the registers, and a process
/// that ends by itself, panic with their words.
pub async fn run(
    kind: Kind,
    stores: u16,
    cuts: &[Cut],
    place: Option<&Path>,
    told: impl Fn(&str),
) -> Result<Report, String> {
    let options = Options {
        stores,
        storage: kind.storage,
        log_engine: kind.log_engine,
        settings: SETTINGS,
        ..Options::default()
    };
    let names: Vec<String> = (1..=stores).map(store_name).chain([PLACEMENT.to_owned()]).collect();
    // Outlives the cluster on every way out: its file systems are in use until all is killed.
    let disks = Disks::create(&names, place)?;
    let mut cluster = Cluster::start_in(options, Some(&disks.data())).await;
    let result = run_cuts(&mut cluster, &disks, cuts, told).await;
    if result.is_err() {
        eprintln!("{}", cluster.log_tails());
    }
    result
}

async fn run_cuts(
    cluster: &mut Cluster,
    disks: &Disks,
    cuts: &[Cut],
    told: impl Fn(&str),
) -> Result<Report, String> {
    let client = cluster.client().await;
    let replicas = level(cluster, &Replicas::new()).await?;
    let (load, mut adds) = (Load::start(&client), Adds::start(&client));
    let mut served_after = Vec::new();
    for (at, cut) in cuts.iter().enumerate() {
        let failed = |what: String| format!("cut {} of {:?}: {what}", cut.number, cut.names());
        if !cut.during_start {
            load.rotate_keys();
            load.wait_written(WRITES_BETWEEN, RESUME_MAX).await;
        }
        tokio::time::sleep(cut.after).await;
        disks.cut(&cut.names(), &pids(cluster, cut), cut.number).map_err(failed)?;
        reap(cluster, cut);
        disks.restore(&cut.names(), cut.number).map_err(failed)?;
        start(cluster, cut);
        let begun = Instant::now();
        let line = format!("cut {}: {}", cut.number, cut.names().join(", "));
        if cuts.get(at + 1).is_some_and(|next| next.during_start) {
            told(&format!("{line}; the next one comes while they start"));
            continue;
        }
        cluster.wait_serving().await;
        level(cluster, &replicas).await.map_err(failed)?;
        let took = begun.elapsed();
        adds.check(&client).await.map_err(failed)?;
        told(&format!("{line}; whole again after {:.1} s", took.as_secs_f64()));
        served_after.push(took);
    }
    adds.stop().await;
    adds.check(&client).await?;
    let registers = load.stop_and_check(&client).await;
    for index in cluster.store_indexes() {
        let status = cluster.store(index).terminate();
        if !status.success() {
            return Err(format!("store {} ends with {status} on SIGTERM", index + 1));
        }
    }
    served_after.sort();
    Ok(Report {
        cuts_of_all: cuts.iter().filter(|cut| cut.all).count(),
        cuts_of_some: cuts.iter().filter(|cut| !cut.all).count(),
        during_start: cuts.iter().filter(|cut| cut.during_start).count(),
        served_after,
        adds: adds.outcomes(),
        registers,
    })
}

/// The processes that are on the disks of a cut.
fn pids(cluster: &mut Cluster, cut: &Cut) -> Vec<u32> {
    let mut pids: Vec<u32> =
        cut.stores.iter().filter_map(|index| cluster.store(*index).pid()).collect();
    pids.extend(cluster.placement().pid().filter(|_| cut.all));
    pids
}

/// Waits until those that were killed are gone.
fn reap(cluster: &mut Cluster, cut: &Cut) {
    cut.stores.iter().for_each(|index| cluster.kill_store(*index));
    if cut.all {
        cluster.placement().kill();
    }
}

fn start(cluster: &mut Cluster, cut: &Cut) {
    if cut.all {
        cluster.placement().start();
    }
    cut.stores.iter().for_each(|index| cluster.start_store(*index));
}

/// Waits until every replica of every store takes part, knows its leader and has applied what was
/// committed when this was first asked. None may be damaged, or another one than in `before`, as a rebuilt
/// one is. Gives all of them.
async fn level(cluster: &Cluster, before: &Replicas) -> Result<Replicas, String> {
    let deadline = Instant::now() + RESUME_MAX;
    let mut wanted = None;
    loop {
        let missing = match statuses(cluster) {
            Ok(found) => {
                refuse_damage(&found, before)?;
                let wanted = wanted.get_or_insert_with(|| commits(&found));
                match behind(&found, wanted, before) {
                    Some(missing) => missing,
                    None => return Ok(ids(&found)),
                }
            }
            Err(missing) => missing,
        };
        if Instant::now() >= deadline {
            return Err(format!("not level within {RESUME_MAX:?}: {missing}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A replica and the store it is on, as that store describes it.
type Described = (u64, Value);

fn refuse_damage(found: &[Described], before: &Replicas) -> Result<(), String> {
    if let Some((store, replica)) = found.iter().find(|(_, r)| !r["damage"].is_null()) {
        return Err(format!("store {store}, group {}: {}", replica["group"], replica["damage"]));
    }
    let now = ids(found);
    match before.iter().find(|(key, id)| now.get(*key).is_some_and(|now| now != *id)) {
        Some(((store, group), id)) => {
            Err(format!("store {store}, group {group}: replica {id} was replaced"))
        }
        None => Ok(()),
    }
}

/// The highest index that anybody knows as committed, by group.
fn commits(found: &[Described]) -> BTreeMap<u64, u64> {
    let mut commits: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, replica) in found {
        let highest = commits.entry(number(replica, "group")).or_default();
        *highest = number(replica, "commit").max(*highest);
    }
    commits
}

/// What is missing until all is level.
fn behind(found: &[Described], wanted: &BTreeMap<u64, u64>, before: &Replicas) -> Option<String> {
    let late = found.iter().find(|(_, replica)| {
        let wanted = wanted.get(&number(replica, "group")).copied();
        replica["leader"].is_null() || number(replica, "applied") < wanted.unwrap_or(u64::MAX)
    });
    let now = ids(found);
    let absent = || before.keys().find(|key| !now.contains_key(*key));
    late.map(|(store, replica)| format!("store {store}: {replica}")).or_else(|| {
        absent().map(|(store, group)| format!("store {store} has no replica of group {group}"))
    })
}

fn ids(found: &[Described]) -> Replicas {
    found.iter().map(|(store, r)| ((*store, number(r, "group")), number(r, "replica"))).collect()
}

/// Every replica with its store, of all stores; or which store does not answer.
fn statuses(cluster: &Cluster) -> Result<Vec<Described>, String> {
    let mut all = Vec::new();
    for index in cluster.store_indexes() {
        let address = cluster.store_address(index);
        let failed = |error: String| format!("store {}: {error}", index + 1);
        let (_, text) =
            try_http_get(&address, "/status").map_err(|error| failed(error.to_string()))?;
        let status: Value = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let store = number(&status, "store");
        let regions = status["regions"].as_array().cloned().unwrap_or_default();
        if regions.is_empty() {
            return Err(failed("it has no replicas".to_owned()));
        }
        all.extend(regions.into_iter().map(|replica| (store, replica)));
    }
    Ok(all)
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_default()
}
