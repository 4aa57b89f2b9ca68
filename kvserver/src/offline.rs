//! `kvserver recover`: has the groups of a stopped store go on without stores that are lost for good,
//! where no cluster is left that `kv admin group recover` could ask.

use crate::folder::Folder;
use crate::node::NodeError;
use clap::Args;
use flotilla_client::admin::largest_known;
use flotilla_raftstore::log::{self, LogOptions};
use flotilla_raftstore::{
    GroupId, GroupLog, LogError, LogStore, OperationId, RecoverRequest, ReplicaId, StoreId,
    Stranded, go_on_alone, stranded,
};
use std::io::Write;
use std::path::PathBuf;

/// Flags of `kvserver recover`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["groups", "all", "dry_run"])))]
pub struct RecoverArgs {
    /// Data folder of the stopped store
    #[arg(long)]
    pub dir: PathBuf,
    /// The stores that never come back, separated by commas; none when the majority is lost to damage alone
    #[arg(long, required_unless_present = "gone_replicas", value_name = "STORE,…", value_delimiter = ',',
          value_parser = parse_lost_store)]
    pub lost_stores: Vec<u64>,
    /// Replicas of the one group of --groups that take no part any more though their stores do: damaged, or
    /// destroyed while they were being rebuilt
    #[arg(long, value_name = "REPLICA,…", value_delimiter = ',', requires = "groups",
          value_parser = parse_replica)]
    pub gone_replicas: Vec<u64>,
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

fn parse_replica(text: &str) -> Result<u64, String> {
    number(text, "they are replicas' numbers, as in --gone-replicas 6: `kv admin group describe`")
}

fn parse_group(text: &str) -> Result<u64, String> {
    number(text, "they are groups' numbers, as in --groups 4,7: --dry-run shows them")
}

fn parse_operation(text: &str) -> Result<OperationId, String> {
    text.parse().map_err(|error| format!("{error}; it is 1 to 32 hexadecimal digits"))
}

/// Why groups were not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// What was asked for does not fit this store. Nothing was changed.
    #[error("{0}; nothing was changed")]
    Wrong(String),
    /// Some groups were not recovered; the lines before say why.
    #[error("{failed} of {groups} groups were not recovered: see the lines above")]
    Failed {
        /// How many.
        failed: usize,
        /// Of so many that were to be recovered.
        groups: usize,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Nobody reads what is printed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl From<LogError> for RecoverError {
    fn from(error: LogError) -> Self {
        RecoverError::Node(error.into())
    }
}

/// Carries it out, and prints a line for each group. Blocks.
pub fn run(args: &RecoverArgs) -> Result<(), RecoverError> {
    // Holds the lock: the store does not run.
    let folder = Folder::open_existing(&args.dir).map_err(NodeError::from)?;
    let identity = folder.identity();
    let (log, _) = log::open(&folder.log_dir(), Some(identity.log_engine), LogOptions::default())?;
    let own = identity.member.as_ref().map(|member| member.store);
    recover(&*log, own, args, &mut std::io::stdout())
}

/// The same with the log of the store `own`, if that has an id.
fn recover(
    log: &dyn LogStore,
    own: Option<StoreId>,
    args: &RecoverArgs,
    out: &mut dyn Write,
) -> Result<(), RecoverError> {
    let lost: Vec<StoreId> = args.lost_stores.iter().copied().map(StoreId).collect();
    if let Some(own) = own.filter(|own| lost.contains(own)) {
        return Err(RecoverError::Wrong(format!(
            "store {own} is this one, and is to go on: name the stores that are lost"
        )));
    }
    let mut held = log.load()?;
    held.retain(|group| !group.record.removed);
    check_groups(&held, &args.groups)?;
    let operation = args.id.unwrap_or_else(|| OperationId(rand::random()));
    let gone: Vec<ReplicaId> = args.gone_replicas.iter().copied().map(ReplicaId).collect();
    if !gone.is_empty() && args.groups.len() != 1 {
        let what = "--gone-replicas are of one group: name that one with --groups";
        return Err(RecoverError::Wrong(what.to_owned()));
    }
    for group in held.iter().filter(|held| args.groups.contains(&held.group.0)) {
        let (own, members) = (group.record.replica, &group.record.desc);
        let wrong = match gone.iter().find(|id| **id == own || members.replica(**id).is_none()) {
            Some(id) if *id == own => format!("replica {id} is the one here, and is to go on"),
            Some(id) => format!("replica {id} is no member of group {}", group.group),
            None => continue,
        };
        return Err(RecoverError::Wrong(format!("--gone-replicas: {wrong}")));
    }
    let mut request = RecoverRequest { operation, lost, gone, replica_max: ReplicaId(0) };
    let ids = || held.iter().map(|group| group.record.desc.replica_max().0);
    let wanted = |group: GroupId| args.groups.is_empty() || args.groups.contains(&group.0);
    let mut found = stranded(log, &request)?;
    found.retain(|stranded| wanted(stranded.desc.group));
    if found.is_empty() {
        writeln!(out, "nothing to recover: no group here has lost its majority with these stores")?;
        let of = |store: StoreId| held.iter().any(|g| g.record.desc.on_store(store).is_some());
        for store in request.lost.iter().filter(|store| !of(**store)) {
            writeln!(out, "store {store} is in no group here")?;
        }
    }
    let mut failed = 0;
    for one in &found {
        let Stranded { desc, replica, last, damage, .. } = one;
        let (group, index, term) = (desc.group, last.index, last.term);
        // Ids are the cluster's by habit: the lost stores may have given the next ones.
        request.replica_max = ReplicaId(largest_known(desc.replica_max().0, ids()));
        let place = format!("group={group} replica={replica} last_term={term} last_index={index}");
        let outcome = match damage {
            Some(damage) => Err(format!("damaged {place}: {damage}")),
            None if args.dry_run => Ok(format!("would go on {place}")),
            None => match go_on_alone(log, one, &request) {
                Ok(_) => Ok(format!("ok {place} operation={operation}")),
                Err(error) => Err(format!("failed {place}: {error}")),
            },
        };
        failed += usize::from(outcome.is_err());
        let (Ok(line) | Err(line)) = outcome;
        writeln!(out, "{line}")?;
    }
    if args.dry_run {
        writeln!(out, "dry run: nothing was changed")?;
        return Ok(());
    }
    match failed {
        0 => Ok(()),
        failed => Err(RecoverError::Failed { failed, groups: found.len() }),
    }
}

/// Refuses groups that have no replica here.
fn check_groups(held: &[GroupLog], groups: &[u64]) -> Result<(), RecoverError> {
    let unknown = |group: &&u64| !held.iter().any(|held| held.group.0 == **group);
    match groups.iter().find(unknown) {
        Some(group) => Err(RecoverError::Wrong(format!(
            "group {group} has no replica here: --dry-run shows the groups that can go on"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_raftstore::log::MemoryLog;
    use flotilla_raftstore::{
        GroupDesc, GroupRecord, GroupWrite, Install, LogPosition, SnapshotId,
    };

    /// Three groups of stores 1 to 3 on store 3; the state of the third one is there in part.
    fn log() -> std::sync::Arc<MemoryLog> {
        let log = MemoryLog::new();
        for group in 1..=3 {
            let desc = GroupDesc::of_voters(GroupId(group), (1..=3).map(StoreId));
            let part = Install::Begin(LogPosition { index: 5, term: 1 }, SnapshotId(9));
            log.write(&[GroupWrite {
                group: GroupId(group),
                record: Some(GroupRecord::new(desc, ReplicaId(3))),
                install: (group == 3).then_some(part),
                ..GroupWrite::default()
            }])
            .unwrap();
        }
        log
    }

    fn recovered(log: &MemoryLog, lost: &[u64], groups: &[u64], dry_run: bool) -> (String, String) {
        recovered_without(log, lost, &[], groups, dry_run)
    }

    fn recovered_without(
        log: &MemoryLog,
        lost: &[u64],
        gone: &[u64],
        groups: &[u64],
        dry_run: bool,
    ) -> (String, String) {
        let args = RecoverArgs {
            dir: PathBuf::new(),
            lost_stores: lost.to_vec(),
            gone_replicas: gone.to_vec(),
            groups: groups.to_vec(),
            all: groups.is_empty(),
            dry_run,
            id: None,
        };
        let mut out = Vec::new();
        let outcome = recover(log, Some(StoreId(3)), &args, &mut out);
        let error = outcome.map_or_else(|error| error.to_string(), |()| String::new());
        (String::from_utf8(out).unwrap(), error)
    }

    #[test]
    fn what_does_not_fit_the_store_is_refused_before_anything_is_done() {
        let log = log();
        let before = log.load().unwrap();
        for dry_run in [true, false] {
            let (out, error) = recovered(&log, &[1, 3], &[], dry_run);
            assert!(out.is_empty() && error.contains("store 3 is this one"), "{out}{error}");
            let (out, error) = recovered(&log, &[1, 2], &[2, 9999], dry_run);
            assert!(out.is_empty() && error.contains("group 9999 has no replica"), "{out}{error}");
        }
        assert_eq!(log.load().unwrap(), before);
    }

    #[test]
    fn groups_that_are_not_recovered_are_counted() {
        let log = log();
        let (out, error) = recovered(&log, &[1, 2], &[], true);
        assert!(out.contains("damaged group=3") && error.is_empty(), "{out}{error}");
        let (out, error) = recovered(&log, &[1, 2], &[1], false);
        assert!(out.starts_with("ok group=1 ") && error.is_empty(), "{out}{error}");
        let (out, error) = recovered(&log, &[1, 2], &[], false);
        assert!(out.starts_with("ok group=2 ") && out.contains("damaged group=3"), "{out}");
        assert!(error.contains("1 of 2 groups were not recovered"), "{error}");
        let (out, error) = recovered(&log, &[1, 2], &[1, 2], false);
        assert!(out.starts_with("nothing to recover") && error.is_empty(), "{out}{error}");
        let (out, error) = recovered(&log, &[1, 99], &[], false);
        assert!(out.starts_with("nothing to recover") && error.is_empty(), "{out}{error}");
        assert!(out.ends_with("\nstore 99 is in no group here\n"), "{out}");
    }

    #[test]
    fn a_damaged_replica_on_a_store_that_is_left_counts_as_lost() {
        let log = log();
        let (out, error) = recovered(&log, &[1], &[1], true);
        assert!(out.starts_with("nothing to recover") && error.is_empty(), "{out}{error}");
        let (out, error) = recovered_without(&log, &[1], &[2], &[1, 2], false);
        assert!(out.is_empty() && error.contains("name that one with --groups"), "{out}{error}");
        for (gone, why) in [(3, "is the one here"), (9, "is no member")] {
            let (out, error) = recovered_without(&log, &[1], &[gone], &[1], false);
            assert!(out.is_empty() && error.contains(why), "{out}{error}");
        }
        let (out, error) = recovered_without(&log, &[], &[1, 2], &[2], true);
        assert!(out.starts_with("would go on group=2") && error.is_empty(), "{out}{error}");
        let (out, error) = recovered_without(&log, &[1], &[2], &[1], false);
        assert!(out.starts_with("ok group=1 ") && error.is_empty(), "{out}{error}");
    }

    #[test]
    fn a_log_that_cannot_be_written_fails_the_recovery() {
        let log = log();
        log.fail_next_write("the disk is full");
        let (out, error) = recovered(&log, &[1, 2], &[1], false);
        assert!(out.starts_with("failed group=1 ") && out.contains("is full"), "{out}");
        assert!(error.contains("1 of 1 groups"), "{error}");
    }
}
