//! What a load is sent to: Flotilla through its public client, or a peer through its own.

use crate::error::Error;
use crate::workload::{BATCH_OPS_MAX, Rpc, Workload};
use bytes::Bytes;
use flotilla_client::{Client, Pipeline};

/// One call of a workload.
#[derive(Clone, Debug)]
pub enum Call {
    /// A put.
    Put {
        /// Of this key ...
        key: Bytes,
        /// ... to this value.
        value: Bytes,
    },
    /// A get.
    Get {
        /// Of this key.
        key: Bytes,
    },
    /// Puts in one transaction: for targets whose [`Target::puts_per_call`] is above 1.
    #[cfg(feature = "peers")]
    Puts(Vec<(Bytes, Bytes)>),
}

/// A call that is over.
#[derive(Debug)]
pub struct Ended {
    /// As submitted.
    pub slot: usize,
    /// What went wrong, if anything.
    pub error: Option<String>,
}

/// One client of the system under load.
pub trait Target: Send + 'static {
    /// Puts that one call carries; each counts as an operation.
    fn puts_per_call(&self) -> usize {
        1
    }

    /// Takes a call to be made by the next [`wait`](Self::wait). `slot` is free again once it has
    /// ended.
    fn submit(&mut self, slot: usize, call: Call);

    /// Makes the calls submitted, waits until at least one has ended and appends all that have.
    /// Dropping the future loses nothing. Not to be called with nothing in flight.
    fn wait(&mut self, ended: &mut Vec<Ended>) -> impl Future<Output = ()> + Send;
}

/// A client of Flotilla.
pub struct Flotilla {
    pipeline: Pipeline,
    ended: Vec<flotilla_client::Ended>,
}

impl Flotilla {
    /// Connects a client handle with connections of its own.
    pub async fn connect(addresses: &[String], workload: &Workload) -> Result<Client, Error> {
        Client::builder()
            .batching(workload.batching)
            .batch_ops_max(BATCH_OPS_MAX)
            .in_flight_max(workload.in_flight)
            .rpc(match workload.rpc {
                Rpc::Stream => flotilla_client::Rpc::Stream,
                Rpc::Unary => flotilla_client::Rpc::Unary,
            })
            .connect(addresses)
            .await
            .map(|client| client.with_consistency(workload.consistency))
            .map_err(|error| Error::Cluster(format!("cannot connect to the cluster: {error}")))
    }

    /// The target that `client` is.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Flotilla { pipeline: client.pipeline(), ended: Vec::new() }
    }
}

impl Target for Flotilla {
    fn submit(&mut self, slot: usize, call: Call) {
        let tag = slot as u64;
        match call {
            Call::Put { key, value } => self.pipeline.put(tag, key, value),
            Call::Get { key } => self.pipeline.get(tag, key),
            #[cfg(feature = "peers")]
            Call::Puts(_) => unreachable!("this target has one put a call"),
        }
    }

    async fn wait(&mut self, ended: &mut Vec<Ended>) {
        self.pipeline.wait(&mut self.ended).await;
        ended.extend(self.ended.drain(..).map(|over| Ended {
            slot: usize::try_from(over.tag).expect("the tag was a slot"),
            error: over.result.err().map(|error| error.to_string()),
        }));
    }
}
