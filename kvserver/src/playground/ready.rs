//! Asks placement and stores whether the cluster is ready.
//!
//! Placement alone may repeat what it heard before a restart, so each leader that it names must
//! be confirmed by that store itself.

use super::plan::{ChildSpec, Plan};
use crate::folder::Folder;
use flotilla_client::pb;
use flotilla_client::pb::kv_client::KvClient;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Endpoint;

const POLL_INTERVAL: Duration = Duration::from_millis(200);
const REGISTERED_POLL_INTERVAL: Duration = Duration::from_millis(20);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns once every region has a leader, the leaders are spread evenly over all stores, and
/// the stores say so themselves. `progress` holds, at any time, what is missing.
pub async fn wait(plan: &Plan, progress: &mut String) {
    loop {
        match check(plan).await {
            Ok(()) => return,
            Err(missing) => *progress = missing,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns once a new store has its id.
pub async fn registered(spec: &ChildSpec) {
    while !Folder::is_registered(&spec.folder) {
        tokio::time::sleep(REGISTERED_POLL_INTERVAL).await;
    }
}

async fn check(plan: &Plan) -> Result<(), String> {
    let stores = plan.store_addresses();
    let routes = routes(&plan.placement_address()).await.map_err(|e| format!("placement: {e}"))?;
    let leaders = leaders_by_store(&routes, &stores, plan.regions_at_least())?;
    for (number, address) in stores.iter().enumerate() {
        let name = format!("store-{}", number + 1);
        let own = self::routes(address).await.map_err(|e| format!("{name}: {e}"))?;
        let confirmed: BTreeMap<u64, u64> =
            own.regions.iter().map(|r| (r.region, r.leader_store)).collect();
        for (region, leader) in leaders.get(address).into_iter().flatten() {
            if confirmed.get(region) != Some(leader) {
                return Err(format!("{name} does not lead region {region} yet"));
            }
        }
    }
    Ok(())
}

/// Regions (with their leader's store id) by the address of the leader, once they are complete
/// and even.
fn leaders_by_store(
    routes: &pb::RoutesResponse,
    stores: &[String],
    regions_at_least: usize,
) -> Result<BTreeMap<String, Vec<(u64, u64)>>, String> {
    let regions = routes.regions.len();
    if regions < regions_at_least {
        return Err(format!("{regions} of {regions_at_least} regions exist"));
    }
    let mut leaders: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for store in &routes.stores {
        if store.state == "up" && stores.contains(&store.address) {
            leaders.insert(store.address.clone(), Vec::new());
        }
    }
    if leaders.len() < stores.len() {
        return Err(format!("{} of {} stores are up", leaders.len(), stores.len()));
    }
    let mut without = 0;
    for region in &routes.regions {
        let store = routes.stores.iter().find(|s| s.store == region.leader_store);
        match store.and_then(|s| leaders.get_mut(&s.address)) {
            Some(led) => led.push((region.region, region.leader_store)),
            None => without += 1,
        }
    }
    if without > 0 {
        return Err(format!("{without} of {regions} regions have no leader"));
    }
    let counts: Vec<usize> = leaders.values().map(Vec::len).collect();
    let (low, high) = (counts.iter().min().copied(), counts.iter().max().copied());
    if high.unwrap_or(0) - low.unwrap_or(0) > 1 {
        return Err(format!("leaders are not spread evenly: {counts:?} a store"));
    }
    Ok(leaders)
}

async fn routes(address: &str) -> Result<pb::RoutesResponse, String> {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| e.to_string())?
        .connect_timeout(CALL_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(|_| format!("does not answer on {address}"))?;
    let answer = KvClient::new(channel).routes(pb::RoutesRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

#[cfg(test)]
#[path = "ready_test.rs"]
mod tests;
