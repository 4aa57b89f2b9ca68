//! What the stores count themselves.

use flotilla_benches::{Error, status};

const CHECKPOINTS: &str = "flotilla_kv_checkpoint_seconds_count";

/// The three stores of the measured cluster.
pub struct Stores {
    runtime: tokio::runtime::Runtime,
    stores: Vec<(u64, String)>,
}

/// Counts of all stores together; since their start, over a window, or for each operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Checkpoints of the table.
    pub checkpoints: f64,
    /// Allocations, without RocksDB's own.
    pub allocations: f64,
    /// Rounds of shards.
    pub rounds: f64,
    /// Synced log writes.
    pub log_writes: f64,
    /// Messages between stores.
    pub messages: f64,
    /// Log entries, each counted on every store that has it.
    pub entries: f64,
}

impl Stores {
    /// `stores` by id and address.
    pub fn new(stores: Vec<(u64, String)>) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("cannot start the runtime"))?;
        Ok(Stores { runtime, stores })
    }

    /// How many checkpoints each has made.
    pub fn checkpoints(&self) -> Result<Vec<f64>, Error> {
        self.metric(CHECKPOINTS)
    }

    /// All counts right now.
    pub fn counts(&self) -> Result<Counts, Error> {
        let sum = |name| Ok::<f64, Error>(self.metric(name)?.iter().sum());
        Ok(Counts {
            checkpoints: sum(CHECKPOINTS)?,
            allocations: sum("process_heap_allocations_total")?,
            rounds: sum("flotilla_raft_rounds_total")?,
            log_writes: sum("flotilla_raft_log_write_seconds_count")?,
            messages: sum("flotilla_raft_envelopes_sent_total")?,
            entries: self.persisted()?,
        })
    }

    fn metric(&self, name: &str) -> Result<Vec<f64>, Error> {
        let read = |(_, address): &(u64, String)| {
            let figure = self.runtime.block_on(status::metric(address, name));
            figure.ok_or_else(|| Error::Cluster(format!("{address} does not tell {name}")))
        };
        self.stores.iter().map(read).collect()
    }

    /// The last durable indexes of all groups on all stores.
    fn persisted(&self) -> Result<f64, Error> {
        let mut sum = 0.0;
        for (_, address) in &self.stores {
            let status = self.runtime.block_on(status::read(address));
            let regions = status.as_ref().and_then(|status| status["regions"].as_array());
            let regions = regions
                .ok_or_else(|| Error::Cluster(format!("{address} does not tell its status")))?;
            sum += regions.iter().filter_map(|region| region["persisted"].as_f64()).sum::<f64>();
        }
        Ok(sum)
    }
}

impl Counts {
    /// What came since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        self.with(earlier, |now, then| now - then)
    }

    /// For each of `ops`.
    pub fn each(&self, ops: f64) -> Counts {
        self.with(self, |count, _| count / ops)
    }

    fn with(&self, other: &Counts, of: impl Fn(f64, f64) -> f64) -> Counts {
        Counts {
            checkpoints: of(self.checkpoints, other.checkpoints),
            allocations: of(self.allocations, other.allocations),
            rounds: of(self.rounds, other.rounds),
            log_writes: of(self.log_writes, other.log_writes),
            messages: of(self.messages, other.messages),
            entries: of(self.entries, other.entries),
        }
    }
}
