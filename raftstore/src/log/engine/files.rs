//! The file system under raft-engine, with the rules that it does not keep by itself.
//!
//! - **The first failure is the last.** raft-engine goes on after a failed write, and panics on a
//!   failed sync. Here the first one is remembered ([`Files::failure`]) and nothing is written,
//!   synced, created or deleted after it. A failed sync is reported to raft-engine as done, so
//!   that it does not panic; the log asks for the failure before it acknowledges anything.
//! - **Every file that holds something acknowledged is known by its number** ([`Span`]), so that
//!   a lost one is an error. raft-engine would drop all files before a gap without a word.
//! - **Only one record can be torn.** Appends are synced one by one by the log; what raft-engine
//!   copies in the background (`.rewrite` files) is synced here, write by write.
//! - **Files are used again** without a reader noticing: raft-engine's own recycling leaves gaps
//!   in the numbers and lets a slow reader read a file's next life.

use super::span::Span;
use parking_lot::{Mutex, RwLock};
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How many files wait for their next use.
const SPARES_MAX: usize = 4;
const SPARE_PREFIX: &str = "spare-";

/// The files of one log.
pub(super) struct Files {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    span: Mutex<Span>,
    spares: Mutex<Vec<PathBuf>>,
    /// Held for reading through each read of entries: a file gets its next use after them.
    readers: RwLock<()>,
    failure: OnceLock<String>,
    #[cfg(test)]
    watch: Mutex<Option<Watch>>,
}

/// Called before and after (`true`) each change with its name and place, while no other change
/// happens; an error before it makes the change fail.
#[cfg(test)]
pub(super) type Watch = Box<dyn FnMut(bool, &str, &Path) -> io::Result<()> + Send>;

impl Files {
    /// The files in `dir`, which exists; `span` as it stands there.
    pub fn new(dir: &Path, span: Span) -> io::Result<Files> {
        let mut spares = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(SPARE_PREFIX)) {
                spares.push(path);
            }
        }
        Ok(Files {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                span: Mutex::new(span),
                spares: Mutex::new(spares),
                readers: RwLock::new(()),
                failure: OnceLock::new(),
                #[cfg(test)]
                watch: Mutex::default(),
            }),
        })
    }

    /// What failed first; nothing was changed on disk since.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Watches every change from now on.
    #[cfg(test)]
    pub fn watch(&self, watch: Watch) {
        *self.shared.watch.lock() = Some(watch);
    }

    /// Runs a read of entries; no file gets its next use meanwhile.
    pub fn reading<T>(&self, read: impl FnOnce() -> T) -> T {
        let _guard = self.shared.readers.read();
        read()
    }
}

impl Shared {
    /// Carries out a change, unless one failed before; remembers the first failure.
    fn change<T>(
        &self,
        what: &str,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(first) = self.failure.get() {
            return Err(io::Error::other(format!("refused after an earlier failure: {first}")));
        }
        let change = || {
            #[cfg(test)]
            let mut watch = self.watch.lock();
            #[cfg(test)]
            if let Some(watch) = watch.as_mut() {
                watch(false, what, path)?;
                let done = change()?;
                return watch(true, what, path).map(|()| done);
            }
            change()
        };
        change().inspect_err(|error| {
            // A second thread's failure at the same moment is no news.
            let _ = self.failure.set(format!("cannot {what} {}: {error}", path.display()));
        })
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        // No lock is held while waiting: a reader may wait for a purge, which may delete a file.
        let spare = if is_append(path) { self.spares.lock().pop() } else { None };
        if let Some(spare) = spare {
            // Who reads the file's former life must have ended.
            drop(self.readers.write());
            fs::rename(spare, path)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).open(path)
    }

    fn delete(&self, path: &Path) -> io::Result<()> {
        let mut spares = self.spares.lock();
        let name = path.file_name().and_then(|name| name.to_str());
        match name.filter(|_| is_append(path) && spares.len() < SPARES_MAX) {
            Some(name) => {
                let spare = self.dir.join(format!("{SPARE_PREFIX}{name}"));
                fs::rename(path, &spare)?;
                spares.push(spare);
                Ok(())
            }
            None => fs::remove_file(path),
        }
    }
}

/// Whether a file system has so much to spare that `bytes` may be taken long before they are written.
fn has_room(file: &File, bytes: usize) -> bool {
    const SPARE: u64 = 8;
    let free = |found: rustix::fs::StatVfs| found.f_bavail.saturating_mul(found.f_frsize);
    rustix::fs::fstatvfs(file).is_ok_and(|found| free(found) / SPARE >= bytes as u64)
}

fn is_append(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == super::span::APPEND)
}

impl FileSystem for Files {
    type Handle = LogFile;
    type Reader = Place;
    type Writer = Place;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<LogFile> {
        let path = path.as_ref();
        let shared = &self.shared;
        let file = shared.change("create", path, || shared.create(path))?;
        // From now on the file must exist; nothing is written to it until this is on disk.
        shared.change("note in SPAN", path, || shared.span.lock().created(path, &shared.dir))?;
        Ok(LogFile::new(file, path, shared))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<LogFile> {
        let path = path.as_ref();
        let write = permission == Permission::ReadWrite;
        let file = File::options().read(true).write(write).open(path)?;
        Ok(LogFile::new(file, path, &self.shared))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        let path = path.as_ref();
        let shared = &self.shared;
        shared
            .change("strike from SPAN", path, || shared.span.lock().deleted(path, &shared.dir))?;
        shared.change("delete", path, || shared.delete(path))
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.shared.change("rename", from, || fs::rename(from, to))
    }

    fn new_reader(&self, file: Arc<LogFile>) -> io::Result<Place> {
        Ok(Place { file, at: 0 })
    }

    fn new_writer(&self, file: Arc<LogFile>) -> io::Result<Place> {
        Ok(Place { file, at: 0 })
    }
}

/// An open file.
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    sync_writes: bool,
    shared: Arc<Shared>,
}

impl LogFile {
    fn new(file: File, path: &Path, shared: &Arc<Shared>) -> LogFile {
        LogFile {
            file,
            path: path.to_owned(),
            sync_writes: !is_append(path),
            shared: Arc::clone(shared),
        }
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.shared.change("write to", &self.path, || {
            self.file.write_all_at(data, at)?;
            if self.sync_writes { self.file.sync_data() } else { Ok(()) }
        })
    }
}

impl Handle for LogFile {
    fn truncate(&self, bytes: usize) -> io::Result<()> {
        self.shared.change("truncate", &self.path, || self.file.set_len(bytes as u64))
    }

    fn file_size(&self) -> io::Result<usize> {
        let bytes = self.file.metadata()?.len();
        usize::try_from(bytes).map_err(io::Error::other)
    }

    fn sync(&self) -> io::Result<()> {
        // See the module: the failure is remembered, an error here would be a panic.
        let _ = self.shared.change("sync", &self.path, || self.file.sync_data());
        Ok(())
    }
}

/// A reader's or writer's place in a file.
pub(super) struct Place {
    file: Arc<LogFile>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.file.read_at(out, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Write for Place {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(self.at, data)?;
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Place {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from_here = |from: u64, by: i64| {
            from.checked_add_signed(by).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
        };
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => from_here(self.at, by)?,
            SeekFrom::End(by) => from_here(self.file.file_size()? as u64, by)?,
        };
        Ok(self.at)
    }
}

impl WriteExt for Place {
    fn truncate(&mut self, bytes: usize) -> io::Result<()> {
        self.file.truncate(bytes)?;
        self.at = bytes as u64;
        Ok(())
    }

    fn allocate(&mut self, from: usize, bytes: usize) -> io::Result<()> {
        if self.file.shared.failure.get().is_none() && has_room(&self.file.file, bytes) {
            // Only to make later syncs cheaper: a full disk shows in the write itself.
            let no_flags = FallocateFlags::empty();
            let _ = rustix::fs::fallocate(&self.file.file, no_flags, from as u64, bytes as u64);
        }
        Ok(())
    }
}
