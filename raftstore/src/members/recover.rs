//! Recovery of a group whose majority is lost for good, without risk that the lost ones come back
//! into it (SOFAJRaft's `resetPeers`, made safe to repeat).
//!
//! 1. The operator names the stores that are lost, and replicas on others that take no part any more, and
//!    chooses the replica that goes on: of those that are left the one whose log ends last, by (term,
//!    index), holds whatever any of them holds.
//! 2. Its log counts as committed up to its end. One more entry, of the next term, has the members from
//!    then on: this replica as the only voter, and for each other member that is left (and was to stay) a
//!    new replica on the same store, with the same priority, which comes up by a snapshot.
//! 3. That entry, the term and the record are *one* log write (`replica/recover.rs` on a running store,
//!    `crate::offline` on a stopped one), so there is no state in between. Nobody is told before it is durable.
//! 4. Whoever else was a member has left: the group's replicas refuse his messages, and tell him so. The
//!    versions and ids of the members jump, so that nothing that the lost ones may have done among
//!    themselves meanwhile looks newer, or takes the same id. The members keep the recoveries that they come from:
//!    where a group went on twice, by two operators, neither half ends the other ([`GroupDesc::parts_from`]).
//!
//! What only the lost replicas had is lost, acknowledged or not: nobody can know how much that is.

use super::{
    ChangeRefusal, GroupDesc, MEMBERS_MAX, OperationId, PendingChange, Priority, Recovery,
    ReplicaDesc, ReplicaRole, remember,
};
use crate::types::{ReplicaId, StoreId};

/// Changes of the members that the lost ones may have made unseen.
const VERSIONS_SKIPPED: u64 = 1_000_000;
/// Ids that they may have given out: one change takes some that are 2³² ahead at most. An id below is of one
/// who has left, above of one who may be a member soon.
const IDS_SKIPPED: u64 = 1 << 36;
/// A replica that has been away for more of them is left to the operator.
const RECOVERIES_KEPT: usize = 64;
/// How far above the replica's own the largest known id may be. It may have missed changes and
/// recoveries, each of which may take ids far above the last.
const IDS_AHEAD_MAX: u64 = 1 << 44;

/// An operator's order to go on without the stores that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverRequest {
    /// The operator's id: sent again with the same id it is not done twice.
    pub operation: OperationId,
    /// The stores that never come back.
    pub lost: Vec<StoreId>,
    /// The group's replicas on other stores that take no part any more: damaged, or destroyed while they were
    /// being rebuilt. Others take their places.
    pub gone: Vec<ReplicaId>,
    /// The largest replica id that is known anywhere, at most 2⁴⁴ above the group's own, which is taken
    /// into account anyway.
    pub replica_max: ReplicaId,
}

impl RecoverRequest {
    /// Whether nobody counts on `member` any more.
    pub(crate) fn gives_up(&self, member: &ReplicaDesc) -> bool {
        self.lost.contains(&member.store) || self.gone.contains(&member.replica)
    }
}

impl GroupDesc {
    /// Whether the voters on other stores than `lost` can decide, in both halves of a joint
    /// configuration.
    #[must_use]
    pub fn decides_without(&self, lost: &[StoreId]) -> bool {
        self.has_quorum(|member| !lost.contains(&member.store))
    }
}

/// The members once `me` goes on without the lost stores.
pub(crate) fn recovered(
    desc: &GroupDesc,
    me: ReplicaId,
    request: &RecoverRequest,
) -> Result<GroupDesc, ChangeRefusal> {
    let RecoverRequest { operation, lost, replica_max, .. } = request;
    let own = desc.replica(me).ok_or(ChangeRefusal::NotMember { replica: me })?;
    if request.gives_up(&own) {
        return Err(ChangeRefusal::OnLostStore { store: own.store });
    }
    if desc.has_quorum(|member| !request.gives_up(member)) {
        return Err(ChangeRefusal::NothingLost);
    }
    if operation.is_reserved() {
        return Err(ChangeRefusal::OperationReserved { operation: *operation });
    }
    if desc.membership.operations.contains(operation) {
        return Err(ChangeRefusal::OperationUsed { operation: *operation });
    }
    let known = desc.replica_max();
    if replica_max.0.saturating_sub(known.0) > IDS_AHEAD_MAX {
        return Err(ChangeRefusal::IdsFar { replica: *replica_max, replica_max: known });
    }
    let used = known.max(*replica_max);
    if used.0 > u64::MAX - IDS_SKIPPED - MEMBERS_MAX as u64 {
        return Err(ChangeRefusal::IdsUsedUp { replica_max: used });
    }
    let mut next = desc.clone();
    remember(&mut next, *operation);
    let membership = &mut next.membership;
    membership.recoveries.push(Recovery { operation: *operation, survivor: me });
    let surplus = membership.recoveries.len().saturating_sub(RECOVERIES_KEPT);
    membership.recoveries.drain(..surplus);
    membership.version += VERSIONS_SKIPPED;
    let mut id = used.0 + IDS_SKIPPED;
    membership.replica_max = ReplicaId(id);
    // Whoever goes on alone must be able to lead.
    membership
        .priorities
        .retain(|replica, priority| *replica == me && *priority != Priority::NEVER);
    next.replicas = vec![ReplicaDesc { role: ReplicaRole::Voter, ..own }];
    let stays = |r: &&ReplicaDesc| !lost.contains(&r.store) && r.role != ReplicaRole::Outgoing;
    for other in desc.replicas.iter().filter(stays) {
        // A store may have two: one gives way.
        if next.on_store(other.store).is_none() {
            id += 1;
            let role = match other.role {
                ReplicaRole::Learner | ReplicaRole::Demoting => ReplicaRole::Learner,
                _ => ReplicaRole::Joining,
            };
            let replica = ReplicaId(id);
            next.replicas.push(ReplicaDesc { replica, store: other.store, role });
            if let Some(priority) = desc.membership.priorities.get(&other.replica) {
                next.membership.priorities.insert(replica, *priority);
            }
        }
    }
    next.membership.replica_max = ReplicaId(id);
    let joins = next.replicas.iter().any(|r| r.role == ReplicaRole::Joining);
    let pending = PendingChange { operation: *operation, force: true, ..PendingChange::default() };
    next.membership.pending = joins.then(|| Box::new(pending));
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Live, may_switch};
    use crate::types::GroupId;
    use ReplicaRole::{Demoting, Incoming, Joining, Learner, Outgoing, Voter};

    fn group(members: &[(u64, u64, ReplicaRole)]) -> GroupDesc {
        let member = |(replica, store, role): &(u64, u64, ReplicaRole)| ReplicaDesc {
            replica: ReplicaId(*replica),
            store: StoreId(*store),
            role: *role,
        };
        let mut desc = GroupDesc::new(GroupId(1), members.iter().map(member).collect());
        desc.membership.version = 3;
        desc
    }

    fn request(lost: &[u64]) -> RecoverRequest {
        RecoverRequest {
            operation: OperationId(7),
            gone: Vec::new(),
            lost: lost.iter().map(|store| StoreId(*store)).collect(),
            replica_max: ReplicaId(50),
        }
    }

    #[test]
    fn one_goes_on_and_new_replicas_take_the_places_of_those_that_are_left() {
        let mut desc = group(&[
            (1, 1, Voter),
            (2, 2, Voter),
            (3, 3, Voter),
            (4, 4, Voter),
            (5, 5, Voter),
            (6, 6, Learner),
        ]);
        desc.membership.priorities =
            [(ReplicaId(1), Priority(9)), (ReplicaId(4), Priority(0)), (ReplicaId(5), Priority(3))]
                .into();
        let next = recovered(&desc, ReplicaId(4), &request(&[1, 2, 3])).unwrap();
        let expected =
            group(&[(4, 4, Voter), (IDS_SKIPPED + 51, 5, Joining), (IDS_SKIPPED + 52, 6, Learner)]);
        assert_eq!(next.replicas, expected.replicas);
        assert_eq!(next.membership.version, 1_000_004);
        assert_eq!(next.replica_max(), ReplicaId(IDS_SKIPPED + 52));
        // The one that goes on must be able to lead; who takes a place has its priority.
        assert_eq!(next.membership.priorities, [(ReplicaId(IDS_SKIPPED + 51), Priority(3))].into());
        assert_eq!(next.membership.pending.as_ref().map(|p| p.operation), Some(OperationId(7)));
        for gone in [1, 2, 3, 5, 6, 51, IDS_SKIPPED + 50] {
            assert!(next.has_left(ReplicaId(gone)), "{gone}");
        }
        // Alone: nobody is to join.
        let alone = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)]);
        let next = recovered(&alone, ReplicaId(3), &request(&[1, 2])).unwrap();
        assert_eq!((next.replicas.len(), next.membership.pending), (1, None));
    }

    #[test]
    fn those_who_may_not_lead_take_their_places_all_the_same() {
        let mut desc = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter), (4, 4, Voter)]);
        desc.membership.priorities = [(ReplicaId(4), Priority::NEVER)].into();
        let next = recovered(&desc, ReplicaId(1), &request(&[2, 3])).unwrap();
        assert_eq!(
            next.membership.priorities,
            [(ReplicaId(IDS_SKIPPED + 51), Priority::NEVER)].into()
        );
        let live = Live { me: ReplicaId(1), is_live: &|_| true };
        assert!(may_switch(&next, &live), "the new one becomes a voter");
    }

    /// Two operators, each of whom takes the other's store for lost; one of them then changes the members.
    #[test]
    fn a_group_that_went_on_twice_has_two_halves() {
        let three = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)]);
        let go_on = |desc: &GroupDesc, me: u64, lost: &[u64], operation: u128| {
            let operation = OperationId(operation);
            recovered(desc, ReplicaId(me), &RecoverRequest { operation, ..request(lost) }).unwrap()
        };
        let (one, two) = (go_on(&three, 1, &[2, 3], 7), go_on(&three, 2, &[1, 3], 8));
        let mut later = one.clone();
        later.membership.version += 5;
        assert!(two.parts_from(&later) && later.parts_from(&two));
        assert!(!three.parts_from(&later), "who took no part follows the later one");
        assert!(!one.parts_from(&later));
        later.replicas.clone_from(&three.replicas);
        let again = go_on(&later, 1, &[2, 3], 9);
        assert!(!later.parts_from(&again) && again.parts_from(&later) && two.parts_from(&again));
    }

    #[test]
    fn ids_never_wrap_around() {
        let three = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)]);
        let after = |desc: &GroupDesc, replica_max: u64| {
            let request = RecoverRequest { replica_max: ReplicaId(replica_max), ..request(&[1]) };
            let request = RecoverRequest { lost: vec![StoreId(1), StoreId(2)], ..request };
            recovered(desc, ReplicaId(3), &request).map(|next| next.replica_max().0)
        };
        let far = 3 + IDS_AHEAD_MAX;
        let refused = |replica: u64| {
            Err(ChangeRefusal::IdsFar { replica: ReplicaId(replica), replica_max: ReplicaId(3) })
        };
        assert_eq!(after(&three, far), Ok(far + IDS_SKIPPED));
        assert_eq!(after(&three, far + 1), refused(far + 1));
        assert_eq!(after(&three, u64::MAX), refused(u64::MAX));
        // A group that has such ids already.
        let mut last = three;
        for (used, left) in [(u64::MAX, false), (u64::MAX - IDS_SKIPPED, false), (1 << 63, true)] {
            last.membership.replica_max = ReplicaId(used);
            assert_eq!(after(&last, 5).is_ok(), left, "{used}");
            assert_eq!(after(&last, used).is_ok(), left, "{used}");
        }
    }

    #[test]
    fn an_id_stands_for_one_order() {
        let mut three = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter)]);
        let of = |operation| RecoverRequest { operation, ..request(&[1, 2]) };
        let operation = OperationId::of_rebuild(ReplicaId(3));
        let reserved = ChangeRefusal::OperationReserved { operation };
        assert_eq!(recovered(&three, ReplicaId(3), &of(operation)), Err(reserved));
        let operation = OperationId(8);
        remember(&mut three, operation);
        let used = ChangeRefusal::OperationUsed { operation };
        assert_eq!(recovered(&three, ReplicaId(3), &of(operation)), Err(used));
        assert!(recovered(&three, ReplicaId(3), &of(OperationId(9))).is_ok());
    }

    #[test]
    fn whoever_may_decide_is_not_recovered() {
        let refused = |desc: &GroupDesc, me: u64, lost: &[u64]| {
            recovered(desc, ReplicaId(me), &request(lost)).unwrap_err()
        };
        let three = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter), (4, 4, Learner)]);
        assert_eq!(refused(&three, 3, &[1]), ChangeRefusal::NothingLost);
        assert_eq!(refused(&three, 3, &[4, 9]), ChangeRefusal::NothingLost);
        assert_eq!(refused(&three, 3, &[]), ChangeRefusal::NothingLost);
        assert_eq!(
            refused(&three, 3, &[1, 2, 3]),
            ChangeRefusal::OnLostStore { store: StoreId(3) }
        );
        assert_eq!(refused(&three, 9, &[1, 2]), ChangeRefusal::NotMember { replica: ReplicaId(9) });
        assert!(recovered(&three, ReplicaId(4), &request(&[1, 2, 3])).is_ok(), "a learner can");
        // Half is no majority.
        let four = group(&[(1, 1, Voter), (2, 2, Voter), (3, 3, Voter), (4, 4, Voter)]);
        assert!(recovered(&four, ReplicaId(1), &request(&[3, 4])).is_ok());
        // Of a joint configuration either half may be lost.
        let joint = group(&[(1, 1, Voter), (2, 2, Outgoing), (3, 3, Demoting), (4, 4, Incoming)]);
        assert!(joint.decides_without(&[StoreId(2)]));
        assert!(!joint.decides_without(&[StoreId(4)]));
        let next = recovered(&joint, ReplicaId(1), &request(&[4])).unwrap();
        assert!(!next.is_joint());
        assert_eq!(
            next.replicas[1..],
            group(&[(IDS_SKIPPED + 51, 3, Learner)]).replicas,
            "as it was to be"
        );
    }
}
