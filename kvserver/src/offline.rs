//! `kvserver recover`: has the groups of a stopped store go on without stores that are lost for good,
//! where no cluster is left that `kv admin group recover` could ask.

use crate::folder::Folder;
use crate::node::NodeError;
use clap::Args;
use flotilla_raftstore::log::{self, LogOptions};
use flotilla_raftstore::{
    GroupId, OperationId, RecoverRequest, ReplicaId, StoreId, Stranded, go_on_alone, stranded,
};
use std::path::PathBuf;

/// Flags of `kvserver recover`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["groups", "all", "dry_run"])))]
pub struct RecoverArgs {
    /// Data folder of the stopped store
    #[arg(long)]
    pub dir: PathBuf,
    /// The stores that never come back, separated by commas
    #[arg(long, required = true, value_name = "STORE,…", value_delimiter = ',',
          value_parser = parse_lost_store)]
    pub lost_stores: Vec<u64>,
    /// These groups, separated by commas: those whose best replica is here
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',',
          value_parser = parse_group)]
    pub groups: Vec<u64>,
    /// Every group that cannot decide: when no other store is left that has any of them
    #[arg(long, conflicts_with = "groups")]
    pub all: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The operation's id, up to 32 hexadecimal digits; random when not given
    #[arg(long, value_name = "HEX", value_parser = parse_operation)]
    pub id: Option<OperationId>,
}

/// A number from 1 on; else `what` it should be.
fn number(text: &str, what: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| what.to_owned())
}

fn parse_lost_store(text: &str) -> Result<u64, String> {
    number(text, "they are stores' numbers, as in --lost-stores 2,3")
}

fn parse_group(text: &str) -> Result<u64, String> {
    number(text, "they are groups' numbers, as in --groups 4,7: --dry-run shows them")
}

fn parse_operation(text: &str) -> Result<OperationId, String> {
    text.parse().map_err(|error| format!("{error}; it is 1 to 32 hexadecimal digits"))
}

/// Carries it out, and prints a line for each group. Blocks.
pub fn run(args: &RecoverArgs) -> Result<(), NodeError> {
    // Holds the lock: the store does not run.
    let folder = Folder::open_existing(&args.dir)?;
    let engine = folder.identity().log_engine;
    let (log, _) = log::open(&folder.log_dir(), Some(engine), LogOptions::default())?;
    let lost: Vec<StoreId> = args.lost_stores.iter().copied().map(StoreId).collect();
    let operation = args.id.unwrap_or_else(|| OperationId(rand::random()));
    let request = RecoverRequest { operation, lost, replica_max: ReplicaId(0) };
    let wanted = |group: GroupId| args.groups.is_empty() || args.groups.contains(&group.0);
    let mut found = stranded(&*log, &request.lost)?;
    found.retain(|stranded| wanted(stranded.desc.group));
    if found.is_empty() {
        println!("nothing to recover: no group here has lost its majority with these stores");
    }
    for one in &found {
        let Stranded { desc, replica, last, damage, .. } = one;
        let (group, index, term) = (desc.group, last.index, last.term);
        let place = format!("group={group} replica={replica} last_term={term} last_index={index}");
        match damage {
            Some(damage) => println!("damaged {place}: {damage}"),
            None if args.dry_run => println!("would go on {place}"),
            None => match go_on_alone(&*log, one, &request) {
                Ok(_) => println!("ok {place} operation={operation}"),
                Err(error) => println!("failed {place}: {error}"),
            },
        }
    }
    if args.dry_run {
        println!("dry run: nothing was changed");
    }
    Ok(())
}
