//! The throughput table, the demo and micro-benchmarks of Flotilla.
//!
//! What the programs `throughput` and `demo` share:
//! 1. [`playground`] starts a whole cluster as a child process and stops it again.
//! 2. [`workload`] says what to send, [`keys`] to which keys.
//! 3. [`load`] sends it through the public client library and counts over one steady window.
//! 4. [`machine`] and [`processes`] read what it cost from `/proc`, [`status`] what a server says
//!    of itself, [`leaders`] whether the stores share the work.
//! 5. [`report`] is a finished row; [`suite`] lists the rows of the table, [`table`] runs them,
//!    [`peers`] the same load on another system.
//! 6. [`median`] makes one row of its repetitions, [`document`] a page of all, with [`plots`].
//!
//! [`loaded`] is a cluster under load for `profile` and `budget`, [`marks`] how far the load is,
//! [`perf`] what the cluster spends its time in; [`interrupt`] ends all of them in good order;
//! [`built`] tells which commit they are of, [`program`] is their frame.
//! [`cases`] is what is measured in small. [`regions`] are the keys of single regions, for the programs
//! that treat one unlike the others (`moved`, `restart`, `active`).

pub mod built;
pub mod cases;
pub mod document;
pub mod error;
pub mod interrupt;
pub mod keys;
pub mod leaders;
pub mod load;
pub mod loaded;
pub mod machine;
pub mod marks;
pub mod median;
pub mod peers;
pub mod perf;
pub mod playground;
pub mod plots;
pub mod processes;
pub mod program;
pub mod regions;
pub mod report;
pub mod status;
pub mod suite;
pub mod table;
pub mod workload;

pub use error::Error;
