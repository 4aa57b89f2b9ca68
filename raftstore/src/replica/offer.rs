//! Snapshots of this replica's state: when one is made, for whom, and how long it is kept. The flow is
//! in [`crate::snapshot`].

use super::Replica;
use super::storage::Offer;
use crate::completion::{Answer, Reply};
use crate::disk::room_of_snapshot;
use crate::error::Error;
use crate::message::{Asker, SnapshotTask};
use crate::shard::Round;
use crate::snapshot::{Content, Manifest, SnapshotId};
use crate::types::{GroupDesc, LogPosition, ReplicaDesc, ReplicaId};
use raft::{ProgressState, SnapshotStatus};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// Callers that may wait for one snapshot.
const CALLERS_MAX: usize = 64;

/// See the module.
pub(super) struct Offers {
    /// Of the last snapshot; the next one's is drawn from it.
    last_id: u64,
    ticks: u64,
    /// A tick has passed since the last look.
    due: bool,
    /// Being made.
    making: Option<SnapshotId>,
    /// Followers that get it as soon as it is made.
    waiting: Vec<u64>,
    /// After a failed attempt none is made for them before this tick.
    rest_until: u64,
    /// Who waits for one.
    callers: Vec<Reply>,
    /// One is to be made because time is up.
    timed: bool,
    /// The tick at which the last one was made; at first a moment ago, each group at another one.
    made: u64,
    /// The tick at which the one at hand was last of use.
    used: u64,
    /// How large the last one was; to make a smaller one in vain costs little.
    mib: u32,
    /// Since when each follower is waited for, or was told of it again.
    sent: BTreeMap<u64, u64>,
}

impl Offers {
    pub(super) fn new(seed: u64) -> Self {
        Offers {
            last_id: seed ^ 0x736e_6170,
            ticks: 0,
            due: false,
            making: None,
            waiting: Vec::new(),
            rest_until: 0,
            callers: Vec::new(),
            timed: false,
            made: 0,
            used: 0,
            mib: 0,
            sent: BTreeMap::new(),
        }
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.due = true;
    }

    pub(super) fn is_making(&self) -> bool {
        self.making.is_some()
    }

    /// Nothing is being made or sent, and nobody waits.
    pub(super) fn idle(&self) -> bool {
        self.making.is_none()
            && self.callers.is_empty()
            && self.waiting.is_empty()
            && self.sent.is_empty()
    }

    /// Whether another one is to be made. `taken`: a live follower is taking the one at hand. It would have
    /// to begin again, so what only time asks for waits for it.
    fn is_wanted(&self, taken: bool) -> bool {
        let due = self.timed && !taken;
        let rested = self.ticks >= self.rest_until;
        let needed = (due || !self.waiting.is_empty()) && rested;
        self.making.is_none() && (needed || !self.callers.is_empty())
    }

    pub(super) fn close(&mut self, error: &Error) {
        self.callers.drain(..).for_each(|reply| reply.send(Err(error.clone())));
    }

    fn next_id(&mut self) -> SnapshotId {
        self.last_id = SmallRng::seed_from_u64(self.last_id).random();
        SnapshotId(self.last_id)
    }

    /// Forgets the one that is being made.
    pub(super) fn take_making(&mut self) -> Option<SnapshotId> {
        self.making.take()
    }
}

impl Replica {
    /// An operator asks for one. While a live follower takes the one at hand there is none: that one would have to
    /// begin again.
    pub(crate) fn make_snapshot(&mut self, reply: Reply) {
        let what = if self.is_taken() {
            "a member is taking the last snapshot: ask again when it has it"
        } else if self.offers.callers.len() >= CALLERS_MAX {
            "too many wait for a snapshot of it"
        } else {
            return self.offers.callers.push(reply);
        };
        reply.send(Err(Error::Busy { group: self.group(), what }));
    }

    /// A live follower is taking the snapshot at hand, or is about to try again.
    fn is_taken(&self) -> bool {
        self.offers.sent.keys().any(|id| self.is_live(ReplicaId(*id)))
    }

    /// A follower could not get the snapshot. It is probed, and then told of it again.
    pub(super) fn snapshot_failed(&mut self, from: ReplicaId) {
        if self.is_leader() {
            if let Some(since) = self.offers.sent.get_mut(&from.0) {
                *since = self.offers.ticks;
            }
            self.raw.report_snapshot(from.0, SnapshotStatus::Failure);
        }
    }

    /// What a snapshot thread has made, or why there is none.
    pub(super) fn made(&mut self, id: SnapshotId, made: Result<(u64, Content), String>) {
        if self.offers.making != Some(id) {
            self.snapshots.throw_away(id);
            return;
        }
        self.offers.making = None;
        self.offers.timed = false;
        self.offers.made = self.offers.ticks;
        let callers = std::mem::take(&mut self.offers.callers);
        let waiting = std::mem::take(&mut self.offers.waiting);
        let group = self.group();
        let outcome = made.and_then(|(index, content)| {
            self.offer(id, index, content)?;
            Ok(Answer::SnapshotMade { index, bytes: content.bytes })
        });
        let outcome = outcome.map_err(|reason| {
            self.snapshots.throw_away(id);
            self.offers.rest_until = self.offers.ticks + self.config.election_ticks as u64;
            tracing::info!(group = group.0, reason, "no snapshot made");
            Error::Busy { group, what: "no snapshot could be made now" }
        });
        callers.into_iter().for_each(|reply| reply.send(outcome.clone()));
        if outcome.is_err() || !self.is_leader() {
            return;
        }
        for follower in waiting {
            if let Some(progress) = self.raw.raft.mut_prs().get_mut(follower) {
                progress.resume();
                self.raw.raft.send_append(follower);
            }
        }
    }

    /// Has the new snapshot at hand for followers, in the place of an older one.
    fn offer(&mut self, id: SnapshotId, index: u64, content: Content) -> Result<(), String> {
        let terms = self.raw.store().terms();
        let term = terms.term(index).ok_or_else(|| format!("entry {index} is cut by now"))?;
        if self.record.desc.membership.position.index > index {
            return Err("the members have changed meanwhile".to_owned());
        }
        let desc = GroupDesc::clone(&self.record.desc);
        let position = LogPosition { index, term };
        let manifest = Manifest { id, desc, position, content };
        self.withdraw();
        self.raw.mut_store().set_offer(Some(Box::new(Offer::new(manifest))));
        self.offers.used = self.offers.ticks;
        self.offers.mib = u32::try_from(content.bytes >> 20).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Nobody gets the one at hand any more.
    fn withdraw(&mut self) {
        if let Some(offer) = self.raw.mut_store().set_offer(None) {
            self.snapshots.throw_away(offer.manifest().id);
        }
    }

    /// The snapshot `id` cannot be read here any more.
    pub(crate) fn withdraw_offer(&mut self, id: SnapshotId) {
        if self.raw.store().offer().is_some_and(|offer| offer.manifest().id == id) {
            self.withdraw();
        }
    }

    pub(super) fn asker(&self, round: &Round) -> Asker {
        Asker { shard: round.shard, group: self.group(), replica: self.me.replica }
    }

    /// What is to be done about snapshots of this state, in each round before the ready.
    pub(super) fn drive_offers(&mut self, round: &mut Round) {
        if std::mem::take(&mut self.offers.due) {
            self.look_after_followers();
        }
        for follower in self.raw.mut_store().take_snapshot_wanted() {
            if !self.offers.waiting.contains(&follower) {
                self.offers.waiting.push(follower);
            }
        }
        if self.raw.mut_store().take_offered() {
            self.offers.used = self.offers.ticks;
        }
        // An older one would not know whoever joined since.
        let members = self.record.desc.membership.position.index;
        let may_make = self.feed.applied() >= members && !self.snapshots.installing();
        if may_make && self.offers.is_wanted(self.is_taken()) {
            let id = self.offers.next_id();
            self.offers.making = Some(id);
            let asker = self.asker(round);
            let sync = self.durable.own() < members;
            round.snapshots.push(SnapshotTask::Make { asker, id, sync });
        }
    }

    /// Once a tick: whoever did not take a snapshot in time is told of it again, and the one at hand goes
    /// when nobody needs it.
    fn look_after_followers(&mut self) {
        let ticks = self.offers.ticks;
        let waiting: Vec<u64> = if self.is_leader() {
            let in_snapshot = |(id, progress): (&u64, &raft::Progress)| {
                (progress.state == ProgressState::Snapshot).then_some(*id)
            };
            self.raw.raft.prs().iter().filter_map(in_snapshot).collect()
        } else {
            Vec::new()
        };
        // Whoever is told again is probed first.
        let probed = self.config.election_ticks as u64;
        self.offers.sent.retain(|id, since| waiting.contains(id) || ticks - *since < probed);
        for id in waiting {
            let since = self.offers.sent.entry(id).or_insert(ticks);
            if ticks - *since >= self.config.snapshot_retry_ticks {
                *since = ticks;
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
        let rooms = self.rooms();
        self.raw.mut_store().set_rooms(rooms);
        let interval = self.interval_ticks();
        self.offers.timed |= interval > 0 && self.is_due(interval);
        let kept = self
            .config
            .snapshot_keep_ticks
            .max(self.in_use_ticks())
            .max(interval.saturating_mul(2));
        if ticks - self.offers.used > kept || self.offer_is_old() {
            self.withdraw();
        }
    }

    /// What snapshots may take of the disks of members on short stores that are not needed: nothing where
    /// the last one would not have fitted, as the next one would be made in vain.
    fn rooms(&self) -> Vec<(u64, u64)> {
        if self.short.is_empty() || !self.is_leader() || !self.has_roomy_quorum() {
            return Vec::new();
        }
        let needed = room_of_snapshot(u64::from(self.offers.mib) << 20);
        let room = |r: &ReplicaDesc| {
            let spare = self.shortage_at(r.store)?.spare(false);
            Some((r.replica.0, if spare < needed { 0 } else { spare }))
        };
        self.record.desc.replicas.iter().filter_map(room).collect()
    }

    /// Ticks between two snapshots that are made without being needed; 0 = none are.
    fn interval_ticks(&self) -> u64 {
        self.config.snapshot_interval_s.saturating_mul(1_000) / self.config.tick_interval_ms
    }

    /// A leader whose state has changed since the last one. Groups that began at the same moment take
    /// turns.
    fn is_due(&self, interval: u64) -> bool {
        let Offers { ticks, made, .. } = self.offers;
        let due = if made == 0 {
            ticks >= interval / 2 + self.group().0 % (interval / 2).max(1)
        } else {
            ticks - made >= interval
        };
        let at_hand = self.raw.store().offer().map_or(0, |offer| offer.manifest().position.index);
        due && self.is_leader() && self.durable.own() > at_hand
    }

    fn offer_is_old(&self) -> bool {
        let cut = self.raw.store().terms().truncated().index;
        let members = self.record.desc.membership.version;
        self.raw.store().offer().is_some_and(|offer| {
            let Manifest { position, desc, .. } = offer.manifest();
            position.index < cut || desc.membership.version < members
        })
    }

    /// A follower that takes a snapshot is told of it again in less than this.
    fn in_use_ticks(&self) -> u64 {
        2 * self.config.snapshot_retry_ticks + self.config.election_ticks as u64
    }

    /// The log behind this index is needed by a follower that takes a snapshot.
    pub(super) fn snapshot_floor(&self) -> u64 {
        let waiting = self.offers.ticks - self.offers.used <= self.in_use_ticks();
        match self.raw.store().offer() {
            Some(offer) if waiting => offer.manifest().position.index,
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::OnceCompletion;

    #[test]
    fn what_only_time_asks_for_waits_for_those_who_take_the_one_at_hand() {
        let mut offers = Offers::new(1);
        assert!(!offers.is_wanted(false));
        offers.timed = true;
        assert!(offers.is_wanted(false));
        assert!(!offers.is_wanted(true));
        offers.waiting.push(3);
        assert!(offers.is_wanted(true), "another follower needs a newer one");
        offers.rest_until = 1;
        assert!(!offers.is_wanted(false), "the last attempt failed just now");
        offers.callers.push(OnceCompletion::reply(|_| {}));
        assert!(offers.is_wanted(false));
        offers.making = Some(SnapshotId(1));
        assert!(!offers.is_wanted(false));
    }
}
