//! Leadership changes hands on purpose: by an operator's order, because another member is preferred,
//! or because this store stops.
//!
//! 1. An order that cannot be is refused at once, with its reason.
//! 2. While the other is silent or lags behind what was committed a tick ago, this leader goes on as
//!    if nothing were asked.
//! 3. Then it takes no writes (callers hear `Busy` and ask again), and the library tells the other
//!    to campaign as soon as it has the whole log (Raft thesis, 3.10).
//! 4. The caller hears *accepted* when the other leads. After one election timeout, or half of one
//!    after step 3, this leader takes writes again, and the caller hears why it still leads.
//!
//! Without an order, once a tick, a leader looks for a live voter of a larger rank
//! ([`crate::Priority`]) that has caught up. It hands over when that one has been so for two
//! election timeouts, never during a change of the members, and ever more rarely when that does
//! not last, so that two do not pass leadership back and forth.
//!
//! A leader on a store whose disk is slow ([`crate::slow`]) or short of room ([`crate::disk`]) hands over to a member
//! whose store's disk is neither, whatever their ranks, and to one on such a store nobody hands over, unless
//! the leader's own disk is short of room and the other one only slow.

use super::Replica;
use crate::completion::{Answer, Outcome, Reply};
use crate::error::{Error, TransferRefusal};
use crate::events::Event;
use crate::types::{ReplicaDesc, ReplicaId};
use raft::ProgressState;

/// Callers that wait for one transfer.
const CALLERS_MAX: usize = 64;
/// Election timeouts for which the preferred member must have been able to lead.
const PATIENCE_TIMEOUTS: u64 = 2;
/// Election timeouts between hand-overs to the preferred member, doubled each time.
const REST_TIMEOUTS: u64 = 4;
const REST_TIMEOUTS_MAX: u64 = 256;

/// A transfer under way.
struct Order {
    to: ReplicaId,
    term: u64,
    callers: Vec<Reply>,
    /// The tick at which it is over.
    until: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Transfers {
    under_way: Option<Box<Order>>,
    /// The preferred member that can lead, and the tick since when.
    able: Option<(ReplicaId, u64)>,
    /// No hand-over of this leader's own before this tick.
    rest_until: u64,
    /// Ticks of the next rest.
    rest: u64,
    /// Transfers that did not come about: another one may be luckier.
    failures: u64,
    /// The store stops: this replica neither leads nor begins to.
    leaving: bool,
}

impl Transfers {
    pub(super) fn leaving(&self) -> bool {
        self.leaving
    }

    /// Leadership is on its way elsewhere, or is to be.
    pub(super) fn busy(&self) -> bool {
        self.leaving || self.under_way.is_some()
    }

    pub(super) fn close(&mut self, error: Error) {
        self.end(&Err(error));
    }

    /// The next hand-over of the leader's own is to wait, longer each time they come close. All in
    /// ticks.
    fn rest_from(&mut self, now: u64, election: u64) {
        let long_ago = self.rest_until + 8 * self.rest;
        if now >= long_ago {
            self.rest = REST_TIMEOUTS * election;
        }
        self.rest_until = now + self.rest;
        self.rest = (2 * self.rest).min(REST_TIMEOUTS_MAX * election);
    }

    fn end(&mut self, outcome: &Outcome) {
        if let Some(order) = self.under_way.take() {
            order.callers.into_iter().for_each(|reply| reply.send(outcome.clone()));
        }
    }
}

impl Replica {
    /// Takes an order to hand leadership to `to`.
    pub(crate) fn transfer_leader(&mut self, to: ReplicaId, reply: Reply) {
        match self.judge_transfer(to) {
            Ok(()) if crate::mutant::active("transfer_accepted_at_once") => {
                self.hand_over(to, Vec::new());
                reply.send(Ok(Answer::Accepted));
            }
            Ok(()) => self.hand_over(to, vec![reply]),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn judge_transfer(&self, to: ReplicaId) -> Result<(), Error> {
        let group = self.group();
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let refusal = match (self.record.desc.replica(to), &self.transfers.under_way) {
            (None, _) => TransferRefusal::NotMember { replica: to },
            (Some(_), _) if to == self.me.replica => TransferRefusal::Leads { replica: to },
            (Some(member), _) if !member.role.votes() => {
                TransferRefusal::NotVoter { replica: to, role: member.role }
            }
            _ if self.record.desc.gives_way(to) => TransferRefusal::GivesWay { replica: to },
            _ if self.rank(to).is_none() => TransferRefusal::NeverLeads { replica: to },
            (Some(member), _) if self.disks.is_slow(member.store) && !self.disks.own_is_slow() => {
                TransferRefusal::SlowDisk { replica: to, store: member.store }
            }
            (_, Some(order)) if order.to != to => TransferRefusal::UnderWay { to: order.to },
            (_, Some(order)) if order.callers.len() >= CALLERS_MAX => {
                return Err(Error::Busy { group, what: "too many wait for this leader transfer" });
            }
            (Some(ReplicaDesc { store, .. }), _) => match self.shortage_at(store) {
                Some(shortage) if self.shortage_at(self.me.store).is_none() => {
                    TransferRefusal::DiskFull { replica: to, store, shortage }
                }
                _ => return Ok(()),
            },
        };
        Err(Error::NotTransferred { group, refusal })
    }

    /// Starts to hand leadership to `to`, or joins what was started.
    pub(super) fn hand_over(&mut self, to: ReplicaId, callers: Vec<Reply>) {
        let until = self.members.ticks + self.config.election_ticks as u64;
        let term = self.raw.raft.term;
        let fresh = Box::new(Order { to, term, callers: Vec::new(), until });
        if self.transfers.under_way.is_none() {
            self.events.push(Event::TransferBegun);
        }
        self.transfers.under_way.get_or_insert(fresh).callers.extend(callers);
        self.push_transfer();
    }

    /// Tells the library to hand over once the other can take it.
    fn push_transfer(&mut self) {
        let Some(to) = self.transfer_to() else { return };
        if self.raw.raft.lead_transferee.is_some() || !self.can_take_over(to) {
            return;
        }
        self.lease.give_up(self.raw.raft.term);
        self.raw.transfer_leader(to.0);
        if let Some(order) = &mut self.transfers.under_way {
            // Time for an election, however late it was told.
            let enough = self.members.ticks + self.config.election_ticks as u64 / 2;
            order.until = order.until.max(enough);
        }
    }

    /// Whether `replica` is alive and holds what was committed a tick ago.
    fn can_take_over(&self, replica: ReplicaId) -> bool {
        let progress = self.raw.raft.prs().get(replica.0);
        let has = progress.is_some_and(|p| {
            // Behind a snapshot it is probed until the next entry.
            p.state != ProgressState::Snapshot && p.matched >= self.commit_before()
        });
        // Even an idle one answers heartbeats: it is not told after it has missed two of them.
        let silence_max = self.config.election_ticks as u64 / 2;
        has && self.ticks_silent(replica).is_some_and(|ticks| ticks <= silence_max)
    }

    /// Ends the transfer under way when its outcome is seen, or at its deadline.
    pub(super) fn settle_transfer(&mut self) {
        let Some(order) = &self.transfers.under_way else { return };
        let (group, to) = (self.group(), order.to);
        let over = self.members.ticks >= order.until;
        let leader = self.leader().filter(|l| l.replica != self.me.replica);
        let outcome = if self.is_leader() {
            if !over && order.term == self.raw.raft.term {
                return;
            }
            self.raw.raft.abort_leader_transfer();
            Err(Error::NotTransferred { group, refusal: self.why_not(to) })
        } else if let Some(leader) = leader {
            if leader.replica == to {
                Ok(Answer::Accepted)
            } else {
                let refusal = TransferRefusal::Elsewhere { replica: to, leader: leader.replica };
                Err(Error::NotTransferred { group, refusal })
            }
        } else if over {
            Err(Error::Unknown { group })
        } else {
            return;
        };
        self.transfers.failures += u64::from(outcome.is_err());
        let event = if outcome.is_ok() { Event::TransferDone } else { Event::TransferFailed };
        self.events.push(event);
        self.transfers.end(&outcome);
    }

    fn why_not(&self, to: ReplicaId) -> TransferRefusal {
        let commit = self.raw.raft.raft_log.committed;
        let matched = self.raw.raft.prs().get(to.0).map_or(0, |p| p.matched);
        if !self.is_live(to) {
            TransferRefusal::Silent { replica: to }
        } else if matched < commit {
            TransferRefusal::Lags { replica: to, matched, commit }
        } else {
            TransferRefusal::NotTaken { replica: to }
        }
    }

    /// A leader's look, once a tick: goes on with what is under way, or hands over by itself.
    pub(super) fn drive_transfer(&mut self) {
        if self.transfers.under_way.is_some() {
            return self.push_transfer();
        }
        if self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if self.transfers.leaving || self.is_to_give_way() {
            if let Some(next) = self.successor() {
                self.hand_over(next, Vec::new());
            }
            return;
        }
        let able = self.preferred().filter(|_| !self.switches_members());
        let (now, before) = (self.members.ticks, self.transfers.able.take());
        let Some(preferred) = able else { return };
        let since = before.filter(|(id, _)| *id == preferred).map_or(now, |(_, since)| since);
        self.transfers.able = Some((preferred, since));
        let timeout = self.config.election_ticks as u64;
        // Whoever must not lead does not wait.
        let patience = self.rank(self.me.replica).map_or(0, |_| PATIENCE_TIMEOUTS * timeout);
        if now - since >= patience && now >= self.transfers.rest_until {
            self.transfers.rest_from(now, timeout);
            self.hand_over(preferred, Vec::new());
        }
    }

    /// It became leader although another one is to take its place, and the others can do without it. The next leader
    /// tells it to end, as it cannot itself.
    fn is_to_give_way(&self) -> bool {
        let desc = &self.record.desc;
        let others = |r: &ReplicaDesc| r.replica != self.me.replica && self.is_live(r.replica);
        desc.gives_way(self.me.replica) && desc.has_quorum(others)
    }

    /// To whom leadership is being handed.
    pub(super) fn transfer_to(&self) -> Option<ReplicaId> {
        self.transfers.under_way.as_ref().map(|order| order.to)
    }

    fn rank(&self, replica: ReplicaId) -> Option<i32> {
        self.record.desc.priority(replica).rank()
    }

    /// Others that could lead now.
    fn able(&self) -> impl Iterator<Item = ReplicaDesc> + '_ {
        let able = |r: &ReplicaDesc| {
            r.replica != self.me.replica
                && r.role.votes()
                && !self.record.desc.gives_way(r.replica)
                && self.rank(r.replica).is_some()
                && self.can_take_over(r.replica)
        };
        self.record.desc.replicas.iter().copied().filter(able)
    }

    /// The one that is to lead in this leader's place, if there is one.
    pub(super) fn preferred(&self) -> Option<ReplicaId> {
        let own = self.rank(self.me.replica);
        if own.is_none() && crate::mutant::active("last_resort_leads_on") {
            return None;
        }
        // Whoever must not lead is not choosy about speed.
        let fit = |other: &ReplicaDesc| match own {
            Some(_) => self.has_fit_disk(other),
            None => self.disk_has_room(other),
        };
        let able = self.able().filter(fit).map(|other| other.replica);
        let best = able.max_by_key(|id| (self.rank(*id), std::cmp::Reverse(*id)))?;
        (self.rank(best) > own).then_some(best)
    }

    fn disk_has_room(&self, other: &ReplicaDesc) -> bool {
        self.shortage_at(other.store).is_none()
    }

    /// Neither short of room nor slow.
    fn has_fit_disk(&self, other: &ReplicaDesc) -> bool {
        self.disk_has_room(other) && !self.disks.is_slow(other.store)
    }

    /// Who leads once this store has stopped: rather one whose store has a fit disk.
    pub(super) fn successor(&self) -> Option<ReplicaId> {
        let fit = self.first_of(|other| self.has_fit_disk(other));
        fit.or_else(|| self.first_of(|other| self.disk_has_room(other)))
            .or_else(|| self.first_of(|_| true))
    }

    /// One of the largest rank among others that could lead. Those of equal rank share the groups.
    fn first_of(&self, wanted: impl Fn(&ReplicaDesc) -> bool) -> Option<ReplicaId> {
        let able: Vec<ReplicaId> = self.able().filter(wanted).map(|r| r.replica).collect();
        let rank = able.iter().filter_map(|id| self.rank(*id)).max()?;
        let equal: Vec<ReplicaId> =
            able.into_iter().filter(|id| self.rank(*id) == Some(rank)).collect();
        let turn = self.group().0 + self.transfers.failures;
        Some(equal[(turn % equal.len() as u64) as usize])
    }

    /// To whom this leader hands over because the disk here is slow or short of room; to nobody while
    /// something else is under way, or the last attempt was only just now.
    pub(crate) fn refuge(&self) -> Option<ReplicaId> {
        let short = self.shortage_at(self.me.store).is_some();
        let free = self.is_leader()
            && (short || self.disks.own_is_slow())
            && !self.transfers.busy()
            && self.raw.raft.lead_transferee.is_none()
            && !self.switches_members()
            && self.has_rested();
        if !free {
            return None;
        }
        let fit = self.first_of(|other| self.has_fit_disk(other));
        // A slow disk is better than a full one.
        fit.or_else(|| self.first_of(|other| short && self.disk_has_room(other)))
    }

    /// The last hand-over of this leader's own is long enough ago for another one.
    pub(super) fn has_rested(&self) -> bool {
        self.members.ticks >= self.transfers.rest_until
    }

    /// Hands over to it.
    pub(crate) fn flee(&mut self) {
        let Some(to) = self.refuge() else { return };
        self.transfers.rest_from(self.members.ticks, self.config.election_ticks as u64);
        if self.disks.own_is_slow() {
            self.events.push(Event::TransferFromSlowDisk);
        }
        self.hand_over(to, Vec::new());
    }

    /// The store is about to stop: hands over what this replica leads, now and from now on.
    pub(crate) fn leave(&mut self) {
        self.transfers.leaving = true;
        if self.is_leader() {
            self.drive_transfer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_overs_that_do_not_last_come_ever_more_rarely() {
        let mut transfers = Transfers::default();
        let (mut now, mut rests) = (100, Vec::new());
        for _ in 0..9 {
            transfers.rest_from(now, 10);
            rests.push((transfers.rest_until - now) / 10);
            now = transfers.rest_until;
        }
        assert_eq!(rests, [4, 8, 16, 32, 64, 128, 256, 256, 256]);
        // It held for long: patience begins anew.
        now += 8 * transfers.rest;
        transfers.rest_from(now, 10);
        assert_eq!(transfers.rest_until - now, 40);
    }
}
