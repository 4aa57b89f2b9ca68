//! Finds the store to ask: the cached table, the lanes, and how both are refreshed.
//!
//! A refresh asks the given addresses and every store known so far, each a little after the one
//! before it, and takes the first answer; concurrent callers share one refresh. Between refreshes
//! the servers' own hints (`NOT_LEADER`, `EPOCH_NOT_MATCH`) keep the table right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::connection::{self, Shared};
use crate::operation::Operation;
use crate::stream::Lane;
use crate::table::{Region, Table};
use crate::{Error, Result, pb};

/// The next address is asked this much later, unless the one before has answered or failed.
const HEDGE: Duration = Duration::from_millis(150);
/// An address that has not answered by then does not count.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Routes this young are not asked for again: thousands of operations may fail together.
const FRESH: Duration = Duration::from_millis(50);

/// The routing state of one client.
pub(crate) struct Router {
    /// The addresses that the caller gave.
    seeds: Vec<String>,
    pub(crate) shared: Arc<Shared>,
    table: ArcSwap<Table>,
    lanes: ArcSwap<FxHashMap<u64, Arc<Lane>>>,
    /// Serializes changes of `table` and `lanes`; readers never take it.
    change: parking_lot::Mutex<()>,
    refreshing: tokio::sync::Mutex<()>,
    /// Counts finished refreshes.
    refreshed: AtomicU64,
    /// When the last one finished.
    fresh_since: parking_lot::Mutex<Option<Instant>>,
    /// Where the next refresh starts, so that one misinformed server is not asked again and again.
    next_source: AtomicUsize,
    /// Whose turn it is to serve a read that any replica serves.
    next_reader: AtomicUsize,
}

/// Whom to ask for one attempt.
pub(crate) struct Target {
    pub(crate) region: Arc<Region>,
    pub(crate) lane: Arc<Lane>,
}

impl Router {
    pub(crate) fn new(seeds: Vec<String>, shared: Arc<Shared>) -> Self {
        Router {
            seeds,
            shared,
            table: ArcSwap::default(),
            lanes: ArcSwap::default(),
            change: parking_lot::Mutex::new(()),
            refreshing: tokio::sync::Mutex::new(()),
            refreshed: AtomicU64::new(0),
            fresh_since: parking_lot::Mutex::new(None),
            next_source: AtomicUsize::new(0),
            next_reader: AtomicUsize::new(0),
        }
    }

    /// The addresses that the caller gave.
    pub(crate) fn seeds(&self) -> &[String] {
        &self.seeds
    }

    /// For reads that any replica serves: those that do not lead, in turn. Otherwise, and if none of
    /// them answers: the leader's store, if one is known and answers, or the replicas' stores in turn:
    /// each either leads by now or tells who does. `None`: no region or no store is known.
    pub(crate) fn pick(&self, operation: &Operation, attempt: usize) -> Option<Target> {
        let table = self.table.load();
        let region = table.find(operation.key())?;
        let lanes = self.lanes.load();
        if operation.consistency().anywhere() {
            let turn = self.next_reader.fetch_add(1, Ordering::Relaxed);
            let lane = |store: &u64| lanes.get(store).filter(|lane| !lane.health.is_suspect());
            let follows = |store: &&u64| **store != region.leader();
            let able: Vec<_> = region.stores.iter().filter(follows).filter_map(lane).collect();
            if let Some(lane) = able.get(turn % able.len().max(1)) {
                return Some(Target { region: region.clone(), lane: (*lane).clone() });
            }
        }
        let leader = lanes.get(&region.leader());
        if let Some(lane) = leader
            && !lane.health.is_suspect()
        {
            return Some(Target { region: region.clone(), lane: lane.clone() });
        }
        let count = region.stores.len();
        let others = (0..count)
            .filter_map(|step| lanes.get(&region.stores[(attempt + step) % count]))
            .find(|lane| !lane.health.is_suspect());
        let fallback = || lanes.get(region.stores.get(attempt % count.max(1))?);
        let lane = others.or_else(fallback).or(leader)?.clone();
        Some(Target { region: region.clone(), lane })
    }

    /// Takes a server's word about a leader. `true`: worth following at once.
    pub(crate) fn follow(&self, region: &Region, leader: &pb::Leader) -> bool {
        if leader.store == 0 {
            return false;
        }
        let known = self.lanes.load().contains_key(&leader.store);
        if !leader.address.is_empty() {
            self.add_stores(&[(leader.store, leader.address.as_str())]);
        } else if !known {
            return false;
        }
        let lanes = self.lanes.load();
        let suspect = lanes.get(&leader.store).is_none_or(|lane| lane.health.is_suspect());
        if !suspect {
            region.set_leader(leader.store);
        }
        !suspect
    }

    /// Takes a server's word about regions.
    pub(crate) fn learn_regions(&self, regions: &[pb::Region]) {
        let _change = self.change.lock();
        self.table.store(Arc::new(self.table.load().merge(regions)));
    }

    fn add_stores(&self, stores: &[(u64, &str)]) {
        let current = self.lanes.load();
        let new = stores.iter().any(|(store, _)| !current.contains_key(store));
        if new {
            let _change = self.change.lock();
            let mut lanes = FxHashMap::clone(&self.lanes.load());
            for (store, address) in stores {
                lanes.entry(*store).or_insert_with(|| Lane::start(*store, address, &self.shared));
            }
            self.lanes.store(Arc::new(lanes));
        }
        let lanes = self.lanes.load();
        for (store, address) in stores {
            lanes[store].health.set_address(address);
        }
    }

    /// Asks for fresh routes, or waits for whoever is asking already. Errors: when no address
    /// answered before the deadline; the message names each and its obstacle.
    pub(crate) async fn refresh(&self, deadline: Instant) -> Result<()> {
        let before = self.refreshed.load(Ordering::Acquire);
        let refresh = async {
            let _turn = self.refreshing.lock().await;
            let fresh = self.fresh_since.lock().is_some_and(|since| since.elapsed() < FRESH);
            if fresh || self.refreshed.load(Ordering::Acquire) != before {
                return Ok(());
            }
            let sources = self.sources(self.next_source.fetch_add(1, Ordering::Relaxed));
            let routes = self.first_answer(sources).await?;
            self.learn(&routes);
            self.refreshed.fetch_add(1, Ordering::Release);
            *self.fresh_since.lock() = Some(Instant::now());
            Ok(())
        };
        match tokio::time::timeout_at(deadline, refresh).await {
            Ok(result) => result,
            Err(_) => {
                let seeds = self.seeds.join(", ");
                Err(Error::unavailable(format!("no routes in time from {seeds}")))
            }
        }
    }

    /// Fresh routes from the first address that answers, preferring the order given by the caller.
    pub(crate) async fn fetch(&self, deadline: Instant) -> Result<pb::RoutesResponse> {
        let fetch = self.first_answer(self.sources(0));
        let routes = tokio::time::timeout_at(deadline, fetch).await.map_err(|_| {
            let seeds = self.seeds.join(", ");
            Error::unavailable(format!("no routes in time from {seeds}"))
        })??;
        self.learn(&routes);
        Ok(routes)
    }

    fn learn(&self, routes: &pb::RoutesResponse) {
        let stores: Vec<(u64, &str)> = routes
            .stores
            .iter()
            .filter(|store| store.store != 0 && !store.address.is_empty())
            .map(|store| (store.store, store.address.as_str()))
            .collect();
        self.add_stores(&stores);
        self.learn_regions(&routes.regions);
    }

    /// Every address worth asking: the given ones from `first` on, then the stores.
    fn sources(&self, first: usize) -> Vec<String> {
        let mut sources = self.seeds.clone();
        for lane in self.lanes.load().values() {
            let address = lane.health.address();
            if !sources.contains(&address) {
                sources.push(String::clone(&address));
            }
        }
        let count = sources.len();
        sources.rotate_left(first % count);
        sources
    }

    async fn first_answer(&self, sources: Vec<String>) -> Result<pb::RoutesResponse> {
        let mut waiting = sources.iter();
        let mut asked = FuturesUnordered::new();
        let mut obstacles: Vec<String> = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                asked.push(self.ask(address));
            } else if asked.is_empty() {
                return Err(Error::unavailable(obstacles.join("; ")));
            }
            let more = waiting.len() > 0;
            tokio::select! {
                answer = asked.next(), if !asked.is_empty() => match answer {
                    Some(Ok(routes)) => return Ok(routes),
                    Some(Err(obstacle)) => obstacles.push(obstacle),
                    None => {}
                },
                () = tokio::time::sleep(HEDGE), if more => {}
            }
        }
    }

    async fn ask(&self, address: &str) -> std::result::Result<pb::RoutesResponse, String> {
        tokio::time::timeout(FETCH_TIMEOUT, connection::fetch_routes(&self.shared, address))
            .await
            .unwrap_or_else(|_| Err(format!("{address} does not answer")))
    }
}
