//! Maps in memory, one pair a group; dumped to files by `sync`.
//!
//! What a crash leaves is each group's last dump, with the applied index that it holds: the log
//! is never cut beyond it and replays the rest. `write` runs on apply threads, `sync` on the
//! maintenance thread; a dump holds a group's lock only while it takes the maps' content.

use super::dump::{self, Columns};
use super::map::Map;
use super::{Column, Engine, GroupChanges, OpenError, Page, Pair, View};
use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Locks over the groups: `group % STRIPES`, so the groups of a small store have one each.
const STRIPES: usize = 256;

/// See the module.
pub struct MemoryEngine {
    dir: PathBuf,
    stripes: Box<[RwLock<Stripe>]>,
    /// Group → its `writes` at the last dump. Held for a whole `sync`: one at a time.
    dumped: Mutex<BTreeMap<GroupId, u64>>,
    /// Keeps other processes out of the folder while it is open.
    _lock: File,
}

type Stripe = BTreeMap<GroupId, Group>;

#[derive(Default)]
struct Group {
    columns: Columns,
    /// Writes since the start.
    writes: u64,
}

impl MemoryEngine {
    /// Loads the last dumps of `dir`, which is created when it is not there.
    pub fn open(dir: &Path) -> Result<MemoryEngine, OpenError> {
        std::fs::create_dir_all(dir).map_err(|e| OpenError::io(dir, e))?;
        let lock = File::create(dir.join("LOCK")).map_err(|e| OpenError::io(dir, e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(e) => return Err(OpenError::io(dir, e)),
        }
        let stripes = (0..STRIPES).map(|_| RwLock::default()).collect();
        let dumped = Mutex::default();
        let engine = MemoryEngine { dir: dir.to_owned(), stripes, dumped, _lock: lock };
        for (group, columns) in dump::read_all(dir)? {
            engine.stripe(group).write().insert(group, Group { columns, writes: 0 });
            engine.dumped.lock().insert(group, 0);
        }
        Ok(engine)
    }

    fn stripe(&self, group: GroupId) -> &RwLock<Stripe> {
        &self.stripes[group.0 as usize % STRIPES]
    }

    /// Dumps `group` if it was written to since the last dump; tells whether it was.
    fn dump(&self, group: GroupId, dumped: &mut BTreeMap<GroupId, u64>) -> Result<bool, Fatal> {
        let (columns, writes) = match self.stripe(group).read().get(&group) {
            Some(found) if dumped.get(&group) != Some(&found.writes) => {
                (found.columns.content(), found.writes)
            }
            _ => return Ok(false),
        };
        dump::write(&self.dir, group, &columns)
            .map_err(|e| Fatal::new(format!("dump group {group} to {}", self.dir.display()), e))?;
        dumped.insert(group, writes);
        Ok(true)
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: &[GroupChanges]) -> Result<(), Fatal> {
        for GroupChanges { group, changes } in batch {
            let mut stripe = self.stripe(*group).write();
            let group = stripe.entry(*group).or_default();
            group.writes += 1;
            for change in changes {
                let map = match change.column {
                    Column::Data => &mut group.columns.data,
                    Column::System => &mut group.columns.system,
                };
                match &change.value {
                    Some(value) => map.insert(&change.key, value),
                    None => map.remove(&change.key),
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        let mut dumped = self.dumped.lock();
        let mut renamed = false;
        for group in self.groups()? {
            renamed |= self.dump(group, &mut dumped)?;
        }
        if renamed {
            dump::sync_dir(&self.dir)
                .map_err(|e| Fatal::new(format!("sync the folder {}", self.dir.display()), e))?;
        }
        Ok(())
    }

    fn view(&self, group: GroupId) -> Box<dyn View + '_> {
        Box::new(MemoryView { stripe: self.stripe(group).read(), group })
    }

    fn groups(&self) -> Result<Vec<GroupId>, Fatal> {
        let mut groups: Vec<_> = self
            .stripes
            .iter()
            .flat_map(|s| s.read().keys().copied().collect::<Vec<_>>())
            .collect();
        groups.sort_unstable();
        Ok(groups)
    }
}

/// Holds the group's lock: writes to it wait.
struct MemoryView<'a> {
    stripe: RwLockReadGuard<'a, Stripe>,
    group: GroupId,
}

impl MemoryView<'_> {
    fn map(&self, column: Column) -> Option<&Map> {
        let columns = &self.stripe.get(&self.group)?.columns;
        Some(match column {
            Column::Data => &columns.data,
            Column::System => &columns.system,
        })
    }
}

impl View for MemoryView<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.map(column).and_then(|map| map.get(key)).map(Bytes::copy_from_slice))
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
        let mut more = false;
        if let Some(map) = self.map(column) {
            map.scan(start, |key, value| {
                let inside = end.is_empty() || key < end;
                more = inside && !page.push(key, value);
                inside && !more
            });
        }
        Ok((page.pairs, more))
    }
}
