//! A store whose disk is slow ([`crate::slow`]) or short of room ([`crate::disk`]) hands over what it leads,
//! sleeping groups too, a few a tick, so that the stores that take them have time for each.

use super::Shard;
use super::slot::Slot;
use crate::replica::Replica;
use crate::types::GroupId;
use std::collections::VecDeque;

/// Groups that are handed over in one tick.
const GROUPS_PER_TICK: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Shedding {
    /// Led here, and not looked at in this turn.
    groups: VecDeque<GroupId>,
    /// Ticks until the next turn.
    rest: usize,
}

impl Shard {
    /// The disk of this store's log has become slow, or fast again.
    pub(super) fn disk_changed(&mut self, slow: bool) {
        self.disks.set_own(slow);
        self.shed_anew();
    }

    /// The next turn begins with the next tick.
    pub(super) fn shed_anew(&mut self) {
        self.shedding = Shedding::default();
    }

    /// Once a tick. Every group that is led here is looked at once an election timeout: what
    /// nobody could take then, somebody may take later.
    pub(super) fn shed(&mut self) {
        if !self.disks.own_is_slow() && self.room.own().is_none() {
            return;
        }
        let turn = &mut self.shedding;
        if turn.groups.is_empty() {
            if turn.rest > 0 {
                turn.rest -= 1;
                return;
            }
            turn.rest = self.parts.config.election_ticks;
            let leads = |(group, slot): (&GroupId, &Slot)| match slot {
                Slot::Live(live) if live.replica.is_leader() => Some(*group),
                _ => None,
            };
            let mut led: Vec<GroupId> = self.slots.iter().filter_map(leads).collect();
            led.sort_unstable();
            turn.groups = led.into();
        }
        let mut begun = 0;
        while begun < GROUPS_PER_TICK
            && let Some(group) = self.shedding.groups.pop_front()
        {
            let Some(Slot::Live(live)) = self.slots.get(&group) else { continue };
            if live.replica.refuge().is_none() {
                continue;
            }
            self.rouse(group);
            self.touch(group, Replica::flee);
            begun += 1;
        }
    }
}
