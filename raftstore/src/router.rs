//! From groups to shards: admission, and the published table of groups.

use crate::completion::Permit;
use crate::config::Config;
use crate::disk::{Shortage, SpareRoom};
use crate::error::Error;
use crate::log::LogStore;
use crate::message::{Request, ShardMessage};
use crate::metrics::Metrics;
use crate::shard::NO_GROUP;
use crate::shard::inbox::Inbox;
use crate::slow::SyncWatch;
use crate::status::{GroupView, QueueStatus};
use crate::transport::Envelope;
use crate::types::{GroupId, Nanos, ReplicaId, StoreId};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// See the module.
pub(crate) struct Router {
    pub(crate) config: Arc<Config>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) views: RwLock<FxHashMap<GroupId, Arc<GroupView>>>,
    /// How often `views` was written, counted under its lock.
    pub(crate) changes: AtomicU64,
    /// The last replica that was removed here of a group that has no replica here now.
    pub(crate) tombstones: RwLock<FxHashMap<GroupId, ReplicaId>>,
    /// Of this store's disk, as it was told last.
    pub(crate) shortage: Mutex<Option<Shortage>>,
    pub(crate) spare_room: Arc<SpareRoom>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) metrics: Metrics,
    /// The log's disk, as its writer sees it.
    pub(crate) disk: Mutex<SyncWatch>,
    disk_slow: AtomicBool,
    proposal_bytes: Arc<AtomicUsize>,
}

impl Router {
    pub(crate) fn new(
        config: Arc<Config>,
        inboxes: Vec<Inbox>,
        log: Arc<dyn LogStore>,
        metrics: Metrics,
    ) -> Self {
        let (views, changes, tombstones, shortage, spare_room) = Default::default();
        let proposal_bytes = Arc::new(AtomicUsize::new(0));
        let disk = Mutex::new(SyncWatch::new(&config));
        let disk_slow = AtomicBool::new(false);
        Router {
            config,
            inboxes,
            views,
            changes,
            tombstones,
            shortage,
            spare_room,
            log,
            metrics,
            disk,
            disk_slow,
            proposal_bytes,
        }
    }

    fn shard_of(&self, group: GroupId) -> usize {
        (group.0 % self.inboxes.len() as u64) as usize
    }

    /// Admits requests and queues them, one message a shard.
    pub(crate) fn submit(&self, requests: Vec<Request>) {
        let log_bytes = self.log.live_bytes();
        let mut per_shard: Vec<Vec<Request>> = Vec::new();
        per_shard.resize_with(self.inboxes.len(), Vec::new);
        for request in requests {
            let shard = self.shard_of(request.group());
            per_shard[shard].extend(self.admit(request, log_bytes));
        }
        for (inbox, requests) in self.inboxes.iter().zip(per_shard) {
            if !requests.is_empty() {
                inbox.push(ShardMessage::Requests(requests));
            }
        }
    }

    /// The request with its permit, or nothing: then it was answered.
    fn admit(&self, request: Request, log_bytes: u64) -> Option<Request> {
        let Request::Propose { group, command, takes_away, reply } = request else {
            return Some(request);
        };
        let (bytes, max) = (command.len(), self.config.command_bytes_max);
        let total = &self.proposal_bytes;
        let log_max = self.config.log_bytes_max;
        // What takes away may be what the log waits for (`StateMachine::log_needed`): it has the last eighth.
        let log_full = log_bytes >= if takes_away { log_max } else { log_max / 8 * 7 };
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
                let reply = reply.with_permit(permit);
                Some(Request::Propose { group, command, takes_away, reply })
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

    /// Looks at the disk, and tells the shards when it has become slow, or fast again. By the ticker.
    pub(crate) fn watch_disk(&self, now: Nanos) {
        let Some(slow) = self.disk.lock().look(now) else { return };
        let (limit_ms, for_s) = (self.config.slow_sync_ms, self.config.slow_sync_s);
        if slow {
            tracing::warn!(limit_ms, for_s, "the log's disk is slow: leaders go to other stores");
        } else {
            tracing::info!("the log's disk is fast again: this store may lead");
        }
        self.disk_slow.store(slow, Ordering::Relaxed);
        self.tell_all(|| ShardMessage::DiskSlow(slow));
    }

    pub(crate) fn disk_is_slow(&self) -> bool {
        self.disk_slow.load(Ordering::Relaxed)
    }

    /// Tells the shard of `group`.
    pub(crate) fn tell(&self, group: GroupId, message: ShardMessage) {
        self.inboxes[self.shard_of(group)].push(message);
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
        self.changes.fetch_add(1, Ordering::Release);
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
        self.changes.fetch_add(1, Ordering::Release);
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
            disk_slow: self.disk_is_slow(),
            inbox_messages: waiting.sum(),
            inbox_messages_max: self.config.inbox_messages_max * self.inboxes.len(),
            log_bytes: self.log.live_bytes(),
            log_bytes_max: self.config.log_bytes_max,
            disk_shortage: *self.shortage.lock(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::{Answer, Reply};
    use crate::log::{GroupWrite, MemoryLog};
    use crate::message::ReadMode;
    use crate::shard::inbox::inbox;
    use crate::types::{EntryKind, GroupDesc, GroupRecord, LogEntry};
    use bytes::Bytes;
    use futures::FutureExt;
    use std::time::Duration;

    /// A state machine that keeps its log is asked to let some of it go by a command, too.
    #[test]
    fn a_full_log_takes_what_takes_away() {
        let group = GroupId(1);
        let log = MemoryLog::new();
        let record = GroupRecord::new(GroupDesc::of_voters(group, [StoreId(1)]), ReplicaId(1));
        let data = Bytes::from(vec![7; 8_000]);
        let entry = LogEntry { index: 1, term: 1, kind: EntryKind::Normal, data };
        let (record, append) = (Some(record), vec![entry]);
        log.write(&[GroupWrite { group, record, append, ..GroupWrite::default() }]).unwrap();
        let live = log.live_bytes();
        let admitted = |log_bytes_max: u64, takes_away: bool| {
            let config = Config { log_bytes_max, ..Config::default() };
            let (inbox, mut end) = inbox();
            let router = Router::new(Arc::new(config), vec![inbox], log.clone(), Metrics::new());
            let (reply, answer) = Reply::pending();
            let command = Bytes::from_static(b"trim");
            router.submit(vec![Request::Propose { group, command, takes_away, reply }]);
            let taken = end.take().now_or_never();
            if taken.is_none() {
                let what = "the store's log is full";
                let refused = Some(Err(Error::Busy { group, what }));
                assert_eq!(answer.wait(Duration::ZERO), refused);
            }
            taken.is_some()
        };
        let both = |max: u64| (admitted(max, false), admitted(max, true));
        assert_eq!(both(live * 2), (true, true));
        assert_eq!(both(live + live / 10), (false, true));
        assert_eq!(both(live), (false, false));
    }

    #[test]
    fn a_store_with_too_many_bytes_of_commands_is_busy_until_they_are_answered() {
        let config = Config { proposal_bytes_max: 1_000, ..Config::default() };
        let (inbox, mut end) = inbox();
        let log = MemoryLog::new();
        let router = Router::new(Arc::new(config), vec![inbox], log, Metrics::new());
        let submit = |group, bytes| {
            let (reply, answer) = Reply::pending();
            let (group, command) = (GroupId(group), Bytes::from(vec![7; bytes]));
            router.submit(vec![Request::Propose { group, command, takes_away: false, reply }]);
            answer
        };
        let wait = |answer: crate::Pending| answer.wait(Duration::from_millis(1));
        let first = submit(1, 600);
        let exact = submit(2, 400);
        let what = "too many bytes of commands are under way";
        assert_eq!(wait(submit(3, 1)), Some(Err(Error::Busy { group: GroupId(3), what })));
        assert_eq!(router.queues().proposal_bytes, 1_000);
        let (reply, read) = Reply::pending();
        let (group, mode) = (GroupId(1), ReadMode::Linearizable);
        router.submit(vec![Request::ReadBarrier { group, mode, reply }]);
        let messages = end.take().now_or_never().expect("three messages wait");
        for message in messages {
            let ShardMessage::Requests(requests) = message else { panic!("{message:?}") };
            for request in requests {
                match request {
                    Request::Propose { reply, .. } | Request::ReadBarrier { reply, .. } => {
                        reply.send(Ok(Answer::Accepted));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for answer in [first, exact, read] {
            assert_eq!(wait(answer), Some(Ok(Answer::Accepted)));
        }
        assert_eq!(router.queues().proposal_bytes, 0);
        assert_eq!(wait(submit(3, 5_000)), None, "a single one always fits");
    }
}
