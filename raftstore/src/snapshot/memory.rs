//! Snapshots in memory: for tests.

use super::{SnapshotId, SnapshotStore};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// A [`SnapshotStore`] in memory, for tests.
#[derive(Default)]
pub struct MemorySnapshots {
    held: Mutex<BTreeMap<SnapshotId, Held>>,
}

#[derive(Default)]
struct Held {
    blocks: BTreeMap<u64, Bytes>,
    manifest: Option<Bytes>,
}

impl MemorySnapshots {
    /// Without any.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

fn found<T>(what: Option<T>) -> io::Result<T> {
    what.ok_or_else(|| io::Error::from(ErrorKind::NotFound))
}

impl SnapshotStore for MemorySnapshots {
    fn list(&self) -> io::Result<Vec<SnapshotId>> {
        Ok(self.held.lock().keys().copied().collect())
    }

    fn write(&self, id: SnapshotId, number: u64, block: &[u8]) -> io::Result<()> {
        let block = Bytes::copy_from_slice(block);
        self.held.lock().entry(id).or_default().blocks.insert(number, block);
        Ok(())
    }

    fn read(&self, id: SnapshotId, number: u64) -> io::Result<Bytes> {
        found(self.held.lock().get(&id).and_then(|held| held.blocks.get(&number).cloned()))
    }

    fn seal(&self, id: SnapshotId, manifest: &[u8]) -> io::Result<()> {
        let manifest = Bytes::copy_from_slice(manifest);
        self.held.lock().entry(id).or_default().manifest = Some(manifest);
        Ok(())
    }

    fn manifest(&self, id: SnapshotId) -> io::Result<Bytes> {
        found(self.held.lock().get(&id).and_then(|held| held.manifest.clone()))
    }

    fn remove(&self, id: SnapshotId) -> io::Result<()> {
        self.held.lock().remove(&id);
        Ok(())
    }
}
