//! The leader's lease: while it holds, nobody else leads, so reads need not ask anybody.
//!
//! 1. A leader's appends and heartbeats carry a stamp: its time when they were made, and for how
//!    long it would count on the answer.
//! 2. Whoever takes one **promises**: no vote, no pre-vote and no campaign of its own until
//!    [`Config::promise`] has passed, nor a later term by anything but a leader's message. Its
//!    answers give the newest stamp back.
//! 3. The lease lasts [`Config::lease`] from the newest stamp that a quorum has given back: from
//!    the *send* time, which came before every promise. It is shorter than the promise by a tenth and
//!    more, so that clocks may run at different rates.
//!
//! The library has rules of the same kind, but they count ticks, forget all with a restart, and a
//! late refusal of a pre-vote gets around them (it raises the term, and whoever has no leader in a
//! term votes at once). So the promise is kept here, before a message reaches the library.
//!
//! - A replica that starts may have promised before: it keeps still for one promise.
//! - A leader that hands leadership over asks another one to break every promise
//!   (`CAMPAIGN_TRANSFER`): it has no lease from then on until the term changes.
//! - A stamp counts in the term in which it was made. Every change of the configuration drops the
//!   lease: it is counted anew, from the stamps of those who have a vote now. Quorums of successive
//!   configurations intersect (I13), and only the leader makes the next one.
//! - Time is counted by two clocks ([`crate::clock`]): the lease by the one that runs ahead, the
//!   promise by the one that stays behind.

use super::Replica;
use crate::clock::Time;
use crate::config::Config;
use crate::types::Nanos;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// The context of a vote request that the leader itself has set off.
const FORCED: &[u8] = raft::CAMPAIGN_TRANSFER;

/// What a message carries for the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The leader's time ([`Time::ahead`]) when it made the message that is sent or answered.
    pub(crate) sent: u64,
    /// Milliseconds of the promise that the leader would count on; 0 in an answer.
    pub(crate) promise_ms: u64,
}

/// What a follower has promised.
#[derive(Clone, Copy, Debug)]
struct Promise {
    term: u64,
    /// By [`Time::behind`].
    until: u64,
}

/// The newest stamp that was taken of a leader.
#[derive(Clone, Copy, Debug)]
struct Taken {
    term: u64,
    leader: u64,
    sent: u64,
}

/// See the module.
pub(super) struct Lease {
    promise_ms: u64,
    held: u64,
    promise: Option<Promise>,
    taken: Option<Taken>,
    /// The term in which `echoes` were given back.
    term: u64,
    /// By peer, the newest.
    echoes: Vec<(u64, u64)>,
    /// The end of the lease as counted last, by [`Time::ahead`].
    until: u64,
    /// There are echoes that were not counted.
    news: bool,
    /// The term in which leadership was being handed over.
    given_up: u64,
}

impl Lease {
    /// `term`: what the disk holds. Whoever has one may have made a promise.
    pub(super) fn new(config: &Config, term: u64) -> Self {
        let until = config.promise().0;
        let forgets = crate::mutant::active("restarted_voter_votes");
        let held = if crate::mutant::active("lease_outlasts_promise") {
            3 * config.promise().0
        } else {
            config.lease().0
        };
        Lease {
            promise_ms: config.promise().0 / 1_000_000,
            held,
            promise: (term > 0 && !forgets).then_some(Promise { term, until }),
            taken: None,
            term: 0,
            echoes: Vec::new(),
            until: 0,
            news: false,
            given_up: 0,
        }
    }

    /// What the leader puts on a message of its own.
    pub(super) fn stamp(&self, time: Time) -> Stamp {
        Stamp { sent: time.ahead.0, promise_ms: self.promise_ms }
    }

    /// What a follower gives back with an answer of `term` to `leader`.
    fn echo(&self, leader: u64, term: u64) -> Option<Stamp> {
        let taken = self.taken.filter(|t| t.leader == leader && t.term == term)?;
        Some(Stamp { sent: taken.sent, promise_ms: 0 })
    }

    /// A follower has taken a message of its leader.
    fn take(&mut self, leader: u64, term: u64, stamp: Option<Stamp>, time: Time) {
        self.promise = Some(Promise { term, until: time.behind.0 + self.promise_ms * 1_000_000 });
        // Whoever wants a longer promise than this one gets no lease by it.
        if let Some(stamp) = stamp.filter(|s| s.promise_ms > 0 && s.promise_ms <= self.promise_ms) {
            let before = self.taken.filter(|t| (t.leader, t.term) == (leader, term));
            let sent = before.map_or(stamp.sent, |taken| taken.sent.max(stamp.sent));
            self.taken = Some(Taken { term, leader, sent });
        }
    }

    /// The leader of `term` got a stamp back.
    fn given_back(&mut self, from: u64, term: u64, sent: u64, time: Time) {
        self.lead(term);
        if sent > time.ahead.0 {
            return; // Never made by this process.
        }
        let late = crate::mutant::active("lease_from_receipt");
        let sent = if late { time.ahead.0 } else { sent };
        match self.echoes.iter_mut().find(|(peer, _)| *peer == from) {
            Some((_, newest)) => *newest = sent.max(*newest),
            None => self.echoes.push((from, sent)),
        }
        self.news = true;
    }

    fn lead(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.echoes.clear();
            (self.until, self.news) = (0, false);
        }
    }

    /// Others have votes from now on.
    pub(super) fn recount(&mut self) {
        (self.until, self.news) = (0, true);
    }

    /// This leader will ask another one to take over.
    pub(super) fn give_up(&mut self, term: u64) {
        self.given_up = term;
    }
}

impl Replica {
    /// Why `message` must not reach the library: it would have a promise broken.
    pub(super) fn promised_against(&self, message: &Message, time: Time) -> Option<&'static str> {
        let later = message.term > self.raw.raft.term;
        if !later || !self.keeps_still(time) {
            return None;
        }
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                (message.context != FORCED).then_some("asks for a vote that is promised to nobody")
            }
            MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgSnapshot
            | MessageType::MsgTimeoutNow => None,
            _ => Some("would raise the term while the vote is promised to nobody"),
        }
    }

    /// A promise is on: no vote, and no campaign but by the leader's order.
    pub(super) fn keeps_still(&self, time: Time) -> bool {
        let raft = &self.raw.raft;
        let bound = |p: Promise| p.term == raft.term && time.behind.0 < p.until;
        raft.state != StateRole::Leader && self.lease.promise.is_some_and(bound)
    }

    /// A message was stepped: a follower promises, a leader counts.
    pub(super) fn note_stamp(
        &mut self,
        kind: MessageType,
        from: u64,
        term: u64,
        stamp: Option<Stamp>,
        time: Time,
    ) {
        let raft = &self.raw.raft;
        if raft.term != term {
            return;
        }
        match (kind, raft.state) {
            (MessageType::MsgAppend | MessageType::MsgHeartbeat, StateRole::Follower)
                if raft.leader_id == from =>
            {
                self.lease.take(from, term, stamp, time);
            }
            (
                MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse,
                StateRole::Leader,
            ) => {
                if let Some(stamp) = stamp {
                    self.lease.given_back(from, term, stamp.sent, time);
                }
            }
            _ => {}
        }
    }

    /// What a message that leaves now carries for the lease.
    pub(super) fn stamp_for(&self, message: &Message, time: Time) -> Option<Stamp> {
        match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => Some(self.lease.stamp(time)),
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
                self.lease.echo(message.to, message.term)
            }
            _ => None,
        }
    }

    /// Whether this replica leads, nobody else can, and its commit index covers whatever was
    /// acknowledged before `time`.
    pub(crate) fn has_lease(&mut self, time: Time) -> bool {
        if !self.may_lease() {
            return false;
        }
        self.lease.lead(self.raw.raft.term);
        if time.ahead.0 < self.lease.until {
            return true;
        }
        let alone = self.raw.raft.prs().is_singleton();
        if alone || std::mem::take(&mut self.lease.news) {
            self.lease.until = self.lease_end(time);
        }
        time.ahead.0 < self.lease.until
    }

    /// As [`Self::has_lease`], asked from outside: in which term.
    pub(crate) fn leased_term(&self, time: Time) -> Option<u64> {
        self.lease_left(time).map(|_| self.raw.raft.term)
    }

    /// For how long this leader has a lease, if it has one.
    pub(crate) fn lease_left(&self, time: Time) -> Option<Nanos> {
        if !self.may_lease() {
            return None;
        }
        let counted = self.lease.term == self.raw.raft.term || self.raw.raft.prs().is_singleton();
        let end = if counted { self.lease.until.max(self.lease_end(time)) } else { 0 };
        (time.ahead.0 < end).then(|| Nanos(end - time.ahead.0))
    }

    fn may_lease(&self) -> bool {
        let raft = &self.raw.raft;
        let handed_over = self.lease.given_up == raft.term || raft.lead_transferee.is_some();
        self.is_leader()
            && raft.commit_to_current_term()
            && !self.members.removed
            && (!handed_over || crate::mutant::active("lease_kept_in_transfer"))
    }

    /// The end of the lease by the newest stamp that a quorum has given back.
    fn lease_end(&self, time: Time) -> u64 {
        let prs = self.raw.raft.prs();
        let mut quorum = std::iter::once(self.me.replica.0).collect();
        if prs.has_quorum(&quorum) {
            return time.ahead.0 + self.lease.held;
        }
        let mut echoes = self.lease.echoes.clone();
        echoes.sort_unstable_by_key(|(_, sent)| std::cmp::Reverse(*sent));
        for (peer, sent) in echoes {
            quorum.insert(peer);
            if prs.has_quorum(&quorum) {
                return sent + self.lease.held;
            }
        }
        0
    }
}

impl Config {
    /// For how long a follower that has heard its leader helps nobody else to lead. The library's own
    /// rule is not weaker: it counts `election_ticks` ticks, the first of which may come at once.
    #[must_use]
    pub(crate) fn promise(&self) -> Nanos {
        Nanos((self.election_ticks as u64 - 1) * self.tick_interval_ms * 1_000_000)
    }

    /// For how long a leader counts on it: a tenth less, for hardware clocks of different rates.
    #[must_use]
    pub(crate) fn lease(&self) -> Nanos {
        Nanos(self.promise().0 / 10 * 9)
    }
}
