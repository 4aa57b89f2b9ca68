//! The program `throughput`, run as a user runs it, over real processes (which `make build` made).

use serde_json::Value;
use std::process::{Command, Output};

fn throughput(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_throughput"))
        .args(line.split_whitespace())
        .output()
        .expect("the program was built with this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_row_is_measured_and_written_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.json");
    let line = "table --rows unbatched-one-append --seconds 0.5 --warmup 0.3 --json";
    let output = throughput(&format!("{line} {}", file.display()));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let markdown = text(&output.stdout);
    assert!(markdown.contains("| 75 k |"), "{markdown}");

    let rows: Vec<Value> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 2, "one row for each key mode");
    for (row, keys) in rows.iter().zip(["startkey", "spread:1000000"]) {
        assert_eq!(row["keys"], keys);
        assert_eq!(row["name"], "unbatched-one-append");
        assert_eq!(row["storage"], "memory");
        assert_eq!(row["pipeline"], false);
        assert_eq!(row["sync"], true);
        assert_eq!(row["regions"], 24);
        assert!(row["ops"].as_u64().unwrap() > 0, "{row}");
        let names: Vec<_> =
            row["processes"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert_eq!(names, ["placement-1", "store-1", "store-2", "store-3", "load"]);
    }
}

#[test]
fn wrong_usage_names_the_flag_and_ends_with_two() {
    for (line, flag) in [
        ("run --clients 8 --in-flight 4", "--in-flight"),
        ("run --write-percent 101", "--write-percent"),
        ("run --keys spread:none", "--keys"),
        ("run --key-bytes 8", "--key-bytes"),
        ("run --rate 0", "--rate 0"),
        ("run --rate -5", "--rate -5"),
        ("run --warmup -1", "'-1' for '--warmup"),
        ("table --warmup -1", "'-1' for '--warmup"),
        ("run --seconds 0.01", "'0.01' for '--seconds"),
        ("run --value-bytes -1", "'-1' for '--value-bytes"),
        ("table --rows gets-512 --storage memory", "--rows"),
    ] {
        let output = throughput(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(text(&output.stderr).contains(flag), "{line}: {}", text(&output.stderr));
    }
}

#[cfg(not(feature = "peers"))]
#[test]
fn a_build_without_peers_says_how_to_get_them() {
    let output = throughput("peers --seconds 1");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("make bench-peers"), "{}", text(&output.stderr));
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = throughput(&format!("run --placement 127.0.0.1:{port} --seconds 1"));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("cannot connect") && error.contains(&port.to_string()), "{error}");
}
