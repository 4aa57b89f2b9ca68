//! The rows of the table: what each one sends, to which servers.
//!
//! Rows that stand next to each other and need the same servers share one cluster. Writes come
//! before reads on it, so that the keys that are read exist; where too few came, the table fills the cluster.

use crate::keys::{KeyMode, SPREAD_KEY_BYTES};
use crate::playground::{Options, STORES};
use crate::workload::{Rpc, Workload};
use flotilla_client::Consistency;
use std::fmt::Write as _;
use std::time::Duration;

/// Keys of the mode `spread` in the table.
pub const SPREAD_KEYS: u64 = 1_000_000;
/// Groups of every row that does not say otherwise.
pub const REGIONS: usize = 24;
/// The row, with spread keys, whose rate is the maximum that open-loop rows take their shares of.
pub const MAXIMUM: &str = "batched-rocksdb";
/// Rows of a pass of the program `inside`, which follow the whole suite.
pub const INSIDE_ROWS: usize = 8;
/// Operations in flight at most in an open loop; what starts beyond waits, and its time counts.
const OPEN_LOOP_MAX: usize = 100_000;

/// A figure of the comparable published program, on machines of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Operations a second.
    pub ops_per_s: u64,
    /// As published.
    pub text: &'static str,
}

/// What the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Servers {
    /// `memory` or `rocksdb`.
    pub storage: &'static str,
    /// Groups.
    pub regions: usize,
    /// Many appends in flight to a follower, or one.
    pub pipeline: bool,
    /// Log writes are synced.
    pub sync: bool,
    /// `None`: the default.
    pub log_engine: Option<&'static str>,
    /// RocksDB gets every applied write at once, instead of checkpoints of a table.
    pub direct: bool,
}

/// One row's settings, apart from the times.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As in `--rows`.
    pub name: &'static str,
    /// Under which heading it stands in the report.
    pub section: &'static str,
    /// To stand beside ours.
    pub published: Option<Published>,
    /// What it runs against.
    pub servers: Servers,
    clients: usize,
    batching: bool,
    rpc: Rpc,
    in_flight: usize,
    write_percent: u32,
    consistency: Consistency,
    value_bytes: usize,
    /// Which keys.
    pub keys: KeyMode,
    /// Open loop: percent of the maximum.
    pub share: Option<u32>,
}

const SERVERS: Servers = Servers {
    storage: "rocksdb",
    regions: REGIONS,
    pipeline: true,
    sync: true,
    log_engine: None,
    direct: false,
};
const MEMORY: Servers = Servers { storage: "memory", ..SERVERS };
const SPREAD: KeyMode = KeyMode::Spread(SPREAD_KEYS);

const BATCHED: Kind = Kind {
    name: "",
    section: "",
    published: None,
    servers: SERVERS,
    clients: 8,
    batching: true,
    rpc: Rpc::Stream,
    in_flight: 4096,
    write_percent: 90,
    consistency: Consistency::Linearizable,
    value_bytes: 16,
    keys: SPREAD,
    share: None,
};
const UNBATCHED: Kind = Kind { clients: 2, batching: false, in_flight: 512, ..BATCHED };
const PUTS: Kind = Kind { write_percent: 100, ..UNBATCHED };
const GETS: Kind = Kind { write_percent: 0, ..UNBATCHED };

/// Headings of the report, in their order.
pub const SECTIONS: [(&str, &str); 10] = [
    ("published", "The published rows"),
    ("lease", "Reads by the leader's lease"),
    ("latency", "One operation at a time"),
    ("unary", "One operation a unary call"),
    ("one kind", "Puts only, gets only"),
    ("open loop", "Latency at a fixed rate"),
    ("values", "Size of values"),
    ("groups", "Number of groups"),
    ("storage", "What storage and sync cost"),
    ("inside", "The engine alone, without a client network"),
];

fn published(ops_per_s: u64, text: &'static str) -> Option<Published> {
    Some(Published { ops_per_s, text })
}

/// The four published rows, each with both key modes.
fn published_rows() -> Vec<Kind> {
    let one_append = Servers { pipeline: false, ..MEMORY };
    let rows = [
        Kind {
            name: "unbatched-one-append",
            published: published(75_000, "75 k"),
            servers: one_append,
            ..UNBATCHED
        },
        Kind {
            name: "unbatched",
            published: published(100_000, "100 k+"),
            servers: MEMORY,
            ..UNBATCHED
        },
        Kind {
            name: "batched-memory",
            published: published(400_000, "400 k+"),
            servers: MEMORY,
            ..BATCHED
        },
        Kind { name: MAXIMUM, published: published(250_000, "250 k+"), ..BATCHED },
    ];
    both_key_modes(rows.map(|kind| Kind { section: "published", ..kind }))
}

fn both_key_modes(kinds: impl IntoIterator<Item = Kind>) -> Vec<Kind> {
    kinds
        .into_iter()
        .flat_map(|kind| [KeyMode::StartKey, SPREAD].map(|keys| Kind { keys, ..kind }))
        .collect()
}

const ONE_PUT: Kind = Kind {
    name: "one-put",
    section: "latency",
    clients: 1,
    in_flight: 1,
    write_percent: 100,
    ..UNBATCHED
};
const ONE_GET: Kind = Kind { name: "one-get", write_percent: 0, ..ONE_PUT };

/// The published rows. One put at a time is measured on a cluster that has not just written
/// millions of records: it would share its disk with their compaction.
fn first_rows() -> Vec<Kind> {
    let mut rows = published_rows();
    let first = rows.iter().position(|kind| kind.servers == ONE_PUT.servers);
    rows.insert(first.unwrap_or(rows.len()), ONE_PUT);
    rows
}

fn open_loop_rows() -> Vec<Kind> {
    let names = [("open-25", 25), ("open-50", 50), ("open-75", 75), ("open-90", 90)];
    let row = |(name, share)| Kind {
        name,
        section: "open loop",
        in_flight: OPEN_LOOP_MAX,
        share: Some(share),
        ..BATCHED
    };
    names.map(row).to_vec()
}

/// Rows that are measured with lease reads too, right after them and on the same cluster.
const LEASE_TWINS: [(&str, &str); 9] = [
    ("unbatched-one-append", "unbatched-one-append-lease"),
    ("unbatched", "unbatched-lease"),
    ("batched-memory", "batched-memory-lease"),
    (MAXIMUM, "batched-rocksdb-lease"),
    ("one-get", "one-get-lease"),
    ("gets-64", "gets-64-lease"),
    ("gets-512", "gets-512-lease"),
    ("gets-4096", "gets-4096-lease"),
    ("gets-4096-batched", "gets-4096-batched-lease"),
];

fn beside_lease(kinds: impl IntoIterator<Item = Kind>) -> Vec<Kind> {
    let with_twin = |kind: Kind| {
        let (consistency, section, published) = (Consistency::Lease, "lease", None);
        let twin = LEASE_TWINS.iter().find(|(of, _)| *of == kind.name);
        let twin = twin.map(|(_, name)| Kind { name, section, consistency, published, ..kind });
        std::iter::once(kind).chain(twin)
    };
    kinds.into_iter().flat_map(with_twin).collect()
}

fn gets_512() -> Kind {
    Kind { name: "gets-512", section: "one kind", clients: 1, ..GETS }
}

/// `make bench`: the published rows, the latencies, and what it costs when log and data are both in
/// RocksDB and nothing is held back.
#[must_use]
pub fn short() -> Vec<Kind> {
    let mut rows = first_rows();
    rows.extend(open_loop_rows().into_iter().filter(|kind| kind.share == Some(50)));
    rows.extend(beside_lease([ONE_GET, gets_512()]));
    rows.extend(storage_rows().into_iter().filter(|kind| kind.servers.direct));
    rows
}

/// `make bench-full`: everything.
#[must_use]
pub fn full() -> Vec<Kind> {
    let mut rows = first_rows();
    rows.extend(open_loop_rows());
    rows.push(ONE_GET);
    rows.extend(one_kind_rows());
    rows.extend(value_rows());
    rows.extend(one_append_rows());
    rows.extend(group_rows());
    rows.extend(storage_rows());
    beside_lease(rows)
}

/// The row of this name; of two, the one with spread keys.
#[must_use]
pub fn find(name: &str) -> Option<Kind> {
    full().into_iter().rfind(|kind| kind.name == name)
}

/// All names, in the order of the table.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for kind in full() {
        if !names.contains(&kind.name) {
            names.push(kind.name);
        }
    }
    names
}

/// `kinds`, and before its first open-loop row the one whose rate that takes its share of, unless
/// it is there.
#[must_use]
pub fn with_maximum(mut kinds: Vec<Kind>) -> Vec<Kind> {
    let is_maximum = |kind: &Kind| kind.name == MAXIMUM && kind.keys == SPREAD;
    if let Some(first) = kinds.iter().position(|kind| kind.share.is_some())
        && !kinds.iter().any(is_maximum)
    {
        kinds.splice(first..first, full().into_iter().find(is_maximum));
    }
    kinds
}

/// The batched published rows with the pipeline off, which were published with it on only.
fn one_append_rows() -> Vec<Kind> {
    let row = |name, servers: Servers| Kind {
        name,
        section: "published",
        servers: Servers { pipeline: false, ..servers },
        ..BATCHED
    };
    both_key_modes([
        row("batched-memory-one-append", MEMORY),
        row("batched-rocksdb-one-append", SERVERS),
    ])
}

fn one_kind_rows() -> Vec<Kind> {
    let one = |kind: Kind, name, clients, in_flight| Kind {
        name,
        section: "one kind",
        clients,
        in_flight,
        ..kind
    };
    let unary =
        |kind: Kind, name| Kind { name, section: "unary", clients: 2, rpc: Rpc::Unary, ..kind };
    vec![
        one(PUTS, "puts-64", 1, 64),
        one(PUTS, "puts-512", 1, 512),
        one(PUTS, "puts-4096", 2, 4096),
        Kind { batching: true, ..one(PUTS, "puts-4096-batched", 8, 4096) },
        unary(PUTS, "unary-puts-512"),
        one(GETS, "gets-64", 1, 64),
        gets_512(),
        one(GETS, "gets-4096", 2, 4096),
        Kind { batching: true, ..one(GETS, "gets-4096-batched", 8, 4096) },
        unary(GETS, "unary-gets-512"),
    ]
}

fn value_rows() -> Vec<Kind> {
    let row = |name, value_bytes| Kind {
        name,
        section: "values",
        value_bytes,
        in_flight: 512,
        ..BATCHED
    };
    vec![
        row("value-16", 16),
        row("value-128", 128),
        row("value-1024", 1 << 10),
        row("value-16384", 16 << 10),
    ]
}

fn group_rows() -> Vec<Kind> {
    let row = |name, regions| Kind {
        name,
        section: "groups",
        servers: Servers { regions, ..SERVERS },
        ..BATCHED
    };
    vec![row("groups-24", 24), row("groups-1", 1), row("groups-200", 200), row("groups-1000", 1000)]
}

fn storage_rows() -> Vec<Kind> {
    let row = |name, servers| Kind { name, section: "storage", servers, ..BATCHED };
    let unsynced = Servers { sync: false, ..SERVERS };
    let rocksdb = Some("rocksdb");
    vec![
        row("log-raft-engine", Servers { log_engine: Some("raft-engine"), ..SERVERS }),
        row("log-rocksdb", Servers { log_engine: rocksdb, ..SERVERS }),
        row("log-rocksdb-every-write", Servers { log_engine: rocksdb, direct: true, ..SERVERS }),
        row("sync-off", unsynced),
        Kind { section: "storage", servers: unsynced, name: "sync-off-one-put", ..ONE_PUT },
    ]
}

impl Kind {
    /// The load of this row; `maximum` is what open-loop rows take their share of.
    #[must_use]
    pub fn workload(&self, seconds: Duration, warmup: Duration, maximum: Option<f64>) -> Workload {
        Workload {
            clients: self.clients,
            batching: self.batching,
            rpc: self.rpc,
            write_percent: self.write_percent,
            consistency: self.consistency,
            key_bytes: SPREAD_KEY_BYTES,
            value_bytes: self.value_bytes,
            keys: self.keys,
            in_flight: self.in_flight,
            rate: self.share.zip(maximum).map(|(percent, max)| max * f64::from(percent) / 100.0),
            seconds,
            warmup,
        }
    }
}

impl Servers {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}, {} groups", self.storage, self.regions);
        if !self.pipeline {
            text += ", one append in flight";
        }
        if !self.sync {
            text += ", log not synced";
        }
        if let Some(engine) = self.log_engine {
            let _ = write!(text, ", log in {engine}");
        }
        if self.direct {
            text += ", every applied write in RocksDB";
        }
        text
    }

    /// How to start them.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut config = String::new();
        if !self.pipeline {
            config += "[raft]\npipeline = false\n";
        }
        if !self.sync {
            config += "[log]\nsync = false\n";
        }
        if self.direct {
            config += "[kv]\ntable_bytes_max = 0\n";
        }
        Options {
            storage: self.storage.to_owned(),
            stores: STORES,
            regions: self.regions,
            split_at: Vec::new(),
            log_engine: self.log_engine.map(str::to_owned),
            config: (!config.is_empty()).then_some(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_have_names_of_their_own_and_can_be_run() {
        for suite in [short(), full()] {
            let mut seen = HashSet::new();
            for kind in suite {
                assert!(seen.insert((kind.name, kind.keys.to_string())), "{}", kind.name);
                assert!(SECTIONS.iter().any(|(key, _)| *key == kind.section), "{}", kind.name);
                let second = Duration::from_secs(1);
                let workload = kind.workload(second, second, Some(1000.0));
                assert!(workload.validate().is_ok(), "{}", kind.name);
                let by_lease = workload.consistency == Consistency::Lease;
                assert_eq!(kind.name.ends_with("-lease"), by_lease, "{}", kind.name);
                assert_eq!(workload.rate.is_some(), kind.share.is_some());
            }
        }
    }

    #[test]
    fn a_row_is_found_by_its_name_with_spread_keys() {
        for name in names() {
            let kind = find(name).unwrap();
            assert_eq!((kind.name, kind.keys), (name, SPREAD));
        }
        assert!(find("none-such").is_none());
    }

    #[test]
    fn an_open_loop_alone_gets_the_row_of_its_maximum_once() {
        let names = |kinds: &[Kind]| kinds.iter().map(|kind| kind.name).collect::<Vec<_>>();
        let alone = with_maximum(open_loop_rows());
        assert_eq!(names(&alone[..2]), [MAXIMUM, "open-25"]);
        assert_eq!(names(&with_maximum(full())), names(&full()));
        assert_eq!(names(&with_maximum(vec![ONE_PUT, ONE_GET])), ["one-put", "one-get"]);
    }

    #[test]
    fn open_loops_follow_the_row_whose_rate_they_take_their_share_of() {
        for suite in [short(), full()] {
            let maximum = suite.iter().position(|k| k.name == MAXIMUM && k.keys == SPREAD).unwrap();
            let first = suite.iter().position(|kind| kind.share.is_some()).unwrap();
            assert!(maximum < first);
            assert_eq!(suite[maximum].servers, suite[first].servers);
        }
    }
}
