//! Files → records → files, on the demo's data and on a small folder full of oddities.

use std::path::Path;

use serde_json::Value;

use super::files::{self, Files};
use super::join::join;
use super::split::split;
use super::tables::{Kind, is_known};
use super::{Entry, counts, json, keys};

fn demo() -> Files {
    read(Path::new("../demo/rocketmq"))
}

fn oddities() -> Files {
    read(Path::new("tests/data/rocketmq"))
}

fn read(dir: &Path) -> Files {
    files::read(dir).unwrap()
}

fn parse(contents: &[u8]) -> Value {
    json::parse(std::str::from_utf8(contents).unwrap()).unwrap()
}

fn assert_equal_as_data(before: &Files, after: &Files) {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, contents) in before {
        if is_known(name) && !contents.is_empty() {
            assert_eq!(parse(contents), parse(&after[name]), "{name}");
        } else {
            assert_eq!(contents, &after[name], "{name}");
        }
    }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> &'a [u8] {
    let found = entries.iter().find(|entry| entry.key == key.as_bytes());
    &found.unwrap_or_else(|| panic!("no record {key}")).value
}

#[test]
fn the_demo_folder_survives_and_has_the_stated_counts() {
    let files = demo();
    assert_eq!(files.len(), 12);
    let entries = split("default", &files).unwrap();
    let counts = counts(&entries);
    for (kind, count) in [
        (Kind::Topic, 1_226),
        (Kind::Group, 328),
        (Kind::Offset, 20_375),
        (Kind::KvEntry, 41),
        (Kind::User, 50),
        (Kind::AclSubject, 43),
        (Kind::AclEntry, 88),
        (Kind::Forbidden, 14),
        (Kind::PullOffset, 375),
        (Kind::DelayOffset, 18),
        (Kind::GroupTopics, 320),
        (Kind::StaticTopic, 4),
        (Kind::StaticQueue, 40),
        (Kind::RequestMode, 24),
        (Kind::Filter, 30),
        (Kind::Version, 6),
        (Kind::File, 12),
    ] {
        assert_eq!(counts[&kind], count, "{kind:?}");
    }
    assert_equal_as_data(&files, &join("default", &entries).unwrap());
}

#[test]
fn tables_leave_nothing_behind_in_the_files_own_records() {
    let entries = split("default", &demo()).unwrap();
    for entry in entries.iter().filter(|entry| entry.kind == Kind::File) {
        assert!(entry.value.len() < 2048, "{:?}: {:?}", entry.key, entry.value);
    }
}

#[test]
fn records_are_sorted_and_all_keys_differ() {
    let entries = split("default", &demo()).unwrap();
    assert!(entries.windows(2).all(|pair| pair[0].key < pair[1].key));
    let (start, end) = (keys::prefix("default"), keys::prefix_end("/mq/default/"));
    let within = |entry: &Entry| entry.key >= start.as_bytes() && entry.key < end.as_bytes();
    assert!(entries.iter().all(within));
}

#[test]
fn oddities_survive() {
    let files = oddities();
    assert!(!files.contains_key("README.md"));
    let entries = split("odd/cluster", &files).unwrap();
    assert_equal_as_data(&files, &join("odd/cluster", &entries).unwrap());
}

#[test]
fn rows_lie_where_the_layout_says() {
    let entries = split("c", &oddities()).unwrap();
    assert_eq!(find(&entries, "/mq/c/offset/g/t/0000000000"), 12i64.to_be_bytes());
    assert_eq!(find(&entries, "/mq/c/offset/g/t/0000000001"), i64::MAX.to_be_bytes());
    assert_eq!(find(&entries, "/mq/c/delay/0000000001"), 10i64.to_be_bytes());
    assert_eq!(find(&entries, "/mq/c/kv/N/text"), b"{0:1}");
    assert_eq!(find(&entries, "/mq/c/kv/N/k"), b"");
    assert_eq!(find(&entries, "/mq/c/group-topics/g"), br#"["z","a","z"]"#);
    assert_eq!(find(&entries, "/mq/c/topic/a.1b.0c"), br#"{"attributes":{"x":[3,1,2]}}"#);
    assert_eq!(find(&entries, "/mq/c/static/s/0000000000"), br#"[{"gen":1},{"gen":0}]"#);
    assert_eq!(find(&entries, "/mq/c/acl/User:b/0000000000/0000000001"), br#"{"n":1}"#);
    assert_eq!(find(&entries, "/mq/c/version/subscriptionGroup.0json"), b"7");
    assert_eq!(find(&entries, "/mq/c/file/timercheck/0000000000"), b"");
}

#[test]
fn large_files_and_rows_are_cut_or_kept() {
    let mut files = Files::new();
    files.insert("commitlog.bin".into(), (0..1_300_000u32).map(|i| i as u8).collect());
    let (long, name) = ("v".repeat(1 << 20), "n".repeat(5000));
    let topics =
        serde_json::json!({"topicConfigTable": {"large": long, name: {"perm": 6}, "a": 1}});
    files.insert("topics.json".into(), topics.to_string().into_bytes());
    let entries = split("default", &files).unwrap();
    assert!(entries.iter().all(|entry| entry.value.len() <= 1 << 20 && entry.key.len() <= 4096));
    assert_eq!(counts(&entries)[&Kind::Topic], 1);
    assert_equal_as_data(&files, &join("default", &entries).unwrap());
}

#[test]
fn records_without_a_file_make_one() {
    let prefix = keys::prefix("default");
    let entry = |kind, parts: &[&str], value: &[u8]| Entry {
        kind,
        key: keys::encode(&prefix, kind, parts).into(),
        value: bytes::Bytes::copy_from_slice(value),
    };
    let entries = [
        entry(Kind::Offset, &["g", "t", "3"], &7i64.to_be_bytes()),
        entry(Kind::User, &["new"], br#"{"username":"new"}"#),
    ];
    let files = join("default", &entries).unwrap();
    let expected = serde_json::json!({"offsetTable": {"t@g": {"3": 7}}});
    assert_eq!(parse(&files["consumerOffset.json"]), expected);
    assert_eq!(parse(&files["users.json"]), serde_json::json!([{"username": "new"}]));
}

#[test]
fn damaged_records_and_files_are_named() {
    let prefix = keys::prefix("default");
    let entry = |kind, parts: &[&str], value: &'static [u8]| Entry {
        kind,
        key: keys::encode(&prefix, kind, parts).into(),
        value: value.into(),
    };
    let cases = [
        entry(Kind::Offset, &["g", "t", "3"], b"12"),
        entry(Kind::Topic, &["t"], b"{"),
        entry(Kind::KvEntry, &["n", "k"], b"\xff"),
        entry(Kind::AclEntry, &["User:a", "0", "0"], b"{}"),
    ];
    for case in cases {
        let word = case.kind.word();
        let error = join("default", &[case]).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    let mut files = Files::new();
    files.insert("topics.json".into(), b"{\"a\":".to_vec());
    assert!(split("default", &files).unwrap_err().starts_with("topics.json: "));
}
