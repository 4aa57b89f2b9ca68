//! When an open loop submits: a fixed schedule, and a clock finer than tokio's millisecond.

use super::Window;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How late an operation may be submitted when no answer wakes its client: half of this on average.
const TICK: Duration = Duration::from_micros(500);

/// The schedules of all clients and the thread that wakes them; ends when it is dropped.
pub(super) struct Pacer {
    began: Instant,
    clients: usize,
    /// Of one operation of the whole load.
    interval_ns: f64,
    tick: Arc<Notify>,
    over: Arc<AtomicBool>,
}

/// One client's starts, evenly spaced; those of all clients together are evenly spaced too.
pub(super) struct Schedule {
    first: Instant,
    interval_ns: f64,
    pub(super) tick: Arc<Notify>,
}

impl Pacer {
    /// `rate` operations a second over all `clients`.
    pub(super) fn start(rate: f64, clients: usize, began: Instant) -> Self {
        let (tick, over) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (to, until) = (tick.clone(), over.clone());
        std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                to.notify_waiters();
            }
        });
        Pacer { began, clients, interval_ns: 1e9 / rate, tick, over }
    }

    pub(super) fn schedule(&self, client: usize) -> Schedule {
        let offset = Duration::from_nanos((self.interval_ns * client as f64) as u64);
        Schedule {
            first: self.began + offset,
            interval_ns: self.interval_ns * self.clients as f64,
            tick: self.tick.clone(),
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Schedule {
    /// The intended start of operation `number`.
    pub(super) fn start_of(&self, number: u64) -> Instant {
        self.first + Duration::from_nanos((self.interval_ns * number as f64) as u64)
    }

    /// How many starts lie within `window`.
    pub(super) fn due_within(&self, window: Window) -> u64 {
        let before = |at: Instant| {
            let elapsed = at.saturating_duration_since(self.first).as_nanos() as f64;
            let mut number = (elapsed / self.interval_ns) as u64;
            // The division's last digit may be off.
            while self.start_of(number) < at {
                number += 1;
            }
            while number > 0 && self.start_of(number - 1) >= at {
                number -= 1;
            }
            number
        };
        before(window.end) - before(window.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clients_together_start_at_the_rate() {
        let began = Instant::now();
        let pacer = Pacer::start(1000.0, 3, began);
        let mut starts: Vec<Instant> = (0..3)
            .flat_map(|client| {
                let schedule = pacer.schedule(client);
                (0..10).map(move |number| schedule.start_of(number))
            })
            .collect();
        starts.sort();
        for (i, at) in starts.iter().enumerate() {
            assert_eq!((*at - began).as_millis(), i as u128);
        }
        let window = Window {
            start: began + Duration::from_millis(5),
            end: began + Duration::from_millis(25),
        };
        let due: u64 = (0..3).map(|client| pacer.schedule(client).due_within(window)).sum();
        assert_eq!(due, 20);
    }
}
