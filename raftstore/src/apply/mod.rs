//! Apply: committed commands go into the state machine, many groups in one atomic batch.
//!
//! 1. A shard's round emits [`crate::message::ApplyTask`]s: entries with the callers that wait, and
//!    what has become of the replica's role, in their place in the log.
//! 2. The apply worker (`worker.rs`) merges everything queued into one `&mut [GroupApply]`.
//! 3. [`StateMachine::apply`] writes data, applied index and commit in one batch, and answers.
//! 4. The worker tells the callbacks, in order, answers the callers and tells the shards `Applied`.
//!
//! A state in memory is kept in files by [`StateFiles`] (`files.rs`).

mod batch;
mod files;
pub(crate) mod worker;

pub use batch::{ApplyEntry, ApplyError, GroupApply};
pub use files::StateFiles;

use crate::error::{Error, Fatal};
use crate::members::GroupDesc;
use crate::types::{GroupId, LogPosition, ReplicaId};
use std::io::{Read, Write};

/// How far a group's state reaches, as a start finds it.
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
    /// The replica stopped: see [`StateMachine::on_error`], which follows.
    Failed,
    /// The store stops.
    Closing,
}

/// What the replicated commands act on.
///
/// Three methods make a state machine: [`apply`](StateMachine::apply) and the snapshot pair. As it
/// stands such a one is in memory: every start replays the log from its first entry, so the log is
/// never cut, and a replica that once took a snapshot cannot start from what it has. That is for
/// tests and first steps; [`StateFiles`] around it keeps a small state in files, and a large one
/// implements [`recovered`](StateMachine::recovered), [`sync`](StateMachine::sync) and
/// [`destroy`](StateMachine::destroy) over its own storage.
///
/// To be correct, an implementation must:
/// - be deterministic: equal entries give equal state and equal answers on every replica;
/// - write one `apply` call's data, applied indexes and commits atomically per group;
/// - recover, after a crash, a state that some prefix of the applied entries made, with
///   `recovered` telling which (the log replays the rest);
/// - never skip an entry. What concerns one group (a command that it does not understand, data that
///   it finds damaged) is [`GroupApply::fail`]: that replica stops before the entry, the store's other
///   groups go on. What concerns the process (the disk fails) is [`Fatal`] and ends it. A snapshot that is
///   not made or taken because the group's data is damaged is [`Fatal::damage`], which quarantines that
///   replica; who finds damage while he serves reads says [`crate::Store::report_damage`].
///
/// # Order
///
/// `apply`, `destroy` and the `on_…` callbacks of a group are called one at a time and in the order
/// of its log, on the apply thread or, when they are little work, on the shard's; `destroy` on a thread
/// of its own, beside what concerns other groups. A callback must not block: it holds up other groups. The
/// rest says itself when it is called.
///
/// Between a `…_start` and its `…_stop` no other role is told: a replica leads, follows or does
/// neither. An `on_leader_start` is never told when the replica has lost that leadership by the time at
/// which it would be its turn and the loss was told already, so whoever acts upon the last callback is never
/// a leader by an old one. It may lead no longer, though, before it hears so: what must not happen twice
/// (another leader may be at work) needs the term, checked where it takes effect.
pub trait StateMachine: Send + Sync {
    /// Applies a batch of many groups; at most one element per group.
    ///
    /// # Errors
    /// A [`Fatal`] ends the process; see [`GroupApply::fail`] for what concerns one group.
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal>;

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

    /// What of `group` is in the state, but for what is applied since the last `sync`: a start goes on
    /// behind it, and the log is cut no further. Called before the group's first `apply`, and behind
    /// `sync`, beside `apply`. Default: nothing, as for a state in memory.
    fn recovered(&self, _group: GroupId) -> AppliedState {
        AppliedState::default()
    }

    /// Makes everything applied before the call durable. Blocks on the disk; called by the
    /// maintenance thread, and by a snapshot thread that needs a later state, beside `apply` and each other.
    /// Default: there is nothing to do.
    fn sync(&self) -> Result<(), Fatal> {
        Ok(())
    }

    /// This store's replica of `group` was removed: forgets the whole group, durably when it
    /// returns, so that `recovered` finds nothing and a new replica of it may start. Does nothing
    /// when the group is not there. Nothing of the group is applied meanwhile. Blocks on the disk.
    /// Default: nothing, since a new replica begins with `snapshot_load`.
    fn destroy(&self, _group: GroupId) -> Result<(), Fatal> {
        Ok(())
    }

    /// The first index of `group`'s log that must stay, for whoever reads it with
    /// [`crate::Store::read_log`]: neither [`crate::Config::group_log_entries_max`] nor
    /// `group_log_bytes_max` cuts it; near [`crate::Config::log_bytes_max`] writes are refused, those that
    /// only take away ([`crate::Request::Propose`]) last: let go by one of these.
    /// Asked at the start, and behind each `sync` that follows an apply; it may grow only. Default:
    /// `u64::MAX`, nothing has to stay.
    fn log_needed(&self, _group: GroupId) -> u64 {
        u64::MAX
    }

    /// Whether an `apply` now might wait for the disk for long. Shards then leave even small ones
    /// to the apply thread: they must go on with their heartbeats. Default: no.
    fn may_wait(&self) -> bool {
        false
    }

    /// This store's replica of `group` has become leader of `term` and has applied everything
    /// of earlier terms.
    fn on_leader_start(&self, _group: GroupId, _term: u64) {}

    /// It leads no longer.
    fn on_leader_stop(&self, _group: GroupId, _reason: LeaderStop) {}

    /// This store's replica of `group` has begun to follow `leader` in `term`.
    fn on_following_start(&self, _group: GroupId, _leader: ReplicaId, _term: u64) {}

    /// It follows that leader no longer: another one leads, it lost sight of it, or it stops.
    fn on_following_stop(&self, _group: GroupId, _leader: ReplicaId, _term: u64) {}

    /// These are the members: an entry that was just applied, or a snapshot that was just taken, made
    /// them so. Whatever must be stored together with the data belongs into `apply`, which sees
    /// [`ApplyEntry::members`].
    fn on_membership(&self, _group: GroupId, _members: &GroupDesc) {}

    /// This store's replica of `group` has stopped for good, and says why as it does to callers:
    /// [`Error::Stopped`] after [`GroupApply::fail`], [`Error::Quarantined`] when it is damaged. Told
    /// last, behind the end of its role; only `destroy` can follow.
    fn on_error(&self, _group: GroupId, _error: &Error) {}
}
