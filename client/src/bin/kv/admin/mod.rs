//! `admin group`: orders to one Raft group, and what its replicas say of themselves.
//!
//! 1. `args` reads the command line; [`Order::read`] checks what can be checked without a cluster.
//! 2. Whoever names a replica by its store, or wants a new id, has the group described first.
//! 3. The order goes to the leader (`flotilla_client::admin`); `show` prints descriptions.
//!
//! A change under an id that the operator gave may have been accepted before, and then the replica that it
//! names by its store may be gone. Only the leader can tell, so it is asked all the same ([`NOBODY`]).

mod args;
mod recover;
mod show;

pub use args::GroupCommand;

use recover::Recovery;

use args::{AddReplica, ChangeMany, ChangeOne, One, Operation, SetPriority, SnapshotOf, Which};
use flotilla_client::admin::{SnapshotMade, largest_known};
use flotilla_client::pb::change::What;
use flotilla_client::{Client, Error, Refusal, pb};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;

/// No replica has this id: the leader refuses a change of it, unless it knows the operation.
const NOBODY: u64 = 0;

/// One replica, as the command line names it.
#[derive(Clone, Copy, Debug)]
enum Named {
    Replica(u64),
    Store(u64),
}

/// What is to change.
#[derive(Clone, Debug)]
enum Part {
    /// A new replica; without an id it gets the next one.
    Add {
        replica: Option<u64>,
        store: u64,
        learner: bool,
    },
    Remove(Named),
    Promote(Named),
    Rebuild(Named),
    SetPriority(Named, i32),
    /// As given.
    Exactly(What),
}

#[derive(Clone, Debug)]
enum Deed {
    Describe,
    Transfer(Named),
    /// Of the leader's state, or of a store's.
    Snapshot(Option<u64>),
    Recover(Recovery),
    Change {
        parts: Vec<Part>,
        operation: u128,
        /// The operator gave the operation's id: it may be known.
        again: bool,
        force: bool,
    },
}

/// What to do with which group.
#[derive(Clone, Debug)]
pub struct Order {
    group: u64,
    deed: Deed,
}

fn named(which: &Which) -> Result<Named, Failure> {
    match (which.replica, which.store) {
        (Some(replica), None) => Ok(Named::Replica(replica)),
        (None, Some(store)) => Ok(Named::Store(store)),
        _ => Err(Failure::Usage("either --replica or --store is needed".to_owned())),
    }
}

fn change(parts: Vec<Part>, operation: &Operation) -> Deed {
    let id = operation.id.unwrap_or_else(rand::random);
    Deed::Change { parts, operation: id, again: operation.id.is_some(), force: operation.force }
}

impl Order {
    /// The order of a command line.
    pub fn read(command: &GroupCommand) -> Result<Order, Failure> {
        let (group, deed) = match command {
            GroupCommand::Describe(group) => (group, Deed::Describe),
            GroupCommand::TransferLeader(One { group, which }) => {
                (group, Deed::Transfer(named(which)?))
            }
            GroupCommand::Snapshot(SnapshotOf { group, store }) => (group, Deed::Snapshot(*store)),
            GroupCommand::AddReplica(AddReplica { group, store, replica, learner, operation }) => {
                let (store, replica, learner) = (*store, *replica, *learner);
                (group, change(vec![Part::Add { replica, store, learner }], operation))
            }
            GroupCommand::RemoveReplica(ChangeOne { one, operation }) => {
                (&one.group, change(vec![Part::Remove(named(&one.which)?)], operation))
            }
            GroupCommand::Promote(ChangeOne { one, operation }) => {
                (&one.group, change(vec![Part::Promote(named(&one.which)?)], operation))
            }
            GroupCommand::Rebuild(ChangeOne { one, operation }) => {
                (&one.group, change(vec![Part::Rebuild(named(&one.which)?)], operation))
            }
            GroupCommand::SetPriority(SetPriority { group, priority, which, operation }) => {
                (group, change(vec![Part::SetPriority(named(which)?, *priority)], operation))
            }
            GroupCommand::Recover(command) => {
                // 0: every group.
                let group = command.group.unwrap_or(0);
                return Ok(Order { group, deed: Deed::Recover(command.into()) });
            }
            GroupCommand::Change(ChangeMany { group, parts, operation }) => {
                (group, change(parts.iter().cloned().map(Part::Exactly).collect(), operation))
            }
        };
        Ok(Order { group: group.group, deed })
    }
}

/// Does it, and prints what came of it.
pub async fn carry_out(client: &Client, order: Order, out: &mut Output) -> Result<(), Failure> {
    let Order { group, deed } = order;
    match deed {
        Deed::Describe => show::describe(client, group, out).await,
        Deed::Transfer(to) => {
            let to = match to {
                Named::Replica(replica) => replica,
                named => resolve(&Known::ask(client, group).await?, named)?,
            };
            client.admin().transfer_leader(group, to).await?;
            if out.json {
                return Ok(out.object(&json!({"group": group, "leader": to}))?);
            }
            Ok(out.line(&format!("ok group={group} leader={to}"))?)
        }
        Deed::Snapshot(store) => {
            let made = client.admin().snapshot(group, store).await?;
            let SnapshotMade { store, index, bytes } = made;
            if out.json {
                let object =
                    json!({"group": group, "store": store, "index": index, "bytes": bytes});
                return Ok(out.object(&object)?);
            }
            Ok(out.line(&format!("ok group={group} store={store} index={index} bytes={bytes}"))?)
        }
        Deed::Recover(recovery) => recover::carry_out(client, group, recovery, out).await,
        Deed::Change { parts, operation, again, force } => {
            let operation = format!("{operation:032x}");
            let (changes, missing) = changes(client, group, parts).await?;
            if let Some(missing) = missing.clone().filter(|_| !again) {
                return Err(Failure::Client(missing));
            }
            let during = |error| {
                let refused = matches!(error, Error::NotApplied { kind: Refusal::Refused, .. });
                match missing.filter(|_| refused) {
                    Some(missing) => Failure::Client(missing),
                    None => Failure::During(format!("operation {operation}"), error),
                }
            };
            let request = pb::ChangeMembersRequest {
                group,
                operation: operation.clone(),
                changes: changes.into_iter().map(|what| pb::Change { what: Some(what) }).collect(),
                force,
            };
            client.admin().change_members(request).await.map_err(during)?;
            if out.json {
                return Ok(out.object(&json!({"group": group, "operation": operation}))?);
            }
            Ok(out.line(&format!("ok group={group} operation={operation}"))?)
        }
    }
}

/// The parts with the ids that they leave open, and why one of them stays open.
async fn changes(
    client: &Client,
    group: u64,
    parts: Vec<Part>,
) -> Result<(Vec<What>, Option<Error>), Failure> {
    let complete = |part: &Part| match part {
        Part::Add { replica, .. } => replica.is_some(),
        Part::Remove(named) | Part::Promote(named) | Part::SetPriority(named, _) => {
            matches!(named, Named::Replica(_))
        }
        Part::Rebuild(_) => false,
        Part::Exactly(_) => true,
    };
    let known = match parts.iter().all(complete) {
        true => Known::default(),
        false => Known::ask(client, group).await?,
    };
    let mut missing = None;
    let mut id = |named| {
        resolve(&known, named).unwrap_or_else(|error| {
            missing.get_or_insert(error);
            NOBODY
        })
    };
    let complete = parts.into_iter().map(|part| match part {
        Part::Add { replica, store, learner } => {
            let replica = replica.unwrap_or(known.next_replica);
            let newcomer = pb::Newcomer { replica, store };
            if learner { What::AddLearner(newcomer) } else { What::AddVoter(newcomer) }
        }
        Part::Remove(named) => What::Remove(id(named)),
        Part::Promote(named) => What::Promote(id(named)),
        Part::Rebuild(named) => {
            What::Rebuild(pb::Rebuild { replica: id(named), new: known.next_replica })
        }
        Part::SetPriority(named, priority) => {
            What::SetPriority(pb::NewPriority { replica: id(named), priority })
        }
        Part::Exactly(what) => what,
    });
    let complete = complete.collect();
    Ok((complete, missing))
}

/// What has to be known of a group to complete an order.
#[derive(Debug, Default)]
struct Known {
    group: u64,
    members: Vec<pb::Member>,
    /// Above every id of the group, and of the cluster, if they are near.
    next_replica: u64,
}

impl Known {
    async fn ask(client: &Client, group: u64) -> Result<Known, Failure> {
        let described = client.admin().describe(group).await?;
        let silent = described.iter().any(|one| one.replicas.is_err());
        let replicas = described.into_iter().filter_map(|one| one.replicas.ok()).flatten();
        let Some(latest) = replicas.max_by_key(|replica| replica.members_version) else {
            let message = format!("group {group}: no store that answers has a replica of it");
            // One that does not answer may have it, and may have been asked before.
            return Err(Failure::Client(match silent {
                true => Error::Unavailable { message },
                false => Error::NotApplied { kind: Refusal::Refused, message },
            }));
        };
        let routes = client.routes().await?;
        let all = routes.regions.iter().flat_map(|region| &region.replicas);
        let largest = largest_known(latest.replica_max, all.map(|replica| replica.replica));
        // The last id of all is refused as a used one.
        let next_replica = largest.saturating_add(1);
        Ok(Known { group, members: latest.members, next_replica })
    }
}

fn resolve(known: &Known, named: Named) -> Result<u64, Error> {
    let store = match named {
        Named::Replica(replica) => return Ok(replica),
        Named::Store(store) => store,
    };
    let found = known.members.iter().find(|member| member.store == store);
    found.map(|member| member.replica).ok_or_else(|| {
        let group = known.group;
        let message = format!("group {group} has no replica on store {store}: see `describe`");
        Error::NotApplied { kind: Refusal::Refused, message }
    })
}
