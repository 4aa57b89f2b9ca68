//! In-process stores that follow a script: a tiny key-value map behind the real gRPC contract.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_client::pb;
use flotilla_client::pb::admin_server::AdminServer;
use flotilla_client::pb::error::Kind;
use flotilla_client::pb::kv_server::{Kv, KvServer};
use flotilla_client::pb::stores_server::StoresServer;
use futures::Stream;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::recover::Operators;

pub const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// What a store does with the next request instead of serving it.
#[derive(Clone, Debug)]
pub enum Deed {
    Refuse(pb::Error),
    /// Takes the request and never answers.
    Silence,
    /// Takes the request and ends the stream.
    Cut,
    /// Applies the request and ends the stream.
    ApplyAndCut,
}

/// What all stores of a test cluster share.
#[derive(Default)]
pub struct World {
    pub regions: Vec<pb::Region>,
    pub stores: Vec<pb::Store>,
    /// Who leads, by region: the truth, which `regions[..].leader_store` may lag behind.
    pub leaders: HashMap<u64, u64>,
    pub records: BTreeMap<Bytes, (Bytes, u64)>,
    pub revisions: HashMap<u64, u64>,
    /// Deeds by store; `always` when its list is empty.
    pub script: HashMap<u64, VecDeque<Deed>>,
    pub always: HashMap<u64, Deed>,
    /// Whether a store that does not lead names the leader.
    pub hints: bool,
    /// Every write that a store took without refusing it: (store, key).
    pub writes_seen: Vec<(u64, Bytes)>,
    pub requests_seen: u64,
    /// Operations in every frame that came.
    pub frame_ops: Vec<usize>,
    pub scan_page: usize,
    pub cluster_header: Option<String>,
    pub cluster: String,
    /// What each store tells an operator.
    pub replicas: Vec<(u64, pb::ReplicaState)>,
    /// Orders to recover that came: (store, group).
    pub recovered: Vec<(u64, u64)>,
    /// Their largest ids.
    pub replica_max: Vec<u64>,
    /// Changes of members that were accepted, and operations that were before.
    pub changes: Vec<pb::ChangeMembersRequest>,
    pub operations: Vec<String>,
    pub given_up: Vec<u64>,
    /// What the next orders to change members are answered; the last one for ever.
    pub change_answers: VecDeque<pb::error::Kind>,
}

/// A cluster of scripted stores. They end with the test's runtime.
pub struct Fake {
    pub world: Arc<Mutex<World>>,
    pub addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

pub fn region(id: u64, start: &str, end: &str, leader: u64) -> pb::Region {
    let replicas = (1..=3).map(|store| pb::Replica {
        replica: 10 * id + store,
        store,
        role: "voter".to_owned(),
    });
    pb::Region {
        region: id,
        group: id,
        start: Bytes::copy_from_slice(start.as_bytes()),
        end: Bytes::copy_from_slice(end.as_bytes()),
        epoch: Some(pb::Epoch { version: 1, members: 1 }),
        replicas: replicas.collect(),
        leader_store: leader,
    }
}

impl Fake {
    /// Three stores; region 1 = ["", "m"), region 2 = ["m", ""), led by stores 1 and 2.
    pub async fn start() -> Fake {
        let world = World {
            regions: vec![region(1, "", "m", 1), region(2, "m", "", 2)],
            leaders: HashMap::from([(1, 1), (2, 2)]),
            hints: true,
            cluster: CLUSTER.to_owned(),
            scan_page: 1000,
            ..World::default()
        };
        let world = Arc::new(Mutex::new(world));
        let mut fake = Fake { world, addresses: Vec::new(), tasks: Vec::new() };
        for store in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            fake.world.lock().unwrap().stores.push(pb::Store {
                store,
                address: address.to_string(),
                state: "up".to_owned(),
                ..Default::default()
            });
            fake.addresses.push(address.to_string());
            fake.tasks.push(serve(store, listener, fake.world.clone()));
        }
        fake
    }

    /// Ends the store: its port refuses from now on, its connections break.
    pub async fn kill(&mut self, store: u64) {
        let task = &mut self.tasks[store as usize - 1];
        task.abort();
        let _ = task.await;
    }

    pub fn set(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    pub fn ask<T>(&self, question: impl FnOnce(&World) -> T) -> T {
        question(&self.world.lock().unwrap())
    }

    pub fn script(&self, store: u64, deeds: impl IntoIterator<Item = Deed>) {
        self.set(|world| world.script.entry(store).or_default().extend(deeds));
    }

    pub fn always(&self, store: u64, deed: Deed) {
        self.set(|world| {
            world.always.insert(store, deed);
        });
    }

    pub fn lead(&self, region: u64, store: u64) {
        self.set(|world| {
            world.leaders.insert(region, store);
        });
    }

    pub fn writes_of(&self, key: &str) -> usize {
        self.ask(|world| world.writes_seen.iter().filter(|(_, seen)| seen == key).count())
    }
}

pub fn refusal(kind: Kind) -> pb::Error {
    pb::Error { kind: kind.into(), message: "as told".to_owned(), ..Default::default() }
}

/// A port where nobody listens.
pub async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Serves within one task, connections included, so that aborting it kills the store.
fn serve(store: u64, listener: TcpListener, world: Arc<Mutex<World>>) -> JoinHandle<()> {
    let (alive, dead) = tokio::sync::watch::channel(());
    let incoming = TcpListenerStream::new(listener).map(move |connection| {
        connection.map(|stream| Mortal { stream, dead: Box::pin(closed(dead.clone())) })
    });
    let operators = Operators { store, world: world.clone() };
    let admin = AdminServer::new(operators.clone());
    let stores = StoresServer::new(operators);
    let service = KvServer::new(Service { store, world }).max_decoding_message_size(64 << 20);
    tokio::spawn(async move {
        let _alive = alive;
        tonic::transport::Server::builder()
            .add_service(service)
            .add_service(admin)
            .add_service(stores)
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    })
}

async fn closed(mut dead: tokio::sync::watch::Receiver<()>) {
    while dead.changed().await.is_ok() {}
}

/// A connection that breaks when its store's task ends.
struct Mortal {
    stream: tokio::net::TcpStream,
    dead: Pin<Box<dyn Future<Output = ()> + Send>>,
}

mod mortal {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::Mortal;

    impl Connected for Mortal {
        type ConnectInfo = ();
        fn connect_info(&self) {}
    }

    impl AsyncRead for Mortal {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.dead.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Mortal {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, buffer)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }
}

struct Service {
    store: u64,
    world: Arc<Mutex<World>>,
}

type Frames = Pin<Box<dyn Stream<Item = Result<pb::ResponseFrame, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Service {
    type StreamStream = Frames;

    async fn call(&self, request: Request<pb::Request>) -> Result<Response<pb::Response>, Status> {
        let request = request.into_inner();
        let answer = self.world.lock().unwrap().handle(self.store, request);
        match answer {
            Reply::Answer(response) => Ok(Response::new(response)),
            Reply::Silence => std::future::pending().await,
            Reply::Cut => Err(Status::unavailable("cut")),
        }
    }

    async fn stream(
        &self,
        request: Request<Streaming<pb::RequestFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let header = request.metadata().get("flotilla-cluster");
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        self.world.lock().unwrap().cluster_header = header;
        let (store, world) = (self.store, self.world.clone());
        let mut frames = request.into_inner();
        let (answers, outgoing) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(Ok(frame)) = frames.next().await {
                let mut responses = Vec::new();
                let mut cut = false;
                {
                    let mut world = world.lock().unwrap();
                    let ops = frame.requests.iter().map(count_ops).sum();
                    world.frame_ops.push(ops);
                    for request in frame.requests {
                        match world.handle(store, request) {
                            Reply::Answer(response) => responses.push(response),
                            Reply::Silence => {}
                            Reply::Cut => cut = true,
                        }
                    }
                }
                if cut || answers.send(Ok(pb::ResponseFrame { responses })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn routes(
        &self,
        _: Request<pb::RoutesRequest>,
    ) -> Result<Response<pb::RoutesResponse>, Status> {
        let world = self.world.lock().unwrap();
        Ok(Response::new(pb::RoutesResponse {
            cluster: world.cluster.clone(),
            regions: world.regions.clone(),
            stores: world.stores.clone(),
        }))
    }
}

fn count_ops(request: &pb::Request) -> usize {
    let writes = pb::WriteBatch::decode(request.writes.clone()).unwrap().writes.len();
    writes + request.gets.as_ref().map_or(0, |gets| gets.keys.len()) + request.scan.iter().len()
}

enum Reply {
    Answer(pb::Response),
    Silence,
    Cut,
}

impl World {
    fn handle(&mut self, store: u64, request: pb::Request) -> Reply {
        self.requests_seen += 1;
        let writes = pb::WriteBatch::decode(request.writes.clone()).unwrap().writes;
        let deed = self.script.get_mut(&store).and_then(VecDeque::pop_front);
        let refuse = |error| {
            Reply::Answer(pb::Response { id: request.id, error: Some(error), ..Default::default() })
        };
        match deed.or_else(|| self.always.get(&store).cloned()) {
            Some(Deed::Refuse(error)) => {
                if error.kind() == Kind::Unknown {
                    self.see(store, &writes);
                }
                return refuse(error);
            }
            Some(Deed::Silence) => {
                self.see(store, &writes);
                return Reply::Silence;
            }
            Some(Deed::Cut) => {
                self.see(store, &writes);
                return Reply::Cut;
            }
            Some(Deed::ApplyAndCut) => {
                self.see(store, &writes);
                self.serve(&request, writes);
                return Reply::Cut;
            }
            None => {}
        }
        let Some(region) = self.regions.iter().find(|known| known.region == request.region) else {
            return refuse(refusal(Kind::EpochNotMatch));
        };
        if region.epoch != request.epoch {
            let regions = self.regions.clone();
            return refuse(pb::Error { regions, ..refusal(Kind::EpochNotMatch) });
        }
        let leader = self.leaders[&request.region];
        if leader != store {
            let hint = (self.hints && leader != 0).then(|| pb::Leader {
                replica: 10 * request.region + leader,
                store: leader,
                address: self.stores[leader as usize - 1].address.clone(),
            });
            return refuse(pb::Error { leader: hint, ..refusal(Kind::NotLeader) });
        }
        self.see(store, &writes);
        Reply::Answer(self.serve(&request, writes))
    }

    fn see(&mut self, store: u64, writes: &[pb::Write]) {
        self.writes_seen.extend(writes.iter().map(|write| (store, write.key.clone())));
    }

    fn serve(&mut self, request: &pb::Request, writes: Vec<pb::Write>) -> pb::Response {
        let revision = self.revisions.entry(request.region).or_default();
        for write in writes {
            *revision += 1;
            match write.value {
                Some(value) => self.records.insert(write.key, (value, *revision)),
                None => self.records.remove(&write.key),
            };
        }
        let mut response =
            pb::Response { id: request.id, revision: *revision, ..Default::default() };
        for key in request.gets.iter().flat_map(|gets| &gets.keys) {
            let mut record = pb::Record { key: key.clone(), ..Default::default() };
            if let Some((value, revision)) = self.records.get(key) {
                record.found = true;
                record.value = value.clone();
                record.mod_revision = *revision;
            }
            response.records.push(record);
        }
        if let Some(scan) = &request.scan {
            let region = self.regions.iter().find(|known| known.region == request.region).unwrap();
            let start = scan.start.clone();
            assert!(start >= region.start, "a scan starts within its region");
            assert!(region.end.is_empty() || (!scan.end.is_empty() && scan.end <= region.end));
            let within = |key: &Bytes| scan.end.is_empty() || key < &scan.end;
            let mut found = self.records.range(start..).filter(|(key, _)| within(key));
            let limit = if scan.limit == 0 { u32::MAX } else { scan.limit } as usize;
            for (key, (value, revision)) in found.by_ref().take(limit.min(self.scan_page)) {
                response.records.push(pb::Record {
                    key: key.clone(),
                    found: true,
                    value: value.clone(),
                    mod_revision: *revision,
                });
            }
            response.more = found.next().is_some();
        }
        response
    }
}
