//! What the parent and a store say to each other: one JSON object a line, an order in, its answer
//! out.

use serde::{Deserialize, Serialize};

/// What is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Puts of 16 bytes to 16-byte keys, each a command and an answer of its own.
    Puts,
    /// Read barriers (ReadIndex), nothing read after them.
    Barriers,
}

/// The parent's word to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// Say how many groups there are; answered with [`Groups`].
    Groups,
    /// Submit until the window ends; answered with [`Tally`].
    Run {
        /// What.
        work: Work,
        /// How many at once, of this store.
        in_flight: usize,
        /// The window's start, in nanoseconds of the boot clock.
        start_ns: u64,
        /// Its end.
        end_ns: u64,
    },
}

/// A store's groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Replicas here.
    pub all: usize,
    /// Those led from here.
    pub led: Vec<u64>,
}

/// What one store counted within the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Operations that succeeded.
    pub ops: u64,
    /// Operations that were refused or whose outcome is unknown.
    pub errors: u64,
    /// The first error's text.
    pub error: Option<String>,
    /// Latencies of the successful ones: microseconds and how often.
    pub latency_us: Vec<(u64, u64)>,
    /// Groups led when the load began and when it ended.
    pub led: [Vec<u64>; 2],
}
