//! What a snapshot thread does, one piece at a time: the threads of a store and the simulator call the
//! same.

use super::{Content, Manifest, SnapshotId, SnapshotStore, is_sync_failure};
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

    /// Has the state machine write `group` as the snapshot `id`, after a `sync` if that is asked for; gives
    /// the last index that is in it, and what it is. The error says why there is none now.
    pub fn make(
        &self,
        id: SnapshotId,
        group: GroupId,
        sync: bool,
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
        if sync {
            // Whatever failed, it is not this group's data alone.
            self.state_machine.sync().map_err(|fatal| Fatal { damage: false, ..fatal })?;
        }
        let saved = self.state_machine.snapshot_save(group, &mut out);
        let flushed = saved.is_ok().then(|| out.finish());
        if let Some(failure) = &out.failure {
            return match is_sync_failure(failure) {
                true => Err(Fatal::new("sync of a snapshot", failure)),
                false => Ok(Err(failure.to_string())),
            };
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

    /// What a start finds of a snapshot on its way here; `None` when nobody can use it any more.
    #[must_use]
    pub fn partial(&self, id: SnapshotId) -> Option<Manifest> {
        Manifest::decode(&self.store.manifest(id).ok()?).ok()
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
    /// Goes on where an earlier attempt ended: what is here and whole is not asked for again. The
    /// manifest is kept first, so that a restart knows what it finds.
    pub fn resume(store: &Arc<dyn SnapshotStore>, manifest: Manifest) -> io::Result<Self> {
        store.seal(manifest.id, &manifest.encode())?;
        let next = whole_blocks(&**store, &manifest);
        Ok(Receiving { store: Arc::clone(store), manifest, next })
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

    /// All blocks came: makes them durable and checks them as they lie on the disk. After an error
    /// the snapshot is to be fetched from the first block that is damaged, or from the beginning.
    pub fn finish(self) -> io::Result<()> {
        let Receiving { store, manifest, .. } = self;
        store.seal(manifest.id, &manifest.encode())?;
        let checked = check(&*store, &manifest);
        if checked.is_err() && whole_blocks(&*store, &manifest) == manifest.content.blocks {
            // Each is whole, and together they are another snapshot.
            store.remove(manifest.id)?;
        }
        checked
    }
}

/// How many blocks from the first one on are here and whole.
fn whole_blocks(store: &dyn SnapshotStore, manifest: &Manifest) -> u64 {
    let held = |number: &u64| store.read(manifest.id, *number).is_ok();
    (0..manifest.content.blocks).take_while(held).count() as u64
}

/// Whoever reads or writes tries again by himself after an error of kind `Interrupted`: this one ends it.
fn lasting(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::Interrupted => io::Error::other(error.to_string()),
        _ => error,
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
    failure: Option<io::Error>,
}

impl BlockWriter<'_> {
    fn finish(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let Content { bytes, blocks, crc } = &mut self.content;
        let written = self.store.write(self.id, *blocks, &self.block);
        let written = written.and_then(|()| (self.pace)(self.block.len()));
        let written = written.map_err(lasting);
        let written = written.map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failure.get_or_insert(error);
            told
        });
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
                return Err(lasting(error));
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

#[cfg(test)]
mod tests {
    use super::super::{MemorySnapshots, SyncFailed};
    use super::*;
    use crate::apply::{AppliedState, GroupApply};
    use crate::members::GroupDesc;
    use crate::types::LogPosition;

    /// Ten bytes of state.
    struct Ten;

    impl StateMachine for Ten {
        fn recovered(&self, _group: GroupId) -> AppliedState {
            AppliedState::default()
        }

        fn apply(&self, _batch: &mut [GroupApply]) -> Result<(), Fatal> {
            Ok(())
        }

        fn sync(&self) -> Result<(), Fatal> {
            Ok(())
        }

        fn destroy(&self, _group: GroupId) -> Result<(), Fatal> {
            Ok(())
        }

        fn snapshot_save(
            &self,
            _group: GroupId,
            out: &mut dyn Write,
        ) -> Result<Option<u64>, Fatal> {
            out.write_all(b"0123456789").map_err(|e| Fatal::new("save", e))?;
            Ok(Some(7))
        }

        fn snapshot_load(
            &self,
            _group: GroupId,
            _position: LogPosition,
            from: &mut dyn Read,
        ) -> Result<(), Fatal> {
            let mut text = String::new();
            from.read_to_string(&mut text).map_err(|e| Fatal::new("load", e))?;
            assert_eq!(text, "0123456789");
            Ok(())
        }
    }

    fn made(worker: &SnapshotWorker) -> Manifest {
        let (id, group) = (SnapshotId(1), GroupId(1));
        let (index, content) = worker.make(id, group, false, &mut |_| Ok(())).unwrap().unwrap();
        let position = LogPosition { index, term: 1 };
        Manifest { id, desc: GroupDesc::new(group, Vec::new()), position, content }
    }

    /// A store that stops in the middle: the standard library would try again for ever.
    #[test]
    fn work_that_is_interrupted_ends() {
        let worker = SnapshotWorker::new(MemorySnapshots::new(), Arc::new(Ten), 4);
        let after_two = || {
            let mut left = 2;
            move |_: usize| {
                left -= 1;
                if left < 0 { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
            }
        };
        let unmade = worker.make(SnapshotId(9), GroupId(1), false, &mut after_two()).unwrap();
        assert!(unmade.unwrap_err().contains("interrupted"));
        let manifest = made(&worker);
        let Err(LoadError::Damaged(why)) = worker.load(&manifest, &mut after_two()) else {
            panic!("it went on")
        };
        assert!(why.starts_with("block 2 of snapshot"), "{why}");
        worker.load(&manifest, &mut |_| Ok(())).unwrap();
    }

    /// In memory, on a device that syncs nothing.
    struct Unsynced(MemorySnapshots);

    impl SnapshotStore for Unsynced {
        fn list(&self) -> io::Result<Vec<SnapshotId>> {
            self.0.list()
        }
        fn write(&self, _: SnapshotId, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::Error::other(SyncFailed(io::Error::other("the device"))))
        }
        fn read(&self, id: SnapshotId, number: u64) -> io::Result<bytes::Bytes> {
            self.0.read(id, number)
        }
        fn seal(&self, id: SnapshotId, manifest: &[u8]) -> io::Result<()> {
            self.0.seal(id, manifest)
        }
        fn manifest(&self, id: SnapshotId) -> io::Result<bytes::Bytes> {
            self.0.manifest(id)
        }
        fn remove(&self, id: SnapshotId) -> io::Result<()> {
            self.0.remove(id)
        }
    }

    /// The next one would succeed, and say nothing of what is lost.
    #[test]
    fn a_sync_that_fails_while_a_snapshot_is_made_ends_the_store() {
        let store = Arc::new(Unsynced(MemorySnapshots::default()));
        let worker = SnapshotWorker::new(store, Arc::new(Ten), 4);
        let made = worker.make(SnapshotId(1), GroupId(1), false, &mut |_| Ok(()));
        let fatal = made.unwrap_err();
        assert!(!fatal.damage && fatal.to_string().contains("sync of a snapshot"), "{fatal}");
    }

    /// What is damaged is fetched again from there on, and only that.
    #[test]
    fn a_block_damaged_here_is_the_next_to_come() {
        let source = MemorySnapshots::new();
        let manifest = made(&SnapshotWorker::new(source.clone(), Arc::new(Ten), 4));
        let here = MemorySnapshots::new();
        let store = Arc::clone(&here) as Arc<dyn SnapshotStore>;
        let mut receiving = Receiving::resume(&store, manifest.clone()).unwrap();
        for _ in 0..3 {
            let next = receiving.next().unwrap();
            receiving.take(&source.read(manifest.id, next).unwrap()).unwrap();
        }
        assert_eq!(receiving.next(), None);
        here.write(manifest.id, 1, b"else").unwrap();
        assert!(receiving.finish().is_err(), "another content of whole blocks");
        assert_eq!(here.list().unwrap(), [], "nothing of it is of use");
        let mut receiving = Receiving::resume(&store, manifest.clone()).unwrap();
        assert_eq!(receiving.next(), Some(0));
        receiving.take(&source.read(manifest.id, 0).unwrap()).unwrap();
        assert_eq!(Receiving::resume(&store, manifest).unwrap().next(), Some(1));
    }
}
