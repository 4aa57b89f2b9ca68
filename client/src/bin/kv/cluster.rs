//! `status`, `regions`, `stores`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use flotilla_client::{Client, pb};
use serde_json::{Value, json};

use crate::escape;
use crate::failure::Failure;
use crate::output::Output;

pub async fn status(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let routes = client.routes().await?;
    let stores_up = routes.stores.iter().filter(|store| store.state == "up").count();
    let leaders = routes.regions.iter().filter(|region| region.leader_store != 0).count();
    let (cluster, stores, regions) = (&routes.cluster, routes.stores.len(), routes.regions.len());
    if out.json {
        return Ok(out.object(&json!({
            "cluster": cluster,
            "stores": stores,
            "stores_up": stores_up,
            "regions": regions,
            "leaders": leaders,
        }))?);
    }
    out.line(&format!("cluster  {cluster}"))?;
    out.line(&format!("stores   {stores_up} of {stores} up"))?;
    out.line(&format!("regions  {leaders} of {regions} with a leader"))?;
    Ok(warnings(&routes.stores).iter().try_for_each(|line| out.line(line))?)
}

/// What an operator has to do something about.
fn warnings(stores: &[pb::Store]) -> Vec<String> {
    let lost = |old: &&pb::Store| old.state != "up" && old.replicas > 0;
    let warn = |old: &pb::Store| {
        let at_its_address =
            |new: &&pb::Store| new.store != old.store && new.address == old.address;
        let new = stores.iter().find(at_its_address)?;
        Some(format!(
            "warning  store {} is {} and has {} replicas; store {} with a new --dir is at its \
             address {}: nothing is moved there; to get the replicas back, start the old --dir, \
             just as it was, at another --addr",
            old.store, old.state, old.replicas, new.store, old.address
        ))
    };
    stores.iter().filter(lost).filter_map(warn).collect()
}

pub async fn regions(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut regions = client.routes().await?.regions;
    regions.sort_by(|a, b| a.start.cmp(&b.start));
    if out.json {
        for region in &regions {
            out.object(&region_object(region))?;
        }
        return Ok(());
    }
    let mut table = table(&["REGION", "GROUP", "START", "END", "EPOCH", "LEADER", "REPLICAS"]);
    for region in &regions {
        let epoch = region.epoch.unwrap_or_default();
        let replicas: Vec<String> = region
            .replicas
            .iter()
            .map(|replica| format!("{}@{} {}", replica.replica, replica.store, replica.role))
            .collect();
        table.add_row([
            region.region.to_string(),
            region.group.to_string(),
            bound(&region.start),
            bound(&region.end),
            format!("{}.{}", epoch.version, epoch.members),
            leader_text(region.leader_store),
            replicas.join(", "),
        ]);
    }
    print(&table, out)
}

fn region_object(region: &pb::Region) -> Value {
    let epoch = region.epoch.unwrap_or_default();
    let replicas: Vec<Value> = region
        .replicas
        .iter()
        .map(|replica| {
            json!({"replica": replica.replica, "store": replica.store, "role": replica.role})
        })
        .collect();
    json!({
        "region": region.region,
        "group": region.group,
        "start_b64": BASE64.encode(&region.start),
        "end_b64": BASE64.encode(&region.end),
        "epoch": {"version": epoch.version, "members": epoch.members},
        "leader_store": region.leader_store,
        "replicas": replicas,
    })
}

pub async fn stores(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut stores = client.routes().await?.stores;
    stores.sort_by_key(|store| store.store);
    if out.json {
        for store in &stores {
            out.object(&json!({
                "store": store.store,
                "address": store.address,
                "state": store.state,
                "leaders": store.leaders,
                "replicas": store.replicas,
            }))?;
        }
        return Ok(());
    }
    let mut table = table(&["STORE", "ADDRESS", "STATE", "LEADERS", "REPLICAS"]);
    for store in stores {
        table.add_row([
            store.store.to_string(),
            store.address,
            store.state,
            store.leaders.to_string(),
            store.replicas.to_string(),
        ]);
    }
    print(&table, out)
}

/// A table swallows spaces at the edge of its cells.
fn bound(key: &[u8]) -> String {
    escape::escape(key).replace(' ', "\\x20")
}

fn leader_text(store: u64) -> String {
    if store == 0 { "none".to_owned() } else { store.to_string() }
}

pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.iter().copied());
    table
}

pub fn print(table: &Table, out: &mut Output) -> Result<(), Failure> {
    for line in table.lines() {
        out.line(line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(store: u64, address: &str, state: &str, replicas: u64) -> pb::Store {
        pb::Store { store, address: address.into(), state: state.into(), leaders: 0, replicas }
    }

    #[test]
    fn a_store_whose_address_a_new_one_took_is_warned_of() {
        let mut stores = vec![store(1, "a:1", "up", 8), store(2, "b:1", "down", 8)];
        assert!(warnings(&stores).is_empty(), "down, and nobody took its place");
        stores.push(store(4, "b:1", "up", 0));
        let lines = warnings(&stores);
        assert_eq!(lines.len(), 1);
        for word in ["store 2 is down", "8 replicas", "store 4", "b:1", "--dir", "--addr"] {
            assert!(lines[0].contains(word), "{}", lines[0]);
        }
    }
}
