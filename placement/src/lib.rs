//! The placement driver: ids, regions, routes, leader spreading.
//!
//! It is never asked on the data path: stores keep serving, and answer routes themselves, while
//! it is away.
//!
//! ```text
//!  store ── Register ──► service ── Command ──► raftstore group ──► machine ──► ClusterMap
//!        ── Heartbeat ─► service ──► observe (memory) ──► plan (pure) ──► orders in the answer
//!  client ── Routes ───► kv      ──► ClusterMap + observe
//! ```
//!
//! - [`state`] is what must never be lost: cluster id, stores, regions, id counters. It changes
//!   by commands only, which one group of `raftstore` replicates ([`machine`]).
//! - [`observe`] is what heartbeats tell anew each second: who lives, who leads. Memory only.
//! - [`plan`] turns both into orders: functions without clock, lock or I/O.
//! - [`node`] wires a process together; [`client`] is what stores call it with. Stores use [`process`]
//!   and [`http`], too.

pub mod client;
pub mod config;
pub mod convert;
mod describe;
pub mod folder;
pub mod http;
pub mod keys;
mod kv;
pub mod machine;
mod metrics;
pub mod node;
pub mod observe;
pub mod pb;
pub mod plan;
pub mod process;
pub mod regions;
mod replicated;
mod service;
pub mod state;
mod status;
