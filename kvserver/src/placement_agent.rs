//! The store's side of the placement driver. One task; the data path never waits for it.
//!
//! 1. [`register`] gives a new folder its identity, or tells placement where an old one is now.
//! 2. Every second, and soon after a change of leadership, a heartbeat says what the store leads
//!    and hosts.
//! 3. The answer is carried out: addresses and leaders are written down, missing replicas
//!    created, leaderships handed over.
//!
//! While placement is away the store goes on with what it knows; the agent tries again, slower
//! each time up to a limit.

use crate::config::Address;
use crate::directory::Directory;
use crate::folder::{Folder, FolderError, Member, PeersFile};
use crate::kv::{Epoch, KvStateMachine, RegionMeta};
use flotilla_placement::client::{PlacementClient, PlacementError};
use flotilla_placement::pb;
use flotilla_raftstore::transport::grpc::GrpcTransport;
use flotilla_raftstore::{
    ClusterId, Fatal, GroupId, GroupRecord, OnceCompletion, Outcome, ReplicaDesc, ReplicaId,
    ReplicaRole, Reply, Store, StoreId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const CHANGE_POLL_INTERVAL: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A new store that waits for placement says so this often.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(3);

/// What a store says of others until placement has judged them.
const STATE_UNKNOWN: &str = "unknown";

/// Why the store cannot go on with this placement driver.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// An address that cannot be one.
    #[error("{0}")]
    Address(PlacementError),
    /// Placement knows another cluster or no such store.
    #[error("{error} (this folder: {identity})")]
    Placement {
        /// Placement's words.
        error: PlacementError,
        /// The folder's.
        identity: String,
    },
    /// Placement's answer makes no sense.
    #[error(
        "placement answered {0}: is --placement the address of a placement driver of this version?"
    )]
    Answer(String),
    /// The identity cannot be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A region cannot be written.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Registers the store in `folder`; a new one learns who it is and writes it down. Waits for
/// placement as long as it takes; a refusal is an error.
pub async fn register(
    client: &PlacementClient,
    folder: &mut Folder,
    advertise: &Address,
) -> Result<Member, AgentError> {
    let request = register_request(folder, advertise);
    let mut backoff = Backoff::default();
    let mut logged: Option<Instant> = None;
    loop {
        match client.register(request.clone()).await {
            Ok(response) => return accept(folder, response),
            Err(PlacementError::Unavailable(reason)) => {
                if logged.is_none_or(|at| at.elapsed() >= WAITING_LOG_INTERVAL) {
                    let new = folder.identity().member.is_none();
                    tracing::warn!(reason, new, "waiting for placement to register this store");
                    logged = Some(Instant::now());
                }
            }
            Err(error) => return Err(refused(error, folder)),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

fn accept(folder: &mut Folder, response: pb::RegisterResponse) -> Result<Member, AgentError> {
    let member = Member { cluster: response.cluster, store: StoreId(response.store) };
    let sound = member.store.0 != 0 && member.cluster.parse::<ClusterId>().is_ok();
    match &folder.identity().member {
        Some(known) if *known == member => {}
        None if sound => folder.set_member(member.clone())?,
        _ => {
            let Member { cluster, store } = member;
            return Err(AgentError::Answer(format!("cluster '{cluster}', store {store}")));
        }
    }
    Ok(member)
}

fn register_request(folder: &Folder, advertise: &Address) -> pb::RegisterRequest {
    let identity = folder.identity();
    let member = identity.member.as_ref();
    pb::RegisterRequest {
        cluster: member.map(|m| m.cluster.clone()).unwrap_or_default(),
        store: member.map_or(0, |m| m.store.0),
        address: advertise.to_string(),
        nonce: identity.nonce.clone(),
    }
}

fn refused(error: PlacementError, folder: &Folder) -> AgentError {
    let identity = match &folder.identity().member {
        Some(member) => format!("store {} of cluster {}", member.store, member.cluster),
        None => "a new store".to_owned(),
    };
    AgentError::Placement { error, identity }
}

/// What the agent acts on.
pub struct Parts {
    /// The way to placement.
    pub client: PlacementClient,
    /// The running store.
    pub store: Store,
    /// Its regions.
    pub machine: Arc<KvStateMachine>,
    /// Hears new addresses.
    pub transport: Arc<GrpcTransport>,
    /// Hears addresses and leaders.
    pub directory: Arc<Directory>,
    /// Remembers addresses over a restart.
    pub peers_file: PeersFile,
    /// Who the store is.
    pub member: Member,
    /// Where others reach it.
    pub advertise: Address,
}

/// Leadership as last told: what makes a heartbeat urgent when it changes.
type Leading = Vec<(GroupId, u64)>;

/// Tells placement of the store and carries out its orders.
pub struct PlacementAgent {
    parts: Parts,
    start_id: u64,
    sequence: u64,
    peers: BTreeMap<StoreId, String>,
}

impl PlacementAgent {
    /// Goes on from the addresses that the folder remembers.
    #[must_use]
    pub fn new(parts: Parts, peers: BTreeMap<StoreId, String>) -> Self {
        for (store, address) in &peers {
            parts.transport.set_address(*store, address);
        }
        let known = peers.iter().map(|(store, at)| (*store, at.clone(), STATE_UNKNOWN.to_owned()));
        parts.directory.set_stores(known);
        PlacementAgent { parts, start_id: rand::random(), sequence: 0, peers }
    }

    /// Runs until it is dropped; returns only an error that the store must not survive.
    pub async fn run(mut self, folder: &mut Folder) -> AgentError {
        let Parts { client, advertise, .. } = &self.parts;
        if let Err(error) = register(client, folder, advertise).await {
            return error;
        }
        let mut backoff = Backoff::default();
        loop {
            let leading = self.leading();
            match self.heartbeat(&leading).await {
                Ok(response) => {
                    if backoff.failed() {
                        tracing::info!("placement answers again");
                        backoff = Backoff::default();
                    }
                    if let Err(error) = self.carry_out(response).await {
                        return error;
                    }
                    self.wait_for_turn(&leading).await;
                }
                Err(PlacementError::Unavailable(reason)) => {
                    if !backoff.failed() {
                        tracing::warn!(reason, "placement is away: going on with what is known");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return refused(error, folder),
            }
        }
    }

    fn leading(&self) -> Leading {
        let groups = self.parts.store.groups();
        groups.iter().filter(|g| g.leading).map(|g| (g.record.desc.group, g.term)).collect()
    }

    async fn wait_for_turn(&self, told: &Leading) {
        let due = Instant::now() + HEARTBEAT_INTERVAL;
        while Instant::now() < due {
            tokio::time::sleep(CHANGE_POLL_INTERVAL).await;
            if self.leading() != *told {
                return;
            }
        }
    }

    async fn heartbeat(
        &mut self,
        leading: &Leading,
    ) -> Result<pb::HeartbeatResponse, PlacementError> {
        let regions = self.parts.machine.regions();
        let by_group: BTreeMap<GroupId, &RegionMeta> =
            regions.iter().map(|region| (region.group, region)).collect();
        let groups = self.parts.store.groups();
        self.sequence += 1;
        let request = pb::HeartbeatRequest {
            cluster: self.parts.member.cluster.clone(),
            store: self.parts.member.store.0,
            address: self.parts.advertise.to_string(),
            start_id: self.start_id,
            sequence: self.sequence,
            leading: leading
                .iter()
                .filter_map(|(group, term)| {
                    let region = by_group.get(group)?;
                    let Epoch { version, members } = region.epoch;
                    let epoch = Some(pb::Epoch { version, members });
                    Some(pb::Leading { region: region.region, term: *term, epoch })
                })
                .collect(),
            hosted: groups
                .iter()
                .filter_map(|g| by_group.get(&g.record.desc.group).map(|region| region.region))
                .collect(),
            applied_index_sum: 0,
        };
        self.parts.client.heartbeat(request).await
    }

    async fn carry_out(&mut self, response: pb::HeartbeatResponse) -> Result<(), AgentError> {
        self.learn_stores(&response.stores);
        self.parts.directory.set_leaders(
            response.leaders.iter().map(|l| (l.region, StoreId(l.leader_store), l.term)),
        );
        for region in response.create {
            self.create(region).await?;
        }
        for order in response.transfers {
            self.transfer(&order);
        }
        Ok(())
    }

    fn learn_stores(&mut self, stores: &[pb::StoreInfo]) {
        for info in stores.iter().filter(|info| info.store != self.parts.member.store.0) {
            self.parts.transport.set_address(StoreId(info.store), &info.address);
        }
        self.parts.directory.set_stores(
            stores.iter().map(|s| (StoreId(s.store), s.address.clone(), s.state.clone())),
        );
        let peers: BTreeMap<StoreId, String> = stores
            .iter()
            .filter(|info| info.store != self.parts.member.store.0)
            .map(|info| (StoreId(info.store), info.address.clone()))
            .collect();
        if peers != self.peers {
            // Only a hint for the next start: a failure costs nothing now.
            if let Err(error) = self.parts.peers_file.write(&peers) {
                tracing::warn!(%error, "the addresses of the other stores were not written down");
            }
            self.peers = peers;
        }
    }

    async fn create(&self, region: pb::Region) -> Result<(), AgentError> {
        let meta = region_meta(region).map_err(AgentError::Answer)?;
        let Some(own) = meta.desc().on_store(self.parts.member.store) else {
            tracing::warn!(region = meta.region, "an order to create a region without this store");
            return Ok(());
        };
        let record = GroupRecord { desc: meta.desc(), replica: own.replica };
        let (region, group) = (meta.region, meta.group);
        // Syncs a file: not on a network thread. The range is durable before the group exists,
        // so that no entry is ever applied without it.
        let machine = Arc::clone(&self.parts.machine);
        tokio::task::spawn_blocking(move || machine.create_region(&meta))
            .await
            .expect("creating a region does not panic")?;
        let (reply, outcome) = oneshot_reply();
        self.parts.store.create_group(record, reply);
        match outcome.await {
            Ok(Ok(_)) => tracing::info!(region, group = group.0, "replica created"),
            // Placement orders it again as long as heartbeats do not name the region.
            Ok(Err(error)) => tracing::warn!(region, %error, "replica not created"),
            Err(_) => tracing::warn!(region, "replica not created: no answer"),
        }
        Ok(())
    }

    fn transfer(&self, order: &pb::TransferLeader) {
        let to = StoreId(order.to_store);
        let regions = self.parts.machine.regions();
        let target = regions
            .iter()
            .find(|meta| meta.region == order.region)
            .and_then(|meta| Some((meta.group, meta.desc().on_store(to)?.replica)));
        let Some((group, replica)) = target else {
            tracing::warn!(region = order.region, store = to.0, "no such replica to lead");
            return;
        };
        let region = order.region;
        // Whether it was done shows in who leads; placement orders again if it was not.
        let reply = OnceCompletion::reply(move |outcome: Outcome| {
            if let Err(error) = outcome {
                tracing::debug!(region, %error, "leadership not handed over");
            }
        });
        self.parts.store.transfer_leader(group, replica, reply);
    }
}

/// A reply that a task can wait for.
fn oneshot_reply() -> (Reply, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    let reply = OnceCompletion::reply(move |outcome| {
        // The waiting task is gone only when the process stops.
        let _ = sender.send(outcome);
    });
    (reply, receiver)
}

fn region_meta(region: pb::Region) -> Result<RegionMeta, String> {
    let replicas = region.replicas.iter().map(replica_desc).collect::<Result<Vec<_>, _>>()?;
    let epoch = region.epoch.unwrap_or_default();
    if region.region == 0 || region.group == 0 || replicas.is_empty() {
        return Err(format!("an order without ids or replicas for region {}", region.region));
    }
    Ok(RegionMeta {
        region: region.region,
        group: GroupId(region.group),
        start: region.start,
        end: region.end,
        epoch: Epoch { version: epoch.version, members: epoch.members },
        replicas,
    })
}

fn replica_desc(replica: &pb::Replica) -> Result<ReplicaDesc, String> {
    let role = match replica.role.as_str() {
        "voter" => ReplicaRole::Voter,
        "learner" => ReplicaRole::Learner,
        other => return Err(format!("replica {} with role '{other}'", replica.replica)),
    };
    let (replica, store) = (ReplicaId(replica.replica), StoreId(replica.store));
    Ok(ReplicaDesc { replica, store, role })
}

/// Waits that double from 100 ms to a limit, spread so that stores do not knock all at once.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn failed(&self) -> bool {
        self.failures > 0
    }

    fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(100 << self.failures.min(6)).min(BACKOFF_MAX);
        self.failures += 1;
        wait.mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        assert!(!backoff.failed());
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] <= Duration::from_millis(100) && backoff.failed());
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
        assert!(waits[19] >= BACKOFF_MAX / 2);
    }

    #[test]
    fn orders_are_checked_before_they_are_carried_out() {
        let replica = pb::Replica { replica: 4, store: 1, role: "voter".to_owned() };
        let region =
            pb::Region { region: 2, group: 3, replicas: vec![replica], ..Default::default() };
        let meta = region_meta(region.clone()).unwrap();
        assert_eq!(meta.desc().on_store(StoreId(1)).unwrap().replica, ReplicaId(4));
        let mut odd = region.clone();
        odd.replicas[0].role = "king".to_owned();
        assert!(region_meta(odd).unwrap_err().contains("'king'"));
        assert!(region_meta(pb::Region { group: 0, ..region }).is_err());
    }
}
