//! An operator's orders to move a replica of a group to another store, and watching them done.

use flotilla_benches::Error;
use flotilla_benches::playground::sibling;
use flotilla_benches::status;
use flotilla_benches::table::blocking;
use flotilla_client::{Client, pb};
use std::process::Command;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
const RECEIVED: &str = "flotilla_raft_snapshot_bytes_received_total";

/// Moves one replica of a group.
pub struct Mover<'a> {
    client: &'a Client,
    placement: &'a str,
    group: u64,
    /// The address of the store that gets one.
    target: String,
    /// The store that loses its replica: one that does not lead.
    pub from: u64,
    /// The store that gets one.
    pub to: u64,
}

/// How an added replica came up, counted from the order.
pub struct Added {
    /// Something of the snapshot had come.
    pub first: Duration,
    /// All of it had.
    pub received: Duration,
    /// It had become a voter that holds what is committed.
    pub voter: Duration,
    /// The snapshot's bytes.
    pub bytes: u64,
}

impl<'a> Mover<'a> {
    /// From a store that has a replica and does not lead to one that has none.
    pub async fn choose(
        client: &'a Client,
        placement: &'a str,
        group: u64,
    ) -> Result<Mover<'a>, Error> {
        let routes = client.routes().await.map_err(super::said)?;
        let (leader, pb::ReplicaState { members, .. }) = leader(client, group).await?;
        let has = |store: u64| members.iter().any(|member| member.store == store);
        let from = members.iter().find(|m| m.store != leader).map(|member| member.store);
        let to = routes.stores.iter().find(|store| !has(store.store));
        match (from, to) {
            (Some(from), Some(to)) => {
                let target = to.address.clone();
                Ok(Mover { client, placement, group, target, from, to: to.store })
            }
            _ => Err(Error::Cluster(format!("no store to move group {group} to: {members:?}"))),
        }
    }

    /// Adds the replica, and waits until it votes and is level.
    pub async fn add(&self) -> Result<Added, Error> {
        let before = self.received().await;
        let begun = Instant::now();
        order(self.placement, self.group, "add-replica", self.to).await?;
        let (mut first, mut received, mut bytes) = (None, Duration::ZERO, 0);
        loop {
            let now = self.received().await - before;
            if now > bytes {
                (bytes, received) = (now, begun.elapsed());
                first.get_or_insert(received);
            }
            if self.is_level().await? {
                let (first, voter) = (first.unwrap_or_default(), begun.elapsed());
                return Ok(Added { first, received, voter, bytes });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Removes the old replica, and waits until it is gone; how long that took.
    pub async fn remove(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        order(self.placement, self.group, "remove-replica", self.from).await?;
        loop {
            let described = self.client.admin().describe(self.group).await.map_err(super::said)?;
            let there = described.iter().any(|one| {
                one.store == self.from && !one.replicas.as_ref().is_ok_and(Vec::is_empty)
            });
            if !there {
                return Ok(begun.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_level(&self) -> Result<bool, Error> {
        let described = self.client.admin().describe(self.group).await.map_err(super::said)?;
        let replicas = || described.iter().filter_map(|one| one.replicas.as_ref().ok()).flatten();
        let Some(leader) = replicas().find(|replica| replica.role == "leader") else {
            return Ok(false);
        };
        let votes = |member: &pb::Member| member.store == self.to && member.role == "voter";
        let Some(member) = leader.members.iter().find(|member| votes(member)) else {
            return Ok(false);
        };
        Ok(replicas().any(|own| {
            own.replica == member.replica && !own.installing && own.applied >= leader.commit
        }))
    }

    async fn received(&self) -> u64 {
        status::metric(&self.target, RECEIVED).await.unwrap_or_default() as u64
    }
}

/// An order about `group` as an operator gives it.
pub async fn order(
    placement: &str,
    group: u64,
    what: &'static str,
    store: u64,
) -> Result<(), Error> {
    let mut kv = Command::new(sibling("kv")?);
    kv.args(["--placement", placement, "--timeout", "60s", "admin", "group", what]);
    kv.arg(group.to_string()).arg("--store").arg(store.to_string());
    let output = blocking(move || kv.output().map_err(Error::system("cannot start kv"))).await?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Cluster(format!("kv admin group {what}: {text}")))
}

/// The replica that leads, and its store.
async fn leader(client: &Client, group: u64) -> Result<(u64, pb::ReplicaState), Error> {
    let described = client.admin().describe(group).await.map_err(super::said)?;
    let all = described.into_iter().flat_map(|one| {
        let store = one.store;
        one.replicas.unwrap_or_default().into_iter().map(move |replica| (store, replica))
    });
    let found = all.into_iter().find(|(_, replica)| replica.role == "leader");
    found.ok_or_else(|| Error::Cluster(format!("group {group} has no leader")))
}
