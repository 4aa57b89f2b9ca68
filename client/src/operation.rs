//! One operation on its way: what is asked, who waits for it, and how one attempt can end.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::consistency::Consistency;
use crate::pipeline::Tagged;
use crate::{Error, Result, pb};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// What the caller asks for. Owned by exactly one place at a time, and handed back when an attempt
/// fails, so that a retry copies nothing.
#[derive(Debug)]
pub(crate) enum Operation {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    Get {
        key: Bytes,
        consistency: Consistency,
    },
    /// Boxed, because it is rare and would make every operation larger.
    Scan(Box<Range>),
}

/// What a scan asks for.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) start: Bytes,
    /// Empty = to the end of all keys.
    pub(crate) end: Bytes,
    /// `end` cut to the region that is asked; every attempt sets it anew.
    pub(crate) until: Bytes,
    /// Records at most; 0 = the server's limit.
    pub(crate) limit: u32,
    pub(crate) consistency: Consistency,
}

impl Operation {
    /// The key whose region serves the operation.
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } | Operation::Get { key, .. } => {
                key
            }
            Operation::Scan(range) => &range.start,
        }
    }

    /// What a read must see; writes have the default.
    pub(crate) fn consistency(&self) -> Consistency {
        match self {
            Operation::Get { consistency, .. } => *consistency,
            Operation::Scan(range) => range.consistency,
            Operation::Put { .. } | Operation::Delete { .. } => Consistency::default(),
        }
    }

    /// Cuts a scan to the region that will be asked.
    pub(crate) fn cut(&mut self, region_end: &Bytes) {
        if let Operation::Scan(range) = self {
            let Range { end, until, .. } = &mut **range;
            let region_ends_first =
                !region_end.is_empty() && (end.is_empty() || region_end < &*end);
            *until = if region_ends_first { region_end.clone() } else { end.clone() };
        }
    }

    /// Reads may be asked again whatever happened to the attempt before.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Operation::Get { .. } | Operation::Scan(_))
    }

    /// Roughly what it adds to a frame.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Delete { key } | Operation::Get { key, .. } => key.len(),
            Operation::Scan(range) => range.start.len() + range.end.len(),
        }
    }

    /// The limits of the contract, checked before anything is sent.
    pub(crate) fn check(&self) -> Result<()> {
        if let stale @ Consistency::Stale(bound) = self.consistency()
            && stale.staleness_ms_max() == 0
        {
            return Err(Error::invalid(format!("a bound of {bound:?}: at least 1 ms is needed")));
        }
        match self {
            Operation::Put { key, value } => {
                check_key(key)?;
                if value.len() > VALUE_BYTES_MAX {
                    return Err(Error::invalid(format!(
                        "value of {} bytes, at most {VALUE_BYTES_MAX} are allowed",
                        value.len()
                    )));
                }
                Ok(())
            }
            Operation::Delete { key } | Operation::Get { key, .. } => check_key(key),
            // A start may be empty, and one byte longer than a key: "just after this key".
            Operation::Scan(range) => {
                for bound in [&range.start, &range.end] {
                    if bound.len() > KEY_BYTES_MAX + 1 {
                        return Err(Error::invalid(format!(
                            "scan bound of {} bytes, keys have at most {KEY_BYTES_MAX}",
                            bound.len()
                        )));
                    }
                }
                Ok(())
            }
        }
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::invalid("the key is empty")),
        length if length > KEY_BYTES_MAX => Err(Error::invalid(format!(
            "key of {length} bytes, at most {KEY_BYTES_MAX} are allowed"
        ))),
        _ => Ok(()),
    }
}

/// One attempt of one operation, queued for a store. Whoever holds it answers it exactly once;
/// dropping it counts as [`Outcome::Lost`] for the waiting caller.
pub(crate) struct Job {
    pub(crate) operation: Operation,
    pub(crate) region: u64,
    pub(crate) epoch: pb::Epoch,
    /// When this attempt is given up.
    pub(crate) expires: Instant,
    pub(crate) caller: Caller,
}

/// Who waits for the outcome of an attempt.
pub(crate) enum Caller {
    /// The future of one call.
    Call(oneshot::Sender<Outcome>),
    /// A pipeline, which takes many outcomes at a time.
    Pipeline(Tagged),
}

impl Caller {
    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Caller::Call(answer) => answer.is_closed(),
            Caller::Pipeline(answer) => answer.is_closed(),
        }
    }

    fn send(self, outcome: Outcome) {
        match self {
            // The caller may have gone away; then nobody wants the answer.
            Caller::Call(answer) => drop(answer.send(outcome)),
            Caller::Pipeline(answer) => answer.send(outcome),
        }
    }
}

impl Job {
    pub(crate) fn done(self, answer: Answer) {
        self.caller.send(Outcome::Done(answer));
    }

    pub(crate) fn refused(self, error: Arc<pb::Error>) {
        self.caller.send(Outcome::Refused(self.operation, error));
    }

    pub(crate) fn unsent(self, reason: Arc<str>) {
        self.caller.send(Outcome::Unsent(self.operation, reason));
    }

    pub(crate) fn lost(self, reason: Arc<str>) {
        self.caller.send(Outcome::Lost(self.operation, reason));
    }
}

/// How one attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Answer),
    /// The server answered that it did nothing, or (kind UNKNOWN) that it does not know.
    Refused(Operation, Arc<pb::Error>),
    /// It never left this process.
    Unsent(Operation, Arc<str>),
    /// It was sent and there is no answer.
    Lost(Operation, Arc<str>),
}

impl Answer {
    /// The region's end is filled in by whoever knows the region.
    pub(crate) fn page(region: u64, response: pb::Response) -> Self {
        Answer::Page {
            region,
            revision: response.revision,
            records: response.records,
            more: response.more,
            region_end: Bytes::new(),
        }
    }
}

/// What a server answered to one operation.
#[derive(Debug)]
pub(crate) enum Answer {
    Written { region: u64, revision: u64 },
    Got { region: u64, revision: u64, record: pb::Record },
    Page { region: u64, revision: u64, records: Vec<pb::Record>, more: bool, region_end: Bytes },
}
