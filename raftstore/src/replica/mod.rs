//! One member of one group: the consensus library behind our words. No threads, no channels, no I/O.
//!
//! The life of a round, for one replica:
//! 1. `step.rs` takes what other replicas sent, after checking its shape.
//! 2. `propose.rs` puts the round's commands into one entry; `read.rs` gives the round's reads one
//!    context, or serves them by the lease of `lease.rs`; a follower asks its leader (`ask.rs`).
//! 3. `ready.rs` takes what the library decided: the only place that touches its ready contract.
//! 4. `feed.rs` hands committed entries to apply, or parks them while apply is full.
//! 5. `membership.rs` applies changes of the members and, on the leader, drives them on;
//!    `recover.rs` goes on without a lost majority.
//! 6. `transfer.rs` hands leadership over, by order or to whom it belongs.
//! 7. `durable.rs` learns how far everybody's state is on disk and cuts the log behind it.
//! 8. `hibernate.rs` lets an idle group sleep.
//! 9. `offer.rs` has snapshots made, for members that then lack entries; `snapshot.rs` takes and installs
//!    those of others.

mod ask;
mod by_member;
pub(crate) mod codec;
mod durable;
mod feed;
mod hibernate;
mod lease;
mod membership;
mod offer;
mod propose;
mod read;
mod ready;
mod recover;
mod snapshot;
mod step;
mod storage;
mod timer;
mod transfer;

use crate::clock::Time;
use crate::config::Config;
use crate::disk::{Shortage, Shortages};
use crate::error::Error;
use crate::events::{Event, Levels};
use crate::log::terms::Terms;
use crate::log::{GroupLog, LogStore};
use crate::members::Wait;
use crate::message::Standing;
use crate::slow::Disks;
use crate::status::{GroupView, PeerProgress, ReplicaStatus, Role};
use crate::types::{GroupId, GroupRecord, HardState, ReplicaDesc, ReplicaId, StoreId};
use durable::Durable;
use feed::Feed;
use hibernate::Rest;
use lease::Lease;
use membership::Members;
use offer::Offers;
use propose::Writes;
use raft::{ProgressState, RawNode, StateRole};
use read::Reads;
use snapshot::Snapshots;
use std::collections::VecDeque;
use std::sync::Arc;
use storage::ReplicaStorage;
use timer::ElectionTimer;
use transfer::Transfers;

pub(crate) use membership::members_note;
pub(crate) use snapshot::Unfinished;
pub(crate) use step::Refused;

/// Whom the replica follows, as its store publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoleView {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) role: StateRole,
}

/// What a replica wants to be told at once, as it was when it was settled last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// Anything but a follower of a known leader: its own disk may complete a quorum.
    pub(crate) awaits_persisted: bool,
    /// Reads, or those who asked for other members, wait for apply.
    pub(crate) awaits_applied: bool,
    /// A leader with an entry that is not committed: the next small one may wait.
    pub(crate) entry_under_way: bool,
}

/// See the module.
pub(crate) struct Replica {
    record: GroupRecord,
    me: ReplicaDesc,
    config: Arc<Config>,
    raw: RawNode<ReplicaStorage>,
    timer: ElectionTimer,
    writes: Writes,
    reads: Reads,
    lease: Lease,
    feed: Feed,
    durable: Durable,
    /// Peers that acknowledged an append since the last heartbeat was due: they need none.
    acknowledged: Vec<u64>,
    members: Members,
    transfers: Transfers,
    offers: Offers,
    snapshots: Snapshots,
    rest: Rest,
    /// The last index of its log when it was ticked last.
    last_at_tick: u64,
    disks: Arc<Disks>,
    /// To be told with the next round.
    events: Vec<Event>,
    short: Shortages,
    /// Ready numbers whose log write is under way, ascending; 0 = the group's creation.
    unpersisted: VecDeque<u64>,
    /// The last of them that changed term or vote.
    vote_ready: u64,
    /// Term and vote as last handed to the log writer.
    saved: HardState,
    seen: RoleView,
    /// What the state machine was told last of this replica's part.
    told: Standing,
}

/// What a shard gives a new replica.
pub(crate) struct ReplicaParts<'a> {
    pub(crate) config: &'a Arc<Config>,
    pub(crate) store: StoreId,
    pub(crate) log: &'a Arc<dyn LogStore>,
    pub(crate) disks: &'a Arc<Disks>,
    pub(crate) seed: u64,
}

impl Replica {
    /// A replica over what its log and state machine hold. The caller has checked that they fit
    /// (`crate::recovery`): the library aborts on a state that does not.
    pub(crate) fn new(
        parts: &ReplicaParts<'_>,
        log: &GroupLog,
        applied: u64,
        commit: u64,
    ) -> Result<Self, Error> {
        let desc = &log.record.desc;
        let group = desc.group;
        let invalid = |reason: String| Error::Invalid { group, reason };
        let me = desc.replica(log.record.replica).filter(|r| r.store == parts.store).ok_or_else(
            || invalid(format!("its record names no replica of store {}", parts.store)),
        )?;
        let mut hard_state = HardState { commit, ..log.hard_state };
        if crate::mutant::active("forget_vote") {
            hard_state.vote = 0;
        }
        let again = u64::from(crate::mutant::active("duplicate_apply_after_restart"));
        let applied = applied.saturating_sub(again).max(log.truncated.index);
        let terms = Terms::new(log.truncated, &log.terms, log.last_index);
        let storage = ReplicaStorage::new(desc, hard_state, terms, Arc::clone(parts.log));
        let raft_config = library_config(parts.config, me.replica, applied);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raw = RawNode::new(&raft_config, storage, &logger)
            .map_err(|e| invalid(format!("the consensus library refuses its state: {e}")))?;
        raw.set_batch_append(false);
        // Only a leader needs them: 2 KiB for each member.
        raw.raft.maybe_free_inflight_buffers();
        let seed = parts.seed ^ group.0.rotate_left(17) ^ me.replica.0.rotate_left(41);
        let seen = RoleView { term: hard_state.term, leader: 0, role: StateRole::Follower };
        let mut replica = Replica {
            record: log.record.clone(),
            me,
            config: Arc::clone(parts.config),
            raw,
            timer: ElectionTimer::new(parts.config.election_ticks, seed),
            writes: Writes::default(),
            reads: Reads::new(seed),
            lease: Lease::new(parts.config, hard_state.term),
            feed: Feed::new(applied),
            durable: Durable::new(applied),
            acknowledged: Vec::new(),
            members: Members::default(),
            transfers: Transfers::default(),
            offers: Offers::new(seed),
            snapshots: Snapshots::default(),
            rest: Rest::default(),
            last_at_tick: 0,
            disks: Arc::clone(parts.disks),
            events: Vec::new(),
            short: Shortages::default(),
            unpersisted: VecDeque::new(),
            vote_ready: 0,
            saved: hard_state,
            seen,
            told: Standing::default(),
        };
        replica.ask_for_beginning();
        Ok(replica)
    }

    pub(crate) fn group(&self) -> GroupId {
        self.record.desc.group
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.me.replica
    }

    /// Whether the state machine believes that this replica has a part in its group.
    pub(crate) fn has_standing(&self) -> bool {
        !self.told.is_idle()
    }

    /// Its state is being replaced by a snapshot.
    pub(crate) fn installing(&self) -> bool {
        self.snapshots.installing()
    }

    pub(crate) fn record(&self) -> &GroupRecord {
        &self.record
    }

    /// What the store publishes of this replica.
    pub(crate) fn group_view(&self) -> GroupView {
        GroupView {
            record: self.record.clone(),
            leader: self.record.desc.replica(ReplicaId(self.seen.leader)),
            term: self.seen.term,
            leading: self.seen.role == StateRole::Leader,
        }
    }

    /// Takes note of the stores that are short of room.
    pub(crate) fn know_short(&mut self, short: Shortages) {
        let before = std::mem::replace(&mut self.short, short);
        let own = &self.me.store;
        if before.contains_key(own) && !self.short.contains_key(own) {
            self.snapshots.rested();
        }
    }

    /// How short of room the store of a member is, if it is.
    fn shortage_at(&self, store: StoreId) -> Option<Shortage> {
        self.short.get(&store).copied()
    }

    /// Whether a store is so short of room that it gets no entries while others are enough.
    fn spares(&self, store: StoreId) -> bool {
        self.shortage_at(store).is_some_and(Shortage::is_severe) && self.has_roomy_quorum()
    }

    /// Nobody who is short of room is needed.
    fn has_roomy_quorum(&self) -> bool {
        let roomy =
            |r: &ReplicaDesc| self.shortage_at(r.store).is_none() && self.is_live(r.replica);
        self.record.desc.has_quorum(roomy)
    }

    /// Whether a store takes nothing of what it has missed.
    fn is_past_catching_up(&self, store: StoreId) -> bool {
        self.spares(store) || self.shortage_at(store).is_some_and(Shortage::is_critical)
    }

    /// The group's creation is on its way to the log: nothing may leave before it.
    pub(crate) fn expect_creation(&mut self) {
        self.unpersisted.push_back(0);
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn mood(&self) -> Mood {
        let raft = &self.raw.raft;
        let follows = raft.state == StateRole::Follower && raft.leader_id != raft::INVALID_ID;
        Mood {
            awaits_persisted: !follows
                || self.snapshots.writing()
                || self.snapshots.waits()
                || self.reads.await_applied(),
            awaits_applied: self.reads.await_applied()
                || self.members.await_applied()
                || self.snapshots.waits(),
            entry_under_way: self.entry_under_way(),
        }
    }

    /// The leader as far as known.
    pub(crate) fn leader(&self) -> Option<ReplicaDesc> {
        self.record.desc.replica(self.leader_id())
    }

    /// 0 = nobody. The library of one that cannot campaign, such as a learner, never forgets a leader.
    fn leader_id(&self) -> ReplicaId {
        let missed = !self.is_leader() && self.timer.misses_leader(&self.raw);
        ReplicaId(if missed { raft::INVALID_ID } else { self.raw.raft.leader_id })
    }

    fn not_leader(&self) -> Error {
        let leader = self.leader().filter(|l| l.replica != self.me.replica);
        Error::NotLeader { group: self.group(), leader }
    }

    fn persisted(&self) -> u64 {
        self.raw.raft.raft_log.persisted
    }

    /// One tick of time. At most one a round, however long the thread was stuck: missed ticks are
    /// never made up, or a resumed follower would campaign against a living leader.
    pub(crate) fn tick(&mut self, time: Time) {
        if self.is_leader() {
            self.raw.tick();
        } else {
            // Whoever must not campaign sees a silent leader all the same, and votes for others.
            let (able, still) = (self.may_campaign(), self.keeps_still(time));
            let (desc, me, disks) = (&self.record.desc, self.me.replica, &self.disks);
            let alone = self.raw.raft.prs().is_singleton();
            let mut resort = false;
            let may = |wait: Wait| {
                // With a slow disk it lets the others go first; a last resort lets all of them, and they may
                // have one, too.
                let slow = |r: &ReplicaDesc| disks.is_slow(r.store);
                let waits =
                    disks.own_is_slow() || (desc.never_leads(me) && desc.replicas.iter().any(slow));
                let wait = if waits && !alone { wait.behind_slow() } else { wait };
                resort = desc.is_last_resort(me, wait);
                able && wait.timeouts > 0 && desc.may_campaign(me, wait)
            };
            let in_vain = self.raw.raft.state == StateRole::PreCandidate;
            if self.timer.tick(&mut self.raw, still, may) {
                if resort {
                    self.timer.note_resort();
                }
                self.events.push(Event::ElectionBegun);
                if in_vain {
                    self.events.push(Event::PreVoteLost);
                }
            }
        }
        self.writes.expire(time.now, self.group());
        self.reads.expire(time.now, self.group());
        self.reads.asks.tick();
        self.durable.tick();
        self.members.tick();
        self.offers.tick();
        self.snapshots.tick();
        self.give_back_room();
    }

    /// The library reads applied + 1 ..= commit at once when it campaigns (trap 17), and aborts
    /// when a sole voter campaigns with unwritten entries (trap 3).
    fn may_campaign(&self) -> bool {
        const APPLY_LAG_MAX: u64 = 1_024;
        let log = &self.raw.raft.raft_log;
        let lag = log.committed - log.applied;
        let sole = self.raw.raft.prs().is_singleton();
        let votes = self.me.role.votes() || self.me.role.voted();
        let able = votes
            && lag <= APPLY_LAG_MAX
            && !self.snapshots.installing()
            && self.members.alone.is_none()
            && (!sole || self.unpersisted.is_empty());
        able && !self.transfers.leaving()
    }

    /// It has priority 0, and others have not.
    fn never_leads(&self) -> bool {
        self.record.desc.never_leads(self.me.replica)
            && !crate::mutant::active("priority_zero_campaigns")
    }

    /// Nothing reaches `store`: the leader stops streaming to its replica.
    pub(crate) fn unreachable(&mut self, store: StoreId) {
        if let Some(peer) = self.record.desc.on_store(store)
            && self.is_leader()
        {
            self.raw.report_unreachable(peer.replica.0);
        }
    }

    /// Ends the replica's work: every caller is answered.
    pub(crate) fn close(&mut self, error: &Error) {
        self.writes.close(self.group(), error);
        self.members.close(&Error::Unknown { group: self.group() });
        self.offers.close(error);
        self.reads.fail_all(error, self.group());
        self.transfers.close(Error::Unknown { group: self.group() });
    }

    pub(crate) fn status(&self) -> ReplicaStatus {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate => Role::Candidate,
            StateRole::PreCandidate => Role::PreCandidate,
        };
        let terms = self.raw.store().terms();
        let (ticks_silent, ticks_to_campaign) = self.timer.standing();
        ReplicaStatus {
            group: self.group(),
            replica: self.me.replica,
            role,
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            persisted: self.persisted(),
            durable_applied: self.durable.own(),
            first_index: terms.truncated().index + 1,
            last_index: raft.raft_log.last_index(),
            last_term: raft.raft_log.last_term(),
            cache_bytes: self.raw.store().cache_bytes(),
            waiting_proposals: self.writes.waiting(),
            waiting_reads: self.reads.waiting(),
            proposal_bytes: self.writes.bytes(),
            // The shard knows.
            apply_bytes: 0,
            parked: self.feed.parked(),
            installing: self.snapshots.installing(),
            asleep: self.asleep(),
            lease_ms: None,
            damage: None,
            priority: self.record.desc.priority(self.me.replica),
            ticks_silent,
            ticks_to_campaign,
            barred: self.record.desc.never_leads(self.me.replica) && !self.timer.resort(),
            transfer_to: self.transfer_to(),
            peers: if self.is_leader() { self.peers() } else { Vec::new() },
        }
    }

    /// How much there is of everything here.
    pub(crate) fn levels(&self, time: Time) -> Levels {
        let count = u64::from;
        let leads = self.is_leader();
        let paused = |p: &raft::Progress| leads && is_paused(p);
        Levels {
            replicas: 1,
            asleep: count(self.asleep()),
            leased: count(self.lease_left(time).is_some()),
            changing: count(leads && self.changes_members()),
            transferring: count(self.transfer_to().is_some()),
            paused: self.raw.raft.prs().iter().filter(|(_, p)| paused(p)).count() as u64,
            snapshots: count(self.offers.is_making()) + count(!self.snapshots.idle()),
            waiting_proposals: self.writes.waiting() as u64,
            waiting_reads: self.reads.waiting() as u64,
            cache_bytes: self.raw.store().cache_bytes() as u64,
            ..Levels::default()
        }
    }

    /// How far the others are.
    fn peers(&self) -> Vec<PeerProgress> {
        let prs = self.raw.raft.prs();
        let others = self.record.desc.replicas.iter().filter(|r| r.replica != self.me.replica);
        let told = |member: &ReplicaDesc| {
            let progress = prs.get(member.replica.0)?;
            Some(PeerProgress {
                replica: member.replica,
                store: member.store,
                role: member.role,
                matched: progress.matched,
                next: progress.next_idx,
                state: match progress.state {
                    ProgressState::Probe => "probe",
                    ProgressState::Replicate => "replicate",
                    ProgressState::Snapshot => "snapshot",
                },
                in_flight: progress.ins.count(),
                paused: is_paused(progress),
                ticks_silent: self.ticks_silent(member.replica),
            })
        };
        others.filter_map(told).collect()
    }
}

/// A probe waits after each message, too, but not for long.
fn is_paused(progress: &raft::Progress) -> bool {
    match progress.state {
        ProgressState::Probe => false,
        ProgressState::Replicate => progress.ins.full(),
        ProgressState::Snapshot => true,
    }
}

fn library_config(config: &Config, replica: ReplicaId, applied: u64) -> raft::Config {
    raft::Config {
        id: replica.0,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied,
        max_size_per_msg: config.entry_bytes_max as u64,
        max_inflight_msgs: if config.pipeline { 256 } else { 1 },
        check_quorum: true,
        pre_vote: true,
        // One value only: the randomness is ours, see `timer.rs`.
        min_election_tick: ElectionTimer::library_timeout(config.election_ticks),
        max_election_tick: ElectionTimer::library_timeout(config.election_ticks) + 1,
        // The commit index rides on the next append or heartbeat: half the messages.
        skip_bcast_commit: true,
        batch_append: false,
        max_uncommitted_size: config.group_uncommitted_bytes_max.max(config.entry_bytes_max as u64),
        max_committed_size_per_ready: 4 << 20,
        ..raft::Config::default()
    }
}
