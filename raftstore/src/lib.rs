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
//! # Embedding it
//!
//! A program brings a [`StateMachine`], starts one [`Store`] with [`StoreBuilder`], creates groups on it,
//! and gives it commands. Three stores in one process, with one group that counts:
//!
//! ```
//! use flotilla_raftstore::{
//!     Answer, Bytes, Config, Fatal, GroupApply, GroupDesc, GroupId, GroupRecord, LogPosition,
//!     MemoryNetwork, ReplicaId, Reply, StateMachine, StoreBuilder, StoreId, SystemClock,
//! };
//! use flotilla_raftstore::{log::MemoryLog, snapshot::MemorySnapshots};
//! use std::io::{Read, Write};
//! use std::sync::{Arc, Mutex};
//! use std::time::{Duration, Instant};
//!
//! /// How far the log is applied, and the sum of all commands.
//! #[derive(Default)]
//! struct Sum(Mutex<(u64, u64)>);
//!
//! impl StateMachine for Sum {
//!     fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
//!         let (applied, sum) = &mut *self.0.lock().unwrap();
//!         for group in batch {
//!             group.each(|_, command| {
//!                 *sum += command.first().copied().map(u64::from).ok_or("an empty command")?;
//!                 Ok(Bytes::from(sum.to_string()))
//!             });
//!             *applied = group.applied().map_or(*applied, |position| position.index);
//!         }
//!         Ok(())
//!     }
//!
//!     fn snapshot_save(&self, _: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
//!         let (applied, sum) = *self.0.lock().unwrap();
//!         out.write_all(&sum.to_le_bytes()).map_err(|e| Fatal::new("save the sum", e))?;
//!         Ok(Some(applied))
//!     }
//!
//!     fn snapshot_load(&self, _: GroupId, at: LogPosition, from: &mut dyn Read) -> Result<(), Fatal> {
//!         let mut sum = [0; 8];
//!         from.read_exact(&mut sum).map_err(|e| Fatal::new("load the sum", e))?;
//!         *self.0.lock().unwrap() = (at.index, u64::from_le_bytes(sum));
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = MemoryNetwork::new();
//! let group = GroupDesc::of_voters(GroupId(1), (1..=3).map(StoreId));
//! let mut stores = Vec::new();
//! for id in 1..=3 {
//!     let store = StoreBuilder {
//!         config: Config { tick_interval_ms: 20, ..Config::default() },
//!         store: StoreId(id),
//!         clock: Arc::new(SystemClock),
//!         transport: network.link(StoreId(id)),
//!         log: MemoryLog::new(),
//!         snapshots: MemorySnapshots::new(),
//!         state_machine: Arc::new(Sum::default()),
//!         on_fatal: Arc::new(|fatal| panic!("{fatal}")),
//!         seed: id,
//!     }
//!     .start()?;
//!     network.join(StoreId(id), Arc::new(store.clone()));
//!     let (reply, created) = Reply::pending();
//!     store.create_group(GroupRecord::new(group.clone(), ReplicaId(id)), reply);
//!     created.wait(Duration::from_secs(10)).ok_or("too slow")??;
//!     stores.push(store);
//! }
//!
//! // The leader, once there is one, takes commands and answers when a majority has them on disk.
//! let deadline = Instant::now() + Duration::from_secs(10);
//! let leader = loop {
//!     let leads = |store: &&flotilla_raftstore::Store| {
//!         store.group(GroupId(1)).is_some_and(|group| group.leading)
//!     };
//!     if let Some(leader) = stores.iter().find(leads) {
//!         break leader;
//!     }
//!     if Instant::now() > deadline {
//!         return Err("no leader".into());
//!     }
//!     std::thread::sleep(Duration::from_millis(10));
//! };
//! let (reply, answer) = Reply::pending();
//! leader.propose(GroupId(1), Bytes::from_static(&[5]), reply);
//! let answer = answer.wait(Duration::from_secs(10)).ok_or("too slow")??;
//! assert_eq!(answer, Answer::Applied(Bytes::from_static(b"5")));
//! stores.iter().for_each(|store| store.shutdown());
//! # Ok(())
//! # }
//! ```
//!
//! From there to production:
//! - **State**: [`StateFiles`] keeps a small one in files; [`StateMachine`] says what one with its own
//!   storage has to promise, and which callbacks there are (leadership, members, errors).
//! - **Log and snapshots**: [`log::open`] and [`SnapshotDir`] instead of those in memory.
//! - **Network**: `transport::grpc` (Cargo feature `grpc`), or any other [`Transport`].
//! - **Requests**: many at once by [`Store::submit`], with one [`Completion`] for all their answers;
//!   [`Pending`] is for one. [`Error`] says what a caller should do.
//! - **Reads**: [`Store::read_barrier`], then read the state. The log itself: [`Store::read_log`].
//! - **Members**: [`Store::change_members`] (priorities, too), [`Store::transfer_leader`],
//!   [`Store::recover`] after a majority is lost, [`Store::snapshot`] by order.
//! - **Stop**: [`Store::hand_over`] moves the leaderships away, then [`Store::shutdown`].
//! - **What it does**: [`Store::describe`], [`Store::metrics`], and `tracing` events.
//!
//! The examples `counter` and `commit_log` are whole programs of three processes.
//!
//! All types here are this library's own, but for [`Bytes`], the `prometheus` registry and, with `grpc`,
//! tokio's runtime handle and tonic's server. The modules
//! [`message`], and [`Shard`], [`LogWriter`], [`ApplyWorker`] and [`SnapshotWorker`], are for those who drive
//! the library without its threads, as a simulator does.
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
//! - **I10** every queue has a limit, with a stated answer when it is full; so has the disk.
//! - **I12** a replica id is never used twice.
//! - **I13** any two successive configurations of a group have intersecting quorums.
//! - **I14** replicas at equal (group, applied) have equal content.
//! - **I15** nobody is elected while another replica's lease holds.
//!
//! (I11 speaks of regions, which live above.)
#![deny(missing_docs)]

pub mod apply;
pub mod clock;
pub mod commands;
mod completion;
pub mod config;
pub mod disk;
pub mod error;
mod events;
pub mod log;
pub mod members;
pub mod message;
mod metrics;
pub mod mutant;
mod offline;
mod pending;
mod recovery;
mod replica;
mod router;
mod shard;
mod slow;
pub mod snapshot;
mod start;
pub mod status;
mod store;
pub mod transport;
mod types;

pub use apply::worker::{ApplyDone, ApplyWorker};
pub use apply::{
    AppliedState, ApplyEntry, ApplyError, GroupApply, LeaderStop, StateFiles, StateMachine,
};
pub use bytes::Bytes;
pub use clock::{Clock, Moment, SystemClock};
pub use completion::{Answer, Completion, OnceCompletion, Outcome, Outcomes, Reply};
pub use config::Config;
pub use disk::{DiskGauge, Shortage, SpareRoom};
pub use error::{Error, Fatal, LogError, ReadLogError, TransferRefusal};
pub use events::{Event, Levels, Seen};
pub use log::reader;
pub use log::writer::{LogDone, LogWriter};
pub use log::{GroupLog, GroupWrite, Install, LogStore};
pub use members::{
    Change, ChangeRefusal, ChangeRequest, GroupDesc, GroupRecord, Membership, OperationId,
    PendingChange, Priority, RecoverRequest, Recovery, ReplicaDesc, ReplicaRole,
};
pub use message::{ReadMode, Request};
pub use offline::{OfflineError, Stranded, go_on_alone, stranded};
pub use pending::Pending;
pub use recovery::{RecoveredGroup, recover};
pub use shard::{ReadCounts, Round, Shard, ShardConfig};
pub use slow::SyncWatch;
pub use snapshot::{SnapshotDir, SnapshotId, SnapshotStore, SnapshotWorker, SyncFailed};
pub use start::{ShardTask, StartError, StoreBuilder};
pub use status::{GroupView, PeerProgress, QueueStatus, ReplicaStatus, Role};
pub use store::Store;
pub use transport::{Alive, Blocks, Envelope, Inbound, MemoryNetwork, Payload, Transport};
pub use types::{
    ClusterId, EntryKind, GroupId, HardState, LogEntry, LogPosition, Nanos, ReplicaId, StoreId,
};
