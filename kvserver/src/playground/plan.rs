//! Flags and folder to one command a child. Starts nothing.

use super::PlaygroundError;
use crate::config::{self, Storage};
use crate::folder::{self, FolderError, FolderLock};
use clap::Args;
use flotilla_raftstore::log::LogEngine;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Stores listen from here on, counted from the base port.
const STORE_PORT_OFFSET: u16 = 10;
/// The name of the first child.
pub const PLACEMENT: &str = "placement";
const LAYOUT: &str = "playground";
const STORES_DEFAULT: u16 = 3;

/// Flags of `kvserver playground`.
#[derive(Args, Clone, Debug)]
pub struct PlaygroundArgs {
    /// How many stores; an existing folder keeps its own number [default: 3]
    #[arg(long, env = "FLOTILLA_STORES", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub stores: Option<u16>,
    /// How many initial regions, cut evenly over the byte space
    #[arg(long, env = "FLOTILLA_REGIONS", value_name = "N", default_value_t = 24,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub regions: u32,
    /// Cut the initial regions at these keys instead, ascending, comma-separated (\n \t \\ \xNN)
    #[arg(
        long,
        env = "FLOTILLA_SPLIT_AT",
        value_name = "KEY,…",
        value_delimiter = ',',
        conflicts_with = "regions"
    )]
    pub split_at: Vec<String>,
    /// What holds the data; an existing folder keeps its own [default: rocksdb]
    #[arg(long, env = "FLOTILLA_STORAGE")]
    pub storage: Option<Storage>,
    /// What keeps the Raft logs; an existing folder keeps its own [default: raft-engine]
    #[arg(long, env = "FLOTILLA_LOG_ENGINE", value_parser = config::log_engine_parser())]
    pub log_engine: Option<LogEngine>,
    /// Folder of the cluster; an old one is continued. Without it a temporary one, removed at
    /// the end
    #[arg(long, env = "FLOTILLA_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Placement listens here, the stores from here + 10 on, all on 127.0.0.1
    #[arg(long, env = "FLOTILLA_BASE_PORT", value_name = "PORT", default_value_t = 7100,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub base_port: u16,
    /// TOML file of settings that every store gets
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log level of every child [default: info]
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// What the folder remembers, so that a second start continues the same cluster.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    format: u32,
    stores: u16,
    storage: Storage,
    /// Folders that do not say it are older than the choice.
    #[serde(default = "folder::first_log_engine")]
    log_engine: LogEngine,
}

/// One child: everything that its start takes.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// `placement`, `store-1`, …
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// Its data folder.
    pub folder: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

impl ChildSpec {
    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The command as one would type it into a shell.
    pub fn command_line(&self) -> String {
        std::iter::once(self.program.display().to_string())
            .chain(self.args.iter().cloned())
            .map(|word| quoted(&word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A cluster that is ready to be started; holds the folder's lock.
#[derive(Debug)]
pub struct Plan {
    dir: PathBuf,
    layout: Layout,
    is_new: bool,
    regions_at_least: usize,
    children: Vec<ChildSpec>,
    _lock: FolderLock,
}

impl Plan {
    /// Checks the flags against each other and against what `dir` holds, and locks it.
    pub fn new(args: &PlaygroundArgs, dir: &Path) -> Result<Plan, PlaygroundError> {
        let mut asked_engine = args.log_engine;
        let config = match &args.config {
            Some(path) => {
                asked_engine = asked_engine.or(config::read_file(path)?.log.engine);
                let path = path.canonicalize();
                Some(path.map_err(|e| super::io("finding the config file", e))?)
            }
            None => None,
        };
        let lock = FolderLock::acquire(dir, LAYOUT, "playground")?;
        let placement_program = sibling(PLACEMENT)?;
        let own_program = current_program()?;
        // Absolute, so that the printed commands work from everywhere.
        let dir = dir.canonicalize().map_err(|e| super::io("finding the folder", e))?;
        let old = read_layout(&dir)?;
        let is_new = old.is_none();
        let regions_at_least = match old {
            Some(_) => 1,
            None if args.split_at.is_empty() => args.regions as usize,
            None => args.split_at.len() + 1,
        };
        let layout = merge_layout(&dir, old, args, asked_engine)?;
        let last_port =
            u32::from(args.base_port) + u32::from(STORE_PORT_OFFSET + layout.stores) - 1;
        if last_port > u32::from(u16::MAX) {
            return Err(PlaygroundError::Invalid(format!(
                "--base-port {}: the last of {} stores would listen on port {last_port}; at most {}",
                args.base_port,
                layout.stores,
                u32::from(u16::MAX) - (last_port - u32::from(args.base_port)),
            )));
        }
        let mut children = vec![placement_spec(args, &dir, &layout, placement_program)];
        let placement = children[0].address();
        for number in 1..=layout.stores {
            let program = own_program.clone();
            let mut spec = store_spec(number, args, &dir, &layout, program, &placement);
            if let Some(config) = &config {
                spec.args.extend(["--config".to_owned(), config.display().to_string()]);
            }
            children.push(spec);
        }
        if let Some(level) = &args.log_level {
            for child in &mut children {
                child.args.extend(["--log-level".to_owned(), level.clone()]);
            }
        }
        Ok(Plan { dir, layout, is_new, regions_at_least, children, _lock: lock })
    }

    /// Writes down what the folder is; called when nothing stands against the start any more.
    pub fn record(&self) -> Result<(), PlaygroundError> {
        Ok(folder::write_toml(&self.dir, LAYOUT, &self.layout)?)
    }

    /// The cluster's folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Placement first, then the stores.
    pub fn children(&self) -> &[ChildSpec] {
        &self.children
    }

    /// Where placement listens.
    pub fn placement_address(&self) -> String {
        self.children[0].address()
    }

    /// Where the stores listen.
    pub fn store_addresses(&self) -> Vec<String> {
        self.children[1..].iter().map(ChildSpec::address).collect()
    }

    /// Whether the folder was empty: the cluster does not exist yet.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The cluster has at least so many regions: all initial ones of a new cluster.
    pub fn regions_at_least(&self) -> usize {
        self.regions_at_least
    }
}

fn placement_spec(
    args: &PlaygroundArgs,
    dir: &Path,
    layout: &Layout,
    program: PathBuf,
) -> ChildSpec {
    let folder = dir.join(PLACEMENT);
    let mut words = vec![
        "run".to_owned(),
        "--dir".to_owned(),
        folder.display().to_string(),
        "--addr".to_owned(),
        format!("127.0.0.1:{}", args.base_port),
        "--stores".to_owned(),
        layout.stores.to_string(),
    ];
    if args.split_at.is_empty() {
        words.extend(["--regions".to_owned(), args.regions.to_string()]);
    } else {
        words.extend(["--split-at".to_owned(), args.split_at.join(",")]);
    }
    ChildSpec {
        name: PLACEMENT.to_owned(),
        program,
        args: words,
        port: args.base_port,
        folder,
        log: dir.join("placement.log"),
    }
}

fn store_spec(
    number: u16,
    args: &PlaygroundArgs,
    dir: &Path,
    layout: &Layout,
    program: PathBuf,
    placement: &str,
) -> ChildSpec {
    let name = format!("store-{number}");
    let folder = dir.join(&name);
    let port = args.base_port + STORE_PORT_OFFSET + number - 1;
    let words = [
        "run",
        "--dir",
        &folder.display().to_string(),
        "--addr",
        &format!("127.0.0.1:{port}"),
        "--placement",
        placement,
        "--storage",
        &layout.storage.to_string(),
        "--log-engine",
        layout.log_engine.name(),
    ];
    ChildSpec {
        program,
        args: words.map(str::to_owned).to_vec(),
        port,
        folder,
        log: dir.join(format!("{name}.log")),
        name,
    }
}

fn read_layout(dir: &Path) -> Result<Option<Layout>, PlaygroundError> {
    let Some(text) = folder::read_text(dir, LAYOUT)? else {
        return Ok(None);
    };
    let damaged =
        |reason: String| FolderError::Damaged { path: dir.to_owned(), file: LAYOUT, reason };
    let layout: Layout = toml::from_str(&text).map_err(|e| damaged(e.message().to_owned()))?;
    if layout.format > folder::FORMAT {
        return Err(FolderError::Newer { path: dir.to_owned(), found: layout.format }.into());
    }
    Ok(Some(layout))
}

fn merge_layout(
    dir: &Path,
    old: Option<Layout>,
    args: &PlaygroundArgs,
    log_engine: Option<LogEngine>,
) -> Result<Layout, PlaygroundError> {
    let Some(old) = old else {
        return Ok(Layout {
            format: folder::FORMAT,
            stores: args.stores.unwrap_or(STORES_DEFAULT),
            storage: args.storage.unwrap_or(Storage::Rocksdb),
            log_engine: log_engine.unwrap_or_default(),
        });
    };
    match (args.stores, args.storage, log_engine) {
        (Some(stores), _, _) if stores != old.stores => Err(PlaygroundError::Invalid(format!(
            "folder {} holds a playground of {} stores, not {stores}: leave out --stores or \
             choose another --dir",
            dir.display(),
            old.stores
        ))),
        (_, Some(asked), _) if asked != old.storage => {
            Err(FolderError::OtherStorage { path: dir.to_owned(), holds: old.storage, asked }
                .into())
        }
        (_, _, Some(asked)) if asked != old.log_engine => {
            Err(FolderError::OtherLogEngine { path: dir.to_owned(), holds: old.log_engine, asked }
                .into())
        }
        _ => Ok(old),
    }
}

fn current_program() -> Result<PathBuf, PlaygroundError> {
    std::env::current_exe().map_err(|e| super::io("finding this program's own file", e))
}

/// A binary that stands beside this one.
fn sibling(name: &str) -> Result<PathBuf, PlaygroundError> {
    let program = current_program()?.with_file_name(name);
    if program.is_file() {
        Ok(program)
    } else {
        Err(PlaygroundError::Invalid(format!(
            "the program {} is missing: build or install `{name}` beside kvserver",
            program.display()
        )))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
