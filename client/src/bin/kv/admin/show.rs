//! What the replicas of a group say of themselves, as tables or as JSON.

use flotilla_client::admin::Described;
use flotilla_client::{Client, Error, Refusal, pb};
use serde_json::{Value, json};

use crate::cluster::{print, table};
use crate::failure::Failure;
use crate::output::Output;

pub async fn describe(client: &Client, group: u64, out: &mut Output) -> Result<(), Failure> {
    let described = client.admin().describe(group).await?;
    let silent = |one: &Described| Some((one.store, one.replicas.as_ref().err()?.clone()));
    let silent: Vec<(u64, String)> = described.iter().filter_map(silent).collect();
    let replicas: Vec<(u64, pb::ReplicaState)> = described
        .into_iter()
        .flat_map(|one| {
            let store = one.store;
            one.replicas.unwrap_or_default().into_iter().map(move |replica| (store, replica))
        })
        .collect();
    if replicas.is_empty() {
        let stores = silent.iter().map(|(store, why)| format!("; store {store}: {why}"));
        let stores: String = stores.collect();
        let message = format!("group {group}: no store that answers has a replica of it{stores}");
        let kind = Refusal::Refused;
        return Err(Failure::Client(Error::NotApplied { kind, message }));
    }
    if out.json {
        for (store, replica) in &replicas {
            out.object(&object(*store, replica))?;
        }
        for (store, why) in silent {
            out.object(&json!({"store": store, "error": why}))?;
        }
        return Ok(());
    }
    print(&figures(&replicas), out)?;
    for (store, replica) in &replicas {
        lines(*store, replica).iter().try_for_each(|line| out.line(line))?;
    }
    Ok(silent.iter().try_for_each(|(store, why)| out.line(&format!("store {store}: {why}")))?)
}

fn figures(replicas: &[(u64, pb::ReplicaState)]) -> comfy_table::Table {
    let mut table = table(&[
        "STORE",
        "REPLICA",
        "ROLE",
        "TERM",
        "LEADER",
        "COMMIT",
        "APPLIED",
        "PERSISTED",
        "DURABLE",
        "LOG",
        "WAITING",
        "SILENT",
    ]);
    for (store, r) in replicas {
        let leader = if r.leader == 0 {
            "none".to_owned()
        } else {
            format!("{}@{}", r.leader, r.leader_store)
        };
        table.add_row([
            store.to_string(),
            r.replica.to_string(),
            r.role.clone(),
            r.term.to_string(),
            leader,
            r.commit.to_string(),
            r.applied.to_string(),
            r.persisted.to_string(),
            r.durable_applied.to_string(),
            format!("{}..{}", r.first_index, r.last_index),
            format!("{}+{}", r.waiting_proposals, r.waiting_reads),
            // Nobody counts while it sleeps.
            match r.asleep {
                true => "asleep".to_owned(),
                false => format!("{}/{}", r.ticks_silent, r.ticks_to_campaign),
            },
        ]);
    }
    table
}

/// What of a replica does not fit a row.
fn lines(store: u64, replica: &pb::ReplicaState) -> Vec<String> {
    let mut lines = Vec::new();
    if !replica.damage.is_empty() {
        lines.push(format!("store {store}: {}: {}", replica.role, replica.damage));
    }
    if replica.installing {
        lines.push(format!("store {store}: its state is being replaced by a snapshot"));
    }
    if replica.asleep {
        lines.push(format!("store {store}: it sleeps until something happens"));
    }
    let (proposed, applying) = (replica.proposal_bytes, replica.apply_bytes);
    if proposed + applying + replica.parked > 0 {
        lines.push(format!(
            "store {store}: {proposed} bytes of commands not answered, {applying} bytes in the apply \
             queue, {} committed entries waiting for it",
            replica.parked
        ));
    }
    if replica.role == "leader" {
        let member = |m: &pb::Member| {
            let priority =
                if m.priority < 0 { String::new() } else { format!(" priority {}", m.priority) };
            format!("{} {}@{}{priority}", m.role, m.replica, m.store)
        };
        let members: Vec<String> = replica.members.iter().map(member).collect();
        let (version, largest) = (replica.members_version, replica.replica_max);
        lines.push(format!(
            "members  {} (version {version}, largest id {largest})",
            members.join(", ")
        ));
        if !replica.operation.is_empty() {
            lines.push(format!("pending  operation {}", replica.operation));
        }
        if let Some(left) = replica.lease_ms {
            lines.push(format!("lease    for {left} ms more, renewed as long as a quorum answers"));
        }
        if replica.transfer_to != 0 {
            lines.push(format!("leaving  leadership goes to replica {}", replica.transfer_to));
        }
    }
    for peer in &replica.peers {
        let silent = match peer.ticks_silent {
            _ if replica.asleep => "not counted, as it sleeps".to_owned(),
            Some(ticks) => format!("heard {ticks} ticks ago"),
            None => "never heard".to_owned(),
        };
        let paused = if peer.paused { ", paused" } else { "" };
        lines.push(format!(
            "peer     {}@{} {} up to {}, next {}, {} in flight{paused}, {silent}",
            peer.replica, peer.store, peer.state, peer.matched, peer.next, peer.in_flight
        ));
    }
    lines
}

fn object(store: u64, replica: &pb::ReplicaState) -> Value {
    let or_null = |number: u64| if number == 0 { Value::Null } else { json!(number) };
    let text_or_null = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    let member = |m: &pb::Member| json!({"replica": m.replica, "store": m.store, "role": m.role, "priority": m.priority});
    let peer = |p: &pb::Progress| {
        json!({
            "replica": p.replica, "store": p.store, "state": p.state, "matched": p.matched,
            "next": p.next, "in_flight": p.in_flight, "paused": p.paused,
            "ticks_silent": p.ticks_silent,
        })
    };
    json!({
        "store": store,
        "group": replica.group,
        "region": or_null(replica.region),
        "replica": replica.replica,
        "role": replica.role,
        "term": replica.term,
        "leader": or_null(replica.leader),
        "leader_store": or_null(replica.leader_store),
        "commit": replica.commit,
        "applied": replica.applied,
        "persisted": replica.persisted,
        "durable_applied": replica.durable_applied,
        "first_index": replica.first_index,
        "last_index": replica.last_index,
        "last_term": replica.last_term,
        "cache_bytes": replica.cache_bytes,
        "waiting_proposals": replica.waiting_proposals,
        "waiting_reads": replica.waiting_reads,
        "ticks_silent": replica.ticks_silent,
        "ticks_to_campaign": replica.ticks_to_campaign,
        "transfer_to": or_null(replica.transfer_to),
        "installing": replica.installing,
        "asleep": replica.asleep,
        "lease_ms": replica.lease_ms,
        "proposal_bytes": replica.proposal_bytes,
        "apply_bytes": replica.apply_bytes,
        "parked": replica.parked,
        "damage": text_or_null(&replica.damage),
        "members": replica.members.iter().map(member).collect::<Vec<_>>(),
        "members_version": replica.members_version,
        "replica_max": replica.replica_max,
        "operation": text_or_null(&replica.operation),
        "peers": replica.peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_does_not_count_since_when_it_heard_the_others() {
        let peer = |replica, ticks_silent| pb::Progress {
            replica,
            ticks_silent,
            ..pb::Progress::default()
        };
        let leader = pb::ReplicaState {
            role: "leader".to_owned(),
            last_term: 7,
            peers: vec![peer(2, Some(63)), peer(3, None)],
            ..pb::ReplicaState::default()
        };
        let said = lines(1, &leader).join("\n");
        assert!(said.contains("heard 63 ticks ago") && said.contains("never heard"), "{said}");
        let asleep = pb::ReplicaState { asleep: true, ..leader };
        let said = lines(1, &asleep).join("\n");
        assert!(!said.contains("heard") && said.contains(", not counted"), "{said}");
        assert_eq!(object(1, &asleep)["last_term"], json!(7));
        assert!(figures(&[(1, asleep)]).to_string().contains("asleep"));
    }
}
