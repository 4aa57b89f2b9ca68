//! The invariants of the design as checks on a running cluster, asserted after every step.
//!
//! | | what is checked | from |
//! |---|---|---|
//! | I1 | each replica applies index after index; every replica applies the same entry at an index | what the state machines were given |
//! | I2 | no message promises what is not on its sender's disk | the wire and the disk ([`wire`]) |
//! | I3 | the disk is never asked for what only the cache can have | `sim::disk` |
//! | I4 | applied ≤ commit, applied ≤ persisted ≤ disk; durable applied ≤ durable commit ≤ log end | status, disk, recovery |
//! | I5 | log start ≤ durable applied + 1, unless a snapshot is being installed | status, disk, recovery |
//! | I6 | "applied" only after the local apply of that very command | completions |
//! | I7 | a read is served at an index not below any write acknowledged before it was asked | completions |
//! | I8 | terms, votes, commit, applied and their durable values never go back; one leader a term; terms ascend in a log | status, disk, recovery |
//! | I9 | a failed sync ends the process; only replicas whose state is damaged are quarantined | `sim::disk`, `sim::effects`, status |
//! | I10 | waiting callers and the apply queue stay within their limits | status |
//! | I11 | regions of one store are those that were created: they do not overlap | recovery |
//! | I12 | a record only goes forward; no replica comes back after its end; no id is added twice | `sim::disk`, status, members |
//! | I13 | every version of the members is one for all; quorums of successive ones intersect | what the state machines were given ([`members`]) |
//! | I14 | equal content at equal applied index | content hashes |
//! | I15 | nobody is elected while another replica's lease holds | `sim::effects` |
//! | I16 | a group goes on without its lost majority with all that any replica that is left had | what the state machines were given ([`logs`]) |
//! | I17 | a command is applied once: whoever was refused was not applied | what the state machines were given ([`logs`]) |
//! | I18 | a leader on a disk with hardly any room takes nothing that takes room | completions |

pub mod logs;
pub mod members;
pub mod wire;

use logs::{Entry, Logs};
use members::Configurations;

use crate::sim::disk::DurableLog;
use crate::sim::node::Node;
use crate::sim::swarm::Plan;
use crate::sim::watched::AppliedEntry;
use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::{
    Envelope, GroupDesc, GroupId, GroupRecord, LogPosition, RecoveredGroup, ReplicaId,
    ReplicaStatus, Role,
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

/// What was last seen of one replica in one run of its process.
#[derive(Clone, Debug, Default)]
struct Replica {
    /// Who it is; another one may follow it.
    id: ReplicaId,
    /// It has applied its own removal.
    left: bool,
    term: u64,
    /// The last term in which it led.
    led: u64,
    commit: u64,
    applied: u64,
    first_index: u64,
    durable_applied: u64,
    /// Last index given to the state machine.
    machine: u64,
    /// (number of an engine write, applied index in it), ascending.
    engine_writes: Vec<(u64, u64)>,
    /// What the disk held of the state machine when the process started.
    recovered: u64,
}

/// See the module.
pub struct Invariants {
    regions: Vec<RegionMeta>,
    replicas: BTreeMap<(usize, GroupId), Replica>,
    /// Who led in (group, term), before and after a recovery of the group.
    leaders: BTreeMap<(GroupId, bool, u64), usize>,
    /// The one log that all replicas apply.
    logs: Logs,
    /// Groups that were recovered since somebody asked: where, and how many applied entries are lost.
    recovered: Vec<(GroupId, u64, u64)>,
    /// What was committed anywhere, apart from what a recovery has committed.
    commits: BTreeMap<GroupId, u64>,
    /// Replicas whose state is damaged.
    damaged: BTreeSet<(GroupId, ReplicaId)>,
    /// Commands applied by a node's process.
    commands: FxHashMap<usize, FxHashSet<u64>>,
    /// Content by group and applied index, with the node that showed it.
    contents: FxHashMap<(GroupId, u64), (u64, usize)>,
    /// Every version of the members.
    configurations: Configurations,
    /// Entries given to all state machines so far.
    applied_total: u64,
    /// Replicas whose state was destroyed.
    ended: BTreeSet<(GroupId, ReplicaId)>,
    /// Highest index whose effect was acknowledged to a client.
    acknowledged: BTreeMap<GroupId, u64>,
    waiting_max: usize,
}

impl Invariants {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(plan: &Plan, regions: &[RegionMeta]) -> Self {
        Invariants {
            regions: regions.to_vec(),
            replicas: BTreeMap::new(),
            leaders: BTreeMap::new(),
            logs: Logs::default(),
            recovered: Vec::new(),
            commits: BTreeMap::new(),
            damaged: BTreeSet::new(),
            commands: FxHashMap::default(),
            contents: FxHashMap::default(),
            configurations: Configurations::new(regions),
            applied_total: 0,
            ended: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            waiting_max: (plan.clients * plan.groups * 64) as usize,
        }
    }

    /// A process has started from its disks.
    pub fn started(
        &mut self,
        node: usize,
        recovered: &[RecoveredGroup],
        regions: &[RegionMeta],
    ) -> Vec<String> {
        let mut problems = Vec::new();
        if !fit(regions, &self.regions) {
            problems.push(format!("I11: store {} holds regions {regions:?}", node + 1));
        }
        self.commands.remove(&node);
        // A replica whose creation was lost begins again.
        let held: BTreeSet<GroupId> = recovered.iter().map(|group| group.log.group).collect();
        self.replicas.retain(|(on, group), _| *on != node || held.contains(group));
        for group in recovered {
            let id = group.log.group;
            let place = format!("store {} group {id}", node + 1);
            // A quarantined replica may have given up the blocks of an install that its log names.
            let known = self.damaged.contains(&(id, group.log.record.replica));
            if let Some(damage) = group.damage.as_ref().filter(|_| !known) {
                problems.push(format!("I4/I5: {place}: recovered as damaged: {damage}"));
            }
            let last = self.replicas.entry((node, id)).or_default();
            if group.log.record.removed {
                // Its state was still there, or not.
                self.ended.insert((id, group.log.record.replica));
                *last = Replica::default();
                continue;
            }
            if group.log.record.replica != last.id {
                *last = Replica { id: group.log.record.replica, ..Replica::default() };
            }
            if group.applied < last.durable_applied {
                problems.push(format!(
                    "I8: {place}: applied {} after a restart, {} was durable",
                    group.applied, last.durable_applied
                ));
            }
            *last = Replica {
                id: last.id,
                durable_applied: group.applied,
                machine: group.applied,
                recovered: group.applied,
                ..Replica::default()
            };
        }
        problems
    }

    /// A process is gone. What it had told as durable must be there at the next start.
    pub fn crashed(&mut self, node: usize) {
        self.commands.remove(&node);
    }

    /// Checks every replica of a shard after its round.
    pub fn statuses(
        &mut self,
        node: usize,
        store: &Node,
        statuses: &[ReplicaStatus],
    ) -> Vec<String> {
        let mut problems = Vec::new();
        for status in statuses {
            let group = status.group;
            let place = || format!("store {} group {group}", node + 1);
            if status.role == Role::Quarantined {
                if !self.damaged.contains(&(group, status.replica)) {
                    let damage = status.damage.clone().unwrap_or_default();
                    problems.push(format!("I9: {}: quarantined without damage: {damage}", place()));
                }
                continue;
            }
            if status.role == Role::Stopped {
                let failed = store.process.as_ref().and_then(|p| p.watched.failed_at(group));
                if failed != Some(status.applied + 1) {
                    problems
                        .push(format!("{}: stopped, failed at {failed:?}: {status:?}", place()));
                }
                continue;
            }
            if status.role == Role::Leader {
                let after = self.logs.is_after(group, status.replica);
                let led = (group, after, status.term);
                let leader = *self.leaders.entry(led).or_insert(node);
                if leader != node {
                    let term = status.term;
                    problems.push(format!("I8: {}: second leader of term {term}", place()));
                }
            }
            let on_disk =
                store.log.with_group(group, |log| (log.last_index(), log.truncated.index));
            let (log_end, cut) = on_disk.unwrap_or_default();
            let (_, engine_durable) = store.engine.writes(group);
            if !self.logs.is_after(group, status.replica) || !self.has_jumped(store, group) {
                let commit = self.commits.entry(group).or_default();
                *commit = status.commit.max(*commit);
            }
            let last = self.replicas.entry((node, group)).or_default();
            if self.ended.contains(&(group, status.replica)) {
                let id = status.replica;
                problems.push(format!("I12: {}: replica {id} is back after its end", place()));
            }
            if last.left && last.id == status.replica {
                let id = status.replica;
                problems
                    .push(format!("I13: {}: replica {id} goes on without being a member", place()));
            }
            if last.id != status.replica {
                *last = Replica { id: status.replica, ..Replica::default() };
            }
            let durable_applied = last.durable_on_disk(engine_durable);
            let leads = status.role == Role::Leader;
            let rules: [(bool, &str); 13] = [
                (
                    !(leads && status.barred) || last.led == status.term,
                    "priority 0: who knows that it must not lead begins to as a last resort only",
                ),
                (status.applied <= status.commit, "I4: applied ≤ commit"),
                (status.applied <= status.persisted, "I4: applied ≤ persisted"),
                (status.persisted <= log_end, "I4: persisted ≤ end of the log on disk"),
                (status.durable_applied <= status.applied, "I4: durable applied ≤ applied"),
                (
                    status.durable_applied <= durable_applied,
                    "I4: durable applied ≤ what the engine holds on disk",
                ),
                (
                    status.installing || status.first_index <= status.durable_applied + 1,
                    "I5: log start ≤ durable + 1",
                ),
                (
                    status.installing || cut <= durable_applied,
                    "I5: log start on disk ≤ durable applied on disk + 1",
                ),
                (status.term >= last.term, "I8: the term never goes back"),
                (status.commit >= last.commit, "I8: commit never goes back"),
                (status.applied >= last.applied, "I8: applied never goes back"),
                (status.first_index >= last.first_index, "I8: the log start never goes back"),
                (
                    status.waiting_proposals + status.waiting_reads <= self.waiting_max,
                    "I10: callers that wait are bounded",
                ),
            ];
            for (_, rule) in rules.iter().filter(|(holds, _)| !holds) {
                problems.push(format!(
                    "{rule}: {}: {status:?}, log on disk {cut}..={log_end}, durable state \
                     {durable_applied}, before {last:?}",
                    place()
                ));
            }
            last.term = status.term;
            last.led = if leads { status.term } else { last.led };
            last.commit = status.commit;
            last.applied = status.applied;
            last.first_index = status.first_index;
            last.durable_applied = last.durable_applied.max(status.durable_applied);
        }
        problems
    }

    /// A node's state machine was given these entries.
    pub fn applied(
        &mut self,
        node: usize,
        store: &Node,
        entries: Vec<AppliedEntry>,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        self.applied_total += entries.len() as u64;
        for entry in entries {
            let (group, index) = (entry.group, entry.position.index);
            problems.extend(self.applied_early(node, store, group, index));
            let replica = self.replicas.entry((node, group)).or_default();
            if index != replica.machine + 1 {
                let after = replica.machine;
                problems.push(format!(
                    "I1: store {} group {group}: index {index} applied after {after}",
                    node + 1
                ));
            }
            // What a replica had handed to apply before its end may come behind its tombstone.
            let end_of = |log: &DurableLog| match &log.record {
                Some(record) if record.removed => u64::MAX,
                _ => log.last_index(),
            };
            let log_end = store.log.with_group(group, end_of).unwrap_or(0);
            let before = self.logs.is_before(group, replica.id);
            let mut recovers = false;
            if let Some(members) = &entry.members {
                replica.left = members.has_left(replica.id);
                if !before {
                    let version = self.configurations.latest(group).membership.version;
                    recovers = members.membership.version > version + 1;
                    problems.extend(self.configurations.applied(members));
                }
            }
            if entry.commit < index || entry.commit > log_end {
                let commit = entry.commit;
                problems.push(format!(
                    "I4: store {} group {group}: {index} applied with commit {commit}, log on disk \
                     up to {log_end}",
                    node + 1
                ));
            }
            replica.machine = index;
            replica.engine_writes.push((entry.engine_write, index));
            let AppliedEntry { position, content, .. } = entry;
            let commands_in = Entry { position, content, commands: &entry.commands, recovers };
            let taken = self.logs.apply(group, replica.id, commands_in);
            let place = |problem| format!("store {} group {group}: {problem}", node + 1);
            problems.extend(taken.problem.map(place));
            if let Some(from) = taken.left_at {
                self.contents.retain(|(of, at), _| *of != group || *at < from);
            }
            if let Some(lost) = taken.lost {
                let floor = self.acknowledged.entry(group).or_default();
                *floor = index.min(*floor);
                self.recovered.push((group, index, lost));
            }
            self.commands.entry(node).or_default().extend(entry.commands);
        }
        problems
    }

    /// The replica there has taken the order to go on alone, and has not applied it yet.
    fn has_jumped(&self, store: &Node, group: GroupId) -> bool {
        let (Some(false), Some(process)) = (self.logs.recovery(group), &store.process) else {
            return false;
        };
        let known = self.members(group).membership.version;
        let views = process.shards[process.shard_of(group)].shard.views();
        let mut own = views.iter().map(|view| &view.record.desc).filter(|d| d.group == group);
        own.any(|desc| desc.membership.version > known + 1)
    }

    /// I16: the replica that goes on applies what nobody but the recovery commits, and that is not durable.
    fn applied_early(
        &self,
        node: usize,
        store: &Node,
        group: GroupId,
        index: u64,
    ) -> Option<String> {
        let id = self.replicas.get(&(node, group)).map(|replica| replica.id)?;
        if self.logs.is_before(group, id) || !self.has_jumped(store, group) {
            return None;
        }
        let known = self.commits.get(&group).copied().unwrap_or_default();
        let version = |log: &DurableLog| log.record.as_ref().map(|r| r.desc.membership.version);
        let written = store.log.with_group(group, version).flatten();
        // The record's version jumps with the recovery.
        let durable = written > Some(self.members(group).membership.version + 1);
        (index > known && !durable).then(|| {
            format!(
                "I16: store {} group {group}: {index} is applied, up to {known} is committed, and the \
                 recovery is not durable",
                node + 1
            )
        })
    }

    /// A node's state machine took a snapshot up to `index`, durably.
    #[must_use]
    pub fn installed(&mut self, node: usize, group: GroupId, index: u64) -> Option<String> {
        let replica = self.replicas.entry((node, group)).or_default();
        let known = self.logs.last(group, replica.id);
        let before = replica.machine;
        (replica.machine, replica.recovered) = (index, index);
        replica.engine_writes.clear();
        let place = format!("store {} group {group}", node + 1);
        if index > known {
            return Some(format!("I1: {place}: a snapshot up to {index}, {known} are applied"));
        }
        (index <= before).then(|| format!("I8: {place}: a snapshot up to {index} after {before}"))
    }

    /// The state of a node's replica is gone.
    pub fn destroyed(&mut self, node: usize, group: GroupId) {
        let last = std::mem::take(self.replicas.entry((node, group)).or_default());
        self.ended.insert((group, last.id));
    }

    /// A store has lost all that it had: its replicas must not come back.
    pub fn wiped(&mut self, node: usize, lost: &[(GroupId, ReplicaId)]) {
        self.ended.extend(lost);
        self.replicas.retain(|(on, _), _| *on != node);
    }

    /// A store tells who its replica is.
    #[must_use]
    pub fn published(&self, node: usize, record: &GroupRecord) -> Option<String> {
        let GroupRecord { desc, replica, .. } = record;
        (desc.replica(*replica).map(|r| r.store.0) != Some(node as u64 + 1)).then(|| {
            let (store, group) = (node + 1, desc.group);
            format!("I13: store {store} group {group}: replica {replica} is no member and goes on")
        })
    }

    /// The latest members of a group that were applied anywhere.
    #[must_use]
    pub fn members(&self, group: GroupId) -> &GroupDesc {
        self.configurations.latest(group)
    }

    /// The operator has the group go on without its majority, with one of those that are left; the
    /// longest of their logs ends at `end`.
    pub fn recovers(&mut self, group: GroupId, goes_on: ReplicaId, end: LogPosition) {
        self.logs.recovers(group, goes_on, self.members(group).replica_max(), end);
        self.configurations.recovers(group, true);
    }

    /// The order was not carried out.
    pub fn recovery_withdrawn(&mut self, group: GroupId) -> Option<String> {
        self.configurations.recovers(group, false);
        self.logs.withdraw(group).map(|problem| format!("group {group}: {problem}"))
    }

    /// Whether the group has gone on without its majority; `None` without an order.
    #[must_use]
    pub fn recovery(&self, group: GroupId) -> Option<bool> {
        self.logs.recovery(group)
    }

    /// Groups that have gone on without their majority since the last call: at which index, and how many
    /// applied entries are lost.
    pub fn take_recovered(&mut self) -> Vec<(GroupId, u64, u64)> {
        std::mem::take(&mut self.recovered)
    }

    /// The state of a replica is damaged.
    pub fn damaged(&mut self, group: GroupId, replica: ReplicaId) {
        self.damaged.insert((group, replica));
    }

    /// A node's state machine shows this content.
    pub fn content(
        &mut self,
        node: usize,
        group: GroupId,
        applied: u64,
        hash: u64,
    ) -> Option<String> {
        let replica = self.replicas.get(&(node, group)).map(|replica| replica.id);
        if self.logs.is_before(group, replica.unwrap_or_default()) {
            return None;
        }
        let (other, by) = *self.contents.entry((group, applied)).or_insert((hash, node));
        (other != hash).then(|| {
            let (one, two) = (by + 1, node + 1);
            format!("I14: group {group} at {applied}: stores {one} and {two} differ")
        })
    }

    /// A node's messages leave.
    pub fn sent(&self, node: &Node, envelopes: &[Envelope]) -> Vec<String> {
        envelopes.iter().filter_map(|envelope| wire::unkept_promise(node, envelope)).collect()
    }

    /// A command of `group` is answered as applied by a node (I6).
    pub fn acknowledge(&mut self, node: usize, group: GroupId, command: u64) -> Option<String> {
        let replica = self.replicas.get(&(node, group)).map(|replica| replica.id);
        let replica = replica.unwrap_or_default();
        if !self.logs.is_before(group, replica) {
            let applied = self.applied_index(node, group).min(self.logs.last(group, replica));
            let highest = self.acknowledged.entry(group).or_default();
            *highest = applied.max(*highest);
        }
        let known = self.commands.get(&node).is_some_and(|commands| commands.contains(&command));
        (!known).then(|| {
            format!("I6: store {} group {group}: ok for a command that it did not apply", node + 1)
        })
    }

    /// The index that a read asked now must see.
    #[must_use]
    pub fn read_floor(&self, group: GroupId) -> u64 {
        self.acknowledged.get(&group).copied().unwrap_or(0)
    }

    /// A read barrier is passed on a node (I7).
    #[must_use]
    pub fn read_ready(&self, node: usize, group: GroupId, floor: u64) -> Option<String> {
        let applied = self.applied_index(node, group);
        (applied < floor).then(|| {
            let store = node + 1;
            format!("I7: store {store} group {group}: read at {applied}, {floor} was acknowledged")
        })
    }

    /// Entries given to all state machines so far.
    #[must_use]
    pub fn applied_entries(&self) -> u64 {
        self.applied_total
    }

    /// Last index that a node's state machine was given.
    #[must_use]
    pub fn applied_index(&self, node: usize, group: GroupId) -> u64 {
        self.replicas.get(&(node, group)).map_or(0, |r| r.machine)
    }
}

impl Replica {
    /// Highest applied index in the first `durable` engine writes.
    fn durable_on_disk(&mut self, durable: u64) -> u64 {
        let count = self.engine_writes.partition_point(|(write, _)| *write <= durable);
        if let Some((_, index)) = count.checked_sub(1).map(|i| self.engine_writes[i]) {
            self.recovered = index;
            self.engine_writes.drain(..count);
        }
        self.recovered
    }
}

/// Whether `held` are some of the regions that were created, none of them twice.
fn fit(held: &[RegionMeta], created: &[RegionMeta]) -> bool {
    let same = |a: &RegionMeta, b: &RegionMeta| {
        (a.region, a.group, &a.start, &a.end) == (b.region, b.group, &b.start, &b.end)
    };
    let created_once = |region: &RegionMeta| created.iter().any(|other| same(region, other));
    let groups: BTreeSet<GroupId> = held.iter().map(|region| region.group).collect();
    held.iter().all(created_once) && groups.len() == held.len()
}
