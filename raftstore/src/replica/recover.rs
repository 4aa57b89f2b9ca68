//! A replica that goes on without its lost majority: the flow is in `members/recover.rs`.
//!
//! The library knows no such thing, so its parts are moved by hand while it follows nobody: term,
//! configuration, one entry, commit index. The next ready then has all of it, and goes to the log as one
//! write with the record. Until that is durable the replica applies nothing, and until it is applied as well the
//! replica neither campaigns nor tells anybody that he has left: a crash before it leaves everything as
//! it was.

use super::Replica;
use super::membership::{alone, sorted};
use super::storage::{CHANGE, conf_state};
use crate::clock::Time;
use crate::completion::{Answer, Reply};
use crate::error::Error;
use crate::members::{ChangeRefusal, RecoverRequest, codec, recovered};
use crate::shard::Round;
use crate::types::{EntryKind, GroupDesc, GroupRecord, LogPosition, ReplicaDesc, ReplicaId};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

/// A recovery that is not applied yet.
pub(super) struct Alone {
    /// The ready whose write has it, once that is under way.
    ready: Option<u64>,
    gone: Vec<ReplicaDesc>,
}

impl Replica {
    /// Goes on as the only voter, if nobody leads. [`Answer::Accepted`] when that is durable and applied.
    pub(crate) fn recover(
        &mut self,
        request: &RecoverRequest,
        reply: Reply,
        time: Time,
        round: &mut Round,
    ) {
        if self.members.alone.is_some() {
            let what = "a recovery is being written";
            return reply.send(Err(Error::Busy { group: self.group(), what }));
        }
        let desc = &self.record.desc;
        let known = desc.membership.operations.contains(&request.operation);
        // Else the id was another order's.
        if known && desc.has_quorum(|member| !request.gives_up(member)) {
            return reply.send(Ok(Answer::Accepted));
        }
        match self.judge_recovery(request, time) {
            Ok(next) => self.go_on_alone(next, reply, round),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn judge_recovery(&self, request: &RecoverRequest, time: Time) -> Result<GroupDesc, Error> {
        let group = self.group();
        let leader = self.leader_id();
        // It may still be believed to live. Damage may have been found in error: who leads is not gone.
        let lost = |r: ReplicaDesc| request.lost.contains(&r.store);
        if leader != ReplicaId::default() && !self.record.desc.replica(leader).is_some_and(lost) {
            return Err(Error::Refused { group, refusal: ChangeRefusal::Led { leader } });
        }
        // Someone may hold a lease on the strength of it.
        if self.keeps_still(time) {
            let what = "it has promised to help nobody but its leader for a moment still; if that stays so, \
                        a lost store still runs: stop it";
            return Err(Error::Busy { group, what });
        }
        if self.lacks_beginning() {
            let refusal = ChangeRefusal::NeverBegan { replica: self.me.replica };
            return Err(Error::Refused { group, refusal });
        }
        if self.snapshots.installing() || self.raw.raft.raft_log.unstable_snapshot().is_some() {
            return Err(Error::Busy { group, what: "its state is being replaced by a snapshot" });
        }
        // The members may be others once they are, also if they are not durable here yet. What is not known as
        // committed changes nobody's vote, and is left out: see `apply_members`.
        if !self.feed.has_handed(self.raw.raft.raft_log.committed) {
            return Err(Error::Busy { group, what: "committed entries wait to be applied" });
        }
        recovered(&self.record.desc, self.me.replica, request)
            .map_err(|refusal| Error::Refused { group, refusal })
    }

    fn go_on_alone(&mut self, mut next: GroupDesc, reply: Reply, round: &mut Round) {
        let (group, replica) = (self.group().0, self.me.replica.0);
        let raft = &mut self.raw.raft;
        let last = match crate::mutant::active("recovery_drops_tail") {
            true => raft.raft_log.committed,
            false => raft.raft_log.last_index(),
        };
        let (index, term) = (last + 1, raft.term + 1);
        tracing::warn!(group, replica, index, term, "goes on without a lost majority");
        next.membership.position = LogPosition { index, term };
        raft.become_follower(term, raft::INVALID_ID);
        for step in alone(&self.record.desc, &next) {
            let applied = self.raw.apply_conf_change(&step);
            applied.unwrap_or_else(|e| panic!("group {group}: forced members: {e}"));
        }
        let raft = &mut self.raw.raft;
        let held = sorted(raft.prs().conf().to_conf_state());
        assert_eq!(held, conf_state(&next), "group {group}: forced members: {next:?}");
        raft.raft_log.append(&[Entry {
            entry_type: EntryType::EntryConfChangeV2,
            data: Bytes::from_static(CHANGE),
            context: codec::encode(&next),
            index,
            term,
            ..Entry::default()
        }]);
        raft.raft_log.commit_to(index);
        self.await_outcome(index, EntryKind::Membership, vec![reply]);
        let before = self.record.desc.replicas.iter().copied();
        let gone = before.filter(|r| r.replica != self.me.replica).collect();
        self.members.alone = Some(Box::new(Alone { ready: None, gone }));
        self.adopt(next, round);
    }

    /// The entry that recovered the group is applied, so it is durable: those who have left may know.
    pub(super) fn went_on_alone(&mut self, round: &mut Round) {
        for gone in self.members.alone.take().into_iter().flat_map(|alone| alone.gone) {
            round.send(gone.store, self.members_note(gone.replica));
        }
    }

    /// The record, if the write of the ready `number` is the one with the entry that recovers the group.
    pub(super) fn record_due(&mut self, number: u64) -> Option<GroupRecord> {
        let alone = self.members.alone.as_mut().filter(|alone| alone.ready.is_none())?;
        alone.ready = Some(number);
        Some(self.record.clone())
    }

    /// What only a recovery has made committed waits for it to be durable: entries that are on the disk
    /// already might be overwritten after a crash that undoes it.
    pub(super) fn is_recovery_unwritten(&self) -> bool {
        let unwritten = |alone: &Alone| alone.ready.is_none_or(|n| self.unpersisted.contains(&n));
        self.members.alone.as_deref().is_some_and(unwritten)
            && !crate::mutant::active("recovery_applied_early")
    }
}
