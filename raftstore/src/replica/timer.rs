//! When a follower campaigns: the randomness of election timeouts, from our own seeded source.
//!
//! The library draws its timeouts from a thread-local source, which no seed reproduces (trap 8).
//! It gets a range of one value, twice the election timeout, that is never reached: this timer
//! draws from [timeout, 2 × timeout) and moves the library's clock to its end when that is over.

use crate::log::storage::ReplicaStorage;
use raft::RawNode;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(super) struct ElectionTimer {
    election_ticks: usize,
    rng: SmallRng,
    timeout: usize,
    last_elapsed: usize,
}

impl ElectionTimer {
    pub(super) fn new(election_ticks: usize, seed: u64) -> Self {
        let mut timer = ElectionTimer {
            election_ticks,
            rng: SmallRng::seed_from_u64(seed),
            timeout: 0,
            last_elapsed: 0,
        };
        timer.draw();
        timer
    }

    /// What the library is told.
    pub(super) fn library_timeout(election_ticks: usize) -> usize {
        2 * election_ticks
    }

    fn draw(&mut self) {
        self.timeout = self.election_ticks + self.rng.random_range(0..self.election_ticks);
    }

    /// One tick of a replica that does not lead.
    pub(super) fn tick(&mut self, raw: &mut RawNode<ReplicaStorage>) {
        if raw.raft.election_elapsed < self.last_elapsed {
            self.draw(); // The library has heard from a leader or started anew.
        }
        raw.tick();
        if raw.raft.election_elapsed >= self.timeout {
            raw.raft.election_elapsed = Self::library_timeout(self.election_ticks);
            raw.tick();
            self.draw();
        }
        self.last_elapsed = raw.raft.election_elapsed;
    }
}
