//! One request from its message to its response, whichever way it came.
//!
//! [`Core::prepare`] checks a request and says what to submit; the caller keeps the [`Flight`]
//! until the outcome is there; [`Core::finish`] makes the response. Reads happen in `finish`.

use super::refuse::{error, refused};
use super::routes::epoch_of;
use crate::directory::Directory;
use crate::kv::answer::Answer as Written;
use crate::kv::command::{BATCH_BYTES_MAX, Command, KEY_BYTES_MAX, check_batch, check_key};
use crate::kv::reader::{Gets, Page, Range, ReadError, Reader, RegionView};
use crate::kv::{Epoch, KvStateMachine};
use bytes::Bytes;
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::request::Consistency;
use flotilla_raftstore::{Answer, GroupId, Nanos, Outcome, ReadMode, Reply, Request, Store};
use std::sync::Arc;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// A scan of more records runs on a thread that may block.
const SCAN_RECORDS_INLINE: usize = 128;

/// Where a request names its cluster.
const CLUSTER_METADATA: &str = "flotilla-cluster";

/// What every request needs.
pub struct Core {
    pub(super) store: Store,
    pub(super) machine: Arc<KvStateMachine>,
    pub(super) directory: Arc<Directory>,
    reader: Reader,
}

/// A request that waits for its outcome.
#[derive(Debug)]
pub struct Flight {
    /// The client's number of it.
    pub id: u64,
    /// Bytes that it holds.
    pub bytes: usize,
    region: u64,
    epoch: Epoch,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Write,
    Gets(Vec<Bytes>),
    Scan(Range),
}

/// A checked request: what to submit for it.
#[derive(Debug)]
pub struct Prepared {
    /// To be kept until the outcome is there.
    pub flight: Flight,
    group: GroupId,
    ask: Ask,
}

/// What is asked of the group.
#[derive(Debug)]
enum Ask {
    Apply { command: Bytes, takes_away: bool },
    Read(ReadMode),
}

impl Prepared {
    /// The request to submit, and the flight to keep.
    pub fn split(self, reply: Reply) -> (Request, Flight) {
        let group = self.group;
        let request = match self.ask {
            Ask::Apply { command, takes_away } => {
                Request::Propose { group, command, takes_away, reply }
            }
            Ask::Read(mode) => Request::ReadBarrier { group, mode, reply },
        };
        (request, self.flight)
    }
}

/// What an outcome asks for.
pub enum Step {
    /// The response is there.
    Done(pb::Response),
    /// Read now: see [`Core::read`].
    Read(Flight),
}

impl Flight {
    /// Whether the read is so long that it must not run on a network thread.
    pub fn blocks(&self) -> bool {
        matches!(&self.work, Work::Scan(range)
            if range.limit == 0 || range.limit > SCAN_RECORDS_INLINE)
    }

    /// The region asked for.
    pub fn region(&self) -> u64 {
        self.region
    }
}

impl Core {
    pub(super) fn new(
        store: Store,
        machine: Arc<KvStateMachine>,
        directory: Arc<Directory>,
    ) -> Arc<Self> {
        let reader = Reader::new(machine.clone());
        Arc::new(Core { store, machine, directory, reader })
    }

    /// A request for another cluster is not served.
    pub(super) fn check_cluster(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(named) = metadata.get(CLUSTER_METADATA) else {
            return Ok(());
        };
        let own = self.directory.cluster().to_string();
        if named.as_bytes() == own.as_bytes() {
            return Ok(());
        }
        let named = String::from_utf8_lossy(named.as_bytes());
        let store = self.directory.store();
        Err(Status::failed_precondition(format!(
            "the request is for cluster {named}, store {store} belongs to cluster {own}"
        )))
    }

    /// Checks limits, region and epoch.
    pub(super) fn prepare(&self, request: pb::Request) -> Result<Prepared, Box<pb::Error>> {
        let id = request.id;
        let region = request.region;
        let epoch = epoch_of(request.epoch);
        let invalid = |message: String| Box::new(error(Kind::Invalid, message));
        let Some(meta) = self.machine.region(region) else {
            return Err(Box::new(self.no_region(region)));
        };
        if meta.epoch.version != epoch.version {
            return Err(Box::new(self.epoch_not_match(region)));
        }
        let mode = read_mode(request.consistency, request.staleness_ms_max).map_err(invalid)?;
        let (work, ask, bytes) = match (request.gets, request.scan) {
            (None, None) if mode != ReadMode::Linearizable => {
                return Err(invalid("consistency is set, and neither gets nor scan".to_owned()));
            }
            (None, None) => {
                let takes_away = check_batch(&request.writes).map_err(invalid)? == 0;
                let command = Command { region, epoch, batch: request.writes }.encode();
                let bytes = command.len();
                (Work::Write, Ask::Apply { command, takes_away }, bytes)
            }
            (gets, scan) if !request.writes.is_empty() || (gets.is_some() && scan.is_some()) => {
                return Err(invalid("more than one of writes, gets, scan is set".to_owned()));
            }
            (Some(gets), _) => {
                let bytes = check_keys(&gets.keys).map_err(invalid)?;
                (Work::Gets(gets.keys), Ask::Read(mode), bytes)
            }
            (None, Some(scan)) => {
                let bytes = scan.start.len() + scan.end.len();
                (Work::Scan(range(scan).map_err(invalid)?), Ask::Read(mode), bytes)
            }
        };
        let flight = Flight { id, bytes, region, epoch, work };
        Ok(Prepared { flight, group: meta.group, ask })
    }

    /// What the outcome of a submitted request means.
    pub(super) fn outcome(&self, flight: Flight, outcome: Outcome) -> Step {
        let id = flight.id;
        let error = match outcome {
            Ok(Answer::ReadReady) => return Step::Read(flight),
            Ok(Answer::Applied(bytes)) => match Written::decode(&bytes) {
                Some(Written::Written(revision)) => {
                    return Step::Done(pb::Response { id, revision, ..pb::Response::default() });
                }
                Some(Written::Refused(refusal)) => self.refusal(flight.region, refusal),
                None => error(Kind::Unknown, "the state machine's answer cannot be read"),
            },
            Ok(Answer::Accepted | Answer::SnapshotMade { .. }) => {
                error(Kind::Unknown, "the answer is for another request")
            }
            Err(cause) => self.raft_error(flight.region, &cause),
        };
        Step::Done(refused(id, error))
    }

    /// Serves reads whose barrier was passed, those of one region at one moment. May block on the
    /// disk.
    pub(super) fn read(&self, mut flights: Vec<Flight>, mut done: impl FnMut(pb::Response)) {
        flights.sort_by_key(Flight::region);
        for of_region in flights.chunk_by(|a, b| a.region == b.region) {
            let region = of_region[0].region;
            let view = self.reader.open(region);
            for flight in of_region {
                let response = match &view {
                    Ok(view) => read_one(view, flight),
                    Err(error) => Err(error.clone()),
                };
                done(match response {
                    Ok(response) => pb::Response { id: flight.id, ..response },
                    Err(cause) => refused(flight.id, self.read_error(region, cause)),
                });
            }
        }
    }
}

fn read_one(view: &RegionView<'_>, flight: &Flight) -> Result<pb::Response, ReadError> {
    match &flight.work {
        Work::Gets(keys) => view.gets(flight.epoch, keys).map(|gets| gets_to_pb(keys, gets)),
        Work::Scan(range) => view.scan(flight.epoch, range).map(page_to_pb),
        Work::Write => unreachable!("a write is answered by its apply, not by a barrier"),
    }
}

fn gets_to_pb(keys: &[Bytes], gets: Gets) -> pb::Response {
    let more = gets.records.len() < keys.len();
    let records = keys
        .iter()
        .zip(gets.records)
        .map(|(key, record)| match record {
            Some(record) => pb::Record {
                key: key.clone(),
                found: true,
                value: record.value,
                mod_revision: record.revision,
            },
            None => pb::Record { key: key.clone(), ..pb::Record::default() },
        })
        .collect();
    pb::Response { revision: gets.revision, records, more, ..pb::Response::default() }
}

fn page_to_pb(page: Page) -> pb::Response {
    let records = page
        .records
        .into_iter()
        .map(|(key, record)| pb::Record {
            key,
            found: true,
            value: record.value,
            mod_revision: record.revision,
        })
        .collect();
    let (revision, more) = (page.revision, page.more);
    pb::Response { revision, records, more, ..pb::Response::default() }
}

fn read_mode(consistency: i32, staleness_ms_max: u64) -> Result<ReadMode, String> {
    let known = Consistency::try_from(consistency).map_err(|_| {
        format!("consistency: {consistency} is none of 0 (linearizable) to 3 (stale)")
    })?;
    let mode = match known {
        Consistency::Linearizable => ReadMode::Linearizable,
        Consistency::Lease => ReadMode::Lease,
        Consistency::Follower => ReadMode::Follower,
        Consistency::Stale if staleness_ms_max == 0 => {
            return Err("staleness_ms_max: 0; a stale read needs a bound of at least 1".to_owned());
        }
        Consistency::Stale => {
            let bound = Nanos(staleness_ms_max.saturating_mul(1_000_000));
            return Ok(ReadMode::Stale { bound });
        }
    };
    match staleness_ms_max {
        0 => Ok(mode),
        _ => Err(format!("staleness_ms_max: {staleness_ms_max}; it is for stale reads only")),
    }
}

fn check_keys(keys: &[Bytes]) -> Result<usize, String> {
    let mut bytes = 0;
    for (number, key) in keys.iter().enumerate() {
        check_key("keys", key).map_err(|e| format!("gets[{number}].{e}"))?;
        bytes += key.len();
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(format!("gets.keys: {bytes} bytes, at most {BATCH_BYTES_MAX} a request"));
    }
    Ok(bytes)
}

/// A bound may be one byte longer than a key: the key after the longest.
fn range(scan: pb::Scan) -> Result<Range, String> {
    for (field, bound) in [("start", &scan.start), ("end", &scan.end)] {
        if bound.len() > KEY_BYTES_MAX + 1 {
            let (bytes, max) = (bound.len(), KEY_BYTES_MAX + 1);
            return Err(format!("scan.{field}: {bytes} bytes, at most {max}"));
        }
    }
    Ok(Range {
        start: scan.start,
        end: scan.end,
        limit: scan.limit as usize,
        bytes_max: scan.bytes_max as usize,
    })
}
