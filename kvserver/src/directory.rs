//! Who is where: this store's cluster, the addresses of the stores, the leaders told by placement.
//!
//! Written by the placement agent, read by the service on every hint and by `Routes`. What this
//! store's own groups know of their leaders counts more than what placement told, unless that is
//! of a later term.

use crate::kv::{KvStateMachine, RegionMeta};
use crate::service::routes::region_to_pb;
use flotilla_client::pb;
use flotilla_raftstore::{ClusterId, Store, StoreId};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Shared by everybody who has to name a store.
pub struct Directory {
    cluster: ClusterId,
    store: StoreId,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    stores: BTreeMap<StoreId, Place>,
    /// region → leader's store and its term.
    leaders: FxHashMap<u64, (StoreId, u64)>,
}

#[derive(Clone)]
struct Place {
    address: String,
    state: String,
}

const UP: &str = "up";
const LOST: &str = "lost";

impl Directory {
    /// A directory that knows only this store, reachable at `address`.
    #[must_use]
    pub fn new(cluster: ClusterId, store: StoreId, address: String) -> Self {
        let own = Place { address, state: UP.to_owned() };
        let known = Known { stores: BTreeMap::from([(store, own)]), ..Known::default() };
        Directory { cluster, store, known: RwLock::new(known) }
    }

    /// The cluster that this store belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This store.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// Takes (store, address, state) of every store that placement knows. What it says of this
    /// store is not taken.
    pub fn set_stores(&self, stores: impl IntoIterator<Item = (StoreId, String, String)>) {
        let mut known = self.known.write();
        let own = known.stores.remove(&self.store);
        known.stores = stores
            .into_iter()
            .map(|(store, address, state)| (store, Place { address, state }))
            .collect();
        known.stores.extend(own.map(|own| (self.store, own)));
    }

    /// Takes (region, leader's store, term) of leaders that placement knows.
    pub fn set_leaders(&self, leaders: impl IntoIterator<Item = (u64, StoreId, u64)>) {
        let mut known = self.known.write();
        for (region, store, term) in leaders {
            let entry = known.leaders.entry(region).or_insert((store, term));
            if entry.1 <= term {
                *entry = (store, term);
            }
        }
    }

    /// Where `store` is, if known.
    #[must_use]
    pub fn address(&self, store: StoreId) -> Option<String> {
        self.known.read().stores.get(&store).map(|place| place.address.clone())
    }

    /// Whether placement has given `store` up: it never comes back under its id.
    #[must_use]
    pub fn is_lost(&self, store: StoreId) -> bool {
        self.known.read().stores.get(&store).is_some_and(|place| place.state == LOST)
    }

    /// The store that leads `region` as far as this store knows.
    #[must_use]
    pub fn leader(&self, region: &RegionMeta, store: &Store) -> Option<StoreId> {
        let told = self.known.read().leaders.get(&region.region).copied();
        let own = store.group(region.group);
        let own = own.as_ref().and_then(|view| Some((view.leader?.store, view.term)));
        own.into_iter().chain(told).max_by_key(|(_, term)| *term).map(|(store, _)| store)
    }

    /// Every region of this store with its leader, and every known store.
    #[must_use]
    pub fn routes(&self, machine: &KvStateMachine, store: &Store) -> pb::RoutesResponse {
        let regions: Vec<_> = machine
            .regions()
            .iter()
            .map(|region| region_to_pb(region, self.leader(region, store)))
            .collect();
        let known = self.known.read();
        let stores = known.stores.iter().map(|(id, place)| pb::Store {
            store: id.0,
            address: place.address.clone(),
            state: place.state.clone(),
            leaders: regions.iter().filter(|region| region.leader_store == id.0).count() as u64,
            replicas: regions
                .iter()
                .filter(|region| region.replicas.iter().any(|replica| replica.store == id.0))
                .count() as u64,
        });
        let stores = stores.collect();
        pb::RoutesResponse { cluster: self.cluster.to_string(), regions, stores }
    }
}
