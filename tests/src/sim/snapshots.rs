//! Snapshots in the simulator: a disk for their blocks, and what snapshot threads and the stream between
//! two stores do, block by block.

use super::clock::{MICROS, MILLIS};
use super::world::{Work, World};
use bytes::Bytes;
use flotilla_raftstore::message::{Asker, ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask};
use flotilla_raftstore::snapshot::{LoadError, Manifest, Receiving};
use flotilla_raftstore::{Fatal, SnapshotId, SnapshotStore, StoreId};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

/// Attempts at one block before a fetch fails.
const ATTEMPTS: u32 = 4;

/// One store's disk of snapshots: what is not sealed, a power cut loses or damages block by block.
#[derive(Default)]
pub struct SimSnapshots {
    inner: Mutex<BTreeMap<SnapshotId, Held>>,
}

#[derive(Default)]
struct Held {
    blocks: BTreeMap<u64, Block>,
    manifest: Option<Bytes>,
}

struct Block {
    bytes: Bytes,
    damaged: bool,
    durable: bool,
}

impl SimSnapshots {
    /// The power goes.
    pub fn crash(&self, rng: &mut SmallRng) {
        for held in self.inner.lock().values_mut() {
            held.blocks.retain(|_, block| block.durable || rng.random_bool(0.5));
            for block in held.blocks.values_mut().filter(|block| !block.durable) {
                block.damaged = rng.random_bool(0.3);
            }
        }
    }

    /// A block of `id` is damaged where it lies.
    pub fn damage(&self, id: SnapshotId, number: u64) {
        if let Some(block) =
            self.inner.lock().get_mut(&id).and_then(|held| held.blocks.get_mut(&number))
        {
            block.damaged = true;
        }
    }
}

fn found<T>(what: Option<T>) -> io::Result<T> {
    what.ok_or_else(|| io::Error::from(ErrorKind::NotFound))
}

impl SnapshotStore for SimSnapshots {
    fn list(&self) -> io::Result<Vec<SnapshotId>> {
        Ok(self.inner.lock().keys().copied().collect())
    }

    fn write(&self, id: SnapshotId, number: u64, block: &[u8]) -> io::Result<()> {
        let bytes = Bytes::copy_from_slice(block);
        let block = Block { bytes, damaged: false, durable: false };
        self.inner.lock().entry(id).or_default().blocks.insert(number, block);
        Ok(())
    }

    fn read(&self, id: SnapshotId, number: u64) -> io::Result<Bytes> {
        let inner = self.inner.lock();
        let block = found(inner.get(&id).and_then(|held| held.blocks.get(&number)))?;
        if block.damaged {
            return Err(io::Error::new(ErrorKind::InvalidData, "simulated damage"));
        }
        Ok(block.bytes.clone())
    }

    fn seal(&self, id: SnapshotId, manifest: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let held = inner.entry(id).or_default();
        held.manifest = Some(Bytes::copy_from_slice(manifest));
        held.blocks.values_mut().for_each(|block| block.durable = true);
        Ok(())
    }

    fn manifest(&self, id: SnapshotId) -> io::Result<Bytes> {
        found(self.inner.lock().get(&id).and_then(|held| held.manifest.clone()))
    }

    fn remove(&self, id: SnapshotId) -> io::Result<()> {
        self.inner.lock().remove(&id);
        Ok(())
    }
}

/// A snapshot on its way to a store.
pub struct Fetch {
    asker: Asker,
    id: SnapshotId,
    from: StoreId,
    receiving: Receiving,
    failures: u32,
}

impl World {
    /// What a round wants of the snapshot threads.
    pub(super) fn snapshot_tasks(&mut self, node: usize, tasks: Vec<SnapshotTask>) {
        for task in tasks {
            self.trace.remark(|| format!("at store {}: {task:?}", node + 1));
            let Some(process) = &mut self.nodes[node].process else { return };
            if !process.traffic.admit(&task) {
                continue;
            }
            match task {
                SnapshotTask::Make { asker, id, sync } => {
                    let delay = self.rng.random_range(50 * MICROS..20 * MILLIS);
                    self.work_after(delay, node, Work::SnapshotMake(asker, id, sync));
                }
                SnapshotTask::Fetch { asker, from, manifest } => {
                    let id = manifest.id;
                    let receiving = Receiving::resume(process.snapshots.store(), manifest);
                    let receiving = receiving.expect("a simulated disk has room");
                    if receiving.next().is_some_and(|next| next > 0) {
                        self.counts.add("snapshot fetches resumed");
                    }
                    process.fetches_begun += 1;
                    let number = process.fetches_begun;
                    let fetch = Fetch { asker, id, from, receiving, failures: 0 };
                    process.fetches.insert(number, fetch);
                    let delay = self.jitter();
                    self.work_after(delay, node, Work::SnapshotBlock(number));
                }
                SnapshotTask::Load { asker, manifest } => {
                    let delay = self.rng.random_range(50 * MICROS..20 * MILLIS);
                    self.work_after(delay, node, Work::SnapshotLoad(asker, Box::new(manifest)));
                }
                SnapshotTask::Remove(id) => {
                    let delay = self.rng.random_range(50 * MICROS..20 * MILLIS);
                    self.work_after(delay, node, Work::SnapshotRemove(id));
                }
            }
        }
    }

    fn snapshot_note(&mut self, node: usize, asker: Asker, id: SnapshotId, event: SnapshotEvent) {
        let note = SnapshotNote { asker, id, event };
        self.tell(node, asker.shard, ShardMessage::Snapshots(vec![note]));
    }

    /// Deletes what nobody wants any more.
    pub(super) fn snapshot_remove(&self, node: usize, id: SnapshotId) {
        let Some(process) = &self.nodes[node].process else { return };
        if process.traffic.begin_removal(id) {
            self.nodes[node].snapshots.remove(id).expect("a simulated disk forgets");
            let begun = process.traffic.end(id);
            assert_eq!(begun, None, "a simulated removal is one step");
        }
    }

    /// A snapshot thread is done with one that it made or fetched.
    fn snapshot_end(&mut self, node: usize, id: SnapshotId, event: SnapshotEvent) {
        let Some(process) = &self.nodes[node].process else { return };
        let asker = process.traffic.end(id);
        self.snapshot_remove(node, id);
        if let Some(asker) = asker {
            self.snapshot_note(node, asker, id, event);
        }
    }

    pub(super) fn snapshot_make(
        &mut self,
        node: usize,
        asker: Asker,
        id: SnapshotId,
        sync: bool,
    ) -> Result<(), Fatal> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let damaged = self.nodes[node].damaged.get(&asker.group) == Some(&asker.replica);
        let traffic = &process.traffic;
        let made = match process.snapshots.make(id, asker.group, sync, &mut |_| traffic.check(id)) {
            Ok(_) if damaged => Err("simulated: the state is damaged".to_owned()),
            made => made?,
        };
        if damaged {
            self.find_damage(node);
        }
        self.note("snapshot made: group, ok", node, [asker.group.0, u64::from(made.is_ok()), 0]);
        if made.is_ok() {
            self.counts.add("snapshots made");
        }
        self.snapshot_end(node, id, SnapshotEvent::Made(made));
        Ok(())
    }

    /// The next block of a fetch comes, or does not.
    pub(super) fn snapshot_block(&mut self, node: usize, number: u64) -> Result<(), Fatal> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some(mut fetch) = process.fetches.remove(&number) else { return Ok(()) };
        if let Err(unwanted) = process.traffic.check(fetch.id) {
            self.snapshot_end(node, fetch.id, SnapshotEvent::Received(Err(unwanted.to_string())));
            return Ok(());
        }
        let Some(next) = fetch.receiving.next() else {
            // A disk may damage what it has taken.
            let here = &self.nodes[node].snapshots;
            if self.stormy && self.rng.random_bool(self.plan.snapshot_damage) {
                here.damage(fetch.id, 0);
                self.counts.add("snapshots damaged on disk");
            }
            let Fetch { asker, id, receiving, .. } = fetch;
            let received = receiving.finish().map_err(|error| error.to_string());
            self.note(
                "snapshot here: group, ok",
                node,
                [asker.group.0, u64::from(received.is_ok()), 0],
            );
            self.snapshot_end(node, id, SnapshotEvent::Received(received));
            return Ok(());
        };
        match self.block_from(fetch.from, node, fetch.id, next) {
            Ok(block) => {
                fetch.receiving.take(&block).map_err(|e| Fatal::new("take a block", e))?;
                fetch.failures = 0;
                self.counts.add_many("snapshot bytes received", block.len() as u64);
                let delay = self.rng.random_range(20 * MICROS..5 * MILLIS);
                self.fetch_on(node, number, fetch, delay);
            }
            Err(error) if fetch.failures + 1 == ATTEMPTS => {
                self.counts.add("snapshot fetches failed");
                let received = Err(error.to_string());
                self.snapshot_end(node, fetch.id, SnapshotEvent::Received(received));
            }
            Err(_) => {
                fetch.failures += 1;
                let delay = self.rng.random_range(MILLIS..200 * MILLIS);
                self.fetch_on(node, number, fetch, delay);
            }
        }
        Ok(())
    }

    fn fetch_on(&mut self, node: usize, number: u64, fetch: Fetch, delay: u64) {
        if let Some(process) = &mut self.nodes[node].process {
            process.fetches.insert(number, fetch);
            self.work_after(delay, node, Work::SnapshotBlock(number));
        }
    }

    /// What the stream between two stores gives for a block.
    fn block_from(
        &mut self,
        from: StoreId,
        node: usize,
        id: SnapshotId,
        number: u64,
    ) -> io::Result<Bytes> {
        let source = (from.0 - 1) as usize;
        let to = self.nodes[node].store;
        let cut = self.net.is_cut(from.0, to.0) || self.net.is_cut(to.0, from.0);
        let gone = self.nodes[source].process.is_none() || self.paused(source).is_some();
        if cut || gone || self.rng.random_bool(self.net.weather.loss) {
            self.counts.add("snapshot streams cut");
            return Err(io::Error::from(ErrorKind::ConnectionReset));
        }
        if self.stormy && self.rng.random_bool(self.plan.snapshot_damage / 4.0) {
            self.counts.add("snapshot blocks damaged on the way");
            return Err(io::Error::new(ErrorKind::InvalidData, "simulated damage"));
        }
        self.nodes[source].snapshots.read(id, number)
    }

    pub(super) fn snapshot_load(
        &mut self,
        node: usize,
        asker: Asker,
        manifest: &Manifest,
    ) -> Result<(), Fatal> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let cut = self.stormy && self.rng.random_bool(self.plan.snapshot_load_cuts);
        let blocks = manifest.content.blocks;
        let mut left = if cut { self.rng.random_range(0..=blocks) } else { u64::MAX };
        let loaded = process.snapshots.load(manifest, &mut |_| {
            left = left.checked_sub(1).ok_or(ErrorKind::Interrupted)?;
            Ok(())
        });
        if cut {
            self.counts.add("installs cut by a crash");
            let down_for = self.rng.random_range(50 * MILLIS..2_000 * MILLIS);
            let power_cut = self.rng.random_bool(0.5);
            self.crash(node, power_cut, down_for);
            return Ok(());
        }
        let loaded = match loaded {
            Ok(()) => Ok(()),
            Err(LoadError::Damaged(why)) => Err(why),
            Err(LoadError::Fatal(fatal)) => return Err(fatal),
        };
        if loaded.is_ok() {
            self.counts.add("snapshots installed");
            let index = manifest.position.index;
            let problem = self.invariants.installed(node, asker.group, index);
            self.violations.extend(problem);
        }
        self.note("snapshot loaded: group", node, [asker.group.0, manifest.position.index, 0]);
        self.compare_content(node);
        self.snapshot_note(node, asker, manifest.id, SnapshotEvent::Loaded(loaded));
        Ok(())
    }
}
