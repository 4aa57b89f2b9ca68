//! Many Raft groups on one node: one synchronous core, batched effects.
#![deny(missing_docs)]

pub mod apply;
pub mod clock;
pub mod commands;
mod completion;
pub mod config;
pub mod error;
pub mod log;
pub mod message;
pub mod mutant;
pub mod status;
pub mod transport;
mod types;

pub use apply::{ApplyEntry, AppliedState, GroupApply, LeaderStop, StateMachine};
pub use clock::{Clock, SystemClock};
pub use completion::{Answer, Completion, OnceCompletion, Outcome, Reply};
pub use config::Config;
pub use error::{Error, Fatal, LogError};
pub use log::{GroupLog, GroupWrite, LogStore};
pub use message::Request;
pub use status::{ReplicaStatus, Role};
pub use transport::{Envelope, Inbound, Payload, Transport};
pub use types::{
    ClusterId, EntryKind, GroupDesc, GroupId, GroupRecord, HardState, LogEntry, LogPosition, Nanos,
    ReplicaDesc, ReplicaId, ReplicaRole, StoreId,
};
