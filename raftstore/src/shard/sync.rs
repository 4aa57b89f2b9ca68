//! The sync thread: makes the state machine durable from time to time, and tells the shards how far,
//! so that the log can be cut.
//!
//! A state machine may take seconds for it (it writes out all that is in memory), so it rests between
//! two syncs, unless too much would have to be replayed after a crash.

use super::run::{Shell, seconds_since};
use crate::apply::StateMachine;
use crate::message::{Applied, ApplyTask, DurableApplied, ShardMessage};
use crate::types::{GroupId, ReplicaId};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// A state machine whose sync is long has it for half of the time; it is the one to know how hard it works then.
const REST_PER_SYNC: u32 = 1;
/// What replays in so long is made durable without further rest. What is applied while that goes on
/// comes on top of it.
const REPLAY_MAX: Duration = Duration::from_millis(2_500);
/// Replay of a command, as measured with small ones on one core.
const REPLAY_PER_COMMAND: Duration = Duration::from_micros(1);
/// Replay of a byte of entries, as measured with large ones.
const REPLAY_PER_KIB: Duration = Duration::from_micros(4);
/// Looks at what is applied in one interval.
const LOOKS: u32 = 4;

/// What is applied, for the sync thread and for readers of the log.
#[derive(Default)]
pub(crate) struct Unsynced {
    /// Everything, also what is durable.
    applied: BTreeMap<GroupId, (ReplicaId, u64)>,
    /// Something came since the last sync began.
    changed: bool,
    /// How long a replay of what came since the last sync began would take.
    pub(super) replay: Duration,
}

impl Unsynced {
    /// What a start has found.
    pub(crate) fn new(applied: BTreeMap<GroupId, (ReplicaId, u64)>) -> Self {
        Unsynced { applied, changed: true, replay: Duration::ZERO }
    }

    /// The last index that is applied here.
    pub(crate) fn applied(&self, group: GroupId) -> Option<u64> {
        self.applied.get(&group).map(|(_, index)| *index)
    }

    pub(super) fn note(&mut self, applied: &[Applied]) {
        self.changed = true;
        for note in applied.iter().filter(|note| note.index > 0) {
            self.applied.insert(note.group, (note.replica, note.index));
        }
        for note in applied.iter().filter(|note| note.destroyed) {
            self.applied.remove(&note.group);
        }
    }
}

/// How long a replay of the task would take.
pub(super) fn replay_time(task: &ApplyTask) -> Duration {
    let commands: usize = task.entries.iter().map(|c| c.entry.commands.len()).sum();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    REPLAY_PER_COMMAND * count(commands) + REPLAY_PER_KIB * count(task.bytes >> 10)
}

/// Whether to sync `since` after the end of the last one, which `took` so long.
fn is_due(since: Duration, took: Duration, interval: Duration, replay: Duration) -> bool {
    since >= interval && (since >= took * REST_PER_SYNC || replay >= REPLAY_MAX)
}

/// The sync thread's loop. Syncs once more at the end.
pub(crate) fn run_sync(
    state_machine: &dyn StateMachine,
    interval: Duration,
    stop: &Receiver<()>,
    unsynced: &Mutex<Unsynced>,
    shell: &Shell,
) {
    let mut synced = BTreeMap::new();
    let mut took = Duration::ZERO;
    let mut end = shell.clock.now();
    loop {
        let ended = stop.recv_timeout(interval / LOOKS) != Err(RecvTimeoutError::Timeout);
        let since = Duration::from_nanos(shell.clock.now().0 - end.0);
        let applied = {
            let mut unsynced = unsynced.lock();
            let due = unsynced.changed && is_due(since, took, interval, unsynced.replay);
            if !ended && !due {
                continue;
            }
            (unsynced.changed, unsynced.replay) = (false, Duration::ZERO);
            unsynced.applied.clone()
        };
        let news =
            |(group, state): &(&GroupId, &(ReplicaId, u64))| synced.get(*group) != Some(*state);
        if applied.iter().any(|state| news(&state)) {
            let start = shell.clock.now();
            if let Err(fatal) = state_machine.sync() {
                return (shell.on_fatal)(fatal);
            }
            let seconds = seconds_since(start, shell);
            shell.router.metrics.sync_seconds.observe(seconds);
            took = Duration::from_secs_f64(seconds);
            let durable: Vec<DurableApplied> = applied
                .iter()
                .filter(news)
                .map(|(group, (replica, index))| DurableApplied {
                    group: *group,
                    replica: *replica,
                    index: state_machine.recovered(*group).applied.min(*index),
                    log_needed: state_machine.log_needed(*group),
                })
                .collect();
            synced = applied;
            shell.router.tell_all(|| ShardMessage::DurableApplied(durable.clone()));
        }
        if ended {
            return;
        }
        end = shell.clock.now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sync_rests_until_too_much_would_be_replayed() {
        let seconds = Duration::from_secs;
        let (interval, none) = (seconds(2), Duration::ZERO);
        assert!(!is_due(seconds(1), none, interval, none));
        assert!(is_due(seconds(2), none, interval, none));
        assert!(!is_due(seconds(2), seconds(3), interval, none));
        assert!(is_due(seconds(3), seconds(3), interval, none));
        assert!(is_due(seconds(2), seconds(3), interval, REPLAY_MAX));
        assert!(!is_due(seconds(1), seconds(3), interval, 2 * REPLAY_MAX), "never in a row");
    }
}
