//! What happened, as a hash over everything and as the last events in words.

use std::collections::VecDeque;
use std::fmt;
use std::hash::Hasher;

/// Events that a failure shows.
const SHOWN: usize = 200;

/// One event: what, where and up to three numbers whose meaning the name tells.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    at: u64,
    what: &'static str,
    node: u64,
    numbers: [u64; 3],
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.numbers;
        write!(f, "{:>13.6} s  store {:<2} {:<40}", self.at as f64 / 1e9, self.node, self.what)?;
        write!(f, " {a} {b} {c}")
    }
}

/// The run so far.
#[derive(Default)]
pub struct Trace {
    hasher: rustc_hash::FxHasher,
    last: VecDeque<Entry>,
    events: u64,
    /// Print every event as it happens.
    pub loud: bool,
}

impl Trace {
    /// Records one event.
    pub fn record(&mut self, at: u64, what: &'static str, node: u64, numbers: [u64; 3]) {
        let entry = Entry { at, what, node, numbers };
        if self.loud {
            eprintln!("{entry}");
        }
        self.events += 1;
        self.hasher.write_u64(at);
        self.hasher.write(what.as_bytes());
        self.hasher.write_u64(node);
        for number in numbers {
            self.hasher.write_u64(number);
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    /// Prints details when every event is printed; no part of the hash.
    pub fn remark(&self, text: impl FnOnce() -> String) {
        if self.loud {
            eprintln!("{:>19}{}", "", text());
        }
    }

    /// Equal for equal runs.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// How many events were recorded.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Entry> {
        self.last.iter()
    }
}
