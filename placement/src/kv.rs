//! The clients' services, as far as placement answers them: routes, and an operator's word about stores.
//! Data is asked of stores.

use crate::convert::state_of;
use crate::service::Shared;
use crate::state::{ClusterMap, Region};
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::kv_server::Kv;
use flotilla_client::pb::stores_server::Stores;
use flotilla_client::pb::{
    self, AdminResponse, GiveUpRequest, RequestFrame, ResponseFrame, RoutesRequest, RoutesResponse,
};
use flotilla_raftstore::{ClusterId, StoreId};
use futures::StreamExt;
use futures::stream::BoxStream;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Metadata in which a client names the cluster that it expects.
const CLUSTER_METADATA: &str = "flotilla-cluster";

/// [`Shared`] as the gRPC server wants it.
#[derive(Clone)]
pub(crate) struct KvService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Kv for KvService {
    type StreamStream = BoxStream<'static, Result<ResponseFrame, Status>>;

    async fn call(&self, request: Request<pb::Request>) -> Result<Response<pb::Response>, Status> {
        Ok(Response::new(refuse(&request.into_inner())))
    }

    async fn stream(
        &self,
        request: Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let answer = |frame: Result<RequestFrame, Status>| {
            let responses = frame?.requests.iter().map(refuse).collect();
            Ok(ResponseFrame { responses })
        };
        Ok(Response::new(request.into_inner().map(answer).boxed()))
    }

    async fn routes(
        &self,
        request: Request<RoutesRequest>,
    ) -> Result<Response<RoutesResponse>, Status> {
        check_cluster(self.0.cluster, &request)?;
        self.0.replicated.ready()?;
        Ok(Response::new(self.0.replicated.read(|map| routes(&self.0, map))))
    }
}

#[tonic::async_trait]
impl Stores for KvService {
    async fn give_up(
        &self,
        request: Request<GiveUpRequest>,
    ) -> Result<Response<AdminResponse>, Status> {
        check_cluster(self.0.cluster, &request)?;
        self.0.replicated.ready()?;
        let GiveUpRequest { stores, force } = request.into_inner();
        let given_up = self.0.give_up(stores.into_iter().map(StoreId).collect(), force).await;
        let error = given_up.err().map(|message| pb::Error {
            kind: Kind::Refused.into(),
            message,
            ..pb::Error::default()
        });
        Ok(Response::new(AdminResponse { error }))
    }
}

fn check_cluster<T>(ours: ClusterId, request: &Request<T>) -> Result<(), Status> {
    let Some(theirs) = request.metadata().get(CLUSTER_METADATA) else { return Ok(()) };
    let text = theirs.to_str().unwrap_or_default();
    if text.parse() == Ok(ours) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this is cluster {ours}, the request is for cluster {text:?}: check the --placement \
         addresses"
    )))
}

fn refuse(request: &pb::Request) -> pb::Response {
    let error = pb::Error {
        kind: Kind::Invalid.into(),
        message: "this is a placement member; ask a store".to_string(),
        ..pb::Error::default()
    };
    pb::Response { id: request.id, error: Some(error), ..pb::Response::default() }
}

/// The cluster as known now: regions and stores from the map, leaders and states from heartbeats.
pub(crate) fn routes(shared: &Shared, map: &ClusterMap) -> RoutesResponse {
    let now = shared.now();
    let observed = shared.observed.lock();
    let mut leaders: FxHashMap<u64, u64> = FxHashMap::default();
    let mut replicas: FxHashMap<u64, u64> = FxHashMap::default();
    let mut regions = Vec::with_capacity(map.regions.len());
    for region in map.regions.values() {
        let leader = observed.leader(region.region, now).map_or(0, |(store, _)| store.0);
        *leaders.entry(leader).or_default() += 1;
        region.replicas.iter().for_each(|r| *replicas.entry(r.store.0).or_default() += 1);
        regions.push(route(region, leader));
    }
    let stores = map.stores.iter().map(|(id, record)| pb::Store {
        store: id.0,
        address: record.address.clone(),
        state: state_of(record, observed.liveness(*id, now)).to_string(),
        leaders: leaders.get(&id.0).copied().unwrap_or_default(),
        replicas: replicas.get(&id.0).copied().unwrap_or_default(),
    });
    RoutesResponse { cluster: shared.cluster.to_string(), stores: stores.collect(), regions }
}

fn route(region: &Region, leader_store: u64) -> pb::Region {
    let replica = |r: &flotilla_raftstore::ReplicaDesc| pb::Replica {
        replica: r.replica.0,
        store: r.store.0,
        role: r.role.to_string(),
    };
    let (version, members) = (region.epoch.version, region.epoch.members);
    pb::Region {
        region: region.region,
        group: region.group.0,
        start: region.start.clone(),
        end: region.end.clone(),
        epoch: Some(pb::Epoch { version, members }),
        replicas: region.replicas.iter().map(replica).collect(),
        leader_store,
    }
}
