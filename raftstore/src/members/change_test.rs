use super::*;
use crate::types::GroupId;

const ALL_LIVE: Live<'static> = Live { me: ReplicaId(1), is_live: &|_| true };

fn desc(members: &[(u64, ReplicaRole)]) -> GroupDesc {
    let member = |(id, role): &(u64, ReplicaRole)| ReplicaDesc {
        replica: ReplicaId(*id),
        store: StoreId(*id),
        role: *role,
    };
    GroupDesc::new(GroupId(1), members.iter().map(member).collect())
}

fn voters(ids: std::ops::RangeInclusive<u64>) -> GroupDesc {
    desc(&ids.map(|id| (id, ReplicaRole::Voter)).collect::<Vec<_>>())
}

fn roles(desc: &GroupDesc) -> Vec<(u64, ReplicaRole)> {
    desc.replicas.iter().map(|r| (r.replica.0, r.role)).collect()
}

fn request(operation: u128, changes: &[Change]) -> ChangeRequest {
    let operation = OperationId(operation);
    ChangeRequest { operation, changes: changes.to_vec(), force: false }
}

fn add_voter(id: u64, store: u64) -> Change {
    Change::AddVoter { replica: ReplicaId(id), store: StoreId(store) }
}

fn add_learner(id: u64, store: u64) -> Change {
    Change::AddLearner { replica: ReplicaId(id), store: StoreId(store) }
}

fn remove(id: u64) -> Change {
    Change::Remove(ReplicaId(id))
}

fn begun(desc: &GroupDesc, operation: u128, changes: &[Change]) -> GroupDesc {
    match begin(desc, &request(operation, changes), &ALL_LIVE) {
        Ok(Begun::Next(next)) => next,
        other => panic!("{other:?}"),
    }
}

fn refused(desc: &GroupDesc, changes: &[Change]) -> ChangeRefusal {
    begin(desc, &request(1, changes), &ALL_LIVE).unwrap_err()
}

#[test]
fn a_replacement_learns_first_then_switches_jointly_and_leaves() {
    use ReplicaRole::{Incoming, Joining, Outgoing, Voter};
    let next = begun(&voters(1..=3), 7, &[add_voter(4, 4), remove(3)]);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (3, Voter), (4, Joining)]);
    assert_eq!((next.membership.version, next.replica_max()), (1, ReplicaId(4)));
    let next = switch(&next, ReplicaId(1));
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (3, Outgoing), (4, Incoming)]);
    assert!(next.is_joint() && next.membership.pending.is_some());
    let next = leave(&next);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (4, Voter)]);
    assert_eq!((next.membership.version, &next.membership.pending), (3, &None));
    assert!(next.has_left(ReplicaId(3)) && !next.has_left(ReplicaId(5)));
    let again = begin(&next, &request(7, &[remove(1)]), &ALL_LIVE);
    assert_eq!(again, Ok(Begun::Before), "the same operation is not done twice");
}

#[test]
fn one_voter_is_a_simple_change_unless_it_is_the_leader() {
    use ReplicaRole::{Demoting, Learner, Outgoing, Voter};
    let next = begun(&voters(1..=3), 1, &[remove(3), add_learner(4, 4)]);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (4, Learner)]);
    let own = begun(&voters(1..=3), 1, &[remove(1)]);
    assert_eq!(roles(&own), [(1, Outgoing), (2, Voter), (3, Voter)]);
    let next = begun(&voters(1..=3), 1, &[Change::Demote(ReplicaId(1))]);
    assert_eq!(roles(&next), [(1, Demoting), (2, Voter), (3, Voter)]);
    assert_eq!(roles(&leave(&next)), [(1, Learner), (2, Voter), (3, Voter)]);
}

#[test]
fn one_at_a_time_and_a_request_that_waits_can_be_cancelled() {
    use ReplicaRole::{Learner, Voter};
    let waits = begun(&voters(1..=1), 5, &[add_voter(2, 2)]);
    let pending = ChangeRefusal::Pending { operation: OperationId(5) };
    assert_eq!(refused(&waits, &[add_learner(3, 3)]), pending);
    let cancel = |operation| Change::Cancel(OperationId(operation));
    assert!(matches!(refused(&waits, &[cancel(4)]), ChangeRefusal::NotCancellable { .. }));
    let alone = refused(&waits, &[cancel(5), remove(2)]);
    assert!(matches!(alone, ChangeRefusal::NotCancellable { .. }));
    let next = begun(&waits, 6, &[cancel(5)]);
    assert_eq!((roles(&next), next.membership.pending), (vec![(1, Voter), (2, Learner)], None));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let mut three = voters(1..=3);
    three.replicas[2].role = ReplicaRole::Learner;
    three.membership.replica_max = ReplicaId(9);
    let used = ChangeRefusal::ReplicaUsed { replica: ReplicaId(9), replica_max: ReplicaId(9) };
    let wrong = |replica, role| ChangeRefusal::WrongRole { replica: ReplicaId(replica), role };
    let cases: [(&[Change], ChangeRefusal); 9] = [
        (&[], ChangeRefusal::Empty),
        (&[add_voter(9, 5)], used),
        (
            &[remove(2), add_voter(10, 2)],
            ChangeRefusal::StoreTaken { store: StoreId(2), replica: ReplicaId(10) },
        ),
        (
            &[add_voter(10, 5), add_learner(11, 5)],
            ChangeRefusal::StoreTaken { store: StoreId(5), replica: ReplicaId(11) },
        ),
        (
            &[remove(2), Change::Demote(ReplicaId(2))],
            ChangeRefusal::Twice { replica: ReplicaId(2) },
        ),
        (&[remove(8)], ChangeRefusal::NotMember { replica: ReplicaId(8) }),
        (&[Change::Promote(ReplicaId(1))], wrong(1, ReplicaRole::Voter)),
        (&[Change::Demote(ReplicaId(3))], wrong(3, ReplicaRole::Learner)),
        (&[remove(1), remove(2)], ChangeRefusal::NoVoter),
    ];
    for (changes, refusal) in cases {
        assert_eq!(refused(&three, changes), refusal);
    }
    let many: Vec<Change> = (0..MEMBERS_MAX as u64).map(|n| add_learner(20 + n, 20 + n)).collect();
    assert_eq!(refused(&three, &many), ChangeRefusal::TooMany { members: MEMBERS_MAX + 3 });
}

#[test]
fn one_id_never_takes_all_that_are_left() {
    let mut three = voters(1..=3);
    let largest = 3 + IDS_AHEAD_MAX;
    let far = |replica, replica_max| ChangeRefusal::ReplicaFar {
        replica: ReplicaId(replica),
        replica_max: ReplicaId(replica_max),
    };
    for id in [largest - 1, largest] {
        assert_eq!(begun(&three, 1, &[add_voter(id, 4)]).replica_max(), ReplicaId(id));
    }
    let rebuild = |new| Change::Rebuild { replica: ReplicaId(2), new: ReplicaId(new) };
    for id in [largest + 1, u64::MAX] {
        for change in [add_voter(id, 4), add_learner(id, 4), rebuild(id)] {
            assert_eq!(refused(&three, &[change]), far(id, 3), "{change:?}");
        }
    }
    // Not by several parts of one request, either.
    assert_eq!(
        refused(&three, &[add_voter(largest, 4), add_learner(largest + 1, 5)]),
        far(largest + 1, 3)
    );
    // A group that has the last id already.
    three.membership.replica_max = ReplicaId(u64::MAX);
    let (replica, replica_max) = (ReplicaId(u64::MAX), ReplicaId(u64::MAX));
    let used = ChangeRefusal::ReplicaUsed { replica, replica_max };
    assert_eq!(refused(&three, &[rebuild(u64::MAX)]), used);
}

#[test]
fn the_voters_that_remain_must_have_a_live_quorum_unless_forced() {
    let three_is_dead = |replica| replica != ReplicaId(3);
    let live = Live { me: ReplicaId(1), is_live: &three_is_dead };
    let lost = ChangeRefusal::QuorumLost { voters: 2, live: 1 };
    let mut ask = request(1, &[remove(2)]);
    assert_eq!(begin(&voters(1..=3), &ask, &live), Err(lost));
    ask.force = true;
    assert!(matches!(begin(&voters(1..=3), &ask, &live), Ok(Begun::Next(_))));
    // The dead one may go; new ones count once they have caught up.
    assert!(begin(&voters(1..=3), &request(1, &[remove(3)]), &live).is_ok());
    let Ok(Begun::Next(next)) =
        begin(&voters(1..=3), &request(1, &[add_voter(4, 4), remove(2)]), &live)
    else {
        panic!("a live voter takes the place of another");
    };
    assert!(may_switch(&next, &live));
    let only_one = Live { me: ReplicaId(1), is_live: &|_| false };
    assert!(!may_switch(&next, &only_one));
}

#[test]
fn a_group_remembers_the_last_operations() {
    let mut desc = voters(1..=3);
    for operation in 1..=20 {
        let id = 10 + operation;
        desc = begun(&desc, u128::from(operation), &[add_learner(id, id)]);
        desc = begun(&desc, u128::from(operation) + 100, &[remove(id)]);
    }
    assert_eq!(desc.membership.operations.len(), OPERATIONS_KEPT);
    assert_eq!(desc.membership.operations.last(), Some(&OperationId(120)));
}

fn set_priority(id: u64, priority: i32) -> Change {
    Change::SetPriority { replica: ReplicaId(id), priority: Priority(priority) }
}

#[test]
fn priorities_are_set_in_one_entry_and_leave_with_their_member() {
    let next = begun(&voters(1..=3), 1, &[set_priority(2, 9), set_priority(3, 0)]);
    assert_eq!((next.membership.version, &next.membership.pending), (1, &None));
    let priorities = |desc: &GroupDesc| [1, 2, 3].map(|id| desc.priority(ReplicaId(id)).0);
    assert_eq!(priorities(&next), [-1, 9, 0]);
    let next = begun(&next, 2, &[set_priority(2, -1), remove(3)]);
    assert_eq!(priorities(&next), [-1, -1, -1]);
    assert!(next.membership.priorities.is_empty());
}

#[test]
fn a_quorum_must_be_allowed_to_lead() {
    let refusal = refused(&voters(1..=3), &[set_priority(1, 0), set_priority(2, 0)]);
    assert_eq!(refusal, ChangeRefusal::TooFewLead { voters: 3, able: 1 });
    let one_never = begun(&voters(1..=3), 1, &[set_priority(1, 0)]);
    let refusal = begin(&one_never, &request(2, &[remove(2)]), &ALL_LIVE).unwrap_err();
    assert_eq!(refusal, ChangeRefusal::TooFewLead { voters: 2, able: 1 });
    // After a recovery there may be fewer. They are not to become fewer still, and more is not asked at once.
    let mut few = voters(1..=3);
    few.membership.priorities.extend([2, 3].map(|id| (ReplicaId(id), Priority::NEVER)));
    let refusal = refused(&few, &[set_priority(1, 0)]);
    assert_eq!(refusal, ChangeRefusal::TooFewLead { voters: 3, able: 0 });
    let refusal = refused(&few, &[set_priority(1, 0), set_priority(3, -1)]);
    assert_eq!(refusal, ChangeRefusal::TooFewLead { voters: 3, able: 1 });
    begun(&few, 4, &[add_voter(4, 4)]);
    begun(&few, 5, &[remove(2)]);
    begun(&few, 6, &[set_priority(2, -1)]);
    few.membership.priorities.insert(ReplicaId(1), Priority::NEVER);
    begun(&few, 7, &[add_learner(4, 4), remove(3)]);
    let (replica, priority) = (ReplicaId(1), Priority(-2));
    let refusal = refused(&voters(1..=2), &[set_priority(1, -2)]);
    assert_eq!(refusal, ChangeRefusal::WrongPriority { replica, priority });
    let refusal = refused(&voters(1..=2), &[set_priority(7, 1)]);
    assert_eq!(refusal, ChangeRefusal::NotMember { replica: ReplicaId(7) });
}

/// Whoever must not lead, or is to lead rather than others, is so by its place.
#[test]
fn a_rebuilt_replicas_priority_goes_to_the_new_one() {
    let priority = Priority::NEVER;
    let set = Change::SetPriority { replica: ReplicaId(3), priority };
    let members = begun(&voters(1..=3), 7, &[set]);
    let rebuild = Change::Rebuild { replica: ReplicaId(3), new: ReplicaId(4) };
    let next = begun(&members, 8, &[rebuild]);
    let next = leave(&switch(&next, ReplicaId(1)));
    assert_eq!(next.priority(ReplicaId(4)), Priority::NEVER);
    assert_eq!(next.membership.priorities.len(), 1);
}

#[test]
fn a_rebuilt_replica_gives_way_to_a_new_one_on_its_store() {
    use ReplicaRole::{Incoming, Joining, Learner, Outgoing, Voter};
    let rebuild = |id, new| Change::Rebuild { replica: ReplicaId(id), new: ReplicaId(new) };
    let next = begun(&voters(1..=3), 7, &[rebuild(3, 4)]);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (3, Voter), (4, Joining)]);
    assert_eq!(next.replica(ReplicaId(4)).unwrap().store, StoreId(3));
    let gives_way = |desc: &GroupDesc| -> Vec<u64> {
        (1..=4).filter(|id| desc.gives_way(ReplicaId(*id))).collect()
    };
    assert_eq!(gives_way(&next), vec![3]);
    let next = switch(&next, ReplicaId(1));
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (3, Outgoing), (4, Incoming)]);
    let next = leave(&next);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (4, Voter)]);
    assert!(next.has_left(ReplicaId(3)) && gives_way(&next).is_empty());

    // Given up, the new one learns on; the old one may be destroyed by now, and leaves.
    let begun_once = begun(&voters(1..=3), 7, &[rebuild(3, 4), add_voter(5, 5)]);
    let next = begun(&begun_once, 8, &[Change::Cancel(OperationId(7))]);
    assert_eq!(roles(&next), [(1, Voter), (2, Voter), (4, Learner), (5, Learner)]);
    assert!(next.has_left(ReplicaId(3)) && next.membership.pending.is_none());

    // A learner at once.
    let members = desc(&[(1, Voter), (2, Learner)]);
    let next = begun(&members, 7, &[rebuild(2, 3)]);
    assert_eq!(roles(&next), [(1, Voter), (3, Learner)]);
    // Leaving as such is no giving way.
    assert!(gives_way(&begun(&voters(1..=3), 7, &[add_voter(4, 4), remove(3)])).is_empty());
}

#[test]
fn only_a_replica_that_can_be_spared_is_rebuilt() {
    let rebuild = |id, new| Change::Rebuild { replica: ReplicaId(id), new: ReplicaId(new) };
    let members = voters(1..=3);
    let replica = ReplicaId(1);
    assert_eq!(refused(&members, &[rebuild(1, 4)]), ChangeRefusal::RebuildsLeader { replica });
    let used = refused(&members, &[rebuild(3, 2)]);
    assert!(matches!(used, ChangeRefusal::ReplicaUsed { .. }), "{used}");
    let twice = refused(&members, &[rebuild(2, 4), rebuild(3, 4)]);
    assert_eq!(twice, ChangeRefusal::Twice { replica: ReplicaId(4) });
    let unknown = refused(&members, &[rebuild(9, 10)]);
    assert_eq!(unknown, ChangeRefusal::NotMember { replica: ReplicaId(9) });
    let both = begin(&members, &request(1, &[rebuild(2, 4), rebuild(3, 5)]), &ALL_LIVE);
    assert_eq!(both, Err(ChangeRefusal::QuorumLost { voters: 3, live: 1 }));
    // With 2 away too, nobody would be left to let the new one vote.
    let live = Live { me: ReplicaId(1), is_live: &|id| id != ReplicaId(2) };
    let lost = ChangeRefusal::QuorumLost { voters: 3, live: 1 };
    assert_eq!(begin(&members, &request(1, &[rebuild(3, 4)]), &live), Err(lost));
    let forced = ChangeRequest { force: true, ..request(1, &[rebuild(3, 4)]) };
    assert!(begin(&members, &forced, &live).is_ok());
    // 3 is the one that is away.
    let live = Live { me: ReplicaId(1), is_live: &|id| id != ReplicaId(3) };
    assert!(begin(&members, &request(1, &[rebuild(3, 4)]), &live).is_ok());
}
