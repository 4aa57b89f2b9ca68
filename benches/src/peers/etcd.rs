//! etcd: three nodes as child processes, and its client as a [`Target`].

use crate::error::Error;
use crate::load::{Call, Ended, Target};
use crate::playground::{Owned, clear_settings, free_ports};
use crate::processes::Server;
use crate::workload::BATCH_OPS_MAX;
use etcd_client::{Client, KvClient, Txn, TxnOp};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Nodes of the cluster.
const NODES: u16 = 3;
/// How long it may take until a first put succeeds.
const READY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
/// Room for every revision of a run; the default would refuse writes at 2 GiB.
const QUOTA_BYTES: &str = "8589934592";

/// A running cluster with its default settings; ends when it is dropped.
pub struct Cluster {
    nodes: Vec<Owned>,
    endpoints: Vec<String>,
    dir: tempfile::TempDir,
}

/// `etcd 3.4.23`.
pub fn version() -> Result<String, Error> {
    let output = Command::new("etcd").arg("--version").output();
    let output =
        output.map_err(Error::system("cannot run etcd: install the package etcd-server"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    number
        .map(|number| format!("etcd {}", number.trim()))
        .ok_or_else(|| Error::Cluster(format!("`etcd --version` says {text:?}")))
}

impl Cluster {
    /// Starts the nodes and waits until a put succeeds.
    pub async fn start() -> Result<Self, Error> {
        let dir = tempfile::Builder::new()
            .prefix("flotilla-etcd-")
            .tempdir()
            .map_err(Error::system("cannot create a temporary folder"))?;
        let base = free_ports()?;
        let client_url = |node: u16| format!("http://127.0.0.1:{}", base + node);
        let peer_url = |node: u16| format!("http://127.0.0.1:{}", base + NODES + node);
        let members: Vec<String> =
            (0..NODES).map(|node| format!("n{node}={}", peer_url(node))).collect();
        let mut nodes = Vec::new();
        for node in 0..NODES {
            let log = std::fs::File::create(dir.path().join(format!("n{node}.log")))
                .map_err(Error::system("cannot write a log"))?;
            // A node does not watch its input as our servers do. This signal comes when the thread
            // that starts it ends: here the main thread, so with the process, however that ends.
            let mut command = Command::new("setpriv");
            clear_settings(&mut command, "ETCD_");
            command.args(["--pdeathsig", "TERM", "--", "etcd"]);
            command.args(["--name", &format!("n{node}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(dir.path().join(format!("n{node}")));
            command.args(["--listen-client-urls", &client_url(node)]);
            command.args(["--advertise-client-urls", &client_url(node)]);
            command.args(["--listen-peer-urls", &peer_url(node)]);
            command.args(["--initial-advertise-peer-urls", &peer_url(node)]);
            command.args([
                "--initial-cluster",
                &members.join(","),
                "--initial-cluster-state",
                "new",
            ]);
            command.args(["--quota-backend-bytes", QUOTA_BYTES]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            nodes.push(Owned::spawn("etcd (through setpriv of util-linux)", &mut command)?);
        }
        let endpoints = (0..NODES).map(client_url).collect();
        let cluster = Cluster { nodes, endpoints, dir };
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let tried = async {
                let mut client = Client::connect(&self.endpoints, None).await?;
                client.put("ready", "", None).await
            };
            let error = match tokio::time::timeout(READY_MAX, tried).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Error::Cluster(format!("etcd is not ready: {error}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where its data lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its processes.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        let name = |(i, node): (usize, &Owned)| Server {
            name: format!("etcd-{}", i + 1),
            pid: node.pid(),
        };
        self.nodes.iter().enumerate().map(name).collect()
    }

    /// A client with connections of its own to every node. `batching`: 100 puts a transaction.
    pub async fn connect(&self, batching: bool) -> Result<Etcd, Error> {
        let client = Client::connect(&self.endpoints, None)
            .await
            .map_err(|error| Error::Cluster(format!("cannot connect to etcd: {error}")))?;
        let puts_per_call = if batching { BATCH_OPS_MAX } else { 1 };
        Ok(Etcd { client: client.kv_client(), puts_per_call, calls: FuturesUnordered::new() })
    }
}

/// One client of etcd.
pub struct Etcd {
    client: KvClient,
    puts_per_call: usize,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl Target for Etcd {
    fn puts_per_call(&self) -> usize {
        self.puts_per_call
    }

    fn submit(&mut self, slot: usize, call: Call) {
        let mut client = self.client.clone();
        self.calls.push(Box::pin(async move {
            let result = match call {
                Call::Put { key, value } => client.put(key, value, None).await.map(drop),
                // Linearizable, as is the default.
                Call::Get { key } => client.get(key, None).await.map(drop),
                Call::Puts(puts) => {
                    let puts = puts.into_iter().map(|(key, value)| TxnOp::put(key, value, None));
                    client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.map(drop)
                }
            };
            Ended { slot, error: result.err().map(|error| error.to_string()) }
        }));
    }

    async fn wait(&mut self, ended: &mut Vec<Ended>) {
        // One await, then all that are over: a later poll would find them too, one at a time.
        ended.extend(self.calls.next().await);
        while let Some(Some(more)) = futures::FutureExt::now_or_never(self.calls.next()) {
            ended.push(more);
        }
    }
}
