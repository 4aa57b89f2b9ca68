//! Why a change of the members cannot be.

use super::{MEMBERS_MAX, OperationId, Priority, ReplicaRole};
use crate::types::{ReplicaId, StoreId};

/// Why a change was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// One at a time.
    #[error("operation {operation} is under way: wait until it is done, or cancel it")]
    Pending {
        /// The one under way.
        operation: OperationId,
    },
    /// The request has no part.
    #[error("changes = []: name at least one")]
    Empty,
    /// Two parts speak of one replica.
    #[error("replica {replica} is named twice: once is allowed")]
    Twice {
        /// Its id.
        replica: ReplicaId,
    },
    /// Ids are never used twice.
    #[error(
        "replica {replica}: ids up to {replica_max} were used in this group: take a larger one"
    )]
    ReplicaUsed {
        /// As asked.
        replica: ReplicaId,
        /// The largest id that was ever used.
        replica_max: ReplicaId,
    },
    /// It would take too many ids at once.
    #[error(
        "replica {replica}: too far above {replica_max}, the largest id that was used in this group: \
         take the next one"
    )]
    ReplicaFar {
        /// As asked.
        replica: ReplicaId,
        /// The largest id that was ever used.
        replica_max: ReplicaId,
    },
    /// A recovery must not take so many ids at once.
    #[error(
        "ids elsewhere go up to {replica}, too far above {replica_max}, the largest that was used in \
         this group: leave them out of what it counts from"
    )]
    IdsFar {
        /// The largest elsewhere, as told.
        replica: ReplicaId,
        /// The largest id that was ever used here.
        replica_max: ReplicaId,
    },
    /// Ids only grow, and this group had the last ones.
    #[error("ids up to {replica_max} were used in this group: none are left for new replicas")]
    IdsUsedUp {
        /// The largest id that was ever used.
        replica_max: ReplicaId,
    },
    /// One member a store, and no store 0.
    #[error(
        "store {store} cannot take replica {replica}: choose a store without a member of this group"
    )]
    StoreTaken {
        /// As asked.
        store: StoreId,
        /// As asked.
        replica: ReplicaId,
    },
    /// A leader cannot be spared.
    #[error("replica {replica} leads: move its leadership away first")]
    RebuildsLeader {
        /// As asked.
        replica: ReplicaId,
    },
    /// No such member.
    #[error("replica {replica} is not a member: choose one of the group's")]
    NotMember {
        /// As asked.
        replica: ReplicaId,
    },
    /// Only learners are promoted, only voters demoted.
    #[error(
        "replica {replica} has the role {role}: only a learner is promoted, only a voter demoted"
    )]
    WrongRole {
        /// As asked.
        replica: ReplicaId,
        /// What it is.
        role: ReplicaRole,
    },
    /// Priorities begin at −1.
    #[error("replica {replica}: priority {priority}: use -1 (off), 0 (does not lead), 1 or more")]
    WrongPriority {
        /// As asked.
        replica: ReplicaId,
        /// As asked.
        priority: Priority,
    },
    /// Who does not lead cannot pass on what only he holds: without a quorum of others he would be
    /// elected all the same, as a last resort.
    #[error("only {able} of {voters} voters may lead, no quorum: give fewer of them priority 0")]
    TooFewLead {
        /// Voters after the change.
        voters: usize,
        /// Those of another priority than 0.
        able: usize,
    },
    /// A group needs a voter.
    #[error("no voter would be left: keep or add one")]
    NoVoter,
    /// Too large a group.
    #[error("{members} members: at most {MEMBERS_MAX}")]
    TooMany {
        /// As asked.
        members: usize,
    },
    /// The voters that remain could not decide anything.
    #[error(
        "of {voters} voters only {live} would be there and alive, no quorum: bring stores back \
         first, or force it"
    )]
    QuorumLost {
        /// Voters after the change, or while a replica is rebuilt.
        voters: usize,
        /// Those that the leader has heard of lately, or that are still to join.
        live: usize,
    },
    /// The replica that is to go on is among those given up.
    #[error("store {store} is among the lost ones and is to go on: choose a store that is left")]
    OnLostStore {
        /// As asked.
        store: StoreId,
    },
    /// Recovery is for groups that cannot decide any more.
    #[error(
        "without the lost stores there is still a majority: nothing to recover; take the lost \
         replicas out with a change of the members"
    )]
    NothingLost,
    /// Recovery of a group that has a leader, or had one until a moment ago.
    #[error(
        "replica {leader} leads the group, or did until a moment ago: nothing to recover; if it is dead, \
         ask again in a few seconds"
    )]
    Led {
        /// As far as this replica knows.
        leader: ReplicaId,
    },
    /// A replica that was invited and has nothing yet cannot go on alone.
    #[error(
        "replica {replica} never got its first snapshot, so it has nothing to go on with: choose \
         another replica that is left"
    )]
    NeverBegan {
        /// The replica that was asked.
        replica: ReplicaId,
    },
    /// The id of an order belongs to another one.
    #[error("operation {operation} was an order in this group before: take another id")]
    OperationUsed {
        /// As asked.
        operation: OperationId,
    },
    /// Leaders use such ids for what they do by themselves.
    #[error("operation {operation}: ids that begin with ffffffffffffffff are kept for leaders")]
    OperationReserved {
        /// As asked.
        operation: OperationId,
    },
    /// A cancel without its operation, too late, or not alone.
    #[error(
        "operation {operation} cannot be cancelled: it must be under way, wait for a member to \
         catch up, and the cancel must stand alone"
    )]
    NotCancellable {
        /// As asked.
        operation: OperationId,
    },
    /// Another entry stands in its place.
    #[error(
        "another leader's entry took its place, or a change before it was not applied: ask again"
    )]
    NotApplied,
}
