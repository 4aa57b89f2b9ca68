//! The planted bugs: mistakes that a real engineer makes here, each of which a sweep must find.
//!
//! They live in the product behind the Cargo feature `mutants`
//! ([`flotilla_raftstore::mutant`]), so that one build serves all. A simulator that misses one
//! would miss its real twin: without this table "0 violations" means nothing.

use crate::sim::run::{Report, run};
use flotilla_raftstore::mutant;
use std::time::Duration;

/// One planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name in the code.
    pub name: &'static str,
    /// What the engineer got wrong.
    pub mistake: &'static str,
    /// It must be found within so many seeds, from 1.
    pub seeds_max: u64,
}

const fn mutant(name: &'static str, mistake: &'static str, seeds_max: u64) -> Mutant {
    Mutant { name, mistake, seeds_max }
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    mutant("ack_before_sync", "own entries count as persisted while the write is under way", 20),
    mutant("vote_before_persist", "held messages leave with the round, before the sync", 20),
    mutant("vote_not_written", "a new term or vote without entries is not written", 20),
    mutant("forget_vote", "a restarted replica does not remember whom it voted for", 200),
    mutant("persisted_too_far", "a finished write counts for the writes behind it too", 100),
    mutant("cache_truncated_early", "the cache frees entries that are not durable yet", 50),
    mutant("fetch_beyond_durable", "a fetch for a follower reaches into the write under way", 50),
    mutant("skip_overwrite_suffix", "an append leaves the old entries behind its end", 200),
    mutant("merge_keeps_overwritten", "two writes of a group merge without the overlap", 4_000),
    mutant("truncate_past_durable", "the log is cut at applied, not at durably applied", 50),
    mutant("matched_beyond_commit", "an old leader trusts indexes of a newer term", 2_000),
    mutant("commit_beyond_persisted", "a commit ahead of the own disk is stored", 200),
    mutant("applied_apart_from_data", "data and applied index are two writes", 50),
    mutant("sync_without_checkpoint", "a sync leaves in memory what the table holds", 50),
    mutant("delete_hides_nothing", "a deleted record in the table shows the older one below", 50),
    mutant("duplicate_apply_after_restart", "replay begins at the applied entry, not after", 50),
    mutant("epoch_unchecked_at_apply", "a command of another epoch is applied", 20),
    mutant("range_unchecked_at_apply", "a key of another region is written", 20),
    mutant("outcome_by_index_only", "a caller is answered by index, whatever the term", 200),
    mutant("refused_on_step_down", "an open write of a former leader is called not applied", 200),
    mutant("read_before_apply", "a confirmed read does not wait for apply", 400),
    mutant("serve_before_term_commit", "a new leader serves reads at the commit it knows", 200),
    mutant("read_rides_on_older_entry", "a read waits for an entry older than itself", 400),
    mutant("tombstone_forgotten", "a removed replica comes back by an old invitation", 2000),
    mutant("members_applied_twice", "a restart applies membership entries again", 50),
    mutant("removed_leader_serves", "a leader that applies its own removal goes on", 1_000),
    mutant("second_change_while_pending", "a change is accepted while one is under way", 100),
    mutant("learner_in_quorum", "a restarted replica counts learners as voters", 100),
    mutant("promote_at_once", "a learner votes before it has caught up", 100),
    mutant("priority_zero_campaigns", "a replica of priority 0 leads all the same", 200),
    mutant("last_resort_missing", "a replica of priority 0 waits for ever for the others", 4_000),
    mutant(
        "last_resort_leads_on",
        "a replica of priority 0 keeps what it got as a last resort",
        400,
    ),
    mutant("target_never_decays", "whoever is not preferred waits for ever", 400),
    mutant("transfer_accepted_at_once", "a transfer is called done when it was begun", 100),
    mutant(
        "sole_voter_sends_early",
        "a sole voter sends to learners before its vote is durable",
        300,
    ),
    mutant("install_not_recorded", "the log does not say that an install began", 100),
    mutant("install_not_resumed", "a start leaves an install as a crash left it", 200),
    mutant("install_state_first", "the state of a snapshot is stored before its records", 100),
    mutant("install_truncates_wrong", "the log begins one entry too early after an install", 50),
    mutant("lease_outlasts_promise", "a leader counts on three times what followers promise", 100),
    mutant("lease_from_receipt", "a lease is counted from the answer's receipt", 1_000),
    mutant("lease_kept_in_transfer", "a leader that hands over keeps its lease", 200),
    mutant("restarted_voter_votes", "a restarted replica votes at once", 3_000),
    mutant("one_clock_trusted", "leases are counted by one clock alone", 3_000),
    mutant("index_told_unconfirmed", "a leader tells followers its commit index unasked", 200),
    mutant("question_number_reused", "all questions of a follower have one number", 3_000),
    mutant("bound_ignored", "a bounded read takes whatever is there", 50),
    mutant("reuse_read_context", "all reads of a term share one read context", 3_000),
    mutant(
        "wiped_store_created_again",
        "a store that lost its disks gets its old replicas again",
        50,
    ),
    mutant("begins_before_destroyed", "a replica begins while the state before it goes", 400),
    mutant(
        "recovery_drops_tail",
        "who goes on alone forgets what it does not know as committed",
        400,
    ),
    mutant("shorter_log_recovered", "the operator has the shorter log go on", 1_000),
    mutant("short_store_accepts", "a leader takes what its disk has no room for", 50),
    mutant(
        "recovery_applied_early",
        "what a recovery commits is applied before that is durable",
        200,
    ),
    mutant("damage_ignored", "a replica whose state was found damaged goes on", 50),
];

/// How a hunt ended.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// What was hunted.
    pub mutant: Mutant,
    /// Seeds needed and what found it; `None` when it got away.
    pub found: Option<(u64, String)>,
    /// Processor time of the hunt.
    pub cpu: Duration,
}

/// Runs seeds with the bug planted until one is found. The bug is planted on this thread only.
#[must_use]
pub fn hunt(mutant: Mutant) -> Hunt {
    let begun = cpu_time();
    mutant::plant(Some(mutant.name));
    let found = (1..=mutant.seeds_max).find_map(|seed| {
        let Report { violations, .. } = run(seed, false);
        Some((seed, violations.into_iter().next()?))
    });
    mutant::plant(None);
    Hunt { mutant, found, cpu: cpu_time().saturating_sub(begun) }
}

/// Processor time of this thread so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |n: i64| u64::try_from(n).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
