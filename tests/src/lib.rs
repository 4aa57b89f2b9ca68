//! The simulator, invariants, history checkers and end-to-end tests of Flotilla.

pub mod cluster;
pub mod faulty_disk;
pub mod history;
pub mod invariants;
pub mod load;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod playground;
pub mod power;
pub mod process;
pub mod sim;
