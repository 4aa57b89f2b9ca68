//! The sending end towards one store: one task on the tokio runtime that owns the stream.
//!
//! 1. Wait until something is queued; connect; say hello.
//! 2. The stream pulls from the queue whenever HTTP/2 has room: everything that waits goes into
//!    one frame, so a wake-up carries many envelopes.
//! 3. When the stream ends, whatever waits is dropped, the store is reported unreachable once,
//!    and the next attempt comes after a backoff with jitter, or at once when the address changes
//!    or that store is heard to be up.

use super::frame::{self, Link};
use super::pb::{self, packet::Body, peer_client::PeerClient};
use super::queue::{Queue, ROOM_KEPT};
use super::{GrpcConfig, PROTOCOL, Shared};
use crate::transport::Envelope;
use crate::types::StoreId;
use futures::Stream;
use futures::future::poll_fn;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// What senders and the task share.
#[derive(Debug)]
pub struct Peer {
    pub store: StoreId,
    pub queue: Queue,
    /// `None` until somebody tells it.
    address: watch::Sender<Option<String>>,
    /// Ends a backoff early.
    pub retry: Notify,
    pub connected: AtomicBool,
    pub frames_sent: AtomicU64,
    pub task: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Peer {
    pub fn new(store: StoreId, config: &GrpcConfig) -> Self {
        Peer {
            store,
            queue: Queue::new(config.queue_limits()),
            address: watch::Sender::new(None),
            retry: Notify::new(),
            connected: AtomicBool::new(false),
            frames_sent: AtomicU64::new(0),
            task: Mutex::new(None),
        }
    }

    pub fn address(&self) -> Option<String> {
        self.address.borrow().clone()
    }

    pub fn set_address(&self, address: &str) {
        self.address.send_if_modified(|known| {
            let changed = known.as_deref() != Some(address);
            if changed {
                *known = Some(address.to_owned());
            }
            changed
        });
    }
}

/// Why a stream ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("stream lost: {0}")]
    Lost(String),
    #[error("its address changed")]
    Moved,
}

impl From<Status> for StreamError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition => StreamError::Refused(status.message().to_owned()),
            code => StreamError::Lost(format!("{code:?}: {}", status.message())),
        }
    }
}

/// The body of the task; ends only when aborted.
pub async fn run(peer: Arc<Peer>, shared: Arc<Shared>) {
    let mut address = peer.address.subscribe();
    let mut backoff = Backoff::new(&shared, peer.store);
    let mut outage = Outage::default();
    loop {
        poll_fn(|cx| peer.queue.poll_filled(cx)).await;
        let Some(target) = address.borrow_and_update().clone() else {
            if address.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut accepted_at = None;
        let ended = tokio::select! {
            ended = stream(&peer, &shared, &target, &mut outage, &mut accepted_at) => Some(ended),
            _ = address.changed() => None,
        };
        peer.queue.start_session();
        peer.connected.store(false, Ordering::Relaxed);
        let Some(error) = ended else {
            outage.report(&peer, &shared, &target, &StreamError::Moved);
            backoff.reset();
            continue;
        };
        peer.queue.clear();
        outage.report(&peer, &shared, &target, &error);
        // A stream that broke soon after it began says nothing good about the next one.
        if accepted_at.is_some_and(|at: Instant| at.elapsed() >= shared.config.backoff_max()) {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = peer.retry.notified() => {}
            _ = address.changed() => backoff.reset(),
        }
    }
}

/// Connects and keeps the stream until it ends; what ends it is always an error.
async fn stream(
    peer: &Arc<Peer>,
    shared: &Arc<Shared>,
    address: &str,
    outage: &mut Outage,
    accepted_at: &mut Option<Instant>,
) -> StreamError {
    let hello = async {
        let channel = endpoint(&shared.config, address)?
            .connect()
            .await
            .map_err(|error| StreamError::Connect(with_causes(&error)))?;
        let packets = Packets::new(Arc::clone(peer), shared);
        let mut answers = PeerClient::new(channel).open(packets).await?.into_inner();
        match answers.message().await? {
            Some(accepted) => Ok((accepted, answers)),
            None => Err(StreamError::Lost("ended before it was accepted".to_owned())),
        }
    };
    let (accepted, mut answers) = match timeout(shared.config.handshake_timeout(), hello).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return error,
        Err(_) => return StreamError::Connect("no answer to the handshake in time".to_owned()),
    };
    *accepted_at = Some(Instant::now());
    peer.connected.store(true, Ordering::Relaxed);
    outage.over(peer, shared, address, accepted.election_timeout_ms);
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return StreamError::Lost("closed by the other store".to_owned()),
            Err(status) => return status.into(),
        }
    }
}

pub fn endpoint(config: &GrpcConfig, address: &str) -> Result<Endpoint, StreamError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| StreamError::Connect(with_causes(&error)))?;
    Ok(endpoint
        .connect_timeout(config.handshake_timeout())
        .tcp_nodelay(true)
        .initial_stream_window_size(super::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(super::CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(config.keepalive_interval())
        .keep_alive_timeout(config.keepalive_timeout())
        .keep_alive_while_idle(true))
}

/// "transport error" alone helps nobody: the causes say which address refused.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// What the calls to a store begin with.
pub fn hello(shared: &Shared, to: StoreId) -> pb::Hello {
    pb::Hello {
        protocol: PROTOCOL,
        cluster: bytes::Bytes::copy_from_slice(&shared.cluster.0.to_be_bytes()),
        from_store: shared.store.0,
        to_store: to.0,
        election_timeout_ms: shared.config.election_timeout_ms,
    }
}

/// The request side of a stream: hello, then frames pulled from the queue.
struct Packets {
    peer: Arc<Peer>,
    link: Link,
    session: u64,
    hello: Option<pb::Hello>,
    /// Kept between frames for its capacity.
    batch: Vec<Envelope>,
}

impl Packets {
    fn new(peer: Arc<Peer>, shared: &Shared) -> Self {
        let link = Link { cluster: shared.cluster, from: shared.store, to: peer.store };
        let hello = hello(shared, peer.store);
        let session = peer.queue.start_session();
        Packets { peer, link, session, hello: Some(hello), batch: Vec::new() }
    }
}

impl Stream for Packets {
    type Item = pb::Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Packet>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(pb::Packet { body: Some(Body::Hello(hello)) }));
        }
        if ready!(this.peer.queue.poll_take(this.session, &mut this.batch, cx)).is_none() {
            return Poll::Ready(None);
        }
        let frame = frame::encode(this.link, &this.batch);
        this.batch.clear();
        this.batch.shrink_to(ROOM_KEPT);
        this.peer.frames_sent.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(pb::Packet { body: Some(Body::Frame(frame)) }))
    }
}

/// Whether the other store is out of reach, so that it is told and logged once.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    refused: bool,
}

impl Outage {
    fn report(&mut self, peer: &Peer, shared: &Shared, address: &str, error: &StreamError) {
        let (store, peer) = (shared.store.0, peer.store);
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!(store, peer = peer.0, address, reason = %error, "store out of reach");
            shared.unreachable(peer);
        }
        if matches!(error, StreamError::Refused(_)) && !self.refused {
            self.refused = true;
            tracing::error!(store, peer = peer.0, address, reason = %error, "stream refused");
        }
    }

    fn over(&mut self, peer: &Peer, shared: &Shared, address: &str, election_timeout_ms: u64) {
        let (store, peer) = (shared.store.0, peer.store.0);
        let seconds = self.since.map(|since| since.elapsed().as_secs_f32());
        *self = Outage::default();
        tracing::info!(store, peer, address, outage_s = seconds, "store reached");
        let own = shared.config.election_timeout_ms;
        if election_timeout_ms != own && election_timeout_ms != 0 {
            tracing::warn!(
                store,
                peer,
                own_ms = own,
                peer_ms = election_timeout_ms,
                "election timeouts differ: set the same on all stores"
            );
        }
    }
}

/// Exponential, with jitter from the ids of the two stores: the same every run, different for
/// every pair.
struct Backoff {
    rng: SmallRng,
    min: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    fn new(shared: &Shared, to: StoreId) -> Self {
        let (min, max) = (shared.config.backoff_min(), shared.config.backoff_max());
        let seed = shared.store.0.rotate_left(32) ^ to.0;
        Backoff { rng: SmallRng::seed_from_u64(seed), min, max, current: min }
    }

    fn next(&mut self) -> Duration {
        let wait = self.current.mul_f64(self.rng.random_range(0.75..1.0));
        self.current = (self.current * 2).min(self.max);
        wait
    }

    fn reset(&mut self) {
        self.current = self.min;
    }
}
