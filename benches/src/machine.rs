//! The machine a row was measured on: what it is, how busy it was.

use crate::error::Error;
use procfs::{Current, CurrentSI, LoadAverage};
use std::path::Path;

/// Processor time of the whole machine at one moment, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    busy: u64,
    steal: u64,
    total: u64,
}

/// Shares of all processors over a time, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Working for this machine.
    pub busy_percent: f64,
    /// Taken away by the host while this machine wanted to work.
    pub steal_percent: f64,
}

impl MachineTime {
    /// Reads `/proc/stat`.
    pub fn now() -> Result<Self, Error> {
        let cpu = procfs::KernelStats::current()?.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        let interrupts = cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
        let busy = cpu.user + cpu.nice + cpu.system + interrupts;
        let steal = cpu.steal.unwrap_or(0);
        Ok(MachineTime { busy, steal, total: busy + steal + idle })
    }

    /// What the processors did between `earlier` and `self`.
    #[must_use]
    pub fn since(self, earlier: MachineTime) -> Shares {
        let total = self.total.saturating_sub(earlier.total).max(1) as f64;
        let percent = |now: u64, then: u64| now.saturating_sub(then) as f64 * 100.0 / total;
        Shares {
            busy_percent: percent(self.busy, earlier.busy),
            steal_percent: percent(self.steal, earlier.steal),
        }
    }
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64, Error> {
    Ok(f64::from(LoadAverage::current()?.one))
}

/// The type of the file system that `path` lies on, as in `/proc/mounts`: `ext4`, `tmpfs`.
#[must_use]
pub fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?.0;
    // Of mounts on one place the last one counts: it covers the others.
    mounts
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
        .map(|mount| mount.fs_type)
}

/// Processors, memory, kernel and what holds the data in one line.
#[must_use]
pub fn describe(file_system: Option<&str>) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = procfs::CpuInfo::current()
        .ok()
        .and_then(|cpu| cpu.model_name(0).map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let memory_gib =
        procfs::Meminfo::current().map_or(0.0, |m| m.mem_total as f64 / f64::from(1 << 30));
    let kernel = procfs::sys::kernel::Version::current()
        .map_or_else(|_| String::new(), |v| format!("{}.{}", v.major, v.minor));
    let data = file_system.map(|name| format!(", data on {name}")).unwrap_or_default();
    format!(
        "{cores} cores {model}, {memory_gib:.0} GiB, Linux {kernel}{data}, servers and load on it"
    )
}

/// [`describe`], for clusters that are started in the folder for temporary files.
#[must_use]
pub fn here() -> String {
    describe(file_system(&std::env::temp_dir()).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_not_busy() {
        let before = MachineTime { busy: 100, steal: 10, total: 1_000 };
        let after = MachineTime { busy: 150, steal: 30, total: 1_100 };
        let expected = Shares { busy_percent: 50.0, steal_percent: 20.0 };
        assert_eq!(after.since(before), expected);
    }

    #[test]
    fn the_innermost_mount_tells_the_file_system() {
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert_eq!(file_system(Path::new("/no/such/folder")), None);
        let line = describe(Some("ext4"));
        assert!(line.contains(", data on ext4,"), "{line}");
    }
}
