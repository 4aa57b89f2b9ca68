//! A config folder as bytes by file name.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::failure::Failure;

/// File name → contents.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Reads every file of the folder but README files; folders in it (RocketMQ's `bak`) are left out.
pub fn read(dir: &Path) -> Result<Files, Failure> {
    let mut files = Files::new();
    let entries = fs::read_dir(dir).map_err(|error| Failure::file(dir, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file(dir, &error))?;
        let path = entry.path();
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| Failure::Usage(format!("{}: {name:?} is not UTF-8", dir.display())))?;
        let metadata = fs::metadata(&path).map_err(|error| Failure::file(&path, &error))?;
        if !metadata.is_file() || is_readme(&name) {
            continue;
        }
        files.insert(name, fs::read(&path).map_err(|error| Failure::file(&path, &error))?);
    }
    Ok(files)
}

fn is_readme(name: &str) -> bool {
    name.to_ascii_lowercase().split('.').next() == Some("readme")
}

/// Writes the files, each complete or not at all. Makes the folder.
pub fn write(dir: &Path, files: &Files) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::file(dir, &error))?;
    for (name, contents) in files {
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name == "." || name == ".." {
            return Err(Failure::Usage(format!("{name:?} is no name for a file")));
        }
        let path = dir.join(name);
        let unfinished = dir.join(format!(".{name}.unfinished"));
        fs::File::create(&unfinished)
            .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| Failure::file(&path, &error))?;
    }
    Ok(())
}
