//! RocketMQ's metadata files as records, and back.
//!
//! 1. `files` reads a config folder into bytes by file name.
//! 2. `split` (pure) turns them into records: one a topic, group, offset, rule …, under the layout
//!    that `keys` documents. `tables` says which file holds what; `json` reads RocketMQ's dialect.
//! 3. `import` puts the records, many in flight. `export` scans them.
//! 4. `join` (pure) turns records back into files: the same names, equal as data.
//!
//! Nothing is lost: whatever does not fit a table (unknown fields, odd rows, other files) stays in
//! the file's own record as it is.

mod export;
mod files;
mod import;
mod join;
mod json;
mod keys;
mod split;
mod tables;

#[cfg(test)]
mod round_trip_test;

use std::collections::BTreeMap;

use bytes::Bytes;
pub use export::export;
pub use import::{import, read};
use tables::Kind;

/// One record of a queue cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    kind: Kind,
    key: Bytes,
    value: Bytes,
}

/// How many records there are of each kind, for summaries. In the order of [`Kind::ALL`].
fn counts<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Kind, u64> {
    let mut counts: BTreeMap<Kind, u64> = Kind::ALL.iter().map(|kind| (*kind, 0)).collect();
    for entry in entries {
        *counts.entry(entry.kind).or_default() += 1;
    }
    counts
}

/// The counts in words: `1226 topics, 328 groups, …`, without the kinds that do not occur.
fn in_words(counts: &BTreeMap<Kind, u64>) -> String {
    let present = counts.iter().filter(|(_, count)| **count > 0);
    let words: Vec<String> = present
        .map(|(kind, count)| format!("{count} {}", kind.label().replace('_', " ")))
        .collect();
    words.join(", ")
}

/// The counts as an object, every kind named.
fn in_json(counts: &BTreeMap<Kind, u64>) -> serde_json::Value {
    counts
        .iter()
        .map(|(kind, count)| (kind.label().to_owned(), serde_json::json!(count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
