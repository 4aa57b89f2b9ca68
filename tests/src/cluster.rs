//! A cluster of real processes: one placement member and stores, each killed and restarted at
//! will. Everything listens on 127.0.0.1 and lives in a temporary folder.

use crate::process::{Process, free_ports, write_file};
use flotilla_client::Client;
use flotilla_client::pb::Region;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a cluster may take to serve every region.
const SERVING_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// The name of the placement process.
pub const PLACEMENT: &str = "placement";

/// The name of the store with this number, from 1.
#[must_use]
pub fn store_name(number: u16) -> String {
    format!("store-{number}")
}

/// What cluster to start.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many stores.
    pub stores: u16,
    /// How many regions.
    pub regions: u32,
    /// `rocksdb` or `memory`.
    pub storage: &'static str,
    /// `rocksdb` or `raft-engine`.
    pub log_engine: &'static str,
    /// Settings of all stores, as TOML.
    pub settings: &'static str,
    /// Each store has a disk of so many MiB for itself; needs [`can_mount`]. 0: they share one.
    pub disk_mib: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stores: 3,
            regions: 6,
            storage: "rocksdb",
            log_engine: "raft-engine",
            settings: "",
            disk_mib: 0,
        }
    }
}

/// See the module. Dropping it kills what still runs and removes the folder.
pub struct Cluster {
    placement: Process,
    stores: Vec<Process>,
    store_dirs: Vec<PathBuf>,
    base_port: u16,
    regions: usize,
    // Last: the processes are gone before their disks and folder are.
    _disks: Vec<Disk>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts all processes and waits until every region serves.
    pub async fn start(options: Options) -> Cluster {
        Cluster::start_in(options, None).await
    }

    /// The same with the data of each process in a folder of its name (`placement`, `store-1`, …)
    /// below `data`, which outlives the cluster; without it in the cluster's own folder.
    pub async fn start_in(options: Options, data: Option<&Path>) -> Cluster {
        let dir = tempfile::Builder::new().prefix("flotilla-test-").tempdir().expect("a folder");
        let data = data.unwrap_or(dir.path()).to_owned();
        let base_port = free_ports(options.stores + 1);
        let placement = format!("127.0.0.1:{base_port}");
        let mut words = run_words(&data.join(PLACEMENT), base_port);
        words.extend(["--stores".to_owned(), options.stores.to_string()]);
        words.extend(["--regions".to_owned(), options.regions.to_string()]);
        let mut cluster = Cluster {
            placement: Process::new(PLACEMENT, "placement", words, log(dir.path(), PLACEMENT)),
            stores: Vec::new(),
            store_dirs: (1..=options.stores).map(|number| data.join(store_name(number))).collect(),
            base_port,
            regions: options.regions as usize,
            _disks: Vec::new(),
            dir,
        };
        if options.disk_mib > 0 {
            let disks =
                cluster.folders(options.stores).map(|dir| Disk::mount(dir, options.disk_mib));
            cluster._disks = disks.collect();
        }
        cluster.placement.start();
        let settings = write_file(cluster.dir(), "stores.toml", options.settings);
        for number in 1..=options.stores {
            let mut words = run_words(&cluster.store_dir(number - 1), base_port + number);
            words.extend(["--placement".to_owned(), placement.clone()]);
            words.extend(["--storage".to_owned(), options.storage.to_owned()]);
            words.extend(["--log-engine".to_owned(), options.log_engine.to_owned()]);
            words.extend(["--config".to_owned(), settings.display().to_string()]);
            let name = store_name(number);
            let log = log(cluster.dir.path(), &name);
            cluster.stores.push(Process::new(&name, "kvserver", words, log));
            cluster.start_store(number - 1);
        }
        cluster.wait_serving().await;
        cluster
    }

    /// `HOST:PORT` of placement.
    #[must_use]
    pub fn placement_address(&self) -> String {
        format!("127.0.0.1:{}", self.base_port)
    }

    /// `HOST:PORT` of the store with this index, from 0.
    #[must_use]
    pub fn store_address(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + 1 + index)
    }

    fn folders(&self, stores: u16) -> impl Iterator<Item = PathBuf> + '_ {
        (0..stores).map(|index| self.store_dir(index))
    }

    /// The data folder of the store with this index.
    #[must_use]
    pub fn store_dir(&self, index: u16) -> PathBuf {
        self.store_dirs[usize::from(index)].clone()
    }

    /// The cluster's folder; tests may put files of their own there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The placement process.
    pub fn placement(&mut self) -> &mut Process {
        &mut self.placement
    }

    /// The store with this index.
    pub fn store(&mut self, index: u16) -> &mut Process {
        &mut self.stores[usize::from(index)]
    }

    /// Indexes of all stores.
    pub fn store_indexes(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.stores.len()).expect("stores are counted in u16")
    }

    /// Starts a store, again or for the first time.
    pub fn start_store(&mut self, index: u16) {
        self.store(index).start();
    }

    /// SIGKILL for a store.
    pub fn kill_store(&mut self, index: u16) {
        self.store(index).kill();
    }

    /// A client that knows placement and all stores.
    ///
    /// # Panics
    /// When nothing answers within a minute.
    pub async fn client(&self) -> Client {
        let mut addresses = vec![self.placement_address()];
        addresses.extend(self.store_indexes().map(|index| self.store_address(index)));
        let deadline = Instant::now() + SERVING_MAX;
        loop {
            match Client::connect(&addresses).await {
                Ok(client) => return client,
                Err(error) if Instant::now() >= deadline => panic!("no client: {error}"),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Waits until a write into every region succeeds.
    ///
    /// # Panics
    /// When that takes longer than a minute, or a process ended by itself.
    pub async fn wait_serving(&mut self) {
        let deadline = Instant::now() + SERVING_MAX;
        let client = self.client().await.with_timeout(Duration::from_secs(2));
        loop {
            let missing = match self.unserved(&client).await {
                Ok(()) => return,
                Err(missing) => missing,
            };
            self.assert_running();
            assert!(Instant::now() < deadline, "not serving after {SERVING_MAX:?}: {missing}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn unserved(&self, client: &Client) -> Result<(), String> {
        let routes = client.routes().await.map_err(|e| e.to_string())?;
        if routes.regions.len() < self.regions {
            return Err(format!("{} of {} regions", routes.regions.len(), self.regions));
        }
        for region in &routes.regions {
            let key = probe_key(region);
            client.put(key, "").await.map_err(|e| format!("region {}: {e}", region.region))?;
        }
        Ok(())
    }

    /// The last lines of every process.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let all = self.stores.iter().chain([&self.placement]);
        all.map(Process::log_tail).collect::<Vec<_>>().join("\n")
    }

    fn assert_running(&mut self) {
        for process in self.stores.iter_mut().chain([&mut self.placement]) {
            let ended_by_itself = process.was_started() && !process.is_running();
            assert!(!ended_by_itself, "ended by itself\n{}", process.log_tail());
        }
    }
}

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: PathBuf, mib: u64) -> Disk {
        std::fs::create_dir_all(&dir).expect("a folder");
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir);
        assert!(mount.status().is_ok_and(|status| status.success()), "{mount:?}");
        Disk(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether this process may mount file systems here.
#[must_use]
pub fn can_mount() -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        return false;
    }
    drop(Disk(dir.path().to_owned()));
    true
}

/// A key inside `region` that no workload uses.
fn probe_key(region: &Region) -> Vec<u8> {
    let mut key = region.start.to_vec();
    key.extend_from_slice(b"\0probe");
    key
}

fn run_words(dir: &Path, port: u16) -> Vec<String> {
    let dir = dir.display().to_string();
    let words = ["run", "--dir", &dir, "--addr", &format!("127.0.0.1:{port}")];
    words.map(str::to_owned).to_vec()
}

fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}
