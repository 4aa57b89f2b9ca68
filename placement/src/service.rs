//! The gRPC service for stores: registration and heartbeats.
//!
//! A registration is answered after its command was applied by Raft. A heartbeat changes memory
//! only ([`Observed`]); it goes through Raft only when the store's address or the members of a region
//! that it leads have changed.

use crate::config::Address;
use crate::convert::{info, region_from_pb, region_to_pb};
use crate::metrics::Metrics;
use crate::observe::{Age, Liveness, Observed};
use crate::pb::placement_server::Placement;
use crate::pb::{
    HeartbeatRequest, HeartbeatResponse, Leading, RegionLeader, RegisterRequest, RegisterResponse,
};
use crate::regions::Layout;
use crate::replicated::{NotNow, Replicated};
use crate::state::{self, Answer, ClusterMap, Command, StoreRecord};
use flotilla_raftstore::{Clock, ClusterId, Nanos, StoreId};
use parking_lot::Mutex;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Longest nonce of a store, in bytes.
const NONCE_BYTES_MAX: usize = 128;

/// What the services and pages of one member share.
pub(crate) struct Shared {
    pub(crate) member: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) replicated: Replicated,
    pub(crate) observed: Mutex<Observed>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// The first layout: so many stores, cut like this.
    pub(crate) stores: u32,
    pub(crate) layout: Layout,
}

impl From<NotNow> for Status {
    fn from(reason: NotNow) -> Status {
        Status::unavailable(reason.to_string())
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn check_cluster(&self, cluster: &str, who: &str) -> Result<(), Status> {
        match cluster.parse::<ClusterId>() {
            Ok(theirs) if theirs == self.cluster => Ok(()),
            Ok(theirs) => Err(Status::failed_precondition(format!(
                "{who} is of cluster {theirs}, this placement serves cluster {}: give it the \
                 --placement addresses of its own cluster, or an empty --dir to join this one \
                 as a new store",
                self.cluster
            ))),
            Err(_) => Err(Status::invalid_argument(format!(
                "{who}: cluster id {cluster:?} is not 32 hexadecimal digits"
            ))),
        }
    }

    async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        let address = request.address.parse::<Address>().map_err(Status::invalid_argument)?;
        self.replicated.ready()?;
        let who = format!("the store at {address}");
        if !request.cluster.is_empty() {
            self.check_cluster(&request.cluster, &who)?;
        } else if request.store != 0 {
            return Err(Status::invalid_argument(format!(
                "{who} names its id {} and no cluster: register both or none",
                request.store
            )));
        }
        let store = match request.store {
            0 => self.add(request.nonce, address.to_string()).await?,
            id => self.locate(StoreId(id), address.to_string()).await?,
        };
        self.create_regions().await?;
        Ok(RegisterResponse { cluster: self.cluster.to_string(), store: store.0 })
    }

    async fn add(&self, nonce: String, address: String) -> Result<StoreId, Status> {
        if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "nonce of {} bytes: a new store gives one of 1 to {NONCE_BYTES_MAX}",
                nonce.len()
            )));
        }
        let lost = self.lost_at(&address, &nonce)?;
        let command = Command::AddStore { nonce, address: address.clone() };
        match self.replicated.execute(&command).await? {
            Answer::Store { store } => {
                self.metrics.registrations.inc();
                tracing::info!(%store, address, "store registered");
                for lost in lost {
                    tracing::warn!(
                        %store, %lost, address,
                        "a store with a new --dir took the address of one that is down, whose \
                         replicas stay missing: nothing is moved to the new one; to get them back, \
                         start the old --dir, just as it was, at another --addr"
                    );
                }
                Ok(store)
            }
            Answer::Refused { reason } => Err(Status::failed_precondition(reason)),
            Answer::Done => Err(Status::internal("a new store got no id")),
        }
    }

    /// The stores of other nonces at `address`, all of them down; a new store waits for that.
    fn lost_at(&self, address: &str, nonce: &str) -> Result<Vec<StoreId>, Status> {
        let at_address: Vec<StoreId> = self.replicated.read(|map| {
            if map.stores.values().any(|record| record.nonce == nonce) {
                return Vec::new();
            }
            let here = map.stores.iter().filter(|(_, record)| record.address == address);
            here.map(|(store, _)| *store).collect()
        });
        let (observed, now) = (self.observed.lock(), self.now());
        match at_address.iter().find(|store| observed.liveness(**store, now) != Liveness::Down) {
            None => Ok(at_address),
            Some(store) => Err(Status::unavailable(format!(
                "{address} is the address of store {store}, which is not down: if that one runs \
                 elsewhere, give this new one an --addr or --advertise-addr of its own; if its \
                 --dir was emptied or lost, this one joins once store {store} counts as down"
            ))),
        }
    }

    /// Makes sure that `store` is known, at `address`.
    async fn locate(&self, store: StoreId, address: String) -> Result<StoreId, Status> {
        let known = || self.replicated.read(|map| map.stores.get(&store).cloned());
        let mut at = known();
        if at.is_none() {
            // Before a store is turned away, make sure that what is read here is not outdated.
            self.replicated.barrier().await?;
            at = known();
        }
        match at {
            Some(known) if known.lost => Err(Status::aborted(format!(
                "store {store} at {address} was given up as lost: its groups go on without its \
                 replicas, which may be behind; start it with an empty --dir to join as a new \
                 store, and keep the old one as long as anything in it may be missed"
            ))),
            Some(known) if known.address == address => Ok(store),
            Some(StoreRecord { address: from, .. }) => {
                let command = Command::MoveStore { store, address: address.clone() };
                self.replicated.execute(&command).await?;
                tracing::info!(%store, from, address, "store moved");
                Ok(store)
            }
            None => Err(Status::failed_precondition(format!(
                "store {store} at {address} is not known in cluster {}: this placement's state is \
                 older than the store or has lost it; restore the placement's --dir, or start \
                 the store with an empty --dir to join as a new one",
                self.cluster
            ))),
        }
    }

    /// Gives up stores that are down: they never come back. With `force` those that seem to be there, too, and
    /// one that is not known here is left out: this placement may have lost its state.
    pub(crate) async fn give_up(
        &self,
        mut stores: Vec<StoreId>,
        force: bool,
    ) -> Result<(), String> {
        let known = |store: &StoreId| self.replicated.read(|map| map.stores.contains_key(store));
        if force {
            stores.retain(known);
        } else if let Some(odd) = stores.iter().find(|store| !known(store)) {
            return Err(format!(
                "there is no store {odd}: see `kv stores`; force it if this placement has lost its state"
            ));
        }
        let alive = {
            let (observed, now) = (self.observed.lock(), self.now());
            let down = |store: &StoreId| observed.liveness(*store, now) == Liveness::Down;
            stores.iter().copied().find(|store| !force && !down(store))
        };
        if let Some(store) = alive {
            return Err(format!(
                "store {store} is not down: stop it first, or force it if it only seems to be there"
            ));
        }
        let command = Command::GiveUp { stores: stores.clone() };
        match self.replicated.execute(&command).await {
            Ok(Answer::Refused { reason }) => Err(format!("{reason}: see `kv stores`")),
            Ok(_) => {
                stores.iter().for_each(|store| tracing::warn!(%store, "store given up as lost"));
                Ok(())
            }
            Err(not_now) => Err(not_now.to_string()),
        }
    }

    /// Creates the first regions once enough stores have joined.
    async fn create_regions(&self) -> Result<(), Status> {
        let due =
            |map: &ClusterMap| map.regions.is_empty() && map.stores.len() >= self.stores as usize;
        if !self.replicated.read(due) {
            return Ok(());
        }
        let command = Command::CreateRegions { stores: self.stores, layout: self.layout.clone() };
        match self.replicated.execute(&command).await? {
            Answer::Refused { reason } => Err(Status::internal(reason)),
            _ => {
                tracing::info!(regions = self.layout.regions(), "the first regions are created");
                Ok(())
            }
        }
    }

    /// Takes over what the leaders on a store say of their regions. What makes no sense is logged:
    /// the rest of the heartbeat counts.
    async fn change_regions(&self, request: &HeartbeatRequest) -> Result<(), Status> {
        for told in &request.changed {
            let outcome = match region_from_pb(told) {
                Ok(region) => self.replicated.execute(&Command::ChangeRegion { region }).await?,
                Err(reason) => Answer::Refused { reason },
            };
            let (store, region) = (request.store, told.region);
            match outcome {
                Answer::Refused { reason } => {
                    tracing::error!(store, region, reason, "what a store tells of a region is odd");
                }
                _ => tracing::info!(store, region, epoch = ?told.epoch, "region changed"),
            }
        }
        Ok(())
    }

    async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        let address = request.address.parse::<Address>().map_err(Status::invalid_argument)?;
        self.replicated.ready()?;
        self.check_cluster(&request.cluster, &format!("the store at {address}"))?;
        let store = StoreId(request.store);
        let age = self.observed.lock().age(&request);
        match age {
            Age::Replaced => return Err(replaced(store, &address)),
            // What a late one says may be as old as its answer would be new.
            Age::Late | Age::Detached => return Ok(tell_all()),
            Age::Fresh => _ = self.locate(store, address.to_string()).await?,
        }
        self.create_regions().await?;
        self.change_regions(&request).await?;
        self.metrics.heartbeats.inc();
        Ok(self.replicated.read(|map| self.answer(store, &request, map)))
    }

    fn answer(
        &self,
        store: StoreId,
        request: &HeartbeatRequest,
        map: &ClusterMap,
    ) -> HeartbeatResponse {
        let now = self.now();
        let mut observed = self.observed.lock();
        if !observed.hear(request, now) {
            // A later one came while the map was changed.
            return tell_all();
        }
        let transfers = observed.orders_for(store, map, now);
        self.metrics.transfers.inc_by(transfers.len() as u64);
        let leaders = observed.leaders_for(store, now);
        let missing = |r: &&state::Region| {
            r.is_as_created() && r.is_on(store) && !observed.hosts(store, r.region)
        };
        let later = |leading: &&Leading| {
            let told = leading.epoch.unwrap_or_default();
            let known = map.regions.get(&leading.region).map(|r| r.epoch);
            known.is_some_and(|known| (known.version, known.members) < (told.version, told.members))
        };
        let leader = |(region, leader, term): (u64, StoreId, u64)| RegionLeader {
            region,
            leader_store: leader.0,
            term,
        };
        HeartbeatResponse {
            stores: map
                .stores
                .iter()
                .map(|(id, s)| info(*id, s, observed.liveness(*id, now)))
                .collect(),
            create: map.regions.values().filter(missing).map(region_to_pb).collect(),
            transfers,
            leaders: leaders.into_iter().map(leader).collect(),
            describe: request.leading.iter().filter(later).map(|l| l.region).collect(),
            tell_all: false,
        }
    }
}

fn tell_all() -> HeartbeatResponse {
    HeartbeatResponse { tell_all: true, ..HeartbeatResponse::default() }
}

fn replaced(store: StoreId, address: &Address) -> Status {
    Status::aborted(format!(
        "another process has started as store {store} since the one at {address}: two processes \
         use copies of one data folder; stop one for good, and give it an empty --dir to join as \
         a new store"
    ))
}

/// [`Shared`] as the gRPC server wants it.
#[derive(Clone)]
pub(crate) struct PlacementService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Placement for PlacementService {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        self.0.register(request.into_inner()).await.map(Response::new)
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        self.0.heartbeat(request.into_inner()).await.map(Response::new)
    }
}
