//! Who belongs to a group, and how that changes.
//!
//! The words: a [`ChangeRequest`] is what an operator asks for, a set of [`Change`]s under an id of
//! the operator's; it is carried out by up to three *membership entries*. Each such entry holds the
//! whole [`GroupDesc`] that follows from it, so a replica that replays one needs nothing else.
//!
//! 1. *Begin* (`change.rs`): the leader judges the request. New members and learners to be promoted
//!    become [`ReplicaRole::Joining`], which is a learner; what else is wanted waits in
//!    [`Membership::pending`]. The operator hears *accepted* when this entry is applied.
//! 2. *Switch*, proposed by whoever leads (`replica/membership.rs`) once all that join have caught
//!    up: one voter more or less is a simple change; several, or the leader's own removal, are a
//!    joint one (Raft thesis, 4.3): [`ReplicaRole::Incoming`], `Outgoing`, `Demoting`.
//! 3. *Leave* the joint configuration. A leader that leaves hands leadership over first.
//!
//! Everything that must survive a change of leader is in the group's replicated description, and
//! every replica keeps that in its log store ([`GroupRecord`]). An applied entry is written there
//! behind the entry itself; at a start, entries up to [`Membership::position`] are not applied
//! again, and what the record misses is taken from the log (`crate::recovery`).
//!
//! A replica that is no member any more, or gives way to a new one on its store
//! ([`Change::Rebuild`]), destroys its log and its state and leaves its record behind as a *tombstone*. Ids are never used twice, so whoever is not in a later description, though his
//! id is not above [`GroupDesc::replica_max`], was removed. Stores tell each other descriptions
//! ([`crate::Payload::Members`]): a leader to a learner that it never heard of, which creates the
//! replica there; a member or a tombstone to a sender that was removed, which then ends.

mod change;
pub(crate) mod codec;
mod priority;
mod recover;
mod refusal;

pub(crate) use change::{Begun, Live, begin, leave, may_switch, switch};
pub use change::{Change, ChangeRequest, MEMBERS_MAX};
pub use priority::Priority;
pub(crate) use priority::Wait;
pub use recover::RecoverRequest;
pub(crate) use recover::recovered;
pub use refusal::ChangeRefusal;

use change::remember;

use crate::types::{GroupId, LogPosition, ReplicaId, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What a replica may do in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    /// Votes and counts for the quorum.
    Voter,
    /// Receives the log only.
    Learner,
    /// A learner that becomes a voter as soon as it has caught up.
    Joining,
    /// In a joint configuration: a voter of the new half only.
    Incoming,
    /// In a joint configuration: a voter of the old half only, and no member after it.
    Outgoing,
    /// In a joint configuration: a voter of the old half only, and a learner after it.
    Demoting,
}

impl ReplicaRole {
    /// Every role.
    pub const ALL: [ReplicaRole; 6] = [
        ReplicaRole::Voter,
        ReplicaRole::Learner,
        ReplicaRole::Joining,
        ReplicaRole::Incoming,
        ReplicaRole::Outgoing,
        ReplicaRole::Demoting,
    ];

    /// As in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ReplicaRole::Voter => "voter",
            ReplicaRole::Learner => "learner",
            ReplicaRole::Joining => "joining",
            ReplicaRole::Incoming => "incoming",
            ReplicaRole::Outgoing => "outgoing",
            ReplicaRole::Demoting => "demoting",
        }
    }

    /// Votes in the present configuration, or in its new half.
    #[must_use]
    pub const fn votes(self) -> bool {
        matches!(self, ReplicaRole::Voter | ReplicaRole::Incoming)
    }

    /// Votes before the change under way, or in its old half.
    #[must_use]
    pub const fn voted(self) -> bool {
        matches!(self, ReplicaRole::Voter | ReplicaRole::Outgoing | ReplicaRole::Demoting)
    }

    /// Receives the log only, now.
    #[must_use]
    pub const fn learns(self) -> bool {
        matches!(self, ReplicaRole::Learner | ReplicaRole::Joining)
    }

    /// Only in a joint configuration.
    #[must_use]
    pub const fn is_joint(self) -> bool {
        matches!(self, ReplicaRole::Incoming | ReplicaRole::Outgoing | ReplicaRole::Demoting)
    }
}

impl fmt::Display for ReplicaRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ReplicaRole {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = ReplicaRole::ALL.into_iter().find(|role| role.name() == name);
        found.ok_or_else(|| format!("replica role {name:?} is unknown"))
    }
}

/// One member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplicaDesc {
    /// The member's id.
    pub replica: ReplicaId,
    /// The store that holds it.
    pub store: StoreId,
    /// What it may do.
    pub role: ReplicaRole,
}

/// An operator's id of a [`ChangeRequest`]: the same id is the same request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u128);

impl OperationId {
    /// The first of those that leaders give to what they do by themselves.
    const RESERVED: u128 = (u64::MAX as u128) << 64;

    /// Of the order to replace a damaged replica: the same again while the first is not applied.
    pub(crate) fn of_rebuild(replica: ReplicaId) -> OperationId {
        OperationId(OperationId::RESERVED | u128::from(replica.0))
    }

    /// Operators may not use it.
    pub(crate) fn is_reserved(self) -> bool {
        self.0 >= OperationId::RESERVED
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for OperationId {
    type Err = std::num::ParseIntError;

    /// Parses the hexadecimal digits that `Display` prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The standard library would take a sign, too; alone it is no digit.
        let text = if text.starts_with('+') { "+" } else { text };
        u128::from_str_radix(text, 16).map(OperationId)
    }
}

impl Serialize for OperationId {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OperationId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What of an accepted request is still to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingChange {
    /// The request.
    pub operation: OperationId,
    /// Even without a quorum of live voters.
    pub force: bool,
    /// Voters that become learners.
    pub demote: Vec<ReplicaId>,
    /// Members that leave.
    pub remove: Vec<ReplicaId>,
}

/// How the members came about, and what is still to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Membership entries so far; 0 = as created.
    pub version: u64,
    /// The last of them.
    pub position: LogPosition,
    /// No id up to this one is free, whether a member has it or not.
    pub replica_max: ReplicaId,
    /// The request under way.
    pub pending: Option<Box<PendingChange>>,
    /// The latest requests that were accepted, oldest first.
    pub operations: Vec<OperationId>,
    /// Who is to lead; whoever is not named has [`Priority::OFF`].
    pub priorities: BTreeMap<ReplicaId, Priority>,
    /// The recoveries ([`RecoverRequest`]) that these members come from, oldest first.
    pub recoveries: Vec<Recovery>,
}

/// Where a group went on without its majority. Two replicas may have, by orders under one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The order's id.
    pub operation: OperationId,
    /// The replica that went on.
    pub survivor: ReplicaId,
}

/// A group and all its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDesc {
    /// The group's id.
    pub group: GroupId,
    /// Its members, at most one a store beside one that gives way.
    pub replicas: Vec<ReplicaDesc>,
    /// How they came about.
    pub membership: Membership,
}

impl GroupDesc {
    /// A new group.
    #[must_use]
    pub fn new(group: GroupId, replicas: Vec<ReplicaDesc>) -> Self {
        GroupDesc { group, replicas, membership: Membership::default() }
    }

    /// A new group with a voter on each of `stores`, whose id is the store's: for a group whose first members
    /// are the same everywhere, as in a file. Later members take larger ids.
    #[must_use]
    pub fn of_voters(group: GroupId, stores: impl IntoIterator<Item = StoreId>) -> Self {
        let role = ReplicaRole::Voter;
        let voter = |store: StoreId| ReplicaDesc { replica: ReplicaId(store.0), store, role };
        GroupDesc::new(group, stores.into_iter().map(voter).collect())
    }

    /// The member on `store`, if any.
    #[must_use]
    pub fn on_store(&self, store: StoreId) -> Option<ReplicaDesc> {
        self.replicas.iter().copied().find(|r| r.store == store)
    }

    /// The member with the id `replica`, if any.
    #[must_use]
    pub fn replica(&self, replica: ReplicaId) -> Option<ReplicaDesc> {
        self.replicas.iter().copied().find(|r| r.replica == replica)
    }

    /// The largest id that was ever used in the group: a new member's must be above it.
    #[must_use]
    pub fn replica_max(&self) -> ReplicaId {
        let members = self.replicas.iter().map(|r| r.replica).max().unwrap_or_default();
        members.max(self.membership.replica_max)
    }

    /// Between *switch* and *leave*: every decision needs both halves.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.replicas.iter().any(|r| r.role.is_joint())
    }

    /// Whether those for whom `counts` says so are a quorum of the voters, in both halves of a joint
    /// configuration.
    pub(crate) fn has_quorum(&self, counts: impl Fn(&ReplicaDesc) -> bool) -> bool {
        let of = |votes: fn(ReplicaRole) -> bool| {
            let voters = || self.replicas.iter().filter(|r| votes(r.role));
            voters().filter(|r| counts(r)).count() * 2 > voters().count()
        };
        of(ReplicaRole::votes) && (!self.is_joint() || of(ReplicaRole::voted))
    }

    /// Whether these members come from a recovery that `later` does not know: then the group has
    /// gone on twice, and neither half may end the other's replicas.
    #[must_use]
    pub fn parts_from(&self, later: &GroupDesc) -> bool {
        let last = self.membership.recoveries.last();
        last.is_some_and(|recovery| !later.membership.recoveries.contains(recovery))
    }

    /// Whether `replica` gives way to another one on its store: see [`Change::Rebuild`].
    #[must_use]
    pub fn gives_way(&self, replica: ReplicaId) -> bool {
        let Some(own) = self.replica(replica) else { return false };
        let pending = self.membership.pending.as_ref();
        let leaves = pending.is_some_and(|pending| pending.remove.contains(&replica));
        let successor = |r: &&ReplicaDesc| r.store == own.store && r.replica > replica;
        leaves && self.replicas.iter().any(|r| successor(&r))
    }

    /// Whether `replica` was a member once, or never will be: ids are not used twice.
    #[must_use]
    pub fn has_left(&self, replica: ReplicaId) -> bool {
        replica <= self.replica_max() && self.replica(replica).is_none()
    }
}

/// Who a replica of this store is: written with the group's creation, before its first entry, and
/// again behind every membership entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group and its members; whoever knows them shares them.
    pub desc: Arc<GroupDesc>,
    /// This store's own member.
    pub replica: ReplicaId,
    /// A tombstone: log and state are gone, and up to this id no replica comes back here.
    pub removed: bool,
}

impl GroupRecord {
    /// A living replica.
    #[must_use]
    pub fn new(desc: GroupDesc, replica: ReplicaId) -> Self {
        GroupRecord { desc: Arc::new(desc), replica, removed: false }
    }

    /// Whether a log store may put `next` in the place of this record: the same replica with later
    /// members, its tombstone, or after a tombstone a replica with a larger id (invariant I12).
    #[must_use]
    pub fn may_become(&self, next: &GroupRecord) -> bool {
        if self == next {
            return true;
        }
        if self.removed {
            // Or its tombstone at once: one log write may hold its beginning and its end.
            return next.replica > self.replica;
        }
        let (held, new) = (self.desc.membership.version, next.desc.membership.version);
        self.replica == next.replica && (next.removed || new > held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_hexadecimal_digits() {
        let parsed = |text: &str| text.parse::<OperationId>().ok();
        assert_eq!(parsed("2A"), Some(OperationId(0x2a)));
        assert_eq!(parsed(&OperationId(u128::MAX).to_string()), Some(OperationId(u128::MAX)));
        for text in ["", "+5", "+", "-5", "5x", &"f".repeat(33)] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_only_goes_forward() {
        let desc = GroupDesc::new(GroupId(1), Vec::new());
        let held = GroupRecord::new(desc, ReplicaId(5));
        let with = |replica: u64, version: u64, removed: bool| {
            let mut record = held.clone();
            record.replica = ReplicaId(replica);
            Arc::make_mut(&mut record.desc).membership.version = version;
            record.removed = removed;
            record
        };
        assert!(with(5, 1, false).may_become(&with(5, 2, false)));
        assert!(!with(5, 2, false).may_become(&with(5, 1, false)));
        assert!(with(5, 2, false).may_become(&with(5, 2, true)));
        assert!(!with(5, 2, true).may_become(&with(5, 3, false)));
        assert!(!with(5, 2, true).may_become(&with(4, 3, false)));
        assert!(with(5, 2, true).may_become(&with(6, 3, false)));
        assert!(with(5, 2, true).may_become(&with(6, 3, true)));
        assert!(!with(5, 2, true).may_become(&with(4, 3, true)));
        assert!(!with(5, 2, false).may_become(&with(6, 3, false)));
    }
}
