//! Which files must exist: the numbers of the first and the last file of both queues.
//!
//! raft-engine keeps its records in two queues of numbered files: `N.raftlog`, what the log
//! appends, and `N.rewrite`, what is still needed of deleted ones. The file SPAN says which
//! numbers must be there:
//!
//! - a new file is written to SPAN before it holds anything acknowledged, so the file behind the
//!   last one may exist too;
//! - a deleted file is taken out of SPAN before it goes, so the file before the first may exist
//!   too.
//!
//! raft-engine reads such neighbours, so a start does, too; those that it keeps it writes to SPAN.
//!
//! Format: one line, `append FIRST LAST rewrite FIRST LAST CRC`, the CRC-32C of what is before.

use crate::error::LogError;
use crate::log::folder::{RESTORE, io};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Extension of the files that the log appends to.
pub(super) const APPEND: &str = "raftlog";
/// Extension of the files with copies.
pub(super) const REWRITE: &str = "rewrite";
const SPAN_FILE: &str = "SPAN";
const SPAN_NEW_FILE: &str = "SPAN.new";

/// The numbers of the files of one queue that must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// 0 = none yet.
    pub first: u64,
    /// 0 = none yet.
    pub last: u64,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub append: Numbers,
    pub rewrite: Numbers,
}

impl Span {
    /// What stands in `dir`.
    pub fn read(dir: &Path) -> Result<Span, LogError> {
        let path = dir.join(SPAN_FILE);
        let text = fs::read_to_string(&path).map_err(|e| lost(&io("read", &path, &e)))?;
        parse(&text).ok_or_else(|| {
            lost(&LogError::Io(format!("{} is damaged: {:?}", path.display(), text.trim_end())))
        })
    }

    /// Notes that the file at `path`, beside those known, is there.
    pub fn created(&mut self, path: &Path, dir: &Path) -> std::io::Result<()> {
        let before = *self;
        if let Some((numbers, number)) = self.numbers(path) {
            numbers.last = numbers.last.max(number);
            numbers.first = if numbers.first == 0 { number } else { numbers.first.min(number) };
        }
        if *self == before { Ok(()) } else { self.write(dir) }
    }

    /// Notes that the file at `path`, the first or the last of its queue, goes. Nothing changes
    /// for one that was never noted.
    pub fn deleted(&mut self, path: &Path, dir: &Path) -> std::io::Result<()> {
        match self.numbers(path) {
            Some((numbers, number)) if (numbers.first..=numbers.last).contains(&number) => {
                if number == numbers.last {
                    numbers.last -= 1;
                } else {
                    numbers.first = number + 1;
                }
                self.write(dir)
            }
            _ => Ok(()),
        }
    }

    fn numbers(&mut self, path: &Path) -> Option<(&mut Numbers, u64)> {
        let number = number(path)?;
        match path.extension()?.to_str()? {
            APPEND => Some((&mut self.append, number)),
            REWRITE => Some((&mut self.rewrite, number)),
            _ => None,
        }
    }

    /// Replaces the file durably, and with it makes every change to the folder durable.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        let Span { append, rewrite } = self;
        let numbers = format!(
            "append {} {} rewrite {} {}",
            append.first, append.last, rewrite.first, rewrite.last
        );
        let line = format!("{numbers} {:08x}\n", crc32c::crc32c(numbers.as_bytes()));
        let new = dir.join(SPAN_NEW_FILE);
        let mut file = File::create(&new)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(SPAN_FILE))?;
        File::open(dir)?.sync_all()
    }
}

impl Numbers {
    /// The files of a queue in order, oldest first: those that must exist and their neighbours,
    /// as raft-engine takes them. Files before a gap before the first are not wanted any more.
    pub fn files(self, dir: &Path, extension: &str) -> Result<Vec<(u64, PathBuf)>, LogError> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
            let path = entry.map_err(|e| io("list", dir, &e))?.path();
            if path.extension().is_some_and(|found| found == extension)
                && let Some(number) = number(&path)
            {
                found.insert(number, path);
            }
        }
        let last = found.last_key_value().map_or(self.last, |(number, _)| self.last.max(*number));
        // An earlier version could write a first number behind the last one.
        let mut first = self.first.min(self.last);
        while first > 0 && found.contains_key(&(first - 1)) {
            first -= 1;
        }
        let wanted = |number: u64| {
            found.remove(&number).map(|path| (number, path)).ok_or_else(|| {
                let path = dir.join(format!("{number:016}.{extension}"));
                lost(&LogError::Io(format!("{} is missing", path.display())))
            })
        };
        (first..=last).map(wanted).collect()
    }
}

/// The number of a queue's file.
fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn parse(line: &str) -> Option<Span> {
    let (numbers, crc) = line.trim_end().rsplit_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(numbers.as_bytes()) {
        return None;
    }
    let words: Vec<&str> = numbers.split(' ').collect();
    let ["append", a, b, "rewrite", c, d] = words[..] else {
        return None;
    };
    let numbers = |first: &str, last: &str| {
        Some(Numbers { first: first.parse().ok()?, last: last.parse().ok()? })
    };
    Some(Span { append: numbers(a, b)?, rewrite: numbers(c, d)? })
}

fn lost(error: &LogError) -> LogError {
    let LogError::Io(text) = error else { return error.clone() };
    LogError::Io(format!(
        "{text}: acknowledged entries may be lost; nothing was changed; {RESTORE}"
    ))
}
