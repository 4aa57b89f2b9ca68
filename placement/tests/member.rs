//! A member from outside: real port, real log, real gRPC, in this process.

use bytes::Bytes;
use flotilla_client::pb as kv;
use flotilla_client::pb::kv_client::KvClient;
use flotilla_placement::client::{PlacementClient, PlacementError};
use flotilla_placement::config::{LogFormat, Settings, raft_defaults};
use flotilla_placement::node::{self, Node};
use flotilla_placement::pb::{
    Epoch, HeartbeatRequest, HeartbeatResponse, Leading, Region, RegisterRequest, Replica,
};
use flotilla_placement::regions::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Member {
    node: Node,
    address: String,
    client: PlacementClient,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Member {
    async fn start(dir: &Path) -> Member {
        Member::start_with(dir, 5_000).await
    }

    async fn start_with(dir: &Path, store_down_after_ms: u64) -> Member {
        let address = free_address();
        let settings = Settings {
            dir: dir.to_path_buf(),
            addr: address.parse().unwrap(),
            advertise_addr: address.parse().unwrap(),
            stores: 3,
            layout: Layout::even(24).unwrap(),
            store_down_after_ms,
            leader_settle_ms: 200,
            log_level: "info".into(),
            log_format: LogFormat::Text,
            raft: raft_defaults(),
        };
        let listener = node::bind(&settings.addr).unwrap();
        let on_fatal = Arc::new(|fatal| panic!("{fatal}"));
        let node = Node::start(&settings, listener, on_fatal).unwrap();
        let client = PlacementClient::connect(vec![address.clone()]).unwrap();
        Member { node, address, client }
    }

    /// Registers, waiting until the member is ready.
    async fn register(&self, request: RegisterRequest) -> Result<(String, u64), PlacementError> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match self.client.register(request.clone()).await {
                Err(PlacementError::Unavailable(_)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other.map(|r| (r.cluster, r.store)),
            }
        }
    }

    async fn add(&self, n: u64) -> (String, u64) {
        self.register(new_store(n)).await.unwrap()
    }

    async fn routes(&self) -> kv::RoutesResponse {
        let mut client = KvClient::connect(format!("http://{}", self.address)).await.unwrap();
        client.routes(kv::RoutesRequest {}).await.unwrap().into_inner()
    }
}

fn store_address(n: u64) -> String {
    format!("127.0.0.1:{}", 60_000 + n)
}

fn new_store(n: u64) -> RegisterRequest {
    RegisterRequest {
        address: store_address(n),
        nonce: format!("nonce-{n}"),
        ..RegisterRequest::default()
    }
}

/// A store that does what it is told at once.
struct Puppet {
    cluster: String,
    store: u64,
    sequence: u64,
    hosted: BTreeSet<u64>,
}

/// Region → (leading store, term), as the puppets' Raft groups would have it.
type Leaders = BTreeMap<u64, (u64, u64)>;

impl Puppet {
    fn new(cluster: &str, store: u64) -> Self {
        Puppet { cluster: cluster.into(), store, sequence: 0, hosted: BTreeSet::new() }
    }

    async fn beat(&mut self, member: &Member, leaders: &mut Leaders) -> HeartbeatResponse {
        self.sequence += 1;
        let leading = leaders.iter().filter(|(_, (store, _))| *store == self.store);
        let leading = leading.map(|(region, (_, term))| Leading {
            region: *region,
            term: *term,
            epoch: None,
        });
        let request = HeartbeatRequest {
            cluster: self.cluster.clone(),
            store: self.store,
            address: store_address(self.store),
            start_id: self.store,
            sequence: self.sequence,
            leading: leading.collect(),
            hosted: self.hosted.iter().copied().collect(),
            ..HeartbeatRequest::default()
        };
        let answer = member.client.heartbeat(request).await.unwrap();
        self.hosted.extend(answer.create.iter().map(|r| r.region));
        for order in &answer.transfers {
            let (leader, term) = leaders.get_mut(&order.region).unwrap();
            assert_eq!(*leader, self.store, "an order for a region that it does not lead");
            (*leader, *term) = (order.to_store, *term + 1);
        }
        answer
    }
}

async fn http(address: &str, path: &str) -> (String, String) {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_string(), body.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_survive_a_restart_and_are_never_handed_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    let (cluster, first) = member.add(1).await;
    assert_eq!((cluster.len(), first), (32, 1));
    assert_eq!(member.add(2).await, (cluster.clone(), 2));
    assert_eq!(member.add(1).await, (cluster.clone(), 1), "the same nonce, the same id");
    assert!(member.routes().await.regions.is_empty(), "one store is missing");
    assert_eq!(member.add(3).await, (cluster.clone(), 3));
    let before = member.routes().await;
    assert_eq!(before.regions.len(), 24);
    assert!(before.regions[0].start.is_empty() && before.regions[23].end.is_empty());
    member.node.stop().await;

    let member = Member::start(dir.path()).await;
    assert_eq!(member.add(2).await, (cluster.clone(), 2));
    assert_eq!(member.add(4).await, (cluster.clone(), 4));
    let after = member.routes().await;
    assert_eq!((&after.cluster, &after.regions), (&before.cluster, &before.regions));
    assert_eq!(after.stores.len(), 4);

    // A store that moved: known by its id, reached at the new address.
    let moved = RegisterRequest {
        cluster: cluster.clone(),
        store: 3,
        address: store_address(99),
        nonce: String::new(),
    };
    assert_eq!(member.register(moved).await.unwrap(), (cluster, 3));
    assert_eq!(member.routes().await.stores[2].address, store_address(99));
    member.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_stores_that_there_are_and_that_are_down_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    let (cluster, _) = member.add(1).await;
    let mut stores = kv::stores_client::StoresClient::connect(format!("http://{}", member.address))
        .await
        .unwrap();
    let mut give_up = async |given: &[u64], force: bool| {
        let request = kv::GiveUpRequest { stores: given.to_vec(), force };
        let answer = stores.give_up(request).await.unwrap().into_inner();
        answer.error.map(|error| error.message).unwrap_or_default()
    };
    Puppet::new(&cluster, 1).beat(&member, &mut Leaders::new()).await;
    for stores in [&[99][..], &[1, 99]] {
        assert!(give_up(stores, false).await.starts_with("there is no store 99: see `kv stores`"));
    }
    assert_eq!(give_up(&[99], true).await, "", "its state may have been lost");
    assert!(give_up(&[1], false).await.contains("store 1 is not down"));
    assert_eq!(member.routes().await.stores[0].state, "up");
    assert_eq!(give_up(&[1, 99], true).await, "");
    assert_eq!(member.routes().await.stores[0].state, "lost");
    member.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_created_and_their_leaders_spread() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    let (cluster, _) = member.add(1).await;
    member.add(2).await;
    member.add(3).await;
    let mut puppets: Vec<_> = (1..=3).map(|s| Puppet::new(&cluster, s)).collect();
    let mut leaders: Leaders = (1..=24).map(|r| (r, (1, 1))).collect();
    let answer = puppets[0].beat(&member, &mut Leaders::new()).await;
    assert_eq!(answer.create.len(), 24);
    assert_eq!(answer.create[0].replicas.len(), 3);
    assert_eq!(answer.stores.len(), 3);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        for puppet in &mut puppets {
            puppet.beat(&member, &mut leaders).await;
        }
        let stores = member.routes().await.stores;
        if stores.iter().all(|s| s.leaders == 8 && s.replicas == 24 && s.state == "up") {
            break;
        }
        assert!(Instant::now() < until, "{stores:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = puppets[2].beat(&member, &mut leaders).await;
    assert!(answer.create.is_empty() && answer.transfers.is_empty());
    assert_eq!(answer.leaders.len(), 24);
    member.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    let (cluster, store) = member.add(1).await;
    let other = format!("{:032x}", 0xabcd_u128);
    let base = RegisterRequest { cluster: cluster.clone(), store, ..new_store(1) };
    let cases = [
        (RegisterRequest { cluster: other.clone(), ..base.clone() }, vec![&other, &cluster]),
        (RegisterRequest { store: 77, ..base.clone() }, vec![&cluster]),
        (RegisterRequest { cluster: "xyz".into(), ..base.clone() }, vec![]),
        (RegisterRequest { cluster: String::new(), ..base.clone() }, vec![]),
        (RegisterRequest { address: "nowhere".into(), ..base.clone() }, vec![]),
        (RegisterRequest { nonce: String::new(), ..new_store(5) }, vec![]),
        (RegisterRequest { nonce: "n".repeat(129), ..new_store(5) }, vec![]),
    ];
    for (request, words) in cases {
        let error = member.register(request.clone()).await.unwrap_err();
        let PlacementError::Refused(text) = &error else { panic!("{request:?}: {error}") };
        words.iter().for_each(|word| assert!(text.contains(*word), "{text}"));
        println!("{text}");
    }
    let beat = HeartbeatRequest {
        cluster: other,
        store,
        address: store_address(1),
        ..HeartbeatRequest::default()
    };
    let error = member.client.heartbeat(beat.clone()).await.unwrap_err();
    assert!(matches!(error, PlacementError::Refused(_)), "{error}");
    // A second process with a copy of the folder: the later one stays, the earlier one is told.
    let beat = |start_id, sequence| HeartbeatRequest {
        cluster: cluster.clone(),
        start_id,
        sequence,
        ..beat.clone()
    };
    member.client.heartbeat(beat(1, 1)).await.unwrap();
    member.client.heartbeat(beat(2, 1)).await.unwrap();
    let error = member.client.heartbeat(beat(1, 2)).await.unwrap_err();
    assert!(error.to_string().contains("copies of one data folder"), "{error}");
    member.client.heartbeat(beat(2, 2)).await.unwrap();
    let unknown = HeartbeatRequest { store: 9, ..beat(1, 1) };
    let error = member.client.heartbeat(unknown).await.unwrap_err();
    assert!(error.to_string().contains("store 9"), "{error}");
    assert_eq!(member.routes().await.stores.len(), 1);
    member.node.stop().await;
}

/// As when an operator has replaced a member: routes follow, and the one that is gone is not created
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_follow_what_their_leaders_say() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    for n in 1..=4 {
        member.add(n).await;
    }
    let (cluster, _) = member.add(1).await;
    let beat = |store: u64, sequence: u64| HeartbeatRequest {
        cluster: cluster.clone(),
        store,
        address: store_address(store),
        start_id: store,
        sequence,
        ..HeartbeatRequest::default()
    };
    let created = member.client.heartbeat(beat(1, 1)).await.unwrap().create;
    let mut region = created[0].clone();
    let gone = region.replicas.iter().map(|r| r.store).find(|store| *store != 1).unwrap();
    let free = (1..=4).find(|store| region.replicas.iter().all(|r| r.store != *store)).unwrap();
    region.epoch.as_mut().unwrap().members = 4;
    let at = region.replicas.iter().position(|r| r.store == gone).unwrap();
    region.replicas[at] = Replica { replica: 500, store: free, role: "voter".to_owned() };
    let leads = Leading { region: region.region, term: 5, epoch: region.epoch };
    let leading = |sequence| HeartbeatRequest { leading: vec![leads], ..beat(1, sequence) };
    let answer = member.client.heartbeat(leading(2)).await.unwrap();
    assert_eq!(answer.describe, [region.region]);
    let changed = HeartbeatRequest { changed: vec![region.clone()], ..leading(3) };
    let answer = member.client.heartbeat(changed).await.unwrap();
    assert_eq!(answer.describe, [0; 0]);
    let routes = member.routes().await;
    let route = routes.regions.iter().find(|r| r.region == region.region).unwrap();
    assert_eq!(route.epoch.unwrap().members, 4);
    assert!(route.replicas.iter().any(|r| (r.replica, r.store) == (500, free)));
    for store in [gone, free] {
        let answer = member.client.heartbeat(beat(store, 1)).await.unwrap();
        assert!(answer.create.iter().all(|r| r.region != region.region), "store {store}");
        assert!(store != gone || !answer.create.is_empty(), "the other regions are");
        assert_eq!(answer.leaders.len(), 1, "store {store}");
    }
    // One that says what has changed since one that is not known here has to be whole; one that follows
    // is taken.
    let partial = |sequence| HeartbeatRequest { partial: true, ..beat(gone, sequence) };
    let answer = member.client.heartbeat(partial(3)).await.unwrap();
    assert!(answer.tell_all && answer.stores.is_empty());
    let hosted: Vec<u64> = routes.regions.iter().map(|r| r.region).collect();
    let answer = member.client.heartbeat(HeartbeatRequest { hosted, ..partial(2) }).await.unwrap();
    assert!(!answer.tell_all && answer.create.is_empty());
    assert!(answer.leaders.is_empty(), "it was told before");
    let answer = member.client.heartbeat(partial(3)).await.unwrap();
    assert!(answer.create.is_empty(), "what it hosts is remembered");
    // What makes no sense changes nothing, and the heartbeat counts all the same.
    let odd = Region { end: "q".into(), epoch: Some(Epoch { version: 9, members: 9 }), ..region };
    let odd = HeartbeatRequest { changed: vec![odd], ..leading(4) };
    assert!(!member.client.heartbeat(odd).await.unwrap().stores.is_empty());
    assert_eq!(member.routes().await.regions, routes.regions);
    member.node.stop().await;
}

/// As when somebody empties the folder of a store, or gives two stores one address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_gets_the_address_of_another_only_when_that_one_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start_with(dir.path(), 1_500).await;
    let (cluster, old) = member.add(1).await;
    let mut puppet = Puppet::new(&cluster, old);
    puppet.beat(&member, &mut Leaders::new()).await;
    assert_eq!(member.add(1).await, (cluster.clone(), old), "the same store asks again");
    let wiped = RegisterRequest { address: store_address(1), ..new_store(2) };
    let error = member.client.register(wiped.clone()).await.unwrap_err();
    assert!(matches!(error, PlacementError::Unavailable(_)), "worth asking again: {error}");
    for word in [&store_address(1), "store 1, which is not down", "--advertise-addr", "--dir"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(member.routes().await.stores.len(), 1, "nothing was registered");
    assert_eq!(member.register(wiped).await.unwrap(), (cluster, 2));
    let stores = member.routes().await.stores;
    assert_eq!((stores[0].state.as_str(), stores.len()), ("down", 2));
    member.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_refused_and_the_pages_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(dir.path()).await;
    member.add(1).await;
    let mut client = KvClient::connect(format!("http://{}", member.address)).await.unwrap();
    let request = kv::Request { id: 7, writes: Bytes::from_static(b"x"), ..Default::default() };
    let answer = client.call(request.clone()).await.unwrap().into_inner();
    let error = answer.error.unwrap();
    assert_eq!((answer.id, error.kind()), (7, kv::error::Kind::Invalid));
    assert!(error.message.contains("ask a store"));
    let frame = kv::RequestFrame { requests: vec![request.clone(), request] };
    let mut stream = client.stream(futures::stream::iter([frame])).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().responses.len(), 2);

    assert_eq!(http(&member.address, "/healthz").await, ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    let (_, page) = http(&member.address, "/status").await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["cluster"], member.node.cluster().to_string());
    assert_eq!(page["stores"][0]["state"], "unknown");
    assert_eq!(page["raft"][0]["role"], "leader");
    assert_eq!(page["members"][0]["address"], member.address);
    let (_, metrics) = http(&member.address, "/metrics").await;
    assert!(metrics.contains("flotilla_placement_registrations_total 1"), "{metrics}");
    assert!(metrics.contains("flotilla_placement_leads 1"));
    assert!(http(&member.address, "/nothing").await.0.contains("404"));
    member.node.stop().await;
}
