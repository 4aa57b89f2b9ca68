//! Planning: from a view of the cluster to orders. Functions without clock, lock or I/O.
//!
//! 1. `observe` builds a view of the moment (who lives, who leads, what is under way).
//! 2. A planner compares it with what it should be and names a few next moves.
//! 3. `observe` remembers each as outstanding until it is seen done or its deadline passes.
//! 4. The store that leads the region gets the order with the answer to its heartbeat.

pub mod leaders;
