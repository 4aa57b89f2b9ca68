//! The KV data path: commands, the state machine over an engine, and reads.
//!
//! 1. The service checks a request and encodes a log command (`command.rs`).
//! 2. Once committed, the state machine (`state_machine.rs`) checks epoch and range again, gives
//!    every write its revision and writes data and applied state in one engine batch.
//! 3. A read runs after its barrier (`reader.rs`) and checks epoch and range in its own view.
//!
//! Layouts of keys and records are in `keys.rs` and `record.rs`.

pub mod engine;
