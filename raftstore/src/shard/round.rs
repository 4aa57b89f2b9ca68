//! The effects of one round, all that leaves a shard.

use crate::message::{ApplyTask, FetchTask, LogTask};
use crate::status::GroupView;
use crate::transport::Envelope;
use crate::types::StoreId;

/// What a round wants done, to be carried out in this order: views, sends, log, apply, fetch.
#[derive(Debug, Default)]
pub struct Round {
    /// The shard that made it.
    pub(crate) shard: usize,
    /// Messages that may leave at once, by destination.
    pub sends: Vec<(StoreId, Vec<Envelope>)>,
    /// For the log writer, in order.
    pub log: Vec<LogTask>,
    /// For the apply worker, in order.
    pub apply: Vec<ApplyTask>,
    /// For the reader.
    pub fetch: Vec<FetchTask>,
    /// Groups whose leader, term or role changed.
    pub views: Vec<GroupView>,
}

impl Round {
    pub(crate) fn new(shard: usize) -> Self {
        Round { shard, ..Round::default() }
    }

    pub(crate) fn send(&mut self, to: StoreId, envelope: Envelope) {
        match self.sends.iter_mut().find(|(store, _)| *store == to) {
            Some((_, envelopes)) => envelopes.push(envelope),
            None => self.sends.push((to, vec![envelope])),
        }
    }

    pub(crate) fn send_all(&mut self, envelopes: Vec<(StoreId, Envelope)>) {
        for (to, envelope) in envelopes {
            self.send(to, envelope);
        }
    }
}
