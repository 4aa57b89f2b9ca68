//! What clients saw, and the checkers that judge it.
//!
//! 1. The workload records every operation as an [`Operation`]: when it was asked, when it was
//!    answered, and what the answer was. Operations without a certain outcome stay open.
//! 2. [`linearizability`] searches an order for each key alone, from values only.
//! 3. [`revision`] checks a whole region in O(n log n) with the revisions in the answers.
//! 4. [`set`] checks unique adds against reads of the whole set.
//!
//! Moments are numbers that grow with every recorded event, so no two events share one.

pub mod linearizability;
#[cfg(test)]
mod planted;
pub mod revision;
pub mod set;

/// What a register holds: a value that is written once in a run, or nothing.
pub type Value = Option<u64>;

/// A moment; [`OPEN`] for what never came.
pub type Moment = u64;

/// The completion of an operation without a known outcome: it may take effect at any later time.
pub const OPEN: Moment = u64::MAX;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the register to this value (`None` deletes).
    Write(Value),
    /// Read it.
    Read,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write was acknowledged.
    Written {
        /// Revision of the write.
        revision: u64,
    },
    /// A read was answered.
    Read {
        /// What it saw.
        value: Value,
        /// Revision that wrote the value; 0 when there was none.
        mod_revision: u64,
        /// The region's revision at the answer.
        revision: u64,
    },
    /// Refused: must never take effect.
    NotApplied,
    /// May or may not take effect.
    Unknown,
}

/// One operation on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub process: u32,
    /// Which register.
    pub key: u64,
    /// What was asked.
    pub action: Action,
    /// When it was asked.
    pub invoked: Moment,
    /// When it was answered; [`OPEN`] while it was not.
    pub completed: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// Whether it is a write that may be in effect.
    #[must_use]
    pub fn may_be_written(&self) -> bool {
        matches!(self.action, Action::Write(_)) && self.outcome != Outcome::NotApplied
    }
}

/// A checker's judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No violation.
    Valid,
    /// A violation, in words.
    Violated(String),
    /// Given up at the state cap: counts as a failure.
    Undecided(String),
}

impl Verdict {
    /// The complaint, if there is one.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        match self {
            Verdict::Valid => None,
            Verdict::Violated(why) => Some(why.clone()),
            Verdict::Undecided(why) => Some(format!("undecided: {why}")),
        }
    }
}
