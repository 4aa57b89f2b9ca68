//! Stores that are lost for good, and what is left of the cluster: on line with `kv admin group recover`,
//! and off line with `kvserver recover`.

use flotilla_client::{Client, Consistency};
use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::{Kv, kv};
use flotilla_tests::process::{command, run_within};
use serde_json::Value;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

const KEYS: u8 = 200;
const REGIONS: usize = 4;
const SOON: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

fn key(number: u8) -> Vec<u8> {
    vec![number.wrapping_mul(131), number]
}

/// Every key on every replica, so that whoever is left has all that was acknowledged.
async fn filled() -> Cluster {
    let cluster = Cluster::start(Options { regions: REGIONS as u32, ..Options::default() }).await;
    let client = cluster.client().await.with_timeout(SOON);
    for number in 0..KEYS {
        client.put(key(number), vec![number; 10]).await.expect("a put");
    }
    // Whoever does not lead serves these, in turn.
    let followers = client.with_consistency(Consistency::Follower);
    for _ in 0..2 {
        check(&followers).await;
    }
    cluster
}

async fn check(client: &Client) {
    for number in 0..KEYS {
        let got = client.get(key(number)).await.expect("a get").value;
        assert_eq!(got.as_deref(), Some(&vec![number; 10][..]), "key {number}");
    }
}

/// The id in the folder of the store with this index.
fn store_id(cluster: &Cluster, index: u16) -> String {
    let text = fs::read_to_string(cluster.store_dir(index).join("identity")).expect("an identity");
    let line = text.lines().find_map(|line| line.strip_prefix("store = "));
    line.expect("a registered store").to_owned()
}

/// Until nobody has anything to do.
async fn asleep(placement: &str) {
    let deadline = Instant::now() + SOON;
    for group in 1..=REGIONS {
        loop {
            let group = group.to_string();
            let described =
                objects(&kv(placement, &["--json", "admin", "group", "describe", &group]));
            if described.len() == 3 && described.iter().all(|one| one["asleep"] == true) {
                break;
            }
            assert!(Instant::now() < deadline, "{described:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn objects(kv: &Kv) -> Vec<Value> {
    assert_eq!(kv.code, 0, "{kv:?}");
    kv.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_majority_is_recovered_and_stays_lost() {
    let mut cluster = filled().await;
    let placement = cluster.placement_address();
    let client = cluster.client().await.with_timeout(SOON);
    let lost = format!("{},{}", store_id(&cluster, 1), store_id(&cluster, 2));
    let recover = ["--json", "admin", "group", "recover", "--lost-stores", &lost];

    // While the stores are there nothing is done, and with one of them down no store is turned away.
    let early = kv(&placement, &recover);
    let nothing = early.code == 0 && early.out.contains("nothing_to_recover");
    assert!(nothing || (early.code == 3 && early.err.contains("is not down")), "{early:?}");
    cluster.kill_store(1);
    let store = store_id(&cluster, 1);
    let kept = kv(&placement, &["admin", "group", "recover", "--lost-stores", &store]);
    assert!(kept.code == 0 && kept.out.contains("turned away from now on: none"), "{kept:?}");
    let unknown = ["admin", "group", "recover", "--force", "--lost-stores", &format!("{store},99")];
    let refused = kv(&placement, &unknown);
    assert!(refused.code == 3 && refused.err.contains("there is no store 99"), "{refused:?}");
    cluster.start_store(1);
    let deadline = Instant::now() + SOON;
    loop {
        let described = objects(&kv(&placement, &["--json", "admin", "group", "describe", "1"]));
        let is_it = |one: &Value| one["store"].as_u64() == store.parse().ok();
        let here = |one: &Value| is_it(one) && one["role"].is_string();
        if described.iter().any(here) {
            break;
        }
        assert!(Instant::now() < deadline, "{described:#?}");
        tokio::time::sleep(PAUSE).await;
    }
    // Whoever is left leads some of them still, asleep.
    asleep(&placement).await;
    cluster.kill_store(1);
    cluster.kill_store(2);
    let dry_run = [&recover[..], &["--dry-run"]].concat();
    let deadline = Instant::now() + SOON;
    let planned = loop {
        let planned = objects(&kv(&placement, &dry_run));
        if planned.len() == REGIONS {
            break planned;
        }
        assert!(Instant::now() < deadline, "{planned:#?}");
        tokio::time::sleep(PAUSE).await;
    };
    for fate in &planned {
        assert_eq!((&fate["voters"], &fate["voters_left"]), (&3.into(), &1.into()), "{fate}");
        assert!(fate["last_index"].as_u64() > Some(1), "{fate}");
        assert_eq!(fate["unable"], Value::Array(Vec::new()), "{fate}");
    }
    // Without the second lost store there is somebody who does not answer.
    let one = ["admin", "group", "recover", "--lost-stores", &store_id(&cluster, 1)];
    let refused = kv(&placement, &one);
    assert!(refused.code == 3 && refused.err.contains("does not answer"), "{refused:?}");

    // Stores do not count as down at once.
    let recovered = loop {
        let outcome = kv(&placement, &recover);
        if outcome.code == 0 {
            break outcome.json();
        }
        let waits = outcome.err.contains("is not down") || outcome.err.contains("moment");
        assert!(waits && Instant::now() < deadline, "{outcome:?}");
        tokio::time::sleep(PAUSE).await;
    };
    assert_eq!(recovered.len(), REGIONS, "{recovered:?}");
    check(&client).await;
    client.put(b"new".to_vec(), b"x".to_vec()).await.expect("a put");

    // A lost store is turned away, and one that was wiped in part does not even ask.
    cluster.start_store(1);
    let ended = cluster.store(1).wait_end(SOON);
    let log = cluster.store(1).log_tail();
    assert!(!ended.success() && log.contains("given up as lost"), "{log}");
    fs::remove_dir_all(cluster.store_dir(2).join("log")).expect("the log");
    cluster.start_store(2);
    let ended = cluster.store(2).wait_end(SOON);
    let log = cluster.store(2).log_tail();
    assert!(!ended.success() && log.contains("its folder 'log' is missing"), "{log}");
    check(&client).await;

    // Nothing goes to a store that never comes back.
    let (group, store) = (recovered[0]["group"].to_string(), store_id(&cluster, 1));
    let refused = kv(&placement, &["admin", "group", "add-replica", &group, "--store", &store]);
    assert!(refused.code == 3 && refused.err.contains("given up as lost"), "{refused:?}");

    // With empty folders they are new stores, and take replicas.
    for index in [1, 2] {
        fs::remove_dir_all(cluster.store_dir(index)).expect("the folder");
        cluster.start_store(index);
    }
    let mut new = Vec::new();
    let deadline = Instant::now() + SOON;
    while new.len() < 2 {
        let stores = objects(&kv(&placement, &["--json", "stores"]));
        let up = stores.iter().filter(|store| store["state"] == "up");
        let id = |store: &Value| store["store"].as_u64().expect("an id").to_string();
        new = up.map(id).filter(|id| *id != store_id(&cluster, 0)).collect();
        assert!(Instant::now() < deadline, "{stores:#?}");
        tokio::time::sleep(PAUSE).await;
    }
    assert!(new.iter().all(|id| !lost.split(',').any(|old| old == id)), "{new:?} after {lost}");
    for group in recovered.iter().map(|one| one["group"].to_string()) {
        for store in &new {
            let add = ["admin", "group", "add-replica", &group, "--store", store];
            loop {
                let added = kv(&placement, &add);
                if added.code == 0 {
                    break;
                }
                // One change at a time; and the leader's store may not know the new one yet.
                let waits =
                    ["under way", "no such store"].iter().any(|why| added.err.contains(why));
                assert!(waits && Instant::now() < deadline, "{added:?}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        let voters = || {
            let described =
                objects(&kv(&placement, &["--json", "admin", "group", "describe", &group]));
            let leader = described.iter().find(|replica| replica["role"] == "leader").cloned();
            let members = leader.map(|leader| leader["members"].as_array().cloned());
            let members = members.flatten().unwrap_or_default();
            members.iter().filter(|member| member["role"] == "voter").count()
        };
        while voters() < 3 {
            assert!(Instant::now() < deadline, "group {group} has {} voters", voters());
            tokio::time::sleep(PAUSE).await;
        }
    }
    cluster.kill_store(0);
    check(&client).await;
}

fn kvserver_recover(cluster: &Cluster, index: u16, words: &[&str]) -> Output {
    let mut program = command("kvserver");
    program.arg("recover").arg("--dir").arg(cluster.store_dir(index)).args(words);
    run_within(program, SOON)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_store_is_recovered_without_the_others() {
    let mut cluster = filled().await;
    let client = cluster.client().await.with_timeout(SOON);
    let lost = format!("{},{}", store_id(&cluster, 1), store_id(&cluster, 2));
    let flags = ["--lost-stores", &lost];
    let running = kvserver_recover(&cluster, 0, &[&flags[..], &["--all"]].concat());
    let text = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(running.status.code() == Some(1) && text.contains("in use"), "{running:?}");
    let mut program = command("kvserver");
    program.arg("recover").arg("--dir").arg(cluster.dir().join("nothing")).args(flags).arg("--all");
    let nothing = run_within(program, SOON);
    let text = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(1) && text.contains("holds no store"), "{nothing:?}");

    for index in cluster.store_indexes() {
        cluster.kill_store(index);
    }
    let printed = |output: &Output, word: &str| {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.starts_with(word)).count()
    };
    let own = ["--lost-stores", &store_id(&cluster, 0), "--dry-run"];
    let refused = kvserver_recover(&cluster, 0, &own);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
    let unknown = kvserver_recover(&cluster, 0, &[&flags[..], &["--groups", "1,9999"]].concat());
    assert_eq!((unknown.status.code(), unknown.stdout.len()), (Some(2), 0), "{unknown:?}");
    let planned = kvserver_recover(&cluster, 0, &[&flags[..], &["--dry-run"]].concat());
    assert_eq!(printed(&planned, "would go on group="), REGIONS, "{planned:?}");
    let one = kvserver_recover(&cluster, 0, &[&flags[..], &["--groups", "1"]].concat());
    assert_eq!(printed(&one, "ok group=1 "), 1, "{one:?}");
    let rest = kvserver_recover(&cluster, 0, &[&flags[..], &["--all"]].concat());
    assert_eq!(printed(&rest, "ok group="), REGIONS - 1, "{rest:?}");
    let again = kvserver_recover(&cluster, 0, &[&flags[..], &["--all"]].concat());
    assert_eq!(printed(&again, "nothing to recover"), 1, "{again:?}");

    cluster.start_store(0);
    check(&client).await;
    client.put(b"new".to_vec(), b"x".to_vec()).await.expect("a put");

    // Now that nothing is to be recovered the lost stores are turned away by force only.
    let placement = cluster.placement_address();
    let give_up = ["admin", "group", "recover", "--lost-stores", &lost];
    let states = || objects(&kv(&placement, &["--json", "stores"]));
    let lost_now = || states().iter().filter(|store| store["state"] == "lost").count();
    let kept = kv(&placement, &give_up);
    assert!(kept.code == 0 && kept.out.contains("turned away from now on: none"), "{kept:?}");
    assert_eq!(lost_now(), 0);
    let gone = kv(&placement, &[&give_up[..], &["--force"]].concat());
    assert_eq!((gone.code, lost_now()), (0, 2), "{gone:?}");
}
