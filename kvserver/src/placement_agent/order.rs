//! Placement's orders in the words of the store, checked before they are carried out, and what
//! it is told.

use crate::kv::{Epoch, RegionMeta};
use flotilla_placement::convert::{replica_from_pb, replica_to_pb};
use flotilla_placement::pb;
use flotilla_raftstore::{GroupId, OnceCompletion, Outcome, Reply};
use tokio::sync::oneshot;

/// A reply that a task can wait for.
pub fn oneshot_reply() -> (Reply, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    let reply = OnceCompletion::reply(move |outcome| {
        // The waiting task is gone only when the process stops.
        let _ = sender.send(outcome);
    });
    (reply, receiver)
}

/// The region of an order; the error says what is wrong with it.
pub fn region_meta(region: pb::Region) -> Result<RegionMeta, String> {
    let replicas = region.replicas.iter().map(replica_from_pb).collect::<Result<Vec<_>, _>>()?;
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

/// A region as placement is told of it.
pub fn told(meta: &RegionMeta) -> pb::Region {
    pb::Region {
        region: meta.region,
        group: meta.group.0,
        start: meta.start.clone(),
        end: meta.end.clone(),
        epoch: Some(pb::Epoch { version: meta.epoch.version, members: meta.epoch.members }),
        replicas: meta.replicas.iter().map(replica_to_pb).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_raftstore::{ReplicaId, StoreId};

    #[test]
    fn orders_are_checked_before_they_are_carried_out() {
        let replica = pb::Replica { replica: 4, store: 1, role: "voter".to_owned() };
        let region =
            pb::Region { region: 2, group: 3, replicas: vec![replica], ..Default::default() };
        let meta = region_meta(region.clone()).unwrap();
        assert_eq!(meta.desc().on_store(StoreId(1)).unwrap().replica, ReplicaId(4));
        assert_eq!(region_meta(told(&meta)), Ok(meta));
        let mut odd = region.clone();
        odd.replicas[0].role = "king".to_owned();
        assert!(region_meta(odd).unwrap_err().contains("\"king\""));
        assert!(region_meta(pb::Region { group: 0, ..region }).is_err());
    }
}
