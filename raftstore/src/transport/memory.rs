//! A network within one process: for tests, and for first steps.

use super::{Blocks, Envelope, Inbound, Transport};
use crate::snapshot::SnapshotId;
use crate::types::StoreId;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// Joins the stores of one process. Nothing is lost or late, and nothing has to be encoded.
///
/// Each store gets a [`link`](MemoryNetwork::link) as its [`Transport`], and
/// [`join`](MemoryNetwork::join)s once it is started; until then, and after
/// [`leave`](MemoryNetwork::leave), what is sent to it is lost.
#[derive(Default)]
pub struct MemoryNetwork {
    stores: RwLock<FxHashMap<StoreId, Arc<dyn Inbound>>>,
}

struct Link {
    own: StoreId,
    network: Arc<MemoryNetwork>,
}

impl MemoryNetwork {
    /// A network without stores.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The way from `store` to the others.
    #[must_use]
    pub fn link(self: &Arc<Self>, store: StoreId) -> Arc<dyn Transport> {
        Arc::new(Link { own: store, network: Arc::clone(self) })
    }

    /// What is sent to `store` goes to `inbound` from now on: its [`crate::Store`].
    pub fn join(&self, store: StoreId, inbound: Arc<dyn Inbound>) {
        self.stores.write().insert(store, inbound);
    }

    /// What is sent to `store` is lost from now on.
    pub fn leave(&self, store: StoreId) {
        self.stores.write().remove(&store);
    }

    fn inbound(&self, store: StoreId) -> Option<Arc<dyn Inbound>> {
        self.stores.read().get(&store).cloned()
    }
}

impl Transport for Link {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        match (self.network.inbound(to), self.network.inbound(self.own)) {
            (Some(other), _) => other.deliver(self.own, envelopes),
            (None, Some(own)) => own.unreachable(to),
            (None, None) => {}
        }
    }

    fn fetch(&self, from: StoreId, id: SnapshotId, first: u64) -> io::Result<Blocks> {
        let other = self.network.inbound(from).ok_or(ErrorKind::NotConnected)?;
        let blocks = (first..).map(move |number| other.snapshot_block(id, number));
        let ended = |block: &io::Result<_>| matches!(block, Err(error) if error.kind() == ErrorKind::NotFound);
        Ok(Box::new(blocks.take_while(move |block| !ended(block))))
    }
}
