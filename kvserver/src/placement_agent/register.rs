//! Gets a store its identity, or tells placement where an old one is now.

use super::AgentError;
use crate::config::Address;
use crate::folder::{Folder, Member};
use flotilla_placement::client::{PlacementClient, PlacementError};
use flotilla_placement::pb;
use flotilla_raftstore::{ClusterId, StoreId};
use std::time::Duration;
use tokio::time::Instant;

const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A store that waits for placement says so this often.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(3);

/// Registers the store in `folder`; a new one learns who it is and writes it down. Waits for
/// placement as long as it takes; a refusal is an error.
pub async fn register(
    client: &PlacementClient,
    folder: &mut Folder,
    advertise: &Address,
) -> Result<Member, AgentError> {
    let request = register_request(folder, advertise);
    let mut backoff = Backoff::default();
    let mut logged: Option<Instant> = None;
    loop {
        match client.register(request.clone()).await {
            Ok(response) => return accept(folder, response),
            Err(PlacementError::Unavailable(reason)) => {
                if logged.is_none_or(|at| at.elapsed() >= WAITING_LOG_INTERVAL) {
                    let new = folder.identity().member.is_none();
                    tracing::warn!(reason, new, "waiting for placement to register this store");
                    logged = Some(Instant::now());
                }
            }
            Err(error) => return Err(refused(error, folder)),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

fn accept(folder: &mut Folder, response: pb::RegisterResponse) -> Result<Member, AgentError> {
    let member = Member { cluster: response.cluster, store: StoreId(response.store) };
    let sound = member.store.0 != 0 && member.cluster.parse::<ClusterId>().is_ok();
    match &folder.identity().member {
        Some(known) if *known == member => {}
        None if sound => folder.set_member(member.clone())?,
        _ => {
            let Member { cluster, store } = member;
            return Err(AgentError::Answer(format!("cluster '{cluster}', store {store}")));
        }
    }
    Ok(member)
}

fn register_request(folder: &Folder, advertise: &Address) -> pb::RegisterRequest {
    let identity = folder.identity();
    let member = identity.member.as_ref();
    pb::RegisterRequest {
        cluster: member.map(|m| m.cluster.clone()).unwrap_or_default(),
        store: member.map_or(0, |m| m.store.0),
        address: advertise.to_string(),
        nonce: identity.nonce.clone(),
    }
}

/// A refusal with who the store thinks it is.
pub fn refused(error: PlacementError, folder: &Folder) -> AgentError {
    let identity = match &folder.identity().member {
        Some(member) => format!("store {} of cluster {}", member.store, member.cluster),
        None => "a new store".to_owned(),
    };
    AgentError::Placement { error, identity }
}

/// Waits that double from 100 ms to a limit, spread so that stores do not knock all at once.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Whether the last attempt failed.
    pub fn failed(&self) -> bool {
        self.failures > 0
    }

    /// Counts a failure and says how long to wait.
    pub fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(100 << self.failures.min(6)).min(BACKOFF_MAX);
        self.failures += 1;
        wait.mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        assert!(!backoff.failed());
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] <= Duration::from_millis(100) && backoff.failed());
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
        assert!(waits[19] >= BACKOFF_MAX / 2);
    }
}
