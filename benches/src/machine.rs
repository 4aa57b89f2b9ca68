//! The machine a row was measured on: what it is, how busy it was.

use crate::error::Error;
use procfs::{Current, CurrentSI, LoadAverage};

/// Processor time of the whole machine at one moment, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    busy: u64,
    total: u64,
}

impl MachineTime {
    /// Reads `/proc/stat`.
    pub fn now() -> Result<Self, Error> {
        let cpu = procfs::KernelStats::current()?.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        let busy = cpu.user
            + cpu.nice
            + cpu.system
            + cpu.irq.unwrap_or(0)
            + cpu.softirq.unwrap_or(0)
            + cpu.steal.unwrap_or(0);
        Ok(MachineTime { busy, total: busy + idle })
    }

    /// Share of all processors that was busy between `earlier` and `self`, in percent.
    #[must_use]
    pub fn percent_since(self, earlier: MachineTime) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 * 100.0 / total as f64
    }
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64, Error> {
    Ok(f64::from(LoadAverage::current()?.one))
}

/// Processors, memory and kernel in one line.
#[must_use]
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = procfs::CpuInfo::current()
        .ok()
        .and_then(|cpu| cpu.model_name(0).map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let memory_gib =
        procfs::Meminfo::current().map_or(0.0, |m| m.mem_total as f64 / f64::from(1 << 30));
    let kernel = procfs::sys::kernel::Version::current()
        .map_or_else(|_| String::new(), |v| format!("{}.{}", v.major, v.minor));
    format!("{cores} cores {model}, {memory_gib:.0} GiB, Linux {kernel}, servers and load on it")
}
