//! Many Raft groups on one node: one synchronous core, batched effects.
//!
//! # The picture
//!
//! ```text
//!  callers ─► Store ─► router ─► shard inbox        Transport ◄─ sends ─┐
//!                                   │                                   │
//!                                   ▼                                   │
//!                          Shard::round(inbox, now) ─► Round ───────────┤
//!                                   ▲                                   ├─► log writer ─► LogStore
//!                                   └── Persisted, Applied, Fetched ◄───┼─► apply ─► StateMachine
//!                                                                       └─► reader ─► LogStore
//! ```
//!
//! A store is many replicas of many groups. A *shard* owns a fixed subset of them and decides for
//! them in rounds, without I/O; a thin shell of threads carries out what a round wants. So the
//! very same code runs under real threads and under a deterministic simulator. Five seams, each a
//! small object-safe trait, let the world in: [`Clock`], [`Transport`], [`LogStore`],
//! [`SnapshotStore`] and [`StateMachine`]. The library knows groups and bytes, nothing about keys.
//!
//! # Invariants
//!
//! - **I1** one group = one shard = one log order = one apply order.
//! - **I2** no held message leaves before its ready and all earlier ones are durable.
//! - **I3** the cache holds every index above persisted.
//! - **I4** applied ≤ commit and applied ≤ persisted; durable applied ≤ durable commit ≤ durable
//!   last index.
//! - **I5** log start ≤ durable applied + 1, unless a snapshot is being installed.
//! - **I6** "applied" only after the local apply of that (index, term, kind).
//! - **I7** a read is served at applied ≥ its read index.
//! - **I8** the term never goes back, a vote never changes within a term; commit and applied never
//!   go back within a run, nor do their durable values across restarts.
//! - **I9** a failed write or sync ends the process; a damaged replica is quarantined.
//! - **I10** every queue has a limit, with a stated answer when it is full.
//! - **I12** a replica id is never used twice.
//! - **I13** any two successive configurations of a group have intersecting quorums.
//! - **I14** replicas at equal (group, applied) have equal content.
//!
//! (I11 speaks of regions, which live above.)
#![deny(missing_docs)]

pub mod apply;
pub mod clock;
pub mod commands;
mod completion;
pub mod config;
pub mod error;
pub mod log;
pub mod members;
pub mod message;
mod metrics;
pub mod mutant;
mod recovery;
mod replica;
mod router;
mod shard;
pub mod snapshot;
mod start;
pub mod status;
mod store;
pub mod transport;
mod types;

pub use apply::worker::{ApplyDone, ApplyWorker};
pub use apply::{AppliedState, ApplyEntry, GroupApply, LeaderStop, StateMachine};
pub use clock::{Clock, SystemClock};
pub use completion::{Answer, Completion, OnceCompletion, Outcome, Outcomes, Reply};
pub use config::Config;
pub use error::{Error, Fatal, LogError, TransferRefusal};
pub use log::reader;
pub use log::writer::{LogDone, LogWriter};
pub use log::{GroupLog, GroupWrite, Install, LogStore};
pub use members::{
    Change, ChangeRefusal, ChangeRequest, GroupDesc, GroupRecord, Membership, OperationId,
    PendingChange, Priority, ReplicaDesc, ReplicaRole,
};
pub use message::Request;
pub use recovery::{RecoveredGroup, recover};
pub use shard::{Round, Shard, ShardConfig};
pub use snapshot::{SnapshotDir, SnapshotId, SnapshotStore, SnapshotWorker};
pub use start::{ShardTask, StartError, StoreBuilder};
pub use status::{GroupView, PeerProgress, QueueStatus, ReplicaStatus, Role};
pub use store::Store;
pub use transport::{Alive, Blocks, Envelope, Inbound, Payload, Transport};
pub use types::{
    ClusterId, EntryKind, GroupId, HardState, LogEntry, LogPosition, Nanos, ReplicaId, StoreId,
};
