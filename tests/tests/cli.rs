//! The command line as scripts see it: exit codes, output, JSON, and a playground's life.

use flotilla_tests::playground::{Kv, Playground, http_get, kv};
use flotilla_tests::process::{command, run_within, write_file};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One cluster at a time: two cores are few.
static ALONE: Mutex<()> = Mutex::new(());

const REGIONS: [&str; 2] = ["--regions", "4"];

fn ok(kv: Kv) -> String {
    assert_eq!(kv.code, 0, "{kv:?}");
    kv.out
}

fn one_json(kv: Kv) -> Value {
    let lines = kv.json();
    assert_eq!(lines.len(), 1, "{kv:?}");
    lines.into_iter().next().expect("one line")
}

#[test]
fn kv_keeps_its_contract() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let cluster = Playground::start(&dir.path().join("cluster"), &REGIONS);
    exit_codes(&cluster);
    json_shapes(&cluster);
    revisions(&cluster);
    limits(&cluster, dir.path());
    scans_and_escapes(&cluster);
    dump_and_load(&cluster, dir.path());
    cluster_views(&cluster);
}

fn exit_codes(cluster: &Playground) {
    ok(cluster.kv(&["put", "greeting", "hello"]));
    assert_eq!(ok(cluster.kv(&["get", "greeting"])), "hello\n");
    let absent = cluster.kv(&["get", "absent"]);
    assert_eq!((absent.code, absent.out.as_str()), (1, ""));
    ok(cluster.kv(&["delete", "absent"]));
    ok(cluster.kv(&["delete", "greeting"]));
    assert_eq!(cluster.kv(&["get", "greeting"]).code, 1);
    assert_eq!(cluster.kv(&["frobnicate"]).code, 2);
    assert_eq!(cluster.kv(&["put", "key-without-value"]).code, 2);
}

fn json_shapes(cluster: &Playground) {
    let put = one_json(cluster.kv(&["--json", "put", "a", "b"]));
    let (region, revision) = (&put["region"], &put["revision"]);
    assert!(region.is_u64() && revision.is_u64(), "{put}");
    let got = one_json(cluster.kv(&["--json", "get", "a"]));
    let expected = json!({
        "found": true, "key": "a", "key_b64": "YQ==", "value": "b", "value_b64": "Yg==",
        "mod_revision": revision, "region": region, "revision": revision,
    });
    assert_eq!(got, expected);
    let absent = cluster.kv(&["--json", "get", "absent"]);
    assert_eq!(absent.code, 1);
    let absent = one_json(absent);
    assert_eq!((&absent["found"], &absent["key"]), (&json!(false), &json!("absent")));
    assert!(absent["revision"].is_u64() && absent.get("value").is_none(), "{absent}");
    let binary = one_json({
        ok(cluster.kv(&["put", "a", "\\xff"]));
        cluster.kv(&["--json", "get", "a"])
    });
    assert!(binary.get("value").is_none(), "not UTF-8, so only in base64: {binary}");
    assert_eq!(binary["value_b64"], json!("/w=="));
    let refused = cluster.kv(&["--json", "put", "", "x"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""));
    let error: Value = serde_json::from_str(refused.err.trim()).expect("JSON on standard error");
    assert_eq!(error["error"]["kind"], json!("invalid"));
    assert_eq!(error["error"]["applied"], json!(false));
    assert!(error["error"]["message"].is_string());
}

fn revisions(cluster: &Playground) {
    let revision = |kv: Kv| one_json(kv)["revision"].as_u64().expect("a revision");
    let first = revision(cluster.kv(&["--json", "put", "r", "1"]));
    assert_eq!(revision(cluster.kv(&["--json", "put", "r", "2"])), first + 1);
    assert_eq!(revision(cluster.kv(&["--json", "get", "r"])), first + 1);
    assert_eq!(revision(cluster.kv(&["--json", "delete", "r"])), first + 2);
    assert_eq!(revision(cluster.kv(&["--json", "delete", "r"])), first + 3);
}

fn limits(cluster: &Playground, dir: &Path) {
    assert_eq!(cluster.kv(&["put", "", "x"]).code, 2);
    ok(cluster.kv(&["put", &"k".repeat(4_096), "x"]));
    let long = cluster.kv(&["put", &"k".repeat(4_097), "x"]);
    assert!(long.code == 2 && long.err.contains("4097"), "{long:?}");
    let file = |length: usize| {
        let path = write_file(dir, "value", &"v".repeat(length));
        cluster.kv(&["put", "large", "--file", &path.display().to_string()])
    };
    ok(file(1 << 20));
    let large = file((1 << 20) + 1);
    assert!(large.code == 2 && large.err.contains("1048576"), "{large:?}");
    assert_eq!(ok(cluster.kv(&["get", "large"])).len(), (1 << 20) + 1);
}

fn scans_and_escapes(cluster: &Playground) {
    for key in ["s/1", "s/2", "s/\\n", "s0"] {
        ok(cluster.kv(&["put", key, "t\\tab"]));
    }
    assert_eq!(ok(cluster.kv(&["scan", "s/1", "s/2"])), "s/1\tt\\tab\n");
    let all = ok(cluster.kv(&["scan", "s/", "s0"]));
    assert_eq!(all, "s/\\n\tt\\tab\ns/1\tt\\tab\ns/2\tt\\tab\n");
    assert_eq!(ok(cluster.kv(&["scan", "s/", "--limit", "2"])).lines().count(), 2);
    assert_eq!(ok(cluster.kv(&["--hex", "get", "732f31"])), "74096162\n");
    let line = cluster.kv(&["--json", "scan", "s/1", "--limit", "1"]);
    let line = one_json(line);
    assert_eq!((&line["key"], &line["value"]), (&json!("s/1"), &json!("t\tab")));
    assert!(line["mod_revision"].is_u64() && line["region"].is_u64(), "{line}");
}

fn dump_and_load(cluster: &Playground, dir: &Path) {
    for number in 0..20 {
        ok(cluster.kv(&["put", &format!("d/{number}\\x00\\xff"), &format!("v\\x00{number}")]));
    }
    let dump = ok(cluster.kv(&["dump", "d/", "d0"]));
    assert_eq!(dump.lines().count(), 20);
    for number in 0..20 {
        ok(cluster.kv(&["delete", &format!("d/{number}\\x00\\xff")]));
    }
    assert_eq!(ok(cluster.kv(&["dump", "d/", "d0"])), "");
    let file = write_file(dir, "dump.jsonl", &dump);
    ok(cluster.kv(&["load", &file.display().to_string()]));
    let again = cluster.kv(&["dump", "d/", "d0"]);
    let records = |kv: &Kv| -> Vec<(Value, Value)> {
        kv.json().iter().map(|l| (l["key_b64"].clone(), l["value_b64"].clone())).collect()
    };
    let before = Kv { code: 0, out: dump, err: String::new() };
    assert_eq!(records(&again), records(&before));
}

fn cluster_views(cluster: &Playground) {
    let status = one_json(cluster.kv(&["--json", "status"]));
    let expected = json!({
        "cluster": status["cluster"], "stores": 3, "stores_up": 3, "regions": 4, "leaders": 4,
    });
    assert_eq!(status, expected);
    assert_eq!(status["cluster"].as_str().map(str::len), Some(32));
    let regions = cluster.kv(&["--json", "regions"]).json();
    assert_eq!(regions.len(), 4);
    assert_eq!((&regions[0]["start_b64"], &regions[3]["end_b64"]), (&json!(""), &json!("")));
    for (left, right) in regions.iter().zip(&regions[1..]) {
        assert_eq!(left["end_b64"], right["start_b64"], "regions cover the key space");
    }
    for region in &regions {
        assert_eq!(region["epoch"], json!({"version": 1, "members": 1}), "{region}");
        assert_eq!(region["replicas"].as_array().map(Vec::len), Some(3), "{region}");
        assert_eq!(region["replicas"][0]["role"], json!("voter"), "{region}");
        assert!(region["leader_store"].as_u64().is_some_and(|store| store > 0), "{region}");
    }
    let stores = cluster.kv(&["--json", "stores"]).json();
    assert_eq!(stores.len(), 3);
    for store in &stores {
        assert_eq!((&store["state"], &store["replicas"]), (&json!("up"), &json!(4)), "{store}");
        let address = store["address"].as_str().expect("an address");
        server_views(address);
    }
    server_views(&cluster.placement());
    for words in [["status"], ["regions"], ["stores"]] {
        assert!(!ok(cluster.kv(&words)).is_empty());
    }
}

/// What every process shows over HTTP on its one port.
fn server_views(address: &str) {
    let (code, _) = http_get(address, "/healthz");
    assert_eq!(code, 200, "{address}/healthz");
    let (code, body) = http_get(address, "/status");
    assert_eq!(code, 200, "{address}/status");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    assert!(status.is_object(), "{status}");
    let (code, body) = http_get(address, "/metrics");
    assert!(code == 200 && body.contains("# TYPE"), "{address}/metrics: {code}");
    assert_eq!(http_get(address, "/no-such-page").0, 404);
}

#[test]
fn a_cluster_that_does_not_answer_is_exit_code_5() {
    let nowhere = "127.0.0.1:1";
    for words in [["--timeout", "500ms", "get", "x"], ["--timeout", "1", "delete", "x"]] {
        let start = Instant::now();
        let kv = kv(nowhere, &words);
        assert_eq!(kv.code, 5, "{kv:?}");
        assert!(kv.err.contains(nowhere), "{kv:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn help_of_every_program_is_complete() {
    let pages: [(&str, &[&str], &[&str]); 6] = [
        ("kvserver", &["--help"], &["run", "playground"]),
        (
            "kvserver",
            &["run", "--help"],
            &["--dir", "--addr", "--placement", "--storage", "--config", "--log-level"],
        ),
        (
            "kvserver",
            &["playground", "--help"],
            &["--stores", "--regions", "--split-at", "--storage", "--dir", "--base-port"],
        ),
        ("placement", &["run", "--help"], &["--dir", "--addr", "--config", "--regions"]),
        (
            "kv",
            &["--help"],
            &["put", "get", "delete", "scan", "load", "dump", "import", "export", "Exit codes"],
        ),
        ("throughput", &["--help"], &["run", "table"]),
    ];
    for (program, words, expected) in pages {
        let mut help = command(program);
        help.args(words);
        let text = Kv::from(run_within(help, Duration::from_secs(10)));
        for word in expected {
            assert!(text.code == 0 && text.out.contains(word), "{program} {words:?}: no {word}");
        }
    }
}

/// Name and pid of every child, from the table that the playground prints.
fn children(cluster: &Playground) -> Vec<(String, Pid)> {
    let child = |line: &str| {
        let cells: Vec<&str> = line.split(['│', '┆', '|']).map(str::trim).collect();
        let pid = cells.get(2)?.parse().ok().and_then(Pid::from_raw)?;
        Some((cells[1].to_owned(), pid))
    };
    cluster.lines().iter().filter_map(|line| child(line)).collect()
}

fn wait_gone(children: &[(String, Pid)]) {
    let deadline = Instant::now() + Duration::from_secs(15);
    for (name, pid) in children {
        while test_kill_process(*pid).is_ok() {
            assert!(Instant::now() < deadline, "{name} (pid {pid:?}) was left behind");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_playground_reports_deaths_continues_and_leaves_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cluster");
    let mut cluster = Playground::start(&folder, &REGIONS);
    let started = children(&cluster);
    assert_eq!(started.len(), 4, "{:?}", cluster.lines());
    ok(cluster.kv(&["put", "kept", "yes"]));

    let (name, pid) = started.iter().find(|(name, _)| name == "store-2").expect("a store-2");
    kill_process(*pid, Signal::KILL).unwrap();
    let line = cluster.wait_line(Duration::from_secs(10), |line| line.starts_with("exited "));
    let pid = pid.as_raw_nonzero();
    assert_eq!(line, format!("exited {name} pid={pid} status=signal-9"));
    assert_eq!(ok(cluster.kv(&["--timeout", "20s", "get", "kept"])), "yes\n");

    // The printed command brings it back; it belongs to whoever ran it.
    let printed = cluster.wait_line(Duration::ZERO, |l| l.trim().starts_with("store-2: "));
    let words: Vec<&str> = printed.trim().split(' ').skip(2).collect();
    let mut again =
        command("kvserver").args(words).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while one_json(cluster.kv(&["--json", "status"]))["stores_up"] != json!(3) {
        assert!(Instant::now() < deadline, "store-2 does not come back");
        std::thread::sleep(Duration::from_millis(200));
    }

    let second = command_on(&folder);
    let refused = Kv::from(run_within(second, Duration::from_secs(15)));
    assert!(refused.code != 0 && refused.err.contains("in use"), "{refused:?}");

    assert!(cluster.process().terminate().success());
    wait_gone(&started);
    let own = Pid::from_child(&again);
    assert!(again.try_wait().unwrap().is_none(), "a store brought back by hand is not ours");
    kill_process(own, Signal::TERM).unwrap();
    assert!(again.wait().unwrap().success());
    drop(cluster);

    let mut cluster = Playground::start(&folder, &[]);
    assert_eq!(ok(cluster.kv(&["--timeout", "20s", "get", "kept"])), "yes\n");
    let started = children(&cluster);
    cluster.process().kill();
    wait_gone(&started);
}

fn command_on(folder: &Path) -> std::process::Command {
    let mut second = command("kvserver");
    let port = flotilla_tests::process::free_ports(20);
    second.arg("playground").arg("--dir").arg(folder).arg("--base-port").arg(port.to_string());
    second
}
