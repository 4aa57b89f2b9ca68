//! Reads of a region, after their read barrier.
//!
//! Runs on the threads of the service. Epoch, range, revision and records come from one view: a
//! split may have moved a key after the barrier, and the revision must be the records' own.

use super::answer::Refusal;
use super::command::KEY_BYTES_MAX;
use super::engine::{Column, View};
use super::keys;
use super::record::{GroupState, Record};
use super::region::{Epoch, RegionMeta};
use super::state_machine::KvStateMachine;
use bytes::Bytes;
use flotilla_raftstore::Fatal;
use std::sync::Arc;

/// Most records in a scan's page.
pub const PAGE_RECORDS_MAX: usize = 10_000;
/// Most bytes of keys and records in an answer: with what the encoding adds it stays below 4 MiB.
pub const PAGE_BYTES_MAX: usize = (4 << 20) - (512 << 10);

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// This store has no such region.
    NoRegion,
    /// Another epoch, or a key outside the region.
    Refused(Refusal),
    /// The engine failed, or holds what it should not.
    Fatal(Fatal),
}

impl From<Fatal> for ReadError {
    fn from(fatal: Fatal) -> Self {
        ReadError::Fatal(fatal)
    }
}

/// The answer to point reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Gets {
    /// The region's revision at the moment of the read.
    pub revision: u64,
    /// One a key, in order; `None` = not there. Fewer than keys when the answer would grow beyond
    /// [`PAGE_BYTES_MAX`]: the last keys were not read.
    pub records: Vec<Option<Record>>,
}

/// A page of a scan.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The region's revision at the moment of the read.
    pub revision: u64,
    /// Ascending by key.
    pub records: Vec<(Bytes, Record)>,
    /// The page ended before the range did.
    pub more: bool,
}

/// What a scan asks for. Parts outside the region are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First key.
    pub start: Bytes,
    /// The key after the last; empty = to the region's end.
    pub end: Bytes,
    /// Most records; 0 = [`PAGE_RECORDS_MAX`].
    pub limit: usize,
    /// Most bytes of keys and values (at least one record is given); 0 = [`PAGE_BYTES_MAX`].
    pub bytes_max: usize,
}

/// Reads regions of one store.
#[derive(Clone)]
pub struct Reader {
    state_machine: Arc<KvStateMachine>,
}

impl Reader {
    /// A reader of what `state_machine` holds.
    #[must_use]
    pub fn new(state_machine: Arc<KvStateMachine>) -> Self {
        Reader { state_machine }
    }

    /// The region at this moment. Hold it briefly. May block on the disk.
    pub fn open(&self, region: u64) -> Result<RegionView<'_>, ReadError> {
        let mut meta = self.state_machine.region(region).ok_or(ReadError::NoRegion)?;
        loop {
            let view = self.state_machine.engine().view(meta.group);
            // A state that is destroyed, or replaced by a snapshot, leaves the table first: if the same one
            // is there still, nothing of it was gone when the view began.
            let now = self.state_machine.region(region).ok_or(ReadError::NoRegion)?;
            if Arc::ptr_eq(&now, &meta) {
                return RegionView::new(view, meta);
            }
            meta = now;
        }
    }

    /// Point reads, all at one moment.
    pub fn gets(&self, region: u64, epoch: Epoch, keys: &[Bytes]) -> Result<Gets, ReadError> {
        self.open(region)?.gets(epoch, keys)
    }

    /// One page.
    pub fn scan(&self, region: u64, epoch: Epoch, range: &Range) -> Result<Page, ReadError> {
        self.open(region)?.scan(epoch, range)
    }
}

/// A region at one moment.
pub struct RegionView<'a> {
    view: Box<dyn View + 'a>,
    meta: Arc<RegionMeta>,
    state: GroupState,
}

impl<'a> RegionView<'a> {
    fn new(view: Box<dyn View + 'a>, meta: Arc<RegionMeta>) -> Result<Self, ReadError> {
        let state = match view.get(Column::System, &keys::state(meta.group))? {
            Some(bytes) => GroupState::decode(&bytes)?,
            None => return Err(ReadError::NoRegion),
        };
        if state.epoch == meta.epoch {
            return Ok(RegionView { view, meta, state });
        }
        // The region changed between the look into the table and the view: the view counts.
        let Some(text) = view.get(Column::System, &keys::meta(meta.group))? else {
            return Err(ReadError::NoRegion);
        };
        let meta = Arc::new(RegionMeta::decode(meta.group, &text)?);
        Ok(RegionView { view, meta, state })
    }

    /// Point reads; at least the first key is read. Every key must be inside the region.
    pub fn gets(&self, epoch: Epoch, keys: &[Bytes]) -> Result<Gets, ReadError> {
        self.check(epoch)?;
        let mut records = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for (number, key) in keys.iter().enumerate() {
            if !self.meta.contains(key) {
                return Err(ReadError::Refused(Refusal::OutOfRange(number as u64)));
            }
            let record = self.view.get(Column::Data, key)?.map(Record::decode).transpose()?;
            bytes += key.len() + record.as_ref().map_or(0, |record| record.value.len());
            if number > 0 && bytes > PAGE_BYTES_MAX {
                break;
            }
            records.push(record);
        }
        Ok(Gets { revision: self.state.revision, records })
    }

    /// One page of `range`.
    pub fn scan(&self, epoch: Epoch, range: &Range) -> Result<Page, ReadError> {
        self.check(epoch)?;
        let start = range.start.as_ref().max(&self.meta.start);
        let end = match (range.end.is_empty(), self.meta.end.is_empty()) {
            (true, _) => &self.meta.end,
            (false, true) => &range.end,
            (false, false) => (&range.end).min(&self.meta.end),
        };
        if !end.is_empty() && start >= &end[..] {
            return Ok(Page { revision: self.state.revision, records: Vec::new(), more: false });
        }
        let limit = or_max(range.limit, PAGE_RECORDS_MAX);
        let bytes_max = or_max(range.bytes_max, PAGE_BYTES_MAX);
        let (pairs, more) = self.view.scan(Column::Data, start, end, limit, bytes_max)?;
        debug_assert!(pairs.iter().all(|(key, _)| key.len() <= KEY_BYTES_MAX));
        let records = pairs
            .into_iter()
            .map(|(key, bytes)| Record::decode(bytes).map(|record| (key, record)))
            .collect::<Result<Vec<_>, Fatal>>()?;
        assert!(
            records.iter().all(|(_, record)| record.revision <= self.state.revision),
            "a record of a later revision than its region's in the same view"
        );
        Ok(Page { revision: self.state.revision, records, more })
    }

    fn check(&self, epoch: Epoch) -> Result<(), ReadError> {
        if epoch.version == self.state.epoch.version {
            return Ok(());
        }
        Err(ReadError::Refused(Refusal::EpochNotMatch))
    }
}

/// `asked`, with 0 meaning the maximum and nothing beyond it.
fn or_max(asked: usize, max: usize) -> usize {
    if asked == 0 { max } else { asked.min(max) }
}
