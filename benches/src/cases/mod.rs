//! The work that is measured in small: by time with criterion (`benches/benches`), and the parts
//! that touch neither disk nor clock by instructions (`counts`).
//!
//! - [`shard`]: rounds of three shards in lockstep, writes and read barriers.
//! - [`apply`]: the KV state machine over its engines.
//! - [`frames`]: what travels: the client's frames, the log's commands, the stores' frames.
//! - [`client`]: routing and packing in the client.

pub mod apply;
pub mod client;
pub mod frames;
pub mod shard;

use flotilla_raftstore::ReadMode;

/// A piece of work: what makes its input, and what is measured.
pub struct Case<I> {
    /// `subject/what`.
    pub name: String,
    /// Operations that one run counts for.
    pub operations: u64,
    /// Makes the next input, unmeasured.
    pub input: Box<dyn FnMut() -> I>,
    /// Runs once, measured.
    pub run: Box<dyn FnMut(I)>,
}

impl<I: 'static> Case<I> {
    fn new(
        name: impl Into<String>,
        operations: u64,
        input: impl FnMut() -> I + 'static,
        run: impl FnMut(I) + 'static,
    ) -> Self {
        Case { name: name.into(), operations, input: Box::new(input), run: Box::new(run) }
    }

    /// The case with `runs_max` inputs made in advance: called with a number of runs, it does
    /// nothing else.
    fn prepared(mut self, runs_max: usize) -> Prepared {
        let inputs: Vec<I> = (0..runs_max).map(|_| (self.input)()).collect();
        Box::new(move |runs| inputs.into_iter().take(runs).for_each(&mut self.run))
    }
}

/// Does as many runs as it is told.
pub type Prepared = Box<dyn FnOnce(usize)>;

/// A case whose instructions are counted.
pub struct Counted {
    /// As in [`Case`].
    pub name: String,
    /// As in [`Case`].
    pub operations: u64,
    /// Prepares so many runs.
    pub prepare: Box<dyn FnOnce(usize) -> Prepared>,
}

impl<I: 'static> From<Case<I>> for Counted {
    fn from(case: Case<I>) -> Self {
        Counted {
            name: case.name.clone(),
            operations: case.operations,
            prepare: Box::new(move |runs_max| case.prepared(runs_max)),
        }
    }
}

/// Makes a counted case.
pub type MakeCounted = fn() -> Counted;

/// All cases that are deterministic. Functions, because making some takes a while.
pub const COUNTED: [MakeCounted; 14] = [
    || shard::writes(1, 24).into(),
    || shard::writes(24, 24).into(),
    || shard::writes(1_000, 1_000).into(),
    || shard::barriers(20, 24, ReadMode::Linearizable).into(),
    || shard::barriers(20, 24, ReadMode::Lease).into(),
    || apply::memory().into(),
    || frames::encode_requests(true).into(),
    || frames::encode_requests(false).into(),
    || frames::decode_requests(true).into(),
    || frames::decode_requests(false).into(),
    || frames::commands().into(),
    || frames::envelopes().into(),
    || client::route().into(),
    || client::pack().into(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counted_case_runs_and_has_a_name_of_its_own() {
        let mut names = Vec::new();
        for make in COUNTED {
            let case = make();
            assert!(case.operations > 0, "{}", case.name);
            names.push(case.name.clone());
            (case.prepare)(2)(2);
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), COUNTED.len());
    }
}
