//! The cluster map: what the placement driver must never lose, and the commands that change it.
//!
//! Pure and deterministic: [`ClusterMap::apply`] is the only way to change the map, and equal
//! commands give equal maps on every member. Ids come out of counters inside the map, so that an
//! id is handed out by the very command that uses it, and never twice.

use crate::keys;
use crate::regions::{Layout, stores_of};
use bytes::Bytes;
use flotilla_raftstore::{ClusterId, GroupId, ReplicaDesc, ReplicaId, ReplicaRole, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A change of the map, as it goes through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A placement member says who and where it is. The first one creates the cluster.
    Join {
        /// As its folder holds it.
        #[serde(with = "cluster_text")]
        cluster: ClusterId,
        /// Its number, from 1.
        member: u64,
        /// Where others reach it.
        address: String,
    },
    /// A store with an empty folder wants an id.
    AddStore {
        /// Chosen by the store: the same nonce gets the same id again.
        nonce: String,
        /// Where others reach it.
        address: String,
    },
    /// A known store is reached elsewhere now.
    MoveStore {
        /// Which store.
        store: StoreId,
        /// Where others reach it.
        address: String,
    },
    /// These stores never come back: their replicas were given up.
    GiveUp {
        /// Which.
        stores: Vec<StoreId>,
    },
    /// Creates the first regions, unless there are regions.
    CreateRegions {
        /// How many stores must have joined.
        stores: u32,
        /// Where to cut.
        layout: Layout,
    },
    /// A region has become this, as its leader says. Older news changes nothing.
    ChangeRegion {
        /// All of it.
        region: Region,
    },
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done, or it had been so before.
    Done,
    /// The store's id, new or known by its nonce.
    Store {
        /// The id.
        store: StoreId,
    },
    /// Refused; nothing changed.
    Refused {
        /// Names what does not fit.
        reason: String,
    },
}

/// [`Epoch::members`] of a new region; every change of its group's members adds one.
pub const MEMBERS_AS_CREATED: u64 = 1;

/// A region's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows with every change of the range.
    pub version: u64,
    /// Grows with every change of the members.
    pub members: u64,
}

/// A region with its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its id.
    pub region: u64,
    /// The group that serves it.
    pub group: GroupId,
    /// First key.
    #[serde(with = "keys::hex")]
    pub start: Bytes,
    /// First key behind it; empty = to the end of all keys.
    #[serde(with = "keys::hex")]
    pub end: Bytes,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its members.
    pub replicas: Vec<ReplicaDesc>,
}

impl Region {
    /// Whether `store` holds a replica.
    #[must_use]
    pub fn is_on(&self, store: StoreId) -> bool {
        self.replicas.iter().any(|r| r.store == store)
    }

    /// Its members are those that it was created with.
    #[must_use]
    pub fn is_as_created(&self) -> bool {
        self.epoch.members == MEMBERS_AS_CREATED
    }
}

/// A registered store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Where others reach it.
    pub address: String,
    /// What it registered with.
    pub nonce: String,
    /// Given up: whoever comes under this id is turned away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// The next free id of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    store: u64,
    region: u64,
    group: u64,
    replica: u64,
}

/// Everything that is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterMap {
    /// The cluster's id; none before the first member has joined.
    #[serde(with = "cluster_option")]
    pub cluster: Option<ClusterId>,
    /// Placement members by number, with their addresses.
    pub members: BTreeMap<u64, String>,
    /// Stores by id.
    pub stores: BTreeMap<StoreId, StoreRecord>,
    /// Regions by id.
    pub regions: BTreeMap<u64, Region>,
    next: Counters,
}

impl Default for ClusterMap {
    fn default() -> Self {
        ClusterMap {
            cluster: None,
            members: BTreeMap::new(),
            stores: BTreeMap::new(),
            regions: BTreeMap::new(),
            next: Counters { store: 1, region: 1, group: 1, replica: 1 },
        }
    }
}

fn take(counter: &mut u64) -> u64 {
    let id = *counter;
    *counter += 1;
    id
}

impl ClusterMap {
    /// Applies one command.
    pub fn apply(&mut self, command: Command) -> Answer {
        match command {
            Command::Join { cluster, member, address } => self.join(cluster, member, address),
            Command::AddStore { nonce, address } => self.add_store(nonce, address),
            Command::MoveStore { store, address } => match self.stores.get_mut(&store) {
                Some(record) => {
                    record.address = address;
                    Answer::Done
                }
                None => Answer::Refused { reason: format!("there is no store {store}") },
            },
            Command::GiveUp { stores } => self.give_up(&stores),
            Command::CreateRegions { stores, layout } => self.create_regions(stores, &layout),
            Command::ChangeRegion { region } => self.change_region(region),
        }
    }

    fn join(&mut self, cluster: ClusterId, member: u64, address: String) -> Answer {
        if let Some(ours) = self.cluster
            && ours != cluster
        {
            let reason = format!("member {member} is of cluster {cluster}, this is cluster {ours}");
            return Answer::Refused { reason };
        }
        self.cluster = Some(cluster);
        self.members.insert(member, address);
        Answer::Done
    }

    fn add_store(&mut self, nonce: String, address: String) -> Answer {
        let known = self.stores.iter_mut().find(|(_, record)| record.nonce == nonce);
        if let Some((store, record)) = known {
            record.address = address;
            return Answer::Store { store: *store };
        }
        let store = StoreId(take(&mut self.next.store));
        self.stores.insert(store, StoreRecord { address, nonce, lost: false });
        Answer::Store { store }
    }

    fn give_up(&mut self, stores: &[StoreId]) -> Answer {
        if let Some(odd) = stores.iter().find(|store| !self.stores.contains_key(store)) {
            return Answer::Refused { reason: format!("there is no store {odd}") };
        }
        let given_up = self.stores.iter_mut().filter(|(store, _)| stores.contains(store));
        given_up.for_each(|(_, record)| record.lost = true);
        Answer::Done
    }

    fn change_region(&mut self, new: Region) -> Answer {
        let refused = |reason: String| Answer::Refused { reason };
        let Some(known) = self.regions.get_mut(&new.region) else {
            return refused(format!("there is no region {}", new.region));
        };
        if new.epoch <= known.epoch {
            return Answer::Done;
        }
        if (new.group, &new.start, &new.end) != (known.group, &known.start, &known.end) {
            return refused(format!(
                "region {} is of group {} and keeps its range; told of group {}, {} to {}",
                new.region,
                known.group,
                new.group,
                keys::display(&new.start),
                keys::display(&new.end)
            ));
        }
        if let Some(odd) = new.replicas.iter().find(|r| !self.stores.contains_key(&r.store)) {
            return refused(format!("region {} on store {}: not known", new.region, odd.store));
        }
        let largest = new.replicas.iter().map(|r| r.replica.0).max().unwrap_or_default();
        self.next.replica = self.next.replica.max(largest.saturating_add(1));
        *known = new;
        Answer::Done
    }

    fn create_regions(&mut self, stores: u32, layout: &Layout) -> Answer {
        if !self.regions.is_empty() {
            return Answer::Done;
        }
        let joined: Vec<u64> = self.stores.keys().map(|store| store.0).collect();
        if joined.is_empty() || joined.len() < stores as usize {
            let reason = format!("{} of {stores} stores have joined", joined.len());
            return Answer::Refused { reason };
        }
        for (i, (start, end)) in layout.ranges().enumerate() {
            let region = take(&mut self.next.region);
            let group = GroupId(take(&mut self.next.group));
            let replicas = stores_of(i, &joined)
                .into_iter()
                .map(|store| ReplicaDesc {
                    replica: ReplicaId(take(&mut self.next.replica)),
                    store: StoreId(store),
                    role: ReplicaRole::Voter,
                })
                .collect();
            let epoch = Epoch { version: 1, members: MEMBERS_AS_CREATED };
            self.regions.insert(region, Region { region, group, start, end, epoch, replicas });
        }
        Answer::Done
    }
}

/// A cluster id as its 32 digits.
pub mod cluster_text {
    use flotilla_raftstore::ClusterId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the digits.
    pub fn serialize<S: Serializer>(cluster: &ClusterId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(cluster)
    }

    /// Reads the digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|e| D::Error::custom(format!("cluster id {text:?}: {e}")))
    }
}

mod cluster_option {
    use flotilla_raftstore::ClusterId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(cluster: &Option<ClusterId>, to: S) -> Result<S::Ok, S::Error> {
        cluster.map(|c| c.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClusterId>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let cluster = text.parse().map_err(|e| D::Error::custom(format!("{text:?}: {e}")))?;
        Ok(Some(cluster))
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod tests;
