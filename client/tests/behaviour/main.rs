//! How the client behaves against servers that do as they are told: routing, batching, outcomes.

mod batching;
mod cli;
mod outcomes;
mod pipeline;
mod recover;
mod routing;
mod server;
