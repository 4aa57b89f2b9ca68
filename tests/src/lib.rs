//! The simulator, invariants, history checkers and end-to-end tests of Flotilla.

pub mod history;
pub mod invariants;
pub mod sim;
