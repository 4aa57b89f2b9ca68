//! The public contract, generated from `proto/kv.proto` and `proto/admin.proto`. Servers use it too.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("flotilla.kv.v1");
