//! How an operation can end badly, told apart by what the caller should do next.

use std::fmt;

use crate::pb;

/// The result of every call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which an operation ends other than well.
///
/// Only [`Error::Unknown`] leaves open whether a write took place. After it, read the key first and
/// write again only if that is still wanted: a write that was merely late may still take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The arguments break a limit; found before anything was sent, or by the server. Sending the
    /// same again is of no use.
    #[error("invalid: {message}")]
    Invalid {
        /// Which limit, with the size that broke it.
        message: String,
    },
    /// A server refused until the deadline. Nothing was applied and nothing will be.
    #[error("not applied ({kind}): {message}")]
    NotApplied {
        /// Why the last attempt was refused.
        kind: Refusal,
        /// The server's words.
        message: String,
    },
    /// A write was sent and no answer came: it may have been applied, or may still be. The client
    /// never sends such a write again.
    #[error("outcome unknown: {message}")]
    Unknown {
        /// What happened to the connection or the answer.
        message: String,
    },
    /// No server could be asked in time, or a read got no answer in time. Nothing was applied.
    #[error("unavailable: {message}")]
    Unavailable {
        /// The last obstacle, with its address.
        message: String,
    },
}

/// Why a server refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No leader of the region was found before the deadline.
    NotLeader,
    /// The region's range or members kept changing until the deadline.
    EpochNotMatch,
    /// A queue is full: on the server, or the client's own limit of operations in flight.
    Busy,
    /// The disks of the region's stores have too little room for what takes room; deletes are taken.
    DiskFull,
    /// The store is stopping.
    Closed,
    /// An operator's order that cannot be carried out as things are.
    Refused,
    /// No replica could show that it is as young as the read's bound asks.
    TooOld,
}

impl Error {
    /// The stable name that scripts see in `kv --json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Invalid { .. } => "invalid",
            Error::NotApplied { kind, .. } => kind.name(),
            Error::Unknown { .. } => "unknown",
            Error::Unavailable { .. } => "unavailable",
        }
    }

    /// `Some(false)` if it is certain that nothing was applied, `None` if that is unknown.
    pub fn applied(&self) -> Option<bool> {
        match self {
            Error::Unknown { .. } => None,
            _ => Some(false),
        }
    }

    /// The text without the kind in front.
    pub fn message(&self) -> &str {
        match self {
            Error::Invalid { message }
            | Error::NotApplied { message, .. }
            | Error::Unknown { message }
            | Error::Unavailable { message } => message,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::Invalid { message: message.into() }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Error::Unavailable { message: message.into() }
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Error::Unknown { message: message.into() }
    }
}

impl Refusal {
    /// The stable name that scripts see in `kv --json`.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NotLeader => "not_leader",
            Refusal::EpochNotMatch => "epoch_not_match",
            Refusal::Busy => "busy",
            Refusal::DiskFull => "disk_full",
            Refusal::Closed => "closed",
            Refusal::Refused => "refused",
            Refusal::TooOld => "too_old",
        }
    }

    /// The refusals among the server's error kinds; the others are not refusals.
    pub(crate) fn from_pb(kind: pb::error::Kind) -> Option<Self> {
        match kind {
            pb::error::Kind::NotLeader => Some(Refusal::NotLeader),
            pb::error::Kind::EpochNotMatch => Some(Refusal::EpochNotMatch),
            pb::error::Kind::Busy => Some(Refusal::Busy),
            pb::error::Kind::DiskFull => Some(Refusal::DiskFull),
            pb::error::Kind::Closed => Some(Refusal::Closed),
            pb::error::Kind::Refused => Some(Refusal::Refused),
            pb::error::Kind::TooOld => Some(Refusal::TooOld),
            pb::error::Kind::Unspecified | pb::error::Kind::Invalid | pb::error::Kind::Unknown => {
                None
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
