//! Going on after stores are lost for good: what is left of every group that cannot decide any more, and
//! the orders that have the best of it go on.
//!
//! 1. Every store that is left tells all of its replicas. One that does not answer may hold the longest
//!    log of a group, so without it there is no plan, unless it is given up as well.
//! 2. Of each group that has no leader and whose voters left are no majority, the replica whose log ends
//!    last, by (term, index), goes on (Raft paper, 5.4.1: it holds whatever any of them holds). One that is
//!    quarantined, or whose state machine has failed, cannot, and is shown: its log may end later.
//!
//!    Who votes is judged by the newest members that any replica left has applied. A change that is only
//!    in a log gives nobody a vote yet: replicas campaign, vote and count by what they have applied, so
//!    nobody who is left can decide by a newer one before he has applied it, and then he tells.
//! 3. Placement turns the lost stores away from then on; only then are the groups recovered, one by one.
//!    Where there is none to recover, no store needs to be turned away.

use std::collections::BTreeMap;

use crate::admin::{Admin, Described, Lost, Whom, largest_known};
use crate::{Error, Refusal, Result, pb};

/// What is to become of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The group.
    pub group: u64,
    /// Its region.
    pub region: u64,
    /// Its voters, on lost stores too.
    pub voters: usize,
    /// How many of them are left.
    pub left: usize,
    /// Who goes on; `None`: no replica that could is left, and its data is gone.
    pub survivor: Option<Survivor>,
    /// Voters on stores that are left that take no part any more: damaged, or destroyed while they were being
    /// rebuilt.
    pub gone: Vec<u64>,
    /// Replicas that are left and cannot go on: what only they have is lost, too.
    pub unable: Vec<Unable>,
}

/// A replica that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unable {
    /// The replica.
    pub replica: u64,
    /// Its store.
    pub store: u64,
    /// What is wrong with it.
    pub why: String,
}

/// The replica that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The replica.
    pub replica: u64,
    /// Its store.
    pub store: u64,
    /// Term of its log's last entry.
    pub last_term: u64,
    /// Index of its log's last entry: what was acknowledged later is lost, and nobody knows how much.
    pub last_index: u64,
    /// What it knows as committed.
    pub commit: u64,
}

/// What is to be done for the groups that lost their majority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By group; groups that can decide are not in it.
    pub fates: Vec<Fate>,
    /// The largest replica id that is known of each group.
    largest: BTreeMap<u64, u64>,
    /// Also those that were given up before.
    lost: Vec<u64>,
    /// Stores that are to be given up and are not down, as far as placement knows: it would refuse that.
    pub not_down: Vec<u64>,
}

impl Admin<'_> {
    /// What can be done for `group`, or for every group, when the stores `lost` never come back. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with [`Refusal::Refused`] when a store that is not lost does not answer, or
    /// nobody knows of a lost one; [`Error::Unavailable`] when nobody tells which stores there are.
    pub async fn plan_recovery(&self, lost: &[u64], group: Option<u64>) -> Result<Plan> {
        let routes = self.routes().await?;
        let described = self.describe(group.unwrap_or(0)).await?;
        // Stores that were given up before never come back, either.
        let before = routes.stores.iter().filter(|s| s.state == "lost").map(|s| s.store);
        let mut all_lost: Vec<u64> = lost.iter().copied().chain(before).collect();
        all_lost.sort_unstable();
        all_lost.dedup();
        let given_up = |store: u64| all_lost.contains(&store);
        let silent = |one: &&Described| !given_up(one.store) && one.replicas.is_err();
        if let Some(Described { store, replicas: Err(why) }) = described.iter().find(silent) {
            let message = format!(
                "store {store} does not answer ({why}), and may hold what others lack: start it, or \
                 name it as lost, too"
            );
            return Err(Error::NotApplied { kind: Refusal::Refused, message });
        }
        check_known(lost, &routes, &described)?;
        let answered = described.into_iter().filter(|one| !given_up(one.store));
        let answered: Vec<Described> = answered.collect();
        let stores: Vec<u64> = answered.iter().map(|one| one.store).collect();
        let told = answered.into_iter().flat_map(|one| {
            let store = one.store;
            one.replicas.unwrap_or_default().into_iter().map(move |replica| (store, replica))
        });
        let known = routes.regions.iter().filter(|r| group.is_none_or(|group| r.group == group));
        let mut plan = plan(&all_lost, &stores, known, told.collect());
        let state =
            |store: &u64| routes.stores.iter().find(|s| s.store == *store).map(|s| &*s.state);
        let not_down = |store: &u64| state(store).is_some_and(|s| !["down", "lost"].contains(&s));
        plan.not_down = lost.iter().copied().filter(not_down).collect();
        Ok(plan)
    }

    /// Has placement turn the stores away for good.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with [`Refusal::Refused`] when one of them is not down (`force` overrules
    /// that), or none of the client's addresses is placement's.
    pub async fn give_up_stores(&self, stores: &[u64], force: bool) -> Result<()> {
        let mut failures = Vec::new();
        for address in self.addresses() {
            match self.give_up_at(&address, stores, force).await {
                Ok(None) => return Ok(()),
                Ok(Some(error)) => {
                    let message = error.message;
                    return Err(Error::NotApplied { kind: Refusal::Refused, message });
                }
                Err(why) => failures.push(format!("{address}: {why}")),
            }
        }
        let failures = failures.join("; ");
        let message = format!("no placement member took the order, name one: {failures}");
        Err(Error::NotApplied { kind: Refusal::Refused, message })
    }

    /// Has the plan's survivor of `fate` go on. The same operation again is not done twice.
    ///
    /// # Errors
    /// As [`Admin::change_members`].
    pub async fn recover(&self, plan: &Plan, fate: &Fate, operation: &str) -> Result<()> {
        let Some(survivor) = &fate.survivor else {
            let message = format!("group {}: no replica is left", fate.group);
            return Err(Error::NotApplied { kind: Refusal::Refused, message });
        };
        let request = pb::RecoverRequest {
            group: fate.group,
            operation: operation.to_owned(),
            lost_stores: plan.lost.clone(),
            replica_max: plan.replica_max(fate.group),
            gone_replicas: fate.gone.clone(),
        };
        self.order(fate.group, Whom::Store(survivor.store), Lost::Repeat, async |mut admin| {
            let request = self.request(request.clone());
            admin.recover(request).await.map(|answer| answer.into_inner().error)
        })
        .await
    }
}

impl Plan {
    /// Whether a store that is left, or placement, knows the group.
    pub fn knows(&self, group: u64) -> bool {
        self.largest.contains_key(&group)
    }

    /// What new replicas of `group` count from: above all ids of the cluster, if they are near.
    fn replica_max(&self, group: u64) -> u64 {
        let own = self.largest.get(&group).copied().unwrap_or_default();
        largest_known(own, self.largest.values().copied())
    }
}

/// A store that placement does not know may still be a member of groups, if placement has lost its state.
fn check_known(lost: &[u64], routes: &pb::RoutesResponse, told: &[Described]) -> Result<()> {
    let replicas = || told.iter().filter_map(|one| one.replicas.as_ref().ok()).flatten();
    let known = |store: u64| {
        routes.stores.iter().any(|known| known.store == store)
            || routes.regions.iter().any(|region| region.replicas.iter().any(|r| r.store == store))
            || replicas().any(|replica| replica.members.iter().any(|m| m.store == store))
    };
    match lost.iter().find(|store| !known(**store)) {
        Some(store) => {
            let message = format!("there is no store {store}: `kv stores` lists the stores");
            Err(Error::NotApplied { kind: Refusal::Refused, message })
        }
        None => Ok(()),
    }
}

/// As in [`Admin::plan_recovery`], from what was told: all that the stores `answered` have.
fn plan<'a>(
    lost: &[u64],
    answered: &[u64],
    known: impl Iterator<Item = &'a pb::Region>,
    told: Vec<(u64, pb::ReplicaState)>,
) -> Plan {
    let mut largest: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, replica) in &told {
        let known = largest.entry(replica.group).or_default();
        *known = replica.replica_max.max(*known);
    }
    let mut groups: BTreeMap<u64, Vec<(u64, pb::ReplicaState)>> = BTreeMap::new();
    for (store, replica) in told {
        groups.entry(replica.group).or_default().push((store, replica));
    }
    let mut fates: Vec<Fate> =
        groups.iter().filter_map(|(group, left)| fate(*group, left, lost, answered)).collect();
    // Groups of which nobody who is left has a replica.
    for region in known.filter(|region| !groups.contains_key(&region.group)) {
        largest.entry(region.group).or_default();
        if !region.replicas.is_empty() && region.replicas.iter().all(|r| lost.contains(&r.store)) {
            fates.push(Fate {
                group: region.group,
                region: region.region,
                voters: region.replicas.iter().filter(|r| r.role != "learner").count(),
                left: 0,
                gone: Vec::new(),
                survivor: None,
                unable: Vec::new(),
            });
        }
    }
    fates.sort_by_key(|fate| fate.group);
    Plan { fates, largest, lost: lost.to_vec(), not_down: Vec::new() }
}

fn fate(
    group: u64,
    left: &[(u64, pb::ReplicaState)],
    lost: &[u64],
    answered: &[u64],
) -> Option<Fate> {
    let led = |(_, replica): &(u64, pb::ReplicaState)| {
        let follows = replica.leader != 0 && !lost.contains(&replica.leader_store);
        replica.role == "leader" || follows
    };
    if left.iter().any(led) {
        return None;
    }
    // Who was invited and never got his first snapshot has nothing.
    let began = |replica: &pb::ReplicaState| replica.members_version == 0 || replica.last_index > 0;
    let able = left.iter().filter(|(_, replica)| replica.damage.is_empty() && began(replica));
    let end = |replica: &pb::ReplicaState| (replica.last_term, replica.last_index);
    // Of equal logs rather a voter's.
    let votes = |replica: &pb::ReplicaState| {
        replica.members.iter().any(|m| m.replica == replica.replica && m.role == "voter")
    };
    let best = able
        .max_by_key(|(store, replica)| (end(replica), votes(replica), std::cmp::Reverse(*store)));
    let (_, latest) = left.iter().max_by_key(|(_, replica)| replica.members_version)?;
    // A store that has no replica of the group, another one or a damaged one does not vote for this member.
    let is_gone = |member: &&pb::Member| {
        let sound = |(store, replica): &(u64, pb::ReplicaState)| {
            (*store, replica.replica) == (member.store, member.replica) && replica.damage.is_empty()
        };
        let there = left.iter().any(|(store, _)| *store == member.store);
        // The first members are still to be created, perhaps; others were there once.
        let came = there || latest.members_version > 0;
        answered.contains(&member.store) && came && !left.iter().any(sound)
    };
    let votes = |member: &&pb::Member| !["learner", "joining"].contains(&member.role.as_str());
    // Whoever goes on judges by the members that he knows.
    let known = left.iter().flat_map(|(_, replica)| &replica.members);
    let known = known.filter(votes).filter(|member| !lost.contains(&member.store));
    let mut gone: Vec<u64> = known.filter(is_gone).map(|member| member.replica).collect();
    gone.sort_unstable();
    gone.dedup();
    let in_half = |roles: &[&str]| {
        let voters = latest.members.iter().filter(|m| roles.contains(&m.role.as_str()));
        let (out, left): (Vec<_>, Vec<_>) =
            voters.partition(|m| lost.contains(&m.store) || gone.contains(&m.replica));
        (left.len() + out.len(), left.len())
    };
    let halves = [in_half(&["voter", "incoming"]), in_half(&["voter", "outgoing", "demoting"])];
    if halves.iter().all(|(voters, left)| left * 2 > *voters) {
        return None;
    }
    let unable = left.iter().filter(|(_, replica)| !replica.damage.is_empty());
    let unable = unable.map(|(store, replica)| Unable {
        replica: replica.replica,
        store: *store,
        why: replica.damage.clone(),
    });
    let unable = unable.collect();
    let (voters, left) = halves[0];
    let survivor = best.map(|(store, replica)| Survivor {
        replica: replica.replica,
        store: *store,
        last_term: replica.last_term,
        last_index: replica.last_index,
        commit: replica.commit,
    });
    let region = latest.region;
    Some(Fate { group, region, voters, left, gone, survivor, unable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(
        group: u64,
        replica: u64,
        last: (u64, u64),
        members: &[(u64, &str)],
    ) -> pb::ReplicaState {
        let member = |(store, role): &(u64, &str)| pb::Member {
            replica: *store,
            store: *store,
            role: (*role).to_owned(),
            priority: -1,
        };
        pb::ReplicaState {
            group,
            replica,
            role: "follower".to_owned(),
            last_term: last.0,
            last_index: last.1,
            members: members.iter().map(member).collect(),
            replica_max: 10 + replica,
            ..pb::ReplicaState::default()
        }
    }

    const FIVE: [(u64, &str); 5] =
        [(1, "voter"), (2, "voter"), (3, "voter"), (4, "voter"), (5, "voter")];

    #[test]
    fn the_replica_whose_log_ends_last_goes_on() {
        let told = vec![
            (4, replica(1, 4, (2, 90), &FIVE)),
            (5, replica(1, 5, (3, 7), &FIVE)),
            // Three of five are left.
            (4, replica(2, 4, (1, 1), &[(1, "voter"), (4, "voter"), (5, "voter")])),
            (5, replica(2, 5, (1, 1), &[(1, "voter"), (4, "voter"), (5, "voter")])),
        ];
        let plan = plan(&[1, 2, 3], &[4, 5], [].iter(), told);
        let survivor = Survivor { replica: 5, store: 5, last_term: 3, last_index: 7, commit: 0 };
        let fate = Fate {
            group: 1,
            region: 0,
            voters: 5,
            left: 2,
            gone: Vec::new(),
            survivor: Some(survivor),
            unable: Vec::new(),
        };
        assert_eq!(plan.fates, [fate]);
        assert_eq!((plan.replica_max(1), &plan.lost[..]), (15, &[1, 2, 3][..]));
    }

    /// It has nothing; where nobody else is left the data is gone.
    #[test]
    fn who_never_got_a_first_snapshot_does_not_go_on() {
        let invited = |group| {
            let replica = replica(group, 4, (0, 0), &FIVE);
            (4, pb::ReplicaState { members_version: 2, ..replica })
        };
        let first = |group| (5, replica(group, 5, (0, 0), &FIVE));
        let plan = plan(&[1, 2, 3], &[4, 5], [].iter(), vec![invited(1), invited(2), first(2)]);
        let stores = plan.fates.iter().map(|fate| fate.survivor.as_ref().map(|s| s.store));
        assert_eq!(stores.collect::<Vec<_>>(), [None, Some(5)]);
        assert!(plan.fates.iter().all(|fate| fate.unable.is_empty()));
    }

    /// One store is lost; on the other one the replica is damaged, or was destroyed, and the next one has nothing or is
    /// not there yet.
    #[test]
    fn who_takes_no_part_any_more_is_no_majority() {
        const THREE: [(u64, &str); 3] = [(3, "voter"), (4, "voter"), (5, "voter")];
        let mut damaged = replica(1, 4, (2, 9), &THREE);
        damaged.damage = "a hole".to_owned();
        let next = replica(2, 44, (0, 0), &THREE);
        let next = pb::ReplicaState { members_version: 2, ..next };
        let told = vec![
            (5, replica(1, 5, (2, 9), &THREE)),
            (4, damaged),
            (5, replica(2, 5, (2, 9), &THREE)),
            (4, next),
            (5, pb::ReplicaState { members_version: 1, ..replica(3, 5, (2, 9), &THREE) }),
            // Just being created.
            (5, replica(4, 5, (2, 9), &THREE)),
        ];
        let plan = plan(&[3], &[4, 5], [].iter(), told);
        let fates = plan.fates.iter().map(|fate| (fate.group, fate.left, &fate.gone[..]));
        assert_eq!(fates.collect::<Vec<_>>(), [(1, 1, &[4][..]), (2, 1, &[4]), (3, 1, &[4])]);
        let stores = plan.fates.iter().map(|fate| fate.survivor.as_ref().map(|s| s.store));
        assert_eq!(stores.collect::<Vec<_>>(), [Some(5), Some(5), Some(5)]);
    }

    /// Ids are the cluster's by habit and the group's by rule.
    #[test]
    fn ids_far_away_in_another_group_are_not_counted_from() {
        let with = |group, replica_max| {
            (4, pb::ReplicaState { replica_max, ..replica(group, 4, (1, 1), &FIVE) })
        };
        let told = vec![with(1, 20), with(2, 900), with(3, u64::MAX), with(4, 1 << 40)];
        let plan = plan(&[1, 2, 3], &[4], [].iter(), told);
        assert_eq!(
            [1, 2, 3, 4].map(|group| plan.replica_max(group)),
            [900, 900, u64::MAX, 1 << 40]
        );
    }

    #[test]
    fn who_is_led_or_damaged_or_gone_is_told_apart() {
        let mut led = replica(1, 3, (1, 1), &FIVE);
        led.leader = 9;
        let mut damaged = replica(2, 3, (9, 9), &FIVE);
        damaged.damage = "a hole".to_owned();
        let told = vec![
            (3, led),
            (3, damaged.clone()),
            (4, replica(2, 4, (1, 1), &FIVE)),
            (3, { pb::ReplicaState { group: 3, ..damaged } }),
        ];
        let gone = pb::Region {
            region: 40,
            group: 4,
            replicas: vec![pb::Replica { replica: 1, store: 1, role: "voter".to_owned() }],
            ..pb::Region::default()
        };
        let half = pb::Region {
            group: 5,
            replicas: [1, 9]
                .map(|store| pb::Replica { replica: store, store, role: "voter".to_owned() })
                .to_vec(),
            ..gone.clone()
        };
        let plan = plan(&[1, 2, 5], &[3, 4], [gone, half].iter(), told);
        let survivors: Vec<_> =
            plan.fates.iter().map(|f| (f.group, f.survivor.as_ref().map(|s| s.store))).collect();
        assert_eq!(survivors, [(2, Some(4)), (3, None), (4, None)]);
        let unable = |at: usize| plan.fates[at].unable.iter().map(|u| (u.store, &*u.why)).collect();
        let unable: [Vec<(u64, &str)>; 3] = [0, 1, 2].map(unable);
        let damaged = [(3, "a hole")];
        assert_eq!(unable, [&damaged[..], &damaged[..], &[]], "they are shown");
    }

    /// 4 was to leave and does not know it yet: 5, 6 and 7 will elect a leader among themselves.
    #[test]
    fn the_newest_members_that_anybody_has_applied_say_who_votes() {
        const NEXT: [(u64, &str); 3] = [(5, "voter"), (6, "voter"), (7, "voter")];
        let mut behind = replica(1, 4, (3, 10), &FIVE);
        behind.members_version = 3;
        let ahead = |store| {
            let mut ahead = replica(1, store, (3, 10), &NEXT);
            ahead.members_version = 4;
            (store, ahead)
        };
        let both = |others: &[u64]| {
            let others = others.iter().map(|store| ahead(*store));
            let told = [(4, behind.clone())].into_iter().chain(others).collect();
            plan(&[1, 2, 3], &[4, 5, 6, 7], [].iter(), told).fates
        };
        assert_eq!(both(&[5, 6, 7]), []);
        // By what the one that is behind knows.
        assert_eq!(both(&[])[0].survivor.as_ref().map(|s| s.store), Some(4));
    }
}
