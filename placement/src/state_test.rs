//! Tests of the cluster map.

use super::*;
use std::collections::BTreeSet;

fn add(map: &mut ClusterMap, n: u64) -> StoreId {
    let command = Command::AddStore { nonce: format!("n{n}"), address: format!("h{n}:1") };
    match map.apply(command) {
        Answer::Store { store } => store,
        other => panic!("{other:?}"),
    }
}

fn create(map: &mut ClusterMap, stores: u32, regions: u32) -> Answer {
    map.apply(Command::CreateRegions { stores, layout: Layout::even(regions).unwrap() })
}

#[test]
fn a_nonce_gets_the_same_id_again() {
    let mut map = ClusterMap::default();
    let ids: Vec<_> = (1..=3).map(|n| add(&mut map, n)).collect();
    assert_eq!(ids, [StoreId(1), StoreId(2), StoreId(3)]);
    let again = Command::AddStore { nonce: "n2".into(), address: "moved:1".into() };
    assert_eq!(map.apply(again), Answer::Store { store: StoreId(2) });
    assert_eq!(map.stores[&StoreId(2)].address, "moved:1");
    assert_eq!(map.stores.len(), 3);
}

#[test]
fn the_first_regions_are_created_once_when_all_stores_are_there() {
    let mut map = ClusterMap::default();
    add(&mut map, 1);
    add(&mut map, 2);
    assert!(matches!(create(&mut map, 3, 24), Answer::Refused { .. }));
    assert!(map.regions.is_empty());
    add(&mut map, 3);
    assert_eq!(create(&mut map, 3, 24), Answer::Done);
    assert_eq!(map.regions.len(), 24);
    let before = map.clone();
    assert_eq!(create(&mut map, 3, 8), Answer::Done);
    assert_eq!(map, before);

    let replicas: BTreeSet<_> =
        map.regions.values().flat_map(|r| &r.replicas).map(|r| r.replica).collect();
    assert_eq!(replicas.len(), 72, "no replica id twice");
    let groups: BTreeSet<_> = map.regions.values().map(|r| r.group).collect();
    assert_eq!(groups.len(), 24);
    assert!(!groups.contains(&GroupId(0)));
}

#[test]
fn no_more_replicas_than_stores() {
    for stores in 1..=5 {
        let mut map = ClusterMap::default();
        (1..=stores).for_each(|n| _ = add(&mut map, n));
        create(&mut map, stores as u32, 4);
        for region in map.regions.values() {
            let on: BTreeSet<_> = region.replicas.iter().map(|r| r.store).collect();
            assert_eq!(on.len(), region.replicas.len());
            assert_eq!(on.len() as u64, stores.min(3));
        }
    }
}

#[test]
fn a_region_follows_its_leader_and_never_goes_back() {
    let mut map = ClusterMap::default();
    (1..=4).for_each(|n| _ = add(&mut map, n));
    create(&mut map, 3, 2);
    let change = |map: &mut ClusterMap, region: &Region| {
        let before = map.clone();
        let answer = map.apply(Command::ChangeRegion { region: region.clone() });
        (answer, *map != before)
    };
    let mut told = map.regions[&1].clone();
    assert!(told.is_as_created());
    told.epoch.members = 3;
    told.replicas[0] =
        ReplicaDesc { replica: ReplicaId(90), store: StoreId(4), role: ReplicaRole::Learner };
    assert_eq!(change(&mut map, &told), (Answer::Done, true));
    assert_eq!(map.regions[&1], told);
    assert!(told.is_on(StoreId(4)) && !told.is_as_created());
    assert_eq!(map.next.replica, 91, "ids of members that joined are not handed out again");

    let older = Region { epoch: Epoch { members: 2, ..told.epoch }, ..told.clone() };
    assert_eq!(change(&mut map, &older), (Answer::Done, false));
    let later = Region { epoch: Epoch { members: 9, ..told.epoch }, ..told };
    for (odd, word) in [
        (Region { region: 7, ..later.clone() }, "no region 7"),
        (Region { group: GroupId(9), ..later.clone() }, "group 9"),
        (Region { end: "q".into(), ..later.clone() }, "keeps its range"),
        (
            Region {
                replicas: vec![ReplicaDesc { store: StoreId(66), ..later.replicas[0] }],
                ..later.clone()
            },
            "on store 66",
        ),
    ] {
        let (answer, changed) = change(&mut map, &odd);
        let Answer::Refused { reason } = answer else { panic!("{odd:?}") };
        assert!(reason.contains(word) && !changed, "{reason}");
    }
}

#[test]
fn a_second_cluster_cannot_join() {
    let mut map = ClusterMap::default();
    let join = |cluster, address: &str| Command::Join {
        cluster: ClusterId(cluster),
        member: 1,
        address: address.into(),
    };
    assert_eq!(map.apply(join(7, "a:1")), Answer::Done);
    assert_eq!(map.apply(join(7, "b:1")), Answer::Done);
    assert_eq!(map.members[&1], "b:1");
    let Answer::Refused { reason } = map.apply(join(8, "c:1")) else { panic!() };
    assert!(
        reason.contains(&ClusterId(7).to_string()) && reason.contains(&ClusterId(8).to_string())
    );
    assert_eq!(map.cluster, Some(ClusterId(7)));
}

#[test]
fn the_map_and_its_commands_survive_their_json_form() {
    let mut map = ClusterMap::default();
    (1..=3).for_each(|n| _ = add(&mut map, n));
    let cuts = vec![Bytes::from_static(b"\x00\xff"), Bytes::from_static(b"m")];
    let command = Command::CreateRegions { stores: 3, layout: Layout::at(cuts).unwrap() };
    let json = serde_json::to_vec(&command).unwrap();
    assert_eq!(serde_json::from_slice::<Command>(&json).unwrap(), command);
    map.apply(command);
    map.apply(Command::Join { cluster: ClusterId(42), member: 1, address: "a:1".into() });
    let json = serde_json::to_vec(&map).unwrap();
    let mut back: ClusterMap = serde_json::from_slice(&json).unwrap();
    assert_eq!(back, map);
    assert_eq!(add(&mut back, 4), StoreId(4), "ids go on after a restart");
}
