//! Regions and epochs in the words of the public contract.

use crate::kv::{Epoch, RegionMeta};
use flotilla_client::pb;
use flotilla_raftstore::StoreId;

/// A region as clients see it; a leader that is not known is 0.
#[must_use]
pub fn region_to_pb(region: &RegionMeta, leader: Option<StoreId>) -> pb::Region {
    let replicas = region
        .replicas
        .iter()
        .map(|replica| pb::Replica {
            replica: replica.replica.0,
            store: replica.store.0,
            role: replica.role.name().to_owned(),
        })
        .collect();
    pb::Region {
        region: region.region,
        group: region.group.0,
        start: region.start.clone(),
        end: region.end.clone(),
        epoch: Some(pb::Epoch { version: region.epoch.version, members: region.epoch.members }),
        replicas,
        leader_store: leader.map_or(0, |store| store.0),
    }
}

/// The epoch of a request; a missing one matches no region.
#[must_use]
pub fn epoch_of(epoch: Option<pb::Epoch>) -> Epoch {
    let epoch = epoch.unwrap_or_default();
    Epoch { version: epoch.version, members: epoch.members }
}
