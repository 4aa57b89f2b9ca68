//! What a run sends: the settings of `throughput run` and of every row of the table.

use crate::error::Error;
use crate::keys::{KeyMode, SPREAD_KEY_BYTES};
use flotilla_client::Consistency;
use std::time::Duration;

/// Longest key that the servers take.
const KEY_BYTES_MAX: usize = 4 << 10;
/// Longest value that the servers take.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Operations at most in a message of a client that batches.
pub const BATCH_OPS_MAX: usize = 100;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rpc {
    /// Many requests in flight on one bidirectional stream a store.
    Stream,
    /// One call a request.
    Unary,
}

impl Rpc {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rpc::Stream => "stream",
            Rpc::Unary => "unary",
        }
    }
}

/// How long batched puts fill a cluster: most of a million keys are there then.
const FILL: Duration = Duration::from_secs(6);

/// One load.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Client handles, each with its own connections.
    pub clients: usize,
    /// Whether a message may carry many operations.
    pub batching: bool,
    /// Stream or unary calls.
    pub rpc: Rpc,
    /// Share of puts; the rest are gets.
    pub write_percent: u32,
    /// What the gets must see.
    pub consistency: Consistency,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Which keys.
    pub keys: KeyMode,
    /// Operations in flight, in total over all clients; in an open loop at most.
    pub in_flight: usize,
    /// Open loop: operations that start a second, over all clients. `None`: a closed loop.
    pub rate: Option<f64>,
    /// Length of the steady window that is counted.
    pub seconds: Duration,
    /// Time before it, with the same load.
    pub warmup: Duration,
}

impl Workload {
    /// Refuses settings that cannot be run, naming the flag.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::Invalid(text));
        if self.clients == 0 {
            return invalid("--clients is 0; at least 1 is needed".to_owned());
        }
        if self.in_flight < self.clients {
            return invalid(format!(
                "--in-flight {} is less than --clients {}: it is the total over all clients, \
                 and each needs at least one",
                self.in_flight, self.clients
            ));
        }
        if self.write_percent > 100 {
            return invalid(format!("--write-percent {} is not 0 to 100", self.write_percent));
        }
        if !(1..=KEY_BYTES_MAX).contains(&self.key_bytes) {
            return invalid(format!("--key-bytes {} is not 1 to {KEY_BYTES_MAX}", self.key_bytes));
        }
        if matches!(self.keys, KeyMode::Spread(_)) && self.key_bytes != SPREAD_KEY_BYTES {
            return invalid(format!(
                "--key-bytes {} does not fit --keys {}, whose keys have {SPREAD_KEY_BYTES} bytes",
                self.key_bytes, self.keys
            ));
        }
        if self.value_bytes > VALUE_BYTES_MAX {
            return invalid(format!(
                "--value-bytes {} is not 0 to {VALUE_BYTES_MAX}",
                self.value_bytes
            ));
        }
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate >= 1.0)
        {
            return invalid(format!("--rate {rate} is not a number of operations a second from 1"));
        }
        if self.seconds < Duration::from_millis(100) {
            return invalid(format!("--seconds {} is less than 0.1", self.seconds.as_secs_f64()));
        }
        Ok(())
    }

    /// What puts most of the keys there before a load that only reads: a get of nothing costs less.
    #[must_use]
    pub fn filling(&self) -> Workload {
        Workload {
            clients: 8,
            batching: true,
            rpc: Rpc::Stream,
            in_flight: 4_096,
            write_percent: 100,
            rate: None,
            seconds: FILL,
            warmup: Duration::ZERO,
            ..self.clone()
        }
    }

    /// Whether so many of its operations put most of the keys there.
    #[must_use]
    pub fn fills(&self, ops: u64) -> bool {
        let puts = ops / 100 * u64::from(self.write_percent);
        // Twice as many puts as keys, drawn at random, leave out an eighth of them.
        match self.keys {
            KeyMode::StartKey => puts > 0,
            KeyMode::Spread(keys) => puts >= keys.saturating_mul(2),
        }
    }

    /// Operations in flight of client number `client`: the total, as evenly as it goes.
    #[must_use]
    pub fn window_of(&self, client: usize) -> usize {
        self.in_flight / self.clients + usize::from(client < self.in_flight % self.clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            clients: 3,
            batching: true,
            rpc: Rpc::Stream,
            write_percent: 90,
            consistency: Consistency::default(),
            key_bytes: 16,
            value_bytes: 16,
            keys: KeyMode::Spread(10),
            in_flight: 512,
            rate: None,
            seconds: Duration::from_secs(1),
            warmup: Duration::ZERO,
        }
    }

    #[test]
    fn windows_add_up_to_the_total() {
        let workload = workload();
        let windows: Vec<_> = (0..3).map(|client| workload.window_of(client)).collect();
        assert_eq!(windows, [171, 171, 170]);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_flag_named() {
        let check = |change: fn(&mut Workload), flag: &str| {
            let mut workload = workload();
            change(&mut workload);
            let error = workload.validate().unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        };
        assert!(workload().validate().is_ok());
        check(|w| w.clients = 0, "--clients");
        check(|w| w.in_flight = 2, "--in-flight");
        check(|w| w.write_percent = 101, "--write-percent");
        check(|w| w.key_bytes = 0, "--key-bytes");
        check(|w| w.key_bytes = 20, "--key-bytes");
        check(|w| w.value_bytes = 2 << 20, "--value-bytes");
        check(|w| w.seconds = Duration::ZERO, "--seconds");
        check(|w| w.rate = Some(0.0), "--rate");
    }
}
