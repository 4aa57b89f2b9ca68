//! I12 and I13: every version of a group's members, whoever applies it.

use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::{GroupDesc, GroupId, ReplicaDesc, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// All versions of all groups' members, from the creation on.
pub struct Configurations(BTreeMap<GroupId, Vec<GroupDesc>>);

/// The voters that must agree, by majority each.
fn halves(desc: &GroupDesc) -> Vec<BTreeSet<ReplicaId>> {
    let ids = |votes: &dyn Fn(&ReplicaDesc) -> bool| {
        desc.replicas.iter().filter(|r| votes(r)).map(|r| r.replica).collect()
    };
    let mut halves = vec![ids(&|r| r.role.votes())];
    if desc.is_joint() {
        halves.push(ids(&|r| r.role.voted()));
    }
    halves
}

/// Whether any majority of one set shares a member with any majority of the other.
fn meet(one: &BTreeSet<ReplicaId>, other: &BTreeSet<ReplicaId>) -> bool {
    let majority = |set: &BTreeSet<ReplicaId>| set.len() / 2 + 1;
    // Majorities that avoid each other take so many of the shared voters.
    let shared = one.intersection(other).count();
    let needed = |set: &BTreeSet<ReplicaId>, others: &BTreeSet<ReplicaId>| {
        majority(set).saturating_sub(set.difference(others).count())
    };
    needed(one, other) + needed(other, one) > shared
}

impl Configurations {
    /// The regions' first members.
    #[must_use]
    pub fn new(regions: &[RegionMeta]) -> Self {
        Configurations(regions.iter().map(|r| (r.group, vec![r.desc()])).collect())
    }

    /// The latest one.
    ///
    /// # Panics
    /// For a group that was not created.
    #[must_use]
    pub fn latest(&self, group: GroupId) -> &GroupDesc {
        self.0[&group].last().expect("begins with the creation")
    }

    /// Somebody applies a version.
    pub fn applied(&mut self, members: &GroupDesc) -> Option<String> {
        let known = self.0.get_mut(&members.group)?;
        let at = members.membership.version as usize;
        let problem = match known.get(at) {
            Some(same) if same == members => return None,
            Some(other) => format!("version {at} is {other:?} and {members:?}"),
            None if at != known.len() => format!("version {at} follows {}", known.len() - 1),
            None => {
                let problem = follows(&known[at - 1], members);
                known.push(members.clone());
                problem?
            }
        };
        Some(format!("I13: group {}: {problem}", members.group))
    }
}

/// What is wrong with `next` right behind `before`.
fn follows(before: &GroupDesc, next: &GroupDesc) -> Option<String> {
    let used = before.replica_max();
    let new = |r: &&ReplicaDesc| before.replica(r.replica).is_none();
    if let Some(twice) = next.replicas.iter().filter(new).find(|r| r.replica <= used) {
        return Some(format!("I12: replica {} is used twice", twice.replica));
    }
    let stays = |r: &&ReplicaDesc| !next.gives_way(r.replica);
    let stay: Vec<_> = next.replicas.iter().filter(stays).map(|r| r.store).collect();
    if stay.iter().collect::<BTreeSet<_>>().len() != stay.len() {
        return Some(format!("two members on a store: {next:?}"));
    }
    // A decision needs a majority in every half: one pair of halves that always meet is enough.
    let intersect =
        halves(before).iter().any(|one| halves(next).iter().any(|other| meet(one, other)));
    (!intersect).then(|| format!("quorums of {before:?} and {next:?} do not intersect"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().map(|id| ReplicaId(*id)).collect()
    }

    #[test]
    fn majorities_of_sets_that_differ_by_one_meet_and_by_two_may_not() {
        for (one, other, expected) in [
            (&[1, 2, 3][..], &[1, 2, 3, 4][..], true),
            (&[1, 2, 3], &[1, 2], true),
            (&[1], &[1, 2], true),
            (&[1, 2, 3], &[1, 2, 4], false),
            (&[1], &[2], false),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], false),
            (&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], true),
        ] {
            assert_eq!(meet(&set(one), &set(other)), expected, "{one:?} {other:?}");
        }
    }
}
