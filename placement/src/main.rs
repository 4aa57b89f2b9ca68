//! The placement driver: ids, regions, routes, leader spreading.
fn main() {}
