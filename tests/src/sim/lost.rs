//! Majorities that are lost for good, and the operator who has what is left go on.
//!
//! 1. More than half of the stores fail at once. All but one of them lose their disks as well; that one comes back as it
//!    was, before, during or after what follows. With the others that are left and it there is no quorum
//!    without the replica that goes on, which is what the operator must see to.
//!    In some seeds fewer stores fail, all with their disks, and the state of a replica that is left is damaged at that
//!    moment: it is given up as well.
//! 2. The operator looks at the stores that are left, once all of them answer, and has the replica whose log ends last go
//!    on in each group that has no leader: on running stores, or on stopped ones in their logs.
//! 3. The group's log goes on as another one (`invariants/logs.rs`), and its clients begin a new history.
//! 4. Then new replicas are added until each group has as many as it had.

use super::clock::{MICROS, MILLIS, SECONDS};
use super::world::{Event, World};
use flotilla_kvserver::kv::RegionMeta;
use flotilla_raftstore::{
    Change, ChangeRequest, GroupDesc, GroupId, LogPosition, OperationId, RecoverRequest,
    ReplicaDesc, ReplicaId, Request, Role, go_on_alone, mutant, stranded,
};
use rand::Rng;
use rand::seq::SliceRandom;

/// The operator looks again after so long.
const INTERVAL: u64 = 300 * MILLIS;
/// Kills amid the recoveries of one loss: orders are refused for a while after each.
const CRASHES_MAX: u32 = 2;

/// Stores that are given up.
pub(super) struct Loss {
    gone: Vec<usize>,
    left: Vec<usize>,
    /// The logs of stopped stores are next to be changed.
    offline: bool,
    /// By region: the order under way, by ticket; 0 for one that went to a stopped store.
    asked: Vec<Option<u64>>,
    /// Replicas that were to go on and were killed meanwhile.
    crashes: u32,
    /// Nothing is recovered any more.
    closed: bool,
}

/// What a region's group needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: it is recovered.
    Nothing,
    /// To be looked at again later.
    Patience,
    /// An order.
    Order,
}

/// The operator's id for the recovery of a region.
fn operation(region: usize) -> OperationId {
    OperationId((1 << 100) + region as u128)
}

impl World {
    /// More than half of the stores fail, if all groups are whole.
    pub(super) fn lose_majority(&mut self) {
        if !self.stormy {
            return;
        }
        let whole = self.settled && (0..self.regions.len()).all(|region| self.may_lose_one(region));
        let Some((nodes, left)) = whole.then(|| self.draw_majority()).flatten() else {
            return self.after(500 * MILLIS, Event::Lose);
        };
        self.counts.add("majorities lost");
        self.note_loss();
        // An old majority that is back would serve what it has: with damaged ones, who may seem sound for a moment
        // after a start, nobody else comes back.
        let back = usize::from(!self.plan.damage_in_loss);
        for node in &nodes[..back] {
            let away = self.rng.random_range(SECONDS..20 * SECONDS);
            self.take_away(*node, away);
        }
        for node in &nodes[back..] {
            self.wipe(*node);
            self.after(INTERVAL, Event::Rebuild(*node));
        }
        if self.plan.damage_in_loss {
            self.damage_left(&left);
        }
        self.give_up(nodes, left, self.plan.recover_offline);
        let look = self.rng.random_range(500 * MILLIS..4 * SECONDS);
        self.after(look, Event::Operate);
    }

    /// Nodes to lose and those that are left. Every group keeps somebody, and one at least has no majority. `None`:
    /// these would not do.
    fn draw_majority(&mut self) -> Option<(Vec<usize>, Vec<usize>)> {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        nodes.shuffle(&mut self.rng);
        let most = nodes.len() / 2 + usize::from(!self.plan.damage_in_loss);
        // A group that is on some of the stores only loses its majority with fewer.
        let everywhere = self.plan.calm_at.is_none();
        let count = if everywhere { most } else { self.rng.random_range(2..=most) };
        let left = nodes.split_off(count);
        let kept = |region: &RegionMeta| {
            let members = &self.invariants.members(region.group).replicas;
            let stays =
                |r: &&ReplicaDesc| left.iter().any(|node| self.nodes[*node].store == r.store);
            (members.iter().filter(stays).count(), members.len())
        };
        let kept: Vec<(usize, usize)> = self.regions.iter().map(kept).collect();
        let damaged = usize::from(self.plan.damage_in_loss);
        let fits = kept.iter().all(|(left, _)| *left > damaged)
            && kept.iter().any(|(left, all)| 2 * (left - damaged) <= *all);
        fits.then_some((nodes, left))
    }

    /// One replica that is left of some groups, of one at least, is damaged.
    fn damage_left(&mut self, left: &[usize]) {
        let always = self.rng.random_range(0..self.regions.len());
        for region in 0..self.regions.len() {
            if region == always || self.rng.random_bool(0.5) {
                let node = left[self.rng.random_range(0..left.len())];
                self.damage(node, self.regions[region].group);
            }
        }
    }

    /// Of these members the ones on stores that are left that take no part any more: damaged, or destroyed while they
    /// were being rebuilt.
    fn gone_left(&self, desc: &GroupDesc) -> Vec<ReplicaId> {
        let left = self.loss.iter().flat_map(|loss| &loss.left);
        let left: Vec<_> = left.map(|node| (self.nodes[*node].store, *node)).collect();
        let is_gone = |member: &&ReplicaDesc| {
            let node = left.iter().find(|(store, _)| *store == member.store);
            node.is_some_and(|(_, node)| self.sound_on(*node, desc.group) != Some(member.replica))
        };
        desc.replicas.iter().filter(is_gone).map(|member| member.replica).collect()
    }

    /// A node's replica of a group, if it is not damaged.
    fn sound_on(&self, node: usize, group: GroupId) -> Option<ReplicaId> {
        let node = &self.nodes[node];
        node.log.replica(group).filter(|_| !node.damaged.contains_key(&group))
    }

    /// A store fails, and is away for so long.
    pub(super) fn take_away(&mut self, node: usize, away: u64) {
        let power_cut = self.rng.random_bool(0.5);
        self.crash(node, power_cut, away);
        self.nodes[node].away_until = self.now + away;
    }

    /// The operator gives up the stores that are gone.
    pub(super) fn give_up(&mut self, gone: Vec<usize>, left: Vec<usize>, offline: bool) {
        let asked = vec![None; self.regions.len()];
        self.loss = Some(Loss { gone, left, offline, asked, crashes: 0, closed: false });
    }

    /// The operator's next look.
    pub(super) fn operate(&mut self) {
        let Some(loss) = &self.loss else { return };
        if loss.offline && !loss.closed {
            self.recover_offline();
        }
        let mut done = true;
        for region in 0..self.regions.len() {
            let closed = self.loss.as_ref().is_some_and(|loss| loss.closed);
            let offline = self.loss.as_ref().is_some_and(|loss| loss.offline);
            match self.need(region) {
                Need::Order if !closed && !offline => {
                    done = false;
                    self.order_recovery(region);
                }
                Need::Nothing => done &= self.complete(region),
                Need::Order | Need::Patience => done &= closed,
            }
        }
        if !done {
            self.after(INTERVAL, Event::Operate);
        }
    }

    fn need(&mut self, region: usize) -> Need {
        let group = self.regions[region].group;
        if self.invariants.recovery(group) == Some(true) {
            return Need::Nothing;
        }
        let Some(loss) = &self.loss else { return Need::Nothing };
        // Whoever does not answer may have taken the order, or have the longest log.
        let silent =
            |node: &&usize| self.nodes[**node].process.is_none() || self.paused(**node).is_some();
        let asked = loss.asked[region];
        let waits = asked.is_some_and(|ticket| self.clients.attempts.contains_key(&ticket));
        if waits || loss.left.iter().find(silent).is_some() {
            return Need::Patience;
        }
        let took = |node: &usize| {
            let desc = self.desc_on(*node, group);
            desc.is_some_and(|desc| desc.membership.operations.contains(&operation(region)))
        };
        if loss.left.iter().any(took) {
            return Need::Patience;
        }
        if asked.is_some() {
            self.withdraw_order(region);
        }
        Need::Order
    }

    /// The order was not carried out, and will not be.
    fn withdraw_order(&mut self, region: usize) {
        let problem = self.invariants.recovery_withdrawn(self.regions[region].group);
        self.violations.extend(problem);
        if let Some(loss) = &mut self.loss {
            loss.asked[region] = None;
        }
    }

    /// An order to recover is refused: the group may go on with those who are back.
    pub(super) fn recovery_refused(&mut self, region: usize, ticket: u64) {
        let ours = |loss: &Loss| loss.asked.get(region) == Some(&Some(ticket));
        if self.loss.as_ref().is_some_and(ours) {
            self.counts.add("orders to recover refused");
            self.withdraw_order(region);
        }
    }

    /// A node has a sound member of the group, as the members were applied last.
    fn is_member(&self, node: usize, group: GroupId) -> bool {
        let sound = self.sound_on(node, group);
        sound.is_some_and(|sound| self.invariants.members(group).replica(sound).is_some())
    }

    /// The end of the longest log that is left.
    fn last_left(&self, group: GroupId) -> LogPosition {
        let left = self.loss.iter().flat_map(|loss| &loss.left);
        let left = left.filter(|node| self.is_member(**node, group));
        let last =
            left.filter_map(|node| self.nodes[*node].log.with_group(group, |log| log.last()));
        last.max_by_key(|last| (last.term, last.index)).unwrap_or_default()
    }

    /// What the operator orders a replica that knows these members.
    fn request_of(&self, region: usize, desc: &GroupDesc) -> RecoverRequest {
        let lost = self.loss.iter().flat_map(|loss| &loss.gone);
        RecoverRequest {
            operation: operation(region),
            gone: self.gone_left(desc),
            lost: lost.map(|node| self.nodes[*node].store).collect(),
            replica_max: self.invariants.members(desc.group).replica_max(),
        }
    }

    /// The replica that is left whose log ends last is to go on, unless somebody leads.
    fn order_recovery(&mut self, region: usize) {
        let group = self.regions[region].group;
        let Some(Loss { gone, left, .. }) = &self.loss else { return };
        let mut ends = Vec::new();
        for node in left.iter().filter(|node| self.is_member(**node, group)) {
            let Some(status) = self.status_on(*node, group) else { return };
            let led = |leader: ReplicaDesc| {
                !gone.iter().any(|node| self.nodes[*node].store == leader.store)
            };
            if status.role == Role::Leader || status.leader.is_some_and(led) {
                return;
            }
            // It may have the longest log, and runs again soon.
            if status.role == Role::Stopped {
                return;
            }
            ends.push((status.last_term, status.last_index, *node, status.replica));
        }
        let (best, worst) = (ends.iter().max(), ends.iter().min());
        let shorter = mutant::active("shorter_log_recovered");
        let Some((.., node, replica)) = (if shorter { worst } else { best }).copied() else {
            return;
        };
        let Some(desc) = self.desc_on(node, group) else { return };
        let (request, end) = (self.request_of(region, &desc), self.last_left(group));
        let gone = if self.plan.damage_in_loss { request.gone.len() as u64 } else { 0 };
        let order = |reply| Request::Recover { group, request, reply };
        if let Some(ticket) = self.order(region, node, order) {
            self.note("recover: group, replica, ticket", node, [group.0, replica.0, ticket]);
            self.invariants.recovers(group, replica, end);
            self.counts.add_many("damaged replicas given up with lost stores", gone);
            if let Some(loss) = &mut self.loss {
                loss.asked[region] = Some(ticket);
            }
            let again = self.loss.as_ref().is_some_and(|loss| loss.crashes < CRASHES_MAX);
            if again && self.stormy && !self.plan.faults.is_empty() && self.rng.random_bool(0.1) {
                self.counts.add("crashes amid recoveries");
                if let Some(loss) = &mut self.loss {
                    loss.crashes += 1;
                }
                let soon = self.rng.random_range(100 * MICROS..60 * MILLIS);
                let down_for = self.rng.random_range(200 * MILLIS..2 * SECONDS);
                self.after(soon, Event::Leave(node, self.nodes[node].incarnation, down_for));
            }
        }
    }

    /// The same in the logs of the stores that are left, which are stopped for that.
    fn recover_offline(&mut self) {
        let Some(Loss { left, .. }) = &self.loss else { return };
        let left = left.clone();
        let able = |node: &usize| {
            let target = &self.nodes[*node];
            target.process.is_some() && target.full_until <= self.now
        };
        let led = (0..self.regions.len()).any(|region| self.leader_of(region).is_some());
        if !left.iter().all(able) || led {
            return;
        }
        for node in &left {
            self.crash(*node, false, SECONDS);
        }
        for region in 0..self.regions.len() {
            let group = self.regions[region].group;
            let request = self.request_of(region, self.invariants.members(group));
            let found = |node: &usize| {
                let log = self.nodes[*node].log.as_ref();
                let found = stranded(log, &request).expect("a simulated log can be read");
                found.into_iter().find(|one| one.desc.group == group).map(|one| (*node, one))
            };
            let able: Vec<_> = left.iter().filter_map(found).collect();
            // What is half installed is complete after the next start.
            let best = able.iter().max_by_key(|(_, one)| (one.last.term, one.last.index));
            let Some((node, best)) = best.filter(|_| able.iter().all(|(_, o)| o.damage.is_none()))
            else {
                continue;
            };
            let end = self.last_left(group);
            let log = self.nodes[*node].log.as_ref();
            match go_on_alone(log, best, &request) {
                Ok(_) => {
                    log.complete();
                    self.counts.add("groups recovered on stopped stores");
                    self.invariants.recovers(group, best.replica, end);
                    if let Some(loss) = &mut self.loss {
                        loss.asked[region] = Some(0);
                    }
                }
                Err(error) => self.violations.push(format!("recovery of stopped stores: {error}")),
            }
        }
        if let Some(loss) = &mut self.loss {
            loss.offline = false;
        }
    }

    /// An order to recover is carried out, says the replica.
    pub(super) fn recovery_accepted(&mut self, group: GroupId, ticket: u64) -> bool {
        let ours = self.loss.as_ref().is_some_and(|loss| loss.asked.contains(&Some(ticket)));
        if ours && self.invariants.recovery(group) != Some(true) {
            self.violations.push(format!("I16: group {group}: called recovered, and is not"));
        }
        ours
    }

    /// Groups have gone on with what was left.
    pub(super) fn went_on(&mut self) {
        for (group, index, lost) in self.invariants.take_recovered() {
            self.counts.add("groups recovered without their majority");
            self.counts.add_many("applied entries lost with a majority", lost);
            let region = self.regions.iter().position(|region| region.group == group);
            self.clients.restart(region.expect("it is one of them"), index);
        }
    }

    /// The state of a replica is gone; of one that an old majority had?
    pub(super) fn left_behind(&mut self, node: usize, group: GroupId) {
        let gone = self.loss.iter().flat_map(|loss| &loss.gone);
        if gone.copied().any(|one| one == node) && self.invariants.recovery(group) == Some(true) {
            self.counts.add("replicas of old majorities that came back and ended");
        }
    }

    /// A recovered group gets as many members as it had; whether it has.
    fn complete(&mut self, region: usize) -> bool {
        if !self.stormy || !self.plan.lost_are_replaced {
            return true;
        }
        let group = self.regions[region].group;
        let Some(leader) = self.leader_of(region) else { return false };
        let Some(desc) = self.desc_on(leader, group) else { return false };
        if desc.replicas.len() as u64 >= self.plan.members {
            return true;
        }
        let free = |node: &&super::node::Node| {
            node.process.is_some() && desc.on_store(node.store).is_none()
        };
        let store = self.nodes.iter().find(free).map(|node| node.store);
        if let (Some(store), None) = (store, &desc.membership.pending) {
            let replica = ReplicaId(desc.replica_max().0 + 1);
            let changes = vec![Change::AddVoter { replica, store }];
            let operation = self.changes.next_operation();
            let request = ChangeRequest { operation, changes, force: false };
            self.ask(region, leader, &desc, request, false);
        }
        false
    }

    /// All that lost their majority go on in bounded time, with what is left or with what came back.
    pub(super) fn expect_recoveries(&mut self) {
        let Some(loss) = &self.loss else { return };
        let regions = loss.asked.len();
        let settled = |world: &World, region: usize| {
            let group = world.regions[region].group;
            let recovered = world.invariants.recovery(group);
            // With one that is damaged, and seems sound until it is read, it may lead for a moment.
            let sound = !world.nodes.iter().any(|node| node.damaged.contains_key(&group));
            let goes_on = || sound && world.leader_of(region).is_some();
            recovered == Some(true) || (recovered.is_none() && goes_on())
        };
        let all = |world: &World| {
            world.nodes.iter().all(|node| node.process.is_some())
                && (0..regions).all(|region| settled(world, region))
        };
        let until = self.now + 60 * SECONDS;
        while !all(self) && self.now < until && self.violations.is_empty() {
            let slice = self.now + 100 * MILLIS;
            self.run_until(slice, |_| false);
        }
        if self.violations.is_empty() && !all(self) {
            let why = "liveness: a group that lost its majority is not recovered after a minute";
            let stuck = (0..regions).filter(|region| !settled(self, *region));
            let seen = |region: usize| {
                let group = self.regions[region].group;
                let nodes = 0..self.nodes.len();
                let seen = nodes.filter_map(|node| self.status_on(node, group));
                seen.map(|status| format!("\n{status:?}")).collect::<String>()
            };
            let seen: String = stuck.map(seen).collect();
            self.violations.push(format!("{why}:{seen}"));
        }
        if let Some(loss) = &mut self.loss {
            loss.closed = true;
        }
    }

    /// Whether what is gone may be needed again: nobody is to take its place meanwhile.
    pub(super) fn is_recovering(&self) -> bool {
        self.loss.as_ref().is_some_and(|loss| !loss.closed) && !self.all_recovered()
    }

    /// All groups have gone on without their majorities.
    pub(super) fn all_recovered(&self) -> bool {
        let recovered = |region: usize| {
            let group = self.regions[region].group;
            self.invariants.recovery(group) == Some(true)
        };
        (0..self.regions.len()).all(recovered)
    }
}
