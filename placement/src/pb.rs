//! The contract with stores, generated from `proto/placement.proto`. Stores use it too.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("flotilla.placement.v1");
