//! The program `kv`: output, JSON, exit codes, files.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use flotilla_client::pb::error::Kind;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::server::{Deed, Fake, dead_address, refusal};

/// What a run of `kv` left behind.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

async fn kv_at(placement: &str, arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv"))
        .env("FLOTILLA_PLACEMENT", placement)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A run that reads no input may be over before it is written.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub async fn kv(fake: &Fake, arguments: &[&str]) -> Run {
    kv_at(&fake.addresses.join(","), arguments, b"").await
}

pub fn objects(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn records_are_put_read_and_removed() {
    let fake = Fake::start().await;
    assert_eq!(kv(&fake, &["put", "greeting", "hello"]).await.code, 0);
    let run = kv(&fake, &["get", "greeting"]).await;
    assert_eq!(run, Run { code: 0, out: "hello\n".into(), err: String::new() });
    let run = kv(&fake, &["get", "nothere"]).await;
    assert_eq!(run, Run { code: 1, out: String::new(), err: String::new() });
    assert_eq!(kv(&fake, &["put", "x\\x00\\ty", "--", "-\\n\\xff"]).await.code, 0);
    assert_eq!(
        kv(&fake, &["scan", "", "--limit", "2"]).await.out,
        "greeting\thello\nx\\x00\\ty\t-\\n\\xff\n"
    );
    assert_eq!(kv(&fake, &["--hex", "get", "78000979"]).await.out, "2d0aff\n");
    assert_eq!(kv(&fake, &["scan", "--hex", "78", "79"]).await.out, "78000979\t2d0aff\n");
    assert_eq!(kv(&fake, &["delete", "greeting"]).await.code, 0);
    assert_eq!(kv(&fake, &["delete", "greeting"]).await.code, 0);
    assert_eq!(kv(&fake, &["get", "greeting"]).await.code, 1);
}

#[tokio::test]
async fn values_come_from_files_and_standard_input() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    std::fs::write(&path, b"\\n stays\n").unwrap();
    let placement = fake.addresses.join(",");
    assert_eq!(kv(&fake, &["put", "a", "--file", path.to_str().unwrap()]).await.code, 0);
    assert_eq!(kv(&fake, &["get", "a"]).await.out, "\\n stays\n\n");
    assert_eq!(kv_at(&placement, &["put", "a", "-"], b"from input").await.code, 0);
    assert_eq!(kv(&fake, &["get", "a"]).await.out, "from input\n");
    let large = vec![b'v'; (1 << 20) + 1];
    assert_eq!(kv_at(&placement, &["put", "a", "-"], &large).await.code, 2);
    let run = kv(&fake, &["put", "a", "--file", "/nonexistent/file"]).await;
    assert!(run.code == 2 && run.err.contains("/nonexistent/file"), "{run:?}");
}

#[tokio::test]
async fn json_has_the_shapes_of_the_contract() {
    let fake = Fake::start().await;
    let run = kv(&fake, &["--json", "put", "a", "b"]).await;
    assert_eq!(run.out, "{\"region\":1,\"revision\":1}\n");
    let run = kv(&fake, &["--json", "get", "a"]).await;
    let expected = json!({"found": true, "key": "a", "key_b64": "YQ==", "value": "b",
        "value_b64": "Yg==", "mod_revision": 1, "region": 1, "revision": 1});
    assert_eq!(objects(&run.out), [expected]);
    let run = kv(&fake, &["--json", "get", "c"]).await;
    let expected =
        json!({"found": false, "key": "c", "key_b64": "Yw==", "region": 1, "revision": 1});
    assert_eq!((run.code, objects(&run.out), run.err.as_str()), (1, vec![expected], ""));
    let run = kv(&fake, &["--json", "put", "z\\xff", ""]).await;
    assert_eq!(run.out, "{\"region\":2,\"revision\":1}\n");
    let run = kv(&fake, &["--json", "scan", ""]).await;
    let expected = [
        json!({"key": "a", "key_b64": "YQ==", "value": "b", "value_b64": "Yg==",
            "mod_revision": 1, "region": 1}),
        json!({"key_b64": "ev8=", "value": "", "value_b64": "", "mod_revision": 1, "region": 2}),
    ];
    assert_eq!(objects(&run.out), expected);
    let run = kv(&fake, &["--json", "delete", "a"]).await;
    assert_eq!(run.out, "{\"region\":1,\"revision\":2}\n");
}

#[tokio::test]
async fn errors_have_their_exit_codes_and_objects() {
    let fake = Fake::start().await;
    let error = |run: &Run| objects(&run.err).pop().unwrap()["error"].clone();
    let timeout = ["--json", "--timeout", "300ms"];
    for usage in [vec!["frobnicate"], vec!["put", "", "x"], vec!["get", "\\q"], vec!["put", "a"]] {
        assert_eq!(kv(&fake, &usage).await.code, 2, "{usage:?}");
        let run = kv(&fake, &[&timeout[..], &usage].concat()).await;
        assert_eq!((run.code, error(&run)["kind"].as_str()), (2, Some("invalid")));
    }
    for store in 1..=3 {
        fake.always(store, Deed::Refuse(refusal(Kind::Busy)));
    }
    let run = kv(&fake, &[&timeout[..], &["put", "a", "b"]].concat()).await;
    assert_eq!(
        (run.code, &error(&run)["kind"], &error(&run)["applied"]),
        (3, &json!("busy"), &json!(false))
    );
    for store in 1..=3 {
        fake.always(store, Deed::Silence);
    }
    let run = kv(&fake, &[&timeout[..], &["put", "a", "b"]].concat()).await;
    assert_eq!(
        (run.code, &error(&run)["kind"], &error(&run)["applied"]),
        (4, &json!("unknown"), &Value::Null)
    );
    let run = kv(&fake, &[&timeout[..], &["get", "a"]].concat()).await;
    assert_eq!((run.code, &error(&run)["kind"]), (5, &json!("unavailable")));
    let dead = dead_address().await.to_string();
    let run = kv_at(&dead, &[&timeout[..], &["get", "a"]].concat(), b"").await;
    assert_eq!((run.code, &error(&run)["kind"]), (5, &json!("unavailable")));
    assert!(run.err.contains(&dead));
}

#[tokio::test]
async fn dump_and_load_are_each_others_inverse() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    for key in ["a", "b\\x00", "m\\xff", "z"] {
        assert_eq!(kv(&fake, &["put", key, "value\\xfe\\n of"]).await.code, 0);
    }
    fake.set(|world| world.scan_page = 1);
    let dump = kv(&fake, &["dump"]).await;
    assert_eq!(objects(&dump.out).len(), 4);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.jsonl");
    std::fs::write(&path, &dump.out).unwrap();
    let run = kv(&other, &["--json", "load", path.to_str().unwrap()]).await;
    assert_eq!(run.out, "{\"loaded\":4}\n");
    let contents = |fake: &Fake| {
        fake.ask(|world| {
            let pairs = world.records.iter().map(|(key, (value, _))| (key.clone(), value.clone()));
            pairs.collect::<BTreeMap<_, _>>()
        })
    };
    assert_eq!(contents(&fake), contents(&other));
    assert_eq!(objects(&kv(&fake, &["dump", "b", "n"]).await.out).len(), 2);
}

#[tokio::test]
async fn lines_of_one_key_are_loaded_in_their_order() {
    let fake = Fake::start().await;
    let line = |i: usize| format!("{{\"key\":\"k{}\",\"value\":\"{i}\"}}\n", i % 3);
    let lines: String = (0..300).map(line).collect();
    let run = kv_at(&fake.addresses.join(","), &["load", "-"], lines.as_bytes()).await;
    assert_eq!(run.out, "loaded 300 records\n");
    for (key, last) in [("k0", "297"), ("k1", "298"), ("k2", "299")] {
        assert_eq!(kv(&fake, &["get", key]).await.out, format!("{last}\n"));
    }
    let run = kv_at(&fake.addresses.join(","), &["load", "-"], b"{\"key\":\"a\"}\n").await;
    assert!(run.code == 2 && run.err.contains("-:1"), "{run:?}");
}

#[tokio::test]
async fn the_cluster_is_described() {
    let fake = Fake::start().await;
    let run = kv(&fake, &["--json", "status"]).await;
    let expected = json!({"cluster": crate::server::CLUSTER, "stores": 3, "stores_up": 3,
        "regions": 2, "leaders": 2});
    assert_eq!(objects(&run.out), [expected]);
    let run = kv(&fake, &["--json", "regions"]).await;
    let replicas: Vec<Value> = (1..=3)
        .map(|store| json!({"replica": 10 + store, "store": store, "role": "voter"}))
        .collect();
    let expected = json!({"region": 1, "group": 1, "start_b64": "", "end_b64": "bQ==",
        "epoch": {"version": 1, "members": 1}, "leader_store": 1, "replicas": replicas});
    assert_eq!(objects(&run.out)[0], expected);
    let run = kv(&fake, &["--json", "stores"]).await;
    let expected = json!({"store": 1, "address": fake.addresses[0], "state": "up", "leaders": 0,
        "replicas": 0});
    assert_eq!(objects(&run.out)[0], expected);
    for table in ["status", "regions", "stores"] {
        let run = kv(&fake, &[table]).await;
        assert!(run.code == 0 && !run.out.is_empty());
    }
}

#[tokio::test]
async fn rocketmq_files_are_imported_and_exported_while_outcomes_are_unknown() {
    let fake = Fake::start().await;
    let data = Path::new("tests/data/rocketmq");
    let data = data.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert_eq!(kv(&fake, &["export", "rocketmq", out.to_str().unwrap()]).await.code, 1);
    // One put after which nothing is there, one after which all is there.
    fake.script(1, [Deed::Cut, Deed::ApplyAndCut]);
    let run = kv(&fake, &["--json", "import", "rocketmq", data, "--in-flight", "8"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let summary = objects(&run.out).pop().unwrap();
    assert_eq!(summary["counts"]["topics"], 3);
    assert!(summary["unknown_resolved"].as_u64().unwrap() >= 2, "{summary}");
    let run = kv(&fake, &["export", "rocketmq", out.to_str().unwrap()]).await;
    assert!(run.code == 0 && run.out.starts_with("exported"), "{run:?}");
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "README.md").collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&out), names(Path::new(data)));
    let users = std::fs::read(out.join("users.json")).unwrap();
    let before = std::fs::read(Path::new(data).join("users.json")).unwrap();
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    assert_eq!(parse(&users), parse(&before));
}

#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let fake = Fake::start().await;
    for i in 0..200 {
        let key = format!("k{i}");
        fake.set(|world| {
            world.records.insert(key.into(), (vec![b'v'; 4096].into(), 1));
        });
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv"))
        .args(["--placement", &fake.addresses.join(","), "dump"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
