//! Who is to lead, when several could: SOFAJRaft's election priorities.
//!
//! They are part of the replicated description ([`super::Membership::priorities`]), so every
//! replica knows those of all, and they stay over restarts. Three places go by them: the election
//! timer (`replica/timer.rs`), a leader that is not the preferred one, and whoever is asked to hand
//! leadership to somebody (both in `replica/transfer.rs`).

use super::{GroupDesc, ReplicaDesc};
use crate::types::ReplicaId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How much a member is wanted as the group's leader.
///
/// - −1 ([`Priority::OFF`], the default): it campaigns as if there were no priorities; a member
///   with a priority takes its leadership over.
/// - 0 ([`Priority::NEVER`]): it votes and does not lead. It is for fewer than half of the voters:
///   the others must be able to elect one of them. After a recovery, or a request that was
///   cancelled, there may be more; then changes are refused that would make their part larger.
///   Where the others cannot, since those that have what this one's log holds are gone, or those
///   that are left cannot campaign, it is elected as a last resort, and hands over as soon as one
///   of them can lead.
/// - 1 and more: the largest comes first. The others wait one election timeout longer for each
///   larger priority in the group, so that a group with a quorum gets a leader all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i32);

impl Priority {
    /// Takes no part in it.
    pub const OFF: Priority = Priority(-1);
    /// Never leads but as a last resort.
    pub const NEVER: Priority = Priority(0);

    /// Whether it is one: −1 and more are.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 >= Priority::OFF.0
    }

    /// Who leads by this priority gives way to a larger rank; none: it must not lead at all.
    #[must_use]
    pub const fn rank(self) -> Option<i32> {
        match self {
            Priority::NEVER => None,
            Priority::OFF => Some(0),
            Priority(priority) => Some(priority),
        }
    }
}

/// How long a member has waited for a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Election timeouts since a leader was heard, as they were drawn, from 1.
    pub(crate) timeouts: u32,
    /// For how many of the shortest election timeouts nobody has asked for its vote who may have it; or no
    /// leader was heard, when somebody asked whose log is too short. Others may be there who cannot ask.
    pub(crate) in_vain: u32,
}

impl Wait {
    /// Others, who may take one timeout longer, go first.
    pub(crate) fn behind_slow(self) -> Wait {
        // Theirs may be twice as long as the shortest.
        let (timeouts, in_vain) = (self.timeouts.saturating_sub(1), self.in_vain.saturating_sub(2));
        Wait { timeouts, in_vain }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority::OFF
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl GroupDesc {
    /// The priority of a member.
    #[must_use]
    pub fn priority(&self, replica: ReplicaId) -> Priority {
        self.membership.priorities.get(&replica).copied().unwrap_or_default()
    }

    /// Whether leadership would be taken back from `to` by `from`, or `to` must not lead.
    #[must_use]
    pub fn prefers(&self, from: ReplicaId, to: ReplicaId) -> bool {
        let rank = |replica| self.priority(replica).rank();
        rank(to).is_none() || rank(from) > rank(to)
    }

    /// Whether `replica` has priority 0 and there are voters that have not. (A request that was
    /// cancelled half-way may leave those of priority 0 among themselves.)
    pub(crate) fn never_leads(&self, replica: ReplicaId) -> bool {
        self.priority(replica) == Priority::NEVER
            && self.voters_priorities().any(|priority| priority != Priority::NEVER)
    }

    /// Whether `replica` may campaign when it has waited so long for a leader.
    pub(crate) fn may_campaign(&self, replica: ReplicaId, wait: Wait) -> bool {
        if self.never_leads(replica) {
            return self.is_last_resort(replica, wait)
                || crate::mutant::active("priority_zero_campaigns");
        }
        let own = self.priority(replica);
        let turn = 1 + self.ranks_above(own);
        let patient = wait.timeouts >= turn && !crate::mutant::active("target_never_decays");
        own == Priority::OFF || turn == 1 || patient
    }

    /// Whether `replica`, which has priority 0, has seen for so long that nobody else is elected that
    /// each of the others has had its turn, with time for an election: a timeout is drawn from one to two
    /// times the shortest.
    pub(crate) fn is_last_resort(&self, replica: ReplicaId, wait: Wait) -> bool {
        let turns = self.ranks_above(Priority::NEVER).max(1);
        let ignored = crate::mutant::active("last_resort_missing");
        self.never_leads(replica) && wait.in_vain > 2 * turns && !ignored
    }

    /// How many priorities there are among the voters that are larger than `own`.
    fn ranks_above(&self, own: Priority) -> u32 {
        let larger: BTreeSet<Priority> = self.voters_priorities().filter(|p| *p > own).collect();
        larger.len() as u32
    }

    fn voters_priorities(&self) -> impl Iterator<Item = Priority> + '_ {
        let votes = |r: &&ReplicaDesc| r.role.votes() || r.role.voted();
        self.replicas.iter().filter(votes).map(|r| self.priority(r.replica))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GroupId, ReplicaRole, StoreId};

    fn desc(priorities: &[i32]) -> GroupDesc {
        let ids = || (1..).map(ReplicaId).zip(priorities);
        let member = |(replica, _)| {
            let ReplicaId(store) = replica;
            ReplicaDesc { replica, store: StoreId(store), role: ReplicaRole::Voter }
        };
        let mut desc = GroupDesc::new(GroupId(1), ids().map(member).collect());
        desc.membership.priorities = ids().map(|(id, p)| (id, Priority(*p))).collect();
        desc
    }

    /// After how many timeouts, of the shortest, each member campaigns, if all of them were in vain or none.
    fn waits(priorities: &[i32], in_vain: bool) -> Vec<Option<u32>> {
        let desc = desc(priorities);
        let wait = |timeouts| Wait { timeouts, in_vain: if in_vain { timeouts } else { 0 } };
        let first = |id| (1..20).find(|timeouts| desc.may_campaign(id, wait(*timeouts)));
        desc.replicas.iter().map(|r| first(r.replica)).collect()
    }

    #[test]
    fn the_preferred_campaigns_first_and_nobody_waits_for_ever() {
        assert_eq!(waits(&[-1, -1, -1], false), [Some(1); 3]);
        assert_eq!(waits(&[3, 100, 1], false), [Some(2), Some(1), Some(3)]);
        assert_eq!(waits(&[5, 5, 1], true), [Some(1), Some(1), Some(2)]);
        assert_eq!(waits(&[0, 7, -1], false), [None, Some(1), Some(1)]);
    }

    /// Theirs may be twice as long.
    #[test]
    fn priority_zero_is_elected_where_nobody_else_can_be_after_all_others_had_their_turn() {
        assert_eq!(waits(&[0, -1], true), [Some(3), Some(1)]);
        assert_eq!(waits(&[0, 7, -1], true), [Some(3), Some(1), Some(1)]);
        assert_eq!(waits(&[0, 7, 8], true), [Some(5), Some(2), Some(1)]);
        assert_eq!(waits(&[0, 7, 8, 9, 0], true), [Some(7), Some(3), Some(2), Some(1), Some(7)]);
        assert_eq!(waits(&[0, 0], false), [Some(1); 2]);
        let slow = Wait { timeouts: 4, in_vain: 4 }.behind_slow();
        assert_eq!(slow, Wait { timeouts: 3, in_vain: 2 });
    }

    #[test]
    fn a_learner_keeps_nobody_waiting() {
        let mut desc = desc(&[9, 1]);
        desc.replicas[0].role = ReplicaRole::Learner;
        assert!(desc.may_campaign(ReplicaId(2), Wait { timeouts: 1, in_vain: 0 }));
    }

    #[test]
    fn leadership_goes_up_only() {
        let desc = desc(&[0, -1, 1, 1, 2]);
        let prefers = |from, to| desc.prefers(ReplicaId(from), ReplicaId(to));
        assert!(prefers(2, 1) && prefers(1, 1));
        assert!(prefers(3, 2) && !prefers(2, 3));
        assert!(!prefers(3, 4) && !prefers(4, 3));
        assert!(prefers(5, 4) && !prefers(1, 2));
    }
}
