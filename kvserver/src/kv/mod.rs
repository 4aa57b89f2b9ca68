//! The KV data path: commands, the state machine over an engine, and reads.
//!
//! 1. The service checks a request and encodes a log command (`command.rs`).
//! 2. Once committed, the state machine (`state_machine.rs`) checks epoch and range again, gives
//!    every write its revision (`apply.rs`), writes data and applied state of all groups in one
//!    engine batch, and answers (`answer.rs`).
//! 3. A read runs after its barrier (`reader.rs`) and checks epoch and range in its own view.
//! 4. A region goes to other stores, and comes from them, as a snapshot (`snapshot.rs`).
//! 5. Damage that an earlier run found is left out at the next start (`salvage.rs`).
//! 6. Deleted records' room is given back while the disk is short of it (`garbage.rs`).
//!
//! Layouts of keys and records are in `keys.rs` and `record.rs`; `hash.rs` compares replicas.

pub mod answer;
mod apply;
pub mod command;
pub mod engine;
mod garbage;
mod hash;
pub mod keys;
pub mod reader;
pub mod record;
mod region;
mod salvage;
mod snapshot;
mod state_machine;

pub use reader::Reader;
pub use region::{Epoch, RegionMeta};
pub use salvage::salvage;
pub use state_machine::KvStateMachine;
