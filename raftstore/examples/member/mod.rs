//! What the examples share: one process of a replicated service. It has a store with one group on the
//! peers of a file, and answers lines over TCP.

use bytes::Bytes;
use clap::Parser;
use flotilla_raftstore::log::{self, LogOptions};
use flotilla_raftstore::transport::grpc::{GrpcConfig, GrpcTransport};
use flotilla_raftstore::{
    Answer, ClusterId, Config, Error, GroupDesc, GroupId, GroupRecord, Pending, ReadMode,
    ReplicaId, Reply, Request, SnapshotDir, StateFiles, StateMachine, Store, StoreBuilder, StoreId,
    SystemClock,
};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The only group.
pub const GROUP: GroupId = GroupId(1);
/// An answer that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Args {
    /// File with a line `ID RAFT_IP:PORT SERVICE_IP:PORT` for each process, the same everywhere.
    #[arg(long)]
    peers: PathBuf,
    /// Which of them this is.
    #[arg(long)]
    id: u64,
    /// Data folder, for this process alone.
    #[arg(long)]
    dir: PathBuf,
    /// Create the group's member here: at the very first start, and never after a folder was lost.
    #[arg(long)]
    create: bool,
}

/// Where the processes are: for each other, and for clients.
type Peers = BTreeMap<u64, (SocketAddr, SocketAddr)>;
type Failure = Box<dyn std::error::Error>;

fn read_peers(path: &Path) -> Result<Peers, String> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("--peers {file}: {e}"))?;
    let mut peers = Peers::new();
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, raft, service] = words[..] else {
            return Err(format!("{file}, line {number}: '{line}': write ID RAFT SERVICE"));
        };
        let wrong = |field: &str, value: &str, must: &str| {
            format!("{file}, line {number}: {field} '{value}': must be {must}")
        };
        let address = |field: &str, value: &str| {
            value.parse().map_err(|_| wrong(field, value, "IP:PORT, as 127.0.0.1:7301"))
        };
        let known = id.parse::<u64>().ok().filter(|id| *id > 0);
        let known = known.ok_or_else(|| wrong("id", id, "a whole number from 1"))?;
        let addresses = (address("raft address", raft)?, address("service address", service)?);
        if peers.insert(known, addresses).is_some() {
            return Err(wrong("id", id, "there once"));
        }
    }
    Ok(peers)
}

/// A running process, with the state machine `M`.
pub struct Member<M> {
    pub store: Store,
    pub machine: Arc<StateFiles<M>>,
    peers: Peers,
    service: TcpListener,
    _transport: Arc<GrpcTransport>,
    _runtime: Runtime,
}

impl<M: StateMachine + 'static> Member<M> {
    /// `cluster` is the service's own: stores of another one are refused.
    fn start(args: &Args, cluster: ClusterId, machine: M) -> Result<Arc<Self>, Failure> {
        let peers = read_peers(&args.peers)?;
        let Some((raft, service)) = peers.get(&args.id).copied() else {
            let ids: Vec<&u64> = peers.keys().collect();
            return Err(format!("--id {}: the file of peers has {ids:?}", args.id).into());
        };
        let bind = |a: SocketAddr| TcpListener::bind(a).map_err(|e| format!("listen on {a}: {e}"));
        let (raft, service) = (bind(raft)?, bind(service)?);
        std::fs::create_dir_all(&args.dir).map_err(|e| format!("--dir: {e}"))?;

        let me = StoreId(args.id);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let handle = runtime.handle().clone();
        let transport = GrpcTransport::new(GrpcConfig::default(), cluster, me, handle)?;
        for (id, (raft, _)) in &peers {
            transport.set_address(StoreId(*id), &raft.to_string());
        }
        let machine = StateFiles::open(&args.dir.join("state"), machine)?;
        let store = StoreBuilder {
            config: Config::default(),
            store: me,
            clock: Arc::new(SystemClock),
            transport: transport.clone(),
            log: log::open(&args.dir.join("log"), None, LogOptions::default())?.0,
            snapshots: SnapshotDir::open(&args.dir.join("snapshots"))?,
            state_machine: machine.clone(),
            on_fatal: Arc::new(|fatal| {
                eprintln!("{fatal}");
                std::process::exit(1);
            }),
            seed: rand::random(),
        }
        .start()?;
        transport.set_inbound(Arc::new(store.clone()));
        transport.serve(raft)?;
        let (_transport, _runtime) = (transport, runtime);
        let member = Member { store, machine, peers, service, _transport, _runtime };
        member.check_group(args)?;
        Ok(Arc::new(member))
    }

    /// Creates the group, or finds it as the file of peers has it.
    fn check_group(&self, args: &Args) -> Result<(), Failure> {
        let desc = GroupDesc::of_voters(GROUP, self.peers.keys().map(|id| StoreId(*id)));
        let Some(held) = self.store.group(GROUP) else {
            if !args.create {
                let dir = args.dir.display();
                return Err(format!(
                    "--dir {dir}: no member is there: add --create at the very first start; one that \
                     lost its folder must not come back, it could vote twice"
                )
                .into());
            }
            let record = GroupRecord::new(desc, ReplicaId(args.id));
            let created = ask(|reply| self.store.create_group(record, reply)).wait(PATIENCE);
            return Ok(created.ok_or("the log is too slow")?.map(drop)?);
        };
        if held.record.desc.replicas != desc.replicas {
            let has: Vec<u64> = held.record.desc.replicas.iter().map(|r| r.store.0).collect();
            let file = args.peers.display();
            return Err(format!("--peers {file}: the group was created on {has:?}").into());
        }
        Ok(())
    }

    /// The state machine's answer to `command`, once it is applied; or a line for the client. One that only
    /// `takes_away` is let through when log or disk are full.
    pub fn propose(&self, command: impl Into<Bytes>, takes_away: bool) -> Result<Bytes, String> {
        let (group, command) = (GROUP, command.into());
        let propose = |reply| Request::Propose { group, command, takes_away, reply };
        match self.request(|reply| self.store.submit(vec![propose(reply)]))? {
            Answer::Applied(answer) => Ok(answer),
            other => Err(format!("error {other:?}")),
        }
    }

    /// What is read here after it is not older than any answer before it.
    pub fn read_barrier(&self) -> Result<(), String> {
        self.request(|reply| self.store.read_barrier(GROUP, ReadMode::Linearizable, reply))
            .map(drop)
    }

    /// Any request; a line for the client when it is refused.
    pub fn request(&self, request: impl FnOnce(Reply)) -> Result<Answer, String> {
        let outcome = ask(request).wait(PATIENCE).ok_or("unknown no answer in time")?;
        outcome.map_err(|error| match &error {
            Error::NotLeader { leader: Some(leader), .. } => {
                match self.peers.get(&leader.store.0) {
                    Some((_, service)) => format!("redirect {service}"),
                    None => format!("error {error}"),
                }
            }
            Error::NotLeader { .. } | Error::Busy { .. } => format!("later {error}"),
            error if error.is_unknown() => format!("unknown {error}"),
            error => format!("error {error}"),
        })
    }

    /// Answers each line of each connection by `answer`. Does not return.
    fn serve(self: &Arc<Self>, answer: fn(&Self, &str) -> Result<String, String>) {
        println!("serving");
        for connection in self.service.incoming() {
            let member = Arc::clone(self);
            let talk = move |stream: TcpStream| -> io::Result<()> {
                let mut out = stream.try_clone()?;
                for line in BufReader::new(stream).lines() {
                    let answer = answer(&member, line?.trim()).unwrap_or_else(|refusal| refusal);
                    out.write_all(format!("{answer}\n").as_bytes())?;
                }
                Ok(())
            };
            // A client that is gone, or never came, is no reason to end.
            std::thread::spawn(move || connection.and_then(talk));
        }
    }
}

fn ask(request: impl FnOnce(Reply)) -> Pending {
    let (reply, pending) = Reply::pending();
    request(reply);
    pending
}

/// A whole program: starts by the command line and serves, or says what to change.
pub fn run<M: StateMachine + 'static>(
    cluster: ClusterId,
    machine: M,
    answer: fn(&Member<M>, &str) -> Result<String, String>,
) -> ExitCode {
    match Member::start(&Args::parse(), cluster, machine) {
        Ok(member) => {
            member.serve(answer);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}
