//! What micro-benchmarks drive: the client's work on an operation without tasks and network. No
//! part of the API.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::batch::Pending;
use crate::operation::{Caller, Job, Operation, Outcome};
use crate::pb;
use crate::table::Table;

/// Longer than any benchmark.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A routing table, and the packing of one stream.
pub struct Packing {
    table: Table,
    pending: Pending,
    waiting: Vec<oneshot::Receiver<Outcome>>,
}

impl Packing {
    /// Over `regions`; a frame takes at most `ops_max` operations.
    #[must_use]
    pub fn new(regions: &[pb::Region], ops_max: usize) -> Self {
        let table = Table::default().merge(regions);
        Packing { table, pending: Pending::new(ops_max), waiting: Vec::new() }
    }

    /// The region that holds `key`; 0 = none.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> u64 {
        self.table.find(key).map_or(0, |region| region.region)
    }

    /// Routes the puts and packs them into frames.
    ///
    /// # Panics
    /// When no region holds a key.
    pub fn pack(&mut self, puts: &[(Bytes, Bytes)]) -> Vec<pb::RequestFrame> {
        let expires = Instant::now() + PATIENCE;
        let mut queue: VecDeque<Job> = VecDeque::with_capacity(puts.len());
        for (key, value) in puts {
            let region = self.table.find(key).expect("the regions cover the key");
            let (answer, outcome) = oneshot::channel();
            self.waiting.push(outcome);
            let operation = Operation::Put { key: key.clone(), value: value.clone() };
            let (region, epoch, caller) = (region.region, region.epoch, Caller::Call(answer));
            queue.push_back(Job { operation, region, epoch, expires, caller });
        }
        std::iter::from_fn(|| self.pending.pack(&mut queue)).collect()
    }

    /// Answers every request of `frames` and counts the puts that heard of it.
    pub fn answer(&mut self, frames: &[pb::RequestFrame]) -> usize {
        for request in frames.iter().flat_map(|frame| &frame.requests) {
            let revision = 1 << 20;
            self.pending.answer(pb::Response { id: request.id, revision, ..Default::default() });
        }
        let done = |outcome: &mut oneshot::Receiver<Outcome>| {
            matches!(outcome.try_recv(), Ok(Outcome::Done(_)))
        };
        self.waiting.drain(..).filter_map(|mut waiting| done(&mut waiting).then_some(())).count()
    }
}
