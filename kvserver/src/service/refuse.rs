//! Why a request is refused, in the words of the public contract.

use super::core::Core;
use super::routes::region_to_pb;
use crate::kv::answer::Refusal;
use crate::kv::reader::ReadError;
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_raftstore::{Error, ReplicaDesc, TransferRefusal};

/// A response that carries nothing but the error.
pub fn refused(id: u64, error: pb::Error) -> pb::Response {
    pb::Response { id, error: Some(error), ..pb::Response::default() }
}

/// An error without hints.
pub fn error(kind: Kind, message: impl Into<String>) -> pb::Error {
    pb::Error { kind: kind.into(), message: message.into(), ..pb::Error::default() }
}

impl Core {
    /// What `raftstore` answered, with the hints that this store can give.
    pub(super) fn raft_error(&self, region: u64, cause: &Error) -> pb::Error {
        let message = cause.to_string();
        match cause {
            Error::NotLeader { leader, .. } => pb::Error {
                leader: leader.map(|leader| self.leader_hint(leader)),
                ..error(Kind::NotLeader, message)
            },
            // Another replica of the region may well serve.
            Error::Quarantined { .. } | Error::Stopped { .. } => error(Kind::NotLeader, message),
            Error::Busy { .. } => error(Kind::Busy, message),
            Error::DiskFull { .. } => error(Kind::DiskFull, message),
            Error::Unknown { .. } | Error::Failed { .. } => error(Kind::Unknown, message),
            Error::TooOld { .. } => error(Kind::TooOld, message),
            Error::NoGroup { .. } => self.no_region(region),
            Error::Invalid { .. } => error(Kind::Invalid, message),
            // Who asks because an answer was lost is told by the hint that it is done.
            Error::NotTransferred { refusal: TransferRefusal::Leads { .. }, group } => {
                let leader = self.store.group(*group).and_then(|view| view.leader);
                pb::Error {
                    leader: leader.map(|leader| self.leader_hint(leader)),
                    ..error(Kind::Refused, message)
                }
            }
            Error::Refused { .. } | Error::NotTransferred { .. } => error(Kind::Refused, message),
            Error::Closed => error(Kind::Closed, message),
        }
    }

    /// The same for a refusal by the state machine.
    pub(super) fn refusal(&self, region: u64, cause: Refusal) -> pb::Error {
        match cause {
            Refusal::EpochNotMatch => self.epoch_not_match(region),
            Refusal::OutOfRange(number) => {
                let message = format!("key {number} of the request is not in region {region}");
                error(Kind::Invalid, message)
            }
            Refusal::Malformed(at) => {
                error(Kind::Invalid, format!("the command is malformed at byte {at}"))
            }
        }
    }

    /// The same for a read. A store whose engine fails cannot serve: others can. A region whose data is
    /// damaged here has its replica quarantined.
    pub(super) fn read_error(&self, region: u64, cause: ReadError) -> pb::Error {
        match cause {
            ReadError::NoRegion => self.no_region(region),
            ReadError::Refused(refusal) => self.refusal(region, refusal),
            ReadError::Fatal(fatal) if fatal.damage => {
                let damage = format!("{}: {}", fatal.what, fatal.reason);
                if let Some(meta) = self.machine.region(region) {
                    self.store.report_damage(meta.group, &damage);
                }
                let message = format!("region {region} is damaged on this store: {damage}");
                error(Kind::NotLeader, message)
            }
            ReadError::Fatal(fatal) => {
                tracing::error!(region, %fatal, "a read failed");
                error(Kind::Closed, fatal.to_string())
            }
        }
    }

    /// The region is there with another epoch: tell which.
    pub(super) fn epoch_not_match(&self, region: u64) -> pb::Error {
        let Some(meta) = self.machine.region(region) else {
            return self.no_region(region);
        };
        let leader = self.directory.leader(&meta, &self.store);
        pb::Error {
            regions: vec![region_to_pb(&meta, leader)],
            ..error(Kind::EpochNotMatch, format!("region {region} has epoch {}", meta.epoch))
        }
    }

    /// The client's route is wrong and this store knows no better one.
    pub(super) fn no_region(&self, region: u64) -> pb::Error {
        let store = self.directory.store();
        error(Kind::EpochNotMatch, format!("region {region} is not on store {store}"))
    }

    fn leader_hint(&self, leader: ReplicaDesc) -> pb::Leader {
        pb::Leader {
            replica: leader.replica.0,
            store: leader.store.0,
            address: self.directory.address(leader.store).unwrap_or_default(),
        }
    }
}
