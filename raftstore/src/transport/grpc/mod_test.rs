//! Transports in one process over loopback: order, refusals, outages, a store that moves.

use super::*;
use crate::transport::Payload;
use crate::types::{GroupId, ReplicaId};
use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

const CLUSTER: ClusterId = ClusterId(7);
const HELD: SnapshotId = SnapshotId(0x1234_5678_9abc_def0);
const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
enum Event {
    Delivered(StoreId, Vec<Envelope>),
    Unreachable(StoreId),
}

struct Recorder(Sender<Event>);

impl Inbound for Recorder {
    fn deliver(&self, from: StoreId, envelopes: Vec<Envelope>) {
        let _ = self.0.send(Event::Delivered(from, envelopes));
    }

    /// A snapshot of five blocks, each with its number.
    fn snapshot_block(&self, id: SnapshotId, number: u64) -> io::Result<Bytes> {
        match (id, number) {
            (HELD, 0..5) => Ok(Bytes::from(format!("block {number}"))),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn unreachable(&self, store: StoreId) {
        let _ = self.0.send(Event::Unreachable(store));
    }
}

struct Node {
    transport: Arc<GrpcTransport>,
    events: Receiver<Event>,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(runtime: &Runtime, cluster: ClusterId, store: u64, config: GrpcConfig) -> Node {
        let _entered = runtime.enter();
        let transport =
            GrpcTransport::new(config, cluster, StoreId(store), runtime.handle().clone()).unwrap();
        let (sender, events) = unbounded();
        transport.set_inbound(Arc::new(Recorder(sender)));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let service = transport.service();
        let server = runtime.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tune(Server::builder())
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Node { transport, events, address, server }
    }

    fn knows(&self, other: &Node, as_store: u64) {
        self.transport.set_address(StoreId(as_store), &other.address.to_string());
    }

    /// Envelopes as they arrive, until `count` are there.
    fn receive(&self, count: usize) -> Vec<Envelope> {
        let mut received = Vec::new();
        while received.len() < count {
            match self.events.recv_timeout(LONG).expect("nothing arrives") {
                Event::Delivered(_, envelopes) => received.extend(envelopes),
                Event::Unreachable(store) => panic!("store {store} unreachable"),
            }
        }
        received
    }

    fn stop(&self) {
        self.transport.shutdown();
        self.server.abort();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn raft(group: u64, tag: u64, length: usize) -> Envelope {
    let mut bytes = vec![0; length.max(8)];
    bytes[..8].copy_from_slice(&tag.to_le_bytes());
    let payload = Payload::Raft { bytes: bytes.into(), bulk: length > 100 };
    Envelope { group: GroupId(group), from: ReplicaId(1), to: ReplicaId(2), payload }
}

#[test]
fn two_stores_exchange_messages_in_order() {
    let runtime = runtime();
    let (a, b) = (
        Node::start(&runtime, CLUSTER, 1, GrpcConfig::default()),
        Node::start(&runtime, CLUSTER, 2, GrpcConfig::default()),
    );
    a.knows(&b, 2);
    b.knows(&a, 1);
    let sent: Vec<Envelope> = (0..5_000).map(|i| raft(1, i, 10 + (i as usize % 7) * 40)).collect();
    for (source, target, to) in [(&a, &b, 2), (&b, &a, 1)] {
        for batch in sent.chunks(10) {
            source.transport.send(StoreId(to), batch.to_vec());
        }
        assert_eq!(target.receive(sent.len()), sent);
        // Messages travel before the answer to the hello is there.
        let connected = async {
            while !source.transport.peers()[0].connected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let connected = async { tokio::time::timeout(Duration::from_secs(10), connected).await };
        runtime.block_on(connected).expect("the hello is answered");
        let status = &source.transport.peers()[0];
        assert_eq!(status.dropped_envelopes, 0);
        assert!(status.frames_sent < 500, "{} frames for 500 batches", status.frames_sent);
    }
    a.stop();
    b.stop();
}

#[test]
fn a_message_larger_than_a_frame_travels_and_one_larger_than_the_limit_does_not() {
    let runtime = runtime();
    let a = Node::start(&runtime, CLUSTER, 1, GrpcConfig::default());
    let b = Node::start(&runtime, CLUSTER, 2, GrpcConfig::default());
    a.knows(&b, 2);
    let largest = ENVELOPE_BYTES_MAX - frame::HEADER_BYTES - frame::ENVELOPE_OVERHEAD_BYTES_MAX;
    a.transport.send(StoreId(2), vec![raft(1, 1, largest), raft(1, 2, largest + 1), raft(1, 3, 8)]);
    let received = b.receive(2);
    assert_eq!(received[0].payload, raft(1, 1, largest).payload);
    assert_eq!(received[1], raft(1, 3, 8));
    assert_eq!(a.events.recv_timeout(LONG), Ok(Event::Unreachable(StoreId(2))));
    a.stop();
    b.stop();
}

#[test]
fn a_peer_of_another_cluster_is_refused() {
    let runtime = runtime();
    let a = Node::start(&runtime, CLUSTER, 1, GrpcConfig::default());
    let stranger = Node::start(&runtime, ClusterId(8), 2, GrpcConfig::default());
    a.knows(&stranger, 2);
    a.transport.send(StoreId(2), vec![raft(1, 1, 8)]);
    assert_eq!(a.events.recv_timeout(LONG), Ok(Event::Unreachable(StoreId(2))));
    assert!(stranger.events.is_empty(), "nothing of another cluster is delivered");
    a.stop();
    stranger.stop();
}

/// The status that a hello with these fields gets from store 2 of [`CLUSTER`].
fn refusal(hello: pb::Hello) -> tonic::Status {
    let runtime = runtime();
    let node = Node::start(&runtime, CLUSTER, 2, GrpcConfig::default());
    let address = format!("http://{}", node.address);
    let status = runtime.block_on(async move {
        let mut client = pb::peer_client::PeerClient::connect(address).await.unwrap();
        let body = Some(pb::packet::Body::Hello(hello));
        client.open(tokio_stream::iter([pb::Packet { body }])).await.unwrap_err()
    });
    node.stop();
    status
}

#[test]
fn refusals_name_both_sides() {
    let cluster = |id: u128| id.to_be_bytes().to_vec().into();
    let fitting = pb::Hello {
        protocol: PROTOCOL,
        cluster: cluster(CLUSTER.0),
        from_store: 1,
        to_store: 2,
        election_timeout_ms: 0,
    };
    let cases = [
        (pb::Hello { cluster: cluster(8), ..fitting.clone() }, "peer of another cluster: store 1"),
        (pb::Hello { to_store: 3, ..fitting.clone() }, "addressed to store 3, this is store 2"),
        (pb::Hello { protocol: 9, ..fitting.clone() }, "protocol 9"),
        (pb::Hello { from_store: 2, ..fitting.clone() }, "two data folders, one id"),
        (pb::Hello { cluster: vec![1].into(), ..fitting }, "of 1 bytes"),
    ];
    for (hello, expected) in cases {
        let status = refusal(hello);
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains(expected), "{}", status.message());
    }
}

#[test]
fn a_damaged_frame_ends_the_stream_and_delivers_nothing() {
    let runtime = runtime();
    let node = Node::start(&runtime, CLUSTER, 2, GrpcConfig::default());
    let link = frame::Link { cluster: CLUSTER, from: StoreId(1), to: StoreId(2) };
    let mut damaged = frame::encode(link, &[raft(1, 1, 8)]).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let hello = pb::Hello {
        protocol: PROTOCOL,
        cluster: CLUSTER.0.to_be_bytes().to_vec().into(),
        from_store: 1,
        to_store: 2,
        election_timeout_ms: 0,
    };
    let packets = [
        pb::Packet { body: Some(pb::packet::Body::Hello(hello)) },
        pb::Packet { body: Some(pb::packet::Body::Frame(damaged.into())) },
    ];
    let address = format!("http://{}", node.address);
    let status = runtime.block_on(async move {
        let mut client = pb::peer_client::PeerClient::connect(address).await.unwrap();
        let mut answers = client.open(tokio_stream::iter(packets)).await.unwrap().into_inner();
        answers.message().await.unwrap().expect("accepted");
        answers.message().await.unwrap_err()
    });
    assert_eq!(status.code(), tonic::Code::DataLoss);
    assert!(node.events.is_empty());
    node.stop();
}

#[test]
fn a_store_that_restarts_elsewhere_is_reached_again() {
    let runtime = runtime();
    let a = Node::start(&runtime, CLUSTER, 1, GrpcConfig::default());
    let b = Node::start(&runtime, CLUSTER, 2, GrpcConfig::default());
    a.knows(&b, 2);
    a.transport.send(StoreId(2), vec![raft(1, 1, 8)]);
    b.receive(1);
    b.stop();
    assert_eq!(a.events.recv_timeout(LONG), Ok(Event::Unreachable(StoreId(2))));
    let b = Node::start(&runtime, CLUSTER, 2, GrpcConfig::default());
    a.knows(&b, 2);
    a.transport.send(StoreId(2), vec![raft(1, 2, 8)]);
    assert_eq!(b.receive(1), [raft(1, 2, 8)]);
    a.stop();
    b.stop();
}

#[test]
fn an_outage_is_reported_once() {
    let runtime = runtime();
    let config = GrpcConfig { backoff_ms_min: 1, backoff_ms_max: 5, ..GrpcConfig::default() };
    let a = Node::start(&runtime, CLUSTER, 1, config);
    let gone = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap().local_addr().unwrap();
    a.transport.set_address(StoreId(2), &gone.to_string());
    a.transport.send(StoreId(2), vec![raft(1, 0, 8)]);
    assert_eq!(a.events.recv_timeout(LONG), Ok(Event::Unreachable(StoreId(2))));
    for i in 0..20 {
        a.transport.send(StoreId(2), vec![raft(1, i, 8)]);
        assert!(a.events.recv_timeout(Duration::from_millis(10)).is_err(), "reported again");
    }
    a.stop();
}

/// A listener that accepts and then says nothing: the kernel takes the connection, nobody reads.
#[test]
fn towards_a_silent_store_bulk_is_dropped_and_small_messages_wait() {
    let runtime = runtime();
    let config = GrpcConfig {
        bulk_bytes_max: 10_000,
        handshake_timeout_ms: 60_000,
        ..GrpcConfig::default()
    };
    let a = Node::start(&runtime, CLUSTER, 1, config);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for i in 0..3 {
        a.transport.send(StoreId(2), vec![raft(1, i, 4_000)]);
    }
    assert_eq!(a.events.recv_timeout(LONG), Ok(Event::Unreachable(StoreId(2))));
    a.transport.send(StoreId(2), vec![raft(2, 9, 8)]);
    let status = &a.transport.peers()[0];
    assert_eq!(status.dropped_envelopes, 1);
    assert!(status.queued_bytes > 8_000 && !status.connected);
    drop(silent);
    a.stop();
}

/// Blocks come from the one that is asked for to the last one; of another cluster, and of what is not
/// there, nothing comes; and no more snapshots are sent at a time than may be.
#[test]
fn blocks_of_a_snapshot_come_on_a_stream_of_their_own() {
    let runtime = runtime();
    let few = GrpcConfig { snapshot_sends_max: 1, ..GrpcConfig::default() };
    let (a, b) = (
        Node::start(&runtime, CLUSTER, 1, GrpcConfig::default()),
        Node::start(&runtime, CLUSTER, 2, few),
    );
    let c = Node::start(&runtime, ClusterId(8), 3, GrpcConfig::default());
    let fetch = |node: &Node, id, first| -> Vec<Result<Bytes, String>> {
        let blocks = node.transport.fetch(StoreId(2), id, first).unwrap();
        let come = |block: &io::Result<Bytes>| !matches!(block, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        blocks.filter(come).map(|block| block.map_err(|error| error.to_string())).collect()
    };
    assert!(a.transport.fetch(StoreId(2), HELD, 0).is_err(), "no address yet");
    a.knows(&b, 2);
    c.knows(&b, 2);
    for first in [0, 3] {
        let expected: Vec<_> =
            (first..5).map(|number| Ok(Bytes::from(format!("block {number}")))).collect();
        assert_eq!(fetch(&a, HELD, first), expected);
    }
    let refused = |blocks: Vec<Result<Bytes, String>>| blocks[0].clone().unwrap_err();
    assert!(refused(fetch(&a, SnapshotId(1), 0)).contains("snapshot 0000000000000001"));
    assert!(refused(fetch(&c, HELD, 0)).contains("another cluster"));
    let place = runtime.block_on(Arc::clone(&b.transport.shared.sends).acquire_owned()).unwrap();
    assert!(refused(fetch(&a, HELD, 0)).contains("try again"));
    drop(place);
    assert_eq!(fetch(&a, HELD, 4).len(), 1);
    [a, b, c].iter().for_each(Node::stop);
}
