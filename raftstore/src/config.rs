//! Settings of one store's engine.

use crate::snapshot::BLOCK_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// An entry, and a command, at most: a message between stores holds 8 MiB, its frame included.
pub(crate) const ENTRY_BYTES_MAX: usize = 7 << 20;
/// Each of them is a thread.
const THREADS_MAX: u64 = 256;
/// A tick of more is a mistake: nobody would lead for hours.
const TICK_INTERVAL_MS_MAX: u64 = 60_000;
/// The same for an election timeout.
const ELECTION_TICKS_MAX: usize = 1_000;
/// The shortest election timeout: so long a group may be without a leader.
const ELECTION_MS_MAX: u64 = 600_000;

/// All settings; every field has a default, unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Shard threads; each owns the groups with `group % shards` of its number. Default 1, at most 256.
    pub shards: usize,
    /// One tick in milliseconds, at most a minute. Default 100. All times below count in ticks.
    pub tick_interval_ms: u64,
    /// A follower campaigns after this many ticks of silence, randomized up to twice as many.
    /// Default 10 (1 s to 2 s), at most 1000 and ten minutes. Shorter: faster recovery, more false elections.
    pub election_ticks: usize,
    /// A leader's heartbeat interval in ticks. Default 2. Must be below `election_ticks`.
    pub heartbeat_ticks: usize,
    /// A leader without anything to do for so many ticks puts its group to sleep: no heartbeats, no
    /// ticks, until something happens. 0 = never. Default 30.
    pub hibernate_ticks: u64,
    /// Many appends in flight to a follower; off = one. Default on.
    pub pipeline: bool,
    /// A round's commands of one group are cut into entries of about this size. Default 1 MiB,
    /// at most 7 MiB: a larger entry would not fit a message between stores.
    pub entry_bytes_max: usize,
    /// Longest command accepted. Default 6 MiB, at most 7 MiB: a client's batch of 4 MiB and its frame
    /// fit.
    pub command_bytes_max: usize,
    /// Commands of all groups that are proposed and not yet answered, in bytes; beyond it
    /// callers get `Busy`. Default 64 MiB.
    pub proposal_bytes_max: usize,
    /// The same for one group, so that one that cannot get on leaves room for the others. Default
    /// 32 MiB.
    pub group_proposal_bytes_max: usize,
    /// One group's entries that are not yet committed, in bytes; beyond it callers get `Busy`. Default
    /// 16 MiB.
    pub group_uncommitted_bytes_max: u64,
    /// Entries handed to apply and not yet applied, in bytes, of the whole store, each shard with its
    /// part; beyond it committed entries wait in the log and callers get `Busy`. Default 64 MiB.
    pub apply_queue_bytes_max: usize,
    /// The same for one group. Default 32 MiB.
    pub group_apply_bytes_max: usize,
    /// Entries kept in memory behind the persisted index for followers and apply, in bytes, of the
    /// whole store: each shard has its part, and each of its groups the same part of that. Default
    /// 64 MiB. Entries not yet persisted always stay.
    pub entry_cache_bytes_max: usize,
    /// The same for one group, however few there are. Default 32 MiB.
    pub group_entry_cache_bytes_max: usize,
    /// A round's log writes of fewer bytes than this are done by the shard's own thread while the
    /// log's is idle; 0 = always by the log's. Default 4096: one put in flight is answered sooner,
    /// and under load the log's thread is never idle.
    pub inline_bytes_max: usize,
    /// The same for applies. Default 4096; 256 KiB on up to two cores, where the apply thread
    /// would work at the same time as nobody else, and waking it costs more than it saves.
    pub inline_apply_bytes_max: usize,
    /// Groups of a shard that may have an entry under way before the small ones of others wait
    /// their turn and gather commands meanwhile. Default 64. Most of a small entry's cost is fixed,
    /// so a thousand busy groups get more done by fewer, larger entries.
    pub small_entries_max: usize,
    /// Bytes of live log of the whole store, each entry with 80 bytes for its place on disk and in
    /// memory; at 7/8 of it writes get `Busy`, and at all of it those that only take away, too: what trims the state
    /// machine so that the log can be cut must come before deletes have used up the last eighth. Default 4 GiB.
    pub log_bytes_max: u64,
    /// Messages from other stores waiting for one shard; beyond it they are dropped. Default 16384.
    pub inbox_messages_max: usize,
    /// How often the state machine is made durable, so that the log can be cut, in milliseconds.
    /// Default 2000. One that takes long for it rests longer, as far as a replay stays short.
    pub sync_interval_ms: u64,
    /// A log sync that takes longer than this, in milliseconds, is a slow one. A store whose syncs
    /// are slow on average for `slow_sync_s` seconds in a row hands its leaderships over to stores
    /// that are not slow, and gets none until its syncs take less than half of this for twice as
    /// long. 0 = never. Default 500.
    pub slow_sync_ms: u64,
    /// See `slow_sync_ms`. Default 10. Shorter: sooner noticed, and leaders move for hiccups.
    pub slow_sync_s: u64,
    /// A group's log is cut once this many entries are durable everywhere. Default 1024.
    pub truncate_entries_min: u64,
    /// Entries of a group's log that are kept for a member that lags or is down. Beyond it half of
    /// them go, and that member needs a snapshot. Default 1,000,000.
    pub group_log_entries_max: u64,
    /// The same in bytes, counted as in `log_bytes_max`. Default 256 MiB. When the whole store's log
    /// reaches 3/4 of `log_bytes_max`, the largest logs are cut as if they were beyond it.
    pub group_log_bytes_max: u64,
    /// Bytes of one block of a snapshot, the unit of its checksums. Default 1 MiB, at most that.
    pub snapshot_block_bytes: usize,
    /// Threads that make snapshots: so many are made at a time. Default 1, at
    /// most 256.
    pub snapshot_makes_max: usize,
    /// Threads that receive snapshots: so many come at a time, one is installed at a time. Default 2,
    /// at most 256.
    pub snapshot_receives_max: usize,
    /// Bytes a second of all snapshots that are made here, of all that come, and of all that are
    /// installed. Default 128 MiB. Larger: sooner done, and felt by the other groups.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of all snapshots on this store's disk, made here or on their way here. What does not fit
    /// is not made, or not fetched, until others are gone. Default 32 GiB; at least the largest
    /// group's size, or that group's snapshots never come.
    pub snapshot_disk_bytes_max: u64,
    /// Seconds after which a leader makes a snapshot of each group that was written to, so that one is at
    /// hand when it is needed. 0 = only when one is needed. Default 0.
    pub snapshot_interval_s: u64,
    /// A follower that has not taken a snapshot after so many ticks is told of it again.
    /// Default 50.
    pub snapshot_retry_ticks: u64,
    /// A snapshot is kept for other followers for so many ticks after it was last of use.
    /// Default 600.
    pub snapshot_keep_ticks: u64,
    /// A leader whose group can do without a damaged replica has it rebuilt on its store, as by
    /// [`crate::Change::Rebuild`]. Default true.
    pub rebuild_damaged: bool,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Config {
            shards: 1,
            tick_interval_ms: 100,
            election_ticks: 10,
            heartbeat_ticks: 2,
            hibernate_ticks: 30,
            pipeline: true,
            entry_bytes_max: 1 << 20,
            command_bytes_max: 6 << 20,
            proposal_bytes_max: 64 << 20,
            group_proposal_bytes_max: 32 << 20,
            group_uncommitted_bytes_max: 16 << 20,
            apply_queue_bytes_max: 64 << 20,
            group_apply_bytes_max: 32 << 20,
            entry_cache_bytes_max: 64 << 20,
            group_entry_cache_bytes_max: 32 << 20,
            inline_bytes_max: 4 << 10,
            inline_apply_bytes_max: if cores <= 2 { 256 << 10 } else { 4 << 10 },
            small_entries_max: 64,
            log_bytes_max: 4 << 30,
            inbox_messages_max: 16_384,
            sync_interval_ms: 2_000,
            slow_sync_ms: 500,
            slow_sync_s: 10,
            truncate_entries_min: 1_024,
            group_log_entries_max: 1_000_000,
            group_log_bytes_max: 256 << 20,
            snapshot_block_bytes: 1 << 20,
            snapshot_makes_max: 1,
            snapshot_receives_max: 2,
            snapshot_bytes_per_second: 128 << 20,
            snapshot_disk_bytes_max: 32 << 30,
            snapshot_interval_s: 0,
            snapshot_retry_ticks: 50,
            snapshot_keep_ticks: 600,
            rebuild_damaged: true,
        }
    }
}

impl Config {
    /// A shard's part of [`Config::apply_queue_bytes_max`].
    pub(crate) fn shard_apply_bytes_max(&self) -> usize {
        (self.apply_queue_bytes_max / self.shards).max(1)
    }

    /// What of the entry cache each of the `groups` of a shard may have.
    pub(crate) fn group_cache_bytes(&self, groups: usize) -> usize {
        let part = self.entry_cache_bytes_max / self.shards / groups.max(1);
        part.min(self.group_entry_cache_bytes_max)
    }

    /// Checks ranges and relations; the error names the field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("shards", self.shards as u64),
            ("tick_interval_ms", self.tick_interval_ms),
            ("heartbeat_ticks", self.heartbeat_ticks as u64),
            ("entry_bytes_max", self.entry_bytes_max as u64),
            ("command_bytes_max", self.command_bytes_max as u64),
            ("proposal_bytes_max", self.proposal_bytes_max as u64),
            ("group_proposal_bytes_max", self.group_proposal_bytes_max as u64),
            ("group_uncommitted_bytes_max", self.group_uncommitted_bytes_max),
            ("apply_queue_bytes_max", self.apply_queue_bytes_max as u64),
            ("group_apply_bytes_max", self.group_apply_bytes_max as u64),
            ("small_entries_max", self.small_entries_max as u64),
            ("inbox_messages_max", self.inbox_messages_max as u64),
            ("sync_interval_ms", self.sync_interval_ms),
            ("slow_sync_s", self.slow_sync_s),
            ("group_log_entries_max", self.group_log_entries_max),
            ("group_log_bytes_max", self.group_log_bytes_max),
            ("snapshot_block_bytes", self.snapshot_block_bytes as u64),
            ("snapshot_makes_max", self.snapshot_makes_max as u64),
            ("snapshot_receives_max", self.snapshot_receives_max as u64),
            ("snapshot_bytes_per_second", self.snapshot_bytes_per_second),
            ("snapshot_disk_bytes_max", self.snapshot_disk_bytes_max),
            ("snapshot_retry_ticks", self.snapshot_retry_ticks),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{field} = 0: must be at least 1"));
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return Err(format!(
                "election_ticks = {}: must be greater than heartbeat_ticks = {}",
                self.election_ticks, self.heartbeat_ticks
            ));
        }
        let message = " (a message between stores holds 8 MiB)";
        let limited = [
            ("tick_interval_ms", self.tick_interval_ms, TICK_INTERVAL_MS_MAX, " (a minute)"),
            ("election_ticks", self.election_ticks as u64, ELECTION_TICKS_MAX as u64, ""),
            ("shards", self.shards as u64, THREADS_MAX, ""),
            ("snapshot_makes_max", self.snapshot_makes_max as u64, THREADS_MAX, ""),
            ("snapshot_receives_max", self.snapshot_receives_max as u64, THREADS_MAX, ""),
            ("entry_bytes_max", self.entry_bytes_max as u64, ENTRY_BYTES_MAX as u64, message),
            ("command_bytes_max", self.command_bytes_max as u64, ENTRY_BYTES_MAX as u64, message),
        ];
        for (field, value, most, why) in limited {
            if value > most {
                return Err(format!("{field} = {value}: at most {most}{why}"));
            }
        }
        let election_ms = self.tick_interval_ms * self.election_ticks as u64;
        if election_ms > ELECTION_MS_MAX {
            return Err(format!(
                "election_ticks = {} with tick_interval_ms = {}: a group would be without a leader for \
                 {election_ms} ms and longer, at most {ELECTION_MS_MAX} (ten minutes)",
                self.election_ticks, self.tick_interval_ms
            ));
        }
        if self.snapshot_block_bytes > BLOCK_BYTES_MAX {
            return Err(format!(
                "snapshot_block_bytes = {}: at most {BLOCK_BYTES_MAX}",
                self.snapshot_block_bytes
            ));
        }
        if self.log_bytes_max < 16 << 20 {
            return Err(format!("log_bytes_max = {}: at least {}", self.log_bytes_max, 16 << 20));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_would_stop_a_group_are_refused() {
        type Set = fn(&mut Config, u64);
        let limits: [(&str, u64, Set); 7] = [
            ("shards", 256, |config, value| config.shards = value as usize),
            ("snapshot_makes_max", 256, |config, value| config.snapshot_makes_max = value as usize),
            ("snapshot_receives_max", 256, |config, value| {
                config.snapshot_receives_max = value as usize;
            }),
            ("entry_bytes_max", 7 << 20, |config, value| config.entry_bytes_max = value as usize),
            ("command_bytes_max", 7 << 20, |config, value| {
                config.command_bytes_max = value as usize;
            }),
            ("tick_interval_ms", 60_000, |config, value| config.tick_interval_ms = value),
            ("election_ticks", 1_000, |config, value| config.election_ticks = value as usize),
        ];
        for (field, limit, set) in limits {
            let with = |value: u64| {
                let mut config = Config::default();
                set(&mut config, value);
                config.validate()
            };
            assert_eq!((with(limit - 1), with(limit)), (Ok(()), Ok(())), "{field}");
            for value in [limit + 1, 64 << 20, 10_000_000_000_000_000] {
                let why = with(value).unwrap_err();
                assert!(why.starts_with(&format!("{field} = {value}: at most {limit}")), "{why}");
            }
        }
        let slow =
            |ticks| Config { tick_interval_ms: 60_000, election_ticks: ticks, ..Config::default() };
        assert_eq!(slow(10).validate(), Ok(()));
        let why = slow(11).validate().unwrap_err();
        assert!(why.starts_with("election_ticks = 11 with tick_interval_ms = 60000: "), "{why}");
    }
}
