//! The service's three calls.

use super::core::{Core, Flight, Step};
use super::refuse::{error, refused};
use super::{Limits, stream};
use crate::directory::Directory;
use crate::kv::KvStateMachine;
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::kv_server::Kv;
use flotilla_raftstore::{OnceCompletion, Store};
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

/// Implements `flotilla.kv.v1.Kv`.
pub struct KvService {
    core: Arc<Core>,
    limits: Limits,
}

impl KvService {
    /// The service over a running store; `limits` hold for each stream.
    #[must_use]
    pub fn new(
        store: Store,
        machine: Arc<KvStateMachine>,
        directory: Arc<Directory>,
        limits: Limits,
    ) -> Self {
        KvService { core: Core::new(store, machine, directory), limits }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type StreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::ResponseFrame, Status>> + Send + 'static>>;

    async fn call(&self, request: Request<pb::Request>) -> Result<Response<pb::Response>, Status> {
        self.core.check_cluster(request.metadata())?;
        let request = request.into_inner();
        let id = request.id;
        let prepared = match self.core.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Response::new(refused(id, *error))),
        };
        let (sender, receiver) = oneshot::channel();
        let reply = OnceCompletion::reply(move |outcome| {
            // The caller may have gone: nobody to tell.
            let _ = sender.send(outcome);
        });
        let (submit, flight) = prepared.split(reply);
        self.core.store.submit(vec![submit]);
        let Ok(outcome) = receiver.await else {
            let unknown = error(Kind::Unknown, "the store ended before it answered");
            return Ok(Response::new(refused(id, unknown)));
        };
        Ok(Response::new(match self.core.outcome(flight, outcome) {
            Step::Done(response) => response,
            Step::Read(flight) if flight.blocks() => {
                let core = self.core.clone();
                tokio::task::spawn_blocking(move || read_one(&core, flight))
                    .await
                    .map_err(|e| Status::internal(format!("the scan ended early: {e}")))?
            }
            Step::Read(flight) => read_one(&self.core, flight),
        }))
    }

    async fn stream(
        &self,
        request: Request<Streaming<pb::RequestFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.core.check_cluster(request.metadata())?;
        let frames = stream::serve(self.core.clone(), self.limits, request.into_inner());
        Ok(Response::new(Box::pin(frames)))
    }

    async fn routes(
        &self,
        request: Request<pb::RoutesRequest>,
    ) -> Result<Response<pb::RoutesResponse>, Status> {
        self.core.check_cluster(request.metadata())?;
        Ok(Response::new(self.core.directory.routes(&self.core.machine, &self.core.store)))
    }
}

fn read_one(core: &Core, flight: Flight) -> pb::Response {
    let mut response = None;
    core.read(vec![flight], |read| response = Some(read));
    response.expect("a read gives one response")
}
