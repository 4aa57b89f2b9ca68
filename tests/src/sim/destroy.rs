//! The thread that destroys the states of replicas that were removed: it takes its time, one after another, beside
//! all other work, and its process may die first. The next start destroys what is left.

use super::clock::{MICROS, MILLIS, SECONDS};
use super::world::{Work, World};
use flotilla_raftstore::message::ShardMessage;
use flotilla_raftstore::{Fatal, StateMachine};
use rand::Rng;

impl World {
    /// The thread that destroys states takes its time for the first that waits: a large one lasts.
    pub(super) fn begin_destroy(&mut self, node: usize) {
        let longest = if self.rng.random_bool(0.2) { 3 * SECONDS } else { 20 * MILLIS };
        let delay = self.rng.random_range(10 * MICROS..longest);
        self.work_after(delay, node, Work::Destroy);
    }

    /// The first state that waits is destroyed.
    pub(super) fn destroy(&mut self, node: usize) -> Result<(), Fatal> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some((shard, note)) = process.destroys.pop_front() else { return Ok(()) };
        let group = note.group;
        process.watched.destroy(group)?;
        self.violations.extend(process.watched.take_violations());
        process.applied.remove(&group);
        let more = !process.destroys.is_empty();
        self.note("destroyed: group", node, [group.0, 0, 0]);
        self.counts.add("replicas destroyed");
        self.left_behind(node, group);
        self.forget_damage(node, group);
        self.invariants.destroyed(node, group);
        self.tell(node, shard, ShardMessage::Applied(vec![note]));
        if more {
            self.begin_destroy(node);
        }
        Ok(())
    }
}
