//! From a request to the next description, without side effects: what the leader proposes.

use super::{
    ChangeRefusal, GroupDesc, OperationId, PendingChange, Priority, ReplicaDesc, ReplicaRole,
};
use crate::types::{ReplicaId, StoreId};

/// Members of one group at most.
pub const MEMBERS_MAX: usize = 32;
/// How far above the largest id of its group a new one may be. Ids only grow: one that is mistyped must
/// not take all that are left.
const IDS_AHEAD_MAX: u64 = 1 << 32;
/// Accepted requests that a group remembers.
const OPERATIONS_KEPT: usize = 16;

/// One part of a [`ChangeRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A new voter: it learns first and votes once it has caught up.
    AddVoter {
        /// Its id, above all ids of the group so far.
        replica: ReplicaId,
        /// A store that holds no member of the group.
        store: StoreId,
    },
    /// A new learner.
    AddLearner {
        /// Its id, above all ids of the group so far.
        replica: ReplicaId,
        /// A store that holds no member of the group.
        store: StoreId,
    },
    /// A learner becomes a voter, once it has caught up.
    Promote(ReplicaId),
    /// A voter becomes a learner.
    Demote(ReplicaId),
    /// A member leaves; its log and state are destroyed.
    Remove(ReplicaId),
    /// A follower gives way to a new one on its own store, with the same role: it is destroyed at
    /// once, and the new one comes up by a snapshot. For a replica that is damaged.
    Rebuild {
        /// Who is destroyed.
        replica: ReplicaId,
        /// Who comes, above all ids of the group so far.
        new: ReplicaId,
    },
    /// How much a member is wanted as the leader. A leader that is not preferred any more hands
    /// over by itself.
    SetPriority {
        /// The member.
        replica: ReplicaId,
        /// Its new priority.
        priority: Priority,
    },
    /// Gives up the request under way, while it waits for a member to catch up; what it added
    /// stays as a learner, and who was to give way leaves. Stands alone.
    Cancel(OperationId),
}

impl Change {
    fn replica(&self) -> Option<ReplicaId> {
        match self {
            Change::AddVoter { replica, .. }
            | Change::AddLearner { replica, .. }
            | Change::Promote(replica)
            | Change::Demote(replica)
            | Change::Remove(replica)
            | Change::Rebuild { replica, .. }
            | Change::SetPriority { replica, .. } => Some(*replica),
            Change::Cancel(_) => None,
        }
    }
}

/// A change of a group's members, all parts at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    /// The operator's id: sent again with the same id it is not done twice. A group remembers the
    /// last 16 ids, and not what was asked for under them: another request under a known id is taken
    /// for the one that was accepted.
    pub operation: OperationId,
    /// What is to change.
    pub changes: Vec<Change>,
    /// Accept it though no quorum of the voters that it leaves is alive.
    pub force: bool,
}

/// What the leader knows beside the description.
pub(crate) struct Live<'a> {
    /// The leader.
    pub(crate) me: ReplicaId,
    /// Whether it has heard of a member lately.
    pub(crate) is_live: &'a dyn Fn(ReplicaId) -> bool,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It was accepted before.
    Before,
    /// The description that its first entry makes.
    Next(GroupDesc),
}

/// Judges a request.
pub(crate) fn begin(
    desc: &GroupDesc,
    request: &ChangeRequest,
    live: &Live<'_>,
) -> Result<Begun, ChangeRefusal> {
    let ChangeRequest { operation, changes, force } = request;
    if desc.membership.operations.contains(operation) {
        return Ok(Begun::Before);
    }
    let mut next = desc.clone();
    remember(&mut next, *operation);
    if let Some(Change::Cancel(cancelled)) =
        changes.iter().find(|change| matches!(change, Change::Cancel(_)))
    {
        let under_way = desc.membership.pending.as_ref().map(|p| p.operation) == Some(*cancelled);
        if changes.len() > 1 || !under_way || desc.is_joint() {
            return Err(ChangeRefusal::NotCancellable { operation: *cancelled });
        }
        // Who gives way is destroyed by now, or will be.
        let gone = desc.replicas.iter().map(|r| r.replica).filter(|id| desc.gives_way(*id));
        next.membership.pending = Some(Box::new(PendingChange {
            operation: *operation,
            remove: gone.collect(),
            ..PendingChange::default()
        }));
        rename(&mut next, ReplicaRole::Joining, ReplicaRole::Learner);
        return Ok(Begun::Next(switched(next, live.me)));
    }
    let planted = crate::mutant::active("second_change_while_pending");
    if let Some(pending) = desc.membership.pending.as_ref().filter(|_| !planted) {
        return Err(ChangeRefusal::Pending { operation: pending.operation });
    }
    let mut pending =
        PendingChange { operation: *operation, force: *force, ..PendingChange::default() };
    check_shape(desc, changes)?;
    for change in changes {
        take(desc, change, &mut next, &mut pending)?;
    }
    check_spare(desc, changes, live, *force)?;
    let joins = next.replicas.iter().any(|r| r.role == ReplicaRole::Joining);
    next.membership.replica_max = next.replica_max();
    next.membership.pending = Some(Box::new(pending));
    check_quorum(&next, live, true)?;
    check_leaders(desc, &next, changes)?;
    Ok(Begun::Next(if joins { next } else { switched(next, live.me) }))
}

pub(super) fn remember(next: &mut GroupDesc, operation: OperationId) {
    let membership = &mut next.membership;
    membership.version += 1;
    membership.operations.push(operation);
    let surplus = membership.operations.len().saturating_sub(OPERATIONS_KEPT);
    membership.operations.drain(..surplus);
}

fn check_shape(desc: &GroupDesc, changes: &[Change]) -> Result<(), ChangeRefusal> {
    if changes.is_empty() {
        return Err(ChangeRefusal::Empty);
    }
    let members = desc.replicas.len() + changes.len();
    if members > MEMBERS_MAX {
        return Err(ChangeRefusal::TooMany { members });
    }
    let named: Vec<ReplicaId> = changes.iter().filter_map(Change::replica).collect();
    let twice = |at: usize| named[..at].contains(&named[at]);
    match (0..named.len()).find(|at| twice(*at)) {
        Some(at) => Err(ChangeRefusal::Twice { replica: named[at] }),
        None => Ok(()),
    }
}

/// Adds one part to what is to be.
fn take(
    desc: &GroupDesc,
    change: &Change,
    next: &mut GroupDesc,
    pending: &mut PendingChange,
) -> Result<(), ChangeRefusal> {
    match *change {
        Change::AddVoter { replica, store } => {
            add(desc, next, ReplicaDesc { replica, store, role: ReplicaRole::Joining })
        }
        Change::AddLearner { replica, store } => {
            add(desc, next, ReplicaDesc { replica, store, role: ReplicaRole::Learner })
        }
        Change::Promote(replica) => {
            let role = member(desc, replica)?.role;
            if role != ReplicaRole::Learner {
                return Err(ChangeRefusal::WrongRole { replica, role });
            }
            let learner = next.replicas.iter_mut().find(|r| r.replica == replica);
            learner.expect("the same members").role = ReplicaRole::Joining;
            Ok(())
        }
        Change::Demote(replica) => {
            let role = member(desc, replica)?.role;
            if role != ReplicaRole::Voter {
                return Err(ChangeRefusal::WrongRole { replica, role });
            }
            pending.demote.push(replica);
            Ok(())
        }
        Change::Remove(replica) => {
            member(desc, replica)?;
            pending.remove.push(replica);
            Ok(())
        }
        Change::Rebuild { replica, new } => {
            let old = member(desc, replica)?;
            let role = match old.role {
                ReplicaRole::Voter => ReplicaRole::Joining,
                role => role,
            };
            check_unused(desc, next, new)?;
            next.replicas.push(ReplicaDesc { replica: new, store: old.store, role });
            if let Some(priority) = desc.membership.priorities.get(&replica) {
                next.membership.priorities.insert(new, *priority);
            }
            pending.remove.push(replica);
            Ok(())
        }
        Change::SetPriority { replica, priority } => {
            member(desc, replica)?;
            if !priority.is_valid() {
                return Err(ChangeRefusal::WrongPriority { replica, priority });
            }
            next.membership.priorities.insert(replica, priority);
            Ok(())
        }
        Change::Cancel(operation) => Err(ChangeRefusal::NotCancellable { operation }),
    }
}

fn member(desc: &GroupDesc, replica: ReplicaId) -> Result<ReplicaDesc, ChangeRefusal> {
    desc.replica(replica).ok_or(ChangeRefusal::NotMember { replica })
}

fn add(desc: &GroupDesc, next: &mut GroupDesc, new: ReplicaDesc) -> Result<(), ChangeRefusal> {
    let ReplicaDesc { replica, store, .. } = new;
    check_unused(desc, next, replica)?;
    // Not even beside a member that leaves: a store holds one replica of a group.
    if store == StoreId(0) || next.on_store(store).is_some() {
        return Err(ChangeRefusal::StoreTaken { store, replica });
    }
    next.replicas.push(new);
    Ok(())
}

fn check_unused(
    desc: &GroupDesc,
    next: &GroupDesc,
    replica: ReplicaId,
) -> Result<(), ChangeRefusal> {
    let replica_max = desc.replica_max();
    if replica <= replica_max {
        return Err(ChangeRefusal::ReplicaUsed { replica, replica_max });
    }
    if replica.0 - replica_max.0 > IDS_AHEAD_MAX {
        return Err(ChangeRefusal::ReplicaFar { replica, replica_max });
    }
    match next.replica(replica) {
        Some(_) => Err(ChangeRefusal::Twice { replica }),
        None => Ok(()),
    }
}

/// Whether the group can decide without those that are rebuilt: they are destroyed while they still
/// have their votes.
fn check_spare(
    desc: &GroupDesc,
    changes: &[Change],
    live: &Live<'_>,
    force: bool,
) -> Result<(), ChangeRefusal> {
    let rebuilt = |change: &Change| match change {
        Change::Rebuild { replica, .. } => Some(*replica),
        _ => None,
    };
    let rebuilt: Vec<ReplicaId> = changes.iter().filter_map(rebuilt).collect();
    if rebuilt.contains(&live.me) {
        return Err(ChangeRefusal::RebuildsLeader { replica: live.me });
    }
    let voters: Vec<ReplicaId> =
        desc.replicas.iter().filter(|r| r.role.votes()).map(|r| r.replica).collect();
    let lives =
        |id: &&ReplicaId| !rebuilt.contains(id) && (**id == live.me || (live.is_live)(**id));
    let alive = voters.iter().filter(lives).count();
    if rebuilt.is_empty() || alive * 2 > voters.len() || force {
        return Ok(());
    }
    Err(ChangeRefusal::QuorumLost { voters: voters.len(), live: alive })
}

/// The voters that `desc` is on its way to.
fn lasting_voters(desc: &GroupDesc) -> Vec<&ReplicaDesc> {
    let pending = desc.membership.pending.as_deref();
    let leaves = |id| pending.is_some_and(|p| p.demote.contains(&id) || p.remove.contains(&id));
    let votes = |r: &&ReplicaDesc| r.role.votes() || r.role == ReplicaRole::Joining;
    desc.replicas.iter().filter(votes).filter(|r| !leaves(r.replica)).collect()
}

/// Whether a quorum of the voters of `next` may lead. Fewer may have been able to before, after a recovery or a
/// request that was cancelled: then a request that forbids nobody to lead must not make their part smaller.
fn check_leaders(
    desc: &GroupDesc,
    next: &GroupDesc,
    changes: &[Change],
) -> Result<(), ChangeRefusal> {
    let of = |desc: &GroupDesc| {
        let voters = lasting_voters(desc);
        let able = voters.iter().filter(|r| desc.priority(r.replica) != Priority::NEVER).count();
        (able, voters.len())
    };
    let ((before, of_before), (able, voters)) = (of(desc), of(next));
    let forbids = |c: &Change| matches!(c, Change::SetPriority { priority: Priority::NEVER, .. });
    let keeps = able * of_before >= before * voters && !changes.iter().any(forbids);
    if able * 2 > voters || keeps {
        return Ok(());
    }
    Err(ChangeRefusal::TooFewLead { voters, able })
}

/// Whether the voters that `desc` is on its way to can decide. Members that still learn count as
/// alive for a request, `joiners_live`: the switch waits for them.
fn check_quorum(
    desc: &GroupDesc,
    live: &Live<'_>,
    joiners_live: bool,
) -> Result<(), ChangeRefusal> {
    let voters = lasting_voters(desc);
    if voters.is_empty() {
        return Err(ChangeRefusal::NoVoter);
    }
    let lives = |r: &&&ReplicaDesc| {
        (joiners_live && r.role == ReplicaRole::Joining)
            || r.replica == live.me
            || (live.is_live)(r.replica)
    };
    let alive = voters.iter().filter(lives).count();
    if alive * 2 > voters.len() || desc.membership.pending.as_ref().is_some_and(|p| p.force) {
        return Ok(());
    }
    Err(ChangeRefusal::QuorumLost { voters: voters.len(), live: alive })
}

/// Whether the voters that the request under way leads to can decide now.
pub(crate) fn may_switch(desc: &GroupDesc, live: &Live<'_>) -> bool {
    check_quorum(desc, live, false).is_ok()
}

/// The next description once all that join have caught up.
pub(crate) fn switch(desc: &GroupDesc, me: ReplicaId) -> GroupDesc {
    let mut next = desc.clone();
    next.membership.version += 1;
    switched(next, me)
}

fn switched(mut next: GroupDesc, me: ReplicaId) -> GroupDesc {
    let Some(pending) = next.membership.pending.clone() else { return next };
    let PendingChange { demote, remove, .. } = *pending;
    let leaves = |r: &ReplicaDesc| demote.contains(&r.replica) || remove.contains(&r.replica);
    let moves = |r: &&ReplicaDesc| {
        r.role == ReplicaRole::Joining || (r.role == ReplicaRole::Voter && leaves(r))
    };
    let own_leaves = next.replicas.iter().any(|r| r.replica == me && leaves(r));
    let joint = next.replicas.iter().filter(moves).count() > 1 || own_leaves;
    for member in &mut next.replicas {
        if remove.contains(&member.replica) && member.role == ReplicaRole::Voter {
            member.role = ReplicaRole::Outgoing;
        } else if demote.contains(&member.replica) && member.role == ReplicaRole::Voter {
            member.role = ReplicaRole::Demoting;
        } else if member.role == ReplicaRole::Joining && !remove.contains(&member.replica) {
            member.role = ReplicaRole::Incoming;
        }
    }
    next.replicas.retain(|r| !(r.role.learns() && remove.contains(&r.replica)));
    if joint { next } else { settled(next) }
}

/// The description behind the joint one.
pub(crate) fn leave(desc: &GroupDesc) -> GroupDesc {
    let mut next = desc.clone();
    next.membership.version += 1;
    settled(next)
}

fn settled(mut next: GroupDesc) -> GroupDesc {
    next.replicas.retain(|r| r.role != ReplicaRole::Outgoing);
    rename(&mut next, ReplicaRole::Incoming, ReplicaRole::Voter);
    rename(&mut next, ReplicaRole::Demoting, ReplicaRole::Learner);
    next.membership.pending = None;
    let GroupDesc { replicas, membership, .. } = &mut next;
    let lives = |id: &ReplicaId| replicas.iter().any(|r| r.replica == *id);
    membership.priorities.retain(|id, priority| lives(id) && *priority != Priority::OFF);
    next
}

fn rename(desc: &mut GroupDesc, from: ReplicaRole, to: ReplicaRole) {
    desc.replicas.iter_mut().filter(|r| r.role == from).for_each(|r| r.role = to);
}

#[cfg(test)]
#[path = "change_test.rs"]
mod tests;
