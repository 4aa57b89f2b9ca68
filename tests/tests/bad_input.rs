//! Wrong starts and wrong requests: each is refused with words that name the thing and what to
//! do, without a panic, and without a change to what is on disk.

use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::{Kv, kv};
use flotilla_tests::process::{command, free_ports, run_within, write_file};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A wrong start must be over by then.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

/// Runs a server that must refuse to start, naming every word of `words`.
fn refused(name: &str, server: Command, words: &[&str]) {
    let said = Kv::from(run_within(server, REFUSED_WITHIN));
    let text = format!("{}{}", said.out, said.err);
    assert!(said.code != 0, "{name}: exit code 0: {text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{name}: {text}");
    for word in words {
        assert!(text.contains(word), "{name}: does not name '{word}': {text}");
    }
}

fn placement(dir: &Path, address: &str) -> Command {
    let mut server = command("placement");
    server.arg("run").arg("--dir").arg(dir).args(["--addr", address]);
    server
}

fn store(dir: &Path, address: &str, placement: &str) -> Command {
    let mut server = command("kvserver");
    server.arg("run").arg("--dir").arg(dir).args(["--addr", address, "--placement", placement]);
    server
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Every file below `dir` with its bytes, but the lock.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != "LOCK" {
                files.insert(entry.path(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_port_in_use_is_named_and_the_folder_stays_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = dir.path().join("new");
    refused("placement", placement(&folder, &address), &[&address, "in use"]);
    refused("store", store(&folder, &address, &local(free_ports(1))), &[&address, "in use"]);
    assert!(!folder.exists(), "a folder was made before the port was there");
    let mut playground = command("kvserver");
    let port = taken.local_addr().unwrap().port();
    playground.args(["playground", "--base-port", &port.to_string()]);
    refused("playground", playground, &[&port.to_string(), "in use", "--base-port"]);
}

#[test]
fn an_unusable_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(dir.path(), "file", "mine");
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let _ = write_file(&foreign, "letter.txt", "mine");
    // A folder that nobody can make, root neither.
    let impossible = Path::new("/proc/flotilla");
    let cases: [(&Path, &[&str]); 3] = [
        (&file, &["file", "is a file", "--dir"]),
        (&foreign, &["foreign", "letter.txt", "--dir"]),
        (impossible, &["/proc/flotilla", "--dir"]),
    ];
    for (folder, words) in cases {
        let port = free_ports(2);
        refused("placement", placement(folder, &local(port)), words);
        refused("store", store(folder, &local(port), &local(port + 1)), words);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(contents(&foreign).len(), 1);
}

#[test]
fn a_wrong_flag_or_setting_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    let (own, other) = (local(free_ports(1)), local(free_ports(1)));
    refused("address", store(&folder, "nonsense", &other), &["nonsense", "HOST:PORT"]);
    refused("port", store(&folder, "127.0.0.1:70000", &other), &["70000", "HOST:PORT"]);
    refused("address", placement(&folder, "nonsense"), &["nonsense", "HOST:PORT"]);
    let mut floppy = store(&folder, &own, &other);
    floppy.args(["--storage", "floppy"]);
    refused("storage", floppy, &["floppy", "rocksdb", "memory"]);
    let settings: [(&str, &[&str]); 4] = [
        ("no_such_field = 1\n", &["no_such_field"]),
        ("[raft]\nno_such_field = 1\n", &["no_such_field"]),
        ("[raft]\nelection_ticks = 1\n", &["election_ticks", "heartbeat_ticks"]),
        ("[raft]\nshards = \"many\"\n", &["many"]),
    ];
    for (number, (text, words)) in settings.into_iter().enumerate() {
        let file = write_file(dir.path(), &format!("{number}.toml"), text);
        for mut server in [store(&folder, &own, &other), placement(&folder, &own)] {
            server.arg("--config").arg(&file);
            refused(text, server, words);
        }
    }
    let mut missing = store(&folder, &own, &other);
    missing.args(["--config", "/no/such.toml"]);
    refused("config file", missing, &["/no/such.toml"]);
    let mut incomplete = command("kvserver");
    incomplete.arg("run");
    refused("no flags", incomplete, &["--dir"]);
    assert!(!folder.exists(), "a folder was made before the settings were right");
}

/// Whom an operator means must be a number, and which one it is must be said.
#[test]
fn a_number_that_is_none_is_named_with_its_flag() {
    let wrong: [(&[&str], &[&str]); 6] = [
        (&["recover", "--lost-stores", "1,x"], &["--lost-stores", "'x'", "--lost-stores 2,3"]),
        (&["recover", "--lost-stores", "0"], &["--lost-stores", "'0'", "--lost-stores 2,3"]),
        (&["recover", "x", "--lost-stores", "1"], &["[GROUP]", "'x'", "group's number"]),
        (&["describe", "-"], &["<GROUP>", "'-'", "group's number"]),
        (&["rebuild", "1", "--store", "127.0.0.1:1"], &["--store", "127.0.0.1:1", "kv stores"]),
        (&["rebuild", "1", "--replica", "first"], &["--replica", "'first'", "replica's id"]),
    ];
    for (words, named) in wrong {
        let said = kv(&local(free_ports(1)), &[&["admin", "group"], words].concat());
        assert_eq!(said.code, 2, "{words:?}: {said:?}");
        named.iter().for_each(|word| assert!(said.err.contains(word), "{word}: {said:?}"));
    }
    let wrong: [(&[&str], &[&str]); 3] = [
        (&["--lost-stores", "x", "--all"], &["--lost-stores", "'x'", "--lost-stores 2,3"]),
        (&["--lost-stores", "1", "--groups", "x"], &["--groups", "'x'", "--groups 4,7"]),
        (&["--lost-stores", "1", "--all", "--id", "x"], &["--id", "'x'", "hexadecimal"]),
    ];
    for (words, named) in wrong {
        let mut recover = command("kvserver");
        recover.args(["recover", "--dir", "nowhere"]).args(words);
        refused("recover", recover, named);
    }
}

/// Everything that a folder of a real store can be refused for, on one cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_belongs_elsewhere_is_refused_and_stays_as_it_is() {
    let options = Options { regions: 2, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let placement_address = cluster.placement_address();
    let folder = cluster.store_dir(0);
    let address = local(free_ports(1));

    refused("in use", store(&folder, &address, &placement_address), &["in use", "--dir"]);
    assert!(cluster.store(0).terminate().success());
    let before = contents(&folder);

    let mut other = store(&folder, &address, &placement_address);
    other.args(["--storage", "memory"]);
    refused("other storage", other, &["rocksdb", "memory", "--storage"]);
    let kind = placement(&folder, &address);
    refused("a store's folder for placement", kind, &["--dir"]);
    assert_eq!(contents(&folder), before, "a refused start changed the folder");

    let identity = folder.join("identity");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("format = 1", "format = 999")).unwrap();
    refused("newer", store(&folder, &address, &placement_address), &["999", "newer"]);
    std::fs::write(&identity, "not = [toml").unwrap();
    refused("damaged", store(&folder, &address, &placement_address), &["identity", "damaged"]);
    std::fs::write(&identity, text).unwrap();
    assert_eq!(contents(&folder), before, "a refused start changed the folder");

    let stranger = Cluster::start(Options { stores: 1, regions: 1, ..options }).await;
    let elsewhere = stranger.placement_address();
    refused("other cluster", store(&folder, &address, &elsewhere), &["cluster", "--"]);
    drop(stranger);

    cluster.start_store(0);
    cluster.wait_serving().await;
}

/// The store waits for placement rather than to give up, and says whom it waits for.
#[test]
fn a_placement_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports(2);
    let log = dir.path().join("log");
    let words = ["run", "--dir", &dir.path().join("store").display().to_string()];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    words.extend(["--addr".to_owned(), local(port)]);
    words.extend(["--placement".to_owned(), local(port + 1)]);
    let mut store = flotilla_tests::process::Process::new("store", "kvserver", words, log.clone());
    store.start();
    let deadline = std::time::Instant::now() + REFUSED_WITHIN;
    let named = || std::fs::read_to_string(&log).unwrap().contains(&local(port + 1));
    while !named() {
        assert!(std::time::Instant::now() < deadline, "placement is not named");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = kv(&local(port), &["--timeout", "1s", "put", "a", "b"]);
    assert!(refused.code == 3 || refused.code == 5, "not applied: {refused:?}");
}
