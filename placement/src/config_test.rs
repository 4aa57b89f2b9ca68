//! Tests of the settings.

use super::*;
use clap::Parser;
use std::io::Write;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

fn settings(args: &[&str], file: Option<&str>) -> Result<Settings, String> {
    let mut args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    args.insert(0, "placement".into());
    let mut written = tempfile::NamedTempFile::new().unwrap();
    if let Some(text) = file {
        written.write_all(text.as_bytes()).unwrap();
        args.extend(["--config".into(), written.path().display().to_string()]);
    }
    let cli = Cli::try_parse_from(args).map_err(|e| e.to_string())?;
    Settings::load(cli.run).map_err(|e| e.to_string())
}

const NEEDED: [&str; 4] = ["--dir", "/d", "--addr", "127.0.0.1:7100"];

fn with(more: &[&str]) -> Vec<&'static str> {
    let more = more.iter().map(|s| &*s.to_string().leak()).collect::<Vec<_>>();
    NEEDED.into_iter().chain(more).collect()
}

#[test]
fn defaults_are_those_of_the_help() {
    let settings = settings(&NEEDED, None).unwrap();
    assert_eq!(settings.stores, 3);
    assert_eq!(settings.layout, Layout::even(24).unwrap());
    assert_eq!(settings.advertise_addr, settings.addr);
    assert_eq!((settings.store_down_after_ms, settings.leader_settle_ms), (5_000, 2_000));
    assert_eq!((settings.log_level.as_str(), settings.log_format), ("info", LogFormat::Text));
    assert_eq!(settings.raft, raft_defaults());
}

#[test]
fn flags_go_over_the_file() {
    let file = "stores = 5\nregions = 7\naddr = \"h:1\"\n[raft]\nelection_ticks = 7\n";
    let settings = settings(&with(&["--stores", "4"]), Some(file)).unwrap();
    assert_eq!(settings.stores, 4);
    assert_eq!(settings.layout.regions(), 7);
    assert_eq!(settings.addr.as_str(), "127.0.0.1:7100");
    assert_eq!(settings.raft, RaftConfig { election_ticks: 7, ..raft_defaults() });
}

#[test]
fn unknown_fields_of_the_file_are_named() {
    for file in ["no_such_field = 1", "[raft]\nno_such_field = 1"] {
        assert!(settings(&NEEDED, Some(file)).unwrap_err().contains("no_such_field"), "{file}");
    }
}

#[test]
fn wrong_values_name_the_flag_or_field_and_the_value() {
    let cases: [(&[&str], &str, &[&str]); 16] = [
        (&["--addr", "nonsense"], "", &["--addr", "nonsense"]),
        (&["--addr", "127.0.0.1:99999"], "", &["--addr", "99999"]),
        (&["--addr", "::1:80"], "", &["--addr", "brackets"]),
        (&["--regions", "0"], "", &["--regions", "0", "1..=65536"]),
        (&["--stores", "0"], "", &["--stores", "0", "1..=1000"]),
        (&["--store-down-after-ms", "1"], "", &["--store-down-after-ms", "1500..=3600000"]),
        (&["--leader-settle-ms", "3600001"], "", &["--leader-settle-ms", "3600001"]),
        (&["--log-level", "a=b=c"], "", &["--log-level", "a=b=c"]),
        (&[], "regions = 0", &["regions = 0"]),
        (&[], "stores = 0", &["stores = 0: must be 1 to 1000"]),
        (&[], "log_level = \"a=b=c\"", &["log_level", "a=b=c"]),
        (&["--split-at", "a,a"], "", &["split_at", "twice"]),
        (&["--split-at", r"a\q"], "", &["split_at", r"\q"]),
        (&["--advertise-addr", "0.0.0.0:1"], "", &["advertise_addr", "0.0.0.0:1"]),
        (&[], "addr = \"x\"", &["addr", "'x'"]),
        (&[], "[raft]\nshards = 0", &["raft.shards = 0"]),
    ];
    for (flags, file, words) in cases {
        let mut args = NEEDED.to_vec();
        if flags.first() == Some(&"--addr") {
            args.truncate(2);
        }
        args.extend(flags);
        let error = settings(&args, Some(file)).unwrap_err();
        words.iter().for_each(|word| assert!(error.contains(word), "{flags:?}: {error}"));
    }
    assert!(settings(&NEEDED[..2], None).unwrap_err().contains("--addr is missing"));
    assert!(settings(&NEEDED[2..], None).unwrap_err().contains("FLOTILLA_DIR"));
}

#[test]
fn split_keys_understand_escapes() {
    let settings = settings(&with(&["--split-at", r"b\x2cc,\x80"]), None).unwrap();
    let cuts: Vec<_> = settings.layout.ranges().map(|(start, _)| start).collect();
    assert_eq!(cuts, [&b""[..], b"b,c", b"\x80"]);
}
