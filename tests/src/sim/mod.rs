//! The deterministic simulator: the product's own core on simulated disks, network and time.
//!
//! 1. `swarm.rs` draws a plan from the seed: cluster, limits, faults and their rates.
//! 2. `world.rs` holds the one event heap; `node.rs` a store with its disks and its process.
//! 3. `effects.rs` runs one piece of work (a shard's round, a log write, an apply batch, a sync)
//!    and carries its effects on: what the product's threads do; `destroy.rs` is the one that destroys states.
//! 4. `net.rs`, `disk.rs`, `engine.rs`, `clock.rs` are the simulated seams; `table.rs` puts the
//!    product's table over the simulated engine; `watched.rs` records
//!    what the real KV state machine is given. `snapshots.rs` is the disk of snapshots and their
//!    way from store to store.
//! 5. `faults.rs` breaks things, `storage.rs` fills and wipes disks, `room.rs` nearly fills them, `damage.rs`
//!    damages single states, `lost.rs` takes majorities away for good and has the rest go on;
//!    `changes.rs` changes the members;
//!    `clients.rs` and `requests.rs` are the workload.
//!    `scenarios/` are courses of events that have a name.
//! 6. `run.rs` takes one seed from start to verdict; `sweep.rs` many, `counts.rs` sums up, `ledger.rs`
//!    keeps the sums of many runs.
//!
//! A log write, an apply batch and an engine sync have two points: handed over, and done. Between
//! the two a crash may or may not keep them.

mod calm;
mod changes;
pub mod clients;
pub mod clock;
pub mod codec;
pub mod counts;
mod damage;
mod destroy;
pub mod disk;
mod effects;
pub mod engine;
mod faults;
pub mod ledger;
mod lost;
pub mod net;
pub mod node;
mod requests;
mod room;
pub mod run;
pub mod scenarios;
pub mod snapshots;
mod storage;
pub mod swarm;
pub mod sweep;
pub mod table;
pub mod trace;
pub mod watched;
pub mod world;
