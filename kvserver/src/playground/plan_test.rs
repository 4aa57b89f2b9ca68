//! Flags against each other, and against what a folder holds.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PlaygroundArgs,
}

fn parse(words: &[&str]) -> Result<PlaygroundArgs, String> {
    Cli::try_parse_from(std::iter::once("playground").chain(words.iter().copied()))
        .map(|cli| cli.args)
        .map_err(|e| e.to_string())
}

fn layout(words: &[&str], old: Option<Layout>) -> Result<Layout, String> {
    let args = parse(words).unwrap();
    merge_layout(Path::new("d"), old, &args, args.log_engine).map_err(|e| e.to_string())
}

fn old() -> Option<Layout> {
    Some(Layout { format: 1, stores: 5, storage: Storage::Memory, log_engine: LogEngine::Rocksdb })
}

#[test]
fn an_old_folder_keeps_its_layout() {
    assert_eq!(layout(&[], old()).unwrap(), old().unwrap());
    assert_eq!(layout(&["--stores", "5", "--storage", "memory"], old()).unwrap(), old().unwrap());
    assert!(layout(&["--stores", "3"], old()).unwrap_err().contains("5 stores, not 3"));
    let error = layout(&["--storage", "rocksdb"], old()).unwrap_err();
    assert!(error.contains("storage memory, not rocksdb"), "{error}");
    let error = layout(&["--log-engine", "raft-engine"], old()).unwrap_err();
    assert!(error.contains("engine rocksdb, not raft-engine"), "{error}");
    assert_eq!(layout(&[], None).unwrap().stores, 3);
    assert_eq!(layout(&[], None).unwrap().log_engine, LogEngine::RaftEngine);
    let older: Layout = toml::from_str("format = 1\nstores = 3\nstorage = 'memory'").unwrap();
    assert_eq!(older.log_engine, LogEngine::Rocksdb);
}

#[test]
fn wrong_flags_are_named() {
    for (words, expected) in [
        (&["--stores", "0"][..], "--stores"),
        (&["--regions", "0"], "--regions"),
        (&["--storage", "floppy"], "rocksdb, memory"),
        (&["--log-engine", "tape"], "rocksdb, raft-engine"),
        (&["--base-port", "70000"], "--base-port"),
        (&["--regions", "4", "--split-at", "a,b"], "--split-at"),
    ] {
        let error = parse(words).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn commands_carry_everything_and_survive_a_shell() {
    let args = parse(&["--split-at", "a b,c'd", "--base-port", "9000"]).unwrap();
    let layout = merge_layout(Path::new("d"), None, &args, None).unwrap();
    let placement = placement_spec(&args, Path::new("/p q"), &layout, "/bin/placement".into());
    assert_eq!(
        placement.command_line(),
        r"/bin/placement run --dir '/p q/placement' --addr 127.0.0.1:9000 --stores 3 --split-at 'a b,c'\''d'"
    );
    let at = placement.address();
    let store = store_spec(2, &args, Path::new("/d"), &layout, "/bin/kvserver".into(), &at);
    assert_eq!(
        store.command_line(),
        "/bin/kvserver run --dir /d/store-2 --addr 127.0.0.1:9011 --placement 127.0.0.1:9000 --storage rocksdb --log-engine raft-engine"
    );
    assert_eq!(store.log, Path::new("/d/store-2.log"));
}
