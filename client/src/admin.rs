//! An operator's side of the cluster: the replicas of a group from all stores, and orders to the
//! store that leads it.
//!
//! An order finds its way as an operation on a key does: the routes name the leader's store, a store
//! that does not lead says who does, and what is busy is asked again, until the deadline of the
//! client. A change of the members is sent again even when its answer was lost: its id says that it
//! is the same one.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::Client;
use crate::connection::{MESSAGE_BYTES_MAX, channel};
use crate::pb::admin_client::AdminClient;
use crate::pb::error::Kind;
use crate::pb::stores_client::StoresClient;
use crate::{Error, Refusal, Result, pb};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Ids of other groups that are further away are not counted from: a group refuses ids far above its own, so
/// that one that is mistyped does not take all that are left.
const IDS_AHEAD_MAX: u64 = 1 << 31;

/// The largest replica id that new ones of a group have to be above: `own` is the largest of the group, `ids`
/// are those of the cluster.
#[must_use]
pub fn largest_known(own: u64, ids: impl IntoIterator<Item = u64>) -> u64 {
    let near = |id: &u64| *id <= own.saturating_add(IDS_AHEAD_MAX);
    ids.into_iter().filter(near).fold(own, u64::max)
}

/// What a store says of a group.
#[derive(Clone, Debug)]
pub struct Described {
    /// The store.
    pub store: u64,
    /// Its replicas of the group, or why it does not tell.
    pub replicas: std::result::Result<Vec<pb::ReplicaState>, String>,
}

/// A snapshot that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMade {
    /// The store that made it.
    pub store: u64,
    /// The last entry that is in it.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
}

/// How one attempt ended.
enum Attempt {
    Answered(Option<pb::Error>),
    /// Not sent.
    Unsent(String),
    /// Sent, and no answer.
    Lost(String),
}

/// Orders to groups. Its calls keep the client's deadline.
pub struct Admin<'a> {
    client: &'a Client,
}

/// Who is to carry an order out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Whom {
    /// The store that leads the group. Once the order may have been begun, it is done when this replica
    /// leads; 0 = none.
    Leader(u64),
    /// This store.
    Store(u64),
}

/// An order that is not given up when its answer is lost: it may be sent twice.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lost {
    Repeat,
    Unknown,
}

impl Client {
    /// An operator's side of the cluster.
    pub fn admin(&self) -> Admin<'_> {
        Admin { client: self }
    }
}

impl Admin<'_> {
    /// What every store says of `group`: its replica there, nothing, or why it does not answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody tells which stores there are.
    pub async fn describe(&self, group: u64) -> Result<Vec<Described>> {
        let deadline = Instant::now() + self.client.timeout();
        let mut stores = self.client.routes().await?.stores;
        stores.sort_by_key(|store| store.store);
        let ask = stores.into_iter().map(|store| async move {
            let request = self.client.request(pb::DescribeRequest { group });
            let asked = timeout_at(deadline, describe_at(&store.address, request)).await;
            let replicas = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            Described { store: store.store, replicas }
        });
        Ok(futures::future::join_all(ask).await)
    }

    pub(crate) async fn routes(&self) -> Result<pb::RoutesResponse> {
        self.client.routes().await
    }

    /// Those that the caller of [`Client::connect`] gave.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.client.addresses()
    }

    /// A message for one call, which names the cluster.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.client.request(message)
    }

    /// What placement at `address` says of giving `stores` up; `Err`: it is not there, or not placement.
    pub(crate) async fn give_up_at(
        &self,
        address: &str,
        stores: &[u64],
        force: bool,
    ) -> std::result::Result<Option<pb::Error>, String> {
        let deadline = Instant::now() + self.client.timeout();
        let request = self.request(pb::GiveUpRequest { stores: stores.to_vec(), force });
        let ask = async {
            let answer = StoresClient::new(channel(address).await?).give_up(request).await;
            answer.map(|answer| answer.into_inner().error).map_err(|status| match status.code() {
                Code::Unimplemented => "this is a store, not placement".to_owned(),
                _ => status.message().to_owned(),
            })
        };
        timeout_at(deadline, ask).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Changes the members of `request.group`. The same operation again is not done twice.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with [`Refusal::Refused`] when it cannot be; the others as for a write.
    pub async fn change_members(&self, request: pb::ChangeMembersRequest) -> Result<()> {
        let group = request.group;
        let send = async |mut admin: AdminClient<Channel>| {
            let request = self.client.request(request.clone());
            admin.change_members(request).await.map(|answer| answer.into_inner().error)
        };
        self.order(group, Whom::Leader(0), Lost::Repeat, send).await
    }

    /// Has a snapshot of `group` made: of its leader's state, or of the state that `store` has.
    ///
    /// # Errors
    /// As [`Admin::change_members`].
    pub async fn snapshot(&self, group: u64, store: Option<u64>) -> Result<SnapshotMade> {
        let made = std::sync::Mutex::new(pb::SnapshotResponse::default());
        let store = store.unwrap_or_default();
        let send = async |mut admin: AdminClient<Channel>| {
            let request = self.client.request(pb::SnapshotRequest { group, store });
            admin.snapshot(request).await.map(|answer| {
                let mut answer = answer.into_inner();
                let error = answer.error.take();
                *made.lock().expect("nobody panics with it") = answer;
                error
            })
        };
        let whom = if store == 0 { Whom::Leader(0) } else { Whom::Store(store) };
        self.order(group, whom, Lost::Unknown, send).await?;
        let pb::SnapshotResponse { store, index, bytes, .. } =
            made.into_inner().expect("nobody panics with it");
        Ok(SnapshotMade { store, index, bytes })
    }

    /// Hands the leadership of `group` to the replica `to`; done when that one leads.
    ///
    /// # Errors
    /// As [`Admin::change_members`].
    pub async fn transfer_leader(&self, group: u64, to: u64) -> Result<()> {
        let send = async |mut admin: AdminClient<Channel>| {
            let request = self.client.request(pb::TransferLeaderRequest { group, to });
            admin.transfer_leader(request).await.map(|answer| answer.into_inner().error)
        };
        self.order(group, Whom::Leader(to), Lost::Unknown, send).await
    }

    /// Sends an order about `group` to whom it is for, wherever that is.
    pub(crate) async fn order(
        &self,
        group: u64,
        whom: Whom,
        lost: Lost,
        send: impl AsyncFn(
            AdminClient<Channel>,
        ) -> std::result::Result<Option<pb::Error>, tonic::Status>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.client.timeout();
        let mut last = Error::unavailable("no store was asked");
        let mut hint: Option<String> = None;
        // An attempt may have been carried out, though its answer does not say so.
        let mut begun = false;
        for turn in 0.. {
            let address = match hint.take() {
                Some(address) => address,
                None => {
                    let found = self.address_of(group, whom, turn, deadline).await;
                    found.map_err(|error| after(begun, error))?
                }
            };
            match attempt(&address, deadline, &send).await {
                Attempt::Answered(None) => return Ok(()),
                Attempt::Answered(Some(error)) => {
                    let leader = error.leader.clone().unwrap_or_default();
                    if begun && leader.replica != 0 && whom == Whom::Leader(leader.replica) {
                        return Ok(());
                    }
                    begun |= error.kind() == Kind::Unknown;
                    last = refusal(&address, &error).map_err(|error| after(begun, error))?;
                    let led = matches!(whom, Whom::Leader(_)) && !leader.address.is_empty();
                    hint = led.then_some(leader.address);
                }
                // What time alone has cut off says less than what came before.
                Attempt::Unsent(_) if turn > 0 && Instant::now() >= deadline => break,
                Attempt::Unsent(why) => last = Error::unavailable(why),
                Attempt::Lost(why) => {
                    begun = true;
                    last = Error::unknown(why);
                    if lost == Lost::Unknown {
                        return Err(last);
                    }
                }
            }
            // An order that is sent in the last moment ends as one of which nobody knows what became.
            if Instant::now() + 2 * PAUSE >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(after(begun, last))
    }

    /// Whom to ask: the store that is said to lead, then the others in turn.
    async fn address_of(
        &self,
        group: u64,
        whom: Whom,
        turn: usize,
        deadline: Instant,
    ) -> Result<String> {
        let routes = self.client.routes_by(deadline).await?;
        let address = |store: u64| {
            routes.stores.iter().find(|known| known.store == store).map(|s| s.address.clone())
        };
        if let Whom::Store(store) = whom {
            return address(store).ok_or_else(|| {
                let message = format!("store {store} is unknown: `kv stores` lists the stores");
                Error::NotApplied { kind: Refusal::Refused, message }
            });
        }
        let Some(region) = routes.regions.iter().find(|region| region.group == group) else {
            let message = format!("group {group} is unknown: `kv regions` lists the groups");
            return Err(Error::NotApplied { kind: Refusal::Refused, message });
        };
        let mut stores: Vec<u64> = region.replicas.iter().map(|r| r.store).collect();
        stores.sort_by_key(|store| *store != region.leader_store);
        let led = stores.contains(&region.leader_store);
        if !led && region.leader_store != 0 {
            stores.insert(0, region.leader_store);
        }
        let store = stores.get(turn % stores.len().max(1)).copied().unwrap_or_default();
        let unknown = || Error::unavailable(format!("nobody knows the address of store {store}"));
        address(store).ok_or_else(unknown)
    }
}

async fn attempt(
    address: &str,
    deadline: Instant,
    send: &impl AsyncFn(AdminClient<Channel>) -> std::result::Result<Option<pb::Error>, tonic::Status>,
) -> Attempt {
    let channel = match timeout_at(deadline, channel(address)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(why)) => return Attempt::Unsent(why),
        Err(_) => return Attempt::Unsent(format!("cannot connect to {address} in time")),
    };
    match timeout_at(deadline, send(AdminClient::new(channel))).await {
        Ok(Ok(error)) => Attempt::Answered(error),
        Ok(Err(status)) => Attempt::Lost(format!("{address}: {}", status.message())),
        Err(_) => Attempt::Lost(format!("{address}: no answer")),
    }
}

/// What an order that failed with `error` has come to, when an earlier attempt may have been carried out.
fn after(begun: bool, error: Error) -> Error {
    match error {
        Error::Unknown { .. } => error,
        error if !begun => error,
        error => Error::unknown(format!(
            "an earlier attempt may have been carried out; since then: {}",
            error.message()
        )),
    }
}

/// What an answer means: `Err` ends the order, `Ok` is the reason if time is over.
fn refusal(address: &str, error: &pb::Error) -> Result<Error> {
    let message = format!("{address}: {}", error.message);
    match Refusal::from_pb(error.kind()) {
        Some(Refusal::Refused) => {
            let message = error.message.clone();
            Err(Error::NotApplied { kind: Refusal::Refused, message })
        }
        Some(kind) => Ok(Error::NotApplied { kind, message }),
        None if error.kind() == Kind::Invalid => Err(Error::invalid(error.message.clone())),
        None => Ok(Error::unknown(message)),
    }
}

async fn describe_at(
    address: &str,
    request: tonic::Request<pb::DescribeRequest>,
) -> std::result::Result<Vec<pb::ReplicaState>, String> {
    // All replicas of a store: tens of thousands come to several MiB.
    let admin = AdminClient::new(channel(address).await?);
    let answer = admin.max_decoding_message_size(MESSAGE_BYTES_MAX).describe(request).await;
    answer.map(|answer| answer.into_inner().replicas).map_err(|status| status.message().to_owned())
}
