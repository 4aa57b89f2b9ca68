//! Snapshots in files: a folder for each.
//!
//! ```text
//! DIR/ID/blocks     a block every BLOCK_BYTES_MAX + 8 bytes: length u32, CRC-32C u32, the block
//! DIR/ID/manifest   CRC-32C u32, then the manifest; renamed into its place
//! ```
//!
//! Numbers are little endian; a block's checksum begins with its number, so that a block in a wrong
//! place does not pass.

use super::{SnapshotId, SnapshotStore, SyncFailed};
use bytes::Bytes;
use crossbeam::channel::{Sender, unbounded};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A block is not larger.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES: usize = 8;
/// Blocks between two syncs while a snapshot is written: one large sync at its end would hold up the log's.
const SYNC_BLOCKS: u64 = 8;
/// Bytes that are given back to the file system at once, for the same reason, ...
const FREE_BYTES: u64 = 8 << 20;
/// ... and how long others have the disk before each piece: a gigabyte is freed in some seconds.
const FREE_REST: Duration = Duration::from_millis(30);
const BLOCKS: &str = "blocks";
const MANIFEST: &str = "manifest";

fn synced(done: io::Result<()>) -> io::Result<()> {
    done.map_err(|error| io::Error::other(SyncFailed(error)))
}

/// A [`SnapshotStore`] in a folder.
pub struct SnapshotDir {
    dir: PathBuf,
    /// Large files that have no name any more, for a thread that frees them.
    freeing: Sender<File>,
}

impl SnapshotDir {
    /// The snapshots in `dir`, which is created when it is not there. Whoever opens it must have the
    /// store's data folder for itself.
    ///
    /// Its thread, which frees the room of deleted snapshots, ends on its own; nobody need wait for it.
    ///
    /// # Errors
    /// The folder cannot be created, or the thread.
    pub fn open(dir: &Path) -> io::Result<Arc<Self>> {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let (freeing, unnamed) = unbounded::<File>();
        std::thread::Builder::new()
            .name("snapshot-free".to_owned())
            .spawn(move || unnamed.iter().for_each(|blocks| free(&blocks)))?;
        Ok(Arc::new(SnapshotDir { dir: dir.to_owned(), freeing }))
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

/// Frees the room of a file piece by piece. Whatever fails: closing it frees the rest.
#[allow(clippy::disallowed_methods)] // On a thread that does nothing else.
fn free(file: &File) {
    let mut bytes = file.metadata().map_or(0, |metadata| metadata.len());
    while bytes > FREE_BYTES {
        // Also before the first: who opened it while it had a name reads to the end of his block.
        std::thread::sleep(FREE_REST);
        bytes -= FREE_BYTES;
        if file.set_len(bytes).is_err() {
            return;
        }
    }
}

fn checksum(number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), block)
}

fn place_of(number: u64) -> u64 {
    number * (BLOCK_BYTES_MAX + HEAD_BYTES) as u64
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

impl SnapshotStore for SnapshotDir {
    fn list(&self) -> io::Result<Vec<SnapshotId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            ids.extend(id.map(SnapshotId));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn write(&self, id: SnapshotId, number: u64, block: &[u8]) -> io::Result<()> {
        if block.len() > BLOCK_BYTES_MAX {
            return Err(damaged("a block is too large"));
        }
        let dir = self.path(id);
        fs::create_dir_all(&dir)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(dir.join(BLOCKS))?;
        let mut record = Vec::with_capacity(HEAD_BYTES + block.len());
        record.extend_from_slice(&(block.len() as u32).to_le_bytes());
        record.extend_from_slice(&checksum(number, block).to_le_bytes());
        record.extend_from_slice(block);
        file.write_all_at(&record, place_of(number))?;
        if (number + 1).is_multiple_of(SYNC_BLOCKS) { synced(file.sync_data()) } else { Ok(()) }
    }

    fn read(&self, id: SnapshotId, number: u64) -> io::Result<Bytes> {
        let file = File::open(self.path(id).join(BLOCKS))?;
        let mut head = [0; HEAD_BYTES];
        let at = place_of(number);
        match file.read_exact_at(&mut head, at) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                return Err(io::Error::from(ErrorKind::NotFound));
            }
            Err(e) => return Err(damaged(&format!("a block cannot be read: {e}"))),
            Ok(()) => {}
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(damaged("a block's length is damaged"));
        }
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, at + HEAD_BYTES as u64)
            .map_err(|e| damaged(&format!("a block cannot be read to its end: {e}")))?;
        if checksum(number, &block) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged("a block's checksum does not match"));
        }
        Ok(Bytes::from(block))
    }

    fn seal(&self, id: SnapshotId, manifest: &[u8]) -> io::Result<()> {
        let dir = self.path(id);
        fs::create_dir_all(&dir)?;
        match File::open(dir.join(BLOCKS)) {
            Ok(blocks) => synced(blocks.sync_all())?,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let new = dir.join("manifest.new");
        let mut file = File::create(&new)?;
        file.write_all(&crc32c::crc32c(manifest).to_le_bytes())?;
        file.write_all(manifest)?;
        synced(file.sync_all())?;
        fs::rename(&new, dir.join(MANIFEST))?;
        synced(File::open(&dir)?.sync_all())?;
        synced(File::open(&self.dir)?.sync_all())
    }

    fn manifest(&self, id: SnapshotId) -> io::Result<Bytes> {
        let bytes = fs::read(self.path(id).join(MANIFEST))?;
        let (crc, manifest) =
            bytes.split_first_chunk().ok_or_else(|| damaged("a manifest is cut short"))?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(manifest) {
            return Err(damaged("a manifest's checksum does not match"));
        }
        Ok(Bytes::copy_from_slice(manifest))
    }

    /// Large blocks are held open while their name goes, and freed later.
    fn remove(&self, id: SnapshotId) -> io::Result<()> {
        let dir = self.path(id);
        let blocks = File::options().write(true).open(dir.join(BLOCKS));
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Ok(blocks) = blocks
            && blocks.metadata().is_ok_and(|metadata| metadata.len() > FREE_BYTES)
        {
            // The thread lives as long as the sender; without it the file is freed here and now.
            let _ = self.freeing.send(blocks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::is_sync_failure;
    use super::*;

    const ID: SnapshotId = SnapshotId(0xab);

    #[test]
    fn blocks_and_manifest_come_back_and_a_removed_snapshot_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotDir::open(dir.path()).unwrap();
        assert_eq!(store.read(ID, 0).unwrap_err().kind(), ErrorKind::NotFound);
        store.write(ID, 1, b"second").unwrap();
        store.write(ID, 0, b"").unwrap();
        store.seal(ID, b"what it is").unwrap();
        let store = SnapshotDir::open(dir.path()).unwrap();
        assert_eq!(store.list().unwrap(), [ID]);
        assert_eq!(
            (&store.read(ID, 0).unwrap()[..], &store.read(ID, 1).unwrap()[..]),
            (&b""[..], &b"second"[..])
        );
        assert_eq!(store.read(ID, 2).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(&store.manifest(ID).unwrap()[..], b"what it is");
        store.remove(ID).unwrap();
        store.remove(ID).unwrap();
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_large_file_is_freed_to_its_last_piece_and_its_name_goes_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * FREE_BYTES - 1).unwrap();
        free(&file);
        assert_eq!(file.metadata().unwrap().len(), FREE_BYTES - 1);
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotDir::open(dir.path()).unwrap();
        store.write(ID, FREE_BYTES / BLOCK_BYTES_MAX as u64 + 1, b"far behind").unwrap();
        store.remove(ID).unwrap();
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_failed_sync_is_told_from_a_failed_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotDir::open(dir.path()).unwrap();
        let device = |name: &str| {
            store.remove(ID).unwrap();
            fs::create_dir_all(store.path(ID)).unwrap();
            std::os::unix::fs::symlink(name, store.path(ID).join(BLOCKS)).unwrap();
            store.write(ID, SYNC_BLOCKS - 1, b"block").unwrap_err()
        };
        // It takes every write, and syncs nothing.
        assert!(is_sync_failure(&device("/dev/null")));
        assert!(!is_sync_failure(&device("/dev/full")));
        device("/dev/null");
        assert!(is_sync_failure(&store.seal(ID, b"manifest").unwrap_err()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotDir::open(dir.path()).unwrap();
        store.write(ID, 0, b"some block").unwrap();
        store.seal(ID, b"manifest").unwrap();
        for (name, bits) in [(BLOCKS, 18 * 8), (MANIFEST, 12 * 8)] {
            let path = dir.path().join(ID.to_string()).join(name);
            let whole = fs::read(&path).unwrap();
            for bit in 0..bits {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &bytes).unwrap();
                let read = if name == BLOCKS { store.read(ID, 0) } else { store.manifest(ID) };
                assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidData, "{name} bit {bit}");
            }
            fs::write(&path, &whole).unwrap();
        }
    }
}
