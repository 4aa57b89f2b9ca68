//! `/status`: the store in figures, as JSON.

use crate::config::Storage;
use crate::folder::Member;
use crate::kv::{KvStateMachine, RegionMeta};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_raftstore::log::LogEngine;
use flotilla_raftstore::status::QueueStatus;
use flotilla_raftstore::transport::grpc::{GrpcTransport, PeerStatus};
use flotilla_raftstore::{GroupDesc, GroupId, ReplicaDesc, ReplicaStatus, Role, Store};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Where the figures come from.
pub struct StatusSource {
    /// The running store.
    pub store: Store,
    /// Its regions.
    pub machine: Arc<KvStateMachine>,
    /// The streams to other stores.
    pub transport: Arc<GrpcTransport>,
    /// Who it is.
    pub member: Member,
    /// Where others reach it.
    pub address: String,
    /// What holds its data.
    pub storage: Storage,
    /// What keeps its log.
    pub log_engine: LogEngine,
    /// Whether log writes are synced.
    pub log_sync: bool,
    /// Bytes of applied writes held in memory before the storage; 0: none.
    pub kv_table_bytes_max: usize,
    /// Whether many appends are in flight to a follower.
    pub pipeline: bool,
    /// When the process began to serve.
    pub started: Instant,
}

#[derive(Serialize)]
struct StatusBody {
    version: &'static str,
    cluster: String,
    store: u64,
    address: String,
    storage: Storage,
    log_engine: LogEngine,
    log_sync: bool,
    kv_table_mib: usize,
    pipeline: bool,
    pid: u32,
    uptime_s: f64,
    leaders: usize,
    replicas: usize,
    regions: Vec<RegionStatus>,
    queues: QueueStatus,
    peers: Vec<PeerStatus>,
}

#[derive(Serialize)]
struct RegionStatus {
    #[serde(flatten)]
    range: Option<Range>,
    #[serde(flatten)]
    replica: ReplicaStatus,
    /// The members and how they came about, as this replica knows them.
    members: Option<GroupDesc>,
}

#[derive(Serialize)]
struct Range {
    region: u64,
    start_b64: String,
    end_b64: String,
    epoch: crate::kv::Epoch,
    replicas: Vec<ReplicaDesc>,
    leader_store: u64,
}

impl StatusSource {
    /// The JSON text. Asks the shards and blocks for up to a second.
    #[must_use]
    pub fn json(&self) -> String {
        let metas = self.machine.regions();
        let metas: BTreeMap<GroupId, &RegionMeta> = metas.iter().map(|m| (m.group, m)).collect();
        let regions: Vec<RegionStatus> = self
            .store
            .describe()
            .into_iter()
            .map(|replica| RegionStatus {
                range: metas.get(&replica.group).map(|meta| range(meta, &replica)),
                members: self
                    .store
                    .group(replica.group)
                    .map(|view| GroupDesc::clone(&view.record.desc)),
                replica,
            })
            .collect();
        let body = StatusBody {
            version: env!("CARGO_PKG_VERSION"),
            cluster: self.member.cluster.clone(),
            store: self.member.store.0,
            address: self.address.clone(),
            storage: self.storage,
            log_engine: self.log_engine,
            log_sync: self.log_sync,
            // No table is smaller than 1 MiB: 0 is none.
            kv_table_mib: self.kv_table_bytes_max >> 20,
            pipeline: self.pipeline,
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            leaders: regions.iter().filter(|r| r.replica.role == Role::Leader).count(),
            replicas: regions.len(),
            regions,
            queues: self.store.queues(),
            peers: self.transport.peers(),
        };
        serde_json::to_string_pretty(&body).expect("plain structs are JSON") + "\n"
    }
}

fn range(meta: &RegionMeta, replica: &ReplicaStatus) -> Range {
    Range {
        region: meta.region,
        start_b64: STANDARD.encode(&meta.start),
        end_b64: STANDARD.encode(&meta.end),
        epoch: meta.epoch,
        replicas: meta.replicas.clone(),
        leader_store: replica.leader.map_or(0, |leader| leader.store.0),
    }
}
