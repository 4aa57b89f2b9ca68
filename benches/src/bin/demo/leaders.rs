//! Who leads what, from the routes that every server tells.

use crate::cluster::Store;
use flotilla_client::pb::RoutesResponse;
use std::collections::BTreeMap;

/// Stores with the regions that each leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders(BTreeMap<u64, (Store, Vec<u64>)>);

impl Leaders {
    /// Takes them from `routes`.
    pub fn of(routes: &RoutesResponse) -> Self {
        let mut stores: BTreeMap<_, _> = routes
            .stores
            .iter()
            .map(|s| (s.store, (Store { id: s.store, address: s.address.clone() }, Vec::new())))
            .collect();
        for region in &routes.regions {
            if let Some((_, led)) = stores.get_mut(&region.leader_store) {
                led.push(region.region);
            }
        }
        Leaders(stores)
    }

    /// The store that leads most, with its regions.
    pub fn busiest(&self) -> Option<(&Store, &[u64])> {
        let most = self.0.values().rev().max_by_key(|(_, led)| led.len())?;
        Some((&most.0, &most.1))
    }

    /// All stores.
    pub fn stores(&self) -> Vec<Store> {
        self.0.values().map(|(store, _)| store.clone()).collect()
    }

    /// Whether all `regions` are led, by no store more than one more than by another.
    pub fn is_even(&self, regions: usize) -> bool {
        let led: Vec<usize> = self.0.values().map(|(_, led)| led.len()).collect();
        flotilla_benches::leaders::is_even(&led, regions)
    }
}

impl std::fmt::Display for Leaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = self.0.values().map(|(store, led)| format!("store-{} {}", store.id, led.len()));
        f.write_str(&each.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_client::pb;

    fn routes(leaders: &[u64]) -> RoutesResponse {
        let store =
            |store| pb::Store { store, address: format!("h:{store}"), ..Default::default() };
        let regions = leaders.iter().enumerate().map(|(i, leader)| pb::Region {
            region: i as u64 + 1,
            leader_store: *leader,
            ..Default::default()
        });
        RoutesResponse {
            regions: regions.collect(),
            stores: (1..=3).map(store).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_busiest_store_leads_most() {
        let leaders = Leaders::of(&routes(&[1, 2, 2, 3]));
        let (store, led) = leaders.busiest().unwrap();
        assert_eq!((store.id, led), (2, &[2, 3][..]));
        assert_eq!(leaders.to_string(), "store-1 1, store-2 2, store-3 1");
    }

    #[test]
    fn even_means_all_led_and_at_most_one_apart() {
        assert!(Leaders::of(&routes(&[1, 2, 2, 3])).is_even(4));
        assert!(!Leaders::of(&routes(&[2, 2, 2, 3])).is_even(4));
        assert!(!Leaders::of(&routes(&[1, 2, 3, 0])).is_even(4), "one region has no leader");
    }
}
