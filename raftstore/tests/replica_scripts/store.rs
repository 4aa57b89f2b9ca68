//! One store of the scripts: its shard, and what the threads around it would do.

use super::journal::Journal;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::message::{
    ApplyTask, LogTask, ShardMessage, SnapshotEvent, SnapshotNote, SnapshotTask,
};
use flotilla_raftstore::snapshot::{MemorySnapshots, Receiving};
use flotilla_raftstore::{
    Answer, ApplyWorker, Config, Envelope, Fatal, LogStore, LogWriter, Membership, Nanos, Priority,
    ReplicaDesc, ReplicaId, Role, Shard, ShardConfig, SnapshotStore, SnapshotWorker, SpareRoom,
    StateMachine, StoreId, reader, recover,
};
use std::sync::Arc;

/// What is wrong with the snapshots that come to a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spoiled {
    /// They come, and cannot be loaded.
    Loads,
    /// They do not come any more.
    Fetches,
}

/// Nothing of it runs by itself.
pub struct Store {
    pub id: StoreId,
    pub shard: Shard,
    pub inbox: Vec<ShardMessage>,
    log: Arc<MemoryLog>,
    pub journal: Arc<Journal>,
    to_log: Vec<LogTask>,
    to_apply: Vec<ApplyTask>,
    apply: ApplyWorker,
    snapshots: SnapshotWorker,
    pub room: Arc<SpareRoom>,
    pub spoiled: Option<Spoiled>,
    /// Snapshots on their way to it, when they are kept there.
    pub held: Option<Vec<SnapshotTask>>,
    /// Snapshots that it has made.
    pub made: u64,
    /// Between two that it makes unasked.
    pub interval_s: u64,
    pub frozen: bool,
    pub cut: bool,
    /// What was sent to it, when it is to be remembered.
    pub kept: Option<Vec<(StoreId, Vec<Envelope>)>>,
}

fn apply_worker(journal: &Arc<Journal>) -> ApplyWorker {
    ApplyWorker::new(Arc::clone(journal) as Arc<dyn StateMachine>)
}

fn open(
    id: StoreId,
    log: &Arc<MemoryLog>,
    journal: &Arc<Journal>,
    snapshots: &SnapshotWorker,
    interval_s: u64,
) -> Result<Shard, Fatal> {
    let store_log = Arc::clone(log) as Arc<dyn LogStore>;
    let groups = recover(&*store_log, &**journal, snapshots).expect("a log in memory is readable");
    let config = Config {
        group_log_entries_max: 4,
        truncate_entries_min: 1,
        snapshot_retry_ticks: 6,
        snapshot_interval_s: interval_s,
        ..Config::default()
    };
    let config = Arc::new(config);
    let parts = ShardConfig { config, shard: 0, store: id, seed: id.0, log: store_log };
    Shard::new(parts, groups)
}

impl Store {
    /// A new store. `made` is one for all of them: whatever one has made, the others have received.
    pub fn start(id: StoreId, made: &Arc<MemorySnapshots>) -> Result<Store, Fatal> {
        let (log, journal) = (MemoryLog::new(), Arc::new(Journal::default()));
        let machine = Arc::clone(&journal) as Arc<dyn StateMachine>;
        let snapshots = SnapshotWorker::new(Arc::clone(made) as Arc<dyn SnapshotStore>, machine, 4);
        Ok(Store {
            id,
            shard: open(id, &log, &journal, &snapshots, 0)?,
            inbox: Vec::new(),
            apply: apply_worker(&journal),
            log,
            journal,
            to_log: Vec::new(),
            to_apply: Vec::new(),
            snapshots,
            room: Arc::default(),
            spoiled: None,
            held: None,
            made: 0,
            interval_s: 0,
            frozen: false,
            cut: false,
            kept: None,
        })
    }

    /// Starts it anew from its log, without what waits for the disk.
    pub fn restart(&mut self) -> Result<(), Fatal> {
        self.shard = open(self.id, &self.log, &self.journal, &self.snapshots, self.interval_s)?;
        (self.inbox, self.to_log, self.to_apply) = Default::default();
        self.apply = apply_worker(&self.journal);
        self.frozen = false;
        Ok(())
    }

    /// One round; the messages that may leave at once.
    pub fn round(&mut self, now: Nanos) -> Result<Vec<(StoreId, Vec<Envelope>)>, Fatal> {
        let round = self.shard.round(std::mem::take(&mut self.inbox), now)?;
        self.to_log.extend(round.log);
        self.to_apply.extend(round.apply);
        let fetched = reader::fetch(&*self.log, round.fetch).into_iter().map(|(_, list)| list);
        self.inbox.extend(fetched.map(ShardMessage::Fetched));
        for task in round.snapshots {
            self.snapshot(task)?;
        }
        Ok(round.sends)
    }

    /// What is on its way to it does not come.
    pub fn lose(&mut self) {
        for task in self.held.iter_mut().flat_map(std::mem::take) {
            let SnapshotTask::Fetch { asker, manifest, .. } = task else { continue };
            let event = SnapshotEvent::Received(Err("the stream was cut".to_owned()));
            let note = SnapshotNote { asker, id: manifest.id, event };
            self.inbox.push(ShardMessage::Snapshots(vec![note]));
        }
    }

    /// What is on its way to it comes.
    pub fn release(&mut self) -> Result<(), Fatal> {
        let held = self.held.take().unwrap_or_default();
        held.into_iter().try_for_each(|task| self.snapshot(task))
    }

    fn snapshot(&mut self, task: SnapshotTask) -> Result<(), Fatal> {
        if let (Some(held), SnapshotTask::Fetch { .. }) = (&mut self.held, &task) {
            held.push(task);
            return Ok(());
        }
        let (asker, id, event) = match task {
            SnapshotTask::Make { asker, id, sync } => {
                let made = self.snapshots.make(id, asker.group, sync, &mut |_| Ok(()))?;
                self.made += 1;
                (asker, id, SnapshotEvent::Made(made))
            }
            SnapshotTask::Fetch { asker, manifest, .. }
                if self.spoiled == Some(Spoiled::Fetches) =>
            {
                let reason = "a block does not match its checksum".to_owned();
                (asker, manifest.id, SnapshotEvent::Received(Err(reason)))
            }
            SnapshotTask::Load { asker, manifest } if self.spoiled.is_some() => {
                self.spoiled = Some(Spoiled::Fetches);
                (asker, manifest.id, SnapshotEvent::Loaded(Err("a damaged block".to_owned())))
            }
            SnapshotTask::Fetch { asker, manifest, .. } => {
                let id = manifest.id;
                let receiving = Receiving::resume(self.snapshots.store(), manifest);
                let received = receiving.and_then(Receiving::finish);
                let received = received.map_err(|error| error.to_string());
                (asker, id, SnapshotEvent::Received(received))
            }
            SnapshotTask::Load { asker, manifest } => {
                let loaded = self.snapshots.load(&manifest, &mut |_| Ok(()));
                let loaded = loaded.map_err(|error| format!("{error:?}"));
                (asker, manifest.id, SnapshotEvent::Loaded(loaded))
            }
            SnapshotTask::Remove(_) => return Ok(()),
        };
        self.inbox.push(ShardMessage::Snapshots(vec![SnapshotNote { asker, id, event }]));
        Ok(())
    }

    /// Writes what waits for the disk, applies what is committed; the messages released by that.
    pub fn work(&mut self) -> Result<Vec<(StoreId, Vec<Envelope>)>, Fatal> {
        let mut held = Vec::new();
        if !self.frozen && !self.to_log.is_empty() {
            let mut writer = LogWriter::new(Arc::clone(&self.log) as Arc<dyn LogStore>);
            let done = writer.run_once(std::mem::take(&mut self.to_log))?;
            let persisted = done.persisted.into_iter().map(|(_, list)| list);
            self.inbox.extend(persisted.map(ShardMessage::Persisted));
            done.created.into_iter().for_each(|reply| reply.send(Ok(Answer::Accepted)));
            held = done.held;
        }
        if !self.to_apply.is_empty() {
            let done = self.apply.run_once(std::mem::take(&mut self.to_apply))?;
            done.replies.into_iter().for_each(|(reply, outcome)| reply.send(outcome));
            let applied = done.applied.into_iter().map(|(_, list)| list);
            self.inbox.extend(applied.map(ShardMessage::Applied));
            for (_, note) in done.destroys {
                self.journal.destroy(note.group)?;
                self.inbox.push(ShardMessage::Applied(vec![note]));
            }
        }
        Ok(held)
    }

    pub fn idle(&self) -> bool {
        let disk_waits = !self.to_log.is_empty() && !self.frozen;
        self.inbox.is_empty() && self.to_apply.is_empty() && !disk_waits
    }

    pub fn role(&self) -> Option<Role> {
        self.shard.statuses().first().map(|replica| replica.role)
    }

    pub fn members(&self) -> String {
        let Some(view) = self.shard.views().into_iter().next() else {
            return format!("store {}: no replica", self.id);
        };
        let desc = view.record.desc;
        let member = |r: &ReplicaDesc| format!("{} {}@{}", r.role, r.replica, r.store);
        let members: Vec<String> = desc.replicas.iter().map(member).collect();
        let Membership { version, position, pending, priorities, .. } = &desc.membership;
        let pending =
            pending.as_ref().map(|p| format!(", pending {}", p.operation.0)).unwrap_or_default();
        let (id, index, members) = (self.id, position.index, members.join(", "));
        let priority =
            |(id, priority): (&ReplicaId, &Priority)| format!(", {id} priority {priority}");
        let priorities: String = priorities.iter().map(priority).collect();
        format!("store {id}: version {version} at index {index}: {members}{pending}{priorities}")
    }

    pub fn record(&self) -> String {
        let logs = self.log.load().expect("a log in memory is readable");
        let Some(log) = logs.first() else { return format!("store {}: nothing", self.id) };
        let what = if log.record.removed { "tombstone of replica" } else { "replica" };
        let (id, replica) = (self.id, log.record.replica);
        format!("store {id}: {what} {replica}, log up to {}", log.last_index)
    }

    pub fn status(&mut self) -> Option<String> {
        let statuses = self.shard.describe();
        let replica = statuses.first()?;
        let role = match replica.role {
            Role::Leader => "leader",
            Role::Stopped => "stopped",
            Role::Quarantined => "quarantined",
            _ => "follower",
        };
        let asleep = if replica.asleep { " asleep" } else { "" };
        Some(format!(
            "store {}: {role} term={} commit={} applied={} persisted={} first={} last={}{asleep}",
            self.id,
            replica.term,
            replica.commit,
            replica.applied,
            replica.persisted,
            replica.first_index,
            replica.last_index
        ))
    }
}
