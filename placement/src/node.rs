//! One placement member wired together: folder, log, group, services; its start and its stop.
//!
//! Start: bind the port → lock the folder → load the map → open the log → start the engine →
//! serve → (once leading) say through the log who and where this member is.
//! Stop: no new connections → end the calls → stop the engine → give the folder back.

use crate::config::{Address, Settings};
use crate::describe;
use crate::folder::{Folder, FolderError, Identity};
use crate::kv::KvService;
use crate::machine::{DumpError, MapMachine};
use crate::metrics::Metrics;
use crate::observe::{Observed, Timing};
use crate::pb::placement_server::PlacementServer;
use crate::replicated::Replicated;
use crate::service::{PlacementService, Shared};
use crate::state::{Answer, Command};
use crate::status;
use flotilla_client::pb::kv_server::KvServer;
use flotilla_client::pb::stores_server::StoresServer;
use flotilla_raftstore::log::{self, LogOptions};
use flotilla_raftstore::transport::grpc::{GrpcConfig, GrpcTransport};
use flotilla_raftstore::{
    ClusterId, Fatal, GroupDesc, GroupId, GroupRecord, LogError, OnceCompletion, ReplicaDesc,
    ReplicaId, ReplicaRole, SnapshotDir, StartError, StateMachine, Store, StoreBuilder, StoreId,
    SystemClock,
};
use futures::StreamExt;
use parking_lot::Mutex;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// Members live in ids of their own, far from those of stores, groups and replicas: both kinds of
/// process share a cluster id, and a message that reaches the wrong port must fit nobody there.
/// Below 2^53, so that every JSON reader gets it right.
const MEMBER_BASE: u64 = 1 << 52;
/// The group that replicates the map.
const GROUP: GroupId = GroupId(MEMBER_BASE);
/// Calls under way have so long to end when the member stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a member that does not lead looks whether it does.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What to do when the process must not go on.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Why a member does not start. Its data was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The dump of the map cannot be used.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// Folder and log name different clusters, or the replica is damaged.
    #[error("{0}")]
    Mismatch(String),
    /// The network does not start.
    #[error("cannot serve on the port: {0}")]
    Network(#[from] io::Error),
    /// A metric is registered twice: a mistake in the program.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Takes the port; the error names it and says what to do.
pub fn bind(addr: &Address) -> Result<TcpListener, String> {
    TcpListener::bind(addr.as_str()).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            format!("address {addr} is in use by another process: stop it or choose another --addr")
        }
        _ => format!("cannot listen on --addr {addr}: {e}"),
    })
}

/// A running member.
pub struct Node {
    shared: Arc<Shared>,
    transport: Arc<GrpcTransport>,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    join: JoinHandle<()>,
    _folder: Folder,
}

impl Node {
    /// Starts a member that serves on `listener`; on a tokio runtime. It takes up to an election
    /// timeout until it is ready; requests before are refused as unavailable.
    pub fn start(
        settings: &Settings,
        listener: TcpListener,
        on_fatal: OnFatal,
    ) -> Result<Node, NodeError> {
        let signals = describe::listen()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let folder = Folder::open(&settings.dir, ClusterId(rand::random()))?;
        let identity = folder.identity();
        let machine = MapMachine::open(folder.path(), GROUP)?;
        check_cluster(&folder, machine.read(|map| map.cluster))?;
        // An old folder's log keeps its engine.
        let (log, log_engine) = log::open(&folder.log_dir(), None, LogOptions::default())?;

        let me = member_id(identity.member);
        let runtime = tokio::runtime::Handle::current();
        let grpc = GrpcConfig::default();
        let transport = GrpcTransport::new(grpc, identity.cluster, me, runtime)?;
        let store = StoreBuilder {
            config: settings.raft.clone(),
            store: me,
            clock: Arc::new(SystemClock),
            transport: Arc::clone(&transport) as _,
            log,
            snapshots: SnapshotDir::open(&folder.snapshots_dir())?,
            state_machine: Arc::clone(&machine) as _,
            on_fatal: Arc::clone(&on_fatal),
            seed: rand::random(),
        }
        .start()?;
        check_group(&store, &folder, &machine)?;
        transport.set_inbound(Arc::new(store.clone()));
        create_group(&store, &identity, &on_fatal);

        let replicated = Replicated::new(store, machine, GROUP);
        let shared = Arc::new(shared(settings, &identity, replicated)?);
        describe::on_signal(signals, Arc::downgrade(&shared), folder.describe_file());
        let (stop, stopped) = watch::channel(false);
        let server = serve(Arc::clone(&shared), &transport, listener, stopped);
        let address = settings.advertise_addr.to_string();
        let join = tokio::spawn(join(Arc::clone(&shared), address, on_fatal));
        tracing::info!(
            addr = %settings.addr,
            cluster = %identity.cluster,
            member = identity.member,
            dir = %settings.dir.display(),
            %log_engine,
            "placement member started"
        );
        Ok(Node { shared, transport, stop, server, join, _folder: folder })
    }

    /// The cluster that it serves.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    /// Ends calls and threads; what was acknowledged is on disk anyway.
    pub async fn stop(self) {
        self.join.abort();
        self.stop.send_replace(true);
        self.transport.shutdown();
        let mut server = self.server;
        if tokio::time::timeout(STOP_TIMEOUT, &mut server).await.is_err() {
            server.abort();
        }
        let store = self.shared.replicated.store().clone();
        // Joins threads: not on a network thread. It fails only when those are being torn down.
        let _ = tokio::task::spawn_blocking(move || store.shutdown()).await;
    }
}

/// A member's name as a store of its own group.
fn member_id(member: u64) -> StoreId {
    StoreId(MEMBER_BASE + member)
}

fn check_cluster(folder: &Folder, state: Option<ClusterId>) -> Result<(), NodeError> {
    let ours = folder.identity().cluster;
    match state {
        Some(other) if other != ours => Err(NodeError::Mismatch(format!(
            "folder {}: its file 'member' names cluster {ours}, its state cluster {other}; restore \
             both from the same copy",
            folder.path().display()
        ))),
        _ => Ok(()),
    }
}

/// The log must hold what the state was made of; the only replica must not be damaged.
fn check_group(store: &Store, folder: &Folder, machine: &MapMachine) -> Result<(), NodeError> {
    let found = store.describe().into_iter().find(|replica| replica.group == GROUP);
    let wrong = match found {
        Some(replica) => replica.damage,
        None if machine.recovered(GROUP).applied > 0 => Some("the log is missing".to_owned()),
        None => None,
    };
    let Some(wrong) = wrong else { return Ok(()) };
    store.shutdown();
    Err(NodeError::Mismatch(format!(
        "folder {}: {wrong}; restore the whole folder from a copy",
        folder.path().display()
    )))
}

/// Creates the group's replica here, or finds that it exists.
fn create_group(store: &Store, identity: &Identity, on_fatal: &OnFatal) {
    let replica = ReplicaDesc {
        replica: ReplicaId(MEMBER_BASE + identity.member),
        store: member_id(identity.member),
        role: ReplicaRole::Voter,
    };
    let desc = GroupDesc::new(GROUP, vec![replica]);
    let on_fatal = Arc::clone(on_fatal);
    let reply = OnceCompletion::reply(move |outcome| match outcome {
        Ok(_) | Err(flotilla_raftstore::Error::Closed) => {}
        Err(error) => on_fatal(Fatal::new("create the placement group", error)),
    });
    store.create_group(GroupRecord::new(desc, replica.replica), reply);
}

fn shared(
    settings: &Settings,
    identity: &Identity,
    replicated: Replicated,
) -> Result<Shared, NodeError> {
    let clock = Arc::new(SystemClock);
    let ms = 1_000_000;
    let timing = Timing {
        down_after: settings.store_down_after_ms * ms,
        quiet_after: 2_000 * ms,
        settle: settings.leader_settle_ms * ms,
        order_deadline: 5_000 * ms,
        rest: 10_000 * ms,
    };
    let now = flotilla_raftstore::Clock::now(&*clock);
    Ok(Shared {
        member: identity.member,
        cluster: identity.cluster,
        replicated,
        observed: Mutex::new(Observed::new(timing, now)),
        clock,
        metrics: Metrics::new()?,
        stores: settings.stores,
        layout: settings.layout.clone(),
    })
}

fn serve(
    shared: Arc<Shared>,
    transport: &Arc<GrpcTransport>,
    listener: tokio::net::TcpListener,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let mut routes = Routes::from(status::pages(Arc::clone(&shared)));
    // All regions a store holds come in one heartbeat.
    let placement = PlacementServer::new(PlacementService(Arc::clone(&shared)))
        .max_decoding_message_size(64 << 20);
    let clients = KvService(shared);
    routes = routes.add_service(placement).add_service(KvServer::new(clients.clone()));
    routes = routes.add_service(StoresServer::new(clients));
    routes = routes.add_service(transport.service());
    let server = flotilla_raftstore::transport::grpc::tune(Server::builder())
        .accept_http1(true)
        .add_routes(routes.prepare());
    let asked = async move { _ = stopped.wait_for(|stop| *stop).await };
    let incoming = TcpListenerStream::new(listener).filter_map(accepted);
    tokio::spawn(server.serve_with_incoming_shutdown(incoming, asked))
}

/// A connection that could not be accepted (too many open files, say) is no reason to end serving.
async fn accepted(connection: io::Result<TcpStream>) -> Option<io::Result<TcpStream>> {
    match connection {
        Ok(connection) => {
            // The server sets it only on listeners that it binds itself. Failing, it is slower.
            let _ = connection.set_nodelay(true);
            Some(Ok(connection))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(LOOK_INTERVAL).await;
            None
        }
    }
}

/// Once this member leads: creates the cluster, or registers the member's new address.
async fn join(shared: Arc<Shared>, address: String, on_fatal: OnFatal) {
    let command =
        Command::Join { cluster: shared.cluster, member: shared.member, address: address.clone() };
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if !shared.replicated.leads() {
            continue;
        }
        let known = shared.replicated.read(|map| {
            map.cluster == Some(shared.cluster) && map.members.get(&shared.member) == Some(&address)
        });
        if known {
            return;
        }
        match shared.replicated.execute(&command).await {
            Ok(Answer::Refused { reason }) => on_fatal(Fatal::new("join the cluster", reason)),
            Ok(_) => {}
            Err(reason) => tracing::warn!(%reason, "cannot join the cluster yet"),
        }
    }
}
