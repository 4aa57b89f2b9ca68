//! A register workload over the client crate: unique values, several clients a key, everything
//! recorded, judged by the checkers of [`crate::history`].
//!
//! Keys rotate with every fault, so that histories stay short enough for the search and an open
//! write of one fault does not weigh on the next.

use crate::history::{Action, OPEN, Operation, Outcome, linearizability, revision};
use flotilla_client::{Client, Error, Got, Written};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const WORKERS: u64 = 12;
/// Keys in use at a time; a worker uses every fourth, so each key has three clients.
const KEYS: u64 = 24;
const KEY_STEP: u64 = 4;
/// Between two operations of a worker: keeps a history of minutes checkable in seconds.
const PAUSE: Duration = Duration::from_millis(4);
const TIMEOUT: Duration = Duration::from_secs(4);

/// The running workload.
pub struct Load {
    recorder: Arc<Recorder>,
    workers: Vec<JoinHandle<()>>,
}

/// What happened so far.
#[derive(Default)]
struct Recorder {
    stopped: AtomicBool,
    moment: AtomicU64,
    value: AtomicU64,
    /// Which set of keys is in use.
    turn: AtomicU64,
    written: AtomicU64,
    /// With the region that answered, if one did.
    operations: Mutex<Vec<(Option<u64>, Operation)>>,
}

/// Figures of a judged history.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Writes that were acknowledged.
    pub written: usize,
    /// Reads that were answered.
    pub read: usize,
    /// Writes without a certain outcome.
    pub unknown: usize,
    /// Refused, or never sent.
    pub not_applied: usize,
    /// Keys judged.
    pub keys: usize,
}

impl Load {
    /// Starts the workers on the current tokio runtime.
    #[must_use]
    pub fn start(client: &Client) -> Load {
        let recorder = Arc::new(Recorder::default());
        let client = client.with_timeout(TIMEOUT);
        let workers = (0..WORKERS)
            .map(|worker| tokio::spawn(work(worker, client.clone(), Arc::clone(&recorder))))
            .collect();
        Load { recorder, workers }
    }

    /// Goes on with a fresh set of keys.
    pub fn rotate_keys(&self) {
        self.recorder.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.recorder.written.load(Ordering::Relaxed)
    }

    /// Operations so far of which nobody knows whether they took place.
    #[must_use]
    pub fn unknown(&self) -> usize {
        let operations = self.recorder.operations.lock();
        operations.iter().filter(|(_, o)| o.outcome == Outcome::Unknown).count()
    }

    /// Waits until `count` more writes are acknowledged and gives the time that took.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn wait_written(&self, count: u64, limit: Duration) -> Duration {
        let (start, before) = (Instant::now(), self.written());
        while self.written() < before + count {
            assert!(
                start.elapsed() < limit,
                "{} of {count} writes acknowledged within {limit:?}",
                self.written() - before
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    }

    /// Ends the workers, reads every key that was ever written once more, and judges all.
    ///
    /// # Panics
    /// With the checkers' words when a write was lost, a read was stale, or anything else is not
    /// linearizable; and when a key cannot be read.
    pub async fn stop_and_check(self, client: &Client) -> Summary {
        self.recorder.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.expect("a worker does not panic");
        }
        let keys = (self.recorder.turn.load(Ordering::Relaxed) + 1) * KEYS;
        for key in 0..keys {
            let outcome = self.recorder.read(u32::MAX, key, client).await;
            assert!(
                matches!(outcome, Outcome::Read { .. }),
                "final read of key {key}: {outcome:?}"
            );
        }
        let operations = std::mem::take(&mut *self.recorder.operations.lock());
        judge(&operations);
        summary(&operations)
    }
}

async fn work(worker: u64, client: Client, recorder: Arc<Recorder>) {
    let process = u32::try_from(worker).expect("few workers");
    let mut turn = worker;
    while !recorder.stopped.load(Ordering::Relaxed) {
        let set = recorder.turn.load(Ordering::Relaxed) * KEYS;
        let key = set + (worker % KEY_STEP) + KEY_STEP * (turn % (KEYS / KEY_STEP));
        // Each worker goes over its keys in its own rhythm of writes and reads.
        if (turn / (KEYS / KEY_STEP) + worker).is_multiple_of(2) {
            recorder.write(process, key, &client).await;
        } else {
            recorder.read(process, key, &client).await;
        }
        turn += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

impl Recorder {
    async fn write(&self, process: u32, key: u64, client: &Client) -> Outcome {
        let value = self.value.fetch_add(1, Ordering::Relaxed) + 1;
        let invoked = self.moment();
        let answer = client.put(key_bytes(key), value.to_string()).await;
        if answer.is_ok() {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
        let (region, outcome) = match answer {
            Ok(Written { region, revision, .. }) => (Some(region), Outcome::Written { revision }),
            Err(Error::Unknown { .. }) => (None, Outcome::Unknown),
            Err(Error::NotApplied { .. } | Error::Unavailable { .. }) => {
                (None, Outcome::NotApplied)
            }
            Err(error @ Error::Invalid { .. }) => panic!("a correct write is refused: {error}"),
        };
        self.record(region, process, key, Action::Write(Some(value)), invoked, outcome);
        outcome
    }

    async fn read(&self, process: u32, key: u64, client: &Client) -> Outcome {
        let invoked = self.moment();
        let (region, outcome) = match client.get(key_bytes(key)).await {
            Ok(got) => (Some(got.region), read_outcome(&got)),
            Err(error @ (Error::Invalid { .. } | Error::Unknown { .. })) => {
                panic!("a read ends in: {error}")
            }
            Err(_) => (None, Outcome::NotApplied),
        };
        self.record(region, process, key, Action::Read, invoked, outcome);
        outcome
    }

    fn moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    fn record(
        &self,
        region: Option<u64>,
        process: u32,
        key: u64,
        action: Action,
        invoked: u64,
        outcome: Outcome,
    ) {
        let open = outcome == Outcome::Unknown;
        let completed = if open { OPEN } else { self.moment() };
        let operation = Operation { process, key, action, invoked, completed, outcome };
        self.operations.lock().push((region, operation));
    }
}

fn read_outcome(got: &Got) -> Outcome {
    let value = got.value.as_deref().map(|text| {
        let text = std::str::from_utf8(text).expect("values are numbers");
        text.parse().expect("values are numbers")
    });
    Outcome::Read { value, mod_revision: got.mod_revision, revision: got.revision }
}

/// Spread over the byte space, so that all regions are used.
fn key_bytes(key: u64) -> Vec<u8> {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ key;
    let mut bytes = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes
}

/// Every key by search, every region by its revisions.
fn judge(operations: &[(Option<u64>, Operation)]) {
    let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    let mut region_of: FxHashMap<u64, u64> = FxHashMap::default();
    for (region, operation) in operations {
        keys.entry(operation.key).or_default().push(*operation);
        if let Some(region) = region {
            region_of.insert(operation.key, *region);
        }
    }
    let mut regions: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for (key, of_key) in &keys {
        if let Some(complaint) = linearizability::check(of_key).complaint() {
            panic!("key {key}: {complaint}\n{}", story(of_key));
        }
        if let Some(region) = region_of.get(key) {
            regions.entry(*region).or_default().extend(of_key);
        }
    }
    for (region, of_region) in &regions {
        if let Some(complaint) = revision::check(of_region).complaint() {
            panic!("region {region}: {complaint}");
        }
    }
}

/// The operations in the order of their invocation, one a line.
fn story(operations: &[Operation]) -> String {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|o| o.invoked);
    let lines: Vec<String> = operations.iter().map(|o| format!("{o:?}")).collect();
    lines.join("\n")
}

fn summary(operations: &[(Option<u64>, Operation)]) -> Summary {
    let count = |test: fn(&Operation) -> bool| operations.iter().filter(|(_, o)| test(o)).count();
    let mut keys: Vec<u64> = operations.iter().map(|(_, o)| o.key).collect();
    keys.sort_unstable();
    keys.dedup();
    Summary {
        written: count(|o| matches!(o.outcome, Outcome::Written { .. })),
        read: count(|o| matches!(o.outcome, Outcome::Read { .. })),
        unknown: count(|o| o.outcome == Outcome::Unknown),
        not_applied: count(|o| o.outcome == Outcome::NotApplied),
        keys: keys.len(),
    }
}
