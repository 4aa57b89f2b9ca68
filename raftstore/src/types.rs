//! The words of the library as types: ids, log entries, group descriptions.
//!
//! Everything that crosses a seam ([`crate::Transport`], [`crate::LogStore`],
//! [`crate::StateMachine`]) is made of these; the consensus library's own types stay in `replica/`.

pub use crate::members::{GroupDesc, GroupRecord, ReplicaDesc, ReplicaRole};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
                 Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// One Raft consensus group. Never 0.
    GroupId);
id!(/// One member of a group on one store; unique in the cluster and never used twice. Never 0.
    ReplicaId);
id!(/// One store process with its data folder. Never 0.
    StoreId);
id!(/// Nanoseconds of a [`crate::Clock`]; meaningful only as differences on one machine.
    Nanos);

/// The cluster's 128-bit identity, in every handshake and frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    /// Parses the 32 hexadecimal digits that `Display` prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(ClusterId)
    }
}

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Index, from 1; 0 is before the first entry.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
}

/// What an entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Commands, or nothing (a new leader's first entry).
    Normal,
    /// The members after a change, see [`crate::members`].
    Membership,
}

/// One log entry. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Index, from 1.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// For [`EntryKind::Normal`]: packed commands, see [`crate::commands`]; may be empty. For
    /// [`EntryKind::Membership`]: the group with its members after the change.
    pub data: Bytes,
}

/// Term, vote and commit of a replica as they stand on disk (Raft paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Latest term seen.
    pub term: u64,
    /// Who got this replica's vote in `term`; 0 = nobody.
    pub vote: u64,
    /// Highest index known committed when this was written.
    pub commit: u64,
}
