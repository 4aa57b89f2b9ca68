//! A slow disk: while the syncs of a store's log take long, its leaders belong elsewhere.
//!
//! 1. The log writer notes when a write begins and ends. The ticker looks at it ([`SyncWatch`]), so
//!    that a write that does not end counts, too.
//! 2. A verdict that changes goes to the shards. Each tells the other stores with its signs of life
//!    (`shard/hibernate.rs`), and placement hears it with the heartbeat.
//! 3. A shard of a slow store hands over what it leads, a few groups a tick (`shard/shed.rs`), to
//!    members whose disks are fast. Its replicas wait one election timeout longer before they
//!    campaign, and nobody hands leadership to them.
//! 4. Where all disks are slow nobody moves: slowness never leaves a group without a leader.

use crate::config::Config;
use crate::types::{Nanos, StoreId};
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is judged at once.
const PERIOD: u64 = 1_000_000_000;
/// A slow store has to be fast for so many times as long as it was slow before it was called so.
const FAST_FACTOR: u32 = 2;
/// After so many periods without a sync nothing is known of the disk: it may lead again.
const IDLE_PERIODS: u32 = 60;

/// Judges a disk by how long the log's syncs take.
///
/// A second is *high* when its mean sync took longer than [`Config::slow_sync_ms`], *low* below half
/// of that. [`Config::slow_sync_s`] high seconds in a row make the disk slow, twice as many low ones
/// make it fast again; a second without a sync is neither.
#[derive(Debug)]
pub struct SyncWatch {
    /// 0 = never slow.
    limit: u64,
    periods: u32,
    /// When this period began.
    since: Option<Nanos>,
    syncs: u64,
    spent: u64,
    /// When the write began that has not ended.
    under_way: Option<Nanos>,
    high: u32,
    low: u32,
    idle: u32,
    slow: bool,
}

impl SyncWatch {
    /// One that has seen nothing: the disk is fast.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        SyncWatch {
            limit: config.slow_sync_ms.saturating_mul(1_000_000),
            periods: u32::try_from(config.slow_sync_s).unwrap_or(u32::MAX),
            since: None,
            syncs: 0,
            spent: 0,
            under_way: None,
            high: 0,
            low: 0,
            idle: 0,
            slow: false,
        }
    }

    /// A write begins.
    pub fn begin(&mut self, now: Nanos) {
        self.under_way = Some(now);
    }

    /// It has ended; `synced`: with a sync.
    pub fn end(&mut self, now: Nanos, synced: bool) {
        if let Some(began) = self.under_way.take().filter(|_| synced) {
            self.syncs += 1;
            self.spent += now.0.saturating_sub(began.0);
        }
    }

    /// The verdict, when it changes: whether the disk is slow. To be asked several times a second.
    pub fn look(&mut self, now: Nanos) -> Option<bool> {
        let since = *self.since.get_or_insert(now);
        if self.limit == 0 || now.0.saturating_sub(since.0) < PERIOD {
            return None;
        }
        self.since = Some(now);
        let figure = self.figure(now);
        match figure {
            Some(figure) if figure > self.limit => {
                (self.high, self.low, self.idle) = (self.high + 1, 0, 0);
            }
            Some(figure) if figure > self.limit / 2 => {
                (self.high, self.low, self.idle) = (0, 0, 0);
            }
            Some(_) => (self.high, self.low, self.idle) = (0, self.low + 1, 0),
            None => self.idle += 1,
        }
        if self.idle >= self.periods {
            self.high = 0;
        }
        let slow = if self.slow {
            self.low < self.periods.saturating_mul(FAST_FACTOR) && self.idle < IDLE_PERIODS
        } else {
            self.high >= self.periods
        };
        let changed = slow != self.slow;
        self.slow = slow;
        changed.then_some(slow)
    }

    /// How long a sync took in the period that ends; nothing if none tells.
    fn figure(&mut self, now: Nanos) -> Option<u64> {
        let (mut syncs, mut spent) =
            (std::mem::take(&mut self.syncs), std::mem::take(&mut self.spent));
        let waits = self.under_way.map_or(0, |began| now.0.saturating_sub(began.0));
        if waits > self.limit {
            // It took so long already. One that began just now tells nothing yet.
            (syncs, spent) = (syncs + 1, spent.saturating_add(waits));
        }
        spent.checked_div(syncs)
    }
}

/// Whose disks are slow, as far as a shard knows; its replicas look here.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    own: AtomicBool,
    others: RwLock<BTreeSet<StoreId>>,
}

impl Disks {
    pub(crate) fn own_is_slow(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    pub(crate) fn set_own(&self, slow: bool) {
        self.own.store(slow, Ordering::Relaxed);
    }

    /// Whether another store says that its disk is slow.
    pub(crate) fn is_slow(&self, store: StoreId) -> bool {
        self.others.read().contains(&store)
    }

    /// Another store says how its disk is. True: it is fast again.
    pub(crate) fn heard(&self, store: StoreId, slow: bool) -> bool {
        if slow == self.is_slow(store) {
            return false;
        }
        let mut others = self.others.write();
        if slow {
            others.insert(store);
        } else {
            others.remove(&store);
        }
        !slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A disk whose syncs follow each other, looked at ten times a second.
    struct Disk {
        watch: SyncWatch,
        now: u64,
        changes: Vec<(u64, bool)>,
    }

    impl Disk {
        fn new(slow_sync_ms: u64) -> Disk {
            let config = Config { slow_sync_ms, slow_sync_s: 3, ..Config::default() };
            Disk { watch: SyncWatch::new(&config), now: 0, changes: Vec::new() }
        }

        fn look(&mut self) {
            if let Some(slow) = self.watch.look(Nanos(self.now)) {
                self.changes.push((self.now / (1_000 * MS), slow));
            }
        }

        /// Time goes by.
        fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 10 {
                self.now += 10 * MS;
                if self.now.is_multiple_of(100 * MS) {
                    self.look();
                }
            }
        }

        fn sync(&mut self, ms: u64) {
            self.watch.begin(Nanos(self.now));
            self.pass(ms);
            self.watch.end(Nanos(self.now), true);
        }

        /// For `seconds`, each sync after 10 ms of rest.
        fn syncs(&mut self, ms: u64, seconds: u64) {
            let end = self.now + seconds * 1_000 * MS;
            while self.now < end {
                self.sync(ms);
                self.pass(10);
            }
        }
    }

    #[test]
    fn a_disk_that_stays_slow_is_called_so_and_takes_longer_to_be_trusted_again() {
        let mut disk = Disk::new(100);
        disk.syncs(10, 10);
        assert_eq!(disk.changes, []);
        disk.syncs(200, 5);
        assert_eq!(disk.changes.len(), 1);
        let (began, slow) = disk.changes[0];
        assert!((12..=14).contains(&began) && slow, "{:?}", disk.changes);
        // Neither slow nor fast: as it was.
        disk.syncs(80, 30);
        assert_eq!(disk.changes.len(), 1);
        disk.syncs(10, 5);
        assert_eq!(disk.changes.len(), 1, "not yet");
        disk.syncs(10, 3);
        assert_eq!(disk.changes.len(), 2, "{:?}", disk.changes);
        assert!(!disk.changes[1].1);
    }

    #[test]
    fn hiccups_are_forgiven() {
        let mut disk = Disk::new(100);
        for _ in 0..20 {
            disk.syncs(300, 2);
            disk.syncs(10, 2);
        }
        // One long sync among many short ones does not make a second slow.
        for _ in 0..20 {
            disk.sync(300);
            disk.syncs(10, 1);
        }
        assert_eq!(disk.changes, []);
    }

    #[test]
    fn a_sync_that_does_not_end_is_noticed() {
        let mut disk = Disk::new(100);
        disk.syncs(10, 2);
        disk.watch.begin(Nanos(disk.now));
        disk.pass(6_000);
        assert_eq!(disk.changes.len(), 1, "{:?}", disk.changes);
        assert!(disk.changes[0].1);
    }

    #[test]
    fn a_disk_that_nobody_writes_to_is_given_another_chance() {
        let mut disk = Disk::new(100);
        disk.syncs(200, 5);
        assert_eq!(disk.changes.len(), 1);
        disk.pass(50_000);
        assert_eq!(disk.changes.len(), 1);
        disk.pass(15_000);
        assert_eq!(disk.changes.len(), 2, "{:?}", disk.changes);
        // What was seen before a rest does not count.
        for _ in 0..5 {
            disk.syncs(200, 1);
            disk.pass(10_000);
        }
        assert_eq!(disk.changes.len(), 2, "{:?}", disk.changes);
    }

    #[test]
    fn a_limit_of_0_turns_it_off() {
        let mut disk = Disk::new(0);
        disk.syncs(1_000, 30);
        assert_eq!(disk.changes, []);
    }

    #[test]
    fn what_other_stores_say_of_their_disks_is_remembered() {
        let disks = Disks::default();
        assert!(!disks.heard(StoreId(2), true) && !disks.heard(StoreId(3), false));
        assert!(disks.is_slow(StoreId(2)) && !disks.is_slow(StoreId(3)) && !disks.own_is_slow());
        assert!(disks.heard(StoreId(2), false) && !disks.heard(StoreId(2), false));
        assert!(!disks.is_slow(StoreId(2)));
    }
}
