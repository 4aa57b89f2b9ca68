//! The service over a real store with one replica a group.

use super::core::Core;
use super::*;
use crate::kv::RegionMeta;
use crate::kv::engine::open_memory;
use bytes::Bytes;
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::kv_server::Kv;
use flotilla_raftstore::log::MemoryLog;
use flotilla_raftstore::snapshot::MemorySnapshots;
use flotilla_raftstore::{
    Blocks, ChangeRefusal, ClusterId, Config, Envelope, Error, GroupId, GroupRecord,
    OnceCompletion, ReplicaDesc, ReplicaId, ReplicaRole, Shortage, SnapshotId, StoreBuilder,
    StoreId, SystemClock, TransferRefusal, Transport,
};
use futures::StreamExt;
use prost::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};

const STORE: StoreId = StoreId(1);
const LITTLE: Shortage = Shortage { free: 60 << 20, limit: 100 << 20 };
const EPOCH: crate::kv::Epoch = crate::kv::Epoch { version: 1, members: 1 };

struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, _to: StoreId, _envelopes: Vec<Envelope>) {}

    fn fetch(&self, _from: StoreId, _id: SnapshotId, _first: u64) -> std::io::Result<Blocks> {
        Err(std::io::Error::from(std::io::ErrorKind::NotConnected))
    }
}

/// A store that leads region 1 (up to "m") and region 2 (from there).
struct Fixture {
    store: Store,
    machine: Arc<KvStateMachine>,
    directory: Arc<Directory>,
    _dir: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.store.shutdown();
    }
}

impl Fixture {
    fn start() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let machine = KvStateMachine::new(open_memory(dir.path(), 1 << 20).unwrap());
        let machine = machine.unwrap();
        let config = Config { tick_interval_ms: 10, ..Config::default() };
        let store = StoreBuilder {
            config,
            store: STORE,
            clock: Arc::new(SystemClock),
            transport: Arc::new(NoTransport),
            log: MemoryLog::new(),
            snapshots: MemorySnapshots::new(),
            state_machine: machine.clone(),
            on_fatal: Arc::new(|fatal| panic!("{fatal}")),
            seed: 1,
        }
        .start()
        .unwrap();
        let address = "127.0.0.1:7110".to_owned();
        let directory = Arc::new(Directory::new(ClusterId(0xabc), STORE, address));
        let fixture = Fixture { store, machine, directory, _dir: dir };
        fixture.create(1, b"", b"m");
        fixture.create(2, b"m", b"");
        let until = Instant::now() + Duration::from_secs(10);
        while !fixture.store.groups().iter().all(|group| group.leading) {
            assert!(Instant::now() < until, "no leader in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        fixture
    }

    fn create(&self, region: u64, start: &'static [u8], end: &'static [u8]) {
        let replica = ReplicaId(region * 10);
        let role = ReplicaRole::Voter;
        let meta = RegionMeta {
            region,
            group: GroupId(region),
            start: Bytes::from_static(start),
            end: Bytes::from_static(end),
            epoch: EPOCH,
            replicas: vec![ReplicaDesc { replica, store: STORE, role }],
        };
        self.machine.create_region(&meta).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = OnceCompletion::reply(move |outcome| sender.send(outcome).unwrap());
        self.store.create_group(GroupRecord::new(meta.desc(), replica), reply);
        receiver.recv().unwrap().unwrap();
    }

    fn core(&self) -> Arc<Core> {
        Core::new(self.store.clone(), self.machine.clone(), self.directory.clone())
    }

    fn service(&self) -> KvService {
        let (machine, directory) = (self.machine.clone(), self.directory.clone());
        KvService::new(self.store.clone(), machine, directory, Limits::default())
    }

    async fn call(&self, request: pb::Request) -> pb::Response {
        self.service().call(Request::new(request)).await.unwrap().into_inner()
    }

    fn connect(&self, limits: Limits) -> Link {
        let (frames, inbound) = mpsc::unbounded_channel();
        let inbound = UnboundedReceiverStream::new(inbound);
        let answers = Box::pin(stream::serve(self.core(), limits, inbound));
        Link { frames: Some(frames), answers }
    }
}

type Frames = futures::stream::BoxStream<'static, Result<pb::ResponseFrame, Status>>;

/// The client's end of a stream.
struct Link {
    frames: Option<mpsc::UnboundedSender<Result<pb::RequestFrame, Status>>>,
    answers: Frames,
}

impl Link {
    fn send(&self, requests: Vec<pb::Request>) {
        let frames = self.frames.as_ref().unwrap();
        frames.send(Ok(pb::RequestFrame { requests })).unwrap();
    }

    /// Answers by request, until there are `count`.
    async fn receive(&mut self, count: usize) -> BTreeMap<u64, pb::Response> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            for response in self.answers.next().await.unwrap().unwrap().responses {
                let known = all.insert(response.id, response);
                assert!(known.is_none(), "answered twice: {known:?}");
            }
        }
        all
    }
}

fn request(id: u64, region: u64) -> pb::Request {
    let epoch = pb::Epoch { version: EPOCH.version, members: EPOCH.members };
    pb::Request { id, region, epoch: Some(epoch), ..pb::Request::default() }
}

fn put(id: u64, region: u64, pairs: &[(&str, &str)]) -> pb::Request {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let writes = pairs
        .iter()
        .map(|(key, value)| pb::Write { key: copy(key), value: Some(copy(value)) })
        .collect();
    let writes = Bytes::from(pb::WriteBatch { writes }.encode_to_vec());
    pb::Request { writes, ..request(id, region) }
}

fn gets(id: u64, region: u64, keys: &[&str]) -> pb::Request {
    let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
    pb::Request { gets: Some(pb::Gets { keys }), ..request(id, region) }
}

fn read(request: pb::Request, consistency: i32, staleness_ms_max: u64) -> pb::Request {
    pb::Request { consistency, staleness_ms_max, ..request }
}

fn scan(id: u64, region: u64, limit: u32) -> pb::Request {
    let scan = pb::Scan { limit, ..pb::Scan::default() };
    pb::Request { scan: Some(scan), ..request(id, region) }
}

fn kind(response: &pb::Response) -> Kind {
    response.error.as_ref().map_or(Kind::Unspecified, pb::Error::kind)
}

#[tokio::test]
async fn a_call_writes_and_reads() {
    let fixture = Fixture::start();
    let written = fixture.call(put(5, 1, &[("a", "1"), ("b", "2")])).await;
    assert_eq!(written, pb::Response { id: 5, revision: 2, ..pb::Response::default() });
    let got = fixture.call(gets(6, 1, &["b", "c"])).await;
    assert_eq!((got.id, got.revision, got.records.len()), (6, 2, 2));
    let record = &got.records[0];
    assert_eq!((record.found, &record.value[..], record.mod_revision), (true, &b"2"[..], 2));
    assert!(!got.records[1].found && got.records[1].key == "c");
    for limit in [1, 0] {
        let page = fixture.call(scan(7, 1, limit)).await;
        assert_eq!(page.more, limit == 1);
        assert_eq!(page.records.len(), if limit == 1 { 1 } else { 2 });
        assert_eq!(page.revision, 2);
    }
    for (consistency, bound) in [(0, 0), (1, 0), (2, 0), (3, 1)] {
        let got = fixture.call(read(gets(8, 1, &["b"]), consistency, bound)).await;
        assert_eq!((kind(&got), got.revision, got.records.len()), (Kind::Unspecified, 2, 1));
    }
}

#[tokio::test]
async fn a_stream_answers_everything_once() {
    let fixture = Fixture::start();
    let mut link = fixture.connect(Limits::default());
    let mut id = 0;
    for _ in 0..20 {
        let frame = (0..50)
            .map(|n| {
                id += 1;
                put(id, 1 + n % 2, &[(if n % 2 == 0 { "a" } else { "x" }, &id.to_string())])
            })
            .collect();
        link.send(frame);
    }
    let written = link.receive(1_000).await;
    let mut revisions: Vec<_> = written.values().map(|response| response.revision).collect();
    revisions.sort_unstable();
    let expected: Vec<u64> = (1..=500).flat_map(|revision| [revision; 2]).collect();
    assert_eq!(revisions, expected, "each region counts its 500 writes");

    link.send(vec![gets(1, 1, &["a"]), gets(2, 2, &["x"]), scan(3, 1, 0), scan(4, 2, 1)]);
    let read = link.receive(4).await;
    assert!(read.values().all(|response| response.revision == 500 && response.records.len() == 1));
    assert!(read.values().all(|response| response.records[0].mod_revision == 500));

    // The client closes its half: what is in flight is still answered, then the stream ends.
    link.send((1..=10).map(|id| put(id, 1, &[("a", "z")])).collect());
    link.frames = None;
    assert_eq!(link.receive(10).await.len(), 10);
    assert!(link.answers.next().await.is_none());
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_right() {
    let fixture = Fixture::start();
    let mut stale = put(1, 1, &[("a", "1")]);
    stale.epoch = Some(pb::Epoch { version: 9, members: 1 });
    let response = fixture.call(stale).await;
    assert_eq!(kind(&response), Kind::EpochNotMatch);
    let region = &response.error.unwrap().regions[0];
    assert_eq!((region.region, region.epoch.unwrap().version), (1, EPOCH.version));
    assert_eq!((region.leader_store, &region.end[..]), (1, &b"m"[..]));

    let unknown = fixture.call(gets(1, 77, &["a"])).await;
    assert_eq!(kind(&unknown), Kind::EpochNotMatch);
    assert!(unknown.error.unwrap().message.contains("region 77"));

    let long = "k".repeat(4097);
    let both = pb::Request { writes: put(0, 1, &[("a", "")]).writes, ..scan(1, 1, 1) };
    for (wrong, part) in [
        (put(1, 1, &[(&long, "1")]), "writes[0].key: 4097 bytes, at most 4096"),
        (put(1, 1, &[("", "1")]), "writes[0].key: empty"),
        (gets(1, 1, &["a", &long]), "gets[1].keys: 4097 bytes"),
        (gets(1, 1, &["a", "x"]), "key 1 of the request is not in region 1"),
        (put(1, 1, &[("a", "1"), ("x", "1")]), "key 1 of the request is not in region 1"),
        (both, "more than one of"),
        (read(gets(1, 1, &["a"]), 3, 0), "staleness_ms_max: 0; a stale read needs"),
        (read(gets(1, 1, &["a"]), 1, 5), "staleness_ms_max: 5; it is for stale reads only"),
        (read(scan(1, 1, 1), 4, 0), "consistency: 4 is none of 0 (linearizable) to 3 (stale)"),
        (read(put(1, 1, &[("a", "1")]), 1, 0), "consistency is set, and neither gets nor scan"),
    ] {
        let response = fixture.call(wrong).await;
        let error = response.error.unwrap();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(fixture.machine.revision(GroupId(1)), Some(0), "nothing was counted");
    let empty = fixture.call(request(1, 1)).await;
    assert_eq!((kind(&empty), empty.revision), (Kind::Unspecified, 0), "an empty batch");
}

#[tokio::test]
async fn a_full_stream_answers_busy_and_recovers() {
    let fixture = Fixture::start();
    for limits in [
        Limits { requests_max: 4, ..Limits::default() },
        Limits { bytes_max: 1, ..Limits::default() },
    ] {
        let mut link = fixture.connect(limits);
        link.send((1..=10).map(|id| put(id, 1, &[("a", "1")])).collect());
        let answers = link.receive(10).await;
        let taken = limits.requests_max.min(if limits.bytes_max == 1 { 1 } else { 4 });
        let refused: Vec<_> =
            answers.values().filter(|answer| kind(answer) == Kind::Busy).collect();
        assert_eq!(refused.len(), 10 - taken);
        link.send(vec![put(11, 1, &[("a", "2")])]);
        assert_eq!(kind(&link.receive(1).await[&11]), Kind::Unspecified);
    }
}

#[tokio::test]
async fn long_answers_are_cut_into_frames() {
    let fixture = Fixture::start();
    let value = "v".repeat(1 << 20);
    assert_eq!(kind(&fixture.call(put(1, 1, &[("a", &value)])).await), Kind::Unspecified);
    let mut link = fixture.connect(Limits::default());
    link.send((1..=20).map(|id| gets(id, 1, &["a"])).collect());
    let mut answered = 0;
    while answered < 20 {
        let frame = link.answers.next().await.unwrap().unwrap();
        assert!(frame.encoded_len() <= 4 << 20, "{} bytes", frame.encoded_len());
        answered += frame.responses.len();
    }
}

#[tokio::test]
async fn a_broken_stream_ends_and_later_outcomes_go_nowhere() {
    let fixture = Fixture::start();
    let mut link = fixture.connect(Limits::default());
    link.send((1..=100).map(|id| put(id, 1, &[("a", "1")])).collect());
    link.frames.as_ref().unwrap().send(Err(Status::unavailable("torn"))).unwrap();
    let mut last = None;
    while let Some(frame) = link.answers.next().await {
        last = Some(frame);
    }
    assert_eq!(last.unwrap().unwrap_err().code(), Code::Unavailable);
    let link = fixture.connect(Limits::default());
    link.send(vec![put(1, 1, &[("a", "1")])]);
    drop(link);
    assert_eq!(kind(&fixture.call(put(1, 1, &[("a", "2")])).await), Kind::Unspecified);
}

#[tokio::test]
async fn a_request_for_another_cluster_is_refused_naming_both() {
    let fixture = Fixture::start();
    let service = fixture.service();
    let with = |cluster: &str| {
        let mut request = Request::new(pb::RoutesRequest {});
        request.metadata_mut().insert("flotilla-cluster", cluster.parse().unwrap());
        request
    };
    let (own, other) = (ClusterId(0xabc).to_string(), ClusterId(0xdef).to_string());
    let status = service.routes(with(&other)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains(&own) && status.message().contains(&other));

    let routes = service.routes(with(&own)).await.unwrap().into_inner();
    assert_eq!(routes.cluster, own);
    assert_eq!(routes.regions.len(), 2);
    assert!(routes.regions.iter().all(|region| region.leader_store == 1));
    let store = &routes.stores[0];
    assert_eq!((store.store, store.leaders, store.replicas), (1, 2, 2));
    assert_eq!((&store.address[..], &store.state[..]), ("127.0.0.1:7110", "up"));
}

#[tokio::test]
async fn the_directory_prefers_the_later_term_and_hints_with_addresses() {
    let fixture = Fixture::start();
    let place =
        |store: u64, port: u64| (StoreId(store), format!("127.0.0.1:{port}"), "down".to_owned());
    fixture.directory.set_stores([place(1, 9), place(2, 7120)]);
    let own = fixture.directory.address(STORE);
    assert_eq!(own.as_deref(), Some("127.0.0.1:7110"), "it knows itself better");
    let region = fixture.machine.region(1).unwrap();
    fixture.directory.set_leaders([(1, StoreId(2), 0)]);
    assert_eq!(fixture.directory.leader(&region, &fixture.store), Some(STORE));
    fixture.directory.set_leaders([(1, StoreId(2), 1_000)]);
    assert_eq!(fixture.directory.leader(&region, &fixture.store), Some(StoreId(2)));

    let core = fixture.core();
    let leader =
        ReplicaDesc { replica: ReplicaId(12), store: StoreId(2), role: ReplicaRole::Voter };
    let group = GroupId(1);
    let leads = TransferRefusal::Leads { replica: leader.replica };
    let cases = [
        (Error::NotLeader { group, leader: Some(leader) }, Kind::NotLeader),
        (Error::NotLeader { group, leader: None }, Kind::NotLeader),
        (Error::Quarantined { group, reason: "hole".into() }, Kind::NotLeader),
        (Error::Stopped { group, index: 4, reason: "newer".into() }, Kind::NotLeader),
        (Error::Failed { group, index: 4, reason: "newer".into() }, Kind::Unknown),
        (Error::Busy { group, what: "apply queue" }, Kind::Busy),
        (Error::DiskFull { group, store: STORE, shortage: LITTLE }, Kind::DiskFull),
        (Error::Unknown { group }, Kind::Unknown),
        (Error::NoGroup { group }, Kind::EpochNotMatch),
        (Error::Invalid { group, reason: "too long".into() }, Kind::Invalid),
        (Error::Refused { group, refusal: ChangeRefusal::Empty }, Kind::Refused),
        (Error::NotTransferred { group, refusal: leads }, Kind::Refused),
        (Error::Closed, Kind::Closed),
    ];
    for (cause, expected) in cases {
        assert_eq!(core.raft_error(1, &cause).kind(), expected, "{cause}");
    }
    let hint = core.raft_error(1, &Error::NotLeader { group, leader: Some(leader) }).leader;
    let address = "127.0.0.1:7120".to_owned();
    assert_eq!(hint, Some(pb::Leader { replica: 12, store: 2, address }));
}

/// Bug 35: whoever is full can be read and cleaned.
#[tokio::test]
async fn a_full_disk_refuses_puts_and_nothing_else() {
    let fixture = Fixture::start();
    assert!(fixture.call(put(1, 1, &[("a", "1"), ("b", "2")])).await.error.is_none());
    let delete = |id: u64, key: &'static str| {
        let write = pb::Write { key: Bytes::from_static(key.as_bytes()), value: None };
        let writes = Bytes::from(pb::WriteBatch { writes: vec![write] }.encode_to_vec());
        pb::Request { writes, ..request(id, 1) }
    };
    for shortage in [LITTLE, Shortage { free: 0, ..LITTLE }] {
        fixture.store.set_disk(Some(shortage));
        let refused = fixture.call(put(2, 1, &[("a", "3")])).await;
        assert_eq!(kind(&refused), Kind::DiskFull);
        let message = refused.error.unwrap().message;
        let free = format!("{} MiB are free, the limit is 100 MiB", shortage.free >> 20);
        for word in ["store 1", &free, "delete records"] {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert!(fixture.call(delete(3, "b")).await.error.is_none());
        let read = fixture.call(gets(4, 1, &["a", "b"])).await;
        assert!(read.records[0].found && !read.records[1].found, "{read:?}");
        assert_eq!(fixture.store.queues().disk_shortage, Some(shortage));
    }
    fixture.store.set_disk(None);
    assert!(fixture.call(put(5, 1, &[("a", "3")])).await.error.is_none());
}

#[tokio::test]
async fn a_stopped_store_says_so() {
    let fixture = Fixture::start();
    fixture.store.shutdown();
    let stopped = [Kind::Closed, Kind::Unknown];
    assert!(stopped.contains(&kind(&fixture.call(put(1, 1, &[("a", "1")])).await)));
    assert!(stopped.contains(&kind(&fixture.call(gets(1, 1, &["a"])).await)));
}
