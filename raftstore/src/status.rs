//! What a replica looks like from outside: for `/status`, `describe` and tests.

use crate::types::{GroupId, ReplicaDesc, ReplicaId};
use serde::Serialize;

/// The role of a replica at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Leads the group.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Asks whether it would get votes.
    PreCandidate,
    /// Damaged; takes no part.
    Quarantined,
}

/// One replica in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// The group.
    pub group: GroupId,
    /// This store's member.
    pub replica: ReplicaId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<ReplicaDesc>,
    /// Highest index known committed.
    pub commit: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Highest index durable in the log here.
    pub persisted: u64,
    /// Highest index durable in the state machine here.
    pub durable_applied: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Last index in the log or on its way there.
    pub last_index: u64,
    /// Callers waiting for their command.
    pub waiting_proposals: usize,
    /// Callers waiting for a read barrier.
    pub waiting_reads: usize,
    /// Why it is quarantined, if it is.
    pub damage: Option<String>,
    /// On a leader: (member, matched index, state) of each peer.
    pub peers: Vec<(ReplicaId, u64, String)>,
}
