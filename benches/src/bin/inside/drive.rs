//! The load inside a store: one thread that keeps a window of requests in flight.
//!
//! As a connection of the real service does it: answers are collected by one sink, which wakes the
//! thread once a burst; what they free is submitted again in one call.

use crate::protocol::{Groups, Tally, Work};
use bytes::Bytes;
use flotilla_benches::keys::{SPREAD_KEY_BYTES, spread_key};
use flotilla_benches::load::{DRAIN_MAX, ERROR_PAUSE, LATENCY_MAX_US};
use flotilla_client::pb;
use flotilla_kvserver::kv::RegionMeta;
use flotilla_kvserver::kv::command::Command;
use flotilla_kvserver::node::Embedded;
use flotilla_raftstore::{
    Clock, Completion, GroupId, Outcome, Outcomes, ReadMode, Reply, Request, SystemClock,
};
use hdrhistogram::Histogram;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Instant;

/// Keys of all groups together.
pub const KEYS: u64 = 1_000_000;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 16;

/// Where all answers meet.
struct Sink {
    done: Mutex<Outcomes>,
    driver: Thread,
}

impl Completion for Sink {
    fn complete(&self, ticket: u64, outcome: Outcome) {
        self.complete_all(&mut vec![(ticket, outcome)]);
    }

    fn complete_all(&self, outcomes: &mut Outcomes) {
        let mut done = self.done.lock().expect("no holder panics");
        let first = done.is_empty();
        done.append(outcomes);
        drop(done);
        // Later ones of a burst find the thread woken already.
        if first {
            self.driver.unpark();
        }
    }
}

impl Sink {
    /// Waits for answers and takes all that are there into `done`, which is empty.
    fn take(&self, done: &mut Outcomes) {
        let until = Instant::now() + DRAIN_MAX;
        while Instant::now() < until {
            std::mem::swap(&mut *self.done.lock().expect("no holder panics"), done);
            if !done.is_empty() {
                return;
            }
            std::thread::park_timeout(DRAIN_MAX);
        }
    }
}

/// A group that this store leads, with the keys of its region.
struct Led {
    group: GroupId,
    keys: Vec<[u8; SPREAD_KEY_BYTES]>,
    put: Template,
}

/// A put of this group, to be filled with key and value: all of them are equally long.
struct Template {
    bytes: Vec<u8>,
    key: usize,
    value: usize,
}

impl Template {
    fn new(region: &RegionMeta) -> Self {
        const KEY: [u8; SPREAD_KEY_BYTES] = [0xfe; SPREAD_KEY_BYTES];
        const VALUE: [u8; VALUE_BYTES] = [0xff; VALUE_BYTES];
        let (key, value) = (Bytes::from_static(&KEY), Some(Bytes::from_static(&VALUE)));
        let writes = pb::WriteBatch { writes: vec![pb::Write { key, value }] };
        let batch = Bytes::from(writes.encode_to_vec());
        let command = Command { region: region.region, epoch: region.epoch, batch };
        let bytes = command.encode().to_vec();
        let find = |what: &[u8]| bytes.windows(what.len()).position(|at| at == what);
        let key = find(&KEY).expect("the key is in its command");
        let value = find(&VALUE).expect("the value is in its command");
        Template { bytes, key, value }
    }

    fn fill(&self, key: &[u8; SPREAD_KEY_BYTES], value: u128) -> Bytes {
        let mut bytes = self.bytes.clone();
        bytes[self.key..self.key + SPREAD_KEY_BYTES].copy_from_slice(key);
        bytes[self.value..self.value + VALUE_BYTES].copy_from_slice(&value.to_le_bytes());
        Bytes::from(bytes)
    }
}

/// See the module.
pub struct Driver {
    embedded: Embedded,
    rng: SmallRng,
}

impl Driver {
    /// Idle until [`Driver::run`].
    pub fn new(embedded: Embedded) -> Self {
        Driver { embedded, rng: SmallRng::from_rng(&mut rand::rng()) }
    }

    /// How many groups are here, and which are led from here.
    pub fn groups(&self) -> Groups {
        let groups = self.embedded.store.groups();
        let led = groups
            .iter()
            .filter(|view| view.leading)
            .map(|view| view.record.desc.group.0)
            .collect();
        Groups { all: groups.len(), led }
    }

    fn led(&self) -> Vec<Led> {
        let leads = |meta: &RegionMeta| {
            self.embedded.store.group(meta.group).is_some_and(|view| view.leading)
        };
        let mut regions = self.embedded.machine.regions();
        regions.retain(leads);
        let mut led: Vec<Led> = regions
            .iter()
            .map(|r| Led { group: r.group, keys: Vec::new(), put: Template::new(r) })
            .collect();
        for key in (0..KEYS).map(spread_key) {
            if let Some(at) = regions.iter().position(|region| region.contains(&key)) {
                led[at].keys.push(key[..].try_into().expect("spread keys have one length"));
            }
        }
        led.retain(|led| !led.keys.is_empty());
        led
    }

    /// Keeps `in_flight` requests under way until the end of `window` and counts what is answered
    /// within it. Blocks.
    pub fn run(&mut self, work: Work, in_flight: usize, window: Range<u64>) -> Tally {
        let before = self.groups().led;
        let led = self.led();
        let mut count = Count::new(window.clone());
        if !led.is_empty() {
            self.load(&led, work, in_flight, window.end, &mut count);
        }
        count.tally([before, self.groups().led])
    }

    fn load(&mut self, led: &[Led], work: Work, in_flight: usize, end_ns: u64, count: &mut Count) {
        let sink = Arc::new(Sink { done: Mutex::default(), driver: std::thread::current() });
        let mut began = vec![0; in_flight];
        let mut free: Vec<u64> = (0..in_flight as u64).collect();
        let mut done = Vec::new();
        let mut waiting = 0;
        loop {
            let now = SystemClock.now().0;
            if now < end_ns && !free.is_empty() {
                waiting += free.len();
                let requests: Vec<Request> = free
                    .drain(..)
                    .map(|ticket| {
                        began[ticket as usize] = now;
                        self.request(led, work, Reply::new(sink.clone(), ticket))
                    })
                    .collect();
                self.embedded.store.submit(requests);
            }
            if waiting == 0 {
                return;
            }
            sink.take(&mut done);
            if done.is_empty() {
                return count.lost(waiting as u64);
            }
            let now = SystemClock.now().0;
            waiting -= done.len();
            let mut refused = false;
            for (ticket, outcome) in done.drain(..) {
                refused |= outcome.is_err();
                count.take(now, now - began[ticket as usize], outcome);
                free.push(ticket);
            }
            if refused {
                std::thread::sleep(ERROR_PAUSE);
            }
        }
    }

    fn request(&mut self, led: &[Led], work: Work, reply: Reply) -> Request {
        let led = &led[self.rng.random_range(0..led.len())];
        let group = led.group;
        match work {
            Work::Barriers => Request::ReadBarrier { group, mode: ReadMode::Linearizable, reply },
            Work::Puts => {
                let key = &led.keys[self.rng.random_range(0..led.keys.len())];
                let command = led.put.fill(key, self.rng.random());
                Request::Propose { group, command, takes_away: false, reply }
            }
        }
    }
}

/// What happened within the window.
struct Count {
    window: Range<u64>,
    latency_us: Histogram<u64>,
    errors: u64,
    error: Option<String>,
}

impl Count {
    fn new(window: Range<u64>) -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .expect("bounds and digits are legal constants");
        Count { window, latency_us, errors: 0, error: None }
    }

    fn take(&mut self, now: u64, latency_ns: u64, outcome: Outcome) {
        let within = |at: u64| self.window.contains(&at);
        match outcome {
            Ok(_) if within(now) => {
                self.latency_us.saturating_record((latency_ns / 1_000).max(1));
            }
            Err(error) if within(now) || within(now - latency_ns) => {
                self.errors += 1;
                self.error.get_or_insert_with(|| error.to_string());
            }
            _ => {}
        }
    }

    /// Answers that never came.
    fn lost(&mut self, requests: u64) {
        self.errors += requests;
        let seconds = DRAIN_MAX.as_secs();
        self.error.get_or_insert_with(|| format!("no answer within {seconds} s"));
    }

    fn tally(self, led: [Vec<u64>; 2]) -> Tally {
        let recorded = self.latency_us.iter_recorded();
        Tally {
            ops: self.latency_us.len(),
            errors: self.errors,
            error: self.error,
            latency_us: recorded.map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
            led,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_kvserver::kv::{Epoch, command};

    #[test]
    fn a_filled_template_is_the_put_that_the_service_would_log() {
        let region = RegionMeta {
            region: 300,
            group: GroupId(7),
            start: Bytes::new(),
            end: Bytes::new(),
            epoch: Epoch { version: 1, members: 2 },
            replicas: Vec::new(),
        };
        let (key, value) = ([7; SPREAD_KEY_BYTES], u128::from_le_bytes([9; VALUE_BYTES]));
        let bytes = Template::new(&region).fill(&key, value);
        let decoded = Command::decode(&bytes).unwrap();
        assert_eq!((decoded.region, decoded.epoch), (300, region.epoch));
        let writes: Vec<_> =
            command::writes(&decoded.batch).collect::<Result<_, _>>().expect("a legal batch");
        assert_eq!(writes.len(), 1);
        assert_eq!(decoded.batch[writes[0].key.clone()], key);
        assert_eq!(decoded.batch[writes[0].value.clone().unwrap()], [9; VALUE_BYTES]);
    }

    #[test]
    fn only_the_window_counts() {
        let mut count = Count::new(100..200);
        for now in [99, 100, 199, 200] {
            count.take(now, 5_000, Ok(flotilla_raftstore::Answer::ReadReady));
        }
        // The last one began after the window.
        for (now, latency_ns) in [(150, 1), (250, 60), (250, 40)] {
            count.take(now, latency_ns, Err(flotilla_raftstore::Error::Closed));
        }
        count.lost(3);
        let tally = count.tally([Vec::new(), Vec::new()]);
        assert_eq!((tally.ops, tally.errors), (2, 5));
        assert_eq!(tally.latency_us, [(5, 2)]);
        assert!(tally.error.is_some());
    }
}
