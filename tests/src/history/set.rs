//! A set of unique elements that only grows: what was acknowledged is in every later read.

use super::{Moment, OPEN, Verdict};
use rustc_hash::{FxHashMap, FxHashSet};

/// What came of an add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Acknowledged.
    Yes,
    /// Refused: must never show up.
    No,
    /// May show up.
    Unknown,
}

/// One add.
#[derive(Clone, Copy, Debug)]
pub struct Add {
    /// What was added; once in a run.
    pub element: u64,
    /// When it was asked.
    pub invoked: Moment,
    /// When it was answered.
    pub completed: Moment,
    /// What came of it.
    pub added: Added,
}

/// One read of the whole set.
#[derive(Clone, Debug)]
pub struct Read {
    /// What it saw.
    pub elements: Vec<u64>,
    /// When it was asked.
    pub invoked: Moment,
    /// When it was answered.
    pub completed: Moment,
}

/// Judges one set: nothing lost, vanished, unexpected or duplicated.
#[must_use]
pub fn check(adds: &[Add], reads: &[Read]) -> Verdict {
    let by_element: FxHashMap<u64, &Add> = adds.iter().map(|a| (a.element, a)).collect();
    // Latest moment from which each element must be seen: its acknowledgement, or the first
    // answered read that showed it.
    let mut certain: FxHashMap<u64, Moment> = FxHashMap::default();
    for add in adds.iter().filter(|a| a.added == Added::Yes) {
        certain.insert(add.element, add.completed);
    }
    for read in reads {
        let mut unique = FxHashSet::default();
        for element in &read.elements {
            if !unique.insert(*element) {
                return violated(format!("element {element} twice in one read"));
            }
            match by_element.get(element) {
                None => return violated(format!("element {element} was never added")),
                Some(add) if add.added == Added::No => {
                    return violated(format!("refused element {element} showed up"));
                }
                Some(add) if add.invoked > read.completed => {
                    return violated(format!("element {element} was read before it was added"));
                }
                Some(_) => {}
            }
            let moment = certain.entry(*element).or_insert(OPEN);
            *moment = (*moment).min(read.completed);
        }
    }
    missing(reads, &certain)
}

fn missing(reads: &[Read], certain: &FxHashMap<u64, Moment>) -> Verdict {
    let mut by_moment: Vec<(Moment, u64)> = certain.iter().map(|(e, m)| (*m, *e)).collect();
    by_moment.sort_unstable();
    for read in reads {
        let seen: FxHashSet<u64> = read.elements.iter().copied().collect();
        let due = by_moment.iter().take_while(|(moment, _)| *moment < read.invoked);
        if let Some((moment, element)) = due.into_iter().find(|(_, e)| !seen.contains(e)) {
            return violated(format!(
                "element {element}, certain since {moment}, is missing in the read asked at {}",
                read.invoked
            ));
        }
    }
    Verdict::Valid
}

fn violated(why: String) -> Verdict {
    Verdict::Violated(why)
}
