//! Memory below a table: one content a group, which a checkpoint replaces and dumps to a file.
//!
//! 1. A checkpoint merges what changed in a group into a new content (`content.rs`), data and
//!    applied state alike, so that they are durable together.
//! 2. It dumps that to the group's file (`dump.rs`), and only then reads see it and the old
//!    content goes: two contents of one group are in memory at once, never of two.
//! 3. After the last group it syncs the folder: then the table forgets the changes.
//!
//! What a crash leaves is each group's last dump, with the applied index that it holds: the log
//! is never cut beyond it and replays the rest. Made by whoever makes a checkpoint of the table;
//! read by everyone.

use super::content::Content;
use super::table::{Base, GroupCheckpoint, Pace};
use super::{Column, OpenError, Page, Pair, View, dump};
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use parking_lot::RwLock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// See the module.
pub struct MemoryBase {
    dir: PathBuf,
    /// Held only to get one record, to look a content up or to replace it.
    contents: RwLock<BTreeMap<GroupId, Arc<Content>>>,
    /// Keeps other processes out of the folder while it is open.
    _lock: File,
}

impl MemoryBase {
    /// Loads the last dumps of `dir`, which is created when it is not there.
    pub fn open(dir: &Path) -> Result<MemoryBase, OpenError> {
        std::fs::create_dir_all(dir).map_err(|e| OpenError::io(dir, e))?;
        let lock = File::create(dir.join("LOCK")).map_err(|e| OpenError::io(dir, e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(e) => return Err(OpenError::io(dir, e)),
        }
        let contents = dump::read_all(dir)?;
        let contents = contents.into_iter().map(|content| (content.group(), Arc::new(content)));
        let contents = RwLock::new(contents.collect());
        Ok(MemoryBase { dir: dir.to_owned(), contents, _lock: lock })
    }

    fn content(&self, group: GroupId) -> Option<Arc<Content>> {
        self.contents.read().get(&group).cloned()
    }
}

impl Base for MemoryBase {
    fn checkpoint(&self, groups: &[GroupCheckpoint<'_>], pace: &Pace<'_>) -> Result<(), Fatal> {
        for GroupCheckpoint { group, data, system } in groups {
            let old = self.content(*group).unwrap_or_else(|| Arc::new(Content::empty(*group)));
            let next = old.merge(data, system, pace);
            dump::write(&self.dir, &next).map_err(|e| {
                Fatal::new(format!("dump group {group} to {}", self.dir.display()), e)
            })?;
            // Until the folder is synced the table keeps the changes, so nobody sees that this
            // is early. `old` is the last one's other owner: it is freed outside of the lock.
            self.contents.write().insert(*group, Arc::new(next));
            drop(old);
            pace.step();
        }
        dump::sync_dir(&self.dir)
            .map_err(|e| Fatal::new(format!("sync the folder {}", self.dir.display()), e))
    }

    fn get(&self, group: GroupId, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let contents = self.contents.read();
        // Copied: a slice of the content would keep all of it in memory.
        let found = contents.get(&group).and_then(|content| content.get(column, key));
        Ok(found.map(Bytes::copy_from_slice))
    }

    fn scan(
        &self,
        group: GroupId,
        column: Column,
        start: &[u8],
        end: &[u8],
        take: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Fatal> {
        if let Some(content) = self.content(group) {
            for (key, value) in content.scan(column, start) {
                if !(end.is_empty() || key < end) || !take(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn pin(&self, group: GroupId) -> Result<Box<dyn View + '_>, Fatal> {
        let content = self.content(group).unwrap_or_else(|| Arc::new(Content::empty(group)));
        Ok(Box::new(ContentView(content)))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let contents = self.contents.read();
        let with_system = contents.values().filter(|content| !content.is_empty(Column::System));
        Ok(with_system.map(|content| content.group()).collect())
    }
}

/// A content, which never changes.
struct ContentView(Arc<Content>);

impl View for ContentView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.0.get(column, key).map(Bytes::copy_from_slice))
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Pair>, bool), Fatal> {
        let mut page = Page::new(limit, bytes_max);
        let within = |(key, _): &(&[u8], &[u8])| end.is_empty() || *key < end;
        let mut records = self.0.scan(column, start).take_while(within);
        let more = !records.all(|(key, value)| page.push(key, value));
        Ok((page.pairs, more))
    }
}
