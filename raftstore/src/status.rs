//! What a replica looks like from outside: for `/status`, `describe` and tests.

use crate::disk::Shortage;
use crate::members::Priority;
use crate::types::{GroupId, GroupRecord, ReplicaDesc, ReplicaId, ReplicaRole, StoreId};
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
    /// Its state machine failed at an entry; takes no part until the next start.
    Stopped,
}

impl Role {
    /// As in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::PreCandidate => "pre_candidate",
            Role::Quarantined => "quarantined",
            Role::Stopped => "stopped",
        }
    }
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
    /// Term of the log's last entry.
    pub last_term: u64,
    /// Bytes of entries in memory.
    pub cache_bytes: usize,
    /// Callers waiting for their command.
    pub waiting_proposals: usize,
    /// Callers waiting for a read barrier.
    pub waiting_reads: usize,
    /// Bytes of commands proposed here and not yet answered.
    pub proposal_bytes: usize,
    /// Bytes of entries handed to apply and not yet applied.
    pub apply_bytes: usize,
    /// Committed entries that wait for room in the apply queue.
    pub parked: u64,
    /// Its state is being replaced by a snapshot.
    pub installing: bool,
    /// It sleeps: nothing has happened for a while.
    pub asleep: bool,
    /// On a leader with a lease: for so many milliseconds more, unless it is renewed.
    pub lease_ms: Option<u64>,
    /// Why it is quarantined or has stopped, if so. The figures are then those of its end.
    pub damage: Option<String>,
    /// How much it is wanted as the leader.
    pub priority: Priority,
    /// Ticks since it last heard its leader, or gave up waiting for one.
    pub ticks_silent: usize,
    /// How many of them may pass before it campaigns, or waits once more for the preferred member.
    pub ticks_to_campaign: usize,
    /// It does not begin to lead: it has priority 0, others have not, and it has not campaigned as a
    /// last resort.
    pub barred: bool,
    /// On a leader: whom it hands leadership to.
    pub transfer_to: Option<ReplicaId>,
    /// On a leader: how far the others are.
    pub peers: Vec<PeerProgress>,
}

/// How far another member is, as its leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerProgress {
    /// The member.
    pub replica: ReplicaId,
    /// Its store.
    pub store: StoreId,
    /// What it may do.
    pub role: ReplicaRole,
    /// It holds the log up to here.
    pub matched: u64,
    /// The next index to be sent.
    pub next: u64,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// Appends that are not acknowledged.
    pub in_flight: usize,
    /// Nothing more is sent to it before it acknowledges something, or has a snapshot.
    pub paused: bool,
    /// Ticks since it was heard; nothing when it never was by this replica.
    pub ticks_silent: Option<u64>,
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

impl GroupView {
    /// It leads, and another member could.
    #[must_use]
    pub fn leads_others(&self) -> bool {
        let desc = &self.record.desc;
        let could = |r: &ReplicaDesc| {
            r.replica != self.record.replica
                && r.role.votes()
                && desc.priority(r.replica).rank().is_some()
        };
        self.leading && desc.replicas.iter().any(could)
    }
}

/// How full the queues of a store are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Bytes of commands admitted and not yet answered.
    pub proposal_bytes: usize,
    /// Their limit.
    pub proposal_bytes_max: usize,
    /// The disk of the log is slow: leaderships go to other stores.
    pub disk_slow: bool,
    /// Messages from other stores that wait for a shard.
    pub inbox_messages: usize,
    /// Their limit, over all shards.
    pub inbox_messages_max: usize,
    /// Bytes of live log.
    pub log_bytes: u64,
    /// Their limit; writes get `Busy` from 7/8 of it.
    pub log_bytes_max: u64,
    /// How short of room the disk is; nothing while it has enough.
    pub disk_shortage: Option<Shortage>,
}
