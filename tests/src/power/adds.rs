//! Unique keys, each written once: what was acknowledged is in every later read.

use crate::history::OPEN;
use crate::history::set::{self, Add, Added, Read};
use flotilla_client::{Client, Error};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const WORKERS: usize = 4;
/// Between two adds of a worker.
const PAUSE: Duration = Duration::from_millis(8);
const TIMEOUT: Duration = Duration::from_secs(4);
/// A read of everything goes through all regions; some of them may have to elect first.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// At the end of keys of this workload: no other one's keys are so long.
const MARK: &[u8] = b"-add";

/// The running workload.
pub struct Adds {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// What the last read showed must be in the next one, too.
    last: Option<Read>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    moment: AtomicU64,
    /// Element N is at N.
    adds: Mutex<Vec<Add>>,
}

/// What came of all adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    /// Acknowledged.
    pub acknowledged: usize,
    /// Nobody knows.
    pub unknown: usize,
    /// Refused, or never sent.
    pub refused: usize,
}

impl Adds {
    /// Starts the workers on the current tokio runtime.
    #[must_use]
    pub fn start(client: &Client) -> Adds {
        let shared = Arc::new(Shared::default());
        let client = client.with_timeout(TIMEOUT);
        let worker = |_| tokio::spawn(work(client.clone(), Arc::clone(&shared)));
        let workers = (0..WORKERS).map(worker).collect();
        Adds { shared, workers, last: None }
    }

    /// Reads all that was ever added and judges it against what was acknowledged.
    ///
    /// # Errors
    /// What is lost, vanished or unexpected; or why it cannot be read.
    pub async fn check(&mut self, client: &Client) -> Result<(), String> {
        let invoked = self.shared.next_moment();
        let mut scanner = client.with_timeout(READ_TIMEOUT).scanner("", "");
        let mut elements = Vec::new();
        while let Some(page) = scanner.page().await.map_err(|e| format!("the read of all: {e}"))? {
            for record in page.records.iter().filter(|record| record.key.ends_with(MARK)) {
                let element = std::str::from_utf8(&record.value).ok().and_then(|v| v.parse().ok());
                match element {
                    Some(element) if record.key == key(element) => elements.push(element),
                    _ => return Err(format!("{:?} holds {:?}", record.key, record.value)),
                }
            }
        }
        let read = Read { elements, invoked, completed: self.shared.next_moment() };
        let reads: Vec<Read> = self.last.take().into_iter().chain([read]).collect();
        let complaint = set::check(&self.shared.adds.lock(), &reads).complaint();
        self.last = reads.into_iter().next_back();
        complaint.map_or(Ok(()), Err)
    }

    /// Ends the workers.
    pub async fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.await.expect("a worker does not panic");
        }
    }

    /// What came of the adds so far; those under way are unknown.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for add in self.shared.adds.lock().iter() {
            match add.added {
                Added::Yes => outcomes.acknowledged += 1,
                Added::No => outcomes.refused += 1,
                Added::Unknown => outcomes.unknown += 1,
            }
        }
        outcomes
    }
}

impl Drop for Adds {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn next_moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    /// Known from before it is asked: a read may show it before its answer is here.
    fn begin(&self) -> u64 {
        let mut adds = self.adds.lock();
        let element = adds.len() as u64;
        let invoked = self.next_moment();
        adds.push(Add { element, invoked, completed: OPEN, added: Added::Unknown });
        element
    }

    fn end(&self, element: u64, added: Added) {
        let mut adds = self.adds.lock();
        let add = &mut adds[usize::try_from(element).expect("elements are counted in memory")];
        add.added = added;
        add.completed = self.next_moment();
    }
}

async fn work(client: Client, shared: Arc<Shared>) {
    while !shared.stopped.load(Ordering::Relaxed) {
        let element = shared.begin();
        match client.put(key(element), element.to_string()).await {
            Ok(_) => shared.end(element, Added::Yes),
            Err(Error::Unknown { .. }) => {}
            Err(Error::NotApplied { .. } | Error::Unavailable { .. }) => {
                shared.end(element, Added::No);
            }
            Err(error @ Error::Invalid { .. }) => panic!("a correct write is refused: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Spread over the byte space, so that all regions are used.
fn key(element: u64) -> Vec<u8> {
    let mixed = element.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [&mixed.to_be_bytes()[..], &element.to_be_bytes(), MARK].concat()
}
