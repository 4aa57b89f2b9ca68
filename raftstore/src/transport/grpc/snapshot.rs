//! Snapshots between stores: each on a connection of its own, so that no message waits behind one.
//!
//! 1. A snapshot thread of the receiving store asks for blocks ([`fetch`]); a task of the runtime calls
//!    the other store and hands over block by block, two ahead at most.
//! 2. The other store ([`serve`]) checks who calls, takes one of few places, and reads block after block at
//!    the rate that all of them share.
//!
//! Every block carries its number and checksum. A stream that breaks is asked for again from the first
//! block that is missing.

use super::pb::{self, peer_client::PeerClient};
use super::{Shared, peer};
use crate::snapshot::SnapshotId;
use crate::transport::{Blocks, Inbound};
use crate::types::{Nanos, StoreId};
use bytes::Bytes;
use futures::Stream;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Blocks that wait for their receiver.
const AHEAD: usize = 2;
/// A receiver is told so often that nothing has come, so that it can give up.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is sent.
pub type BlockStream = Pin<Box<dyn Stream<Item = Result<pb::Block, Status>> + Send>>;

/// What is asked for.
pub struct Wanted {
    pub from: StoreId,
    pub id: SnapshotId,
    pub first: u64,
}

fn checksum(number: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), data)
}

/// Asks for blocks; those that came are given to the thread that takes them.
pub fn fetch(
    shared: Arc<Shared>,
    runtime: &tokio::runtime::Handle,
    address: String,
    wanted: Wanted,
) -> Blocks {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let waiter = runtime.clone();
    runtime.spawn(async move {
        let mut closed = shared.closed();
        let ended = tokio::select! {
            ended = receive(&shared, &address, &wanted, &sender) => ended,
            _ = closed.wait_for(|closed| *closed) => Ok(()),
        };
        if let Err(error) = ended {
            // Nobody may be left who wants to know.
            let _ = sender.send(Err(error)).await;
        }
    });
    Box::new(std::iter::from_fn(move || {
        let next = waiter.block_on(async { timeout(PATIENCE, receiver.recv()).await });
        next.unwrap_or_else(|_| Some(Err(io::Error::from(ErrorKind::WouldBlock))))
    }))
}

async fn receive(
    shared: &Shared,
    address: &str,
    wanted: &Wanted,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let patience = Duration::from_millis(shared.config.snapshot_timeout_ms);
    let late = |_| io::Error::new(ErrorKind::TimedOut, "no block in time");
    let failed = |status: Status| io::Error::other(status.message().to_owned());
    let request = pb::FetchRequest {
        hello: Some(peer::hello(shared, wanted.from)),
        snapshot: wanted.id.0,
        first: wanted.first,
    };
    let begin = async {
        let endpoint = peer::endpoint(&shared.config, address).map_err(io::Error::other)?;
        let channel = endpoint.connect().await.map_err(io::Error::other)?;
        PeerClient::new(channel).fetch(request).await.map_err(failed)
    };
    let mut blocks = timeout(patience, begin).await.map_err(late)??.into_inner();
    for number in wanted.first.. {
        let next = timeout(patience, blocks.message()).await.map_err(late)?;
        let Some(block) = next.map_err(failed)? else { break };
        if block.number != number || block.crc != checksum(number, &block.data) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("block {number} is damaged"),
            ));
        }
        if sender.send(Ok(block.data)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends the blocks that are asked for.
pub fn serve(shared: &Arc<Shared>, request: &pb::FetchRequest) -> Result<BlockStream, Status> {
    let Some(inbound) = shared.inbound.read().clone() else {
        return Err(Status::unavailable(format!("store {} is not serving", shared.store)));
    };
    let Ok(place) = Arc::clone(&shared.sends).try_acquire_owned() else {
        return Err(Status::resource_exhausted("as many snapshots are sent as may be: try again"));
    };
    let (id, first) = (SnapshotId(request.snapshot), request.first);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _place = place;
        for number in first.. {
            let block = read(&inbound, id, number).await;
            let ended = matches!(&block, Err(error) if error.kind() == ErrorKind::NotFound);
            if ended && number > first {
                break;
            }
            let bytes = block.as_ref().map_or(0, Bytes::len);
            let block = block
                .map(|data| pb::Block { number, crc: checksum(number, &data), data })
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => Status::not_found(format!("snapshot {id}: {error}")),
                    _ => Status::data_loss(format!("snapshot {id}: {error}")),
                });
            let failed = block.is_err();
            let now = Nanos(shared.begun.elapsed().as_nanos() as u64);
            sleep(shared.snapshot_rate.take(now, bytes)).await;
            if sender.send(block).await.is_err() || failed {
                break;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn read(inbound: &Arc<dyn Inbound>, id: SnapshotId, number: u64) -> io::Result<Bytes> {
    let inbound = Arc::clone(inbound);
    let read = spawn_blocking(move || inbound.snapshot_block(id, number));
    read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
