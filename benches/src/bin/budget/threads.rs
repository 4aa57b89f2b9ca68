//! What every thread used, read from `/proc` at two moments.

use flotilla_benches::Error;
use flotilla_benches::processes::Server;
use procfs::process::{Process, Task};
use std::collections::BTreeMap;

/// A thread, by its process's name and its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thread {
    /// `store-1`, `load`.
    pub process: String,
    /// As the process named it.
    pub name: String,
}

/// What threads of one name used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Nanoseconds on a processor.
    pub cpu_ns: u64,
    /// Context switches, wanted or not.
    pub switches: u64,
}

/// All threads at one moment.
pub struct Sample {
    /// By process and thread id.
    threads: BTreeMap<(i32, i32), (Thread, Use)>,
    loopback_bytes: u64,
    disk_bytes: u64,
}

/// The difference of two samples.
pub struct Used {
    /// Threads of equal names together.
    pub threads: Vec<(Thread, Use)>,
    /// Bytes sent over the loopback device, by whomever.
    pub loopback_bytes: u64,
    /// Bytes that the processes had written to disks.
    pub disk_bytes: u64,
}

impl Sample {
    /// Reads every thread of `processes`; one that ends meanwhile is left out.
    pub fn take(processes: &[Server]) -> Result<Self, Error> {
        let mut sample = Sample { threads: BTreeMap::new(), loopback_bytes: 0, disk_bytes: 0 };
        for server in processes {
            let process = Process::new(server.pid)?;
            sample.disk_bytes += process.io()?.write_bytes;
            for task in process.tasks()?.flatten() {
                if let Some((name, used)) = read(&task) {
                    let thread = Thread { process: server.name.clone(), name };
                    sample.threads.insert((server.pid, task.tid), (thread, used));
                }
            }
        }
        let devices = procfs::net::dev_status()?;
        sample.loopback_bytes = devices.get("lo").map_or(0, |lo| lo.sent_bytes);
        Ok(sample)
    }

    /// What was used since `earlier`. A thread that began meanwhile counts whole.
    pub fn since(&self, earlier: &Sample) -> Used {
        let threads = self.threads.iter().map(|(id, (thread, now))| {
            let then = earlier.threads.get(id).map_or(Use::default(), |(_, then)| *then);
            let cpu_ns = now.cpu_ns.saturating_sub(then.cpu_ns);
            let switches = now.switches.saturating_sub(then.switches);
            (thread.clone(), Use { cpu_ns, switches })
        });
        Used {
            threads: threads.collect(),
            loopback_bytes: self.loopback_bytes.saturating_sub(earlier.loopback_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(earlier.disk_bytes),
        }
    }
}

fn read(task: &Task) -> Option<(String, Use)> {
    let status = task.status().ok()?;
    let switches = status.voluntary_ctxt_switches? + status.nonvoluntary_ctxt_switches?;
    // The time in `stat` counts in ticks of 10 ms; the scheduler's own is exact.
    let cpu_ns = task.schedstat().ok()?.sum_exec_runtime;
    Some((status.name, Use { cpu_ns, switches }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_under_its_name() {
        let own = Server { name: "self".to_owned(), pid: std::process::id().cast_signed() };
        let own = [own];
        let before = Sample::take(&own).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::Builder::new().name("spinning".to_owned()).spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {}
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        let used = Sample::take(&own).unwrap().since(&before);
        drop(stop);
        busy.unwrap().join().unwrap();
        let found = used.threads.iter().find(|(thread, _)| thread.name == "spinning").unwrap();
        assert!(found.1.cpu_ns > 1_000_000, "{found:?}");
    }
}
