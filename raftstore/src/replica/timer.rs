//! When a follower campaigns: the randomness of election timeouts, from our own seeded source, and
//! who waits for whom.
//!
//! The library draws its timeouts from a thread-local source, which no seed reproduces (trap 8).
//! It gets a range of one value, twice the election timeout, that is never reached: this timer
//! draws from [timeout, 2 × timeout) and moves the library's clock to its end when that is over.
//! Until then the clock stands still at the election timeout, from where on the library takes a
//! silent leader for dead and lets others have its vote.

use super::storage::ReplicaStorage;
use crate::members::Wait;
use raft::{INVALID_ID, RawNode, StateRole};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(super) struct ElectionTimer {
    election_ticks: usize,
    rng: SmallRng,
    timeout: usize,
    /// Ticks since the leader was heard, or the last timeout.
    silence: usize,
    /// Timeouts since the leader was heard.
    timeouts: u32,
    /// Ticks since then.
    waited: u32,
    /// How many had passed when somebody asked for this replica's vote who may have it.
    asked_at: u32,
    /// Since then somebody asked for it in vain: the log here is longer.
    holds_up: bool,
    /// Since then it campaigned as a last resort.
    resort: bool,
    last_elapsed: usize,
    /// At the last timeout it did not campaign, and the leader was not heard since.
    missed: bool,
}

impl ElectionTimer {
    pub(super) fn new(election_ticks: usize, seed: u64) -> Self {
        let mut timer = ElectionTimer {
            election_ticks,
            rng: SmallRng::seed_from_u64(seed),
            timeout: 0,
            silence: 0,
            timeouts: 0,
            waited: 0,
            asked_at: 0,
            holds_up: false,
            resort: false,
            last_elapsed: 0,
            missed: false,
        };
        timer.draw();
        timer
    }

    /// What the library is told.
    pub(super) fn library_timeout(election_ticks: usize) -> usize {
        2 * election_ticks
    }

    /// (ticks since the leader was heard or the last timeout, ticks at which the next one is).
    pub(super) fn standing(&self) -> (usize, usize) {
        (self.silence, self.timeout)
    }

    /// Somebody asks for this replica's vote; `able`: the log here is not longer.
    pub(super) fn note_asked(&mut self, able: bool) {
        if able {
            self.asked_at = self.waited;
        } else {
            self.holds_up = true;
        }
    }

    /// It campaigns as a last resort.
    pub(super) fn note_resort(&mut self) {
        self.resort = true;
    }

    pub(super) fn resort(&self) -> bool {
        self.resort
    }

    /// The leader is silent for an election timeout and longer, and this replica did not campaign.
    pub(super) fn misses_leader(&self, raw: &RawNode<ReplicaStorage>) -> bool {
        self.missed && raw.raft.election_elapsed >= self.last_elapsed
    }

    fn wait(&self) -> Wait {
        let since = if self.holds_up { 0 } else { self.asked_at };
        let in_vain = (self.waited - since) / self.election_ticks as u32;
        Wait { timeouts: self.timeouts, in_vain }
    }

    /// A leader was heard, or is not missed any more.
    fn wait_anew(&mut self) {
        (self.timeouts, self.waited, self.asked_at) = (0, 0, 0);
        (self.holds_up, self.resort, self.missed) = (false, false, false);
    }

    fn draw(&mut self) {
        self.silence = 0;
        self.timeout = self.election_ticks + self.rng.random_range(0..self.election_ticks);
    }

    /// Time goes on after a sleep: the leader was not heard of for `silence` ticks.
    pub(super) fn wake(&mut self, raw: &mut RawNode<ReplicaStorage>, silence: usize) {
        self.draw();
        self.wait_anew();
        self.silence = silence.min(self.election_ticks);
        self.waited = self.silence as u32;
        raw.raft.election_elapsed = self.silence;
        self.last_elapsed = self.silence;
    }

    /// One tick of a replica that does not lead; whether it campaigned. At a timeout it does if it `may`
    /// after so long a wait; one that has promised to keep `still` waits until it need not.
    pub(super) fn tick(
        &mut self,
        raw: &mut RawNode<ReplicaStorage>,
        still: bool,
        may: impl FnOnce(Wait) -> bool,
    ) -> bool {
        if raw.raft.election_elapsed < self.last_elapsed {
            self.draw(); // The library has heard from a leader or started anew.
            if raw.raft.leader_id != INVALID_ID {
                self.wait_anew();
            }
        }
        raw.tick();
        self.silence += 1;
        self.waited = self.waited.saturating_add(1);
        raw.raft.election_elapsed = raw.raft.election_elapsed.min(self.election_ticks);
        let mut campaigns = false;
        if self.silence >= self.timeout && !still {
            self.timeouts = self.timeouts.saturating_add(1);
            campaigns = may(self.wait());
            if campaigns {
                raw.raft.election_elapsed = Self::library_timeout(self.election_ticks);
                raw.tick();
            }
            let follows = raw.raft.state == StateRole::Follower;
            self.missed = follows && raw.raft.leader_id != INVALID_ID;
            self.draw();
        }
        self.last_elapsed = raw.raft.election_elapsed;
        campaigns
    }
}
