//! raft-engine's files, read and judged before raft-engine opens them.
//!
//! raft-engine's recovery is not strict enough for a log whose every record was acknowledged: it
//! cuts a file at the first bad record, whatever follows, and looks at the entries of each file's
//! last record only. So this module judges first, and raft-engine then opens in its strictest
//! mode:
//!
//! 1. Every file but the last of its queue must hold whole batches to its end.
//! 2. Behind the last whole batch of the last file may be anything that is no batch of this
//!    file: space never written, one torn write, the file's former life. It is cut away.
//! 3. When a valid batch begins behind a bad one, the middle is damaged: an error. When only the
//!    entries of a batch are bad, its items say whose they were: those groups are damaged.
//!
//! A last batch that was acknowledged and damaged later looks like a torn one and is cut too;
//! nothing on disk tells them apart.
//!
//! The same pass gives each group's terms and sizes, so that the start reads everything once.

use super::batch::{HEADER_BYTES, Item, Part, batch_at, has_header};
use super::codec::decode_entry;
use super::span::{APPEND, Numbers, REWRITE, Span};
use crate::error::LogError;
use crate::log::folder::{RESTORE, io};
use crate::types::EntryKind;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// One group's entries as they will be after raft-engine's recovery.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Index of the first of `entries`.
    pub first: u64,
    /// In index order, without holes.
    pub entries: VecDeque<Seen>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// Its term, its kind and the bytes of its data.
    Whole { term: u64, kind: EntryKind, bytes: usize },
    /// Why it cannot be read.
    Damaged(&'static str),
}

/// The groups that have entries.
pub(super) type Tables = BTreeMap<u64, Table>;

/// Reads every file that raft-engine will read, cuts what was never acknowledged, removes a file
/// whose creation was cut short, and notes the others in SPAN.
///
/// The caller must have locked the folder.
pub(super) fn scan(dir: &Path, span: &mut Span) -> Result<Tables, LogError> {
    let mut rewritten = Queue::default();
    read_queue(dir, span, REWRITE, &mut rewritten)?;
    let mut appended = Queue::default();
    read_queue(dir, span, APPEND, &mut appended)?;
    // As raft-engine does: what was appended is newer than every copy.
    let mut tables = rewritten.tables;
    for (group, index) in appended.compacted {
        tables.entry(group).or_default().compact(index);
    }
    for (group, table) in appended.tables {
        if !table.entries.is_empty() {
            tables.entry(group).or_default().append(table.first, table.entries);
        }
    }
    Ok(tables)
}

/// The entries of one queue, and how far each group was cut in it.
#[derive(Default)]
struct Queue {
    tables: Tables,
    compacted: BTreeMap<u64, u64>,
    /// The atomic groups whose last part did not come yet, by number.
    unfinished: BTreeMap<u64, Vec<Change>>,
}

/// What a batch does to one group's entries.
enum Change {
    Append { group: u64, first: u64, seen: VecDeque<Seen> },
    Compact { group: u64, index: u64 },
}

fn read_queue(
    dir: &Path,
    span: &mut Span,
    extension: &str,
    queue: &mut Queue,
) -> Result<(), LogError> {
    let numbers: Numbers = if extension == APPEND { span.append } else { span.rewrite };
    let files = numbers.files(dir, extension)?;
    let number_at = |file: Option<&(u64, PathBuf)>| file.map_or(0, |(number, _)| *number);
    let (first, last) = (number_at(files.first()), number_at(files.last()));
    let mut kept: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
    for (number, path) in files {
        let data = fs::read(&path).map_err(|e| io("read", &path, &e))?;
        if !has_header(&data) {
            // A file gets its header before its first batch, and the first file at creation.
            let batch = batch_from(&data, 0, number);
            if number != last || number == first || batch.is_some() {
                return Err(damaged(&path, 0, "its header is not raft-engine's"));
            }
            span.deleted(&path, dir).map_err(|e| io("write SPAN in", dir, &e))?;
            fs::remove_file(&path).map_err(|e| io("remove", &path, &e))?;
            kept.pop();
            continue;
        }
        let mut at = HEADER_BYTES;
        while at < data.len() {
            let Some(batch) = batch_at(&data, at, number) else { break };
            let torn = !batch.entries_whole && batch_from(&data, batch.end, number).is_none();
            if torn {
                break;
            }
            let items = batch.items().ok_or_else(|| {
                damaged(&path, at, "it holds a record that this build does not know")
            })?;
            queue.replay(items, batch.entries, batch.entries_whole);
            at = batch.end;
        }
        if at == data.len() {
            continue;
        }
        if number != last {
            let why = "its record is bad, and it is not the last file, so its end was synced";
            return Err(damaged(&path, at, why));
        }
        if let Some(next) = batch_from(&data, at + 1, number) {
            let why = format!("its record is bad, and a valid record follows at byte {next}");
            return Err(damaged(&path, at, &why));
        }
        cut(&path, at, &data[at..])?;
    }
    // What is written to a file from now on is lost with it: all must be noted.
    kept.iter()
        .try_for_each(|path| span.created(path, dir))
        .map_err(|e| io("write SPAN in", dir, &e))
}

/// The first byte from `from` on at which a batch begins. Any byte is tried: a damaged length
/// hides where the next batch is.
fn batch_from(data: &[u8], from: usize, number: u64) -> Option<usize> {
    (from..data.len()).find(|at| batch_at(data, *at, number).is_some())
}

fn cut(path: &Path, at: usize, rest: &[u8]) -> Result<(), LogError> {
    if rest.iter().any(|byte| *byte != 0) {
        tracing::warn!(
            file = %path.display(), at, bytes = rest.len(),
            "cut what follows the last record of the log: it was never acknowledged"
        );
    }
    let cut = || {
        let file: File = OpenOptions::new().write(true).open(path)?;
        file.set_len(at as u64)?;
        file.sync_all()
    };
    cut().map_err(|e| io("cut", path, &e))
}

fn damaged(path: &Path, at: usize, why: &str) -> LogError {
    LogError::Io(format!(
        "{} is damaged at byte {at}: {why}: acknowledged entries are lost; nothing was changed; {RESTORE}",
        path.display()
    ))
}

impl Queue {
    /// Takes one batch; a part of an atomic group waits for the last one, as in raft-engine.
    fn replay(&mut self, items: Vec<Item>, entries: &[u8], whole: bool) {
        let mut changes = Vec::with_capacity(items.len());
        let mut atomic = None;
        for item in items {
            match item {
                Item::Append { group, first, begin, ends } => {
                    let begins = [begin].into_iter().chain(ends.iter().copied());
                    let seen = begins.zip(&ends).zip(first..).map(|((begin, end), index)| {
                        if whole {
                            judge(group, index, &entries[begin..*end])
                        } else {
                            Seen::Damaged("its checksum does not match")
                        }
                    });
                    changes.push(Change::Append { group, first, seen: seen.collect() });
                }
                Item::Compact { group, index } => changes.push(Change::Compact { group, index }),
                Item::Atomic { id, part } => atomic = Some((id, part)),
            }
        }
        match atomic {
            None => self.apply(changes),
            // The number may be that of an unfinished group of an earlier process.
            Some((id, Part::Begin)) => {
                self.unfinished.insert(id, changes);
            }
            Some((id, Part::Middle)) => {
                if let Some(before) = self.unfinished.get_mut(&id) {
                    before.append(&mut changes);
                }
            }
            Some((id, Part::End)) => {
                if let Some(before) = self.unfinished.remove(&id) {
                    self.apply(before);
                    self.apply(changes);
                }
            }
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Append { group, first, seen } => {
                    self.tables.entry(group).or_default().append(first, seen);
                }
                Change::Compact { group, index } => {
                    self.tables.entry(group).or_default().compact(index);
                    let compacted = self.compacted.entry(group).or_default();
                    *compacted = index.max(*compacted);
                }
            }
        }
    }
}

fn judge(group: u64, index: u64, entry: &[u8]) -> Seen {
    match decode_entry(entry) {
        Ok((found, at, term, kind, data)) if found.0 == group && at == index => {
            Seen::Whole { term, kind, bytes: data.len() }
        }
        Ok(_) => Seen::Damaged("another entry stands in its place"),
        Err(_) => Seen::Damaged("it does not parse"),
    }
}

impl Table {
    fn append(&mut self, first: u64, new: VecDeque<Seen>) {
        let end = self.first + self.entries.len() as u64;
        if self.entries.is_empty() || first < self.first || first > end {
            self.entries.clear();
            self.first = first;
        }
        self.entries.truncate((first - self.first) as usize);
        self.entries.extend(new);
    }

    fn compact(&mut self, index: u64) {
        if index > self.first {
            let gone = (index - self.first).min(self.entries.len() as u64);
            self.entries.drain(..gone as usize);
            self.first = index;
        }
    }

    /// One behind the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The entry `index`, if it is there.
    pub fn get(&self, index: u64) -> Option<&Seen> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }
}
