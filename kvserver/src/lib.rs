//! The Flotilla store: KV commands over many Raft groups, gRPC services, the server binary.
//!
//! ```text
//! main.rs ─► config.rs ─► folder.rs ─► node.rs ─┬─ kv/, service/, directory.rs   the data path
//!    │                                          ├─ placement_agent.rs            heartbeats, orders
//!    └────► playground/ (a cluster of children) └─ http.rs: status.rs, metrics.rs
//! ```

pub mod config;
pub mod describe;
pub mod directory;
pub mod disk;
pub mod folder;
pub mod http;
pub mod kv;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod placement_agent;
pub mod playground;
pub mod service;
pub mod status;

pub use flotilla_placement::process;
use process::Program;

/// What this crate's processes say last is of.
pub const PROGRAM: Program = Program { name: "kvserver", role: "the store" };
