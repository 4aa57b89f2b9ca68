//! The command line of `kv admin group`.

use clap::{Args, Subcommand};
use flotilla_client::pb;
use flotilla_client::pb::change::What;

#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// Print every replica of the group, as its store sees it
    #[command(after_help = "\
A store that does not answer is named with the reason. With --json an object a replica.

Example:
  kv admin group describe 1")]
    Describe(Group),
    /// Add a replica: it learns first, and votes once it has caught up
    #[command(after_help = "\
The order is done once a majority has it; `describe` shows when the replica votes. Repeat it with \
the same --id when its outcome is unknown: it is not done twice.

Examples:
  kv admin group add-replica 1 --store 4
  kv admin group add-replica 1 --store 4 --learner --id 2a")]
    AddReplica(AddReplica),
    /// Remove a replica, with its log and state
    #[command(after_help = "Example:\n  kv admin group remove-replica 1 --store 4")]
    RemoveReplica(ChangeOne),
    /// Let a learner vote, once it has caught up
    #[command(after_help = "Example:\n  kv admin group promote 1 --replica 12")]
    Promote(ChangeOne),
    /// Destroy a replica and bring up a new one in its place, for one that is damaged
    #[command(after_help = "\
The group must be able to decide without it. With `raft.rebuild_damaged` (the default) leaders \
order it by themselves for a replica that its store found damaged (`describe` shows it as \
quarantined).

Example:
  kv admin group rebuild 1 --store 2")]
    Rebuild(ChangeOne),
    /// Change several members at once
    #[command(after_help = "\
Parts: voter/ID@STORE and learner/ID@STORE add (ID above all that the group ever had: `describe` \
shows the largest), promote/ID, demote/ID, remove/ID, rebuild/ID@NEWID, priority/ID@PRIORITY, \
cancel/OPERATION (alone).

Example:
  kv admin group change 1 voter/12@4 remove/3")]
    Change(ChangeMany),
    /// Hand leadership to another voter; done when that one leads
    #[command(after_help = "Example:\n  kv admin group transfer-leader 1 --store 2")]
    TransferLeader(One),
    /// Have a snapshot of the group's state made; done when it is there
    #[command(after_help = "\
It is made from what is durable, and kept for replicas that will need one for as long as the log \
goes on behind it, a minute at least. A large group takes longer than the usual --timeout. While a \
replica takes the last one from there, which would have to begin again, the command waits, up to \
--timeout.

Examples:
  kv admin group snapshot 1
  kv --timeout 60s admin group snapshot 1 --store 2")]
    Snapshot(SnapshotOf),
    /// Go on without stores that are lost for good: for groups that lost their majority
    #[command(after_help = "\
Of each group the replica whose log ends last goes on alone, and new replicas begin on the other \
stores that are left; more are added with `add-replica`. What only the lost stores had is lost, \
acknowledged or not: nobody can know how much. Placement (one of --placement must be a member of it) \
turns the lost stores away from then on. Groups that still have a majority are not touched: take the \
lost replicas out of them with `remove-replica`. Where the plan has no group that goes on no store is \
turned away, unless --force says so; what fails after that can be asked for again.

Every group is shown, since the stores are turned away for all of them; with a group only that one \
is recovered. Replicas that are left and damaged are shown, too: they cannot go on, and their groups \
wait until they are mended or --without-damaged gives them up. --dry-run does nothing. The same \
command again, with the same --id, is not done twice. Where too little runs to be asked see \
`kvserver recover`; afterwards this command with --force turns the lost stores away.

Examples:
  kv admin group recover --lost-stores 1,2 --dry-run
  kv admin group recover --lost-stores 1,2
  kv admin group recover 7 --lost-stores 1,2
  kv admin group recover 7 --lost-stores 1 --without-damaged")]
    Recover(Recover),
    /// Say how much a replica is wanted as the leader
    #[command(after_help = "\
PRIORITY: -1 off, 0 does not lead (unless nobody else can be elected), 1 and more: the largest \
comes first. A leader that is not the preferred one hands over once that has caught up.

Example:
  kv admin group set-priority 1 10 --store 2")]
    SetPriority(SetPriority),
}

#[derive(Args, Debug)]
pub struct Group {
    /// The group's number
    #[arg(value_parser = parse_group)]
    pub group: u64,
}

/// One replica of a group, by its id or by its store.
#[derive(Args, Debug)]
pub struct One {
    #[command(flatten)]
    pub group: Group,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Args, Debug)]
pub struct SnapshotOf {
    #[command(flatten)]
    pub group: Group,
    /// The store whose replica makes it; the leader's when not given
    #[arg(long, value_name = "STORE", value_parser = parse_store)]
    pub store: Option<u64>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The replica's id
    #[arg(long, value_name = "ID", value_parser = parse_replica)]
    pub replica: Option<u64>,
    /// The store that holds it
    #[arg(long, value_name = "STORE", value_parser = parse_store)]
    pub store: Option<u64>,
}

/// What all changes of the members take.
#[derive(Args, Debug)]
pub struct Operation {
    /// The operation's id, up to 32 hexadecimal digits; random when not given, and printed. A group
    /// takes any order under one of its last 16 ids for that one again, and does nothing
    #[arg(long, value_name = "HEX", value_parser = parse_operation)]
    pub id: Option<u128>,
    /// Do it even if no quorum of the voters that it leaves is alive
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct AddReplica {
    #[command(flatten)]
    pub group: Group,
    /// The store that is to hold it
    #[arg(long, value_name = "STORE", value_parser = parse_store)]
    pub store: u64,
    /// The replica's id; above all of the cluster when not given
    #[arg(long, value_name = "ID", value_parser = parse_replica)]
    pub replica: Option<u64>,
    /// It learns only, and does not vote
    #[arg(long)]
    pub learner: bool,
    #[command(flatten)]
    pub operation: Operation,
}

#[derive(Args, Debug)]
pub struct ChangeOne {
    #[command(flatten)]
    pub one: One,
    #[command(flatten)]
    pub operation: Operation,
}

#[derive(Args, Debug)]
pub struct ChangeMany {
    #[command(flatten)]
    pub group: Group,
    /// What is to change, see below
    #[arg(required = true, value_name = "PART", value_parser = parse_part)]
    pub parts: Vec<What>,
    #[command(flatten)]
    pub operation: Operation,
}

#[derive(Args, Debug)]
pub struct Recover {
    /// The group's number; every group when not given
    #[arg(value_parser = parse_group)]
    pub group: Option<u64>,
    /// The stores that never come back, separated by commas; none when the one group has lost its majority
    /// to damage alone
    #[arg(long, required_unless_present = "group", value_name = "STORE,…", value_delimiter = ',',
          value_parser = parse_lost_store)]
    pub lost_stores: Vec<u64>,
    /// Print what would be done, and what may be lost, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The operation's id, up to 32 hexadecimal digits; random when not given, and printed
    #[arg(long, value_name = "HEX", value_parser = parse_operation)]
    pub id: Option<u128>,
    /// Go on also without replicas that are left and damaged, which may hold more
    #[arg(long)]
    pub without_damaged: bool,
    /// Give the stores up even if one of them still seems to be there, or no group is to be
    /// recovered
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct SetPriority {
    #[command(flatten)]
    pub group: Group,
    /// -1 off, 0 does not lead, 1 and more
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    pub priority: i32,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub operation: Operation,
}

/// A number from 1 on; else `what` it should be.
fn number(text: &str, what: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| what.to_owned())
}

fn parse_group(text: &str) -> Result<u64, String> {
    number(text, "it is a group's number: `kv regions` shows them")
}

fn parse_store(text: &str) -> Result<u64, String> {
    number(text, "it is a store's number: `kv stores` shows them")
}

fn parse_lost_store(text: &str) -> Result<u64, String> {
    number(text, "they are stores' numbers, as in --lost-stores 2,3: `kv stores` shows them")
}

fn parse_replica(text: &str) -> Result<u64, String> {
    number(text, "it is a replica's id: `kv admin group describe` shows them")
}

/// Up to 32 hexadecimal digits.
pub fn parse_operation(text: &str) -> Result<u128, String> {
    // The standard library would take a sign, too; alone it is no digit.
    u128::from_str_radix(if text.starts_with('+') { "+" } else { text }, 16)
        .map_err(|error| format!("{error}; it is 1 to 32 hexadecimal digits"))
}

fn parse_part(text: &str) -> Result<What, String> {
    let number = |text: &str| number(text, &format!("'{text}' is not an id: 1 and more are"));
    let (what, whom) = text.split_once('/').ok_or("it is WHAT/WHOM, as in remove/3")?;
    let pair = || whom.split_once('@').ok_or(format!("{what}/ takes two numbers, as in 12@4"));
    let newcomer = || -> Result<pb::Newcomer, String> {
        let (replica, store) = pair()?;
        Ok(pb::Newcomer { replica: number(replica)?, store: number(store)? })
    };
    Ok(match what {
        "voter" => What::AddVoter(newcomer()?),
        "learner" => What::AddLearner(newcomer()?),
        "promote" => What::Promote(number(whom)?),
        "demote" => What::Demote(number(whom)?),
        "remove" => What::Remove(number(whom)?),
        "rebuild" => {
            let (replica, new) = pair()?;
            What::Rebuild(pb::Rebuild { replica: number(replica)?, new: number(new)? })
        }
        "priority" => {
            let (replica, priority) = pair()?;
            let priority = priority.parse().map_err(|e| format!("priority '{priority}': {e}"))?;
            What::SetPriority(pb::NewPriority { replica: number(replica)?, priority })
        }
        "cancel" => What::Cancel(format!("{:032x}", parse_operation(whom)?)),
        other => {
            return Err(format!(
                "'{other}' is unknown: voter, learner, promote, demote, remove, rebuild, priority, \
                 cancel"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_wrong_ones_explained() {
        let newcomer = pb::Newcomer { replica: 12, store: 4 };
        assert_eq!(parse_part("voter/12@4"), Ok(What::AddVoter(newcomer)));
        assert_eq!(parse_part("learner/12@4"), Ok(What::AddLearner(newcomer)));
        assert_eq!(parse_part("remove/3"), Ok(What::Remove(3)));
        let rebuild = pb::Rebuild { replica: 3, new: 13 };
        assert_eq!(parse_part("rebuild/3@13"), Ok(What::Rebuild(rebuild)));
        let priority = pb::NewPriority { replica: 3, priority: -1 };
        assert_eq!(parse_part("priority/3@-1"), Ok(What::SetPriority(priority)));
        assert_eq!(parse_part("cancel/2A"), Ok(What::Cancel(format!("{:032x}", 0x2a))));
        for (text, word) in [
            ("remove", "WHAT/WHOM"),
            ("remove/x", "'x'"),
            ("remove/0", "'0'"),
            ("voter/12", "two numbers"),
            ("priority/1@high", "'high'"),
            ("cancel/xyz", "hexadecimal"),
            ("cancel/+5", "hexadecimal"),
            ("rename/1", "'rename'"),
        ] {
            let why = parse_part(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn an_operation_is_hexadecimal_digits_without_a_sign() {
        assert_eq!(parse_operation("2A"), Ok(0x2a));
        for text in ["", "+5", "-5", "+", "5x"] {
            assert!(parse_operation(text).unwrap_err().contains("hexadecimal"), "{text}");
        }
    }
}
