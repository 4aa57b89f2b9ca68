//! The checkers under test: correct histories are accepted, planted violations are found.

use super::set::{Add, Added, Read};
use super::{Action, Moment, OPEN, Operation, Outcome, Value, Verdict};
use super::{linearizability, revision, set};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const HISTORIES: u64 = 1_000;
const KEYS: u64 = 3;

/// An operation with the moment at which a perfect register executes it.
struct Planned {
    operation: Operation,
    point: Moment,
    takes_effect: bool,
}

/// Runs `clients` clients against perfect registers.
fn correct_history(rng: &mut SmallRng) -> Vec<Operation> {
    let clients = rng.random_range(2..6);
    let mut planned: Vec<Planned> = (0..clients).flat_map(|c| client(rng, c)).collect();
    planned.sort_unstable_by_key(|p| p.point);
    let mut registers: Vec<(Value, u64)> = vec![(None, 0); KEYS as usize];
    let mut region_revision = 0;
    for p in &mut planned {
        let register = &mut registers[p.operation.key as usize];
        match p.operation.action {
            Action::Write(value) if p.takes_effect => {
                region_revision += 1;
                *register = (value, if value.is_some() { region_revision } else { 0 });
                if let Outcome::Written { revision } = &mut p.operation.outcome {
                    *revision = region_revision;
                }
            }
            Action::Write(_) => {}
            Action::Read => {
                let (value, mod_revision) = *register;
                p.operation.outcome =
                    Outcome::Read { value, mod_revision, revision: region_revision };
            }
        }
    }
    planned.into_iter().map(|p| p.operation).collect()
}

/// One client's operations, one after the other; moments are unique over all clients.
fn client(rng: &mut SmallRng, client: u32) -> Vec<Planned> {
    let mut now = u64::from(client) + 1;
    let mut step = |rng: &mut SmallRng| {
        now += 10 * rng.random_range(1..8);
        now
    };
    let mut planned = Vec::new();
    for n in 0..rng.random_range(5..25u64) {
        let invoked = step(rng);
        let point = step(rng);
        let completed = step(rng);
        let value = (!rng.random_bool(0.1)).then_some(u64::from(client) * 1_000 + n + 1);
        let (action, outcome, takes_effect) = match rng.random_range(0..10) {
            0..=3 => (Action::Read, Outcome::Unknown, false),
            4 => (Action::Write(value), Outcome::Unknown, rng.random_bool(0.5)),
            5 => (Action::Write(value), Outcome::NotApplied, false),
            _ => (Action::Write(value), Outcome::Written { revision: 0 }, true),
        };
        let completed =
            if action != Action::Read && outcome == Outcome::Unknown { OPEN } else { completed };
        let key = rng.random_range(0..KEYS);
        let operation = Operation { process: client, key, action, invoked, completed, outcome };
        planned.push(Planned { operation, point, takes_effect });
    }
    planned
}

fn by_search(history: &[Operation]) -> Verdict {
    for key in 0..KEYS {
        let of_key: Vec<Operation> = history.iter().copied().filter(|o| o.key == key).collect();
        let verdict = linearizability::check(&of_key);
        if verdict != Verdict::Valid {
            return verdict;
        }
    }
    Verdict::Valid
}

/// Makes a correct history wrong beyond doubt, in one of several ways; `None` if it has no place.
fn plant(rng: &mut SmallRng, history: &mut [Operation]) -> Option<&'static str> {
    let reads: Vec<usize> = (0..history.len())
        .filter(|i| matches!(history[*i].outcome, Outcome::Read { .. }))
        .collect();
    let read = *reads.choose(rng)?;
    let target = history[read];
    let Outcome::Read { revision, .. } = target.outcome else { return None };
    let written = |o: &&Operation| {
        o.key == target.key
            && matches!(o.action, Action::Write(Some(_)))
            && matches!(o.outcome, Outcome::Written { .. })
    };
    let value_of = |o: &Operation| match (o.action, o.outcome) {
        (Action::Write(value), Outcome::Written { revision }) => (value, revision),
        _ => unreachable!("only acknowledged writes are chosen"),
    };
    let (what, (value, mod_revision)) = match rng.random_range(0..4) {
        0 => ("a value that nobody wrote", (Some(999_999), revision)),
        1 => {
            let late: Vec<&Operation> =
                history.iter().filter(|o| written(o) && o.invoked > target.completed).collect();
            ("the future", value_of(late.choose(rng)?))
        }
        2 => {
            let refused: Vec<&Operation> = history
                .iter()
                .filter(|o| o.key == target.key && o.outcome == Outcome::NotApplied)
                .filter(|o| matches!(o.action, Action::Write(Some(_))))
                .collect();
            let Action::Write(value) = refused.choose(rng)?.action else { return None };
            ("a refused write", (value, revision))
        }
        _ => {
            let stale: Vec<&Operation> = history
                .iter()
                .filter(|old| {
                    written(old)
                        && history.iter().filter(written).any(|new| {
                            old.completed < new.invoked && new.completed < target.invoked
                        })
                })
                .collect();
            ("an overwritten value", value_of(stale.choose(rng)?))
        }
    };
    history[read].outcome = Outcome::Read { value, mod_revision, revision };
    Some(what)
}

#[test]
fn correct_histories_are_accepted() {
    for seed in 0..HISTORIES {
        let history = correct_history(&mut SmallRng::seed_from_u64(seed));
        assert_eq!(by_search(&history), Verdict::Valid, "seed {seed}: {history:#?}");
        assert_eq!(revision::check(&history), Verdict::Valid, "seed {seed}: {history:#?}");
    }
}

#[test]
fn planted_violations_are_found() {
    let mut planted = 0;
    for seed in 0.. {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut history = correct_history(&mut rng);
        let Some(what) = plant(&mut rng, &mut history) else { continue };
        let verdict = by_search(&history);
        assert!(matches!(verdict, Verdict::Violated(_)), "seed {seed}: {what}: {history:#?}");
        let verdict = revision::check(&history);
        assert!(matches!(verdict, Verdict::Violated(_)), "seed {seed}: {what}: {history:#?}");
        planted += 1;
        if planted == HISTORIES {
            return;
        }
    }
}

#[test]
fn revisions_that_repeat_or_run_backwards_are_found() {
    let mut planted = 0;
    for seed in 0.. {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut history = correct_history(&mut rng);
        let mut writes: Vec<&mut Operation> =
            history.iter_mut().filter(|o| matches!(o.outcome, Outcome::Written { .. })).collect();
        writes.sort_unstable_by_key(|o| o.invoked);
        let Some(last) = writes.len().checked_sub(1) else { continue };
        let copied = writes[0].outcome;
        if last == 0 {
            continue;
        }
        writes[last].outcome = copied;
        assert!(matches!(revision::check(&history), Verdict::Violated(_)), "seed {seed}");
        planted += 1;
        if planted == HISTORIES {
            return;
        }
    }
}

#[test]
fn a_search_at_its_cap_is_undecided() {
    let mut operations: Vec<Operation> = (0..40)
        .map(|n| Operation {
            process: n,
            key: 0,
            action: Action::Write(Some(u64::from(n))),
            invoked: u64::from(n),
            completed: 1_000 + u64::from(n),
            outcome: Outcome::Written { revision: u64::from(n) + 1 },
        })
        .collect();
    let read = Outcome::Read { value: Some(77_777), mod_revision: 1, revision: 100 };
    operations.push(Operation {
        process: 50,
        key: 0,
        action: Action::Read,
        invoked: 2_000,
        completed: 2_001,
        outcome: read,
    });
    let verdict = linearizability::check_with_cap(&operations, 1_000);
    assert!(matches!(verdict, Verdict::Undecided(_)), "{verdict:?}");
}

/// A correct history of a set: each add takes effect between its invocation and completion.
fn correct_set(rng: &mut SmallRng) -> (Vec<Add>, Vec<Read>) {
    let mut events: Vec<(Moment, Option<usize>)> = Vec::new();
    let mut adds = Vec::new();
    for element in 0..rng.random_range(5..40u64) {
        let invoked = rng.random_range(0..1_000) * 10 + 1;
        let point = invoked + rng.random_range(1..300) * 10 + 1;
        let completed = point + rng.random_range(1..300) * 10 + 1;
        let added = match rng.random_range(0..10) {
            0 => Added::No,
            1 => Added::Unknown,
            _ => Added::Yes,
        };
        let visible = added == Added::Yes || (added == Added::Unknown && rng.random_bool(0.5));
        if visible {
            events.push((point, Some(adds.len())));
        }
        adds.push(Add { element, invoked, completed, added });
    }
    let reads = rng.random_range(2..8);
    events.extend((0..reads).map(|_| (rng.random_range(500..2_000) * 10 + 5, None)));
    events.push((1_000_000, None));
    events.sort_unstable();
    let (mut elements, mut seen) = (Vec::new(), Vec::new());
    for (moment, add) in events {
        match add {
            Some(add) => elements.push(adds[add].element),
            None => seen.push(Read {
                elements: elements.clone(),
                invoked: moment - 4,
                completed: moment + 4,
            }),
        }
    }
    (adds, seen)
}

#[test]
fn correct_sets_are_accepted_and_planted_losses_found() {
    let mut planted = 0;
    for seed in 0.. {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (adds, mut reads) = correct_set(&mut rng);
        assert_eq!(set::check(&adds, &reads), Verdict::Valid, "seed {seed}");
        let last = reads.last_mut().expect("the final read");
        let certain = |e: &u64| adds.iter().any(|a| a.element == *e && a.added == Added::Yes);
        match rng.random_range(0..4) {
            0 => {
                let Some(at) = last.elements.iter().position(certain) else { continue };
                last.elements.remove(at);
            }
            1 => last.elements.push(123_456),
            2 => {
                let Some(first) = last.elements.first().copied() else { continue };
                last.elements.push(first);
            }
            _ => {
                let Some(refused) = adds.iter().find(|a| a.added == Added::No) else { continue };
                last.elements.push(refused.element);
            }
        }
        assert!(matches!(set::check(&adds, &reads), Verdict::Violated(_)), "seed {seed}");
        planted += 1;
        if planted == HISTORIES {
            return;
        }
    }
}
