//! Snapshots between real processes: for a store that was away for longer than the log is kept, and for
//! one that gets a replica; cut off in the middle by kill -9 of the one who receives or sends.

use flotilla_client::{Client, Error};
use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::{Kv, http_get, kv};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// For what takes a few seconds on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const KEYS: usize = 400;
const VALUE_BYTES: usize = 10_000;
const BLOCK_BYTES: u64 = 65_536;

/// Short logs, and snapshots slow enough to be cut off: about two seconds each.
const SETTINGS: &str = "\
[raft]
group_log_entries_max = 100
truncate_entries_min = 16
sync_interval_ms = 200
snapshot_block_bytes = 65536
snapshot_bytes_per_second = 2000000
snapshot_retry_ticks = 10
";

fn key(number: usize) -> String {
    format!("key-{number:05}")
}

fn value(number: usize, turn: usize) -> String {
    format!("{turn}:{number:05}:").repeat(VALUE_BYTES / 8)
}

async fn write(client: &Client, keys: impl IntoIterator<Item = usize>, turn: usize) {
    for number in keys {
        // One that was on its way to a store that died may come twice.
        while let Err(error) = client.put(key(number), value(number, turn)).await {
            assert!(matches!(error, Error::Unknown { .. }), "{error}");
        }
    }
}

/// The place of a store among the processes: ids are given in the order in which they register.
fn place(cluster: &Cluster, store: u64) -> u16 {
    let stores = kv(&cluster.placement_address(), &["--json", "stores"]).json();
    let found = stores.iter().find(|known| known["store"] == json!(store)).expect("a store");
    let mut places = cluster.store_indexes();
    places.find(|at| found["address"] == json!(cluster.store_address(*at))).expect("a process")
}

/// What group 1 says of itself, by store.
fn describe(cluster: &Cluster) -> Vec<Value> {
    let described = admin(cluster, &["describe", "1"]);
    if described.code == 0 { described.json() } else { Vec::new() }
}

fn admin(cluster: &Cluster, words: &[&str]) -> Kv {
    let words = [&["--json", "--timeout", "20s", "admin", "group"], words].concat();
    kv(&cluster.placement_address(), &words)
}

fn of_store(described: &[Value], store: u64) -> Option<&Value> {
    described.iter().find(|one| one["store"] == json!(store) && one["error"].is_null())
}

fn leader(described: &[Value]) -> Option<&Value> {
    described.iter().find(|replica| replica["role"] == json!("leader"))
}

fn number(replica: &Value, field: &str) -> u64 {
    replica[field].as_u64().unwrap_or_else(|| panic!("{field} of {replica}"))
}

/// Waits until the descriptions say so, and gives what they say.
fn await_described<T>(cluster: &Cluster, what: &str, wanted: impl Fn(&[Value]) -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        let described = describe(cluster);
        if let Some(found) = wanted(&described) {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: {described:#?}");
        std::thread::sleep(POLL);
    }
}

/// A counter of a store; 0 while it does not answer.
fn counter(cluster: &Cluster, place: u16, name: &str) -> u64 {
    let address = cluster.store_address(place);
    if std::net::TcpStream::connect(&address).is_err() {
        return 0;
    }
    let (_, text) = http_get(&address, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    line.unwrap_or_default() as u64
}

fn received(cluster: &Cluster, place: u16) -> u64 {
    counter(cluster, place, "flotilla_raft_snapshot_bytes_received_total")
}

/// Waits until so many bytes of snapshots have come to a store in this run of it.
fn await_received(cluster: &Cluster, place: u16, bytes: u64) -> u64 {
    let deadline = Instant::now() + SOON;
    loop {
        let received = received(cluster, place);
        if received >= bytes {
            return received;
        }
        assert!(Instant::now() < deadline, "process {place} has {received} of {bytes} bytes");
        std::thread::sleep(POLL);
    }
}

/// Has `store` lead, and reads everything there.
async fn read_all_from(
    cluster: &Cluster,
    client: &Client,
    store: u64,
    turn: impl Fn(usize) -> usize,
) {
    await_described(cluster, "it leads", |all| {
        if leader(all).is_some_and(|replica| replica["store"] == json!(store)) {
            return Some(());
        }
        admin(cluster, &["transfer-leader", "1", "--store", &store.to_string()]);
        None
    });
    for at in 0..KEYS {
        let got = client.get(key(at)).await.expect("a get").value.expect("a value");
        assert!(got == value(at, turn(at)).as_bytes(), "key {at}: {:?}", &got[..20]);
    }
}

async fn snapshots_bring_up_who_lacks_the_log(storage: &'static str) {
    let options =
        Options { stores: 4, regions: 1, storage, settings: SETTINGS, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let client = cluster.client().await.with_timeout(SOON);
    write(&client, 0..KEYS, 0).await;

    // A member is away while the others cut their logs beyond what it has.
    let described = await_described(&cluster, "three replicas", |all| {
        (all.len() == 3 && leader(all).is_some()).then(|| all.to_vec())
    });
    let stores: Vec<u64> = described.iter().map(|replica| number(replica, "store")).collect();
    let leading = number(leader(&described).expect("a leader"), "store");
    let away = *stores.iter().find(|store| **store != leading).expect("a follower");
    let free = (1..=4).find(|store| !stores.contains(store)).expect("one of four");
    let held = number(of_store(&described, away).expect("it is there"), "last_index");
    let (away_at, free_at) = (place(&cluster, away), place(&cluster, free));
    cluster.kill_store(away_at);
    write(&client, 0..KEYS / 2, 1).await;
    await_described(&cluster, "the logs are cut", |all| {
        let cut = |replica: &&Value| number(replica, "first_index") > held + 1;
        (all.iter().filter(|one| one["error"].is_null()).filter(cut).count() == 2).then_some(())
    });

    // It comes back, dies while it receives, and goes on where it was.
    cluster.start_store(away_at);
    let before = await_received(&cluster, away_at, 20 * BLOCK_BYTES);
    cluster.kill_store(away_at);
    cluster.start_store(away_at);
    let level = |store: u64| {
        move |all: &[Value]| {
            let replica = of_store(all, store)?;
            let commit = number(leader(all)?, "commit");
            (number(replica, "applied") >= commit && replica["installing"] == json!(false))
                .then_some(())
        }
    };
    await_described(&cluster, "it is level", level(away));
    let after = received(&cluster, away_at);
    let state = (KEYS * VALUE_BYTES) as u64;
    println!("{storage}: {before} bytes received before the kill, {after} after it, of {state}");
    assert!(after < state - before / 2, "it began again: {before}, then {after} of {state}");
    read_all_from(&cluster, &client, away, |at| usize::from(at < KEYS / 2)).await;

    // A new replica, while the one that sends dies.
    let made = admin(&cluster, &["snapshot", "1"]);
    assert_eq!(made.code, 0, "{made:?}");
    let made = &made.json()[0];
    assert_eq!(made["store"], json!(away));
    assert!(number(made, "bytes") >= state && number(made, "index") > held, "{made}");
    let added = admin(&cluster, &["add-replica", "1", "--store", &free.to_string()]);
    assert_eq!(added.code, 0, "{added:?}");
    await_received(&cluster, free_at, 10 * BLOCK_BYTES);
    cluster.kill_store(away_at);
    write(&client, KEYS / 2..KEYS / 2 + 20, 2).await;
    cluster.start_store(away_at);
    await_described(&cluster, "the new one votes", |all| {
        let members = of_store(all, free)?["members"].as_array()?;
        let own = members.iter().find(|member| member["store"] == json!(free))?;
        (own["role"] == json!("voter")).then_some(())
    });
    await_described(&cluster, "the new one is level", level(free));
    await_described(&cluster, "so is the one that sent", level(away));
    let described = describe(&cluster);
    let first = number(of_store(&described, free).expect("it is there"), "first_index");
    assert!(first > held, "its log begins behind a snapshot, at {first}");
    assert!(counter(&cluster, free_at, "flotilla_raft_snapshots_installed_total") >= 1);
    let turn = |at| match at {
        0..200 => 1,
        200..220 => 2,
        _ => 0,
    };
    read_all_from(&cluster, &client, free, turn).await;

    // What was made for others, and what came, is not kept for ever; and nothing is left after a start.
    for index in cluster.store_indexes() {
        assert!(cluster.store(index).terminate().success());
        cluster.start_store(index);
    }
    cluster.wait_serving().await;
    for index in cluster.store_indexes() {
        let left = std::fs::read_dir(cluster.store_dir(index).join("snapshots")).expect("a folder");
        assert_eq!(left.count(), 0, "store {}", index + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_bring_up_who_lacks_the_log_on_rocksdb() {
    snapshots_bring_up_who_lacks_the_log("rocksdb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_bring_up_who_lacks_the_log_in_memory() {
    snapshots_bring_up_who_lacks_the_log("memory").await;
}
