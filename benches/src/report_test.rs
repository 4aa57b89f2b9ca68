use super::*;
use crate::keys::KeyMode;
use crate::machine::Shares;
use crate::workload::Rpc;
use flotilla_client::Consistency;
use hdrhistogram::Histogram;
use std::time::Duration;

fn row(errors: u64, invalid: Option<&str>) -> Row {
    row_on("ext4", true, errors, invalid)
}

fn row_on(file_system: &str, sync: bool, errors: u64, invalid: Option<&str>) -> Row {
    let workload = Workload {
        clients: 8,
        batching: true,
        rpc: Rpc::Stream,
        write_percent: 90,
        consistency: Consistency::default(),
        key_bytes: 16,
        value_bytes: 16,
        keys: KeyMode::Spread(1_000_000),
        in_flight: 4096,
        rate: None,
        seconds: Duration::from_secs(2),
        warmup: Duration::from_secs(1),
    };
    let setup = Setup {
        storage: Some("rocksdb".to_owned()),
        pipeline: Some(true),
        sync: Some(sync),
        regions: 24,
        file_system: Some(file_system.to_owned()),
        ..Setup::default()
    };
    let mut latency_us = Histogram::new(3).unwrap();
    for us in 1..=1000 {
        latency_us.record(us).unwrap();
    }
    let usage = |name: &str, cpu_s| Usage { name: name.to_owned(), cpu_s, rss_mib: 7 };
    let measured = Measured {
        ops: 1000,
        errors,
        error_texts: vec![("busy".to_owned(), errors)],
        latency_us,
        took: Duration::from_secs(2),
        processes: vec![usage("store-1", 0.5), usage(LOAD, 9.0)],
        shares: Shares { busy_percent: 80.0, steal_percent: 12.5 },
        load_average: 4.5,
    };
    Row::new("batched-rocksdb", (&workload).into(), setup, measured, invalid.map(str::to_owned))
}

#[test]
fn json_has_the_names_of_the_contract() {
    let json: serde_json::Value = serde_json::from_str(&row(1, None).json()).unwrap();
    assert_eq!(json["name"], "batched-rocksdb");
    assert_eq!(json["clients"], 8);
    assert!(json["invalid"].is_null());
    assert_eq!(json["batching"], true);
    assert_eq!(json["pipeline"], true);
    assert_eq!(json["sync"], true);
    assert_eq!(json["rpc"], "stream");
    assert_eq!(json["storage"], "rocksdb");
    assert_eq!(json["keys"], "spread:1000000");
    assert_eq!(json["seconds"], 2.0);
    assert_eq!(json["ops"], 1000);
    assert_eq!(json["ops_per_s"], 500.0);
    assert_eq!(json["errors"], 1);
    assert_eq!(json["p50_us"], 500);
    assert_eq!(json["max_us"], 1000);
    assert_eq!((&json["cpu_percent"], &json["steal_percent"]), (&80.0.into(), &12.5.into()));
    assert!(json["machine"].as_str().unwrap().contains("data on ext4"));
    let store = &json["processes"][0];
    assert_eq!(
        (&store["name"], &store["cpu_s"], &store["rss_mib"]),
        (&"store-1".into(), &0.5.into(), &7.into())
    );
    // The load's own processor time is not the servers'.
    assert_eq!(json["ops_per_core_s"], 2000.0);
    for name in [
        "write_percent",
        "key_bytes",
        "value_bytes",
        "regions",
        "in_flight",
        "p95_us",
        "p99_us",
        "p999_us",
        "load_average",
        "cpu_percent",
        "machine",
    ] {
        assert!(!json[name].is_null(), "{name}");
    }
}

#[test]
fn a_row_is_read_back_as_it_was_written() {
    let json = row(1, Some("uneven")).json();
    let read: Row = serde_json::from_str(&json).unwrap();
    assert_eq!(read.json(), json);
}

#[test]
fn too_many_errors_or_uneven_leaders_make_a_row_invalid() {
    assert_eq!(row(1, None).invalid, None, "one of 1,001");
    let reason = row(2, None).invalid.unwrap();
    assert!(reason.contains("2 of 1002") && reason.contains("busy"), "{reason}");
    assert_eq!(row(0, Some("uneven")).invalid.unwrap(), "uneven");
    let text = row(0, Some("uneven")).text();
    assert!(text.contains("INVALID: uneven") && !text.contains("500 ops/s"), "{text}");
    assert!(row(0, None).text().contains("500 ops/s"));
}

#[test]
fn a_synced_row_on_a_file_system_in_memory_does_not_count() {
    let reason = row_on("tmpfs", true, 0, None).invalid.unwrap();
    assert!(reason.contains("tmpfs") && reason.contains("TMPDIR"), "{reason}");
    assert_eq!(row_on("tmpfs", false, 0, None).invalid, None, "sync off says so");
}

#[test]
fn numbers_are_grouped() {
    assert_eq!(thousands(0), "0");
    assert_eq!(thousands(999), "999");
    assert_eq!(thousands(1_234_567), "1,234,567");
}
