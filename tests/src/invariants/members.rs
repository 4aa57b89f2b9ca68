//! I12 and I13: every version of a group's members, whoever applies it.

use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::{GroupDesc, GroupId, ReplicaDesc, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// All versions of all groups' members, from the creation on.
pub struct Configurations {
    /// By version.
    known: BTreeMap<GroupId, BTreeMap<u64, GroupDesc>>,
    /// Groups that the operator has go on without their majority, once.
    recovering: BTreeSet<GroupId>,
}

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
        let created = regions.iter().map(|r| (r.group, BTreeMap::from([(0, r.desc())])));
        Configurations { known: created.collect(), recovering: BTreeSet::new() }
    }

    /// The latest one.
    ///
    /// # Panics
    /// For a group that was not created.
    #[must_use]
    pub fn latest(&self, group: GroupId) -> &GroupDesc {
        self.known[&group].values().next_back().expect("begins with the creation")
    }

    /// The operator has the group go on without its majority, or that came to nothing: its next members need
    /// share no quorum with those before, and their version may jump.
    pub fn recovers(&mut self, group: GroupId, may: bool) {
        if may {
            self.recovering.insert(group);
        } else {
            self.recovering.remove(&group);
        }
    }

    /// Somebody applies a version.
    pub fn applied(&mut self, members: &GroupDesc) -> Option<String> {
        let known = self.known.get_mut(&members.group)?;
        let version = members.membership.version;
        let (last, latest) = known.last_key_value().expect("begins with the creation");
        let problem = match known.get(&version) {
            Some(same) if same == members => return None,
            Some(other) => format!("version {version} is {other:?} and {members:?}"),
            None if version == last + 1 => {
                let problem = follows(latest, members).or_else(|| parted(latest, members));
                known.insert(version, members.clone());
                problem?
            }
            None if version > *last && self.recovering.remove(&members.group) => {
                let problem = follows(latest, members);
                known.insert(version, members.clone());
                problem?
            }
            None => format!("version {version} follows {last}"),
        };
        Some(format!("I13: group {}: {problem}", members.group))
    }
}

/// What is wrong with the ids and places of `next` behind `before`.
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
    None
}

/// Whether both may decide without the other.
fn parted(before: &GroupDesc, next: &GroupDesc) -> Option<String> {
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
