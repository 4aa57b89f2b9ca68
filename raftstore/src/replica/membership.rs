//! The members, as this replica applies their changes and, while it leads, drives them on. The
//! flow is in [`crate::members`].
//!
//! Once a tick a leader tells learners that it never heard of about themselves, switches when all
//! that join have caught up, and leaves a joint configuration. All it goes by is the replicated
//! description, so any leader goes on where the last one stopped.

use super::by_member::ByMember;
use super::recover::Alone;
use super::storage::{CHANGE, LEAVE, conf_state};
use super::{Refused, Replica};
use crate::completion::{Answer, Reply};
use crate::error::Error;
use crate::events::Event;
use crate::log::GroupWrite;
use crate::members::{
    Begun, Change, ChangeRefusal, ChangeRequest, Live, OperationId, begin, codec, leave,
    may_switch, switch,
};
use crate::message::LogTask;
use crate::shard::Round;
use crate::transport::{Envelope, Payload};
use crate::types::{
    EntryKind, GroupDesc, GroupRecord, LogEntry, LogPosition, ReplicaDesc, ReplicaId, ReplicaRole,
    StoreId,
};
use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType,
};
use raft::{ProgressState, StateRole};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Senders that are not members yet and may be answered.
const STRANGERS_MAX: usize = 64;
/// Election timeouts for which a leader that leaves tries to hand leadership over first.
const HAND_OVER_TIMEOUTS: u64 = 3;

/// See the module.
#[derive(Default)]
pub(super) struct Members {
    pub(super) ticks: u64,
    /// A tick has passed since the leader last looked.
    due: bool,
    /// The tick at which each member was last heard.
    heard: ByMember<u64>,
    /// Members that this replica's log does not know yet, and their stores.
    strangers: BTreeMap<ReplicaId, StoreId>,
    /// Removed senders that were told so since the last tick.
    told: BTreeSet<ReplicaId>,
    /// Callers whose entry is on its way through apply, by its index.
    callers: VecDeque<(u64, Vec<Reply>)>,
    /// The commit index at the leader's last look.
    commit_before: Option<u64>,
    /// The tick at which this leader found itself in a joint configuration.
    joint_since: Option<u64>,
    /// Another half of the group is known, and was told of.
    parted: bool,
    /// A recovery without the majority is under way.
    pub(super) alone: Option<Box<Alone>>,
    /// This replica has applied its own removal.
    pub(super) removed: bool,
}

impl Members {
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.due = true;
        self.told.clear();
    }

    /// A message came from `replica` on `store`.
    pub(super) fn heard(&mut self, replica: ReplicaId, store: StoreId, is_member: bool) {
        if is_member {
            *self.heard.entry(replica) = self.ticks;
        } else if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(replica, store);
        }
    }

    /// While no time went by here, their stores were heard so many ticks ago. Who was silent before stays so: a store
    /// may live whose replica does not.
    pub(super) fn slept(&mut self, others: &[(ReplicaId, u64)]) {
        for (member, silence) in others {
            let Some(before) = self.heard.get(*member).copied() else { continue };
            match self.ticks.checked_sub(*silence) {
                Some(at) => *self.heard.entry(*member) = at.min(before),
                None => self.heard.retain(|one| one != *member),
            }
        }
    }

    /// Answers the callers whose entries are applied.
    pub(super) fn applied(&mut self, index: u64) {
        while self.callers.front().is_some_and(|(at, _)| *at <= index) {
            let (_, callers) = self.callers.pop_front().expect("just seen");
            callers.into_iter().for_each(|reply| reply.send(Ok(Answer::Accepted)));
        }
    }

    pub(super) fn await_applied(&self) -> bool {
        !self.callers.is_empty()
    }

    pub(super) fn close(&mut self, error: &Error) {
        let callers = self.callers.drain(..).flat_map(|(_, callers)| callers);
        callers.for_each(|reply| reply.send(Err(error.clone())));
    }
}

impl Replica {
    /// Takes an operator's request.
    pub(crate) fn change_members(&mut self, request: &ChangeRequest, reply: Reply) {
        let operation = request.operation;
        if operation.is_reserved() {
            let refusal = ChangeRefusal::OperationReserved { operation };
            return reply.send(Err(Error::Refused { group: self.group(), refusal }));
        }
        match self.judge(request) {
            Ok(Begun::Before) => reply.send(Ok(Answer::Accepted)),
            Ok(Begun::Next(next)) => {
                let rebuilds = |change: &&Change| matches!(change, Change::Rebuild { .. });
                let rebuilds = request.changes.iter().filter(rebuilds);
                self.events.extend(rebuilds.map(|_| Event::RebuildBegun));
                self.propose_members(&next, vec![reply]);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn judge(&mut self, request: &ChangeRequest) -> Result<Begun, Error> {
        let group = self.group();
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(Error::Busy { group, what: "leadership is being handed over" });
        }
        if crate::mutant::active("second_change_while_pending") {
            self.raw.raft.pending_conf_index = 0;
        }
        if self.is_unsettled() {
            let what = "an earlier membership change may not be applied here yet";
            return Err(Error::Busy { group, what });
        }
        let is_live = |replica| self.is_live(replica);
        let live = Live { me: self.me.replica, is_live: &is_live };
        begin(&self.record.desc, request, &live)
            .map_err(|refusal| Error::Refused { group, refusal })
    }

    /// This leader may not know the latest members yet, or an entry of its own term is not
    /// committed, without which a simple change could meet one of another leader.
    fn is_unsettled(&self) -> bool {
        self.raw.raft.has_pending_conf() || !self.raw.raft.commit_to_current_term()
    }

    /// A change of the members is under way, or may be.
    pub(super) fn changes_members(&self) -> bool {
        self.record.desc.membership.pending.is_some() || self.switches_members()
    }

    /// The members are just becoming others, or may be; not so while those who join catch up, which may take for ever.
    pub(super) fn switches_members(&self) -> bool {
        self.record.desc.is_joint() || self.is_unsettled()
    }

    pub(super) fn is_live(&self, replica: ReplicaId) -> bool {
        let recent = |at: &u64| self.members.ticks - at <= self.config.election_ticks as u64;
        replica == self.me.replica || self.members.heard.get(replica).is_some_and(recent)
    }

    /// Ticks since `replica` was heard.
    pub(super) fn ticks_silent(&self, replica: ReplicaId) -> Option<u64> {
        self.members.heard.get(replica).map(|at| self.members.ticks - at)
    }

    fn propose_members(&mut self, next: &GroupDesc, callers: Vec<Reply>) {
        let stand_in = if self.record.desc.is_joint() { LEAVE } else { CHANGE };
        let entry = Entry {
            entry_type: EntryType::EntryConfChangeV2,
            data: Bytes::from_static(stand_in),
            context: codec::encode(next),
            ..Entry::default()
        };
        self.propose_entry(entry, EntryKind::Membership, callers);
    }

    /// Takes a committed membership entry: the library's configuration and the record follow it,
    /// unless they did before a restart. Gives the members for the state machine.
    pub(super) fn apply_members(
        &mut self,
        entry: &LogEntry,
        callers: Vec<Reply>,
        round: &mut Round,
    ) -> Arc<GroupDesc> {
        let (group, index) = (self.group(), entry.index);
        // Made by a leader of this cluster and checked on every hop and read.
        let mut next = codec::decode(&entry.data)
            .unwrap_or_else(|e| panic!("group {group}: committed entry {index}: {e}"));
        next.membership.position = LogPosition { index, term: entry.term };
        let known = &self.record.desc.membership;
        // A recovery left it out: whoever asked for it hears that its outcome is unknown.
        let left_out = index < known.position.index;
        let callers = if left_out { Vec::new() } else { callers };
        self.members.callers.push_back((index, callers));
        let again = crate::mutant::active("members_applied_twice");
        if index <= known.position.index && !again {
            if index == known.position.index {
                self.went_on_alone(round);
            }
            return Arc::new(next);
        }
        let version = known.version + 1;
        assert_eq!(next.membership.version, version, "group {group}: I13 at entry {index}");
        for step in steps(&self.record.desc, &next) {
            let applied = self.raw.apply_conf_change(&step);
            applied.unwrap_or_else(|e| panic!("group {group}: I13 at entry {index}: {e}"));
        }
        let held = self.raw.raft.prs().conf().to_conf_state();
        let before = &self.record.desc;
        assert_eq!(
            sorted(held),
            conf_state(&next),
            "group {group}: I13 at entry {index}: {before:?} becomes {next:?}"
        );
        self.events.push(Event::MembersChanged);
        self.follow(next, round);
        Arc::clone(&self.record.desc)
    }

    /// The members are `next` from now on, by an entry.
    fn follow(&mut self, next: GroupDesc, round: &mut Round) {
        self.adopt(next, round);
        if self.members.removed {
            return;
        }
        round.log.push(LogTask {
            shard: round.shard,
            replica: self.me.replica,
            write: GroupWrite {
                group: self.group(),
                record: Some(self.record.clone()),
                ..GroupWrite::default()
            },
            ready: 0,
            held: Vec::new(),
            created: Vec::new(),
        });
        let campaigns =
            matches!(self.raw.raft.state, StateRole::Candidate | StateRole::PreCandidate);
        if (self.is_leader() && self.me.role.learns()) || (campaigns && self.never_leads()) {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
    }

    /// The members are `next` from now on; the record is still to be written.
    pub(super) fn adopt(&mut self, next: GroupDesc, round: &mut Round) {
        let before = std::mem::replace(&mut self.record.desc, Arc::new(next));
        let desc = &self.record.desc;
        let replica_max = desc.replica_max();
        self.members.strangers.retain(|replica, _| *replica > replica_max);
        self.members.heard.retain(|replica| desc.replica(replica).is_some());
        self.durable.retain(|replica| desc.replica(replica).is_some());
        self.acknowledged.retain(|replica| desc.replica(ReplicaId(*replica)).is_some());
        self.members.joint_since = None;
        self.lease.recount();
        if self.is_leader() {
            let left = |r: &&ReplicaDesc| self.record.desc.replica(r.replica).is_none();
            for gone in before.replicas.iter().filter(left) {
                round.send(gone.store, self.members_note(gone.replica));
            }
        }
        let Some(me) = self.record.desc.replica(self.me.replica) else {
            // Left alone, the leader would answer reads by itself (trap 15).
            self.members.removed =
                !(self.is_leader() && crate::mutant::active("removed_leader_serves"));
            return;
        };
        self.me = me;
        round.views.push(self.group_view());
    }

    /// A member says that it is damaged: if the others can do without it, a new one takes its place.
    pub(crate) fn replace_damaged(&mut self, replica: ReplicaId) {
        if !self.config.rebuild_damaged || self.record.desc.replica(replica).is_none() {
            return;
        }
        // The last id of all is refused as a used one.
        let new = ReplicaId(self.record.desc.replica_max().0.saturating_add(1));
        let request = ChangeRequest {
            operation: OperationId::of_rebuild(replica),
            changes: vec![Change::Rebuild { replica, new }],
            force: false,
        };
        match self.judge(&request) {
            Ok(Begun::Before) => {}
            Ok(Begun::Next(next)) => {
                let (group, id) = (self.group().0, replica.0);
                tracing::warn!(group, replica = id, new = new.0, "rebuilds a damaged replica");
                self.events.push(Event::RebuildBegun);
                self.propose_members(&next, Vec::new());
            }
            // It says so again.
            Err(error) => tracing::debug!(replica = replica.0, %error, "not rebuilt yet"),
        }
    }

    /// What a replica has to know that may not be a member, or not yet.
    pub(super) fn members_note(&self, to: ReplicaId) -> Envelope {
        members_note(&self.record, to)
    }

    /// Tells a sender that was removed, once a tick; in its sleep, each time.
    pub(crate) fn tell_removed(&mut self, from: ReplicaId, store: StoreId, round: &mut Round) {
        // What a recovery makes of the members is not durable before it is applied.
        if self.members.alone.is_none() && (self.members.told.insert(from) || self.asleep()) {
            round.send(store, self.members_note(from));
        }
    }

    /// Another store tells the members; they may have removed this replica.
    pub(super) fn learn_members(&mut self, desc: GroupDesc) -> Result<(), Refused> {
        let (told, known) = (&desc.membership, &self.record.desc.membership);
        if desc.group != self.group() || told.version < known.version {
            return Ok(());
        }
        let same = told.version == known.version && told.position != known.position;
        if same || self.record.desc.parts_from(&desc) {
            // Two replicas went on alone, by two orders, perhaps of one id. Neither ends the other: that is for the operator.
            if !std::mem::replace(&mut self.members.parted, true) {
                let group = desc.group.0;
                tracing::error!(group, "two recoveries of one group: stop one of them for good");
            }
            return Ok(());
        }
        if desc.has_left(self.me.replica) || desc.gives_way(self.me.replica) {
            let record = GroupRecord { removed: true, ..GroupRecord::new(desc, self.me.replica) };
            return Err(Refused::Removed(Box::new(record)));
        }
        // They were applied somewhere, so the entry that made them is committed. Whoever committed
        // it with us may be gone.
        let LogPosition { index, term } = desc.membership.position;
        self.raw.raft.raft_log.maybe_commit(index, term);
        // It will speak to them, too. If they have removed it they tell, and all others may be gone by then.
        for member in &desc.replicas {
            if self.record.desc.replica(member.replica).is_none() {
                self.members.heard(member.replica, member.store, false);
            }
        }
        Ok(())
    }

    /// The tombstone's record, once this replica has applied its own removal.
    pub(crate) fn removal(&self) -> Option<GroupRecord> {
        self.members.removed.then(|| GroupRecord { removed: true, ..self.record.clone() })
    }

    /// To whom this replica speaks, and on which store: the other members, and those that its log does not know yet.
    pub(crate) fn others(&self) -> impl Iterator<Item = (ReplicaId, StoreId)> {
        let members = self.record.desc.replicas.iter().map(|r| (r.replica, r.store));
        let strangers = self.members.strangers.iter().map(|(replica, store)| (*replica, *store));
        members.chain(strangers).filter(|(replica, _)| *replica != self.me.replica)
    }

    /// Where messages to `replica` go.
    pub(super) fn store_of(&self, replica: ReplicaId) -> Option<StoreId> {
        let member = self.record.desc.replica(replica).map(|r| r.store);
        member.or_else(|| self.members.strangers.get(&replica).copied())
    }

    /// What was committed when this leader looked last, or is now, if it has not looked yet.
    pub(super) fn commit_before(&self) -> u64 {
        self.members.commit_before.unwrap_or(self.raw.raft.raft_log.committed)
    }

    /// A leader's look at the others, once a tick.
    pub(crate) fn look_around(&mut self, round: &mut Round) {
        if !std::mem::take(&mut self.members.due) {
            return;
        }
        self.settle_transfer();
        if !self.is_leader() {
            self.members.commit_before = None;
            return;
        }
        self.drive_members(round);
        self.drive_transfer();
        self.drive_rest(round);
        self.members.commit_before = Some(self.raw.raft.raft_log.committed);
    }

    fn drive_members(&mut self, round: &mut Round) {
        self.invite_learners(round);
        let desc = &self.record.desc;
        let nothing = desc.membership.pending.is_none() && !desc.is_joint();
        if nothing || self.is_unsettled() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if desc.is_joint() {
            return self.drive_leave();
        }
        let is_live = |replica| self.is_live(replica);
        let live = Live { me: self.me.replica, is_live: &is_live };
        if self.joiners_have(self.commit_before()) && may_switch(desc, &live) {
            let next = switch(desc, self.me.replica);
            self.propose_members(&next, Vec::new());
        }
    }

    /// A learner that was never heard of may not exist yet: its store creates it.
    fn invite_learners(&self, round: &mut Round) {
        for member in self.record.desc.replicas.iter().filter(|r| r.role.learns()) {
            let progress = self.raw.raft.prs().get(member.replica.0);
            if progress.is_some_and(|p| p.matched == 0) && !self.is_live(member.replica) {
                round.send(member.store, self.members_note(member.replica));
            }
        }
    }

    /// Whether all that join are alive and hold what was committed a tick ago.
    fn joiners_have(&self, commit: u64) -> bool {
        let caught_up = |member: &ReplicaDesc| {
            let progress = self.raw.raft.prs().get(member.replica.0);
            // Behind a snapshot it is probed until the next entry.
            let has =
                progress.is_some_and(|p| p.state != ProgressState::Snapshot && p.matched >= commit);
            has && self.is_live(member.replica)
        };
        let mut joining =
            self.record.desc.replicas.iter().filter(|r| r.role == ReplicaRole::Joining);
        crate::mutant::active("promote_at_once") || joining.all(caught_up)
    }

    /// Leaves the joint configuration; a leader that has no vote behind it lets another one do so,
    /// if one takes over in time.
    fn drive_leave(&mut self) {
        let since = *self.members.joint_since.get_or_insert(self.members.ticks);
        let patience = HAND_OVER_TIMEOUTS * self.config.election_ticks as u64;
        let heir = |r: &ReplicaDesc| r.role.votes() && self.is_live(r.replica);
        let may_wait = self.members.ticks - since < patience;
        if !self.me.role.votes() && may_wait && self.record.desc.replicas.iter().any(heir) {
            if let Some(best) = self.successor() {
                self.hand_over(best, Vec::new());
            }
            return;
        }
        let next = leave(&self.record.desc);
        self.propose_members(&next, Vec::new());
    }
}

/// The members as `record` has them, for `to`.
pub(crate) fn members_note(record: &GroupRecord, to: ReplicaId) -> Envelope {
    let payload = Payload::Members(codec::encode(&record.desc));
    Envelope { group: record.desc.group, from: record.replica, to, payload }
}

/// The library's changes that lead from one description to the next.
fn steps(old: &GroupDesc, new: &GroupDesc) -> Vec<ConfChangeV2> {
    if old.is_joint() {
        return vec![ConfChangeV2::default()];
    }
    let mut singles = Vec::new();
    for member in &new.replicas {
        let before = old.replica(member.replica).map(|r| r.role);
        let kind = match member.role {
            ReplicaRole::Voter if before == Some(ReplicaRole::Voter) => continue,
            ReplicaRole::Voter | ReplicaRole::Incoming => ConfChangeType::AddNode,
            role if role.learns() && before.is_some_and(ReplicaRole::learns) => continue,
            ReplicaRole::Learner | ReplicaRole::Joining | ReplicaRole::Demoting => {
                ConfChangeType::AddLearnerNode
            }
            ReplicaRole::Outgoing => ConfChangeType::RemoveNode,
        };
        singles.push(single(member.replica, kind));
    }
    for gone in old.replicas.iter().filter(|r| new.replica(r.replica).is_none()) {
        singles.push(single(gone.replica, ConfChangeType::RemoveNode));
    }
    let change = |changes: Vec<ConfChangeSingle>, transition| {
        let mut change = ConfChangeV2::default();
        change.set_transition(transition);
        change.set_changes(changes.into());
        change
    };
    if new.is_joint() {
        return vec![change(singles, ConfChangeTransition::Explicit)];
    }
    singles.into_iter().map(|one| change(vec![one], ConfChangeTransition::Auto)).collect()
}

/// The library's changes to what is left of a group that lost its majority.
pub(super) fn alone(old: &GroupDesc, new: &GroupDesc) -> Vec<ConfChangeV2> {
    let stays = |r: &&ReplicaDesc| new.replica(r.replica).is_some();
    let gone = old.replicas.iter().filter(|r| !stays(r));
    let mut singles: Vec<_> = gone.map(|r| single(r.replica, ConfChangeType::RemoveNode)).collect();
    singles.extend(new.replicas.iter().map(|r| match r.role.learns() {
        true => single(r.replica, ConfChangeType::AddLearnerNode),
        false => single(r.replica, ConfChangeType::AddNode),
    }));
    let mut enter = ConfChangeV2::default();
    enter.set_transition(ConfChangeTransition::Explicit);
    enter.set_changes(singles.into());
    let leave = ConfChangeV2::default;
    old.is_joint().then(leave).into_iter().chain([enter, leave()]).collect()
}

fn single(replica: ReplicaId, kind: ConfChangeType) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = replica.0;
    single
}

pub(super) fn sorted(mut state: ConfState) -> ConfState {
    for ids in [
        &mut state.voters,
        &mut state.voters_outgoing,
        &mut state.learners,
        &mut state.learners_next,
    ] {
        ids.sort_unstable();
    }
    state
}
