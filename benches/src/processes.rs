//! The servers' processes: found by their `--addr`, measured through `/proc`.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// A process to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `store-1`, `placement-1`, `load`.
    pub name: String,
    /// Its process id.
    pub pid: i32,
}

/// What a process used over a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// As in [`Server`].
    pub name: String,
    /// User and system time, in seconds.
    pub cpu_s: f64,
    /// Resident memory at the end, in MiB.
    pub rss_mib: u64,
}

/// This program itself: the clients.
pub const LOAD: &str = "load";

/// Finds the local processes that serve `stores` (id, address) and `placements`, and adds this one.
///
/// Servers on other machines, or of other users, are simply not in the list.
pub fn find(stores: &[(u64, String)], placements: &[String]) -> Result<Vec<Server>, Error> {
    let mut found = Vec::new();
    for process in procfs::process::all_processes()?.flatten() {
        let Ok(arguments) = process.cmdline() else { continue };
        let Some(address) = served_address(&arguments) else { continue };
        let store =
            stores.iter().find(|(_, of)| of == address).map(|(id, _)| format!("store-{id}"));
        let placement = || {
            let at = placements.iter().position(|of| of == address)?;
            Some(format!("placement-{}", at + 1))
        };
        if let Some(name) = store.or_else(placement) {
            found.push(Server { name, pid: process.pid() });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.push(Server { name: LOAD.to_owned(), pid: procfs::process::Process::myself()?.pid() });
    Ok(found)
}

/// The address of `kvserver run … --addr ADDRESS` or `placement run … --addr ADDRESS`.
#[must_use]
pub fn served_address(arguments: &[String]) -> Option<&str> {
    if arguments.get(1).map(String::as_str) != Some("run") {
        return None;
    }
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--addr" {
            return rest.next().map(String::as_str);
        }
        if let Some(address) = argument.strip_prefix("--addr=") {
            return Some(address);
        }
    }
    None
}

/// Processor seconds and memory of `servers` at one moment; a process that is gone has none.
#[derive(Debug)]
pub struct Sample(Vec<Option<(f64, u64)>>);

impl Sample {
    /// Reads `/proc/PID/stat` of each.
    #[must_use]
    pub fn take(servers: &[Server]) -> Self {
        let ticks = procfs::ticks_per_second() as f64;
        let page = procfs::page_size();
        Sample(
            servers
                .iter()
                .map(|server| {
                    let stat = procfs::process::Process::new(server.pid).ok()?.stat().ok()?;
                    Some(((stat.utime + stat.stime) as f64 / ticks, stat.rss * page / (1 << 20)))
                })
                .collect(),
        )
    }

    /// What was used since `earlier`, a sample of the same servers.
    #[must_use]
    pub fn since(&self, earlier: &Sample, servers: &[Server]) -> Vec<Usage> {
        let pairs = self.0.iter().zip(&earlier.0);
        servers
            .iter()
            .zip(pairs)
            .filter_map(|(server, (now, then))| {
                let ((cpu, rss), (cpu_then, _)) = ((*now)?, (*then)?);
                let cpu_s = ((cpu - cpu_then) * 100.0).round() / 100.0;
                Some(Usage { name: server.name.clone(), cpu_s, rss_mib: rss })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_their_address() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let run = line("/x/kvserver run --dir d --addr 127.0.0.1:7110 --placement 127.0.0.1:7100");
        assert_eq!(served_address(&run), Some("127.0.0.1:7110"));
        assert_eq!(served_address(&line("placement run --addr=a:1")), Some("a:1"));
        assert_eq!(served_address(&line("vim run.txt --addr a:1")), None);
        assert_eq!(served_address(&[]), None);
    }

    #[test]
    fn this_process_is_measured() {
        let servers = find(&[], &[]).unwrap();
        let before = Sample::take(&servers);
        let usage = Sample::take(&servers).since(&before, &servers);
        assert_eq!(usage[0].name, LOAD);
        assert!(usage[0].rss_mib > 0 && usage[0].cpu_s >= 0.0);
    }
}
