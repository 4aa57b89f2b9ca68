//! What a round has to tell of itself, for metrics: noted in passing by replicas, carried out with the
//! round, added to counters by the loop that runs the shard.

use crate::types::Nanos;

/// Something that does not happen with every entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A replica began to ask for votes, or whether it would get them.
    ElectionBegun,
    /// A replica became the leader.
    ElectionWon,
    /// A replica asked whether it would get votes, and did not learn so.
    PreVoteLost,
    /// A replica came to know a leader.
    LeaderFound,
    /// A leader began to hand leadership over, for whatever reason.
    TransferBegun,
    /// It did so because its store's disk is slow.
    TransferFromSlowDisk,
    /// The other leads.
    TransferDone,
    /// It does not, or that is not known.
    TransferFailed,
    /// A change of a group's members or priorities was applied.
    MembersChanged,
    /// A leader began to have a damaged replica rebuilt, by order or by itself.
    RebuildBegun,
    /// A replica was found damaged, or its state machine failed: it takes no part any more.
    ReplicaFailed,
    /// A replica went to sleep.
    Slept,
    /// A write was refused, because of a limit in its shard.
    WriteRefused,
}

impl Event {
    /// All, in the order of their numbers.
    pub const ALL: [Event; 13] = [
        Event::ElectionBegun,
        Event::ElectionWon,
        Event::PreVoteLost,
        Event::LeaderFound,
        Event::TransferBegun,
        Event::TransferFromSlowDisk,
        Event::TransferDone,
        Event::TransferFailed,
        Event::MembersChanged,
        Event::RebuildBegun,
        Event::ReplicaFailed,
        Event::Slept,
        Event::WriteRefused,
    ];
}

/// See the module.
#[derive(Debug, Default)]
pub struct Seen {
    /// In no order.
    pub events: Vec<Event>,
    /// For each entry that was proposed here: from then until it was handed to apply, committed.
    pub replicated: Vec<Nanos>,
    /// For each read context: from its question until a quorum had answered.
    pub reads_confirmed: Vec<Nanos>,
}

/// How much there is of something on a shard at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Replicas that take part.
    pub replicas: u64,
    /// Replicas that are damaged, or whose state machine failed.
    pub failed: u64,
    /// Replicas that sleep.
    pub asleep: u64,
    /// Groups whose leader here has a lease.
    pub leased: u64,
    /// Groups led here whose members are changing.
    pub changing: u64,
    /// Groups whose leadership is being handed over.
    pub transferring: u64,
    /// Followers to which nothing more is sent before they acknowledge something, or have a snapshot.
    pub paused: u64,
    /// Snapshots that are made, or on their way here, or being installed.
    pub snapshots: u64,
    /// Callers that wait for their command.
    pub waiting_proposals: u64,
    /// Callers that wait for a read barrier.
    pub waiting_reads: u64,
    /// Bytes of entries in memory for followers and apply.
    pub cache_bytes: u64,
    /// Bytes of entries handed to apply and not applied.
    pub apply_bytes: u64,
    /// Groups whose committed entries wait for room in the apply queue.
    pub parked: u64,
}

impl Levels {
    pub(crate) fn add(&mut self, other: &Levels) {
        self.replicas += other.replicas;
        self.failed += other.failed;
        self.asleep += other.asleep;
        self.leased += other.leased;
        self.changing += other.changing;
        self.transferring += other.transferring;
        self.paused += other.paused;
        self.snapshots += other.snapshots;
        self.waiting_proposals += other.waiting_proposals;
        self.waiting_reads += other.waiting_reads;
        self.cache_bytes += other.cache_bytes;
        self.apply_bytes += other.apply_bytes;
        self.parked += other.parked;
    }
}
