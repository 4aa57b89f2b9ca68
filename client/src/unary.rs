//! The other way to ask a store: one `Kv.Call` an operation, on the store's cached connection.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic::transport::Channel;

use crate::batch;
use crate::connection::{self, Shared};
use crate::operation::{Answer, Operation, Outcome};
use crate::pb;
use crate::pb::kv_client::KvClient;
use crate::stream::{self, AVOID_BROKEN, AVOID_SILENT, Health};

/// A store's connection for unary calls, opened by the first call.
#[derive(Default)]
pub(crate) struct Unary {
    client: Mutex<Option<KvClient<Channel>>>,
}

impl Unary {
    /// One attempt of one operation. Waits until the answer or `expires`.
    pub(crate) async fn call(
        &self,
        health: &Health,
        shared: &Shared,
        operation: Operation,
        target: (u64, pb::Epoch),
        expires: Instant,
    ) -> Outcome {
        let (region, epoch) = target;
        let mut client = match timeout_at(expires, self.client(health)).await {
            Ok(Ok(client)) => client,
            Ok(Err(reason)) => {
                health.avoid(AVOID_BROKEN);
                return Outcome::Unsent(operation, reason.into());
            }
            Err(_) => {
                let reason = format!("{} does not answer", health.address());
                return Outcome::Unsent(operation, reason.into());
            }
        };
        let request = shared.request(batch::single(&operation, region, epoch));
        match timeout_at(expires, client.call(request)).await {
            Ok(Ok(response)) => {
                health.clear_suspect();
                outcome(operation, region, response.into_inner())
            }
            Ok(Err(status)) => {
                health.avoid(AVOID_BROKEN);
                *self.client.lock().await = None;
                let reason: Arc<str> =
                    format!("{}: {}", health.address(), stream::describe(&status)).into();
                // The service answers these before it looks at the request.
                match status.code() {
                    Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                        Outcome::Unsent(operation, reason)
                    }
                    _ => Outcome::Lost(operation, reason),
                }
            }
            Err(_) => {
                health.avoid(AVOID_SILENT);
                Outcome::Lost(operation, "sent, but no answer came in time".into())
            }
        }
    }

    /// The connection; callers that come while it is being opened wait for the same one.
    async fn client(&self, health: &Health) -> Result<KvClient<Channel>, String> {
        let mut cached = self.client.lock().await;
        if let Some(client) = &*cached {
            return Ok(client.clone());
        }
        let client = connection::connect(&health.address()).await?;
        *cached = Some(client.clone());
        Ok(client)
    }
}

fn outcome(operation: Operation, region: u64, response: pb::Response) -> Outcome {
    let revision = response.revision;
    if let Some(error) = response.error {
        return Outcome::Refused(operation, Arc::new(error));
    }
    let answer = match &operation {
        Operation::Put { .. } | Operation::Delete { .. } => Answer::Written { region, revision },
        Operation::Get { .. } => match <[pb::Record; 1]>::try_from(response.records) {
            Ok([record]) => Answer::Got { region, revision, record },
            Err(records) => {
                let reason = format!("the store answered {} records to one get", records.len());
                return Outcome::Lost(operation, reason.into());
            }
        },
        Operation::Scan(_) => Answer::page(region, response),
    };
    Outcome::Done(answer)
}
