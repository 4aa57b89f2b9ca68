//! What a replica looks like from outside: for `/status`, `describe` and tests.

use crate::types::{GroupId, GroupRecord, ReplicaDesc, ReplicaId};
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
    /// Bytes of entries in memory.
    pub cache_bytes: usize,
    /// Callers waiting for their command.
    pub waiting_proposals: usize,
    /// Callers waiting for a read barrier.
    pub waiting_reads: usize,
    /// Why it is quarantined, if it is.
    pub damage: Option<String>,
    /// On a leader: (member, matched index, state) of each peer.
    pub peers: Vec<(ReplicaId, u64, String)>,
}

/// A group as its store publishes it: cheap to read, a moment old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The group, its members, and this store's own.
    pub record: GroupRecord,
    /// The leader it knows of.
    pub leader: Option<ReplicaDesc>,
    /// In this term.
    pub term: u64,
    /// This store's replica leads.
    pub leading: bool,
}

/// How full the queues of a store are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Bytes of commands admitted and not yet answered.
    pub proposal_bytes: usize,
    /// Their limit.
    pub proposal_bytes_max: usize,
    /// Messages from other stores that wait for a shard.
    pub inbox_messages: usize,
    /// Their limit, over all shards.
    pub inbox_messages_max: usize,
    /// Bytes of live log.
    pub log_bytes: u64,
    /// Their limit; writes get `Busy` from 7/8 of it.
    pub log_bytes_max: u64,
}
