//! Settings of a client.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::connection::Shared;
use crate::route::Router;
use crate::{Error, Result};

/// How operations travel to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rpc {
    /// Many operations in flight on one bidirectional gRPC stream a store.
    #[default]
    Stream,
    /// One gRPC call an operation; never batched. Slower; useful behind proxies that cut streams.
    Unary,
}

/// Builds a [`Client`].
///
/// ```no_run
/// # async fn example() -> Result<(), flotilla_client::Error> {
/// use std::time::Duration;
/// let client = flotilla_client::Client::builder()
///     .batching(false)
///     .timeout(Duration::from_millis(500))
///     .connect(&["127.0.0.1:7100", "127.0.0.1:7101"])
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    batching: bool,
    batch_ops_max: usize,
    rpc: Rpc,
    timeout: Duration,
    in_flight_max: usize,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            batching: true,
            batch_ops_max: 100,
            rpc: Rpc::Stream,
            timeout: Duration::from_secs(5),
            in_flight_max: 1 << 16,
        }
    }
}

impl ClientBuilder {
    /// Whether operations that are queued at the same moment share a message (default: yes). Off
    /// means one operation a message. While messages to a store are on their way, operations gather for
    /// the next one, for 10 ms at most.
    pub fn batching(mut self, on: bool) -> Self {
        self.batching = on;
        self
    }

    /// Operations in one message at most (default 100, at least 1). No effect without batching.
    pub fn batch_ops_max(mut self, count: usize) -> Self {
        self.batch_ops_max = count.max(1);
        self
    }

    /// Stream (default) or unary calls.
    pub fn rpc(mut self, rpc: Rpc) -> Self {
        self.rpc = rpc;
        self
    }

    /// The deadline of every call, from its start to its end (default 5 s). Kept to about 10 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Operations in flight at most, over all clones of the client (default 65,536). One more is
    /// refused at once with [`Refusal::Busy`](crate::Refusal::Busy): the memory of the client's
    /// queues stays bounded.
    pub fn in_flight_max(mut self, count: usize) -> Self {
        self.in_flight_max = count.max(1);
        self
    }

    /// Learns the routes from any of the addresses (`HOST:PORT`, placement members or stores) and
    /// returns the client. Must be called within a tokio runtime. Servers that come up within the
    /// timeout are waited for.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a single address; [`Error::Unavailable`] when none answers within
    /// the timeout.
    pub async fn connect<A: AsRef<str>>(&self, addresses: &[A]) -> Result<Client> {
        let seeds: Vec<String> = addresses
            .iter()
            .flat_map(|address| address.as_ref().split(','))
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .collect();
        if seeds.is_empty() {
            return Err(Error::invalid(
                "no address given: HOST:PORT of a placement member or store",
            ));
        }
        let shared = Arc::new(Shared {
            ops_max: if self.batching { self.batch_ops_max } else { 1 },
            rpc: self.rpc,
            cluster: OnceLock::new(),
        });
        let router = Router::new(seeds, shared);
        let deadline = Instant::now() + self.timeout;
        while let Err(error) = router.refresh(deadline).await {
            let again = Instant::now() + CONNECT_PAUSE;
            if again >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(again).await;
        }
        Ok(Client::new(router, self.timeout, self.in_flight_max))
    }
}

/// Between two rounds over all addresses while none answers.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
