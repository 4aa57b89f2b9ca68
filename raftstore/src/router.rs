//! From groups to shards: admission, and the published table of groups.

use crate::completion::Permit;
use crate::config::Config;
use crate::error::Error;
use crate::log::LogStore;
use crate::message::{Request, ShardMessage};
use crate::metrics::Metrics;
use crate::shard::NO_GROUP;
use crate::shard::inbox::Inbox;
use crate::status::{GroupView, QueueStatus};
use crate::transport::Envelope;
use crate::types::{GroupId, ReplicaId, StoreId};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// See the module.
pub(crate) struct Router {
    pub(crate) config: Arc<Config>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) views: RwLock<FxHashMap<GroupId, Arc<GroupView>>>,
    /// Counts changes of the views.
    pub(crate) changes: AtomicU64,
    /// The last replica that was removed here of a group that has no replica here now.
    pub(crate) tombstones: RwLock<FxHashMap<GroupId, ReplicaId>>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) metrics: Metrics,
    proposal_bytes: Arc<AtomicUsize>,
}

impl Router {
    pub(crate) fn new(
        config: Arc<Config>,
        inboxes: Vec<Inbox>,
        log: Arc<dyn LogStore>,
        metrics: Metrics,
    ) -> Self {
        let (views, changes, tombstones) = Default::default();
        let proposal_bytes = Arc::new(AtomicUsize::new(0));
        Router { config, inboxes, views, changes, tombstones, log, metrics, proposal_bytes }
    }

    fn shard_of(&self, group: GroupId) -> usize {
        (group.0 % self.inboxes.len() as u64) as usize
    }

    /// Admits requests and queues them, one message a shard.
    pub(crate) fn submit(&self, requests: Vec<Request>) {
        let log_full = self.log.live_bytes() >= self.config.log_bytes_max / 8 * 7;
        let mut per_shard: Vec<Vec<Request>> = Vec::new();
        per_shard.resize_with(self.inboxes.len(), Vec::new);
        for request in requests {
            let shard = self.shard_of(request.group());
            per_shard[shard].extend(self.admit(request, log_full));
        }
        for (inbox, requests) in self.inboxes.iter().zip(per_shard) {
            if !requests.is_empty() {
                inbox.push(ShardMessage::Requests(requests));
            }
        }
    }

    /// The request with its permit, or nothing: then it was answered.
    fn admit(&self, request: Request, log_full: bool) -> Option<Request> {
        let Request::Propose { group, command, reply } = request else { return Some(request) };
        let (bytes, max) = (command.len(), self.config.command_bytes_max);
        let total = &self.proposal_bytes;
        let admitted = if bytes > max {
            let reason = format!("a command of {bytes} bytes: at most {max}");
            Err(Error::Invalid { group, reason })
        } else if log_full {
            Err(Error::Busy { group, what: "the store's log is full" })
        } else {
            let what = "too many bytes of commands are under way";
            Permit::take(total, bytes, self.config.proposal_bytes_max)
                .ok_or(Error::Busy { group, what })
        };
        match admitted {
            Ok(permit) => {
                Some(Request::Propose { group, command, reply: reply.with_permit(permit) })
            }
            Err(error) => {
                self.metrics.requests_refused.inc();
                reply.send(Err(error));
                None
            }
        }
    }

    /// Hands peers' messages to their shards; what does not fit is dropped, as a network would.
    pub(crate) fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>) {
        let max = self.config.inbox_messages_max;
        let mut per_shard: Vec<Vec<Envelope>> = Vec::new();
        per_shard.resize_with(self.inboxes.len(), Vec::new);
        for envelope in envelopes {
            if envelope.group == NO_GROUP {
                per_shard.iter_mut().for_each(|shard| shard.push(envelope.clone()));
            } else {
                per_shard[self.shard_of(envelope.group)].push(envelope);
            }
        }
        for (inbox, envelopes) in self.inboxes.iter().zip(per_shard) {
            let count = envelopes.len() as u64;
            if count > 0 && !inbox.deliver(from, envelopes, max) {
                self.metrics.envelopes_dropped.inc_by(count);
            }
        }
    }

    pub(crate) fn tell_all(&self, message: impl Fn() -> ShardMessage) {
        self.inboxes.iter().for_each(|inbox| inbox.push(message()));
    }

    /// Publishes changed groups.
    pub(crate) fn publish(&self, changed: Vec<GroupView>) {
        if changed.is_empty() {
            return;
        }
        let mut views = self.views.write();
        for view in changed {
            self.tombstones.write().remove(&view.record.desc.group);
            let before = views.get(&view.record.desc.group).is_some_and(|v| v.leading);
            self.metrics.role_changes.inc();
            self.metrics.leading.add(i64::from(view.leading) - i64::from(before));
            views.insert(view.record.desc.group, Arc::new(view));
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back what was published of removed replicas.
    pub(crate) fn retract(&self, gone: &[(GroupId, ReplicaId)]) {
        if gone.is_empty() {
            return;
        }
        self.tombstones.write().extend(gone.iter().copied());
        let mut views = self.views.write();
        for (group, _) in gone {
            let before = views.remove(group).is_some_and(|view| view.leading);
            self.metrics.leading.sub(i64::from(before));
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn queues(&self) -> QueueStatus {
        let waiting = self.inboxes.iter().map(Inbox::peers_waiting);
        QueueStatus {
            proposal_bytes: self.proposal_bytes.load(Ordering::Relaxed),
            proposal_bytes_max: self.config.proposal_bytes_max,
            inbox_messages: waiting.sum(),
            inbox_messages_max: self.config.inbox_messages_max * self.inboxes.len(),
            log_bytes: self.log.live_bytes(),
            log_bytes_max: self.config.log_bytes_max,
        }
    }
}
