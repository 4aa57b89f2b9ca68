//! What a store tells of itself, and what it does by itself, while something holds it up.
#![allow(clippy::disallowed_methods)] // A test may wait.

#[path = "../common/mod.rs"]
mod common;
mod harness;
mod metrics;
mod slow_disk;
