//! Live consumers: each commits its own offset again and again, as a queue's consumer does.
//!
//! 1. A consumer owns one (group, topic, queue) and commits growing offsets under its key.
//! 2. *ok* is acknowledged: from then on no reader may see less.
//! 3. *unknown* is never sent again. The consumer reads its key first: either the commit is there,
//!    or it is not and the consumer goes on with a later offset.
//! 4. *not applied* is what it says; the next commit comes at its usual time.

use crate::pauses::Acknowledged;
use bytes::Bytes;
use flotilla_client::{Client, Error};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Mean time between two commits of a consumer.
const INTERVAL_MS: u64 = 100;
/// Pause before a read or commit is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a consumer goes on reading an unknown commit after it was told to stop.
const RESOLVE_MAX: Duration = Duration::from_secs(20);

/// All consumers, running.
pub struct Consumers {
    tasks: JoinSet<Ledger>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Last acknowledgement of each region.
    regions: Mutex<BTreeMap<u64, Instant>>,
}

impl Shared {
    fn count(&self, acknowledged: Acknowledged) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut regions = self.regions.lock().expect("nobody panics with it");
        regions.insert(acknowledged.region, acknowledged.at);
    }
}

/// What one consumer knows of its offset.
#[derive(Debug)]
pub struct Ledger {
    /// The key it owns.
    pub key: Bytes,
    /// The last offset that was acknowledged, or seen by the read after an unknown.
    pub acknowledged: i64,
    /// Offsets above it whose outcome stayed open.
    pub in_doubt: Vec<i64>,
    /// Every acknowledgement.
    pub times: Vec<Acknowledged>,
    /// Commits that ended as unknown.
    pub unknown: u64,
    /// Of these, how many the read found in place.
    pub unknown_landed: u64,
    /// Commits that were refused.
    pub refused: u64,
    /// A read that saw what it must not.
    pub violation: Option<String>,
}

impl Consumers {
    /// Starts one consumer a key, spread over `clients`.
    pub fn start(clients: &[Client], keys: Vec<Bytes>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for (number, key) in keys.into_iter().enumerate() {
            let client = clients[number % clients.len()].clone();
            tasks.spawn(consume(client, key, shared.clone(), number as u64));
        }
        Consumers { tasks, shared }
    }

    /// Commits acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How many of `regions` took commits once, but none since `moment`.
    pub fn without_commit_since(&self, moment: Instant, regions: &[u64]) -> usize {
        let last = self.shared.regions.lock().expect("nobody panics with it");
        let stale = |region: &u64| last.get(region).is_some_and(|at| *at <= moment);
        regions.iter().filter(|region| stale(region)).count()
    }

    /// Lets every consumer finish what it is about and returns what each knows.
    pub async fn stop(mut self) -> Vec<Ledger> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ledgers = Vec::new();
        while let Some(ledger) = self.tasks.join_next().await {
            ledgers.push(ledger.expect("a consumer does not panic"));
        }
        ledgers
    }
}

async fn consume(client: Client, key: Bytes, shared: Arc<Shared>, seed: u64) -> Ledger {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut ledger = Ledger {
        key,
        acknowledged: 0,
        in_doubt: Vec::new(),
        times: Vec::new(),
        unknown: 0,
        unknown_landed: 0,
        refused: 0,
        violation: None,
    };
    let mut offset = 0;
    while !shared.stop.load(Ordering::Relaxed) && ledger.violation.is_none() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..2 * INTERVAL_MS))).await;
        offset += rng.random_range(1..=32);
        match client.put(ledger.key.clone(), encode(offset)).await {
            Ok(written) => {
                ledger.acknowledge(offset);
                let one = Acknowledged { at: Instant::now(), region: written.region };
                ledger.times.push(one);
                shared.count(one);
            }
            Err(Error::Unknown { .. }) => ledger.resolve(&client, offset).await,
            Err(_) => {
                ledger.refused += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    ledger
}

impl Ledger {
    fn acknowledge(&mut self, offset: i64) {
        self.acknowledged = offset;
        self.in_doubt.clear();
    }

    /// Reads before anything else is done about an unknown commit.
    async fn resolve(&mut self, client: &Client, offset: i64) {
        self.unknown += 1;
        self.in_doubt.push(offset);
        let deadline = Instant::now() + RESOLVE_MAX;
        while Instant::now() < deadline {
            match client.get(self.key.clone()).await {
                Ok(got) => {
                    let seen = got.value.as_deref().map_or(Some(0), decode);
                    self.violation = self.judge(seen).err();
                    if seen == Some(offset) {
                        self.unknown_landed += 1;
                        self.acknowledge(offset);
                    }
                    return;
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Whether a linearizable read may see `seen` (`None`: no offset at all).
    pub fn judge(&self, seen: Option<i64>) -> Result<(), String> {
        match seen {
            Some(seen) if seen == self.acknowledged || self.in_doubt.contains(&seen) => Ok(()),
            _ => Err(format!(
                "{}: acknowledged {}, in doubt {:?}, but read {}",
                String::from_utf8_lossy(&self.key),
                self.acknowledged,
                self.in_doubt,
                seen.map_or_else(|| "something else".to_owned(), |seen| seen.to_string()),
            )),
        }
    }
}

/// Reads every consumer's offset and judges it; returns how many are as promised.
pub async fn check(
    client: &Client,
    ledgers: &[Ledger],
    mut progress: impl FnMut(usize),
) -> Result<usize, String> {
    for (number, ledger) in ledgers.iter().enumerate() {
        if let Some(violation) = &ledger.violation {
            return Err(violation.clone());
        }
        let got = client.get(ledger.key.clone()).await.map_err(|error| {
            format!("cannot read {}: {error}", String::from_utf8_lossy(&ledger.key))
        })?;
        ledger.judge(got.value.as_deref().map_or(Some(0), decode))?;
        progress(number + 1);
    }
    Ok(ledgers.len())
}

/// An offset as the import writes it.
fn encode(offset: i64) -> Bytes {
    Bytes::copy_from_slice(&offset.to_be_bytes())
}

fn decode(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_or_is_in_doubt_may_be_read() {
        let mut ledger = Ledger {
            key: Bytes::from_static(b"k"),
            acknowledged: 10,
            in_doubt: vec![15],
            times: Vec::new(),
            unknown: 1,
            unknown_landed: 0,
            refused: 0,
            violation: None,
        };
        assert!(ledger.judge(Some(10)).is_ok());
        assert!(ledger.judge(Some(15)).is_ok());
        assert!(ledger.judge(Some(9)).is_err());
        assert!(ledger.judge(Some(12)).is_err());
        assert!(ledger.judge(None).is_err());
        ledger.acknowledge(20);
        assert!(ledger.judge(Some(15)).is_err(), "an old commit must not come back");
    }

    #[test]
    fn offsets_are_read_as_they_are_written() {
        assert_eq!(decode(&encode(1 << 40)), Some(1 << 40));
        assert_eq!(decode(b"short"), None);
    }
}
