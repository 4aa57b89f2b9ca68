//! The Rust client of Flotilla and the kv command-line tool.

pub mod pb;
