//! RocksDB's write-ahead files, checked before RocksDB opens them.
//!
//! RocksDB's recovery is not strict enough for a log whose every record was acknowledged: a
//! zeroed stretch is skipped, and a flipped bit in a length within the last 32 KiB passes for
//! the end of the file; both lose synced entries without a word. A flipped bit in a type can make
//! it loop for ever. And it is too strict about the
//! one thing that a power cut does leave behind: a last record, never acknowledged, of which
//! some pages arrived and others did not. So this module judges first:
//!
//! 1. Every file but the last must be whole.
//! 2. The last may end in one torn record: it is cut away, with a warning.
//! 3. When a valid record begins behind the first bad one, the middle is damaged: an error.
//!
//! A last record that was acknowledged and damaged later looks like a torn one and is cut too;
//! nothing on disk tells them apart.
//!
//! The format (RocksDB, `db/log_format.h`): blocks of 32 KiB; in them fragments, each with a
//! header of 7 bytes: masked CRC-32C of type and data (u32), length (u16), type (u8); the
//! recyclable types have 11 bytes, the last 4 the low half of the file's number, under the
//! checksum too. A record is one Full fragment or First, Middle…, Last. Fewer than 7 bytes at
//! the end of a block are padding.

use crate::error::LogError;
use crate::log::folder::RESTORE;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = 11;

const PADDING_CUT: &str = "padding that is cut";
const HEADER_CUT: &str = "a header that is cut";
const FRAGMENT_CUT: &str = "a fragment that is cut";
const END_CUT: &str = "a record without its end";
const ZEROES: &str = "zeroes";
/// What a write that stopped half-way leaves at a file's end.
const CUT_SHORT: [&str; 5] = [PADDING_CUT, HEADER_CUT, FRAGMENT_CUT, END_CUT, ZEROES];

/// What one file holds.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Whole records to the end.
    Whole,
    /// Whole records up to `cut`, then nothing that could have been acknowledged before them.
    Torn { cut: usize, reason: &'static str },
    /// Record bytes at `bad` are damaged, and at `next` a valid record begins.
    Damaged { bad: usize, reason: &'static str, next: usize },
}

/// Checks every write-ahead file in `folder` and cuts a torn end away from the last one.
///
/// RocksDB always keeps at least one such file; it would take a folder without any for a log
/// whose every entry is in tables.
///
/// The caller must have locked the folder: nobody may be writing.
pub(super) fn repair(folder: &Path) -> Result<(), LogError> {
    let files = numbered_files(folder)?;
    let Some(((number, last), before)) = files.split_last() else {
        return Err(LogError::Io(format!(
            "{} has no write-ahead file (NUMBER.log): acknowledged entries are lost; {RESTORE}",
            folder.display()
        )));
    };
    for (number, path) in before {
        match scan(&read(path)?, *number) {
            Verdict::Whole => {}
            Verdict::Torn { cut: bad, reason } => {
                let why = "it is not the last file, so its end was synced";
                return Err(damaged(path, bad, reason, why));
            }
            Verdict::Damaged { bad, reason, next } => {
                return Err(damaged(path, bad, reason, &followed_by(next)));
            }
        }
    }
    let data = read(last)?;
    match scan(&data, *number) {
        Verdict::Whole => Ok(()),
        Verdict::Torn { cut, reason } => {
            tracing::warn!(
                file = %last.display(), at = cut, bytes = data.len() - cut, reason,
                "cut a torn last record from the log: it was never acknowledged"
            );
            cut_file(last, cut).map_err(|e| io("cut", last, &e))
        }
        Verdict::Damaged { bad, reason, next } => {
            Err(damaged(last, bad, reason, &followed_by(next)))
        }
    }
}

/// Checks the list of table files, which has the same format: damage in its middle would lose
/// whole tables silently. Of its end, RocksDB forgives what is cut; the rest would be an error
/// there too, or an endless loop (a recyclable type in a file that is not).
pub(super) fn check_manifest(folder: &Path) -> Result<(), LogError> {
    let current = folder.join("CURRENT");
    let Ok(name) = fs::read_to_string(&current) else {
        // RocksDB has the better words for it.
        return Ok(());
    };
    let path = folder.join(name.trim_end());
    match scan(&read(&path)?, 0) {
        Verdict::Damaged { bad, reason, next } => {
            Err(damaged(&path, bad, reason, &followed_by(next)))
        }
        Verdict::Torn { cut, reason } if !CUT_SHORT.contains(&reason) => {
            Err(damaged(&path, cut, reason, "it is not just cut short"))
        }
        Verdict::Whole | Verdict::Torn { .. } => Ok(()),
    }
}

fn followed_by(next: usize) -> String {
    format!("a valid record follows at byte {next}")
}

fn damaged(path: &Path, bad: usize, reason: &str, why: &str) -> LogError {
    LogError::Io(format!(
        "{} is damaged at byte {bad} ({reason}), and {why}: acknowledged entries are lost; nothing \
         was changed; {RESTORE}",
        path.display()
    ))
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> LogError {
    LogError::Io(format!("cannot {what} {}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    fs::read(path).map_err(|e| io("read", path, &e))
}

/// The `NUMBER.log` files, oldest first.
fn numbered_files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io("list", folder, &e))? {
        let path = entry.map_err(|e| io("list", folder, &e))?.path();
        if path.extension().is_some_and(|ext| ext == "log")
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

fn cut_file(path: &Path, bytes: usize) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes as u64)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Judges the bytes of one file.
fn scan(data: &[u8], number: u64) -> Verdict {
    let file = Fragments { data, number: number as u32 };
    let mut at = 0;
    // Where the record began whose Last is still to come.
    let mut open: Option<usize> = None;
    loop {
        let bad = match file.at(at) {
            Found::End | Found::Older => match open {
                None => return Verdict::Whole,
                Some(_) => END_CUT,
            },
            Found::Padding(next) => {
                at = next;
                continue;
            }
            Found::Bad(reason) => reason,
            Found::Fragment { kind, next } => match (kind.part(), open) {
                (Part::Full, None) | (Part::Other, _) => {
                    at = next;
                    continue;
                }
                (Part::First, None) => {
                    open = Some(at);
                    at = next;
                    continue;
                }
                (Part::Middle, Some(_)) => {
                    at = next;
                    continue;
                }
                (Part::Last, Some(_)) => {
                    open = None;
                    at = next;
                    continue;
                }
                (Part::Full | Part::First, Some(_)) => END_CUT,
                (Part::Middle | Part::Last, None) => "a record without its beginning",
            },
        };
        return match file.beginning_from(at) {
            Some(next) => Verdict::Damaged { bad: at, reason: bad, next },
            None => Verdict::Torn { cut: open.unwrap_or(at), reason: bad },
        };
    }
}

/// A fragment's type byte.
#[derive(Clone, Copy)]
struct Kind(u8);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Full,
    First,
    Middle,
    Last,
    /// Settings and checks beside the records; types with the high bit may be ignored.
    Other,
}

impl Kind {
    fn recyclable(self) -> bool {
        matches!(self.0, 5..=8 | 11 | 131)
    }

    fn known(self) -> bool {
        matches!(self.0, 1..=11 | 128..)
    }

    fn part(self) -> Part {
        match self.0 {
            1 | 5 => Part::Full,
            2 | 6 => Part::First,
            3 | 7 => Part::Middle,
            4 | 8 => Part::Last,
            _ => Part::Other,
        }
    }
}

/// What lies at a byte of the file.
enum Found {
    Fragment {
        kind: Kind,
        next: usize,
    },
    Padding(usize),
    /// The end of the file.
    End,
    /// What an earlier use of a recycled file left behind.
    Older,
    Bad(&'static str),
}

struct Fragments<'a> {
    data: &'a [u8],
    /// The low half of the file's number.
    number: u32,
}

impl Fragments<'_> {
    fn at(&self, at: usize) -> Found {
        if at >= self.data.len() {
            return Found::End;
        }
        let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
        let block = &self.data[at..block_end.min(self.data.len())];
        if block_end - at < HEADER_BYTES {
            return if block_end <= self.data.len() {
                Found::Padding(block_end)
            } else {
                Found::Bad(PADDING_CUT)
            };
        }
        if block.len() < HEADER_BYTES {
            return Found::Bad(HEADER_CUT);
        }
        let kind = Kind(block[6]);
        let length = usize::from(u16::from_le_bytes([block[4], block[5]]));
        if kind.0 == 0 && length == 0 {
            // Before a recyclable header that would not fit, the padding may be longer.
            return if block.len() == block_end - at && block.len() < RECYCLABLE_HEADER_BYTES {
                Found::Padding(block_end)
            } else {
                Found::Bad(ZEROES)
            };
        }
        let header = if kind.recyclable() { RECYCLABLE_HEADER_BYTES } else { HEADER_BYTES };
        let Some(fragment) = block.get(..header + length) else {
            // RocksDB loops for ever on a recyclable type in a file that is not.
            return Found::Bad(if kind.recyclable() { "a wrong type" } else { FRAGMENT_CUT });
        };
        let stored = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        if unmask(stored) != crc32c::crc32c(&fragment[6..]) {
            return Found::Bad("a checksum that does not match");
        }
        // Only a valid number may end the file: a flipped bit makes any type a recyclable one.
        if kind.recyclable() && fragment[7..11] != self.number.to_le_bytes() {
            return Found::Older;
        }
        if !kind.known() {
            return Found::Bad("a fragment of an unknown type");
        }
        Found::Fragment { kind, next: at + fragment.len() }
    }

    /// The first byte from `from` on at which a valid record begins.
    ///
    /// Any byte is tried: a damaged length hides where the next header is. Later parts of the
    /// torn record itself do not count, its pages may have arrived in any order.
    fn beginning_from(&self, from: usize) -> Option<usize> {
        let mut at = from;
        while at + HEADER_BYTES <= self.data.len() {
            match self.at(at) {
                Found::Fragment { kind, next } => match kind.part() {
                    Part::Full | Part::First => return Some(at),
                    _ => at = next,
                },
                _ => at += 1,
            }
        }
        None
    }
}

/// Undoes the masking of a stored checksum (RocksDB, `util/crc32c.h`).
fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

#[cfg(test)]
#[path = "wal_test.rs"]
mod tests;
