//! The operator's side of a cluster, with real processes: `kv admin group` and SIGUSR2.

use flotilla_tests::playground::{Kv, Playground};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// For what takes a few election timeouts on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(30);

fn ok(kv: Kv) -> String {
    assert_eq!(kv.code, 0, "{kv:?}");
    kv.out
}

fn error(kv: &Kv) -> (i32, String, String) {
    let object: Value = serde_json::from_str(kv.err.trim()).expect("JSON on standard error");
    let text = |field: &str| object["error"][field].as_str().unwrap_or_default().to_owned();
    (kv.code, text("kind"), text("message"))
}

/// Group 1 as its replicas describe it, by store.
fn describe(cluster: &Playground) -> Vec<Value> {
    let kv = cluster.kv(&["--json", "admin", "group", "describe", "1"]);
    assert_eq!(kv.code, 0, "{kv:?}");
    kv.json()
}

fn of_store(described: &[Value], store: u64) -> Option<&Value> {
    described.iter().find(|replica| replica["store"] == json!(store))
}

fn leader_store(described: &[Value]) -> Option<u64> {
    described.iter().find(|replica| replica["role"] == json!("leader"))?["store"].as_u64()
}

/// Waits until the descriptions are as wanted.
fn await_described(cluster: &Playground, what: &str, wanted: impl Fn(&[Value]) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let described = describe(cluster);
        if wanted(&described) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {described:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_group_is_described_and_changed_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cluster");
    let cluster = Playground::start(&folder, &["--stores", "4", "--regions", "1"]);
    ok(cluster.kv(&["put", "a", "b"]));
    descriptions(&cluster);
    transfers(&cluster);
    priorities(&cluster);
    members(&cluster);
    refusals(&cluster);
    described_by_signal(&cluster, &folder);
}

fn descriptions(cluster: &Playground) {
    await_described(cluster, "a leader and two followers", |all| {
        all.len() == 3 && leader_store(all).is_some()
    });
    let described = describe(cluster);
    for replica in &described {
        assert_eq!(replica["members"].as_array().map(Vec::len), Some(3), "{replica}");
        assert_eq!(replica["members"][0]["priority"], json!(-1));
        assert!(replica["last_index"].as_u64() >= Some(1), "{replica}");
        assert!(replica["ticks_to_campaign"].as_u64() >= Some(10), "{replica}");
        let peers = if replica["role"] == json!("leader") { 2 } else { 0 };
        assert_eq!(replica["peers"].as_array().map(Vec::len), Some(peers), "{replica}");
    }
    let text = ok(cluster.kv(&["admin", "group", "describe", "1"]));
    for word in ["STORE", "leader", "follower", "members  voter", "peer     ", "replicate up to"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn transfers(cluster: &Playground) {
    let described = describe(cluster);
    let leader = leader_store(&described).expect("a leader");
    let to = described.iter().filter_map(|replica| replica["store"].as_u64());
    let to = to.filter(|store| *store != leader).max().expect("a follower").to_string();
    let transfer = ["--json", "admin", "group", "transfer-leader", "1", "--store", &to];
    let done = cluster.kv(&transfer);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(leader_store(&describe(cluster)).map(|store| store.to_string()), Some(to.clone()));
    let (code, kind, message) = error(&cluster.kv(&transfer));
    assert_eq!((code, kind.as_str()), (3, "refused"));
    assert!(message.contains("leads already"), "{message}");
}

fn priorities(cluster: &Playground) {
    let described = describe(cluster);
    let leader = leader_store(&described).expect("a leader");
    let others = described.iter().filter_map(|replica| replica["store"].as_u64());
    let others: Vec<u64> = others.filter(|store| *store != leader).collect();
    let set = |store: u64, priority: &str| {
        let store = store.to_string();
        cluster.kv(&["--json", "admin", "group", "set-priority", "1", priority, "--store", &store])
    };
    // The preferred one takes over by itself.
    ok(set(others[0], "10"));
    await_described(cluster, "the preferred one leads", |all| leader_store(all) == Some(others[0]));
    ok(set(others[1], "0"));
    let refused = set(leader, "0");
    let (code, _, message) = error(&refused);
    assert!(code == 3 && message.contains("priority 0"), "{refused:?}");
    let to = others[1].to_string();
    let never = ["--json", "admin", "group", "transfer-leader", "1", "--store", &to];
    let (code, _, message) = error(&cluster.kv(&never));
    assert!(code == 3 && message.contains("is not to lead"), "{message}");
    ok(set(others[1], "-1"));
    ok(set(others[0], "-1"));
}

fn members(cluster: &Playground) {
    let described = describe(cluster);
    let free = (1..=4).find(|store| of_store(&described, *store).is_none()).expect("one of four");
    let store = free.to_string();
    let add = ["--json", "admin", "group", "add-replica", "1", "--store", &store, "--id", "2a"];
    let added = cluster.kv(&add);
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(added.json()[0]["operation"], json!(format!("{:032x}", 0x2a)));
    let votes = |replica: &Value, store: u64| {
        let members = replica["members"].as_array().expect("members");
        members.iter().any(|m| m["store"] == json!(store) && m["role"] == json!("voter"))
    };
    await_described(cluster, "the new one votes", |all| {
        of_store(all, free).is_some_and(|replica| votes(replica, free))
    });
    await_routes(cluster, "routes name it", |stores| stores.contains(&free));
    // The same operation again is no second change: the store would be taken, the replica used.
    let version = || describe(cluster).iter().map(|r| r["members_version"].as_u64()).max();
    let before = version();
    let again = cluster.kv(&[&add[..], &["--replica", "99"]].concat());
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(version(), before);
    let second = ["--json", "admin", "group", "add-replica", "1", "--store", &store];
    let (code, kind, message) = error(&cluster.kv(&second));
    assert_eq!((code, kind.as_str()), (3, "refused"));
    assert!(message.contains("store without a member"), "{message}");
    let remove = ["admin", "group", "remove-replica", "1", "--store", &store, "--id", "bb"];
    assert!(ok(cluster.kv(&remove)).contains("operation="));
    await_described(cluster, "it is gone", |all| of_store(all, free).is_none());
    assert!(ok(cluster.kv(&remove)).contains("operation="), "it was done");
    let other = cluster.kv(&[&remove[..6], &["--id", "cc"]].concat());
    assert!(other.code == 3 && other.err.contains("no replica on store"), "{other:?}");
    // One id that is mistyped does not take all that are left.
    let last = format!("voter/{}@{store}", u64::MAX);
    let far = cluster.kv(&["admin", "group", "change", "1", &last]);
    assert!(far.code == 3 && far.err.contains("too far above"), "{far:?}");
    await_routes(cluster, "routes do not name it", |stores| !stores.contains(&free));
    ok(cluster.kv(&["put", "a", "c"]));
    // Nobody creates it again; another one, with a larger id, may come.
    std::thread::sleep(Duration::from_secs(2));
    assert!(of_store(&describe(cluster), free).is_none());
    ok(cluster.kv(&["admin", "group", "add-replica", "1", "--store", &store, "--learner"]));
    await_described(cluster, "it is there again", |all| {
        of_store(all, free).is_some_and(|replica| replica["applied"].as_u64() > Some(0))
    });
    ok(cluster.kv(&["admin", "group", "remove-replica", "1", "--store", &store]));
    await_described(cluster, "it is gone again", |all| of_store(all, free).is_none());
}

/// Waits until the stores of region 1 are as wanted, as clients are told.
fn await_routes(cluster: &Playground, what: &str, wanted: impl Fn(&[u64]) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let routes = cluster.kv(&["--json", "regions"]);
        assert_eq!(routes.code, 0, "{routes:?}");
        let region = routes.json().into_iter().find(|r| r["region"] == json!(1)).expect("region 1");
        let replicas = region["replicas"].as_array().expect("replicas");
        let stores: Vec<u64> = replicas.iter().filter_map(|r| r["store"].as_u64()).collect();
        if wanted(&stores) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {region}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn refusals(cluster: &Playground) {
    let admin = |words: &[&str]| cluster.kv(&[&["--json", "admin", "group"], words].concat());
    for (words, part) in [
        (&["change", "1", "remove/77"][..], "replica 77 is not a member"),
        (&["promote", "1", "--replica", "77"], "replica 77 is not a member"),
        (&["change", "1", "cancel/77"], "cannot be cancelled"),
        (&["remove-replica", "1", "--store", "77"], "no replica on store 77"),
        (&["add-replica", "1", "--store", "77"], "store 77 cannot take a replica"),
        (&["transfer-leader", "1", "--replica", "77"], "replica 77 is not a member"),
        (&["transfer-leader", "999", "--replica", "1"], "group 999 is unknown"),
        (&["describe", "999"], "no store that answers has a replica of it"),
    ] {
        let (code, kind, message) = error(&admin(words));
        assert_eq!((code, kind.as_str()), (3, "refused"), "{words:?}");
        assert!(message.contains(part), "{words:?}: {message}");
    }
    for words in [
        &["describe"][..],
        &["describe", "0"],
        &["describe", "x"],
        &["transfer-leader", "1"],
        &["transfer-leader", "1", "--store", "1", "--replica", "1"],
        &["set-priority", "1", "-2", "--store", "1"],
        &["set-priority", "1", "high", "--store", "1"],
        &["change", "1"],
        &["change", "1", "rename/3"],
        &["add-replica", "1", "--store", "2", "--id", "xyz"],
    ] {
        let (code, kind, _) = error(&admin(words));
        assert_eq!((code, kind.as_str()), (2, "invalid"), "{words:?}");
    }
    let words = ["--json", "--timeout", "300ms", "admin", "group", "describe", "1"];
    let nowhere = flotilla_tests::playground::kv("127.0.0.1:1", &words);
    assert_eq!(error(&nowhere).0, 5);
}

fn described_by_signal(cluster: &Playground, folder: &Path) {
    let status = cluster.kv(&["--json", "stores"]).json();
    let address = status[0]["address"].as_str().expect("an address");
    let (_, body) = flotilla_tests::playground::http_get(address, "/status");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    let pid = status["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)).expect("a pid");
    let find = || {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        entries.map(|entry| entry.path().join("describe.json")).find(|file| file.exists())
    };
    assert_eq!(find(), None);
    kill_process(pid, Signal::USR2).expect("a signal sent");
    let deadline = Instant::now() + SOON;
    let file = loop {
        match find() {
            Some(file) => break file,
            None => assert!(Instant::now() < deadline, "no description"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // Whole from the first moment on.
    let text = std::fs::read_to_string(&file).expect("a file");
    let described: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(described["store"], status["store"]);
    let replicas = described["regions"].as_array().expect("replicas");
    assert!(!replicas.is_empty());
    for replica in replicas {
        let queues = ["waiting_proposals", "proposal_bytes", "apply_bytes", "parked"];
        let others = ["role", "term", "commit", "ticks_silent", "asleep", "peers"];
        for field in queues.iter().chain(&others) {
            assert!(!replica[*field].is_null(), "{field}: {replica}");
        }
        assert!(replica["members"]["replicas"].as_array().is_some_and(|all| !all.is_empty()));
    }
    assert!(described["queues"]["log_bytes"].is_u64());
}
