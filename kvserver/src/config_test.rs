//! Precedence of settings, and what a user reads when one is wrong.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

fn args(words: &[&str]) -> RunArgs {
    Cli::try_parse_from(std::iter::once("run").chain(words.iter().copied())).unwrap().run
}

const ENOUGH: &str = "dir = 'd'\naddr = '127.0.0.1:7000'\nplacement = ['127.0.0.1:7100']\n";

fn merge(words: &[&str], file: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    let mut args = args(words);
    args.config = Some(path);
    Settings::load(args).map_err(|e| e.to_string())
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file =
        format!("{ENOUGH}storage = 'memory'\nlog_level = 'warn'\n[raft]\npipeline = false\n");
    let settings = merge(&["--addr", "127.0.0.1:7001", "--log-level", "debug"], &file).unwrap();
    assert_eq!(settings.addr.as_str(), "127.0.0.1:7001");
    assert_eq!(settings.advertise, settings.addr);
    assert_eq!(settings.log_level, "debug");
    assert_eq!(settings.storage, Some(Storage::Memory));
    assert!(!settings.raft.pipeline);
    assert_eq!(settings.raft.election_ticks, 10);
    assert_eq!(settings.log_format, LogFormat::Text);
    assert!(settings.log.sync);
    let table = |words, file| merge(words, file).unwrap().kv.table_bytes_max;
    assert_eq!(settings.kv.table_bytes_max, 128 << 20);
    let small = format!("{ENOUGH}[kv]\ntable_bytes_max = 1048576\n");
    assert_eq!(table(&[], &small), 1 << 20);
    assert_eq!(table(&["--kv-table-mib", "0"], &small), 0);
    assert_eq!(settings.log.engine, None);
    let file = format!("{ENOUGH}[log]\nengine = 'rocksdb'\nsync = false\n");
    let settings = merge(&[], &file).unwrap();
    assert_eq!((settings.log.engine, settings.log.sync), (Some(LogEngine::Rocksdb), false));
    let settings = merge(&["--log-engine", "raft-engine"], &file).unwrap();
    assert_eq!(settings.log.engine, Some(LogEngine::RaftEngine));
}

#[test]
fn every_flag_reads_its_own_variable() {
    use clap::CommandFactory;
    let command = Cli::command();
    for arg in command.get_arguments().filter(|a| a.get_id() != "help") {
        let flag = arg.get_long().unwrap();
        let variable = arg.get_env().unwrap().to_str().unwrap();
        assert_eq!(variable, format!("FLOTILLA_{}", flag.to_uppercase().replace('-', "_")));
    }
}

#[test]
fn several_placements_are_separated_by_commas() {
    let settings = merge(&["--placement", "127.0.0.1:1,host:2"], ENOUGH).unwrap();
    let placement: Vec<_> = settings.placement.iter().map(Address::as_str).collect();
    assert_eq!(placement, ["127.0.0.1:1", "host:2"]);
}

#[test]
fn unknown_fields_are_refused_by_name() {
    let error = merge(&[], &format!("{ENOUGH}no_such_field = 1\n")).unwrap_err();
    assert!(error.contains("no_such_field") && error.contains("line 4"), "{error}");
    let error = merge(&[], &format!("{ENOUGH}[raft]\nelectoin_ticks = 1\n")).unwrap_err();
    assert!(error.contains("electoin_ticks") && error.contains("election_ticks"), "{error}");
}

#[test]
fn values_out_of_range_are_named_with_what_is_allowed() {
    let error = merge(&[], &format!("{ENOUGH}[raft]\nheartbeat_ticks = 10\n")).unwrap_err();
    assert!(error.contains("raft.election_ticks = 10: must be greater"), "{error}");
    let error = merge(&[], &format!("{ENOUGH}[server]\nworker_threads = 0\n")).unwrap_err();
    assert!(error.contains("server.worker_threads = 0: must be from 1 to 256"), "{error}");
    let reserve = |mib: u64| merge(&[], &format!("{ENOUGH}[server]\ndisk_reserve_mib = {mib}\n"));
    let error = reserve(2 << 30).unwrap_err();
    assert!(error.contains("server.disk_reserve_mib = 2147483648: must be from 0"), "{error}");
    assert_eq!(reserve(0).unwrap().server.disk_reserve_mib, Some(0));
    let error = merge(&[], &format!("{ENOUGH}[kv]\ntable_bytes_max = 1\n")).unwrap_err();
    assert!(error.contains("kv.table_bytes_max") && error.contains("0, for no table"), "{error}");
    let error = merge(&[], &format!("log_level = 'a=b=c'\n{ENOUGH}")).unwrap_err();
    assert!(error.contains("log_level") && error.contains("a=b=c"), "{error}");
    assert_eq!(merge(&["--kv-table-mib", "2048"], ENOUGH).unwrap().kv.table_bytes_max, 2 << 30);
    let error = merge(&[], &format!("{ENOUGH}[raft]\nshards = 'x'\n")).unwrap_err();
    assert!(error.contains("line 5") && error.contains("expected"), "{error}");
}

#[test]
fn what_is_missing_is_named_in_all_three_spellings() {
    let error = merge(&[], "dir = 'd'\naddr = '127.0.0.1:7000'\n").unwrap_err();
    for word in ["--placement", "FLOTILLA_PLACEMENT", "`placement`"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn addresses_that_nobody_can_reach_are_refused() {
    for bad in ["nonsense", "127.0.0.1:", ":7000", "127.0.0.1:0", "127.0.0.1:70000", "::1:7000"] {
        let error = bad.parse::<Address>().unwrap_err();
        assert!(error.contains(bad) && error.contains("HOST:PORT"), "{error}");
    }
    assert!("[::1]:7000".parse::<Address>().is_ok());
    let error = merge(&["--addr", "0.0.0.0:7000"], ENOUGH).unwrap_err();
    assert!(error.contains("--advertise-addr"), "{error}");
    let both = ["--addr", "0.0.0.0:7000", "--advertise-addr", "host:7000"];
    assert_eq!(merge(&both, ENOUGH).unwrap().advertise.as_str(), "host:7000");
}

#[test]
fn an_unreadable_file_is_named() {
    let error =
        Settings::load(RunArgs { config: Some("/no/such/file.toml".into()), ..RunArgs::default() });
    assert!(error.unwrap_err().to_string().contains("/no/such/file.toml"));
}
