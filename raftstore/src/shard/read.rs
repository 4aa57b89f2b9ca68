//! Reads as they come: most need nothing but a look at the replica, which then need not be settled.

use super::Shard;
use super::slot::{Live, Slot};
use crate::clock::{Moment, Time};
use crate::completion::{Answer, Reply};
use crate::message::ReadMode;
use crate::shard::Round;
use crate::types::GroupId;

impl Shard {
    /// Takes a read of a live replica.
    pub(super) fn read(&mut self, group: GroupId, mode: ReadMode, reply: Reply, round: &mut Round) {
        let time = self.time;
        if let Some(Slot::Live(live)) = self.slots.get_mut(&group)
            && live.serves_now(mode, time, round)
        {
            return self.let_through.push(reply);
        }
        // Whoever stands in line may take a read along to a quorum.
        if mode == ReadMode::Linearizable
            && let Some(replica) = self.in_line(group)
        {
            return replica.queue_read(mode, reply);
        }
        self.touch(group, |replica| replica.queue_read(mode, reply));
    }

    /// Answers them together: one wake-up for each connection.
    pub(super) fn let_reads_through(&mut self) {
        if !self.let_through.is_empty() {
            let replies = self.let_through.drain(..);
            Reply::send_all(replies.map(|reply| (reply, Ok(Answer::ReadReady))));
        }
    }

    /// The term in which the replica of `group` here would serve lease reads at `moment`, which is not
    /// before the last round's.
    #[must_use]
    pub fn leased_term(&self, group: GroupId, moment: Moment) -> Option<u64> {
        let Some(Slot::Live(live)) = self.slots.get(&group) else { return None };
        live.replica.leased_term(self.elapsed.at(moment))
    }
}

impl Live {
    fn serves_now(&mut self, mode: ReadMode, time: Time, round: &mut Round) -> bool {
        let by_lease = matches!(mode, ReadMode::Lease | ReadMode::Stale { .. });
        if by_lease && self.replica.is_leader() && self.replica().serves_by_lease(time) {
            round.reads.leased += 1;
            return true;
        }
        match mode {
            ReadMode::Stale { bound } if self.replica.is_fresh(bound, time) => {
                round.reads.stale += 1;
                true
            }
            _ => false,
        }
    }
}
