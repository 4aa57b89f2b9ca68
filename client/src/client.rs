//! The handle that callers hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::builder::ClientBuilder;
use crate::consistency::Consistency;
use crate::operation::{Answer, Operation};
use crate::pipeline::Pipeline;
use crate::route::Router;
use crate::scan::{Record, Scanner};
use crate::{Error, Refusal, Result, pb, retry};

/// A handle to a cluster. Cheap to clone; all clones share connections and routes. Dropping a call's
/// future gives the call up: a write may or may not be applied then.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    timeout: Duration,
    consistency: Consistency,
}

/// What all clones of a handle share.
pub(crate) struct Core {
    pub(crate) router: Router,
    in_flight: AtomicUsize,
    in_flight_max: usize,
}

/// The receipt of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The region that holds the key.
    pub region: u64,
    /// The region's count of writes after this one.
    pub revision: u64,
}

/// The answer to a read of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The value, if the key exists. It may be empty.
    pub value: Option<Bytes>,
    /// The region's revision that wrote the record; 0 if the key does not exist.
    pub mod_revision: u64,
    /// The region that holds the key.
    pub region: u64,
    /// The region's revision at the moment of the read.
    pub revision: u64,
}

impl Got {
    /// Whether the key exists.
    pub fn found(&self) -> bool {
        self.value.is_some()
    }
}

impl Client {
    /// Connects with default settings; see [`ClientBuilder::connect`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none of the addresses answers within 5 s.
    pub async fn connect<A: AsRef<str>>(addresses: &[A]) -> Result<Client> {
        ClientBuilder::default().connect(addresses).await
    }

    /// Settings other than the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(router: Router, timeout: Duration, in_flight_max: usize) -> Self {
        let core = Core { router, in_flight: AtomicUsize::new(0), in_flight_max };
        Client { core: Arc::new(core), timeout, consistency: Consistency::default() }
    }

    /// The same client with another deadline for its calls.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The same client with other reads: gets, scans and those of its pipelines.
    pub fn with_consistency(&self, consistency: Consistency) -> Client {
        Client { consistency, ..self.clone() }
    }

    /// Sets the key (1 B to 4 KiB) to the value (at most 1 MiB, may be empty). When it returns `Ok`,
    /// the write is durable on a majority and every later read sees it.
    ///
    /// # Errors
    /// Every variant of [`Error`]; after [`Error::Unknown`] the write may take effect, even later.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written> {
        let operation = Operation::Put { key: key.into(), value: value.into() };
        self.execute(operation, self.timeout).await.and_then(Answer::written)
    }

    /// Removes the key; also `Ok` when it does not exist.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written> {
        let operation = Operation::Delete { key: key.into() };
        self.execute(operation, self.timeout).await.and_then(Answer::written)
    }

    /// Reads the key: it sees every write that ended before this call started, unless
    /// [`with_consistency`](Self::with_consistency) says otherwise.
    ///
    /// # Errors
    /// Every variant of [`Error`] but [`Error::Unknown`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Got> {
        let operation = Operation::Get { key: key.into(), consistency: self.consistency };
        self.execute(operation, self.timeout).await.and_then(Answer::got)
    }

    /// Reads the records with `start <= key < end` in key order, at most `limit` (0 = all); an empty
    /// `end` means to the end of all keys. The whole result is held in memory and shares one
    /// deadline; for long ranges use [`scanner`](Self::scanner). Each page is one read; pages and
    /// regions are read one after the other, not at one moment.
    ///
    /// # Errors
    /// Every variant of [`Error`] but [`Error::Unknown`].
    pub async fn scan(
        &self,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let deadline = Instant::now() + self.timeout;
        let mut scanner = self.scanner(start, end).limit(limit);
        let mut records = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match scanner.page_within(left).await? {
                Some(page) => records.extend(page.records),
                None => return Ok(records),
            }
        }
    }

    /// Reads a range page by page, each with its own deadline. `end` empty = to the end of all keys.
    pub fn scanner(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Scanner {
        Scanner::new(self.clone(), start.into(), end.into())
    }

    /// A way to have many operations in flight from one task, cheaper than a future for each. Shares
    /// connections, routes and limits with this client.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.core.clone(), self.timeout, self.consistency)
    }

    /// Asks a server now for all regions and stores that it knows.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no address answers in time.
    pub async fn routes(&self) -> Result<pb::RoutesResponse> {
        self.routes_by(Instant::now() + self.timeout).await
    }

    pub(crate) async fn routes_by(&self, deadline: Instant) -> Result<pb::RoutesResponse> {
        self.core.router.fetch(deadline).await
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.core.router.seeds().to_vec()
    }

    /// A message for one call, which names the cluster.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.core.router.shared.request(message)
    }

    pub(crate) fn consistency(&self) -> Consistency {
        self.consistency
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Not an `async fn`: each layer of those copies the operation once more.
    pub(crate) fn execute(
        &self,
        operation: Operation,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer>> {
        let ticket = Ticket::take(&self.core);
        async move {
            let _ticket = ticket?;
            retry::run(&self.core.router, operation, timeout).await
        }
    }
}

impl Answer {
    pub(crate) fn written(self) -> Result<Written> {
        match self {
            Answer::Written { region, revision } => Ok(Written { region, revision }),
            other => Err(mismatch(&other)),
        }
    }

    pub(crate) fn got(self) -> Result<Got> {
        match self {
            Answer::Got { region, revision, record } => Ok(Got {
                value: record.found.then_some(record.value),
                mod_revision: record.mod_revision,
                region,
                revision,
            }),
            other => Err(mismatch(&other)),
        }
    }
}

/// A lane answers an operation in its own shape; anything else is a bug of this crate.
pub(crate) fn mismatch(answer: &Answer) -> Error {
    Error::unknown(format!("answer of another operation: {answer:?}"))
}

impl Core {
    /// Takes a place among the operations in flight, to be given back whatever this returns.
    pub(crate) fn take_one(&self) -> Result<()> {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < self.in_flight_max {
            return Ok(());
        }
        Err(Error::NotApplied {
            kind: Refusal::Busy,
            message: format!("{} operations of this client are in flight", self.in_flight_max),
        })
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.in_flight.fetch_sub(count, Ordering::Relaxed);
    }
}

/// One operation's place among those in flight; given back when dropped.
struct Ticket<'a>(&'a Core);

impl<'a> Ticket<'a> {
    fn take(core: &'a Core) -> Result<Self> {
        let ticket = Ticket(core);
        core.take_one().map(|()| ticket)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}
