//! The stages of a put's way, and which stage a sampled stack belongs to.
//!
//! On few cores one thread of a store is network, shard, small log writes and applies in one, so a
//! thread's name does not tell the stage: the innermost function on the stack that is known does.
//! What stands below it (allocator, kernel, the storage library) belongs to it.

use flotilla_benches::perf::stacks::Frame;
use flotilla_benches::report::Row;
use std::collections::BTreeMap;

/// A row of the table, in the order of a put's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The load program with the client library.
    Client,
    /// gRPC, HTTP/2 and sockets of the stores, to clients and to each other.
    Network,
    /// Requests are checked and become commands; outcomes become responses.
    Service,
    /// Consensus.
    Shard,
    /// Log writes, wherever they are made.
    Log,
    /// Applies, wherever they are made.
    Apply,
    /// Checkpoints: the table's content goes to the storage library.
    Checkpoint,
    /// The storage library's flushes and compactions.
    Background,
    /// The placement driver, which no put waits for.
    Placement,
    /// Everything else: the runtime's scheduling, timers.
    Rest,
}

/// How functions of a stage begin; the first that fits counts.
const KNOWN: [(&str, Stage); 30] = [
    ("flotilla_kvserver::kv::engine::table::Table::checkpoint", Stage::Checkpoint),
    ("flotilla_kvserver::kv::engine::checkpoint::", Stage::Checkpoint),
    ("flotilla_kvserver::kv::apply::", Stage::Apply),
    ("flotilla_kvserver::kv::state_machine::", Stage::Apply),
    ("flotilla_kvserver::service::", Stage::Service),
    ("flotilla_kvserver::kv::reader::", Stage::Service),
    ("flotilla_kvserver::directory::", Stage::Service),
    ("flotilla_raftstore::completion::", Stage::Service),
    ("flotilla_raftstore::apply::", Stage::Apply),
    ("flotilla_raftstore::shard::run::Applier ", Stage::Apply),
    ("flotilla_raftstore::log::writer::", Stage::Log),
    ("flotilla_raftstore::log::engine::", Stage::Log),
    ("flotilla_raftstore::log::rocks::", Stage::Log),
    ("raft_engine::", Stage::Log),
    ("flotilla_raftstore::transport::", Stage::Network),
    ("flotilla_raftstore::shard::", Stage::Shard),
    ("flotilla_raftstore::replica::", Stage::Shard),
    ("flotilla_raftstore::router::", Stage::Shard),
    ("flotilla_raftstore::store::", Stage::Shard),
    ("raft::", Stage::Shard),
    ("h2::", Stage::Network),
    ("hyper::", Stage::Network),
    ("hyper_util::", Stage::Network),
    ("http_body", Stage::Network),
    ("tonic::", Stage::Network),
    ("tower::", Stage::Network),
    ("axum::", Stage::Network),
    ("mio::", Stage::Network),
    ("tokio::net::", Stage::Network),
    ("tokio::runtime::io::", Stage::Network),
];

impl Stage {
    /// What a thread of a store does, as far as its stacks do not say otherwise.
    pub fn of_thread(name: &str) -> Self {
        match name {
            "shard" | "ticker" => Stage::Shard,
            "log" | "log-purge" | "reader" => Stage::Log,
            "apply" => Stage::Apply,
            "sync" | "checkpoint" => Stage::Checkpoint,
            name if name.starts_with("rocksdb") => Stage::Background,
            _ => Stage::Rest,
        }
    }

    /// The stage that a function is known to belong to.
    fn of_function(name: &str) -> Option<Self> {
        // `<a::B as c::D>::e` is of `a::B`.
        let name = name.trim_start_matches(['<', '&']);
        KNOWN.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, stage)| *stage)
    }

    /// In the table.
    pub fn title(self) -> &'static str {
        match self {
            Stage::Client => "client program, all threads",
            Stage::Network => "network: gRPC, HTTP/2, sockets, both ways",
            Stage::Service => "service: request to command, outcome to response",
            Stage::Shard => "shard: consensus",
            Stage::Log => "log",
            Stage::Apply => "apply",
            Stage::Checkpoint => "sync, checkpoints",
            Stage::Background => "RocksDB in the background: flush, compaction",
            Stage::Placement => "placement, all threads",
            Stage::Rest => "rest: scheduling of tasks, start of threads",
        }
    }

    /// What the library or physics sets on such a machine, for three stores, in microseconds of CPU
    /// an operation of `row`, where that is a figure; `entries` is the log entries an operation.
    pub fn floor_us(self, row: &Row, entries: f64) -> Option<f64> {
        let writes = f64::from(row.sent.write_percent) / 100.0;
        match self {
            Stage::Client | Stage::Network if row.sent.rpc == "unary" => Some(UNARY_ECHO_US / 2.0),
            Stage::Client | Stage::Network if row.sent.batching => Some(BATCHED_ECHO_US / 2.0),
            Stage::Client | Stage::Network => Some(STREAM_ECHO_US / 2.0),
            Stage::Shard => Some(RAFT_ENTRY_US * entries),
            Stage::Log => Some(3.0 * LOG_PUT_US * writes),
            Stage::Apply => Some(3.0 * APPLY_PUT_US * writes),
            Stage::Placement | Stage::Rest => Some(0.0),
            Stage::Service | Stage::Checkpoint | Stage::Background => None,
        }
    }

    /// Where that comes from, or what takes its place.
    pub fn floor(self) -> &'static str {
        match self {
            Stage::Client => {
                "half of a gRPC echo on 2 cores (6.9 M/s batched, 226 k/s one by one on a stream, \
                 74 k/s by unary calls), each answer a message: many in one write cost less"
            }
            Stage::Network => "the other half; two followers' frames a round come on top",
            Stage::Service => "one copy into the command and one message back",
            Stage::Shard => "raft-rs alone: 5.5 an entry on three replicas",
            Stage::Log => "3 × 0.1 a put with raft-engine (RocksDB: 3 × 0.4), at 20 puts an entry",
            Stage::Apply => {
                "3 × 0.17 a put for a hash map of 1 M keys (RocksDB's memtable: 3 × 2.6)"
            }
            Stage::Checkpoint => {
                "each changed key once a checkpoint, in order: 0.25 to sort, 0.34 to write"
            }
            Stage::Background => "each put written once and, when it is compacted, again",
            Stage::Placement => "no operation needs it",
            Stage::Rest => "",
        }
    }
}

/// CPU of an echo, both ends together, of 2 cores: a request in a batch, a message on a stream, a
/// unary call.
const BATCHED_ECHO_US: f64 = 2e6 / 6.9e6;
const STREAM_ECHO_US: f64 = 2e6 / 226e3;
const UNARY_ECHO_US: f64 = 2e6 / 74e3;
/// raft-rs alone, on three replicas.
const RAFT_ENTRY_US: f64 = 5.5;
/// raft-engine, at 20 puts an entry.
const LOG_PUT_US: f64 = 0.1;
/// A hash map of a million keys.
const APPLY_PUT_US: f64 = 0.17;

/// How a thread's CPU is shared out among the stages; the parts add up to 1.
pub type Shares = BTreeMap<Stage, f64>;

/// The shares of every sampled thread, by its name.
pub fn shares(root: &Frame) -> BTreeMap<String, Shares> {
    let of_thread = |(name, frame): (&String, &Frame)| {
        let mut ns = BTreeMap::new();
        add(frame, Stage::of_thread(name), &mut ns);
        let share = |(stage, ns)| (stage, ns as f64 / frame.total_ns.max(1) as f64);
        (name.clone(), ns.into_iter().map(share).collect())
    };
    root.callees.iter().map(of_thread).collect()
}

fn add(frame: &Frame, stage: Stage, ns: &mut BTreeMap<Stage, u64>) {
    *ns.entry(stage).or_default() += frame.own_ns;
    for (name, callee) in &frame.callees {
        // Whatever a checkpoint calls is the checkpoint, the table's own functions too.
        let inner = match stage {
            Stage::Checkpoint | Stage::Background => stage,
            outer => Stage::of_function(name).unwrap_or(outer),
        };
        add(callee, inner, ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
kvserver 10 \n\t1 __writev\n\t2 <tokio::net::tcp::stream::TcpStream as x>::y\n\t3 main\n\n\
kvserver 20 \n\t1 memcpy\n\t2 flotilla_raftstore::log::writer::LogWriter::run_once\n\t3 flotilla_raftstore::shard::lane::Lane<W>::hand\n\t4 main\n\n\
kvserver 30 \n\t1 malloc\n\t2 <flotilla_kvserver::service::kv::KvService as flotilla_client::pb::kv_server::Kv>::stream::{{closure}}\n\t3 h2::a\n\n\
kvserver 40 \n\t1 main\n\n\
sync 7 \n\t1 flotilla_kvserver::kv::state_machine::x\n\n";

    #[test]
    fn a_sample_belongs_to_the_innermost_function_that_is_known() {
        let shares = shares(&Frame::read(SCRIPT.as_bytes()).unwrap());
        let expected =
            [(Stage::Network, 0.1), (Stage::Service, 0.3), (Stage::Log, 0.2), (Stage::Rest, 0.4)];
        for (stage, share) in expected {
            assert!((shares["kvserver"][&stage] - share).abs() < 1e-9, "{stage:?} {shares:?}");
        }
        assert_eq!(shares["sync"][&Stage::Checkpoint], 1.0);
    }

    #[test]
    fn no_known_name_hides_behind_a_shorter_one() {
        for (at, (long, _)) in KNOWN.iter().enumerate() {
            let hidden = KNOWN[..at].iter().find(|(short, _)| long.starts_with(short));
            assert_eq!(hidden, None, "{long}");
        }
    }

    /// A module that is moved or renamed would fall silently into another stage.
    #[test]
    fn modules_of_ours_that_are_known_are_in_the_server() {
        let test = std::env::current_exe().unwrap();
        let server = test.parent().unwrap().parent().unwrap().join("kvserver");
        let program = std::fs::read(&server)
            .unwrap_or_else(|error| panic!("{}: build it first: {error}", server.display()));
        let has = |text: &str| {
            let text = text.as_bytes();
            program.windows(text.len()).any(|at| at == text)
        };
        for (name, _) in KNOWN.iter().filter(|(name, _)| name.starts_with("flotilla_")) {
            let parts = name.trim_end().split("::").filter(|part| !part.is_empty());
            // As mangled: each part after its length, or within a trait's name with dots.
            let plain: String = parts.clone().map(|part| format!("{}{part}", part.len())).collect();
            let dotted = parts.collect::<Vec<_>>().join("..");
            assert!(has(&plain) || has(&dotted), "{name}: renamed? It is not in the program");
        }
    }
}
