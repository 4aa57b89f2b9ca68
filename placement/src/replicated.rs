//! The replicated group behind the service: commands in, answers out, as futures.

use crate::machine::{MapMachine, decode_answer, encode_command};
use crate::state::{Answer, ClusterMap, Command};
use flotilla_raftstore::{
    Answer as RaftAnswer, Error, GroupId, OnceCompletion, Outcome, ReadMode, Store,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The service gives up on a command or barrier after this time; the caller asks again.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The member cannot answer now; the text says why. What was asked may still happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this placement member cannot answer now: {0}")]
pub(crate) struct NotNow(String);

/// A handle to the group; cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicated {
    store: Store,
    machine: Arc<MapMachine>,
    group: GroupId,
}

impl Replicated {
    pub(crate) fn new(store: Store, machine: Arc<MapMachine>, group: GroupId) -> Self {
        Replicated { store, machine, group }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Reads the map as applied here. See [`Replicated::barrier`] for "as of now".
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ClusterMap) -> T) -> T {
        self.machine.read(read)
    }

    /// Whether this member leads and the cluster exists.
    pub(crate) fn ready(&self) -> Result<(), NotNow> {
        if !self.leads() {
            return Err(NotNow("it does not lead its group (yet)".to_string()));
        }
        if self.read(|map| map.cluster.is_none()) {
            return Err(NotNow("the cluster is being created".to_string()));
        }
        Ok(())
    }

    /// Whether this member leads and has applied everything of earlier terms.
    pub(crate) fn leads(&self) -> bool {
        self.machine.leads()
    }

    /// Replicates and applies `command`: what it came to is durable.
    pub(crate) async fn execute(&self, command: &Command) -> Result<Answer, NotNow> {
        let bytes = encode_command(command);
        let outcome = self.ask(|store, reply| store.propose(self.group, bytes, reply)).await?;
        match outcome {
            RaftAnswer::Applied(answer) => decode_answer(&answer).map_err(NotNow),
            other => Err(NotNow(format!("unexpected answer {other:?}"))),
        }
    }

    /// What is read after it is as of now, not of an earlier leader.
    pub(crate) async fn barrier(&self) -> Result<(), NotNow> {
        let mode = ReadMode::Linearizable;
        self.ask(|store, reply| store.read_barrier(self.group, mode, reply)).await.map(|_| ())
    }

    async fn ask(
        &self,
        submit: impl FnOnce(&Store, flotilla_raftstore::Reply),
    ) -> Result<RaftAnswer, NotNow> {
        let (sender, receiver) = oneshot::channel::<Outcome>();
        // The receiver may have given up meanwhile: then nobody wants the outcome.
        let reply =
            OnceCompletion::<Box<dyn FnOnce(Outcome) + Send>>::reply(Box::new(move |outcome| {
                _ = sender.send(outcome)
            }));
        submit(&self.store, reply);
        match tokio::time::timeout(TIMEOUT, receiver).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(NotNow(explain(&error))),
            Ok(Err(_)) => Err(NotNow("its group gave no answer".to_string())),
            Err(_) => Err(NotNow(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}

fn explain(error: &Error) -> String {
    match error {
        Error::NotLeader { .. } => "it does not lead its group (yet)".to_string(),
        other => other.to_string(),
    }
}
