//! The Rust client of Flotilla, a key-value store of many Raft groups.
//!
//! ```no_run
//! # async fn example() -> Result<(), flotilla_client::Error> {
//! use flotilla_client::{Client, Error};
//!
//! let client = Client::connect(&["127.0.0.1:7100"]).await?;
//! let written = client.put("greeting", "hello").await?;
//! println!("region {} at revision {}", written.region, written.revision);
//! assert_eq!(client.get("greeting").await?.value.as_deref(), Some(&b"hello"[..]));
//! match client.put("greeting", "goodbye").await {
//!     Err(Error::Unknown { message }) => println!("read before writing again: {message}"),
//!     other => println!("certain: {other:?}"),
//! }
//! # Ok(()) }
//! ```
//!
//! # What a caller may rely on
//!
//! - Every call has **one deadline** (5 s unless [`ClientBuilder::timeout`] or
//!   [`Client::with_timeout`] say otherwise) that covers routing, all attempts and the answer.
//! - A call ends in one of three ways: **ok**; **not applied** ([`Error::NotApplied`],
//!   [`Error::Invalid`], [`Error::Unavailable`]); **unknown** ([`Error::Unknown`]).
//! - A write whose outcome is unknown is **never sent again** by this crate. A write that a server
//!   refused, or that never left the process, is retried until the deadline. Reads are retried
//!   whatever happens.
//! - Reads are linearizable, unless [`Client::with_consistency`] says otherwise. A
//!   [scan](Client::scan) is so page by page, each page lying in one region; it is *not* one moment
//!   across pages.
//!
//! # How a call travels
//!
//! 1. [`Client`] checks limits and hands the operation to `retry`, which owns the deadline.
//! 2. `route` finds key → region → leading store → lane in a cached table.
//! 3. `stream` (a lane: one task, one connection and one gRPC stream a store) takes everything that
//!    is queued, `batch` packs it into frames, one request a region, and matches the answers.
//! 4. `retry` reads the outcome: follows hints at once, backs off with jitter otherwise.
//!
//! A caller with thousands of operations in flight uses a [`Pipeline`]: the same way, results many at
//! a time.
//!
//! All tasks run on the tokio runtime that [`ClientBuilder::connect`] was called on. Dropping the
//! last clone of a [`Client`] ends them.

#![deny(missing_docs)]

pub mod admin;
mod batch;
#[doc(hidden)]
pub mod bench;
mod builder;
mod client;
mod connection;
mod consistency;
mod error;
mod operation;
pub mod pb;
mod pipeline;
mod queue;
pub mod recover;
mod retry;
mod route;
mod scan;
mod stream;
mod table;
mod unary;

pub use builder::{ClientBuilder, Rpc};
pub use client::{Client, Got, Written};
pub use consistency::Consistency;
pub use error::{Error, Refusal, Result};
pub use operation::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use pipeline::{Done, Ended, Pipeline};
pub use scan::{Page, Record, Scanner};
