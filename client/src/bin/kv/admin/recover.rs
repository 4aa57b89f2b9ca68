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
    without_damaged: bool,
}

impl From<&Recover> for Recovery {
    fn from(command: &Recover) -> Self {
        let Recover { lost_stores, dry_run, id, force, without_damaged, .. } = command;
        let operation = id.unwrap_or_else(rand::random);
        Recovery {
            lost: lost_stores.clone(),
            dry_run: *dry_run,
            operation,
            force: *force,
            without_damaged: *without_damaged,
        }
    }
}

/// `group` 0 means every group.
pub async fn carry_out(
    client: &Client,
    group: u64,
    recovery: Recovery,
    out: &mut Output,
) -> Result<(), Failure> {
    let Recovery { lost, dry_run, operation, force, without_damaged } = recovery;
    let admin = client.admin();
    // All groups: the lost stores are turned away for all of them.
    let mut plan = admin.plan_recovery(&lost, None).await?;
    if group != 0 && !plan.knows(group) {
        let message = format!("group {group} is unknown: `kv regions` lists the groups");
        return Err(Error::NotApplied { kind: Refusal::Refused, message }.into());
    }
    let listed = |fate: &&Fate| group == 0 || fate.group == group;
    let listed: Vec<&Fate> = plan.fates.iter().filter(listed).collect();
    // While no group goes on without them, the stores are of use once they are back.
    let needed = listed.iter().any(|fate| refusal(fate, without_damaged).is_none());
    let turned_away = if needed || force { &lost[..] } else { &[] };
    plan.not_down.retain(|store| turned_away.contains(store) && !force);
    if dry_run || !out.json {
        show(&plan, turned_away, out)?;
    }
    if listed.is_empty() {
        say_nothing_to_recover(group, &plan, turned_away, out)?;
    }
    if dry_run {
        if !out.json {
            if !lost.is_empty() {
                out.line(&turned_away_line(turned_away, "would be turned away"))?;
            }
            if let Some(store) = plan.not_down.first() {
                let what = "stop it first (--force: it only seems to be there)";
                out.line(&format!("would be refused: store {store} is not down: {what}"))?;
            }
            out.line("dry run: nothing was changed")?;
        }
        return Ok(());
    }
    if !turned_away.is_empty() {
        admin.give_up_stores(turned_away, force).await?;
    }
    if !out.json && !lost.is_empty() {
        out.line(&turned_away_line(turned_away, "turned away from now on"))?;
    }
    let operation = format!("{operation:032x}");
    let mut failed: Option<Error> = None;
    for fate in listed {
        // One that cannot be is no reason to leave the others as they are.
        let outcome = match refusal(fate, without_damaged) {
            None => admin.recover(&plan, fate, &operation).await,
            Some(message) => Err(Error::NotApplied { kind: Refusal::Refused, message }),
        };
        say_outcome(fate, turned_away, &operation, outcome.as_ref().err(), out)?;
        failed = failed.or(outcome.err());
    }
    match failed {
        Some(error) => Err(Failure::During(format!("operation {operation}"), error)),
        None => Ok(()),
    }
}

fn say_nothing_to_recover(
    group: u64,
    plan: &Plan,
    turned_away: &[u64],
    out: &mut Output,
) -> Result<(), Failure> {
    if out.json {
        let group = (group != 0).then_some(group);
        let object =
            json!({"group": group, "nothing_to_recover": true, "turned_away": turned_away});
        return Ok(out.object(&object)?);
    }
    if plan.fates.is_empty() {
        let line = "nothing to recover: every group has a leader, or a majority that is left (one whose \
                    leader has just died counts as led for a few seconds more)";
        return Ok(out.line(line)?);
    }
    Ok(out.line(&format!("nothing to recover in group {group}: it is not among those shown"))?)
}

fn turned_away_line(stores: &[u64], what: &str) -> String {
    if stores.is_empty() {
        let why = "no group goes on without them; --force does it all the same";
        return format!("stores {what}: none ({why})");
    }
    let stores: Vec<String> = stores.iter().map(u64::to_string).collect();
    format!("stores {what}: {}", stores.join(", "))
}

fn say_outcome(
    fate: &Fate,
    turned_away: &[u64],
    operation: &str,
    failed: Option<&Error>,
    out: &mut Output,
) -> Result<(), Failure> {
    let group = fate.group;
    if out.json {
        let mut line = object(fate, turned_away);
        match failed {
            None => line["operation"] = json!(operation),
            Some(error) => line["error"] = json!(error.message()),
        }
        return Ok(out.object(&line)?);
    }
    let line = match failed {
        None => {
            let Survivor { replica, store, .. } =
                fate.survivor.as_ref().expect("without one it is refused");
            format!("ok group={group} replica={replica} store={store} operation={operation}")
        }
        Some(error) => format!("failed group={group}: {}", error.message()),
    };
    Ok(out.line(&line)?)
}

/// Why a group is not recovered: nobody is left to go on, or whoever is would do so without replicas that are
/// damaged, whose logs may end later.
fn refusal(fate: &Fate, without_damaged: bool) -> Option<String> {
    let unable = fate.unable.first().map(|Unable { replica, store, why }| {
        format!("replica {replica} at store {store} cannot go on ({why})")
    });
    let reason = match (&fate.survivor, unable) {
        (None, None) => "no replica is left: its data is gone".to_owned(),
        (None, Some(unable)) => format!("{unable}, and no sound one is left: mend it"),
        (Some(_), Some(unable)) if !without_damaged => format!(
            "{unable} and may hold writes that the others lack; mend it, or go on without it with --without-damaged"
        ),
        (Some(_), _) => return None,
    };
    Some(format!("group {}: {reason}", fate.group))
}

fn show(plan: &Plan, turned_away: &[u64], out: &mut Output) -> Result<(), Failure> {
    if out.json {
        for fate in &plan.fates {
            let mut line = object(fate, turned_away);
            line["not_down"] = json!(plan.not_down);
            out.object(&line)?;
        }
        return Ok(());
    }
    if plan.fates.is_empty() {
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
            None if fate.unable.is_empty() => vec!["none: its data is gone".to_owned()],
            None => vec!["none: what is left is damaged".to_owned()],
        });
        rows.add_row(row);
    }
    print(&rows, out)?;
    for fate in plan.fates.iter().filter(|fate| !fate.gone.is_empty()) {
        let gone: Vec<String> = fate.gone.iter().map(u64::to_string).collect();
        let (group, gone) = (fate.group, gone.join(","));
        out.line(&format!("counts as lost: group={group} replicas={gone}: damaged, or destroyed"))?;
    }
    for fate in &plan.fates {
        for Unable { replica, store, why } in &fate.unable {
            let group = fate.group;
            out.line(&format!(
                "cannot go on: group={group} replica={replica} store={store}: {why}"
            ))?;
        }
    }
    out.line(
        "what only the lost had is lost: writes that were acknowledged behind the end of these logs",
    )?;
    Ok(())
}

fn object(fate: &Fate, turned_away: &[u64]) -> serde_json::Value {
    let Fate { group, region, voters, left, gone, survivor, unable } = fate;
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
        None if unable.is_empty() => drop(fields.insert("gone".into(), json!(true))),
        None => drop(fields.insert("damaged".into(), json!(true))),
    }
    let unable = unable.iter().map(
        |Unable { replica, store, why }| json!({"replica": replica, "store": store, "why": why}),
    );
    fields.insert("unable".into(), unable.collect());
    fields.insert("count_as_lost".into(), json!(gone));
    fields.insert("turned_away".into(), json!(turned_away));
    object
}
