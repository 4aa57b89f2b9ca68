//! How this crate opens connections: settings of HTTP/2, limits, and the cluster's name in every
//! request.

use std::sync::OnceLock;
use std::time::Duration;

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::builder::Rpc;
use crate::pb;
use crate::pb::kv_client::KvClient;
use crate::{Error, Result};

/// A page of a scan holds at most 4 MiB of records and a frame may hold several answers.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Per stream and connection; the defaults of HTTP/2 (64 KiB) would make one stream wait for the
/// round trip of its window.
const WINDOW_BYTES: u32 = 8 << 20;
/// An unanswered ping closes the connection after both together: a store that was cut off
/// without a word is noticed even when nobody asks it anything.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// To open a connection and its stream.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What every task of one client shares.
pub(crate) struct Shared {
    /// Operations in one frame; 1 when batching is off.
    pub(crate) ops_max: usize,
    pub(crate) rpc: Rpc,
    /// Learned from the first routes, never changed afterwards.
    pub(crate) cluster: OnceLock<String>,
}

impl Shared {
    /// Wraps a message for sending: names the cluster, once it is known.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(cluster) = self.cluster.get()
            && let Ok(value) = cluster.parse::<MetadataValue<Ascii>>()
        {
            request.metadata_mut().insert("flotilla-cluster", value);
        }
        request
    }

    /// Takes the cluster's name from an answer. Errors: [`Error::Unavailable`] when a server
    /// belongs to another cluster than the one learned first.
    pub(crate) fn learn_cluster(&self, name: &str, address: &str) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        let known = self.cluster.get_or_init(|| name.to_owned());
        if known == name {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{address} belongs to cluster {name}, this client to {known}"
        )))
    }
}

/// Opens a connection for operations on keys.
pub(crate) async fn connect(address: &str) -> std::result::Result<KvClient<Channel>, String> {
    Ok(KvClient::new(channel(address).await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Opens a connection. Waits at most [`CONNECT_TIMEOUT`]; the error is a text for people.
pub(crate) async fn channel(address: &str) -> std::result::Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("address {address:?} is not HOST:PORT: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let connected = endpoint.connect().await;
    connected.map_err(|error| format!("cannot connect to {address}: {}", root_cause(&error)))
}

/// Asks one server for the routes it knows.
pub(crate) async fn fetch_routes(
    shared: &Shared,
    address: &str,
) -> std::result::Result<pb::RoutesResponse, String> {
    let mut client = connect(address).await?;
    let routes = client
        .routes(shared.request(pb::RoutesRequest {}))
        .await
        .map_err(|status| format!("{address} gives no routes: {}", status.message()))?
        .into_inner();
    shared.learn_cluster(&routes.cluster, address).map_err(|error| error.message().to_owned())?;
    Ok(routes)
}

/// The innermost cause says most ("Connection refused"); the outer ones only "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
