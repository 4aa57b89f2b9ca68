//! What stores call the placement driver with.
//!
//! Connections are made at the first call and again after a loss. Calls go to the member that
//! answered last; when it does not answer, to the others in turn, once each.

use crate::pb::placement_client::PlacementClient as Stub;
use crate::pb::{HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A member that does not accept a connection within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A member that does not answer within this time is passed over.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Why placement gave no answer to act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No member answered: go on with what is known, and try again later.
    #[error("no placement member answers: {0}")]
    Unavailable(String),
    /// Placement refuses: another cluster, an unknown store, a wrong request. Do not repeat it.
    #[error("placement refuses: {0}")]
    Refused(String),
    /// A later process runs as this store: this one must stop.
    #[error("placement refuses: {0}")]
    Replaced(String),
    /// The address cannot be one.
    #[error("placement address '{address}': {reason}: write HOST:PORT")]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Debug)]
struct Member {
    address: String,
    stub: Stub<Channel>,
}

/// A handle to the placement members. Share it in an `Arc`; dropping a call cancels it.
#[derive(Debug)]
pub struct PlacementClient {
    members: Vec<Member>,
    last: AtomicUsize,
}

impl PlacementClient {
    /// Knows the members at `addresses` (`HOST:PORT`) and connects to none yet. Must be called on
    /// a tokio runtime.
    pub fn connect(addresses: Vec<String>) -> Result<Self, PlacementError> {
        if addresses.is_empty() {
            return Err(PlacementError::Unavailable("no address is given".to_string()));
        }
        let members: Result<Vec<Member>, _> = addresses.into_iter().map(member).collect();
        Ok(PlacementClient { members: members?, last: AtomicUsize::new(0) })
    }

    /// Asks for the identity of a new folder, or registers the one that a folder holds.
    /// Idempotent: the same nonce gets the same id.
    pub async fn register(
        &self,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, PlacementError> {
        self.call(|mut stub| {
            let request = request.clone();
            async move { stub.register(request).await }
        })
        .await
    }

    /// Tells what the store does; the answer carries everything that it should know or do.
    pub async fn heartbeat(
        &self,
        request: HeartbeatRequest,
    ) -> Result<HeartbeatResponse, PlacementError> {
        self.call(|mut stub| {
            let request = request.clone();
            async move { stub.heartbeat(request).await }
        })
        .await
    }

    async fn call<T, F>(&self, ask: impl Fn(Stub<Channel>) -> F) -> Result<T, PlacementError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let first = self.last.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for turn in 0..self.members.len() {
            let at = (first + turn) % self.members.len();
            let member = &self.members[at];
            let answer = tokio::time::timeout(CALL_TIMEOUT, ask(member.stub.clone())).await;
            let failure = match answer {
                Ok(Ok(response)) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) if is_refusal(&status) => {
                    return Err(PlacementError::Refused(status.message().to_string()));
                }
                Ok(Err(status)) if status.code() == Code::Aborted => {
                    return Err(PlacementError::Replaced(status.message().to_string()));
                }
                Ok(Err(status)) => reason(&status),
                Err(_) => format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
            };
            failures.push(format!("{}: {failure}", member.address));
        }
        Err(PlacementError::Unavailable(failures.join("; ")))
    }
}

fn member(address: String) -> Result<Member, PlacementError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let wrong = |reason: String| PlacementError::Address { address: address.clone(), reason };
    let endpoint = endpoint.map_err(|e| wrong(e.to_string()))?;
    if endpoint.uri().port_u16().is_none() || endpoint.uri().path() != "/" {
        return Err(wrong("has no port".to_string()));
    }
    let channel = endpoint.tcp_nodelay(true).connect_timeout(CONNECT_TIMEOUT).connect_lazy();
    // All regions of a large cluster come in one answer.
    let stub = Stub::new(channel).max_decoding_message_size(64 << 20);
    Ok(Member { address, stub })
}

fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument)
}

/// The innermost cause says what happened ("Connection refused"), the outer ones that it did.
fn reason(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_string() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_checked_before_they_are_used() {
        for address in ["", "nonsense", "a b:1", "h:99999", "h:1/x", "http://h:1"] {
            let error = PlacementClient::connect(vec![address.into()]).unwrap_err();
            assert!(error.to_string().contains(&format!("'{address}'")), "{error}");
        }
        assert!(PlacementClient::connect(Vec::new()).is_err());
    }

    #[tokio::test]
    async fn calls_may_run_in_any_task() {
        fn assert_send<T: Send>(_: T) {}
        let client = PlacementClient::connect(vec!["127.0.0.1:1".into()]).unwrap();
        assert_send(client.heartbeat(HeartbeatRequest::default()));
        assert_send(client.register(RegisterRequest::default()));
    }

    #[tokio::test]
    async fn every_member_that_does_not_answer_is_named() {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let addresses = vec![free(), free()];
        let client = PlacementClient::connect(addresses.clone()).unwrap();
        let error = client.heartbeat(HeartbeatRequest::default()).await.unwrap_err();
        assert!(matches!(error, PlacementError::Unavailable(_)));
        addresses.iter().for_each(|a| assert!(error.to_string().contains(a), "{error}"));
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
