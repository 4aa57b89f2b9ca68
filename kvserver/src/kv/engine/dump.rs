//! A group's content as a file, whose bytes are the content's (`content.rs`).
//!
//! A file is written beside its place, synced and renamed, so the place holds a whole dump, or
//! none, whenever the process dies.

use super::OpenError;
use super::content::Content;
use flotilla_raftstore::GroupId;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes the content in its place. Durable once the folder is synced too.
pub fn write(dir: &Path, content: &Content) -> io::Result<()> {
    let path = dir.join(file_name(content.group()));
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside)?;
    file.write_all(content.bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)
}

/// Reads every dump of the folder and removes what an interrupted dump left beside them.
pub fn read_all(dir: &Path) -> Result<Vec<Content>, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| OpenError::io(&path, e)
    };
    let mut contents = Vec::new();
    for file in std::fs::read_dir(dir).map_err(io(dir))? {
        let path: PathBuf = file.map_err(io(dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("tmp") => std::fs::remove_file(&path).map_err(io(&path))?,
            Some("dump") => {
                let bytes = std::fs::read(&path).map_err(io(&path))?;
                let content = Content::parse(&path, bytes)?;
                let group = content.group();
                if path.file_name() != Some(file_name(group).as_ref()) {
                    return Err(OpenError::damaged(&path, format!("it holds group {group}")));
                }
                contents.push(content);
            }
            _ => {}
        }
    }
    Ok(contents)
}

/// Makes renames in the folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn file_name(group: GroupId) -> String {
    format!("group-{group}.dump")
}
