//! The receiving end: one call per sending store, run by the connection's task.
//!
//! 1. The first packet says who calls and whom it means; anything that does not fit ends the call
//!    before a frame is read.
//! 2. Every frame repeats cluster and stores and is checked again, then handed on as a whole.
//! 3. A newer stream of the same store takes over: what an old one still holds is dropped, so
//!    that nothing arrives out of order.

use super::frame::{self, FrameError, Link};
use super::pb::{self, packet::Body};
use super::{PROTOCOL, Shared, snapshot};
use crate::types::{ClusterId, StoreId};
use futures::{StreamExt, future, stream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

/// Implements the generated service; reached through [`super::GrpcTransport::service`].
#[derive(Debug)]
pub struct PeerService {
    shared: Arc<Shared>,
}

type Answers = Pin<Box<dyn futures::Stream<Item = Result<pb::Accepted, Status>> + Send>>;

impl PeerService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        PeerService { shared }
    }
}

#[tonic::async_trait]
impl pb::peer_server::Peer for PeerService {
    type OpenStream = Answers;
    type FetchStream = snapshot::BlockStream;

    async fn fetch(
        &self,
        request: Request<pb::FetchRequest>,
    ) -> Result<Response<snapshot::BlockStream>, Status> {
        let request = request.into_inner();
        let Some(hello) = &request.hello else {
            return Err(Status::invalid_argument("a fetch without a hello"));
        };
        check(&self.shared, hello)?;
        snapshot::serve(&self.shared, &request).map(Response::new)
    }

    async fn open(
        &self,
        request: Request<Streaming<pb::Packet>>,
    ) -> Result<Response<Answers>, Status> {
        let shared = Arc::clone(&self.shared);
        if shared.is_closed() || !shared.has_inbound() {
            return Err(Status::unavailable(format!("store {} is not serving", shared.store)));
        }
        let mut packets = request.into_inner();
        let first = timeout(shared.config.handshake_timeout(), packets.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello in time"))??;
        let Some(pb::Packet { body: Some(Body::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first packet must be a hello"));
        };
        let link = check(&shared, &hello)?;
        shared.heard_of(link.from);
        let accepted = pb::Accepted {
            protocol: PROTOCOL,
            election_timeout_ms: shared.config.election_timeout_ms,
        };
        let received = stream::once(receive(shared, packets, link))
            .filter_map(|end| future::ready(end.err().map(Err)));
        let answers = stream::once(future::ready(Ok(accepted))).chain(received);
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Whether `hello` means this store of this cluster; the refusal names both sides.
fn check(shared: &Shared, hello: &pb::Hello) -> Result<Link, Status> {
    let (from, to) = (StoreId(hello.from_store), StoreId(hello.to_store));
    let refuse = |reason: String| {
        if shared.first_refusal(from, &reason) {
            tracing::error!(store = shared.store.0, peer = from.0, reason, "stream refused");
        }
        Err(Status::failed_precondition(reason))
    };
    if hello.protocol != PROTOCOL {
        return refuse(format!(
            "store {from} speaks protocol {}, this is store {} with protocol {PROTOCOL}: \
             run the same version on both",
            hello.protocol, shared.store
        ));
    }
    let Ok(cluster) = <[u8; 16]>::try_from(&hello.cluster[..]) else {
        return refuse(format!(
            "store {from} sent a cluster id of {} bytes, not 16",
            hello.cluster.len()
        ));
    };
    let cluster = ClusterId(u128::from_be_bytes(cluster));
    if cluster != shared.cluster {
        return refuse(format!(
            "peer of another cluster: store {from} belongs to cluster {cluster}, this is store {} \
             of cluster {}: check the address and the data folder of both",
            shared.store, shared.cluster
        ));
    }
    if to != shared.store {
        return refuse(format!(
            "addressed to store {to}, this is store {}: store {from} has an old address",
            shared.store
        ));
    }
    if from == shared.store || from.0 == 0 {
        return refuse(format!("a stream of store {from} to store {to}: two data folders, one id"));
    }
    Ok(Link { cluster, from, to })
}

/// Hands frames on until the stream ends. Dropped with the call when the connection breaks.
async fn receive(
    shared: Arc<Shared>,
    mut packets: Streaming<pb::Packet>,
    link: Link,
) -> Result<(), Status> {
    let newest = shared.streams_of(link.from);
    let own = newest.fetch_add(1, Ordering::AcqRel) + 1;
    let mut closed = shared.closed();
    loop {
        let packet = tokio::select! {
            packet = packets.message() => packet?,
            _ = closed.wait_for(|closed| *closed) => {
                return Err(Status::unavailable(format!("store {} is stopping", shared.store)));
            }
        };
        let Some(packet) = packet else { return Ok(()) };
        let Some(Body::Frame(frame)) = packet.body else {
            return Err(Status::invalid_argument("a packet that is no frame"));
        };
        let envelopes =
            frame::decode(link, frame).map_err(|error| refused(&shared, &error, link))?;
        if newest.load(Ordering::Acquire) != own {
            return Err(Status::aborted(format!(
                "a newer stream of store {} has taken over",
                link.from
            )));
        }
        shared.deliver(link.from, envelopes);
    }
}

fn refused(shared: &Shared, error: &FrameError, link: Link) -> Status {
    tracing::error!(
        store = shared.store.0,
        peer = link.from.0,
        reason = %error,
        "frame refused, stream ended"
    );
    match error {
        FrameError::Damaged { .. } => Status::data_loss(error.to_string()),
        FrameError::WrongLink { .. } => Status::failed_precondition(error.to_string()),
    }
}

/// Counts the streams of one store, so that the newest is known.
pub(super) type StreamCount = Arc<AtomicU64>;
