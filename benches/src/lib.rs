//! The throughput table, the demo and micro-benchmarks of Flotilla.
