//! One client's task: submits, takes what has ended, counts, submits again.

use super::pace::Schedule;
use super::target::{Call, Ended, Target};
use super::{Counter, ERROR_PAUSE, Plan, Window, lock};
use crate::keys::Picker;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// See the module.
pub(super) struct Driver<T> {
    target: T,
    plan: Arc<Plan>,
    counter: Arc<Mutex<Counter>>,
    /// Operations in flight at most.
    in_flight_max: usize,
    in_flight: usize,
    /// Of them, begun within the window.
    in_window: usize,
    /// When the operation in this slot began, or should have.
    began: Vec<Instant>,
    generator: Generator,
    ended: Vec<Ended>,
}

impl<T: Target> Driver<T> {
    pub(super) fn new(
        target: T,
        plan: Arc<Plan>,
        counter: Arc<Mutex<Counter>>,
        in_flight_max: usize,
    ) -> Self {
        let generator = Generator::new(&plan, target.puts_per_call());
        Driver {
            target,
            plan,
            counter,
            in_flight_max,
            in_flight: 0,
            in_window: 0,
            began: Vec::new(),
            generator,
            ended: Vec::new(),
        }
    }

    /// Keeps `in_flight_max` in flight until the window ends, then waits for the last answers.
    pub(super) async fn closed_loop(mut self) {
        let now = Instant::now();
        for slot in 0..self.in_flight_max {
            self.began.push(now);
            self.submit(slot);
        }
        let mut paused: VecDeque<(Instant, usize)> = VecDeque::new();
        loop {
            lock(&self.counter).waiting = (self.in_window * self.generator.puts_per_call) as u64;
            if self.in_flight == 0 && paused.is_empty() {
                return;
            }
            let resume = paused.front().map(|(at, _)| (*at).into());
            tokio::select! {
                () = self.target.wait(&mut self.ended), if self.in_flight > 0 => {}
                () = sleep_until(resume), if resume.is_some() => {}
            }
            let now = Instant::now();
            self.count(now, |window, began, failed| {
                window.contains(now) || failed && window.contains(began)
            });
            let go_on = now < self.plan.window().end;
            let mut ended = std::mem::take(&mut self.ended);
            for Ended { slot, error } in ended.drain(..) {
                if error.is_some() {
                    paused.push_back((now + ERROR_PAUSE, slot));
                } else if go_on {
                    self.began[slot] = now;
                    self.submit(slot);
                }
            }
            self.ended = ended;
            while let Some((at, slot)) = paused.front().copied()
                && (at <= now || !go_on)
            {
                paused.pop_front();
                if go_on {
                    self.began[slot] = now;
                    self.submit(slot);
                }
            }
        }
    }

    /// Submits each operation at its time, or, when `in_flight_max` are in flight already, as soon
    /// after it as one of them ends; what starts late has been waiting since its intended start.
    pub(super) async fn open_loop(mut self, schedule: Schedule) {
        let tick = schedule.tick.clone();
        let mut next = 0;
        let mut free: Vec<usize> = Vec::new();
        loop {
            // Made before the look at the clock: no tick is missed in between.
            let tick = tick.notified();
            tokio::pin!(tick);
            tick.as_mut().enable();
            let now = Instant::now();
            let mut at = schedule.start_of(next);
            while at <= now && at < self.plan.window().end && self.in_flight < self.in_flight_max {
                let slot = free.pop().unwrap_or(self.began.len());
                match self.began.get_mut(slot) {
                    Some(began) => *began = at,
                    None => self.began.push(at),
                }
                self.submit(slot);
                next += 1;
                at = schedule.start_of(next);
            }
            let more = at < self.plan.window().end;
            if !more && self.in_flight == 0 {
                return;
            }
            tokio::select! {
                () = self.target.wait(&mut self.ended), if self.in_flight > 0 => {}
                () = tick, if more && self.in_flight < self.in_flight_max => {}
            }
            let now = Instant::now();
            self.count(now, |window, began, _| window.contains(began));
            free.extend(self.ended.drain(..).map(|ended| ended.slot));
        }
    }

    fn submit(&mut self, slot: usize) {
        self.in_flight += 1;
        self.in_window += usize::from(self.plan.window().contains(self.began[slot]));
        let call = self.generator.next();
        self.target.submit(slot, call);
    }

    /// Counts what has ended at `now`, as far as it `counts` by when it began and whether it failed.
    fn count(&mut self, now: Instant, counts: impl Fn(&Window, Instant, bool) -> bool) {
        if self.ended.is_empty() {
            return;
        }
        self.in_flight -= self.ended.len();
        let each = self.generator.puts_per_call as u64;
        let window = self.plan.window();
        let mut counter = lock(&self.counter);
        for Ended { slot, error } in &self.ended {
            let began = self.began[*slot];
            self.in_window -= usize::from(window.contains(began));
            if !counts(&window, began, error.is_some()) {
                continue;
            }
            match error {
                None => {
                    counter.last_ended = Some(now);
                    let latency = now.saturating_duration_since(began).as_micros();
                    let latency_us = u64::try_from(latency).unwrap_or(u64::MAX).max(1);
                    counter.latency_us.saturating_record_n(latency_us, each);
                }
                Some(text) => *counter.errors.entry(kind_of(text)).or_default() += each,
            }
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// An error's text without its numbers, so that equal causes count together.
fn kind_of(error: &str) -> String {
    error.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
}

/// What to do next, drawn at random.
struct Generator {
    rng: SmallRng,
    keys: Picker,
    values: Values,
    write_percent: u32,
    puts_per_call: usize,
}

impl Generator {
    fn new(plan: &Plan, puts_per_call: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(rand::random());
        let values = Values::new(plan.value_bytes, &mut rng);
        let keys = Picker::new(plan.keys.clone());
        Generator { rng, keys, values, write_percent: plan.write_percent, puts_per_call }
    }

    fn next(&mut self) -> Call {
        #[cfg(feature = "peers")]
        if self.puts_per_call > 1 {
            // A transaction takes no key twice.
            let mut puts = std::collections::BTreeMap::new();
            while puts.len() < self.puts_per_call {
                let (key, value) = self.put();
                puts.insert(key, value);
            }
            return Call::Puts(puts.into_iter().collect());
        }
        if self.rng.random_range(0..100) < self.write_percent {
            let (key, value) = self.put();
            return Call::Put { key, value };
        }
        Call::Get { key: self.keys.pick(&mut self.rng) }
    }

    fn put(&mut self) -> (Bytes, Bytes) {
        (self.keys.pick(&mut self.rng), self.values.pick(&mut self.rng))
    }
}

/// Values cut from a few random bytes: no copy an operation, and no two alike in a row.
struct Values {
    pool: Bytes,
    value_bytes: usize,
}

impl Values {
    const SLACK: usize = 1 << 10;

    fn new(value_bytes: usize, rng: &mut SmallRng) -> Self {
        let mut pool = vec![0; value_bytes + Self::SLACK];
        rng.fill_bytes(&mut pool);
        Values { pool: Bytes::from(pool), value_bytes }
    }

    fn pick(&self, rng: &mut SmallRng) -> Bytes {
        let at = rng.random_range(0..Self::SLACK);
        self.pool.slice(at..at + self.value_bytes)
    }
}
