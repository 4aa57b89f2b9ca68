//! The public gRPC services of a store (`client/proto/kv.proto` and `admin.proto`).
//!
//! 1. A message comes in by `Call` (`kv.rs`) or on a `Stream` (`stream.rs`).
//! 2. `core.rs` checks limits, region and epoch, and says what to submit to the store.
//! 3. The outcome comes back through a completion; reads are done then, in a view of that moment.
//! 4. `refuse.rs` puts errors into the contract's words, with hints from the directory.
//!
//! `admin.rs` takes an operator's orders in the same way.
//!
//! All of it runs on network threads, but long scans, which may block.

mod admin;
mod core;
mod kv;
mod refuse;
pub mod routes;
mod stream;

pub use admin::AdminService;
pub use kv::KvService;

use crate::directory::Directory;
use crate::kv::KvStateMachine;
use flotilla_client::pb::admin_server::AdminServer;
use flotilla_client::pb::kv_server::KvServer;
use flotilla_raftstore::Store;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest message accepted and sent: a batch or a page of 4 MiB and what wraps it. A batch over
/// its own limit still arrives and is told so.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Bounds of one stream; beyond them requests are answered `Busy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests without an answer yet. Default 16384.
    pub requests_max: usize,
    /// Bytes that they hold. Default 64 MiB.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { requests_max: 16 << 10, bytes_max: 64 << 20 }
    }
}

/// The service over a running store.
#[must_use]
pub fn kv_service(
    store: Store,
    machine: Arc<KvStateMachine>,
    directory: Arc<Directory>,
    limits: Limits,
) -> KvServer<KvService> {
    KvServer::new(KvService::new(store, machine, directory, limits))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The operator's service over a running store.
#[must_use]
pub fn admin_service(
    store: Store,
    machine: Arc<KvStateMachine>,
    directory: Arc<Directory>,
) -> AdminServer<AdminService> {
    AdminServer::new(AdminService::new(store, machine, directory))
}

#[cfg(test)]
#[path = "service_test.rs"]
mod tests;
