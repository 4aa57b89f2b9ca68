//! Apply: committed commands go into the state machine, many groups in one atomic batch.
//!
//! 1. A shard's round emits one [`crate::message::ApplyTask`] a group, with the callers that wait.
//! 2. The apply worker (`worker.rs`) merges everything queued into one `&mut [GroupApply]`.
//! 3. [`StateMachine::apply`] writes data, applied index and commit in one batch, and answers.
//! 4. The worker answers the callers and tells the shards `Applied`.

pub(crate) mod worker;

use crate::error::Fatal;
use crate::members::GroupDesc;
use crate::types::{GroupId, LogPosition};
use bytes::Bytes;
use std::io::{Read, Write};
use std::sync::Arc;

/// One committed entry with its commands, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyEntry {
    /// Place of the entry in the log.
    pub position: LogPosition,
    /// The commands of [`crate::Store::propose`], in order; empty for a leader's first entry.
    pub commands: Vec<Bytes>,
    /// The members from here on, when this entry changes them; it has no commands then.
    pub members: Option<Arc<GroupDesc>>,
}

/// One group's share of an apply batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupApply {
    /// The group.
    pub group: GroupId,
    /// Contiguous entries, right after what was applied before.
    pub entries: Vec<ApplyEntry>,
    /// To be stored with the data: the smaller of commit and persisted index (never below the
    /// last entry here), and its term.
    pub commit: LogPosition,
    /// Callers wait: fill `answers`. On followers nobody does, and the work can be saved.
    pub answer: bool,
    /// Filled by [`StateMachine::apply`] when `answer`: one a command, over all entries in order.
    pub answers: Vec<Bytes>,
}

/// How far a group's durable state reaches, read at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedState {
    /// Last applied index in the recovered state; 0 for a new group.
    pub applied: u64,
    /// As stored with it.
    pub commit: LogPosition,
}

/// Why a leader stopped leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderStop {
    /// Another replica leads, or an election runs, in this term.
    SteppedDown {
        /// The new term.
        term: u64,
    },
    /// The replica is no member any more.
    Removed,
    /// The store stops.
    Closing,
}

/// What the replicated commands act on.
///
/// To be correct, an implementation must:
/// - be deterministic: equal entries give equal state and equal answers on every replica;
/// - write one `apply` call's data, applied indexes and commits atomically per group;
/// - recover, after a crash, a state that some prefix of the applied entries made, with
///   `recovered` telling which (the log replays the rest);
/// - never skip an entry: an error is [`Fatal`].
///
/// `apply` and the callbacks are called by one apply thread at a time per group, in log order.
pub trait StateMachine: Send + Sync {
    /// What `group` holds after recovery; called before its first `apply`.
    fn recovered(&self, group: GroupId) -> AppliedState;

    /// Applies a batch of many groups; at most one element per group.
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal>;

    /// Makes everything applied before the call durable. Blocks on the disk; called by the
    /// maintenance thread, beside `apply`.
    fn sync(&self) -> Result<(), Fatal>;

    /// This store's replica of `group` was removed: forgets the whole group, durably when it
    /// returns, so that `recovered` finds nothing and a new replica of it may start. Does nothing
    /// when the group is not there. Nothing of the group is applied meanwhile. Blocks on the disk.
    fn destroy(&self, group: GroupId) -> Result<(), Fatal>;

    /// Writes the state of `group` as it was at one moment to `out`, and gives the last index that is in
    /// it; `None` when nothing is applied yet. The moment may be an earlier one: not before the last
    /// `sync` that has returned.
    ///
    /// Called by a snapshot thread beside `apply` and `sync`, which must not wait for it: hold no lock
    /// while writing. `out` blocks, on the disk and to keep a rate; an error of `out` may be given
    /// on as any [`Fatal`], the library tells it apart. What is written is read by other
    /// replicas, of other versions too: begin it with a format.
    fn snapshot_save(&self, group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal>;

    /// Replaces whatever is here of `group` by what `snapshot_save` wrote on another replica.
    /// Afterwards [`StateMachine::recovered`] tells `position` as applied and committed, and everything is
    /// durable.
    ///
    /// Called by a snapshot thread, or by a start before everything else; nothing of the group is applied
    /// meanwhile. It need not be atomic: after a crash in the middle it is called again with the
    /// same snapshot, unless `recovered` already tells `position.index`, so store that last. An error of
    /// `from` may be given on as any [`Fatal`].
    fn snapshot_load(
        &self,
        group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal>;

    /// Whether an `apply` now might wait for the disk for long. Shards then leave even small ones
    /// to the apply thread: they must go on with their heartbeats.
    fn may_wait(&self) -> bool {
        false
    }

    /// This store's replica of `group` has become leader of `term` and has applied everything
    /// of earlier terms.
    fn on_leader_start(&self, _group: GroupId, _term: u64) {}

    /// It leads no longer.
    fn on_leader_stop(&self, _group: GroupId, _reason: LeaderStop) {}

    /// An entry that was just applied made these the members. Whatever must be stored together
    /// with the data belongs into `apply`, which sees [`ApplyEntry::members`].
    fn on_membership(&self, _group: GroupId, _members: &GroupDesc) {}
}
