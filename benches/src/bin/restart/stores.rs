//! The stores of a playground, ended and started again with their own command lines.

use crate::Kind;
use flotilla_benches::Error;
use flotilla_benches::interrupt::tie;
use flotilla_benches::playground::{Owned, Playground, clear_settings, signal};
use flotilla_benches::processes;
use flotilla_benches::status;
use flotilla_benches::table::blocking;
use procfs::process::Process;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a process may take to end.
const END_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Between two looks at all replicas, which cost the store something.
const LEVEL_POLL: Duration = Duration::from_millis(200);

/// See the module. Dropping it ends all of them.
pub struct Stores {
    /// Those that were started here. Ended before the playground is.
    started: Vec<Owned>,
    /// Command lines of those that have ended.
    ended: Vec<Vec<String>>,
    addresses: Vec<(u64, String)>,
    playground: Playground,
}

impl Stores {
    /// Those of `playground`, at these addresses.
    pub fn new(playground: Playground, addresses: Vec<(u64, String)>) -> Self {
        Stores { started: Vec::new(), ended: Vec::new(), addresses, playground }
    }

    /// Ends the store at `which`, or all, and waits until the processes are gone.
    pub async fn end(&mut self, kind: Kind, which: usize) -> Result<(), Error> {
        let mut servers = processes::find(&self.addresses, &[])?;
        servers.retain(|server| server.name != processes::LOAD);
        if servers.len() != self.addresses.len() {
            return Err(Error::Cluster(format!("not all stores run, only {servers:?}")));
        }
        if !kind.all {
            servers = vec![servers.swap_remove(which)];
        }
        for server in &servers {
            self.ended.push(Process::new(server.pid)?.cmdline()?);
        }
        servers.iter().for_each(|server| signal(server.pid, kind.signal));
        let deadline = Instant::now() + END_MAX;
        // A child of ours is gone once it was waited for.
        while !self.gone(&servers) {
            if Instant::now() > deadline {
                return Err(Error::Cluster(format!("a store did not end in {END_MAX:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn gone(&mut self, servers: &[processes::Server]) -> bool {
        self.started.retain_mut(Owned::is_running);
        servers.iter().all(|server| Process::new(server.pid).is_err())
    }

    /// Starts all that have ended.
    pub fn start(&mut self) -> Result<(), Error> {
        for line in self.ended.drain(..) {
            let log = self.playground.dir().join("restarted.log");
            let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
            let log = log.map_err(Error::system("cannot write a log"))?;
            let mut command = Command::new(&line[0]);
            clear_settings(&mut command, "FLOTILLA_");
            command.args(&line[1..]).stdout(std::process::Stdio::null()).stderr(log);
            tie(&mut command);
            self.started.push(Owned::spawn("a restarted store", &mut command)?);
        }
        Ok(())
    }

    /// Waits until each store has a replica of each of `groups` groups that knows its leader and has
    /// applied what it knows to be committed.
    pub async fn wait_level(&self, groups: usize, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        for (store, address) in &self.addresses {
            loop {
                let status = status::read(address).await.unwrap_or_default();
                let missing = missing(&status, groups);
                if missing == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    let text = format!("store {store}: {missing} of {groups} replicas not level");
                    return Err(Error::Cluster(format!("{text} after {limit:?}")));
                }
                tokio::time::sleep(LEVEL_POLL).await;
            }
        }
        Ok(())
    }

    /// Stops all; an error when one does not end cleanly.
    pub async fn stop(self) -> Result<(), Error> {
        blocking(move || {
            let Stores { mut started, playground, .. } = self;
            let stores = started.iter_mut().try_for_each(Owned::stop);
            playground.stop().and(stores)
        })
        .await
    }
}

fn missing(status: &Value, groups: usize) -> usize {
    let regions = status["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let level = |replica: &&Value| {
        let index = |field: &str| replica[field].as_u64();
        !replica["leader"].is_null() && index("applied") >= index("commit")
    };
    groups.saturating_sub(regions.iter().filter(level).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replica_without_leader_or_behind_is_not_level() {
        let status = json!({"regions": [
            {"leader": {"store": 1}, "applied": 5, "commit": 5},
            {"leader": {"store": 1}, "applied": 4, "commit": 5},
            {"leader": null, "applied": 5, "commit": 5},
        ]});
        assert_eq!(missing(&status, 3), 2);
        assert_eq!(missing(&Value::Null, 3), 3);
    }
}
