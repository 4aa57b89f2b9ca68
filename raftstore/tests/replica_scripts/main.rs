//! Golden scripts of replica behaviour: one group on three of five stores, stepped by hand.
//!
//! A script in `scripts/` is a list of commands and what they print. Nothing runs by itself: no
//! threads, and a clock that goes on by 100 ms with every tick of a store, or of all of them. `UPDATE_GOLDENFILES=1` writes the outputs anew; read the difference.
//!
//! - `tick STORE [COUNT]` ticks; `ticks COUNT` ticks all stores; `elect STORE` ticks it alone until
//!   it leads.
//! - `settle` delivers and writes until nothing is left to do.
//! - `propose STORE TEXT`, `transfer STORE TO` and `read STORE [HOW]` ask, and print what is answered;
//!   HOW is `lease` or `follower`.
//! - `wait MS` lets time pass without a tick; `lease STORE` says whether it has one.
//! - `freeze STORE`, `thaw STORE` stop and release its disk: writes wait, held messages too.
//! - `cut STORE`, `mend STORE` take it off the network and back; `restart STORE` starts it anew
//!   from its log, losing what waits for the disk.
//! - `change STORE OPERATION PART…` asks for a change of the members; the parts are
//!   `voter/ID@STORE`, `learner/ID@STORE`, `promote/ID`, `demote/ID`, `remove/ID`,
//!   `rebuild/ID@NEW`, `priority/ID@PRIORITY`, `cancel/OPERATION` and `force`.
//! - `recover STORE OPERATION LOST…` has it go on without the lost stores, and without replicas named as
//!   `gone/ID`.
//! - `leave STORE` tells it that it is about to stop.
//! - `keep STORE` remembers what is sent to a store from now on, `replay STORE` sends it again.
//! - `sync STORE` makes its state durable, so that its log can be cut; at most four entries of a log are
//!   kept for a member that lags. `snapshot STORE` has one made.
//! - `fail STORE TEXT` has its state machine fail at that command, `fail STORE` at none. `told STORE`
//!   prints what its callbacks were told since the last time.
//! - `disk STORE MIB` says that so much of its disk is free, with a limit of 100; `disk STORE` that it has
//!   room. `delete STORE TEXT` proposes what only takes away.
//! - `spoil STORE` damages the blocks of the next snapshot that has come to it, and of those that come in their
//!   place, until `spoil STORE off`.
//! - `timed STORE SECONDS` starts it anew, to make a snapshot so often; `made STORE` tells how many it has made.
//! - `hold STORE` keeps snapshots on their way to it; `lose STORE` has what is on its way fail, `release STORE`
//!   lets it come.
//! - `damage STORE` says that its state was found damaged.
//! - `status` prints every replica, `members STORE` the members as one knows them, `record STORE`
//!   what its log has of the group.

mod cluster;
mod journal;
mod store;

use cluster::Cluster;

fn script(name: &str) {
    let path = format!("tests/scripts/{name}");
    goldenscript::run(&mut Cluster::default(), path).expect("the script can be run");
}

#[test]
fn election() {
    script("election");
}

#[test]
fn asleep_beside_the_dead() {
    script("asleep_beside_the_dead");
}

/// What the leader knew of the members when it fell asleep is old.
#[test]
fn a_sleeping_leader_is_asked_about_members_that_have_died() {
    script("asleep_changes");
}

#[test]
fn a_replica_that_is_being_rebuilt_does_not_lead() {
    script("rebuild");
}

/// Somebody who never comes holds up the change, not the leader's flight from a full disk.
#[test]
fn a_full_disk_is_left_while_a_change_waits() {
    script("full_disk_pending");
}

/// It cannot campaign, so the library never forgets its leader.
#[test]
fn a_learner_that_is_left_goes_on() {
    script("recover_learner");
}

/// Its store is not lost, and nobody can count on it.
#[test]
fn a_group_goes_on_without_a_lost_store_and_a_damaged_replica() {
    script("recover_damaged");
}

#[test]
fn replication() {
    script("replication");
}

#[test]
fn restart() {
    script("restart");
}

#[test]
fn members_are_replaced() {
    script("members_replace");
}

#[test]
fn members_are_not_changed_against_the_rules() {
    script("members_refusals");
}

/// Bug 25: several membership changes in flight.
#[test]
fn members_change_one_at_a_time() {
    script("members_one_at_a_time");
}

#[test]
fn a_leader_leaves() {
    script("members_leader");
}

/// Bugs 18 and 26: nobody comes back, and a message for another replica is not taken.
#[test]
fn a_tombstone_stays() {
    script("members_tombstone");
}

/// Bug 24: what is applied is what was committed.
#[test]
fn members_survive_restarts() {
    script("members_restart");
}

/// Bug 24: so is what a snapshot holds.
#[test]
fn a_snapshot_holds_committed_members() {
    script("members_snapshot");
}

/// Bug 17: it counts as a quorum only once its disk has what it says.
#[test]
fn a_sole_voter_waits_for_its_disk() {
    script("sole_voter");
}

#[test]
fn read_index() {
    script("read_index");
}

#[test]
fn term_change() {
    script("term_change");
}

#[test]
fn transfer() {
    script("transfer");
}

/// Bug 3: a paused leader, and one that is cut off, serves by its lease for as long as it holds. Bug
/// 38: a stall costs the lease until the next answers, not more.
#[test]
fn a_lease_ends_in_time() {
    script("lease_expires");
}

#[test]
fn a_lease_serves_reads() {
    script("lease");
}

/// Bug 4: a lease is not kept through a leader transfer.
#[test]
fn a_lease_is_given_up_for_a_transfer() {
    script("lease_transfer");
}

/// Bugs 5 and 7: a follower's read is not dropped silently, and fails with the leadership that it asked.
#[test]
fn followers_read() {
    script("follower_read");
}

/// Bug 2: each question has a name of its own.
#[test]
fn a_late_answer_confirms_no_later_read() {
    script("read_late");
}

/// Bug 4, for reads that ask a quorum.
#[test]
fn a_transfer_ends_by_its_deadline() {
    script("transfer_deadline");
}

#[test]
fn the_preferred_one_leads() {
    script("priority");
}

#[test]
fn priority_zero_leads_as_a_last_resort() {
    script("priority_last_resort");
}

#[test]
fn a_store_leads_nothing_when_it_stops() {
    script("leave");
}

/// In order, and each part ends before the next begins.
#[test]
fn callbacks() {
    script("callbacks");
}

/// At the same entry again after a restart, and no further; the others go on.
#[test]
fn a_state_machine_that_fails_stops_its_replica() {
    script("apply_fails");
}

#[test]
fn snapshot() {
    script("snapshot");
}

/// It would begin again and again.
#[test]
fn a_follower_that_takes_a_snapshot_is_not_given_another_one() {
    script("snapshot_timed");
}

/// Nobody who joined since the last sync could take one that was made of it.
#[test]
fn what_is_older_than_the_members_is_synced_before_a_snapshot() {
    script("snapshot_after_change");
}

/// Bug 35: what takes room is refused while no quorum has any; all else goes on.
#[test]
fn full_disks_refuse_writes() {
    script("full_disks");
}

#[test]
fn a_hand_over_from_a_full_disk_that_fails_is_not_repeated_at_once() {
    script("full_disk_rest");
}

#[test]
fn a_sleeper_whose_leader_lives_does_not_go_on_alone() {
    script("recover_asleep");
}

#[test]
fn two_recoveries_of_one_group_do_not_end_each_other() {
    script("recovered_twice");
}

#[test]
fn of_two_that_are_left_the_longer_log_goes_on_and_the_other_begins_anew() {
    script("recover_two_left");
}

#[test]
fn a_group_that_is_led_by_a_lost_store_is_recovered() {
    script("recover_lost_leader");
}

/// Members that are committed count from then on, also where their entry is not durable yet.
#[test]
fn a_recovery_waits_for_all_that_is_committed() {
    script("recover_unwritten");
}

/// One that knows only members that are gone by now hears of its removal all the same.
#[test]
fn a_removal_is_heard_of_from_those_who_came_later() {
    script("members_unheard");
}

/// A replica without a beginning has nothing to go on with, and an id stands for one order.
#[test]
fn what_cannot_go_on_is_not_recovered() {
    script("recover_refusals");
}

/// Whatever ids the operators' orders have.
#[test]
fn a_damaged_replica_is_rebuilt_under_an_id_of_its_own() {
    script("damaged_after_change");
}

#[test]
fn a_change_that_a_recovery_leaves_out_is_not_called_made() {
    script("recover_left_out");
}

#[test]
fn sleeping_groups_leave_a_store_whose_disk_is_full() {
    script("full_disk_asleep");
}

/// One damaged replica is out until it is rebuilt; the others go on.
#[test]
fn a_damaged_state_quarantines_its_replica() {
    script("damaged_state");
}

/// A member without room for a snapshot gets one when it has room, or when it is needed and the reserve stays.
#[test]
fn a_snapshot_waits_for_room() {
    script("snapshot_no_room");
}
