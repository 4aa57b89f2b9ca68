//! The operator's service of a store (`client/proto/admin.proto`).
//!
//! A new member begins with the leader's invitation and then asks for a snapshot, which brings its
//! region with it: a store that is to get one need not be asked before.

use super::core::Core;
use super::refuse::error;
use crate::directory::Directory;
use crate::kv::KvStateMachine;
use crate::placement_agent::order::oneshot_reply;
use flotilla_client::pb;
use flotilla_client::pb::admin_server::Admin;
use flotilla_client::pb::change::What;
use flotilla_client::pb::error::Kind;
use flotilla_raftstore::{
    Answer as Answered, Change, ChangeRequest, Error, GroupId, GroupView, OperationId, Priority,
    RecoverRequest, ReplicaDesc, ReplicaId, ReplicaStatus, Reply, Store, StoreId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

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

    async fn outcome(&self, submit: impl FnOnce(Reply)) -> Result<Answered, pb::Error> {
        let (reply, outcome) = oneshot_reply();
        submit(reply);
        match outcome.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => Err(self.refusal(&cause)),
            Err(_) => Err(error(Kind::Unknown, "the store ended before it answered")),
        }
    }

    async fn change(&self, request: pb::ChangeMembersRequest) -> Result<(), pb::Error> {
        let group = GroupId(request.group);
        let invalid = |message: String| error(Kind::Invalid, message);
        let operation = operation(&request.operation).map_err(invalid)?;
        let changes = request.changes.into_iter().map(change_from_pb);
        let changes = changes.collect::<Result<Vec<Change>, String>>().map_err(invalid)?;
        let view = self.led(group)?;
        let desc = &view.record.desc;
        // An order that was carried out before is answered so, whatever has become of its stores.
        let known = desc.membership.operations.contains(&operation);
        for change in changes.iter().filter(|_| !known) {
            let store = match *change {
                Change::AddVoter { store, .. } | Change::AddLearner { store, .. } => Some(store),
                Change::Rebuild { replica, .. } | Change::Promote(replica) => {
                    desc.replica(replica).map(|member| member.store)
                }
                _ => None,
            };
            let Some(store) = store else { continue };
            let directory = &self.core.directory;
            let member = desc.on_store(store).is_some();
            let why = if directory.is_lost(store) {
                "it was given up as lost and does not come back: choose another"
            } else if !member && directory.address(store).is_none() {
                "no such store"
            } else {
                continue;
            };
            let what = format!(
                "store {store} cannot take a replica of group {group}: {why}: see `kv stores`"
            );
            return Err(error(Kind::Refused, what));
        }
        let request = ChangeRequest { operation, changes, force: request.force };
        self.outcome(|reply| self.core.store.change_members(group, request, reply)).await.map(drop)
    }

    async fn transfer(&self, request: pb::TransferLeaderRequest) -> Result<(), pb::Error> {
        let (group, to) = (GroupId(request.group), ReplicaId(request.to));
        self.led(group)?;
        self.outcome(|reply| self.core.store.transfer_leader(group, to, reply)).await.map(drop)
    }

    async fn recover_group(&self, request: pb::RecoverRequest) -> Result<(), pb::Error> {
        let group = GroupId(request.group);
        let operation = operation(&request.operation).map_err(|why| error(Kind::Invalid, why))?;
        if self.core.store.group(group).is_none() {
            let own = self.core.directory.store();
            let what = format!("store {own} has no replica of group {group}");
            return Err(error(Kind::Refused, what));
        }
        let lost = request.lost_stores.into_iter().map(StoreId).collect();
        let gone = request.gone_replicas.into_iter().map(ReplicaId).collect();
        let replica_max = ReplicaId(request.replica_max);
        let request = RecoverRequest { operation, lost, gone, replica_max };
        self.outcome(|reply| self.core.store.recover(group, request, reply)).await.map(drop)
    }

    async fn make_snapshot(
        &self,
        request: pb::SnapshotRequest,
    ) -> Result<pb::SnapshotResponse, pb::Error> {
        let (group, own) = (GroupId(request.group), self.core.directory.store());
        match request.store {
            0 => drop(self.led(group)?),
            store if store != own.0 => {
                return Err(error(Kind::Refused, format!("this is store {own}, not {store}")));
            }
            _ if self.core.store.group(group).is_none() => {
                let what = format!("store {own} has no replica of group {group}");
                return Err(error(Kind::Refused, what));
            }
            _ => {}
        }
        match self.outcome(|reply| self.core.store.snapshot(group, reply)).await? {
            Answered::SnapshotMade { index, bytes } => {
                Ok(pb::SnapshotResponse { error: None, store: own.0, index, bytes })
            }
            _ => Err(error(Kind::Unknown, "the answer is for another request")),
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
        answer(self.transfer(request.into_inner()).await)
    }

    async fn recover(&self, request: Request<pb::RecoverRequest>) -> Answer {
        self.core.check_cluster(request.metadata())?;
        answer(self.recover_group(request.into_inner()).await)
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        self.core.check_cluster(request.metadata())?;
        let made = self.make_snapshot(request.into_inner()).await;
        let refused = |error| pb::SnapshotResponse { error: Some(error), ..Default::default() };
        Ok(Response::new(made.unwrap_or_else(refused)))
    }
}

fn operation(text: &str) -> Result<OperationId, String> {
    text.parse().map_err(|e| format!("operation '{text}': {e}: 32 hexadecimal digits"))
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
        What::Rebuild(pb::Rebuild { replica, new }) => {
            Change::Rebuild { replica: ReplicaId(replica), new: ReplicaId(new) }
        }
        What::SetPriority(pb::NewPriority { replica, priority }) => {
            Change::SetPriority { replica: ReplicaId(replica), priority: Priority(priority) }
        }
        What::Cancel(cancelled) => Change::Cancel(operation(&cancelled)?),
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
        last_term: status.last_term,
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
        installing: status.installing,
        asleep: status.asleep,
        lease_ms: status.lease_ms,
        proposal_bytes: status.proposal_bytes as u64,
        apply_bytes: status.apply_bytes as u64,
        parked: status.parked,
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
                paused: peer.paused,
            })
            .collect(),
    }
}
