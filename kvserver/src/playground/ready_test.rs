//! When a cluster counts as ready.

use super::*;

fn routes(leaders: &[u64], up: &[u64]) -> pb::RoutesResponse {
    pb::RoutesResponse {
        cluster: String::new(),
        regions: leaders
            .iter()
            .enumerate()
            .map(|(i, leader)| pb::Region {
                region: i as u64 + 1,
                leader_store: *leader,
                ..pb::Region::default()
            })
            .collect(),
        stores: up
            .iter()
            .map(|store| pb::Store {
                store: *store,
                address: format!("127.0.0.1:{store}"),
                state: "up".to_owned(),
                ..pb::Store::default()
            })
            .collect(),
    }
}

fn judge(leaders: &[u64], up: &[u64]) -> Result<(), String> {
    let stores = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
    leaders_by_store(&routes(leaders, up), &stores, 4).map(|_| ())
}

#[test]
fn ready_takes_all_regions_all_stores_and_even_leaders() {
    assert_eq!(judge(&[1, 2, 1, 2], &[1, 2]), Ok(()));
    assert_eq!(judge(&[1, 2, 1, 2, 2], &[1, 2]), Ok(()), "five over two is even enough");
    assert!(judge(&[1, 2, 1], &[1, 2]).unwrap_err().contains("3 of 4 regions"));
    assert!(judge(&[1, 1, 1, 1], &[1]).unwrap_err().contains("1 of 2 stores"));
    assert!(judge(&[1, 2, 0, 2], &[1, 2]).unwrap_err().contains("1 of 4 regions have no leader"));
    assert!(judge(&[1, 1, 1, 2], &[1, 2]).unwrap_err().contains("not spread evenly"));
}
