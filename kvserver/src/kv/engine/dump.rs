//! A group's columns as a checksummed file.
//!
//! ```text
//! "FLOTDUMP" | format u32 | group u64
//! then a record: column (1 = data, 2 = system) u8 | key length u32 | value length u32 | key | value
//! at the end: 0 u8 | records u64 | CRC-32C u32 of everything before it
//! ```
//!
//! Records are in no order; numbers are little endian. A file is written beside its place, synced
//! and renamed, so the place holds a whole dump, or none, whenever the process dies.

use super::OpenError;
use super::map::{Content, Map};
use flotilla_raftstore::GroupId;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"FLOTDUMP";
const HEAD_BYTES: usize = 8 + 4 + 8;
const TAIL_BYTES: usize = 1 + 8 + 4;
/// Written to the file at once.
const CHUNK_BYTES: usize = 256 << 10;
const DATA: u8 = 1;
const SYSTEM: u8 = 2;
const END: u8 = 0;

/// One group's columns.
#[derive(Default)]
pub struct Columns<M = Map> {
    /// `Column::Data`.
    pub data: M,
    /// `Column::System`.
    pub system: M,
}

impl Columns {
    /// What they hold at this moment.
    pub fn content(&self) -> Columns<Content> {
        Columns { data: self.data.content(), system: self.system.content() }
    }
}

/// Writes the dump of `group` in its place. Durable once the folder is synced too.
pub fn write(dir: &Path, group: GroupId, columns: &Columns<Content>) -> io::Result<()> {
    let path = dir.join(file_name(group));
    let beside = path.with_extension("tmp");
    let mut out = Checksummed { file: File::create(&beside)?, crc: 0, buffer: Vec::new() };
    out.buffer.extend_from_slice(MAGIC);
    out.buffer.extend_from_slice(&FORMAT.to_le_bytes());
    out.buffer.extend_from_slice(&group.0.to_le_bytes());
    let mut records: u64 = 0;
    for (column, content) in [(DATA, &columns.data), (SYSTEM, &columns.system)] {
        for (key, value) in content.records() {
            out.buffer.push(column);
            out.buffer.extend_from_slice(&length(key).to_le_bytes());
            out.buffer.extend_from_slice(&length(value).to_le_bytes());
            out.buffer.extend_from_slice(key);
            out.buffer.extend_from_slice(value);
            out.pass_on(CHUNK_BYTES)?;
            records += 1;
        }
    }
    out.buffer.push(END);
    out.buffer.extend_from_slice(&records.to_le_bytes());
    out.pass_on(0)?;
    let crc = out.crc;
    out.file.write_all(&crc.to_le_bytes())?;
    out.file.sync_all()?;
    std::fs::rename(&beside, &path)
}

/// Reads every dump of the folder and removes what an interrupted dump left beside them.
pub fn read_all(dir: &Path) -> Result<Vec<(GroupId, Columns)>, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| OpenError::io(&path, e)
    };
    let mut dumps = Vec::new();
    for file in std::fs::read_dir(dir).map_err(io(dir))? {
        let path: PathBuf = file.map_err(io(dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("tmp") => std::fs::remove_file(&path).map_err(io(&path))?,
            Some("dump") => {
                let bytes = std::fs::read(&path).map_err(io(&path))?;
                let (group, columns) = parse(&path, &bytes)?;
                if path.file_name() != Some(file_name(group).as_ref()) {
                    return Err(OpenError::damaged(&path, format!("it holds group {group}")));
                }
                dumps.push((group, columns));
            }
            _ => {}
        }
    }
    Ok(dumps)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(GroupId, Columns), OpenError> {
    let damaged = |reason: &str| OpenError::damaged(path, reason);
    if bytes.len() < HEAD_BYTES + TAIL_BYTES || &bytes[..8] != MAGIC {
        return Err(damaged("it is too short, or does not begin as a dump"));
    }
    let format = u32_at(bytes, 8);
    if format > FORMAT {
        let (dir, found) = (path.to_owned(), format.to_string());
        return Err(OpenError::NewerFormat { dir, found, known: FORMAT });
    }
    let crc_at = bytes.len() - 4;
    if crc32c::crc32c(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
        return Err(damaged("its checksum does not match"));
    }

    // The checksum holds, so what follows was written by this code; a slice still never panics.
    let group = GroupId(u64_at(bytes, 12));
    let mut columns: Columns = Columns::default();
    let mut records: u64 = 0;
    let mut at = HEAD_BYTES;
    while at < crc_at && bytes[at] != END {
        let map = match bytes[at] {
            DATA => &mut columns.data,
            SYSTEM => &mut columns.system,
            _ => return Err(damaged("it holds an unknown column")),
        };
        let record = bytes.get(at + 1..at + 9).and_then(|head| {
            let key_end = at + 9 + u32_at(head, 0) as usize;
            let value_end = key_end + u32_at(head, 4) as usize;
            Some((bytes.get(at + 9..key_end)?, bytes.get(key_end..value_end)?, value_end))
        });
        let Some((key, value, end)) = record else {
            return Err(damaged("a record is cut"));
        };
        map.insert(key, value);
        records += 1;
        at = end;
    }
    if at + TAIL_BYTES != bytes.len() || records != u64_at(bytes, at + 1) {
        return Err(damaged("records are missing"));
    }
    Ok((group, columns))
}

/// Makes renames in the folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn file_name(group: GroupId) -> String {
    format!("group-{group}.dump")
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are limited to far below 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

struct Checksummed {
    file: File,
    /// Of what is in the file.
    crc: u32,
    buffer: Vec<u8>,
}

impl Checksummed {
    /// Writes the buffer to the file once it holds more than `bytes`.
    fn pass_on(&mut self, bytes: usize) -> io::Result<()> {
        if self.buffer.len() > bytes {
            self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}
