//! Between the map's words and those of the contract with stores.

use crate::observe::Liveness;
use crate::pb;
use crate::state::{Epoch, Region, StoreRecord};
use flotilla_raftstore::{GroupId, ReplicaDesc, ReplicaId, StoreId};

/// A store as others hear of it.
pub(crate) fn info(id: StoreId, record: &StoreRecord, liveness: Liveness) -> pb::StoreInfo {
    let state = state_of(record, liveness).to_string();
    pb::StoreInfo { store: id.0, address: record.address.clone(), state }
}

/// What others hear of a store: `lost` once it was given up.
pub(crate) fn state_of(record: &StoreRecord, liveness: Liveness) -> &'static str {
    if record.lost { "lost" } else { liveness.as_str() }
}

/// A replica as the contract has it.
#[must_use]
pub fn replica_to_pb(replica: &ReplicaDesc) -> pb::Replica {
    let ReplicaDesc { replica, store, role } = replica;
    pb::Replica { replica: replica.0, store: store.0, role: role.to_string() }
}

/// The replica that the contract has; the error says what is wrong with it.
pub fn replica_from_pb(told: &pb::Replica) -> Result<ReplicaDesc, String> {
    let role = told.role.parse().map_err(|why| format!("replica {}: {why}", told.replica))?;
    Ok(ReplicaDesc { replica: ReplicaId(told.replica), store: StoreId(told.store), role })
}

/// A region as the contract has it.
pub(crate) fn region_to_pb(region: &Region) -> pb::Region {
    pb::Region {
        region: region.region,
        group: region.group.0,
        start: region.start.clone(),
        end: region.end.clone(),
        epoch: Some(pb::Epoch { version: region.epoch.version, members: region.epoch.members }),
        replicas: region.replicas.iter().map(replica_to_pb).collect(),
    }
}

/// The region that a store tells of; the error says what is wrong with it.
pub(crate) fn region_from_pb(told: &pb::Region) -> Result<Region, String> {
    let id = told.region;
    let replicas = told.replicas.iter().map(replica_from_pb).collect::<Result<Vec<_>, String>>();
    let replicas = replicas.map_err(|why| format!("region {id}: {why}"))?;
    let epoch = told.epoch.unwrap_or_default();
    if id == 0 || told.group == 0 || replicas.is_empty() {
        return Err(format!(
            "region {id} of group {}: an id or the replicas are missing",
            told.group
        ));
    }
    Ok(Region {
        region: id,
        group: GroupId(told.group),
        start: told.start.clone(),
        end: told.end.clone(),
        epoch: Epoch { version: epoch.version, members: epoch.members },
        replicas,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_raftstore::ReplicaRole;

    #[test]
    fn regions_survive_the_contract_and_odd_ones_are_refused() {
        let replica = |id, role| ReplicaDesc { replica: ReplicaId(id), store: StoreId(id), role };
        let region = Region {
            region: 3,
            group: GroupId(4),
            start: "a".into(),
            end: "".into(),
            epoch: Epoch { version: 1, members: 9 },
            replicas: ReplicaRole::ALL.into_iter().zip(1..).map(|(r, id)| replica(id, r)).collect(),
        };
        let told = region_to_pb(&region);
        assert_eq!(region_from_pb(&told), Ok(region));
        let mut odd = told.clone();
        odd.replicas[0].role = "king".to_owned();
        assert!(region_from_pb(&odd).unwrap_err().contains("\"king\""));
        assert!(region_from_pb(&pb::Region { replicas: Vec::new(), ..told.clone() }).is_err());
        assert!(region_from_pb(&pb::Region { group: 0, ..told }).is_err());
    }
}
