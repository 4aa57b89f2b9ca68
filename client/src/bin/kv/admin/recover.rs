//! `admin group recover`: shows the plan, and carries it out group by group.

use flotilla_client::recover::{Fate, Plan, Survivor, Unable};
use flotilla_client::{Client, Error, Refusal};
use serde_json::json;

use super::args::Recover;
use crate::cluster::{print, table};
use crate::failure::Failure;
use crate::output::Output;

/// As asked for.
#[derive(Clone, Debug)]
pub struct Recovery {
    lost: Vec<u64>,
    dry_run: bool,
    operation: u128,
    force: bool,
}

impl From<&Recover> for Recovery {
    fn from(command: &Recover) -> Self {
        let Recover { lost_stores, dry_run, id, force, .. } = command;
        let operation = id.unwrap_or_else(rand::random);
        Recovery { lost: lost_stores.clone(), dry_run: *dry_run, operation, force: *force }
    }
}

/// `group` 0 means every group.
pub async fn carry_out(
    client: &Client,
    group: u64,
    recovery: Recovery,
    out: &mut Output,
) -> Result<(), Failure> {
    let Recovery { lost, dry_run, operation, force } = recovery;
    let admin = client.admin();
    // All groups: the lost stores are turned away for all of them.
    let plan = admin.plan_recovery(&lost, None).await?;
    let listed = |fate: &&Fate| group == 0 || fate.group == group;
    let nothing = !plan.fates.iter().any(|fate| listed(&fate));
    if plan.fates.is_empty() && !out.json {
        out.line("nothing to recover: every group has a leader, or a majority that is left")?;
    } else if dry_run || !out.json {
        show(&plan, out)?;
    }
    if nothing && out.json {
        let group = (group != 0).then_some(group);
        out.object(&json!({"group": group, "nothing_to_recover": true}))?;
    }
    if dry_run {
        if !out.json {
            out.line("dry run: nothing was changed")?;
        }
        return Ok(());
    }
    admin.give_up_stores(&lost, force).await?;
    if !out.json {
        out.line("the lost stores are turned away from now on")?;
    }
    let operation = format!("{operation:032x}");
    let mut failed: Option<Error> = None;
    if group != 0 && nothing && !out.json {
        out.line(&format!("nothing to recover in group {group}: it is not among those shown"))?;
    }
    for fate in plan.fates.iter().filter(listed) {
        // One that cannot be is no reason to leave the others as they are.
        let outcome = match refusal(fate, force) {
            None => admin.recover(&plan, fate, &operation).await,
            Some(message) => Err(Error::NotApplied { kind: Refusal::Refused, message }),
        };
        match &outcome {
            Ok(()) if out.json => {
                let mut line = object(fate);
                line["operation"] = json!(operation);
                out.object(&line)?;
            }
            Ok(()) => {
                let Survivor { replica, store, .. } =
                    fate.survivor.as_ref().expect("without one it is refused");
                out.line(&format!(
                    "ok group={} replica={replica} store={store} operation={operation}",
                    fate.group
                ))?;
            }
            Err(error) if out.json => {
                let mut line = object(fate);
                line["error"] = json!(error.message());
                out.object(&line)?;
            }
            Err(error) => out.line(&format!("failed group={}: {}", fate.group, error.message()))?,
        }
        failed = failed.or(outcome.err());
    }
    match failed {
        Some(error) => Err(Failure::During(format!("operation {operation}"), error)),
        None => Ok(()),
    }
}

/// Why a group is not recovered: nobody is left to go on, or whoever is would do so without replicas that are
/// damaged, whose logs may end later.
fn refusal(fate: &Fate, force: bool) -> Option<String> {
    let unable = fate.unable.first().map(|Unable { replica, store, why }| {
        format!("replica {replica} at store {store} cannot go on ({why})")
    });
    let reason = match (&fate.survivor, unable) {
        (None, None) => "no replica is left: its data is gone".to_owned(),
        (None, Some(unable)) => format!("{unable}, and no sound one is left: mend it"),
        (Some(_), Some(unable)) if !force => format!(
            "{unable} and may hold writes that the others lack; mend it, or go on without it with --force"
        ),
        (Some(_), _) => return None,
    };
    Some(format!("group {}: {reason}", fate.group))
}

fn show(plan: &Plan, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        for fate in &plan.fates {
            out.object(&object(fate))?;
        }
        return Ok(());
    }
    let mut rows = table(&[
        "GROUP",
        "REGION",
        "VOTERS LEFT",
        "GOES ON AT STORE",
        "REPLICA",
        "LOG ENDS (TERM, INDEX)",
        "COMMIT",
    ]);
    for fate in &plan.fates {
        let left = format!("{} of {}", fate.left, fate.voters);
        let mut row = vec![fate.group.to_string(), fate.region.to_string(), left];
        row.extend(match &fate.survivor {
            Some(Survivor { replica, store, last_term, last_index, commit }) => vec![
                store.to_string(),
                replica.to_string(),
                format!("{last_term}, {last_index}"),
                commit.to_string(),
            ],
            None => vec!["none: its data is gone".to_owned()],
        });
        rows.add_row(row);
    }
    print(&rows, out)?;
    for fate in &plan.fates {
        for Unable { replica, store, why } in &fate.unable {
            let group = fate.group;
            out.line(&format!(
                "cannot go on: group={group} replica={replica} store={store}: {why}"
            ))?;
        }
    }
    out.line(
        "what only the lost stores had is lost: writes that were acknowledged behind the end of these logs",
    )?;
    Ok(())
}

fn object(fate: &Fate) -> serde_json::Value {
    let Fate { group, region, voters, left, survivor, unable } = fate;
    let mut object =
        json!({"group": group, "region": region, "voters": voters, "voters_left": left});
    let fields = object.as_object_mut().expect("an object");
    match survivor {
        Some(Survivor { replica, store, last_term, last_index, commit }) => {
            fields.insert("replica".into(), json!(replica));
            fields.insert("store".into(), json!(store));
            fields.insert("last_term".into(), json!(last_term));
            fields.insert("last_index".into(), json!(last_index));
            fields.insert("commit".into(), json!(commit));
        }
        None => drop(fields.insert("gone".into(), json!(true))),
    }
    let unable = unable.iter().map(
        |Unable { replica, store, why }| json!({"replica": replica, "store": store, "why": why}),
    );
    fields.insert("unable".into(), unable.collect());
    object
}
