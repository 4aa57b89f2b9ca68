//! Errors, by what the caller should do; and the fatal ones, which end the process.

use crate::disk::Shortage;
use crate::members::ChangeRefusal;
use crate::types::{GroupId, ReplicaDesc, ReplicaId, ReplicaRole, StoreId};

/// Why a request was not answered with a result.
///
/// Every variant but [`Error::Unknown`] and [`Error::Failed`] means: *not applied*, now or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Ask the leader, if one is known.
    #[error("group {group}: not the leader{}", hint_text(.leader))]
    NotLeader {
        /// The group asked for.
        group: GroupId,
        /// Its leader as last heard here.
        leader: Option<ReplicaDesc>,
    },
    /// A queue or limit is full; back off and try again.
    #[error("group {group}: busy: {what}")]
    Busy {
        /// The group asked for.
        group: GroupId,
        /// Which limit.
        what: &'static str,
    },
    /// Too little room is left on the disks of the group's members for what takes room. What only takes
    /// away is let through; the rest again when there is room.
    #[error(
        "group {group}: the disk of store {store} is nearly full: {shortage}; delete records, or free \
         or add room there; reads and deletes go on, and writes as soon as there is room"
    )]
    DiskFull {
        /// The group asked for.
        group: GroupId,
        /// One of the stores without which no quorum has room.
        store: StoreId,
        /// How much it has, and should have.
        shortage: Shortage,
    },
    /// The write may or may not be applied: leadership was lost before its outcome was seen.
    #[error("group {group}: outcome unknown: leadership was lost before the entry committed")]
    Unknown {
        /// The group asked for.
        group: GroupId,
    },
    /// No such group here; refresh routes.
    #[error("group {group}: not on this store")]
    NoGroup {
        /// The group asked for.
        group: GroupId,
    },
    /// The replica is quarantined after damage; ask another.
    #[error("group {group}: this replica is quarantined: {reason}")]
    Quarantined {
        /// The group asked for.
        group: GroupId,
        /// What is damaged.
        reason: String,
    },
    /// The state machine failed before, and this replica stopped at that entry; ask another.
    #[error(
        "group {group}: this replica stopped at entry {index}: its state machine failed: {reason}"
    )]
    Stopped {
        /// The group asked for.
        group: GroupId,
        /// The entry that was not applied.
        index: u64,
        /// As told by the state machine.
        reason: String,
    },
    /// The state machine failed here when the command was on its way through the log: another
    /// replica may apply it, or may not.
    #[error("group {group}: outcome unknown: the state machine failed at entry {index}: {reason}")]
    Failed {
        /// The group asked for.
        group: GroupId,
        /// The entry that was not applied: the command's own, or one before it.
        index: u64,
        /// As told by the state machine.
        reason: String,
    },
    /// The request itself is wrong; do not repeat it.
    #[error("group {group}: invalid: {reason}")]
    Invalid {
        /// The group asked for.
        group: GroupId,
        /// Which field, which value, what to do.
        reason: String,
    },
    /// A membership change that cannot be: nothing was changed.
    #[error("group {group}: membership change refused: {refusal}")]
    Refused {
        /// The group asked for.
        group: GroupId,
        /// Which rule, which value, what to do.
        refusal: ChangeRefusal,
    },
    /// A leader transfer that cannot be, or was not done in time.
    #[error("group {group}: leadership not transferred: {refusal}")]
    NotTransferred {
        /// The group asked for.
        group: GroupId,
        /// Why, and what to do.
        refusal: TransferRefusal,
    },
    /// A bounded read, and nothing shows that the state here is young enough. Ask another replica, or
    /// allow more.
    #[error(
        "group {group}: the state here may be older than {bound_ms} ms, and no leader tells: ask \
         another replica, or allow more"
    )]
    TooOld {
        /// The group asked for.
        group: GroupId,
        /// As asked.
        bound_ms: u64,
    },
    /// The store is stopping.
    #[error("the store is stopping")]
    Closed,
}

/// Why leadership was not handed over. From [`TransferRefusal::Silent`] on, it was tried for one
/// election timeout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefusal {
    /// No such member.
    #[error("replica {replica} is not a member: choose one of the group's")]
    NotMember {
        /// As asked.
        replica: ReplicaId,
    },
    /// It has the leadership.
    #[error("replica {replica} leads already")]
    Leads {
        /// As asked.
        replica: ReplicaId,
    },
    /// Only voters lead.
    #[error("replica {replica} has the role {role}: only a voter leads, so promote it first")]
    NotVoter {
        /// As asked.
        replica: ReplicaId,
        /// What it is.
        role: ReplicaRole,
    },
    /// Its priority forbids it.
    #[error("replica {replica} has priority 0 and is not to lead: give it another priority first")]
    NeverLeads {
        /// As asked.
        replica: ReplicaId,
    },
    /// It is being rebuilt.
    #[error("replica {replica} is being rebuilt: choose another")]
    GivesWay {
        /// As asked.
        replica: ReplicaId,
    },
    /// Its writes would be slow.
    #[error(
        "replica {replica} is on store {store}, whose disk is slow: choose another, or wait until it \
         is fast again"
    )]
    SlowDisk {
        /// As asked.
        replica: ReplicaId,
        /// Its store.
        store: StoreId,
    },
    /// It would give leadership away again.
    #[error(
        "the disk of store {store}, where replica {replica} is, is nearly full: {shortage}; choose \
         another one, or make room there first"
    )]
    DiskFull {
        /// As asked.
        replica: ReplicaId,
        /// Its store.
        store: StoreId,
        /// How much that has, and should have.
        shortage: Shortage,
    },
    /// One at a time.
    #[error("leadership is being handed to replica {to}: wait until that is over")]
    UnderWay {
        /// Whom the other transfer goes to.
        to: ReplicaId,
    },
    /// Nothing is heard of it.
    #[error("replica {replica} is silent: bring its store back first; the leader goes on")]
    Silent {
        /// As asked.
        replica: ReplicaId,
    },
    /// It did not catch up in time.
    #[error(
        "replica {replica} lags, with index {matched} of {commit}: try again once it has caught \
         up; the leader goes on"
    )]
    Lags {
        /// As asked.
        replica: ReplicaId,
        /// What it holds.
        matched: u64,
        /// What is committed.
        commit: u64,
    },
    /// It was told and did not take over in time.
    #[error("replica {replica} did not take over in time: try again; the leader goes on")]
    NotTaken {
        /// As asked.
        replica: ReplicaId,
    },
    /// Somebody else was elected meanwhile.
    #[error("replica {leader} was elected instead of replica {replica}: ask that one")]
    Elsewhere {
        /// As asked.
        replica: ReplicaId,
        /// Who leads.
        leader: ReplicaId,
    },
}

fn hint_text(leader: &Option<ReplicaDesc>) -> String {
    match leader {
        Some(l) => format!("; it is replica {} on store {}", l.replica, l.store),
        None => String::new(),
    }
}

impl Error {
    /// Whether the request may take effect all the same, now or later.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown { .. } | Error::Failed { .. })
    }
}

/// An error that this process must not survive: after it, memory and disk may differ.
///
/// The first failed sync is one: never retried, because the kernel may have dropped the pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fatal: {what}: {reason}")]
pub struct Fatal {
    /// The operation that failed.
    pub what: String,
    /// The cause as told by the operation.
    pub reason: String,
    /// What was read back is not what was written. Where that is the data of one group only, its
    /// replica is quarantined instead, and the process goes on.
    pub damage: bool,
}

impl Fatal {
    /// A fatal error of operation `what` with its cause.
    pub fn new(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Fatal { what: what.into(), reason: reason.to_string(), damage: false }
    }

    /// The same for data that is found damaged.
    pub fn damage(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Fatal { damage: true, ..Fatal::new(what, reason) }
    }
}

/// Why committed entries were not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadLogError {
    /// Nothing of the group is on this store.
    #[error("group {group}: not on this store")]
    NoGroup {
        /// The group asked for.
        group: GroupId,
    },
    /// It comes later, if ever: wait for the state machine to be given it.
    #[error("group {group}: entry {from} is not there yet: applied here up to {applied}")]
    NotYet {
        /// The group asked for.
        group: GroupId,
        /// The first index asked for.
        from: u64,
        /// The last index that can be read.
        applied: u64,
    },
    /// The log is cut there: [`crate::StateMachine::log_needed`] did not hold it, or a snapshot brought the
    /// replica here. Go on at `first`, or ask another replica.
    #[error("group {group}: entry {from} is cut: the log begins at {first}")]
    Cut {
        /// The group asked for.
        group: GroupId,
        /// The first index asked for.
        from: u64,
        /// The first index that is in the log.
        first: u64,
    },
    /// The log is damaged, or the disk fails.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a log could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The entries are no longer there: truncated behind the state machine.
    #[error("group {group}: entries up to {truncated} are truncated")]
    Compacted {
        /// The group read.
        group: GroupId,
        /// Last removed index.
        truncated: u64,
    },
    /// A hole, a checksum that does not match or a record that does not parse: never silently cut.
    #[error("group {group}: damaged log: {reason}")]
    Damaged {
        /// The group read.
        group: GroupId,
        /// What is wrong, and where.
        reason: String,
    },
    /// The device failed, or the whole store's files are damaged.
    #[error("log store: {0}")]
    Io(String),
}
