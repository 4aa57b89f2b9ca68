//! One step of one process, and where its effects go: what the product's threads do in a shell.

use super::clock::{MICROS, MILLIS, SECONDS};
use super::codec::NO_TICKET;
use super::disk::{DurableLog, NO_SPACE};
use super::net::Fate;
use super::world::{Event, Work, World};
use crate::invariants::wire;
use flotilla_raftstore::message::{DurableApplied, FetchTask, ShardMessage};
use flotilla_raftstore::{
    Envelope, Event as Noted, Fatal, GroupId, Nanos, Payload, ReadCounts, StateMachine, StoreId,
    reader,
};
use rand::Rng;
use std::collections::BTreeMap;

impl World {
    /// Runs one piece of work of a node's process.
    pub(super) fn work(&mut self, node: usize, work: Work) {
        let outcome = match work {
            Work::Round(shard) => self.round(node, shard),
            Work::Tick => self.tick(node),
            Work::LogStart => self.log_start(node),
            Work::LogDone => self.log_done(node),
            Work::ApplyStart => self.apply_start(node),
            Work::ApplyDone => self.apply_done(node),
            Work::SyncStart => self.sync_start(node),
            Work::SyncDone => self.sync_done(node),
            Work::SnapshotMake(asker, id, sync) => self.snapshot_make(node, asker, id, sync),
            Work::SnapshotBlock(number) => self.snapshot_block(node, number),
            Work::SnapshotLoad(asker, manifest) => self.snapshot_load(node, asker, &manifest),
            Work::SnapshotRemove(id) => {
                self.snapshot_remove(node, id);
                Ok(())
            }
            Work::Destroy => self.destroy(node),
            Work::FindDamage => {
                self.find_damage(node);
                Ok(())
            }
            Work::Fetch(tasks) => self.fetch(node, tasks),
            Work::Read(ticket) => self.read(node, ticket),
        };
        if let Err(fatal) = outcome {
            self.fatal(node, &fatal);
        }
    }

    /// A fatal error ends the process (I9); its disks are in the state of a power cut at worst.
    fn fatal(&mut self, node: usize, fatal: &Fatal) {
        self.note("fatal", node, [0; 3]);
        match fatal.what.as_str() {
            "log sync" => self.counts.add("log syncs failed"),
            "engine sync" => self.counts.add("engine syncs failed"),
            "log write" => self.counts.add("log writes refused by a full disk"),
            _ if fatal.reason.contains(NO_SPACE) => {
                self.counts.add("engine writes refused by a full disk");
            }
            _ => {}
        }
        if !fatal.reason.contains("simulated") {
            self.violations.push(format!("store {}: {fatal}", node + 1));
        }
        let down_for = self.rng.random_range(200 * MILLIS..3_000 * MILLIS);
        let power_cut = self.rng.random_bool(0.5);
        self.crash(node, power_cut, down_for);
    }

    /// Looks at outcomes and promises that the last piece of work left behind.
    pub(super) fn after_work(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let outcomes = process.sink.take();
        if process.log.done.is_none() && self.nodes[node].log.has_failed() {
            self.violations.push("I9: a failed sync went unnoticed".into());
        }
        for (ticket, outcome) in outcomes {
            if ticket != NO_TICKET {
                self.completed(node, ticket, outcome);
            }
        }
        self.violations.extend(self.nodes[node].log.take_violations());
        self.violations.extend(self.nodes[node].engine.take_violations());
    }

    /// Puts a message into a shard's inbox.
    pub(super) fn tell(&mut self, node: usize, shard: usize, message: ShardMessage) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.shards[shard].inbox.push(message);
        self.wake(node, shard);
    }

    /// Schedules a shard's next round if none is on its way.
    pub(super) fn wake(&mut self, node: usize, shard: usize) {
        let delay = self.jitter();
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let slot = &mut process.shards[shard];
        if !slot.scheduled {
            slot.scheduled = true;
            let delay = delay.max(slot.stalled_until.saturating_sub(now));
            self.work_after(delay, node, Work::Round(shard));
        }
    }

    fn round(&mut self, node: usize, shard: usize) -> Result<(), Fatal> {
        let (now, moment) = (self.now, self.moment(node));
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let slot = &mut process.shards[shard];
        if slot.stalled_until > now {
            let wait = slot.stalled_until - now;
            self.work_after(wait, node, Work::Round(shard));
            return Ok(());
        }
        slot.scheduled = false;
        let inbox = std::mem::take(&mut slot.inbox);
        let messages = inbox.len() as u64;
        let round = slot.shard.round(inbox, moment)?;
        let (log, apply) = (round.log.len() as u64, round.apply.len() as u64);
        process.log.queue.extend(round.log);
        process.apply.queue.extend(round.apply);
        let views = round.views.len() as u64;
        let statuses = process.shards[shard].shard.statuses();
        let sleeps = statuses.iter().any(|status| status.asleep);
        self.counts.add_many("rounds of shards with sleepers", u64::from(sleeps));
        let waiting = &process.log.queue[process.log.queue.len() - log as usize..];
        let cuts = waiting.iter().filter(|t| t.write.truncate.is_some()).count() as u64;
        self.counts.add_many("log truncations", cuts);
        self.count_reads(&round.reads);
        let fled = |event: &&Noted| **event == Noted::TransferFromSlowDisk;
        let fled = round.seen.events.iter().filter(fled).count();
        self.counts.add_many("leaders moved off slow disks", fled as u64);
        self.note("round", node, [shard as u64, messages, log << 32 | apply << 16 | views]);
        for view in &round.views {
            if view.leading {
                self.counts.add("leader changes");
                let group = view.record.desc.group;
                self.note("  leads: group, term", node, [group.0, view.term, 0]);
                self.expect_no_lease(node, group, view.term);
                self.note_leader(view);
            }
            let problem = self.invariants.published(node, &view.record);
            self.violations.extend(problem);
        }
        let problems = self.invariants.statuses(node, &self.nodes[node], &statuses);
        self.violations.extend(problems);
        for (store, envelopes) in round.sends {
            self.send(node, store, envelopes);
        }
        if !round.fetch.is_empty() {
            self.counts.add_many("old entries fetched for followers", round.fetch.len() as u64);
            self.expect_durable(node, &round.fetch);
            let delay = self.rng.random_range(50 * MICROS..5 * MILLIS);
            self.work_after(delay, node, Work::Fetch(round.fetch));
        }
        self.snapshot_tasks(node, round.snapshots);
        self.start_workers(node);
        Ok(())
    }

    /// I3: what the reader is to fetch is on the disk; later it may be overwritten.
    fn expect_durable(&mut self, node: usize, tasks: &[FetchTask]) {
        for task in tasks {
            let (group, end) = (task.group, task.high - 1);
            let last = self.nodes[node].log.with_group(group, DurableLog::last_index);
            let last = last.unwrap_or(0);
            if end > last {
                self.violations.push(format!(
                    "I3: group {group}: entries up to {end} are to be fetched, the last on the disk \
                     is {last}"
                ));
            }
        }
    }

    fn count_reads(&mut self, reads: &ReadCounts) {
        let all = [
            ("reads confirmed by a quorum", reads.confirmed),
            ("reads by a lease", reads.leased),
            ("lease reads without a lease", reads.degraded),
            ("reads by asking the leader", reads.asked),
            ("reads by the state's age", reads.stale),
        ];
        for (what, count) in all {
            self.counts.add_many(what, count);
        }
    }

    /// I15: `node` leads from now on, so no lease of an earlier term holds.
    fn expect_no_lease(&mut self, node: usize, group: GroupId, term: u64) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let moment = self.moment(other);
            let Some(process) = &self.nodes[other].process else { continue };
            let shard = &process.shards[process.shard_of(group)].shard;
            if let Some(leased) = shard.leased_term(group, moment).filter(|leased| *leased < term) {
                self.violations.push(format!(
                    "I15: group {group}: store {} leads in term {term} while the lease of store {} \
                     in term {leased} holds",
                    node + 1,
                    other + 1
                ));
            }
        }
    }

    /// Wakes the workers that have something to do and do nothing.
    fn start_workers(&mut self, node: usize) {
        let (log_delay, apply_delay) = (self.jitter(), self.jitter());
        let Some(process) = &mut self.nodes[node].process else { return };
        let (mut log, mut apply) = (false, false);
        if !process.log.busy && !process.log.queue.is_empty() {
            process.log.busy = true;
            log = true;
        }
        if !process.apply.busy && !process.apply.queue.is_empty() {
            process.apply.busy = true;
            apply = true;
        }
        if log {
            self.work_after(log_delay, node, Work::LogStart);
        }
        if apply {
            self.work_after(apply_delay, node, Work::ApplyStart);
        }
    }

    fn tick(&mut self, node: usize) -> Result<(), Fatal> {
        let now = Nanos(self.now);
        let process = self.nodes[node].process.as_mut();
        let verdict = process.and_then(|process| process.disk.look(now));
        for shard in 0..self.config.shards {
            if let Some(slow) = verdict {
                self.tell(node, shard, ShardMessage::DiskSlow(slow));
            }
            self.tell(node, shard, ShardMessage::Tick);
        }
        if let Some(slow) = verdict {
            self.counts.add(if slow { "disks found slow" } else { "disks fast again" });
            self.note("disk slow", node, [u64::from(slow), 0, 0]);
        }
        let interval = self.clocks[node].true_span(self.config.tick_interval_ms * MILLIS);
        self.work_after(interval, node, Work::Tick);
        Ok(())
    }

    fn log_start(&mut self, node: usize) -> Result<(), Fatal> {
        let slow = self.nodes[node].slow_until > self.now;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let tasks = std::mem::take(&mut process.log.queue);
        let shards = process.shards.len() as u64;
        let strayed = tasks.iter().find(|t| t.write.group.0 % shards != t.shard as u64);
        if let Some(task) = strayed {
            self.violations.push(format!("I1: group {} on shard {}", task.write.group, task.shard));
        }
        let count = tasks.len() as u64;
        for task in &tasks {
            self.trace.remark(|| {
                let write = &task.write;
                let entries = write.append.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>();
                let (group, vote, cut) = (write.group, write.hard_state, write.truncate);
                format!(
                    "write: group {group} ready {} {vote:?} {entries:?} cut {cut:?}",
                    task.ready
                )
            });
        }
        process.disk.begin(Nanos(self.now));
        let done = process.log.worker.run_once(tasks)?;
        let longest = if !done.synced {
            20 * MICROS
        } else if slow {
            (20 * self.plan.sync_max).max(SECONDS)
        } else {
            self.plan.sync_max
        };
        process.log.done = Some(done);
        let delay = self.rng.random_range(10 * MICROS..=longest);
        self.note("log write", node, [count, delay, u64::from(slow)]);
        self.work_after(delay, node, Work::LogDone);
        Ok(())
    }

    fn log_done(&mut self, node: usize) -> Result<(), Fatal> {
        let target = &mut self.nodes[node];
        let Some(process) = &mut target.process else { return Ok(()) };
        let Some(done) = process.log.done.take() else { return Ok(()) };
        process.log.busy = false;
        process.disk.end(Nanos(self.now), done.synced);
        if done.synced {
            target.log.complete();
        }
        self.note("log durable", node, [done.persisted.len() as u64, done.held.len() as u64, 0]);
        for (shard, persisted) in done.persisted {
            self.tell(node, shard, ShardMessage::Persisted(persisted));
        }
        for (store, envelopes) in done.held {
            self.send(node, store, envelopes);
        }
        for reply in done.created {
            reply.send(Ok(flotilla_raftstore::Answer::Accepted));
        }
        self.start_workers(node);
        Ok(())
    }

    fn apply_start(&mut self, node: usize) -> Result<(), Fatal> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let tasks = std::mem::take(&mut process.apply.queue);
        let done = process.apply.worker.run_once(tasks)?;
        process.apply.done = Some(done);
        let entries = process.watched.take_applied();
        let told = process.watched.take_told();
        self.violations.extend(process.watched.take_violations());
        let failures = process.apply.done.iter().flat_map(|done| &done.applied);
        let failures = failures.flat_map(|(_, applied)| applied).filter(|a| a.failure.is_some());
        self.counts.add_many("state machines failed at an entry", failures.count() as u64);
        for entry in &entries {
            let (group, position, commit) = (entry.group, entry.position, entry.commit);
            self.trace.remark(|| format!("apply: group {group} {position:?} commit {commit}"));
        }
        self.note("apply", node, [entries.len() as u64, 0, 0]);
        let full = self.nodes[node].engine.take_checkpoints();
        self.counts.add_many("checkpoints of full tables", full);
        self.note_members(node, &entries, &told);
        let problems = self.invariants.applied(node, &self.nodes[node], entries);
        self.violations.extend(problems);
        self.went_on();
        let longest = if self.nodes[node].slow_engine_until > self.now {
            (20 * self.plan.apply_max).max(300 * MILLIS)
        } else {
            self.plan.apply_max
        };
        let delay = self.rng.random_range(10 * MICROS..=longest);
        self.work_after(delay, node, Work::ApplyDone);
        Ok(())
    }

    fn apply_done(&mut self, node: usize) -> Result<(), Fatal> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some(done) = process.apply.done.take() else { return Ok(()) };
        process.apply.busy = false;
        for (_, list) in &done.applied {
            for applied in list.iter().filter(|a| a.index > 0) {
                process.applied.insert(applied.group, (applied.replica, applied.index));
            }
        }
        let idle = process.destroys.is_empty();
        process.destroys.extend(done.destroys);
        let begins = idle && !process.destroys.is_empty();
        for (reply, outcome) in done.replies {
            reply.send(outcome);
        }
        for (shard, applied) in done.applied {
            self.tell(node, shard, ShardMessage::Applied(applied));
        }
        if begins {
            self.begin_destroy(node);
        }
        self.start_workers(node);
        Ok(())
    }

    fn sync_start(&mut self, node: usize) -> Result<(), Fatal> {
        let target = &mut self.nodes[node];
        let Some(process) = &mut target.process else { return Ok(()) };
        process.syncing = Some(process.applied.clone());
        target.engine.begin_slow_sync();
        process.watched.sync()?;
        self.counts.add_many("checkpoints by syncs", target.engine.take_checkpoints());
        let longest = if target.slow_engine_until > self.now {
            (20 * self.plan.sync_max).max(2 * SECONDS)
        } else {
            2 * self.plan.sync_max
        };
        let delay = self.rng.random_range(100 * MICROS..=longest);
        self.work_after(delay, node, Work::SyncDone);
        Ok(())
    }

    fn sync_done(&mut self, node: usize) -> Result<(), Fatal> {
        let target = &mut self.nodes[node];
        let Some(process) = &mut target.process else { return Ok(()) };
        target.engine.complete_sync();
        let durable = process.syncing.take().unwrap_or_default();
        let mut by_shard: BTreeMap<usize, Vec<DurableApplied>> = BTreeMap::new();
        let groups = durable.len() as u64;
        for (group, (replica, index)) in durable {
            let log_needed = process.watched.log_needed(group);
            let durable = DurableApplied { group, replica, index, log_needed };
            by_shard.entry(process.shard_of(group)).or_default().push(durable);
        }
        self.note("engine durable", node, [groups, 0, 0]);
        for (shard, durable) in by_shard {
            self.tell(node, shard, ShardMessage::DurableApplied(durable));
        }
        self.compare_content(node);
        self.work_after(self.config.sync_interval_ms * MILLIS, node, Work::SyncStart);
        Ok(())
    }

    /// I14 for every group of a node, as far as another replica was seen at the same index.
    pub(super) fn compare_content(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let hashes: Vec<_> = self
            .regions
            .iter()
            .filter(|region| process.state_machine().region(region.region).is_some())
            .map(|region| (region.group, process.state_machine().content_hash(region.group)))
            .collect();
        for (group, content) in hashes {
            let problem = match content {
                Ok((applied, hash)) => self.invariants.content(node, group, applied, hash),
                Err(fatal) => Some(fatal.to_string()),
            };
            self.violations.extend(problem);
        }
    }

    fn fetch(&mut self, node: usize, tasks: Vec<FetchTask>) -> Result<(), Fatal> {
        let fetched = reader::fetch(self.nodes[node].log.as_ref(), tasks);
        for (shard, list) in fetched {
            self.tell(node, shard, ShardMessage::Fetched(list));
        }
        Ok(())
    }

    /// Gives a node's messages to the network.
    fn send(&mut self, node: usize, to: StoreId, envelopes: Vec<Envelope>) {
        for envelope in &envelopes {
            self.trace.remark(|| format!("send: {}", wire::describe(envelope)));
            self.counts.add_many("pre-votes asked", u64::from(wire::asks_pre_vote(envelope)));
        }
        let problems = self.invariants.sent(&self.nodes[node], &envelopes);
        self.violations.extend(problems);
        let from = self.nodes[node].store;
        let target = (to.0 - 1) as usize;
        let count = envelopes.len() as u64;
        let fate = self.net.send(&mut self.rng, self.now, from.0, to.0);
        match fate {
            Fate::Cut => {
                self.counts.add("frames cut off");
                self.lose(node, to);
            }
            Fate::Lost => self.counts.add("frames lost"),
            Fate::Late(at) => {
                self.counts.add("frames reordered");
                self.after(at - self.now, Event::Deliver(from, target, envelopes));
            }
            Fate::Arrives(at, again) => {
                if let Some(again) = again {
                    self.counts.add("frames duplicated");
                    let copy = envelopes.clone();
                    self.after(again - self.now, Event::Deliver(from, target, copy));
                }
                self.after(at - self.now, Event::Deliver(from, target, envelopes));
            }
        }
        self.note("send: to, messages", node, [to.0, count, 0]);
    }

    /// The transport notices an outage now and then.
    fn lose(&mut self, node: usize, to: StoreId) {
        if self.rng.random_bool(0.1) {
            let delay = self.rng.random_range(MILLIS..50 * MILLIS);
            self.after(delay, Event::Unreachable(node, to));
        }
    }

    /// A frame arrives.
    pub(super) fn deliver(&mut self, from: StoreId, node: usize, envelopes: Vec<Envelope>) {
        if let Some(until) = self.paused(node) {
            // Threads wake in any order: the first round may see a part of what has come.
            let wait = until - self.now + self.rng.random_range(0..3 * MILLIS);
            return self.after(wait, Event::Deliver(from, node, envelopes));
        }
        let Some(process) = &self.nodes[node].process else {
            return self.lose((from.0 - 1) as usize, StoreId(node as u64 + 1));
        };
        let mut by_shard: BTreeMap<usize, Vec<Envelope>> = BTreeMap::new();
        for envelope in envelopes {
            self.trace.remark(|| format!("at store {}: {}", node + 1, wire::describe(&envelope)));
            let sleep = matches!(envelope.payload, Payload::Sleep(_));
            self.counts.add_many("groups told to sleep", u64::from(sleep));
            if let Payload::Raft { bytes, bulk: true } = &envelope.payload {
                self.log_bytes_received[node] += bytes.len() as u64;
            }
            if let Payload::Alive(_) = envelope.payload {
                for shard in 0..self.config.shards {
                    by_shard.entry(shard).or_default().push(envelope.clone());
                }
            } else {
                by_shard.entry(process.shard_of(envelope.group)).or_default().push(envelope);
            }
        }
        for (shard, envelopes) in by_shard {
            self.tell(node, shard, ShardMessage::Deliver { from, envelopes });
        }
    }

    /// A node's transport reports a store.
    pub(super) fn unreachable(&mut self, node: usize, store: StoreId) {
        for shard in 0..self.config.shards {
            self.tell(node, shard, ShardMessage::Unreachable(store));
        }
    }
}
