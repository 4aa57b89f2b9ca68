//! Store-to-store messages over gRPC: one ordered stream per ordered pair of stores.
//!
//! 1. Shards and the log writer call [`Transport::send`]; envelopes land in the destination's
//!    bounded queue (`queue`).
//! 2. One task per destination (`peer`) connects, says hello, and packs all that waits into
//!    frames (`frame`).
//! 3. The other store's service (`server`) checks hello and frames, and hands the envelopes to
//!    its [`Inbound`].
//!
//! Snapshots take a connection of their own for each (`snapshot`).
//!
//! A broken stream loses what was on it: the store is reported unreachable once and Raft sends
//! again what matters. [`tune`] gives a tonic server the HTTP/2 settings that this wants.

pub mod frame;
mod peer;
mod queue;
mod server;
mod snapshot;

/// Generated from `proto/transport.proto`.
#[allow(missing_docs, clippy::all)]
mod pb {
    tonic::include_proto!("flotilla.raftstore.v1");
}

#[cfg(test)]
mod mod_test;

pub use server::PeerService;

use crate::snapshot::{Rate, SnapshotId};
use crate::start::StartError;
use crate::transport::{Blocks, Envelope, Inbound, Transport};
use crate::types::{ClusterId, StoreId};
use parking_lot::{Mutex, RwLock};
pub use pb::peer_server::PeerServer;
use peer::Peer;
use queue::QueueLimits;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use server::StreamCount;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Version of hello and frames; both ends must have the same.
pub const PROTOCOL: u32 = 3;

/// A frame with one envelope may be this large; [`crate::Config`] keeps commands below it.
pub const ENVELOPE_BYTES_MAX: usize = 8 << 20;

/// What a frame adds to its bytes as a gRPC message, generously.
const PACKET_SLACK_BYTES: usize = 64 << 10;

const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const HTTP2_FRAME_BYTES_MAX: u32 = 1 << 20;

/// Distinct refusals remembered, so that each is logged once.
const REFUSALS_MAX: usize = 1_024;

/// Settings of the transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// Told to other stores in the handshake; a difference is logged. In milliseconds, 0 = not
    /// told. Default 0: the process fills it in from [`crate::Config`].
    pub election_timeout_ms: u64,
    /// Envelopes are packed into frames up to this many bytes; a larger one travels alone.
    /// Default 4 MiB.
    pub frame_bytes_max: usize,
    /// Messages with entries waiting for one store, in bytes; beyond it they are dropped and the
    /// store is reported. Default 64 MiB.
    pub bulk_bytes_max: usize,
    /// The same for messages without entries. Default 8 MiB.
    pub small_bytes_max: usize,
    /// First wait after a broken stream, in milliseconds; doubles with every failure. Default 50.
    pub backoff_ms_min: u64,
    /// Longest wait between two attempts, in milliseconds. Default 1000.
    pub backoff_ms_max: u64,
    /// Limit for connecting and the handshake, in milliseconds. Default 2000.
    pub handshake_timeout_ms: u64,
    /// How often a silent connection is probed, in milliseconds. Default 2000.
    pub keepalive_interval_ms: u64,
    /// How long a probe may stay unanswered until the connection counts as broken, in
    /// milliseconds. Default 4000.
    pub keepalive_timeout_ms: u64,
    /// Snapshots that other stores may read from this one at a time; more are refused and asked for
    /// again. Default 4.
    pub snapshot_sends_max: usize,
    /// Bytes a second of all of them. Default 128 MiB.
    pub snapshot_bytes_per_second: u64,
    /// How long the next block of a snapshot may take, in milliseconds. Default 10000.
    pub snapshot_timeout_ms: u64,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        GrpcConfig {
            election_timeout_ms: 0,
            frame_bytes_max: 4 << 20,
            bulk_bytes_max: 64 << 20,
            small_bytes_max: 8 << 20,
            backoff_ms_min: 50,
            backoff_ms_max: 1_000,
            handshake_timeout_ms: 2_000,
            keepalive_interval_ms: 2_000,
            keepalive_timeout_ms: 4_000,
            snapshot_sends_max: 4,
            snapshot_bytes_per_second: 128 << 20,
            snapshot_timeout_ms: 10_000,
        }
    }
}

impl GrpcConfig {
    /// Checks ranges and relations; the error names the field, its value and what is allowed.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("frame_bytes_max", self.frame_bytes_max as u64),
            ("bulk_bytes_max", self.bulk_bytes_max as u64),
            ("small_bytes_max", self.small_bytes_max as u64),
            ("backoff_ms_min", self.backoff_ms_min),
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("keepalive_interval_ms", self.keepalive_interval_ms),
            ("keepalive_timeout_ms", self.keepalive_timeout_ms),
            ("snapshot_sends_max", self.snapshot_sends_max as u64),
            ("snapshot_bytes_per_second", self.snapshot_bytes_per_second),
            ("snapshot_timeout_ms", self.snapshot_timeout_ms),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{field} = 0: must be at least 1"));
        }
        if self.frame_bytes_max > ENVELOPE_BYTES_MAX {
            return Err(format!(
                "frame_bytes_max = {}: at most {ENVELOPE_BYTES_MAX}",
                self.frame_bytes_max
            ));
        }
        if self.backoff_ms_max < self.backoff_ms_min {
            return Err(format!(
                "backoff_ms_max = {}: must not be less than backoff_ms_min = {}",
                self.backoff_ms_max, self.backoff_ms_min
            ));
        }
        Ok(())
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            frame_bytes_max: self.frame_bytes_max,
            envelope_bytes_max: ENVELOPE_BYTES_MAX,
            bulk_bytes_max: self.bulk_bytes_max,
            small_bytes_max: self.small_bytes_max,
        }
    }

    fn backoff_min(&self) -> Duration {
        Duration::from_millis(self.backoff_ms_min)
    }

    fn backoff_max(&self) -> Duration {
        Duration::from_millis(self.backoff_ms_max)
    }

    fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    fn keepalive_interval(&self) -> Duration {
        Duration::from_millis(self.keepalive_interval_ms)
    }

    fn keepalive_timeout(&self) -> Duration {
        Duration::from_millis(self.keepalive_timeout_ms)
    }
}

/// The stream to one store in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The other store.
    pub store: StoreId,
    /// Where it was last said to be.
    pub address: Option<String>,
    /// The stream to it is accepted.
    pub connected: bool,
    /// Bytes waiting for it.
    pub queued_bytes: usize,
    /// Envelopes dropped because a queue was full, since the start.
    pub dropped_envelopes: u64,
    /// Frames handed to its streams, since the start.
    pub frames_sent: u64,
}

/// The production [`Transport`].
///
/// Callable from any thread; connections live on the tokio runtime given to [`Self::new`].
/// Connects to a store when there is something to send to it.
pub struct GrpcTransport {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

/// What the handle, the sending tasks and the service share.
struct Shared {
    config: GrpcConfig,
    cluster: ClusterId,
    store: StoreId,
    inbound: RwLock<Option<Arc<dyn Inbound>>>,
    peers: RwLock<FxHashMap<StoreId, Arc<Peer>>>,
    streams: Mutex<FxHashMap<StoreId, StreamCount>>,
    refusals: Mutex<FxHashSet<(StoreId, String)>>,
    /// Room for snapshots that are sent, and how fast they are.
    sends: Arc<Semaphore>,
    snapshot_rate: Rate,
    begun: Instant,
    closed: watch::Sender<bool>,
}

impl GrpcTransport {
    /// A transport of `store` that knows no other store yet.
    ///
    /// # Errors
    /// [`StartError::Config`] when a setting is out of range.
    pub fn new(
        config: GrpcConfig,
        cluster: ClusterId,
        store: StoreId,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, StartError> {
        config.validate().map_err(StartError::Config)?;
        let sends = Arc::new(Semaphore::new(config.snapshot_sends_max));
        let snapshot_rate = Rate::new(config.snapshot_bytes_per_second);
        let shared = Shared {
            config,
            cluster,
            store,
            inbound: RwLock::default(),
            peers: RwLock::default(),
            streams: Mutex::default(),
            refusals: Mutex::default(),
            sends,
            snapshot_rate,
            begun: Instant::now(),
            closed: watch::Sender::new(false),
        };
        Ok(Arc::new(GrpcTransport { shared: Arc::new(shared), runtime }))
    }

    /// Tells where `store` listens, as HOST:PORT. A changed address moves the stream there at
    /// once; the same one changes nothing. Never blocks.
    pub fn set_address(&self, store: StoreId, address: &str) {
        if store == self.shared.store {
            return;
        }
        let peer = self.peer(store);
        peer.set_address(address);
        let mut task = peer.task.lock();
        if task.is_none() && !self.shared.is_closed() {
            let body = peer::run(Arc::clone(&peer), Arc::clone(&self.shared));
            *task = Some(self.runtime.spawn(body).abort_handle());
        }
    }

    /// Says who takes what arrives. Until then streams of other stores are refused as
    /// unavailable.
    pub fn set_inbound(&self, inbound: Arc<dyn Inbound>) {
        *self.shared.inbound.write() = Some(inbound);
    }

    /// The receiving end, to be added to the routes of this process's server; see [`tune`].
    #[must_use]
    pub fn service(self: &Arc<Self>) -> PeerServer<PeerService> {
        PeerServer::new(PeerService::new(Arc::clone(&self.shared)))
            .max_decoding_message_size(ENVELOPE_BYTES_MAX + PACKET_SLACK_BYTES)
    }

    /// Serves other stores on `listener`, by a server of its own and until [`Self::shutdown`]: for a
    /// process that has no other server there to add [`Self::service`] to.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub fn serve(self: &Arc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let _on_it = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut closed = self.shared.closed();
        let end = async move { _ = closed.wait_for(|closed| *closed).await };
        let server = tune(Server::builder()).add_service(self.service());
        let store = self.shared.store;
        self.runtime.spawn(async move {
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                tracing::error!(store = store.0, %error, "serving other stores ended");
            }
        });
        Ok(())
    }

    /// Every store whose address was told or that was sent to, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers: Vec<PeerStatus> =
            self.shared.peers.read().values().map(|peer| status(peer)).collect();
        peers.sort_by_key(|peer| peer.store);
        peers
    }

    /// Ends all streams, both ways, and forgets the [`Inbound`]. Idempotent; does not wait.
    pub fn shutdown(&self) {
        self.shared.closed.send_replace(true);
        for peer in self.shared.peers.read().values() {
            if let Some(task) = peer.task.lock().take() {
                task.abort();
            }
            peer.queue.start_session();
            peer.queue.clear();
        }
        *self.shared.inbound.write() = None;
    }

    fn peer(&self, store: StoreId) -> Arc<Peer> {
        if let Some(peer) = self.shared.peers.read().get(&store) {
            return Arc::clone(peer);
        }
        let mut peers = self.shared.peers.write();
        let new = || Arc::new(Peer::new(store, &self.shared.config));
        Arc::clone(peers.entry(store).or_insert_with(new))
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        if envelopes.is_empty() || to == self.shared.store || self.shared.is_closed() {
            return;
        }
        let pushed = self.peer(to).queue.push(envelopes);
        if pushed.too_large > 0 {
            tracing::error!(
                store = self.shared.store.0,
                peer = to.0,
                bytes_max = ENVELOPE_BYTES_MAX,
                "message larger than a frame dropped"
            );
        }
        if pushed.report {
            tracing::warn!(
                store = self.shared.store.0,
                peer = to.0,
                "queue full, messages dropped"
            );
            self.shared.unreachable(to);
        }
    }

    fn fetch(&self, from: StoreId, id: SnapshotId, first: u64) -> io::Result<Blocks> {
        let address = self.peer(from).address().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, format!("no address of store {from}"))
        })?;
        let shared = Arc::clone(&self.shared);
        Ok(snapshot::fetch(shared, &self.runtime, address, snapshot::Wanted { from, id, first }))
    }
}

impl Drop for GrpcTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn has_inbound(&self) -> bool {
        self.inbound.read().is_some()
    }

    fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>) {
        let inbound = self.inbound.read().clone();
        if let Some(inbound) = inbound {
            inbound.deliver(from, envelopes);
        }
    }

    fn unreachable(&self, store: StoreId) {
        let inbound = self.inbound.read().clone();
        if let Some(inbound) = inbound {
            inbound.unreachable(store);
        }
    }

    /// `store` has just called, so it is up: try it now rather than after the backoff.
    fn heard_of(&self, store: StoreId) {
        if let Some(peer) = self.peers.read().get(&store)
            && !peer.connected.load(Ordering::Relaxed)
        {
            peer.retry.notify_one();
        }
    }

    fn streams_of(&self, store: StoreId) -> StreamCount {
        Arc::clone(self.streams.lock().entry(store).or_default())
    }

    fn first_refusal(&self, from: StoreId, reason: &str) -> bool {
        let mut refusals = self.refusals.lock();
        if refusals.len() >= REFUSALS_MAX {
            refusals.clear();
        }
        refusals.insert((from, reason.to_owned()))
    }

    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transport of store {} in cluster {}", self.store, self.cluster)
    }
}

fn status(peer: &Peer) -> PeerStatus {
    let (queued_bytes, dropped_envelopes) = peer.queue.figures();
    PeerStatus {
        store: peer.store,
        address: peer.address(),
        connected: peer.connected.load(Ordering::Relaxed),
        queued_bytes,
        dropped_envelopes,
        frames_sent: peer.frames_sent.load(Ordering::Relaxed),
    }
}

/// Gives `server` the HTTP/2 settings that frames of several MiB want: wide windows, large HTTP/2
/// frames, no delay, and probes that end the connections of stores that are gone.
#[must_use]
pub fn tune(server: Server) -> Server {
    let config = GrpcConfig::default();
    server
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(config.keepalive_interval()))
        .http2_keepalive_timeout(Some(config.keepalive_timeout()))
}
