//! The operator's service of a store (`client/proto/admin.proto`).
//!
//! A new member needs room for its region before its log can reach it, and only the region's
//! stores know its range. So the leader's store asks the other one to make room before it proposes
//! the change; the group's replica there begins with the leader's invitation.

use super::core::Core;
use super::refuse::error;
use super::routes::region_to_pb;
use crate::directory::Directory;
use crate::kv::{KvStateMachine, RegionMeta};
use crate::placement_agent::order::{oneshot_reply, region_meta};
use flotilla_client::pb;
use flotilla_client::pb::admin_client::AdminClient;
use flotilla_client::pb::admin_server::Admin;
use flotilla_client::pb::change::What;
use flotilla_client::pb::error::Kind;
use flotilla_raftstore::{
    Change, ChangeRequest, Error, GroupId, GroupView, OperationId, Priority, ReplicaDesc,
    ReplicaId, ReplicaStatus, Reply, Store, StoreId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

/// To reach the store that is to get a replica, and for its answer.
const HOST_TIMEOUT: Duration = Duration::from_secs(3);

/// Implements `flotilla.kv.v1.Admin`.
pub struct AdminService {
    core: Arc<Core>,
}

type Answer = Result<Response<pb::AdminResponse>, Status>;

fn answer(result: Result<(), pb::Error>) -> Answer {
    Ok(Response::new(pb::AdminResponse { error: result.err() }))
}

impl AdminService {
    /// The service over a running store.
    #[must_use]
    pub fn new(store: Store, machine: Arc<KvStateMachine>, directory: Arc<Directory>) -> Self {
        AdminService { core: Core::new(store, machine, directory) }
    }

    /// The group, if it is led here.
    fn led(&self, group: GroupId) -> Result<Arc<GroupView>, pb::Error> {
        let view =
            self.core.store.group(group).ok_or_else(|| self.refusal(&Error::NoGroup { group }))?;
        if view.leading {
            return Ok(view);
        }
        let leader = view.leader.filter(|leader| leader.replica != view.record.replica);
        Err(self.refusal(&Error::NotLeader { group, leader }))
    }

    /// What `raftstore` answered. Another store may well have the group.
    fn refusal(&self, cause: &Error) -> pb::Error {
        match cause {
            Error::NoGroup { .. } => error(Kind::NotLeader, cause.to_string()),
            // Only a group that is not here needs its region's number.
            _ => self.core.raft_error(0, cause),
        }
    }

    async fn outcome(&self, submit: impl FnOnce(Reply)) -> Result<(), pb::Error> {
        let (reply, outcome) = oneshot_reply();
        submit(reply);
        match outcome.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(self.refusal(&cause)),
            Err(_) => Err(error(Kind::Unknown, "the store ended before it answered")),
        }
    }

    async fn change(&self, request: pb::ChangeMembersRequest) -> Result<(), pb::Error> {
        let group = GroupId(request.group);
        let invalid = |message: String| error(Kind::Invalid, message);
        let operation: OperationId = request.operation.parse().map_err(|e| {
            invalid(format!("operation '{}': {e}: 32 hexadecimal digits", request.operation))
        })?;
        let changes = request.changes.into_iter().map(change_from_pb);
        let changes = changes.collect::<Result<Vec<Change>, String>>().map_err(invalid)?;
        let view = self.led(group)?;
        for change in &changes {
            if let Change::AddVoter { store, .. } | Change::AddLearner { store, .. } = change
                && view.record.desc.on_store(*store).is_none()
            {
                self.make_room(group, *store).await?;
            }
        }
        let request = ChangeRequest { operation, changes, force: request.force };
        self.outcome(|reply| self.core.store.change_members(group, request, reply)).await
    }

    /// Has `store` make room for the region of `group`.
    async fn make_room(&self, group: GroupId, store: StoreId) -> Result<(), pb::Error> {
        let refused = |why: String| {
            let what = format!("store {store} cannot take a replica of group {group}: {why}");
            error(Kind::Refused, what)
        };
        let regions = self.core.machine.regions();
        let Some(meta) = regions.iter().find(|meta| meta.group == group) else {
            return Err(refused("its region is not known here".to_owned()));
        };
        let Some(address) = self.core.directory.address(store) else {
            return Err(refused("no such store: see `kv stores`".to_owned()));
        };
        let request = pb::HostRegionRequest { region: Some(region_to_pb(meta, None)) };
        let hosted = tokio::time::timeout(HOST_TIMEOUT, host_at(&address, request)).await;
        match hosted {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => Err(refused(error.message)),
            Ok(Err(why)) => Err(refused(format!("{address}: {why}"))),
            Err(_) => Err(refused(format!("{address}: no answer in {HOST_TIMEOUT:?}"))),
        }
    }

    async fn host(&self, region: pb::Region) -> Result<(), pb::Error> {
        let meta = meta_from_pb(region).map_err(|why| error(Kind::Invalid, why))?;
        let same = |known: &RegionMeta| known.region == meta.region && known.group == meta.group;
        let clashes = |known: &RegionMeta| {
            known.region == meta.region
                || known.group == meta.group
                || known.overlaps(&meta.start, &meta.end)
        };
        let regions = self.core.machine.regions();
        if regions.iter().any(same) {
            return Ok(());
        }
        if let Some(known) = regions.iter().find(|known| clashes(known)) {
            let (region, group) = (known.region, known.group);
            let why = format!("region {region} of group {group} is in its place");
            return Err(error(Kind::Refused, why));
        }
        // Syncs files: not on a network thread.
        let machine = Arc::clone(&self.core.machine);
        let created = tokio::task::spawn_blocking(move || machine.create_region(&meta)).await;
        match created.expect("creating a region does not panic") {
            Ok(()) => Ok(()),
            Err(fatal) => Err(error(Kind::Closed, fatal.to_string())),
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn describe(
        &self,
        request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeResponse>, Status> {
        self.core.check_cluster(request.metadata())?;
        let wanted = request.into_inner().group;
        let store = self.core.store.clone();
        // Waits for the shards: not on a network thread.
        let statuses = tokio::task::spawn_blocking(move || store.describe()).await;
        let statuses = statuses.expect("describing does not panic");
        let regions = self.core.machine.regions();
        let regions: BTreeMap<GroupId, u64> = regions.iter().map(|m| (m.group, m.region)).collect();
        let replicas = statuses
            .iter()
            .filter(|status| wanted == 0 || status.group.0 == wanted)
            .filter_map(|status| {
                let view = self.core.store.group(status.group)?;
                let region = regions.get(&status.group).copied().unwrap_or_default();
                Some(state_to_pb(status, &view, region))
            })
            .collect();
        let store = self.core.directory.store().0;
        Ok(Response::new(pb::DescribeResponse { store, replicas }))
    }

    async fn change_members(&self, request: Request<pb::ChangeMembersRequest>) -> Answer {
        self.core.check_cluster(request.metadata())?;
        answer(self.change(request.into_inner()).await)
    }

    async fn transfer_leader(&self, request: Request<pb::TransferLeaderRequest>) -> Answer {
        self.core.check_cluster(request.metadata())?;
        let pb::TransferLeaderRequest { group, to } = request.into_inner();
        let (group, to) = (GroupId(group), ReplicaId(to));
        if let Err(error) = self.led(group) {
            return answer(Err(error));
        }
        answer(self.outcome(|reply| self.core.store.transfer_leader(group, to, reply)).await)
    }

    async fn host_region(&self, request: Request<pb::HostRegionRequest>) -> Answer {
        self.core.check_cluster(request.metadata())?;
        answer(self.host(request.into_inner().region.unwrap_or_default()).await)
    }
}

async fn host_at(
    address: &str,
    request: pb::HostRegionRequest,
) -> Result<Option<pb::Error>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let answer = AdminClient::new(channel).host_region(request).await;
    answer.map(|answer| answer.into_inner().error).map_err(|status| status.message().to_owned())
}

fn change_from_pb(change: pb::Change) -> Result<Change, String> {
    Ok(match change.what.ok_or("a change without a part")? {
        What::AddVoter(pb::Newcomer { replica, store }) => {
            Change::AddVoter { replica: ReplicaId(replica), store: StoreId(store) }
        }
        What::AddLearner(pb::Newcomer { replica, store }) => {
            Change::AddLearner { replica: ReplicaId(replica), store: StoreId(store) }
        }
        What::Promote(replica) => Change::Promote(ReplicaId(replica)),
        What::Demote(replica) => Change::Demote(ReplicaId(replica)),
        What::Remove(replica) => Change::Remove(ReplicaId(replica)),
        What::SetPriority(pb::NewPriority { replica, priority }) => {
            Change::SetPriority { replica: ReplicaId(replica), priority: Priority(priority) }
        }
        What::Cancel(operation) => {
            let parsed = operation.parse().map_err(|e| format!("operation '{operation}': {e}"))?;
            Change::Cancel(parsed)
        }
    })
}

/// A region as the public contract has it; the error says what is wrong with it.
fn meta_from_pb(region: pb::Region) -> Result<RegionMeta, String> {
    let replicas = region.replicas.into_iter().map(|r| flotilla_placement::pb::Replica {
        replica: r.replica,
        store: r.store,
        role: r.role,
    });
    let epoch = region.epoch.map(|epoch| flotilla_placement::pb::Epoch {
        version: epoch.version,
        members: epoch.members,
    });
    region_meta(flotilla_placement::pb::Region {
        region: region.region,
        group: region.group,
        start: region.start,
        end: region.end,
        epoch,
        replicas: replicas.collect(),
    })
}

fn state_to_pb(status: &ReplicaStatus, view: &GroupView, region: u64) -> pb::ReplicaState {
    let desc = &view.record.desc;
    let member = |r: &ReplicaDesc| pb::Member {
        replica: r.replica.0,
        store: r.store.0,
        role: r.role.name().to_owned(),
        priority: desc.priority(r.replica).0,
    };
    let operation = desc.membership.pending.as_ref().map(|p| p.operation.to_string());
    let leader = status.leader.map_or((0, 0), |leader| (leader.replica.0, leader.store.0));
    pb::ReplicaState {
        group: status.group.0,
        region,
        replica: status.replica.0,
        role: status.role.name().to_owned(),
        term: status.term,
        leader: leader.0,
        leader_store: leader.1,
        commit: status.commit,
        applied: status.applied,
        persisted: status.persisted,
        durable_applied: status.durable_applied,
        first_index: status.first_index,
        last_index: status.last_index,
        cache_bytes: status.cache_bytes as u64,
        waiting_proposals: status.waiting_proposals as u64,
        waiting_reads: status.waiting_reads as u64,
        ticks_silent: status.ticks_silent as u64,
        ticks_to_campaign: status.ticks_to_campaign as u64,
        transfer_to: status.transfer_to.map_or(0, |to| to.0),
        damage: status.damage.clone().unwrap_or_default(),
        members: desc.replicas.iter().map(member).collect(),
        members_version: desc.membership.version,
        replica_max: desc.replica_max().0,
        operation: operation.unwrap_or_default(),
        peers: status
            .peers
            .iter()
            .map(|peer| pb::Progress {
                replica: peer.replica.0,
                store: peer.store.0,
                state: peer.state.to_owned(),
                matched: peer.matched,
                next: peer.next,
                in_flight: peer.in_flight as u64,
                ticks_silent: peer.ticks_silent,
            })
            .collect(),
    }
}
