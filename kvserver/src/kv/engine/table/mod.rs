//! A bounded table in memory over storage that gets sorted, de-duplicated checkpoints.
//!
//! The synced Raft log is the write-ahead log of everything here, so nothing is written twice: a
//! crash leaves the last checkpoint with the applied indexes that it holds, and the log, which is
//! never cut beyond them, replays the rest.
//!
//! 1. [`TableEngine::write`] puts copies of a group's changes, data and applied state alike, into
//!    its active records (`records.rs`) under the group's lock.
//! 2. A checkpoint seals: it swaps the active records of each group for empty ones, under the
//!    group's lock. What it takes of a group is one moment of it.
//! 3. It gives them to the base (`base.rs`), which makes them durable atomically, in key order.
//! 4. Only then the sealed records go; reads (`view.rs`) look at active, sealed, base. Their memory is
//!    kept, empty, for the next step 2, as long as the group is written to.
//!
//! `sync` makes a checkpoint; so does a thread of the engine as soon as the active records take
//! half of the allowed bytes. A write that finds the table full waits for the checkpoint under
//! way, or makes one: memory does not grow. A failed checkpoint fences the engine: nothing is
//! written any more, and no sync ever succeeds.
//!
//! Many records of one group in order (`ingest`) go past the table where the base takes files: a checkpoint
//! first, so that nothing in the table is older than they are, then the base's work beside later checkpoints.
//!
//! Keys move between groups only by structural commands, which sync: no two groups of a table
//! have changes of one key.

mod base;
mod metrics;
mod pace;
mod records;
mod view;

pub use base::{Base, GroupCheckpoint};
pub use pace::{Lull, Pace, Rest};
pub(super) use records::hash_of;
pub use records::{Records, Sorted};

use super::{
    Change, Column, Deleted, Engine, GroupChanges, Incoming, KeyRange, View, erase_by_reading,
    ingest_by_writing,
};
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId, mutant};
use metrics::Metrics;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;
use view::TableView;

/// Locks over the groups: `group % STRIPES`, so the groups of a small store have one each.
const STRIPES: usize = 256;

type Stripe = BTreeMap<GroupId, Group>;

/// One group's changes.
#[derive(Default)]
struct Columns {
    data: Records,
    system: Records,
}

#[derive(Default)]
struct Group {
    /// Written since the last seal.
    active: Columns,
    /// In the checkpoint under way, or in one that failed.
    sealed: Option<Arc<Columns>>,
    /// The last checkpoint's, empty, for the next one: its memory is in place already. Fresh memory
    /// for all groups at once would hold up those who write for tens of milliseconds.
    spare: Option<Columns>,
    /// Changes in `active`.
    changes: u64,
}

/// What is known from one checkpoint to the next.
#[derive(Default)]
struct Turn {
    /// Why one failed.
    failed: Option<Fatal>,
    /// Batches that had been written when the last one sealed.
    sealed_at: u64,
}

/// See the module.
pub struct TableEngine {
    table: Arc<Table>,
    flusher: Option<Flusher>,
}

/// The thread that makes checkpoints early.
struct Flusher {
    /// Closed to end it.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Table {
    base: Box<dyn Base>,
    stripes: Box<[RwLock<Stripe>]>,
    bytes_max: usize,
    /// Of all records, active and sealed, and what running writes may still add.
    bytes: AtomicUsize,
    sealed_bytes: AtomicUsize,
    /// Batches so far.
    writes: AtomicU64,
    /// Held for a whole checkpoint: one at a time.
    turn: Mutex<Turn>,
    /// Those who wait for the turn.
    waiting: AtomicUsize,
    /// Why nothing is written any more.
    fence: RwLock<Option<Fatal>>,
    /// Checkpoints rest between slices of work.
    gentle: bool,
    metrics: Metrics,
}

impl TableEngine {
    /// A table of up to `bytes_max` bytes over `base`. Checkpoints are made by `sync` and by
    /// writes that find the table full.
    ///
    /// One write larger than that is taken when the table is empty.
    #[must_use]
    pub fn new(base: Box<dyn Base>, bytes_max: usize) -> TableEngine {
        let table = Table {
            base,
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            bytes_max,
            bytes: AtomicUsize::new(0),
            sealed_bytes: AtomicUsize::new(0),
            writes: AtomicU64::new(0),
            turn: Mutex::default(),
            waiting: AtomicUsize::new(0),
            fence: RwLock::default(),
            gentle: false,
            metrics: Metrics::new(),
        };
        TableEngine { table: Arc::new(table), flusher: None }
    }

    /// The same with a thread that makes a checkpoint when the table is half full, and with
    /// checkpoints that leave the processor to others while there is room and somebody writes.
    pub fn with_flusher(mut self) -> std::io::Result<TableEngine> {
        Arc::get_mut(&mut self.table).expect("nobody has it yet").gentle = true;
        // One wake-up waits at most: a checkpoint takes everything.
        let (wake, woken) = sync_channel(1);
        let table = Arc::clone(&self.table);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || flush(&table, &woken))?;
        self.flusher = Some(Flusher { wake: Some(wake), thread: Some(thread) });
        Ok(self)
    }
}

impl TableEngine {
    /// Does long work for one group, which rests while others write. `work` counts its own writes.
    fn gently<T>(&self, work: impl FnOnce(&Pace<'_>, &Cell<u64>) -> T) -> T {
        let own = Cell::new(0);
        let writes = || self.table.writes.load(Ordering::Relaxed) - own.get();
        let lull = Lull::new(writes());
        let rest = || lull.rest(writes());
        work(&if self.table.gentle { Pace::gentle(&rest) } else { Pace::full() }, &own)
    }
}

fn flush(table: &Table, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let mut turn = table.take_turn();
        if table.half_full() && table.checkpoint(&mut turn, Rest::Long).is_err() {
            // The fence stands; the next write or sync says why.
            return;
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Engine for TableEngine {
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        self.table.write(batch)?;
        if let Some(Flusher { wake: Some(wake), .. }) = &self.flusher
            && self.table.half_full()
        {
            // Full: a wake-up waits already.
            let _ = wake.try_send(());
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.table.sync(Rest::Short)
    }

    fn sync_at_leisure(&self) -> Result<(), Fatal> {
        self.table.sync(Rest::Long)
    }

    fn view(&self, group: GroupId) -> Box<dyn View + '_> {
        Box::new(self.table.view(group))
    }

    /// What the base has: the state as of the last checkpoint. A group that is in no checkpoint yet gets
    /// one.
    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        let mut turn = self.table.take_turn();
        if !self.table.base.groups()?.contains(&group) {
            self.table.checkpoint(&mut turn, Rest::Short)?;
        }
        self.table.base.pin(group)
    }

    fn erase(&self, group: GroupId, start: &[u8], end: &[u8]) -> Result<(), Fatal> {
        let erased = self.gently(|pace, own| {
            let written = &mut || {
                own.set(own.get() + 1);
                pace.step();
            };
            erase_by_reading(self, group, start, end, written)
        });
        match erased {
            Err(fatal) if fatal.damage => {
                let mut turn = self.table.take_turn();
                // The table's own records go first: then nothing hides what the base does.
                self.table.checkpoint(&mut turn, Rest::Short)?;
                self.table.base.erase(start, end)
            }
            done => done,
        }
    }

    /// The turn is not held while the base works: nobody who applies waits for it.
    fn ingest(&self, group: GroupId, records: Incoming<'_>) -> Result<(), Fatal> {
        let table = &*self.table;
        if !table.base.ingests() {
            return ingest_by_writing(self, group, records);
        }
        // What was erased would hide them, and whoever finds some of them must find their region.
        table.checkpoint(&mut table.take_turn(), Rest::Short)?;
        self.gently(|pace, _| table.base.ingest(records, pace))
    }

    fn reclaim(&self, start: &[u8], end: &[u8]) -> Result<bool, Fatal> {
        self.table.base.reclaim(start, end)
    }

    fn deleted(&self, ranges: &[KeyRange]) -> Result<Vec<Deleted>, Fatal> {
        self.table.base.deleted(ranges)
    }

    fn close(&self) {
        self.table.base.close();
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let mut groups: BTreeSet<GroupId> = self.table.base.groups()?.into_iter().collect();
        for stripe in &self.table.stripes {
            groups.extend(stripe.read().keys());
        }
        let mut with_system = Vec::new();
        for group in groups {
            let start = group.0.to_be_bytes();
            let end = group.0.checked_add(1).map(u64::to_be_bytes);
            let end = end.as_ref().map_or(&[][..], |end| &end[..]);
            let view = self.table.view(group);
            if !view.scan(Column::System, &start, end, 1, usize::MAX)?.0.is_empty() {
                with_system.push(group);
            }
        }
        Ok(with_system)
    }

    /// Three quarters full: the checkpoint that began at half is late.
    fn may_wait(&self) -> bool {
        self.table.nearly_full()
    }

    fn metrics(&self) -> prometheus::Registry {
        self.table.metrics.registry.clone()
    }
}

impl Table {
    fn stripe(&self, group: GroupId) -> &RwLock<Stripe> {
        &self.stripes[group.0 as usize % STRIPES]
    }

    fn view(&self, group: GroupId) -> TableView<'_> {
        TableView { stripe: self.stripe(group).read(), group, base: &*self.base }
    }

    fn half_full(&self) -> bool {
        let sealed = self.sealed_bytes.load(Ordering::Relaxed);
        self.bytes.load(Ordering::Relaxed).saturating_sub(sealed) > self.bytes_max / 2
    }

    fn nearly_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max / 4 * 3
    }

    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        let most = batch.iter().flat_map(|group| &group.changes).map(bytes_of).sum();
        self.reserve(most)?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut used = 0;
        for GroupChanges { group, changes } in batch {
            let mut stripe = self.stripe(*group).write();
            let group = stripe.entry(*group).or_default();
            let before = group.bytes();
            for chunk in changes.chunks(records::WARM) {
                let data = |change: &&Change| change.column == Column::Data;
                group.active.data.warm(chunk.iter().filter(data).map(|change| &change.key[..]));
                for Change { column, key, value } in chunk {
                    let records = match column {
                        Column::Data => &mut group.active.data,
                        Column::System => &mut group.active.system,
                    };
                    records.set(key, value.as_deref());
                }
            }
            group.changes += changes.len() as u64;
            used += group.bytes() - before;
        }
        self.bytes.fetch_sub(most - used, Ordering::Relaxed);
        Ok(())
    }

    /// Takes `bytes` of the allowed ones; waits for a checkpoint, or makes one, until they are
    /// free.
    fn reserve(&self, bytes: usize) -> Result<(), Fatal> {
        let take = |held: usize| {
            (held == 0 || held.saturating_add(bytes) <= self.bytes_max).then_some(held + bytes)
        };
        let mut first = true;
        while {
            if let Some(why) = &*self.fence.read() {
                return Err(why.clone());
            }
            self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
        } {
            if std::mem::take(&mut first) {
                self.metrics.waits.inc();
            }
            // Whoever has the turn makes room: look again before making more.
            let mut turn = self.take_turn();
            if take(self.bytes.load(Ordering::Relaxed)).is_none() {
                self.checkpoint(&mut turn, Rest::Hurry)?;
            }
        }
        Ok(())
    }

    fn sync(&self, longest: Rest) -> Result<(), Fatal> {
        if mutant::active("sync_without_checkpoint") && !self.half_full() {
            return Ok(());
        }
        self.checkpoint(&mut self.take_turn(), longest)
    }

    /// Waits until nobody else makes a checkpoint.
    fn take_turn(&self) -> MutexGuard<'_, Turn> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn
    }

    /// Everything written before the call is durable when it returns. No rest is longer than `longest`.
    fn checkpoint(&self, turn: &mut Turn, longest: Rest) -> Result<(), Fatal> {
        if let Some(why) = &turn.failed {
            return Err(why.clone());
        }
        self.metrics.bytes.set(self.bytes.load(Ordering::Relaxed) as i64);
        let at_seal = self.writes.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut turn.sealed_at, at_seal);
        let sealed = self.seal();
        if sealed.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let groups: Vec<_> = sealed
            .iter()
            .map(|(group, columns)| GroupCheckpoint {
                group: *group,
                data: &columns.data,
                system: &columns.system,
            })
            .collect();
        let lull = Lull::new(at_seal);
        let rest = || {
            let writes = self.writes.load(Ordering::Relaxed);
            // What comes meanwhile is replayed after a crash, too: soon no more than half as much again.
            let late = writes - at_seal > (at_seal - before) / 2;
            let filling = self.bytes.load(Ordering::Relaxed) > self.bytes_max / 8 * 5;
            if self.nearly_full() {
                Rest::Hurry
            } else if lull.is_on(writes) {
                longest.min(Rest::None)
            } else if late || filling || self.waiting.load(Ordering::Relaxed) > 0 {
                longest.min(Rest::Short)
            } else {
                longest
            }
        };
        let pace = if self.gentle { Pace::gentle(&rest) } else { Pace::full() };
        if let Err(why) = self.base.checkpoint(&groups, &pace) {
            *self.fence.write() = Some(why.clone());
            turn.failed = Some(why.clone());
            return Err(why);
        }
        let records: usize = sealed.iter().map(|(_, c)| c.data.len() + c.system.len()).sum();
        self.drop_sealed(sealed);
        self.metrics.records_written.inc_by(records as u64);
        self.metrics.checkpoint_seconds.observe(start.elapsed().as_secs_f64());
        self.metrics.bytes.set(self.bytes.load(Ordering::Relaxed) as i64);
        Ok(())
    }

    /// Swaps the records of every group that was written to. The others keep no memory.
    fn seal(&self) -> Vec<(GroupId, Arc<Columns>)> {
        let mut sealed = Vec::new();
        // Freed outside of the locks.
        let (mut idle, mut unused) = (Vec::new(), Vec::new());
        let (mut bytes, mut changes) = (0, 0);
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            idle.extend(stripe.extract_if(.., |_, group| group.active.is_empty()));
            for (id, group) in stripe.iter_mut() {
                bytes += group.bytes();
                changes += std::mem::take(&mut group.changes);
                let next = match group.spare.take() {
                    Some(spare) if spare.suits(&group.active) => spare,
                    other => {
                        unused.extend(other);
                        Columns::with_room_of(&group.active)
                    }
                };
                let columns = Arc::new(std::mem::replace(&mut group.active, next));
                group.sealed = Some(Arc::clone(&columns));
                sealed.push((*id, columns));
            }
        }
        self.sealed_bytes.store(bytes, Ordering::Relaxed);
        self.metrics.changes.inc_by(changes);
        sealed
    }

    /// The base has the records. Groups with data keep their memory, others nothing.
    fn drop_sealed(&self, sealed: Vec<(GroupId, Arc<Columns>)>) {
        // Freed outside of the locks.
        let mut idle = Vec::new();
        for (id, columns) in sealed {
            let mut stripe = self.stripe(id).write();
            let Some(group) = stripe.get_mut(&id) else { continue };
            group.sealed = None;
            // No view has it: they hold the stripe's lock.
            let columns = Arc::into_inner(columns).filter(|columns| !columns.data.is_empty());
            group.spare = columns.map(|mut columns| {
                columns.data.clear();
                columns.system.clear();
                columns
            });
            if group.spare.is_none() && group.active.is_empty() {
                idle.extend(stripe.remove(&id));
            }
        }
        self.bytes.fetch_sub(self.sealed_bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Columns {
    /// For the writes after those of `other`; a state now and then needs no room ahead.
    fn with_room_of(other: &Columns) -> Columns {
        if other.data.is_empty() {
            return Columns::default();
        }
        Columns {
            data: Records::with_room_of(&other.data),
            system: Records::with_room_of(&other.system),
        }
    }

    fn suits(&self, other: &Columns) -> bool {
        self.data.suits(&other.data)
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.system.is_empty()
    }
}

impl Group {
    fn bytes(&self) -> usize {
        self.active.data.bytes() + self.active.system.bytes()
    }
}

fn bytes_of(change: &Change) -> usize {
    Records::bytes_of(&change.key, change.value.as_ref().map(Bytes::as_ref))
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
