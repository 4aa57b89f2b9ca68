//! What a shard tells of itself when somebody asks: it costs nothing until then.

use super::Shard;
use super::slot::Slot;
use crate::events::Levels;
use crate::types::{GroupId, Nanos};

impl Shard {
    /// How much there is of everything now.
    pub(super) fn levels(&self) -> Levels {
        let mut sum = Levels {
            apply_bytes: self.apply_bytes as u64,
            parked: self.parked.len() as u64,
            ..Levels::default()
        };
        for slot in self.slots.values() {
            match slot {
                Slot::Live(live) => sum.add(&live.replica.levels(self.time)),
                Slot::Quarantined(_) => sum.failed += 1,
                Slot::Gone(_) => {}
            }
        }
        sum
    }

    /// For how long the replica here has a lease, if it leads.
    pub(super) fn lease_ms(&self, group: GroupId) -> Option<u64> {
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return None };
        let Nanos(left) = live.replica.lease_left(self.time)?;
        Some(left / 1_000_000)
    }
}
