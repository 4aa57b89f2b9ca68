//! The servers' processes: found by their `--addr`, measured through `/proc`.

use crate::error::Error;
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    /// The most resident memory since the process began, in MiB.
    pub rss_mib: u64,
}

/// This program itself: the clients.
pub const LOAD: &str = "load";

/// The servers of every cluster that the programs here start.
pub const OURS: [&str; 4] = ["placement-1", "store-1", "store-2", "store-3"];

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
    found.push(Server { name: LOAD.to_owned(), pid: Process::myself()?.pid() });
    Ok(found)
}

/// The address of `kvserver run … --addr ADDRESS` or `placement run … --addr ADDRESS`.
#[must_use]
pub fn served_address(arguments: &[String]) -> Option<&str> {
    (arguments.get(1)? == "run").then(|| value_of("--addr", arguments))?
}

fn value_of<'a>(flag: &str, arguments: &'a [String]) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.split_once('=') {
            _ if argument == flag => return rest.next().map(String::as_str),
            Some((name, value)) if name == flag => return Some(value),
            _ => {}
        }
    }
    None
}

/// Where the first store among `servers` has its data, as its `--dir` says.
#[must_use]
pub fn data_folder(servers: &[Server]) -> Option<PathBuf> {
    let store = servers.iter().find(|server| server.name.starts_with("store-"))?;
    let process = Process::new(store.pid).ok()?;
    let arguments = process.cmdline().ok()?;
    Some(process.cwd().ok()?.join(value_of("--dir", &arguments)?))
}

/// Why figures of `used` would be too small: a server was not measured from beginning to end.
#[must_use]
pub fn why_incomplete(used: &[Usage], servers: &[&str]) -> Option<String> {
    let missing = servers.iter().filter(|name| used.iter().all(|usage| usage.name != **name));
    let missing: Vec<&str> = missing.copied().collect();
    (!missing.is_empty()).then(|| format!("not measured over the window: {}", missing.join(", ")))
}

/// A process's resident memory now, in MiB; nothing when it is gone.
#[must_use]
pub fn resident_mib(pid: i32) -> Option<u64> {
    let status = Process::new(pid).ok()?.status().ok()?;
    Some(status.vmrss? >> 10)
}

/// Processor seconds and memory of `servers` at one moment; a process that is gone has none.
#[derive(Debug)]
pub struct Sample(Vec<Option<(f64, u64)>>);

impl Sample {
    /// Reads `/proc/PID/stat` and `status` of each.
    #[must_use]
    pub fn take(servers: &[Server]) -> Self {
        let ticks = procfs::ticks_per_second() as f64;
        Sample(
            servers
                .iter()
                .map(|server| {
                    let process = Process::new(server.pid).ok()?;
                    let (stat, status) = (process.stat().ok()?, process.status().ok()?);
                    let most_kib = status.vmhwm?;
                    Some(((stat.utime + stat.stime) as f64 / ticks, most_kib >> 10))
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
        assert_eq!(value_of("--dir", &run), Some("d"));
    }

    #[test]
    fn a_server_that_is_missing_is_named() {
        let used = |names: &[&str]| -> Vec<Usage> {
            let usage = |name: &&str| Usage { name: (*name).to_owned(), cpu_s: 1.0, rss_mib: 1 };
            names.iter().map(usage).collect()
        };
        assert_eq!(why_incomplete(&used(&OURS), &OURS), None);
        let reason = why_incomplete(&used(&["store-1", "store-3", "load"]), &OURS).unwrap();
        assert!(reason.ends_with(": placement-1, store-2"), "{reason}");
    }

    #[test]
    fn this_process_is_measured() {
        let servers = find(&[], &[]).unwrap();
        let before = Sample::take(&servers);
        let usage = Sample::take(&servers).since(&before, &servers);
        assert_eq!(usage[0].name, LOAD);
        assert!(usage[0].rss_mib > 0 && usage[0].cpu_s >= 0.0);
        assert!(resident_mib(servers[0].pid).is_some_and(|mib| mib > 0));
    }
}
