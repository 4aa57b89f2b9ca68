//! The store's side of the placement driver. One task; the data path never waits for it.
//!
//! 1. [`register`] gives a new folder its identity, or tells placement where an old one is now
//!    (`register.rs`).
//! 2. Every second, and soon after a change of leadership, a heartbeat says what the store leads
//!    and hosts: all of it after a start or an error, then what has changed (`told.rs`), so that many
//!    idle regions cost nothing.
//! 3. The answer is carried out: addresses and leaders are written down, missing replicas
//!    created (`order.rs`), leaderships handed over. Where the members of a region that is led here
//!    have changed, placement asks for it, and the next heartbeat has it.
//!
//! While placement is away the store goes on with what it knows; the agent tries again, slower
//! each time up to a limit.

pub mod order;
mod register;
mod told;

pub use register::register;

use crate::config::Address;
use crate::directory::Directory;
use crate::folder::{Folder, FolderError, Member, PeersFile};
use crate::kv::KvStateMachine;
use flotilla_placement::client::{PlacementClient, PlacementError};
use flotilla_placement::pb;
use flotilla_raftstore::transport::grpc::GrpcTransport;
use flotilla_raftstore::{Fatal, GroupRecord, GroupView, OnceCompletion, Outcome, Store, StoreId};
use order::{oneshot_reply, region_meta};
use register::{Backoff, refused};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use told::{Regions, Version};

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const CHANGE_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Replicas that are created at once. All of ten thousand would take memory for their beginning that they
/// do not need later.
const CREATED_AT_ONCE: usize = 512;
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

/// Tells placement of the store and carries out its orders.
pub struct PlacementAgent {
    parts: Parts,
    start_id: u64,
    sequence: u64,
    peers: BTreeMap<StoreId, String>,
    /// Regions that placement wants to be told whole.
    asked: BTreeSet<u64>,
    /// The regions at the last look, and when that was.
    regions: Arc<Regions>,
    version: Option<Version>,
    /// What the last heartbeat told that was answered; nothing after an error.
    told: Option<Arc<Regions>>,
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
        PlacementAgent {
            parts,
            start_id: rand::random(),
            sequence: 0,
            peers,
            asked: BTreeSet::new(),
            regions: Arc::default(),
            version: None,
            told: None,
        }
    }

    /// Runs until it is dropped; returns only an error that the store must not survive.
    pub async fn run(mut self, folder: &mut Folder) -> AgentError {
        let Parts { client, advertise, .. } = &self.parts;
        if let Err(error) = register(client, folder, advertise).await {
            return error;
        }
        let mut backoff = Backoff::default();
        loop {
            self.look();
            let partial = self.told.is_some();
            let result = self.heartbeat().await;
            // Of a heartbeat without an answer nobody knows whether it was taken.
            let taken = result.as_ref().is_ok_and(|response| !response.tell_all);
            self.told = taken.then(|| Arc::clone(&self.regions));
            match result {
                Ok(response) if response.tell_all => {
                    if !partial {
                        tokio::time::sleep(backoff.next()).await;
                    }
                }
                Ok(response) => {
                    if backoff.failed() {
                        tracing::info!("placement answers again");
                        backoff = Backoff::default();
                    }
                    if let Err(error) = self.carry_out(response).await {
                        return error;
                    }
                    self.wait_for_turn().await;
                }
                Err(PlacementError::Unavailable(reason)) => {
                    if !backoff.failed() {
                        tracing::warn!(reason, "placement is away: going on with what is known");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(PlacementError::Refused(reason)) => {
                    // It has accepted this store before: somebody started another placement at
                    // its address. That is no reason to stop serving.
                    if !backoff.failed() {
                        tracing::error!(reason, "placement refuses a store that it knew: going on");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return refused(error, folder),
            }
        }
    }

    /// Looks at the regions; whether they may be others than before.
    fn look(&mut self) -> bool {
        let Parts { store, machine, .. } = &self.parts;
        let version = Version::of(store, machine);
        let changed = self.version.replace(version) != Some(version);
        if changed {
            self.regions = Arc::new(Regions::of(store, machine));
        }
        changed
    }

    async fn wait_for_turn(&mut self) {
        let due = Instant::now() + HEARTBEAT_INTERVAL;
        while self.asked.is_empty() && Instant::now() < due {
            tokio::time::sleep(CHANGE_POLL_INTERVAL).await;
            if !self.look() {
                continue;
            }
            if self.told.as_ref().is_none_or(|told| !self.regions.leads_like(told)) {
                return;
            }
        }
    }

    async fn heartbeat(&mut self) -> Result<pb::HeartbeatResponse, PlacementError> {
        let asked = std::mem::take(&mut self.asked);
        let led = asked.into_iter().filter(|region| self.regions.leads(*region));
        let changed = led.filter_map(|region| self.parts.machine.region(region));
        self.sequence += 1;
        let before = self.told.as_ref();
        let nothing_new = before.is_some_and(|told| Arc::ptr_eq(told, &self.regions));
        let news = if nothing_new {
            pb::HeartbeatRequest { partial: true, ..pb::HeartbeatRequest::default() }
        } else {
            self.regions.heartbeat(before.map(|told| &**told))
        };
        let request = pb::HeartbeatRequest {
            cluster: self.parts.member.cluster.clone(),
            store: self.parts.member.store.0,
            address: self.parts.advertise.to_string(),
            start_id: self.start_id,
            sequence: self.sequence,
            changed: changed.map(|meta| order::told(&meta)).collect(),
            slow: self.parts.store.disk_is_slow(),
            ..news
        };
        self.parts.client.heartbeat(request).await
    }

    async fn carry_out(&mut self, response: pb::HeartbeatResponse) -> Result<(), AgentError> {
        self.learn_stores(&response.stores);
        self.parts.directory.set_leaders(
            response.leaders.iter().map(|l| (l.region, StoreId(l.leader_store), l.term)),
        );
        let mut create = response.create.into_iter().peekable();
        while create.peek().is_some() {
            self.create(create.by_ref().take(CREATED_AT_ONCE)).await?;
        }
        for order in response.transfers {
            self.transfer(&order);
        }
        self.asked = response.describe.into_iter().collect();
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

    /// Creates replicas: first all ranges, durably, then all groups, so that no entry is ever
    /// applied without its range.
    async fn create(&self, regions: impl Iterator<Item = pb::Region>) -> Result<(), AgentError> {
        let metas = regions.map(region_meta).collect::<Result<Vec<_>, _>>();
        let metas = metas.map_err(AgentError::Answer)?;
        let (mut records, mut created) = (Vec::new(), Vec::new());
        for meta in &metas {
            let Some(own) = meta.desc().on_store(self.parts.member.store) else {
                let what = format!("an order to host region {} without this store", meta.region);
                return Err(AgentError::Answer(what));
            };
            // Placement has not heard yet that it was removed: an order that will not come again.
            if self.parts.store.removed(meta.group).is_none_or(|gone| gone < own.replica) {
                records.push((meta.region, GroupRecord::new(meta.desc(), own.replica)));
                created.push(meta.clone());
            }
        }
        // Syncs files: not on a network thread.
        let machine = Arc::clone(&self.parts.machine);
        let written = move || machine.create_regions(&created);
        tokio::task::spawn_blocking(written).await.expect("creating regions does not panic")?;
        let mut outcomes = Vec::new();
        for (region, record) in records {
            let (reply, outcome) = oneshot_reply();
            self.parts.store.create_group(record, reply);
            outcomes.push((region, outcome));
        }
        for (region, outcome) in outcomes {
            match outcome.await {
                Ok(Ok(_)) => tracing::info!(region, "replica created"),
                // Placement orders it again as long as heartbeats do not name the region.
                Ok(Err(error)) => tracing::warn!(region, %error, "replica not created"),
                Err(_) => tracing::warn!(region, "replica not created: no answer"),
            }
        }
        Ok(())
    }

    fn transfer(&self, order: &pb::TransferLeader) {
        let to = StoreId(order.to_store);
        let meta = self.parts.machine.region(order.region);
        let target = meta.and_then(|meta| Some((meta.group, meta.desc().on_store(to)?.replica)));
        let Some((group, replica)) = target else {
            tracing::warn!(region = order.region, store = to.0, "no such replica to lead");
            return;
        };
        let region = order.region;
        let prefers = |view: &GroupView| view.record.desc.prefers(view.record.replica, replica);
        if self.parts.store.group(group).is_some_and(|view| prefers(&view)) {
            // It would come back, and go again.
            tracing::debug!(region, replica = replica.0, "its priority keeps leadership here");
            return;
        }
        // Whether it was done shows in who leads; placement orders again if it was not.
        let reply = OnceCompletion::reply(move |outcome: Outcome| {
            if let Err(error) = outcome {
                tracing::debug!(region, %error, "leadership not handed over");
            }
        });
        self.parts.store.transfer_leader(group, replica, reply);
    }
}
