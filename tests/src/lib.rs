//! The simulator, invariants, history checkers and end-to-end tests of Flotilla.
