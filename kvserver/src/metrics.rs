//! `/metrics`: what the parts of a store count, and figures of the process.

use procfs::process::Process;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, IntGauge, Opts, Registry, TextEncoder};
use tikv_jemalloc_ctl::{Access, AsName, epoch, stats};

const CPU_SECONDS: &str = "process_cpu_seconds_total";
const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
const THREADS: &str = "process_threads";
const OPEN_FILES: &str = "process_open_fds";
const ALLOCATIONS: &str = "process_heap_allocations_total";
const HEAP_BYTES: &str = "process_heap_bytes";
const BUILD_INFO: &str = "flotilla_build_info";

/// Gathers and prints all metrics of a store.
pub struct Metrics {
    parts: Vec<Registry>,
    process: Registry,
    cpu_seconds: Gauge,
    resident_bytes: IntGauge,
    threads: IntGauge,
    open_files: IntGauge,
    allocations: IntGauge,
    heap_bytes: IntGauge,
}

impl Metrics {
    /// Adds the process's figures to those of `parts`, whose names differ.
    pub fn new(parts: Vec<Registry>) -> Result<Metrics, prometheus::Error> {
        let metrics = Metrics {
            parts,
            process: Registry::new(),
            cpu_seconds: Gauge::new(CPU_SECONDS, "User and system CPU time, in seconds.")?,
            resident_bytes: IntGauge::new(RESIDENT_BYTES, "Memory in RAM, in bytes.")?,
            threads: IntGauge::new(THREADS, "Threads.")?,
            open_files: IntGauge::new(OPEN_FILES, "Open file descriptors.")?,
            allocations: IntGauge::new(
                ALLOCATIONS,
                "Allocations so far, RocksDB's own apart; 0 without jemalloc.",
            )?,
            heap_bytes: IntGauge::new(
                HEAP_BYTES,
                "Bytes allocated and not freed, RocksDB's own apart; 0 without jemalloc.",
            )?,
        };
        let build = IntGauge::with_opts(
            Opts::new(BUILD_INFO, "Always 1; the version is a label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        metrics.process.register(Box::new(build))?;
        metrics.process.register(Box::new(metrics.cpu_seconds.clone()))?;
        metrics.process.register(Box::new(metrics.resident_bytes.clone()))?;
        metrics.process.register(Box::new(metrics.threads.clone()))?;
        metrics.process.register(Box::new(metrics.open_files.clone()))?;
        metrics.process.register(Box::new(metrics.allocations.clone()))?;
        metrics.process.register(Box::new(metrics.heap_bytes.clone()))?;
        Ok(metrics)
    }

    /// Everything in Prometheus' text format. Reads files under `/proc`.
    #[must_use]
    pub fn text(&self) -> String {
        // A figure that cannot be read keeps its last value.
        if let Ok(process) = Process::myself() {
            self.read(&process);
        }
        if let Ok((allocations, bytes)) = heap() {
            self.allocations.set(i64::try_from(allocations).unwrap_or(i64::MAX));
            self.heap_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut families: Vec<MetricFamily> =
            self.parts.iter().flat_map(Registry::gather).collect();
        families.extend(self.process.gather());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("memory takes every write");
        String::from_utf8(text).expect("names and labels of metrics are text")
    }

    fn read(&self, process: &Process) {
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            self.cpu_seconds.set((stat.utime + stat.stime) as f64 / ticks);
            let resident = stat.rss.saturating_mul(procfs::page_size());
            self.resident_bytes.set(i64::try_from(resident).unwrap_or(i64::MAX));
            self.threads.set(stat.num_threads);
        }
        if let Ok(count) = process.fd_count() {
            self.open_files.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Allocations so far and bytes in use, as jemalloc counts them.
fn heap() -> Result<(u64, usize), tikv_jemalloc_ctl::Error> {
    // 4096 stands for all arenas together.
    const SMALL: &[u8] = b"stats.arenas.4096.small.nrequests\0";
    const LARGE: &[u8] = b"stats.arenas.4096.large.nrequests\0";
    epoch::advance()?;
    let small: u64 = SMALL.name().read()?;
    let large: u64 = LARGE.name().read()?;
    Ok((small + large, stats::allocated::read()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_the_engine_are_in_one_text() {
        let engine = Registry::new();
        let gauge = IntGauge::new("flotilla_raftstore_groups", "Groups.").unwrap();
        engine.register(Box::new(gauge)).unwrap();
        let text = Metrics::new(vec![Registry::new(), engine]).unwrap().text();
        for name in [CPU_SECONDS, RESIDENT_BYTES, THREADS, OPEN_FILES, "flotilla_raftstore_groups"]
        {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} in {text}");
        }
        assert!(text.contains("flotilla_build_info{version="));
        let resident = text.lines().find(|l| l.starts_with(RESIDENT_BYTES)).unwrap();
        assert!(resident.split(' ').next_back().unwrap().parse::<f64>().unwrap() > 1e6);
    }
}
