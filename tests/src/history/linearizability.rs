//! Linearizability of one register by search, from values alone.
//!
//! The search of Wing and Gong with Lowe's memo: pick an operation that may come first, apply it
//! to the register, go on with the rest; remember every (set of done operations, value) that was
//! seen, never enter one twice. Four facts keep it small:
//!
//! 1. An operation may come next only if no other open one had completed before it was asked.
//! 2. A read that matches the register now is taken at once: taking it later changes nothing.
//! 3. An unknown write whose value nobody read can be left out: it could only be in the way.
//! 4. Values are unique, so a register shows who wrote it.
//!
//! The number of states is capped; at the cap the verdict is *undecided*.

use super::{Action, Moment, OPEN, Operation, Outcome, Value, Verdict};
use rustc_hash::FxHashSet;

/// States after which the search gives up.
pub const STATES_MAX: usize = 2_000_000;

/// One operation as the search sees it.
#[derive(Clone, Copy, Debug)]
struct Step {
    invoked: Moment,
    completed: Moment,
    write: bool,
    value: Value,
}

/// Which steps are done, and what the register holds.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    done: Vec<u64>,
    value: Value,
}

impl State {
    fn is_done(&self, step: usize) -> bool {
        self.done[step / 64] >> (step % 64) & 1 == 1
    }

    fn mark(&mut self, step: usize) {
        self.done[step / 64] |= 1 << (step % 64);
    }
}

/// Judges the operations of one key; the register starts empty.
#[must_use]
pub fn check(operations: &[Operation]) -> Verdict {
    check_with_cap(operations, STATES_MAX)
}

/// [`check`] with a cap of its own.
#[must_use]
pub fn check_with_cap(operations: &[Operation], states_max: usize) -> Verdict {
    let steps = steps(operations);
    let mut seen: FxHashSet<State> = FxHashSet::default();
    let mut stack = vec![State { done: vec![0; steps.len().div_ceil(64)], value: None }];
    let mut deepest = 0;
    while let Some(mut state) = stack.pop() {
        take_matching_reads(&steps, &mut state);
        if !seen.insert(state.clone()) {
            continue;
        }
        if seen.len() > states_max {
            return Verdict::Undecided(format!(
                "{} operations need more than {states_max} states",
                steps.len()
            ));
        }
        let horizon = horizon(&steps, &state);
        if horizon == OPEN {
            return Verdict::Valid;
        }
        deepest = deepest.max(state.done.iter().map(|w| w.count_ones()).sum::<u32>());
        for (i, step) in steps.iter().enumerate().rev() {
            if step.invoked < horizon && step.write && !state.is_done(i) {
                let mut next = state.clone();
                next.mark(i);
                next.value = step.value;
                stack.push(next);
            }
        }
    }
    Verdict::Violated(format!(
        "no order explains the {} operations of key {}; the best attempt orders {deepest}",
        steps.len(),
        operations.first().map_or(0, |o| o.key)
    ))
}

/// The operations that matter, by invocation.
fn steps(operations: &[Operation]) -> Vec<Step> {
    let read_values: FxHashSet<Value> = operations
        .iter()
        .filter_map(|o| match o.outcome {
            Outcome::Read { value, .. } => Some(value),
            _ => None,
        })
        .collect();
    let mut steps: Vec<Step> = operations
        .iter()
        .filter_map(|o| {
            let (write, value, completed) = match (o.action, o.outcome) {
                (Action::Write(value), Outcome::Written { .. }) => (true, value, o.completed),
                (Action::Write(value), Outcome::Unknown) if read_values.contains(&value) => {
                    (true, value, OPEN)
                }
                (Action::Read, Outcome::Read { value, .. }) => (false, value, o.completed),
                _ => return None,
            };
            Some(Step { invoked: o.invoked, completed, write, value })
        })
        .collect();
    steps.sort_unstable_by_key(|s| s.invoked);
    steps
}

/// The earliest completion among the steps that are not done: none asked later may come next.
fn horizon(steps: &[Step], state: &State) -> Moment {
    let open = steps.iter().enumerate().filter(|(i, _)| !state.is_done(*i));
    open.map(|(_, s)| s.completed).min().unwrap_or(OPEN)
}

/// Takes every read that may come next and sees what the register holds.
fn take_matching_reads(steps: &[Step], state: &mut State) {
    loop {
        let horizon = horizon(steps, state);
        let value = state.value;
        let mut taken = false;
        for (i, step) in steps.iter().enumerate() {
            if step.invoked >= horizon {
                break;
            }
            if !step.write && step.value == value && !state.is_done(i) {
                state.mark(i);
                taken = true;
            }
        }
        if !taken {
            return;
        }
    }
}
