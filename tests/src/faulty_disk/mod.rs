//! A disk with faults for a real process, without special rights: a small library in front of the system's calls
//! (`faults.c`), which the machine's C compiler makes. RocksDB's build needs that compiler, too.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = include_str!("faults.c");
const SLOW: &str = "slow";
const UNREADABLE: &str = "unreadable";
const SECTOR: &str = "sector";

/// See the module. A process has it that was started with [`crate::process::Process::start_on`].
#[derive(Debug)]
pub struct FaultyDisk {
    library: PathBuf,
    orders: PathBuf,
}

impl FaultyDisk {
    /// A disk without a fault so far. Its files are in `folder`.
    ///
    /// # Panics
    /// When there is no C compiler, or it fails.
    #[must_use]
    pub fn new(folder: &Path) -> FaultyDisk {
        let orders = folder.join("disk-faults");
        fs::create_dir_all(&orders).expect("a folder");
        let (source, library) = (orders.join("faults.c"), orders.join("faults.so"));
        fs::write(&source, SOURCE).expect("a source file");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = compiler.output().unwrap_or_else(|error| {
            panic!("this test needs a C compiler, as RocksDB does: {compiler:?}: {error}")
        });
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler:?}: {words}");
        FaultyDisk { library, orders }
    }

    /// Each sync takes so much longer from now on.
    pub fn be_slow(&self, delay: Duration) {
        self.order(SLOW, delay.as_millis().to_string().as_bytes());
    }

    /// Syncs are as fast as the machine's again.
    pub fn be_fast(&self) {
        fs::remove_file(self.orders.join(SLOW)).expect("it was slow");
    }

    /// The sector in which `mark` is, in the first file with `part` in its path from which it is read, cannot
    /// be read from then on.
    pub fn lose_sector(&self, part: &str, mark: &[u8]) {
        self.order(UNREADABLE, &[part.as_bytes(), b"\n", mark].concat());
    }

    /// Whether somebody has met that sector.
    #[must_use]
    pub fn has_lost_sector(&self) -> bool {
        self.orders.join(SECTOR).exists()
    }

    /// Not seen in part.
    fn order(&self, name: &str, text: &[u8]) {
        let new = self.orders.join("new");
        fs::write(&new, text).expect("a file to write");
        fs::rename(&new, self.orders.join(name)).expect("a file to rename");
    }

    /// What a process must find in its environment.
    pub(crate) fn variables(&self) -> [(&'static str, &OsStr); 2] {
        [("LD_PRELOAD", self.library.as_os_str()), ("DISK_FAULTS", self.orders.as_os_str())]
    }
}
