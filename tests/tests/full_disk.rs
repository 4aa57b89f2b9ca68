//! The first write that the disk refuses stops the store with a clear last line; started again on
//! a disk with room, it has everything that was acknowledged.

use flotilla_client::Client;
use flotilla_tests::process::{Process, command, free_ports, program};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Files may not grow beyond this many KiB: as if the disk were full there.
const FILE_KIB_MAX: &str = "4000";
const VALUE_BYTES: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn words(dir: &Path, port: u16, more: &[&str]) -> Vec<String> {
    let address = format!("127.0.0.1:{port}");
    let mut words = vec!["run", "--dir", dir.to_str().unwrap(), "--addr", &address];
    words.extend(more);
    words.into_iter().map(str::to_owned).collect()
}

async fn connect(address: &str) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(client) = Client::connect(&[address]).await {
            return client.with_timeout(Duration::from_secs(5));
        }
        assert!(Instant::now() < deadline, "nothing answers on {address}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Puts until one fails; gives how many were acknowledged.
async fn fill(client: &Client) -> u32 {
    let value = vec![b'v'; VALUE_BYTES];
    let deadline = Instant::now() + PATIENCE;
    let mut acknowledged = 0;
    // The first ones may come before the region has a leader.
    while acknowledged == 0 {
        acknowledged += u32::from(client.put("k0", value.clone()).await.is_ok());
        assert!(Instant::now() < deadline, "the region never served");
    }
    while client.put(format!("k{acknowledged}"), value.clone()).await.is_ok() {
        acknowledged += 1;
        assert!(Instant::now() < deadline, "the limit was never met");
    }
    acknowledged
}

struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_refused_write_stops_the_store_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports(2);
    let placement = format!("127.0.0.1:{port}");
    let layout = ["--stores", "1", "--regions", "1"];
    let own = words(&dir.path().join("placement"), port, &layout);
    let log = dir.path().join("placement.log");
    let mut driver = Process::new("placement", "placement", own, log);
    driver.start();

    let log = dir.path().join("store.log");
    let store = words(&dir.path().join("store"), port + 1, &["--placement", &placement]);
    let limited = command("kvserver");
    let mut shell = std::process::Command::new("bash");
    for (variable, value) in limited.get_envs() {
        assert!(value.is_none(), "a setting for the store");
        shell.env_remove(variable);
    }
    // Ignored, the signal becomes an error of the write.
    shell.args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"", "bash", FILE_KIB_MAX]);
    shell.arg(program("kvserver")).args(&store);
    shell.env(flotilla_kvserver::stop::PARENT_PIPE, "1").stdin(Stdio::piped());
    shell.stderr(std::fs::File::create(&log).unwrap());
    let mut limited = Owned(shell.spawn().unwrap());
    let acknowledged = fill(&connect(&placement).await).await;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = limited.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the store lives on after a refused write");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.lines().last().unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(last.starts_with("fatal: ") && last.contains("the store stops"), "{last}");

    let mut again = Process::new("store", "kvserver", store, log);
    again.start();
    let client = connect(&placement).await.with_timeout(PATIENCE);
    for number in 0..acknowledged {
        let got = client.get(format!("k{number}")).await.expect("a get");
        assert_eq!(got.value.map(|value| value.len()), Some(VALUE_BYTES), "k{number} is lost");
    }
    assert!(acknowledged > 1, "only {acknowledged} puts before the limit");
}
