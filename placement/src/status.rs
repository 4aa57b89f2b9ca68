//! HTTP/1.1 beside gRPC on the one port: `/healthz`, `/status`, `/metrics`.

use crate::http::blocking;
use crate::kv::routes;
use crate::service::Shared;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flotilla_client::pb;
use flotilla_raftstore::{QueueStatus, ReplicaStatus};
use serde::Serialize;
use std::sync::Arc;

/// The page `/status`.
#[derive(Serialize)]
struct Page {
    cluster: String,
    member: u64,
    ready: bool,
    members: Vec<Member>,
    stores: Vec<Store>,
    regions: Vec<Region>,
    transfers_under_way: usize,
    raft: Vec<ReplicaStatus>,
    queues: QueueStatus,
}

#[derive(Serialize)]
struct Member {
    member: u64,
    address: String,
}

#[derive(Serialize)]
struct Store {
    store: u64,
    address: String,
    state: String,
    leaders: u64,
    replicas: u64,
}

#[derive(Serialize)]
struct Region {
    region: u64,
    group: u64,
    start: String,
    end: String,
    epoch: Epoch,
    leader_store: u64,
    replicas: Vec<Replica>,
}

#[derive(Serialize)]
struct Epoch {
    version: u64,
    members: u64,
}

#[derive(Serialize)]
struct Replica {
    replica: u64,
    store: u64,
    role: String,
}

/// The pages; anything else is answered 404.
pub(crate) fn pages(shared: Arc<Shared>) -> Router {
    let (health, page, metrics) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    Router::new()
        .route("/healthz", get(move || async move { healthz(&health) }))
        .route("/status", get(move || blocking("application/json", move || json(&page))))
        .route(
            "/metrics",
            get(move || blocking(prometheus::TEXT_FORMAT, move || metrics.metrics.text(&metrics))),
        )
}

/// 200 when this member can serve stores and clients; 503 with the reason when not.
fn healthz(shared: &Shared) -> (StatusCode, String) {
    match shared.replicated.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_string()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// What `/status` says.
pub(crate) fn json(shared: &Shared) -> String {
    let replicated = &shared.replicated;
    let (routes, members) = replicated.read(|map| {
        let member = |(member, address): (&u64, &String)| Member {
            member: *member,
            address: address.clone(),
        };
        (routes(shared, map), map.members.iter().map(member).collect())
    });
    let page = Page {
        cluster: routes.cluster,
        member: shared.member,
        ready: replicated.ready().is_ok(),
        members,
        stores: routes.stores.into_iter().map(store).collect(),
        regions: routes.regions.into_iter().map(region).collect(),
        transfers_under_way: shared.observed.lock().under_way(),
        raft: replicated.store().describe(),
        queues: replicated.store().queues(),
    };
    serde_json::to_string(&page).expect("the status page has a JSON form") + "\n"
}

fn store(store: pb::Store) -> Store {
    let pb::Store { store, address, state, leaders, replicas } = store;
    Store { store, address, state, leaders, replicas }
}

fn region(region: pb::Region) -> Region {
    let epoch = region.epoch.unwrap_or_default();
    let replica = |r: pb::Replica| Replica { replica: r.replica, store: r.store, role: r.role };
    Region {
        region: region.region,
        group: region.group,
        start: crate::keys::display(&region.start),
        end: crate::keys::display(&region.end),
        epoch: Epoch { version: epoch.version, members: epoch.members },
        leader_store: region.leader_store,
        replicas: region.replicas.into_iter().map(replica).collect(),
    }
}
