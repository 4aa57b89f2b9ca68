//! What a store's groups look like after a start: log and state machine, held against each other.

use crate::apply::StateMachine;
use crate::error::LogError;
use crate::log::{GroupLog, LogStore};

/// One group as recovered. With `damage` it is quarantined, loudly, and takes no part.
#[derive(Clone, Debug)]
pub struct RecoveredGroup {
    /// What the log holds.
    pub log: GroupLog,
    /// Last index in the state machine.
    pub applied: u64,
    /// Highest index known committed, from the log and the state machine.
    pub commit: u64,
    /// Why it cannot take part.
    pub damage: Option<String>,
}

/// Reads all groups and checks each (invariants I4 and I5; the consensus library aborts on a
/// state that breaks them).
pub fn recover(
    log: &dyn LogStore,
    state_machine: &dyn StateMachine,
) -> Result<Vec<RecoveredGroup>, LogError> {
    Ok(log.load()?.into_iter().map(|group| check(group, state_machine)).collect())
}

fn check(log: GroupLog, state_machine: &dyn StateMachine) -> RecoveredGroup {
    let state = state_machine.recovered(log.group);
    let applied = state.applied;
    let commit = log.hard_state.commit.max(state.commit.index).min(log.last_index);
    let damage = log.damage.clone().or_else(|| {
        if log.last_index < applied {
            Some(format!("the log ends at {} before the applied index {applied}", log.last_index))
        } else if log.truncated.index > applied {
            let start = log.truncated.index + 1;
            Some(format!("the log starts at {start}, after the applied index {applied}"))
        } else if commit < applied {
            Some(format!("the applied index {applied} is beyond the commit index {commit}"))
        } else {
            None
        }
    });
    RecoveredGroup { log, applied, commit, damage }
}
