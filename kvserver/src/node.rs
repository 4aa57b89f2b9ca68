//! One store process from start to stop.
//!
//! 1. Bind the port: a second process on it ends here, before anything is touched.
//! 2. Open and lock the data folder, then log and engine in it.
//! 3. Learn who the store is: a new folder waits for placement, an old one knows.
//! 4. Wire transport, engine and services together and serve.
//! 5. Stop on a signal: hand leaderships over, answer who waits, end the threads.

use crate::config::{Address, Settings, Storage, TABLE_BYTES_LEAST};
use crate::directory::Directory;
use crate::disk::DiskWatch;
use crate::folder::{Folder, FolderError, Member};
use crate::kv::engine::{Engine, OpenError, open_memory, open_rocks};
use crate::kv::{KvStateMachine, salvage};
use crate::metrics::Metrics;
use crate::placement_agent::{self, AgentError, Parts, PlacementAgent};
use crate::process::Stop;
use crate::status::StatusSource;
use crate::{PROGRAM, describe, http, service};
use flotilla_placement::client::PlacementClient;
use flotilla_raftstore::log::{self, LogEngine, LogOptions};
use flotilla_raftstore::transport::grpc::{self, GrpcTransport};
use flotilla_raftstore::{
    DiskGauge, Fatal, LogError, LogStore, SnapshotDir, StartError, Store, StoreBuilder, SystemClock,
};
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Time to hand leaderships over before a stop: two attempts for a group, and some more.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for open connections to end after everything was answered.
const CONNECTIONS_TIMEOUT: Duration = Duration::from_millis(500);
/// A stop that takes longer is cut short: what counts is on disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store does not run (any more), in one line.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The port is taken or the address is not this machine's.
    #[error("address {address} cannot be used: {reason}")]
    Bind {
        /// As given.
        address: Address,
        /// What to do.
        reason: String,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log cannot be opened.
    #[error("{0}; nothing was changed")]
    Log(#[from] LogError),
    /// The data cannot be opened.
    #[error("{0}; the store does not start")]
    Open(#[from] OpenError),
    /// The data cannot be read.
    #[error("{0}; the store does not start")]
    Engine(#[from] Fatal),
    /// The engine of the Raft groups does not start.
    #[error("{0}; the store does not start")]
    Start(#[from] StartError),
    /// Placement refuses this store.
    #[error("{0}")]
    Placement(#[from] AgentError),
    /// The port broke while serving.
    #[error("serving on {address}: {reason}")]
    Serve {
        /// The address.
        address: Address,
        /// All causes.
        reason: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What a program that embeds a store works with. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    /// Takes commands ([`crate::kv::command::Command`], encoded) and read barriers, by group.
    pub store: Store,
    /// Knows the regions, with the group and epoch of each.
    pub machine: Arc<KvStateMachine>,
}

/// Runs a store until it is told to stop. Blocks.
pub fn run(settings: Settings) -> Result<(), NodeError> {
    run_embedded(settings, |_| {})
}

/// As [`run`], in a program that also uses the store from inside. `embedder` is called once, when
/// the groups are recovered and just before the port is served; it must not block.
///
/// The signals that stop a store are the process's own, and so is a stop that takes too long: the
/// process ends then, with a line that says so. Nothing acknowledged is lost by that.
pub fn run_embedded(settings: Settings, embedder: impl FnOnce(Embedded)) -> Result<(), NodeError> {
    let listener = bind(&settings.addr)?;
    let folder = Folder::open(&settings.dir, settings.storage, settings.log.engine)?;
    let runtime = runtime(settings.server.worker_threads)
        .map_err(|source| NodeError::Io { what: "starting the runtime", source })?;
    let result = runtime.block_on(live(settings, listener, folder, embedder));
    // Calls that block may be under way; they hold nothing that matters.
    runtime.shutdown_timeout(CONNECTIONS_TIMEOUT);
    result
}

/// With one thread that is the caller's.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).thread_name("net").enable_all().build()
}

fn bind(address: &Address) -> Result<TcpListener, NodeError> {
    let failed = |e: std::io::Error| {
        let reason = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is in use by another process; stop it or choose another --addr".to_owned()
            }
            _ => format!("{e}; --addr must be an address of this machine"),
        };
        NodeError::Bind { address: address.clone(), reason }
    };
    let listener = TcpListener::bind(address.as_str()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

async fn live(
    settings: Settings,
    listener: TcpListener,
    mut folder: Folder,
    embedder: impl FnOnce(Embedded),
) -> Result<(), NodeError> {
    let stop = Stop::listen().map_err(|source| NodeError::Io { what: "signals", source })?;
    let describe =
        describe::listen().map_err(|source| NodeError::Io { what: "signals", source })?;
    let placement = settings.placement.iter().map(Address::to_string).collect();
    let client = PlacementClient::connect(placement).map_err(AgentError::Address)?;
    let storage = folder.identity().storage;
    let options = LogOptions { sync: settings.log.sync };
    let log_engine = folder.identity().log_engine;
    let (log, _) = log::open(&folder.log_dir(), Some(log_engine), options)?;
    let engine = open_engine(storage, &settings, &folder)?;
    let machine = KvStateMachine::new(engine)?;
    let member = match folder.identity().member.clone() {
        Some(member) => member,
        None => tokio::select! {
            member = placement_agent::register(&client, &mut folder, &settings.advertise) => member?,
            _ = stop.requested() => return Ok(()),
        },
    };
    let snapshots = SnapshotDir::open(&folder.snapshots_dir())
        .map_err(|source| NodeError::Io { what: "opening the folder of snapshots", source })?;
    let reserve = settings.server.disk_reserve_mib.map(|mib| mib << 20);
    let folders = vec![folder.log_dir(), folder.data_dir(), folder.snapshots_dir()];
    let gauge = DiskGauge::new(folders, reserve);
    let engines = (storage, log_engine);
    let node = Node::start(settings, member, engines, (log, snapshots), machine, gauge)?;
    embedder(Embedded { store: node.store.clone(), machine: Arc::clone(&node.machine) });
    node.serve(listener, client, folder, &stop, describe).await
}

fn open_engine(
    storage: Storage,
    settings: &Settings,
    folder: &Folder,
) -> Result<Arc<dyn Engine>, OpenError> {
    let (dir, table_bytes_max) = (folder.data_dir(), table_bytes_max(storage, settings));
    match storage {
        Storage::Rocksdb => {
            salvage(&dir)?;
            open_rocks(&dir, table_bytes_max)
        }
        Storage::Memory => open_memory(&dir, table_bytes_max),
    }
}

/// Storage `memory` cannot do without a table.
fn table_bytes_max(storage: Storage, settings: &Settings) -> usize {
    match storage {
        Storage::Rocksdb => settings.kv.table_bytes_max,
        Storage::Memory => settings.kv.table_bytes_max.max(TABLE_BYTES_LEAST),
    }
}

/// The wired parts of a running store.
struct Node {
    settings: Settings,
    member: Member,
    storage: Storage,
    log_engine: LogEngine,
    machine: Arc<KvStateMachine>,
    transport: Arc<GrpcTransport>,
    directory: Arc<Directory>,
    store: Store,
    _disk: DiskWatch,
}

impl Node {
    /// Recovers the groups and starts their threads; nothing is served yet.
    fn start(
        settings: Settings,
        member: Member,
        (storage, log_engine): (Storage, LogEngine),
        (log, snapshots): (Arc<dyn LogStore>, Arc<SnapshotDir>),
        machine: Arc<KvStateMachine>,
        gauge: DiskGauge,
    ) -> Result<Node, NodeError> {
        let mut config = settings.transport.clone();
        config.election_timeout_ms =
            settings.raft.election_ticks as u64 * settings.raft.tick_interval_ms;
        let runtime = tokio::runtime::Handle::current();
        let cluster = member.cluster_id();
        let transport = GrpcTransport::new(config, cluster, member.store, runtime)?;
        let builder = StoreBuilder {
            config: settings.raft.clone(),
            store: member.store,
            clock: Arc::new(SystemClock),
            transport: Arc::clone(&transport) as _,
            log,
            snapshots,
            state_machine: Arc::clone(&machine) as _,
            on_fatal: Arc::new(|fatal| PROGRAM.end_fatally(&fatal)),
            seed: rand::random(),
        };
        // With one thread for everything a request is served without a hand-over.
        let store = if settings.server.worker_threads == 1 && settings.raft.shards == 1 {
            builder.start_with(&|shard| {
                tokio::spawn(shard);
                Ok(())
            })?
        } else {
            builder.start()?
        };
        let disk = DiskWatch::start(gauge, store.clone(), Arc::clone(&machine))
            .map_err(|source| NodeError::Io { what: "watching the disk", source })?;
        transport.set_inbound(Arc::new(store.clone()));
        let address = settings.advertise.to_string();
        let directory = Arc::new(Directory::new(cluster, member.store, address));
        Ok(Node {
            settings,
            member,
            storage,
            log_engine,
            machine,
            transport,
            directory,
            store,
            _disk: disk,
        })
    }

    async fn serve(
        self,
        listener: TcpListener,
        client: PlacementClient,
        mut folder: Folder,
        stop: &Stop,
        describe: Signal,
    ) -> Result<(), NodeError> {
        let serve_error =
            |reason: String| NodeError::Serve { address: self.settings.addr.clone(), reason };
        let (close, mut closing) = watch::channel(false);
        let incoming = tokio::net::TcpListener::from_std(listener)
            .map(|listener| TcpIncoming::from(listener).with_nodelay(Some(true)))
            .map_err(|e| serve_error(e.to_string()))?;
        let server = self.server();
        let status = self.status();
        describe::on_signal(describe, Arc::clone(&status), folder.describe_file());
        let routes = self.routes(status)?;
        let mut server = tokio::spawn(async move {
            let mut server = server;
            server
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, async move {
                    // An error means that the sender is gone: close as well.
                    let _ = closing.wait_for(|closing| *closing).await;
                })
                .await
        });
        let parts = Parts {
            client,
            store: self.store.clone(),
            machine: Arc::clone(&self.machine),
            transport: Arc::clone(&self.transport),
            directory: Arc::clone(&self.directory),
            peers_file: folder.peers_file(),
            member: self.member.clone(),
            advertise: self.settings.advertise.clone(),
        };
        let agent = PlacementAgent::new(parts, folder.peers());
        tracing::info!(
            store = self.member.store.0,
            cluster = self.member.cluster,
            address = %self.settings.addr,
            storage = %self.storage,
            log_engine = %self.log_engine,
            regions = self.store.groups().len(),
            "serving"
        );
        let result = tokio::select! {
            error = agent.run(&mut folder) => Err(error.into()),
            ended = &mut server => Err(serve_error(server_end(ended))),
            reason = stop.requested() => {
                tracing::info!(reason, "stopping");
                Ok(())
            }
        };
        cut_short_after(STOP_TIMEOUT, result.is_ok(), Arc::downgrade(&self.machine));
        if result.is_ok() {
            self.hand_over().await;
        }
        close.send_replace(true);
        let store = self.store.clone();
        let ended = tokio::task::spawn_blocking(move || store.shutdown()).await;
        ended.expect("stopping the store does not panic");
        self.machine.close();
        let _ = tokio::time::timeout(CONNECTIONS_TIMEOUT, server).await;
        self.transport.shutdown();
        tracing::info!("stopped");
        result
    }

    fn server(&self) -> Server {
        grpc::tune(Server::builder())
            .accept_http1(true)
            .max_concurrent_streams(Some(self.settings.server.streams_max))
    }

    fn status(&self) -> Arc<StatusSource> {
        Arc::new(StatusSource {
            store: self.store.clone(),
            machine: Arc::clone(&self.machine),
            transport: Arc::clone(&self.transport),
            member: self.member.clone(),
            address: self.settings.advertise.to_string(),
            storage: self.storage,
            log_engine: self.log_engine,
            log_sync: self.settings.log.sync,
            kv_table_bytes_max: table_bytes_max(self.storage, &self.settings),
            pipeline: self.settings.raft.pipeline,
            started: Instant::now(),
        })
    }

    fn routes(&self, status: Arc<StatusSource>) -> Result<Routes, NodeError> {
        let registries = vec![self.store.metrics(), self.machine.metrics()];
        let metrics = Metrics::new(registries).expect("names of metrics are valid");
        let http = http::router(status, Arc::new(metrics));
        let kv = service::kv_service(
            self.store.clone(),
            Arc::clone(&self.machine),
            Arc::clone(&self.directory),
            self.settings.limits,
        );
        let admin = service::admin_service(
            self.store.clone(),
            Arc::clone(&self.machine),
            Arc::clone(&self.directory),
        );
        let routes = Routes::from(http).add_service(kv).add_service(admin);
        Ok(routes.add_service(self.transport.service()))
    }

    /// Gives every leadership to a voter that has caught up, so that clients do not wait for an
    /// election.
    async fn hand_over(&self) {
        let store = self.store.clone();
        let before = store.groups().iter().filter(|view| view.leading).count();
        let handed = tokio::task::spawn_blocking(move || store.hand_over(HAND_OVER_TIMEOUT)).await;
        let left = handed.expect("handing over does not panic");
        tracing::info!(before, left, "leaderships handed over");
    }
}

fn server_end(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> String {
    match ended {
        Ok(Ok(())) => "the server ended by itself".to_owned(),
        Ok(Err(error)) => std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
        Err(error) => error.to_string(),
    }
}

/// Ends the process if stopping takes too long: everything acknowledged is on disk already.
fn cut_short_after(limit: Duration, ok: bool, machine: Weak<KvStateMachine>) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!(
            "the stop took longer than {} s and is cut short; nothing acknowledged is lost",
            limit.as_secs()
        );
        // The end of a process waits for compactions, too.
        if let Some(machine) = machine.upgrade() {
            machine.close();
        }
        std::process::exit(i32::from(!ok));
    });
}
