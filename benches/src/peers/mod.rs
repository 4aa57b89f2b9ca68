//! The same load on another system, in the same run on the same machine.
//!
//! What can be compared without that system is here; `etcd.rs`, behind the feature `peers`, drives it.

#[cfg(feature = "peers")]
pub mod etcd;
#[cfg(feature = "peers")]
pub mod run;

use crate::document;
use crate::median::Repeated;
use crate::report::{Row, mix, ms, thousands};
use std::fmt::Write as _;

/// How the names of all rows of this kind begin, ours too.
pub const PREFIX: &str = "peer-";

/// Keys of these rows: few enough that all exist after the puts, in every system.
pub const KEYS: u64 = 10_000;

/// Whether the row belongs to the comparison.
#[must_use]
pub fn is_peers_row(row: &Row) -> bool {
    row.name.starts_with(PREFIX)
}

/// The section of the report; empty without rows of a peer.
#[must_use]
pub fn compare(rows: &[Repeated]) -> String {
    let repeated: Vec<&Repeated> = rows.iter().filter(|r| is_peers_row(&r.row)).collect();
    let rows: Vec<&Row> = repeated.iter().map(|repeated| &repeated.row).collect();
    let Some(system) = rows.iter().find_map(|row| row.system.as_deref()) else {
        return String::new();
    };
    let mut text = format!(
        "\n## Beside {system}\n\n\
         Three nodes of each on this machine, one system after the other, the same generator, the\n\
         same calls in flight, {} keys of 16 bytes, all of which exist when they are read. {}\n\n\
         | work | in flight | system | rpc | ops/s | p50 / p99, ms | servers' CPU an operation | {system}'s ops/s | ratio |\n\
         |---|--:|---|---|--:|--:|--:|--:|--:|\n",
        thousands(KEYS),
        document::passes(&repeated)
    );
    for row in &rows {
        let theirs = rows.iter().find(|other| other.name == row.name && other.system.is_some());
        text += &line(row, theirs.copied());
    }
    let _ = write!(
        text,
        "\nWhat is not equal: {system} is one Raft group with one leader and keeps every revision of\n\
         every key, in one ordered space with watches; Flotilla has 24 groups spread over its stores\n\
         and keeps the last value. The other system's calls carry one operation each; its nearest to a\n\
         batch is a transaction of 100 puts, which is atomic and has no key twice, while a batch of ours is atomic\n\
         within a region only. It is driven through the Rust crate `etcd-client`, which has connections\n\
         to all three nodes and goes round: two calls of three reach a follower, which passes them on to\n\
         the leader (puts) or asks it for its commit index (gets), while ours go to the leader at once.\n\
         Its settings are the defaults but for a quota of 8 GiB, so that it takes all revisions of a run;\n\
         its nodes log errors only, and of its rows errors are checked, not whether its one leader stayed\n\
         the same. In each pass Flotilla runs first, then the other, on folders of\n\
         their own; each system's rows in the order of the table, puts before gets. This is the version\n\
         that the system's packages hold; newer releases read 2 to 8 times faster.\n"
    );
    text
}

fn line(row: &Row, theirs: Option<&Row>) -> String {
    let valid = |row: &&Row| row.invalid.is_none();
    let ratio = theirs.filter(|_| row.system.is_none() && row.invalid.is_none()).filter(valid).map(
        |theirs| {
            let ratio = format!("{:.1}", row.ops_per_s / theirs.ops_per_s);
            (thousands(theirs.ops_per_s as u64), ratio)
        },
    );
    let (theirs, ratio) = ratio.unwrap_or_else(|| ("–".to_owned(), "–".to_owned()));
    let batch = if row.sent.batching { ", up to 100 a message" } else { "" };
    let rate = match &row.invalid {
        None => thousands(row.ops_per_s as u64),
        Some(reason) => format!("invalid: {reason}"),
    };
    let cpu = if row.invalid.is_none() && row.ops_per_core_s > 0.0 {
        format!("{:.1} µs", 1e6 / row.ops_per_core_s)
    } else {
        "–".to_owned()
    };
    let cells = [
        format!("{}{batch}", mix(row.sent.write_percent)),
        thousands(row.sent.in_flight as u64),
        row.system.as_deref().unwrap_or("Flotilla").to_owned(),
        row.sent.rpc.clone(),
        rate,
        if row.invalid.is_none() {
            format!("{} / {}", ms(row.latency.p50_us), ms(row.latency.p99_us))
        } else {
            "–".to_owned()
        },
        cpu,
        theirs,
        ratio,
    ];
    format!("| {} |\n", cells.join(" | "))
}
