//! Room in the apply queue: what is handed to apply and not yet reported applied, in bytes, of the whole
//! shard and of each group. Beyond the limits committed entries are parked (`replica/feed.rs`), and come
//! out again here.

use super::Shard;
use super::slot::Slot;
use crate::error::Fatal;
use crate::message::ApplyTask;
use crate::replica::Replica;
use crate::shard::Round;
use crate::types::GroupId;

/// What these tasks count for.
pub(super) fn apply_bytes(tasks: &[ApplyTask]) -> usize {
    tasks.iter().map(|task| task.bytes).sum()
}

impl Shard {
    pub(super) fn apply_full(&self) -> bool {
        self.apply_bytes >= self.parts.config.shard_apply_bytes_max()
    }

    fn group_apply_full(&self, group: GroupId) -> bool {
        let max = self.parts.config.group_apply_bytes_max;
        matches!(self.slots.get(&group), Some(Slot::Live(live)) if live.apply_bytes >= max)
    }

    /// Gives parked groups a portion each while apply has room.
    pub(super) fn unpark(&mut self, round: &mut Round) -> Result<(), Fatal> {
        while !self.apply_full() {
            let parked = self.parked.iter().copied();
            let some: Vec<GroupId> =
                parked.filter(|group| !self.group_apply_full(*group)).collect();
            if some.is_empty() {
                break;
            }
            for group in some {
                let handed = round.apply.len();
                let outcome = self.touch(group, |replica| replica.unpark(round));
                if let Some(Err(error)) = outcome {
                    return Err(Fatal::new("read of committed entries", error));
                }
                let bytes = apply_bytes(&round.apply[handed..]);
                self.apply_bytes += bytes;
                if let Some(Slot::Live(live)) = self.slots.get_mut(&group) {
                    live.apply_bytes += bytes;
                }
                let parked =
                    |replica: &mut Replica| replica.has_parked() && replica.removal().is_none();
                if !self.touch(group, parked).unwrap_or(false) {
                    self.parked.remove(&group);
                }
            }
        }
        Ok(())
    }
}
