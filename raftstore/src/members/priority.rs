//! Who is to lead, when several could: SOFAJRaft's election priorities.
//!
//! They are part of the replicated description ([`super::Membership::priorities`]), so every
//! replica knows those of all, and they stay over restarts. Three places go by them: the election
//! timer (`replica/timer.rs`), a leader that is not the preferred one, and whoever is asked to hand
//! leadership to somebody (both in `replica/transfer.rs`).

use super::{GroupDesc, ReplicaDesc};
use crate::types::ReplicaId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much a member is wanted as the group's leader.
///
/// - −1 ([`Priority::OFF`], the default): it campaigns as if there were no priorities; a member
///   with a priority takes its leadership over.
/// - 0 ([`Priority::NEVER`]): it votes and does not lead. It is for fewer than half of the voters:
///   the others must be able to elect one of them. Where they cannot, since those that have what
///   this one's log holds are gone, it is elected as a last resort, and hands over as soon as one
///   of them has caught up.
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

    /// Whether `replica` may campaign when it has waited for a leader for `timeouts` election
    /// timeouts, from 1. `holds_up`: meanwhile it refused somebody its vote for a shorter log.
    pub(crate) fn may_campaign(&self, replica: ReplicaId, timeouts: usize, holds_up: bool) -> bool {
        let own = self.priority(replica);
        let mut larger: Vec<Priority> =
            self.voters_priorities().filter(|priority| *priority > own).collect();
        larger.sort_unstable();
        larger.dedup();
        if self.never_leads(replica) {
            let last_resort = holds_up && timeouts > larger.len() + 1;
            return last_resort || crate::mutant::active("priority_zero_campaigns");
        }
        let patient = timeouts > larger.len() && !crate::mutant::active("target_never_decays");
        own == Priority::OFF || larger.is_empty() || patient
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

    /// After how many timeouts each member campaigns, if it holds others up or not.
    fn waits(priorities: &[i32], holds_up: bool) -> Vec<Option<usize>> {
        let desc = desc(priorities);
        let first = |id| (1..20).find(|timeouts| desc.may_campaign(id, *timeouts, holds_up));
        desc.replicas.iter().map(|r| first(r.replica)).collect()
    }

    #[test]
    fn the_preferred_campaigns_first_and_nobody_waits_for_ever() {
        assert_eq!(waits(&[-1, -1, -1], false), [Some(1); 3]);
        assert_eq!(waits(&[3, 100, 1], false), [Some(2), Some(1), Some(3)]);
        assert_eq!(waits(&[5, 5, 1], true), [Some(1), Some(1), Some(2)]);
        assert_eq!(waits(&[0, 7, -1], false), [None, Some(1), Some(1)]);
    }

    #[test]
    fn priority_zero_is_elected_where_nobody_else_can_be() {
        assert_eq!(waits(&[0, 7, -1], true), [Some(3), Some(1), Some(1)]);
        assert_eq!(waits(&[0, -1], true), [Some(2), Some(1)]);
        assert_eq!(waits(&[0, 0], false), [Some(1); 2]);
    }

    #[test]
    fn a_learner_keeps_nobody_waiting() {
        let mut desc = desc(&[9, 1]);
        desc.replicas[0].role = ReplicaRole::Learner;
        assert!(desc.may_campaign(ReplicaId(2), 1, false));
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
