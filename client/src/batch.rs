//! Packs queued operations into frames, remembers who waits for what, and matches the answers.
//!
//! Runs inside a lane's task, without locks. In: jobs from the lane's queue and responses from the
//! store. Out: request frames, and every job answered exactly once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::encoding::{self, WireType};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::consistency::Consistency;
use crate::operation::{Answer, Job, Operation, Range};
use crate::pb;

/// A frame is closed when it holds this many bytes of keys and values; far below every receiver's
/// limit, and so small that one frame does not hold up the next for long.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// A frame that is not full is sent when it would be at least one of so many that share all that
/// is in flight. Fewer: larger frames and less CPU an operation (8 clients batched: 12 % more
/// operations with 4 than without a limit, 30 % more with 2).
const FRAMES_IN_FLIGHT: usize = 2;
/// Writes of one region that a frame makes room for at first; the buffer doubles beyond.
const WRITES_EXPECTED: usize = 8;
/// Bytes that tags and lengths add to a write, at most.
const WRITE_OVERHEAD: usize = 24;

/// The requests of one stream that wait for their answers.
pub(crate) struct Pending {
    flights: FxHashMap<u64, Flight>,
    /// Not one before: no flight expires earlier. Makes most sweeps free.
    earliest: Option<Instant>,
    next_id: u64,
    ops_max: usize,
    /// Operations in `flights`, given-up ones among them.
    ops: usize,
}

/// One request in flight. The position of a job is the position of its operation in the request.
struct Flight {
    region: u64,
    kind: Kind,
    jobs: Vec<Option<Job>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Writes,
    Gets,
    Scan,
}

/// A request that still takes operations.
struct Open {
    epoch: pb::Epoch,
    consistency: Consistency,
    writes: BytesMut,
    keys: Vec<Bytes>,
    scan: Option<pb::Scan>,
    flight: Flight,
}

impl Pending {
    /// `ops_max`: operations in one frame at most.
    pub(crate) fn new(ops_max: usize) -> Self {
        assert!(ops_max > 0, "a frame must hold at least one operation");
        Pending { flights: FxHashMap::default(), earliest: None, next_id: 1, ops_max, ops: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether `queued` operations should wait for company: their frame would be small, and
    /// answers are under way that send it or bring it more.
    pub(crate) fn awaits_company(&self, queued: usize) -> bool {
        queued < self.ops_max && queued * FRAMES_IN_FLIGHT < self.ops
    }

    /// Takes the next frame's worth from the queue's front. `None` when nobody in the queue waits
    /// any longer.
    pub(crate) fn pack(&mut self, queue: &mut VecDeque<Job>) -> Option<pb::RequestFrame> {
        let mut open: Vec<Open> = Vec::with_capacity(queue.len().min(self.ops_max).min(16));
        let mut ops = 0;
        let mut bytes = 0;
        while ops < self.ops_max {
            let Some(job) = queue.front() else { break };
            let size = job.operation.bytes();
            if ops > 0 && bytes + size > FRAME_BYTES_MAX {
                break;
            }
            let job = queue.pop_front().expect("the queue's front was just seen");
            if job.caller.is_gone() {
                continue;
            }
            self.earliest = Some(self.earliest.map_or(job.expires, |at| at.min(job.expires)));
            let joining = (queue.len() + 1).min(self.ops_max - ops).min(WRITES_EXPECTED);
            add(&mut open, job, size, joining);
            ops += 1;
            bytes += size;
        }
        if open.is_empty() {
            return None;
        }
        let requests = open.into_iter().map(|request| self.close(request)).collect();
        Some(pb::RequestFrame { requests })
    }

    /// Gives the request its id and remembers who waits for it.
    fn close(&mut self, open: Open) -> pb::Request {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = pb::Request {
            id,
            region: open.flight.region,
            epoch: Some(open.epoch),
            writes: open.writes.freeze(),
            gets: (open.flight.kind == Kind::Gets).then_some(pb::Gets { keys: open.keys }),
            scan: open.scan,
            ..pb::Request::default()
        };
        open.consistency.mark(&mut request);
        self.ops += open.flight.jobs.len();
        self.flights.insert(id, open.flight);
        request
    }

    /// Answers everybody who waited for this response. One that nobody waits for is dropped: it
    /// came after its deadline.
    pub(crate) fn answer(&mut self, response: pb::Response) {
        let Some(flight) = self.flights.remove(&response.id) else { return };
        self.ops -= flight.jobs.len();
        flight.answer(response);
    }

    /// Gives up every job whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.earliest.is_none_or(|at| at > now) {
            return;
        }
        let reason: Arc<str> = "sent, but no answer came in time".into();
        let mut earliest: Option<Instant> = None;
        self.flights.retain(|_, flight| {
            for slot in &mut flight.jobs {
                match slot {
                    Some(job) if job.expires <= now => {
                        slot.take().expect("the slot was just seen").lost(reason.clone());
                    }
                    Some(job) => {
                        earliest = Some(earliest.map_or(job.expires, |at| at.min(job.expires)));
                    }
                    None => {}
                }
            }
            let waited_for = flight.jobs.iter().any(Option::is_some);
            self.ops -= if waited_for { 0 } else { flight.jobs.len() };
            waited_for
        });
        self.earliest = earliest;
    }

    /// The stream broke: nobody gets an answer any more.
    pub(crate) fn lose_all(&mut self, reason: &Arc<str>) {
        self.earliest = None;
        self.ops = 0;
        for (_, flight) in self.flights.drain() {
            flight.lose(reason);
        }
    }
}

impl Flight {
    fn lose(self, reason: &Arc<str>) {
        for job in self.jobs.into_iter().flatten() {
            job.lost(reason.clone());
        }
    }

    fn answer(self, response: pb::Response) {
        let region = self.region;
        let revision = response.revision;
        if let Some(error) = response.error {
            let error = Arc::new(error);
            for job in self.jobs.into_iter().flatten() {
                job.refused(error.clone());
            }
            return;
        }
        match self.kind {
            // The answer carries the last write's revision; every write counts one.
            Kind::Writes => {
                let count = self.jobs.len() as u64;
                for (position, job) in self.jobs.into_iter().enumerate() {
                    let behind = count - 1 - position as u64;
                    if let Some(job) = job {
                        job.done(Answer::Written {
                            region,
                            revision: revision.saturating_sub(behind),
                        });
                    }
                }
            }
            Kind::Gets if response.more && response.records.len() < self.jobs.len() => {
                // A long answer holds the first records only: the others are asked for again.
                let full = Arc::new(pb::Error {
                    kind: pb::error::Kind::Busy.into(),
                    message: "the answer was full".to_owned(),
                    ..Default::default()
                });
                let mut records = response.records.into_iter();
                for job in self.jobs {
                    match (job, records.next()) {
                        (Some(job), Some(record)) => {
                            job.done(Answer::Got { region, revision, record });
                        }
                        (Some(job), None) => job.refused(full.clone()),
                        (None, _) => {}
                    }
                }
            }
            Kind::Gets if response.records.len() != self.jobs.len() => {
                let reason = format!(
                    "the store answered {} records to {} gets",
                    response.records.len(),
                    self.jobs.len()
                );
                self.lose(&reason.into());
            }
            Kind::Gets => {
                for (job, record) in self.jobs.into_iter().zip(response.records) {
                    if let Some(job) = job {
                        job.done(Answer::Got { region, revision, record });
                    }
                }
            }
            Kind::Scan => {
                if let Some(job) = self.jobs.into_iter().flatten().next() {
                    job.done(Answer::page(region, response));
                }
            }
        }
    }
}

/// Adds the job to the open request of its region, epoch, kind and consistency, or opens one with room for
/// `joining` writes like this one.
fn add(open: &mut Vec<Open>, job: Job, size: usize, joining: usize) {
    let kind = match job.operation {
        Operation::Put { .. } | Operation::Delete { .. } => Kind::Writes,
        Operation::Get { .. } => Kind::Gets,
        Operation::Scan(_) => Kind::Scan,
    };
    let consistency = job.operation.consistency();
    let position = open.iter().position(|request| {
        request.flight.kind == kind
            && kind != Kind::Scan
            && request.flight.region == job.region
            && request.epoch == job.epoch
            && request.consistency == consistency
    });
    let position = position.unwrap_or_else(|| {
        open.push(Open {
            epoch: job.epoch,
            consistency,
            writes: match kind {
                Kind::Writes => {
                    let one = size + WRITE_OVERHEAD;
                    BytesMut::with_capacity((one * joining).min(FRAME_BYTES_MAX.max(one)))
                }
                Kind::Gets | Kind::Scan => BytesMut::new(),
            },
            keys: Vec::new(),
            scan: None,
            flight: Flight { region: job.region, kind, jobs: Vec::new() },
        });
        open.len() - 1
    });
    let request = &mut open[position];
    match &job.operation {
        Operation::Put { key, value } => encode_write(key, Some(value), &mut request.writes),
        Operation::Delete { key } => encode_write(key, None, &mut request.writes),
        Operation::Get { key, .. } => request.keys.push(key.clone()),
        Operation::Scan(range) => request.scan = Some(page_of(range)),
    }
    request.flight.jobs.push(Some(job));
}

fn page_of(range: &Range) -> pb::Scan {
    pb::Scan {
        start: range.start.clone(),
        end: range.until.clone(),
        limit: range.limit,
        bytes_max: 0,
    }
}

/// Appends one `Write` as a member of `WriteBatch.writes`, without building the message: the same
/// bytes that prost would write.
fn encode_write(key: &Bytes, value: Option<&Bytes>, out: &mut BytesMut) {
    let length = encoding::bytes::encoded_len(1, key)
        + value.map_or(0, |value| encoding::bytes::encoded_len(2, value));
    encoding::encode_key(1, WireType::LengthDelimited, out);
    encoding::encode_varint(length as u64, out);
    encoding::bytes::encode(1, key, out);
    if let Some(value) = value {
        encoding::bytes::encode(2, value, out);
    }
}

/// The request that carries one operation alone, as unary calls send it.
pub(crate) fn single(operation: &Operation, region: u64, epoch: pb::Epoch) -> pb::Request {
    let mut request = pb::Request { id: 1, region, epoch: Some(epoch), ..Default::default() };
    match operation {
        Operation::Put { key, value } => {
            let mut writes = BytesMut::with_capacity(operation.bytes() + WRITE_OVERHEAD);
            encode_write(key, Some(value), &mut writes);
            request.writes = writes.freeze();
        }
        Operation::Delete { key } => {
            let mut writes = BytesMut::with_capacity(operation.bytes() + WRITE_OVERHEAD);
            encode_write(key, None, &mut writes);
            request.writes = writes.freeze();
        }
        Operation::Get { key, .. } => request.gets = Some(pb::Gets { keys: vec![key.clone()] }),
        Operation::Scan(range) => request.scan = Some(page_of(range)),
    }
    operation.consistency().mark(&mut request);
    request
}

#[cfg(test)]
#[path = "batch_test.rs"]
mod tests;
