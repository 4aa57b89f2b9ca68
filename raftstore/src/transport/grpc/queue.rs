//! The queue towards one store: filled by shard threads and the log writer, emptied by the one
//! live stream to that store.
//!
//! Two lanes with a byte limit each. Messages without entries (votes, heartbeats,
//! acknowledgements) use the small lane and overtake catch-up traffic of *other* groups; within a
//! group nothing overtakes, because an empty append that arrives before the entries that it
//! follows would be rejected and make the leader send them again.

use super::frame;
use crate::transport::Envelope;
use crate::types::GroupId;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// Envelopes for which an empty lane or frame has room.
pub(super) const ROOM_KEPT: usize = 1 << 10;

/// Limits in bytes.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Of one frame with more than one envelope.
    pub frame_bytes_max: usize,
    /// Of a frame with a single envelope.
    pub envelope_bytes_max: usize,
    /// Of waiting envelopes with entries.
    pub bulk_bytes_max: usize,
    /// Of waiting envelopes without entries.
    pub small_bytes_max: usize,
}

/// What [`Queue::push`] did with a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Envelopes that did not fit.
    pub dropped: u64,
    /// Of these, envelopes larger than any frame.
    pub too_large: u64,
    /// The first drop since the queue last had room: report it.
    pub report: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Envelopes with entries, and those that must stay behind them.
    bulk: VecDeque<Envelope>,
    small: VecDeque<Envelope>,
    bulk_bytes: usize,
    small_bytes: usize,
    /// Groups with envelopes in `bulk`, and how many.
    bulk_groups: FxHashMap<GroupId, usize>,
    /// Whoever waits for the queue to fill.
    waker: Option<Waker>,
    /// The stream that may take; an older one that is still being dropped must not.
    session: u64,
    full_reported: bool,
    dropped: u64,
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        Queue { limits, state: Mutex::default() }
    }

    /// Queues what fits, in order, and wakes the stream once. Never blocks.
    pub fn push(&self, envelopes: Vec<Envelope>) -> Pushed {
        let mut pushed = Pushed::default();
        let waker = {
            let mut state = self.state.lock();
            for envelope in envelopes {
                let size = frame::encoded_size_max(&envelope);
                if frame::HEADER_BYTES + size > self.limits.envelope_bytes_max {
                    pushed.too_large += 1;
                    pushed.dropped += 1;
                } else if !state.push(envelope, size, &self.limits) {
                    pushed.dropped += 1;
                }
            }
            state.dropped += pushed.dropped;
            pushed.report = pushed.dropped > 0 && !state.full_reported;
            state.full_reported |= pushed.dropped > 0;
            if state.is_empty() { None } else { state.waker.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Starts a new session: only its number may take from now on.
    pub fn start_session(&self) -> u64 {
        let (session, waker) = {
            let mut state = self.state.lock();
            state.session += 1;
            (state.session, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        session
    }

    /// Moves the next frame's worth of envelopes into `batch`. `None` = the session is over.
    pub fn poll_take(
        &self,
        session: u64,
        batch: &mut Vec<Envelope>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<()>> {
        let mut state = self.state.lock();
        if state.session != session {
            return Poll::Ready(None);
        }
        if state.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.take(batch, &self.limits);
        Poll::Ready(Some(()))
    }

    /// Ready once something waits. Only for the owner of the sessions, between two of them.
    pub fn poll_filled(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Forgets everything that waits: it cannot be sent, and Raft repeats what matters.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        let (session, dropped, waker) = (state.session, state.dropped, state.waker.take());
        *state = State { session, dropped, waker, ..State::default() };
    }

    /// Bytes that wait, both lanes, and envelopes dropped since the start.
    pub fn figures(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.bulk_bytes + state.small_bytes, state.dropped)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.bulk.is_empty()
    }

    fn push(&mut self, envelope: Envelope, size: usize, limits: &QueueLimits) -> bool {
        let bulk = envelope.is_bulk();
        let (bytes, bytes_max) = if bulk {
            (&mut self.bulk_bytes, limits.bulk_bytes_max)
        } else {
            (&mut self.small_bytes, limits.small_bytes_max)
        };
        if *bytes + size > bytes_max && *bytes > 0 {
            return false;
        }
        *bytes += size;
        let behind_bulk =
            !self.bulk_groups.is_empty() && self.bulk_groups.contains_key(&envelope.group);
        if bulk || behind_bulk {
            *self.bulk_groups.entry(envelope.group).or_default() += 1;
            self.bulk.push_back(envelope);
        } else {
            self.small.push_back(envelope);
        }
        true
    }

    fn take(&mut self, batch: &mut Vec<Envelope>, limits: &QueueLimits) {
        let mut frame_bytes = frame::HEADER_BYTES;
        let mut fits = |envelope: &Envelope, first: bool| {
            let size = frame::encoded_size_max(envelope);
            let fits = first || frame_bytes + size <= limits.frame_bytes_max;
            frame_bytes += size;
            fits
        };
        while let Some(next) = self.small.front()
            && fits(next, batch.is_empty())
        {
            let envelope = self.small.pop_front().expect("invariant: front() was there");
            self.small_bytes -= frame::encoded_size_max(&envelope);
            batch.push(envelope);
        }
        while let Some(next) = self.bulk.front()
            && fits(next, batch.is_empty())
        {
            let envelope = self.bulk.pop_front().expect("invariant: front() was there");
            self.forget_bulk(&envelope);
            batch.push(envelope);
        }
        // A burst of very many groups leaves no room behind.
        for lane in [&mut self.small, &mut self.bulk] {
            if lane.is_empty() {
                lane.shrink_to(ROOM_KEPT);
            }
        }
        let has_room = self.bulk_bytes <= limits.bulk_bytes_max / 2
            && self.small_bytes <= limits.small_bytes_max / 2;
        self.full_reported &= !has_room;
    }

    fn forget_bulk(&mut self, envelope: &Envelope) {
        let size = frame::encoded_size_max(envelope);
        if envelope.is_bulk() {
            self.bulk_bytes -= size;
        } else {
            self.small_bytes -= size;
        }
        let waiting = self
            .bulk_groups
            .get_mut(&envelope.group)
            .expect("invariant: every group in the bulk lane is counted");
        *waiting -= 1;
        if *waiting == 0 {
            self.bulk_groups.remove(&envelope.group);
        }
    }
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
