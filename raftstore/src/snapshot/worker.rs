//! What a snapshot thread does, one piece at a time: the threads of a store and the simulator call the
//! same.

use super::{Content, Manifest, SnapshotId, SnapshotStore};
use crate::apply::StateMachine;
use crate::error::Fatal;
use crate::types::GroupId;
use bytes::{Buf, Bytes};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

/// Called with the bytes of each block: waits, so that a rate is kept, or ends the work by an error.
pub type Pace<'a> = &'a mut dyn FnMut(usize) -> io::Result<()>;

/// Why a received snapshot was not given to the state machine.
#[derive(Debug)]
pub enum LoadError {
    /// Its blocks here are damaged or gone: fetch it again.
    Damaged(String),
    /// The state machine failed.
    Fatal(Fatal),
}

/// See the module.
#[derive(Clone)]
pub struct SnapshotWorker {
    store: Arc<dyn SnapshotStore>,
    state_machine: Arc<dyn StateMachine>,
    block_bytes: usize,
}

impl SnapshotWorker {
    /// A worker that cuts snapshots into blocks of `block_bytes`.
    #[must_use]
    pub fn new(
        store: Arc<dyn SnapshotStore>,
        state_machine: Arc<dyn StateMachine>,
        block_bytes: usize,
    ) -> Self {
        SnapshotWorker { store, state_machine, block_bytes }
    }

    /// Where the blocks are.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn SnapshotStore> {
        &self.store
    }

    /// Has the state machine write `group` as the snapshot `id`; gives the last index that is in it,
    /// and what it is. The error says why there is none now.
    pub fn make(
        &self,
        id: SnapshotId,
        group: GroupId,
        pace: Pace<'_>,
    ) -> Result<Result<(u64, Content), String>, Fatal> {
        let mut out = BlockWriter {
            store: &*self.store,
            id,
            block: Vec::with_capacity(self.block_bytes),
            block_bytes: self.block_bytes,
            content: Content::default(),
            pace,
            failure: None,
        };
        let saved = self.state_machine.snapshot_save(group, &mut out);
        let flushed = saved.is_ok().then(|| out.finish());
        if let Some(failure) = &out.failure {
            return Ok(Err(failure.clone()));
        }
        let content = out.content;
        match (saved?, flushed) {
            (Some(index), Some(Ok(()))) if index > 0 => Ok(Ok((index, content))),
            (_, Some(Err(error))) => Ok(Err(error.to_string())),
            _ => Ok(Err("the state machine holds nothing of the group yet".to_owned())),
        }
    }

    /// Gives a received snapshot to the state machine.
    pub fn load(&self, manifest: &Manifest, pace: Pace<'_>) -> Result<(), LoadError> {
        let mut from = BlockReader::new(&*self.store, manifest, Some(pace));
        let group = manifest.desc.group;
        let loaded = self.state_machine.snapshot_load(group, manifest.position, &mut from);
        if let Some(failure) = from.failure {
            return Err(LoadError::Damaged(failure));
        }
        loaded.map_err(LoadError::Fatal)
    }

    /// The snapshot that an unfinished install is of, checked.
    pub fn held(&self, id: SnapshotId) -> Result<Manifest, String> {
        let bytes = self.store.manifest(id).map_err(|error| format!("its manifest: {error}"))?;
        let manifest = Manifest::decode(&bytes)?;
        check(&*self.store, &manifest).map_err(|error| error.to_string())?;
        Ok(manifest)
    }
}

/// Reads all blocks back.
fn check(store: &dyn SnapshotStore, manifest: &Manifest) -> io::Result<()> {
    let mut reader = BlockReader::new(store, manifest, None);
    io::copy(&mut reader, &mut io::sink()).map(drop)
}

/// A snapshot on its way here: which blocks are still to come.
pub struct Receiving {
    store: Arc<dyn SnapshotStore>,
    manifest: Manifest,
    next: u64,
}

impl Receiving {
    /// Goes on where an earlier attempt ended: what is here and whole is not asked for again.
    #[must_use]
    pub fn resume(store: &Arc<dyn SnapshotStore>, manifest: Manifest) -> Self {
        let held = |number: &u64| store.read(manifest.id, *number).is_ok();
        let next = (0..manifest.content.blocks).take_while(held).count() as u64;
        Receiving { store: Arc::clone(store), manifest, next }
    }

    /// The block that is needed next; `None` when all are here.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.next < self.manifest.content.blocks).then_some(self.next)
    }

    /// Takes the next block.
    pub fn take(&mut self, block: &[u8]) -> io::Result<()> {
        self.store.write(self.manifest.id, self.next, block)?;
        self.next += 1;
        Ok(())
    }

    /// All blocks came: makes them durable and checks them as they lie on the disk. On an error they
    /// are gone, and the snapshot is to be fetched from the beginning.
    pub fn finish(self) -> io::Result<()> {
        let id = self.manifest.id;
        let sealed = self
            .store
            .seal(id, &self.manifest.encode())
            .and_then(|()| check(&*self.store, &self.manifest));
        if sealed.is_err() {
            self.store.remove(id)?;
        }
        sealed
    }
}

struct BlockWriter<'a> {
    store: &'a dyn SnapshotStore,
    id: SnapshotId,
    block: Vec<u8>,
    block_bytes: usize,
    content: Content,
    pace: Pace<'a>,
    /// The first error: it is not the state machine's.
    failure: Option<String>,
}

impl BlockWriter<'_> {
    fn finish(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let Content { bytes, blocks, crc } = &mut self.content;
        let written = self.store.write(self.id, *blocks, &self.block);
        let written = written.and_then(|()| (self.pace)(self.block.len()));
        if let Err(error) = &written {
            self.failure = Some(error.to_string());
        }
        *bytes += self.block.len() as u64;
        *blocks += 1;
        *crc = crc32c::crc32c_append(*crc, &self.block);
        self.block.clear();
        written
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.block_bytes - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == self.block_bytes {
            self.finish()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct BlockReader<'a> {
    store: &'a dyn SnapshotStore,
    manifest: &'a Manifest,
    block: Bytes,
    /// As far as read.
    content: Content,
    pace: Option<Pace<'a>>,
    /// The first error: it is not the state machine's.
    failure: Option<String>,
}

impl<'a> BlockReader<'a> {
    fn new(store: &'a dyn SnapshotStore, manifest: &'a Manifest, pace: Option<Pace<'a>>) -> Self {
        let (block, content) = (Bytes::new(), Content::default());
        BlockReader { store, manifest, block, content, pace, failure: None }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let expected = &self.manifest.content;
        if self.content.blocks == expected.blocks {
            if self.content == *expected {
                return Ok(());
            }
            let what = "the blocks are not those of its manifest";
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        let block = self.store.read(self.manifest.id, self.content.blocks)?;
        if let Some(pace) = &mut self.pace {
            pace(block.len())?;
        }
        self.content.bytes += block.len() as u64;
        self.content.blocks += 1;
        self.content.crc = crc32c::crc32c_append(self.content.crc, &block);
        self.block = block;
        Ok(())
    }
}

impl Read for BlockReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            let before = self.content.blocks;
            if let Err(error) = self.next_block() {
                let text = format!("block {before} of snapshot {}: {error}", self.manifest.id);
                self.failure.get_or_insert(text);
                return Err(error);
            }
            if self.content.blocks == before {
                return Ok(0);
            }
        }
        let taken = out.len().min(self.block.len());
        self.block.copy_to_slice(&mut out[..taken]);
        Ok(taken)
    }
}
