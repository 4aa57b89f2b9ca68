//! A finished row of the table, out of the stores' tallies; its `rpc` is `none`.

use crate::cluster::Measured;
use crate::drive::VALUE_BYTES;
use crate::protocol::Work;
use flotilla_benches::keys::SPREAD_KEY_BYTES;
use flotilla_benches::leaders::{self, Leaders};
use flotilla_benches::load;
use flotilla_benches::processes::{OURS, why_incomplete};
use flotilla_benches::report::{Row, Sent, Setup};
use flotilla_kvserver::config::{KvSettings, LogSettings, Storage};
use flotilla_raftstore::Config;
use flotilla_raftstore::log::LogEngine;
use hdrhistogram::Histogram;

/// Adds up what the stores counted.
pub fn row(name: &str, work: Work, in_flight: usize, storage: Storage, measured: Measured) -> Row {
    let sent = Sent {
        clients: measured.tallies.len(),
        batching: false,
        rpc: "none".to_owned(),
        write_percent: if work == Work::Puts { 100 } else { 0 },
        consistency: None,
        key_bytes: SPREAD_KEY_BYTES,
        value_bytes: VALUE_BYTES,
        keys: format!("spread:{}", measured.keys),
        in_flight,
        seconds: measured.window.as_secs_f64(),
        offered_rate: None,
        offered_percent: None,
    };
    // The stores run with the defaults.
    let setup = Setup {
        storage: Some(storage.to_string()),
        pipeline: Some(Config::default().pipeline),
        sync: Some(LogSettings::default().sync),
        regions: measured.regions,
        log_engine: Some(LogEngine::default().name().to_owned()),
        kv_table_mib: Some((KvSettings::default().table_bytes_max >> 20) as u64),
        file_system: measured.file_system.clone(),
    };
    let invalid = why_moved(&measured).or_else(|| why_incomplete(&measured.processes, &OURS));
    Row::new(name, sent, setup, add_up(measured), invalid)
}

fn add_up(measured: Measured) -> load::Measured {
    let mut latency_us = Histogram::<u64>::new(3).expect("three digits are legal");
    for (value, count) in measured.tallies.iter().flat_map(|tally| &tally.latency_us) {
        latency_us.record_n(*value, *count).expect("an unbounded histogram takes every value");
    }
    let said =
        measured.tallies.iter().filter_map(|tally| Some((tally.error.clone()?, tally.errors)));
    load::Measured {
        ops: latency_us.len(),
        errors: measured.tallies.iter().map(|tally| tally.errors).sum(),
        // All of a store's errors count under the text of its first one.
        error_texts: said.collect(),
        latency_us,
        took: measured.window,
        processes: measured.processes,
        shares: measured.shares,
        load_average: measured.load_average,
    }
}

fn why_moved(measured: &Measured) -> Option<String> {
    let leaders = |at: usize| -> Leaders {
        measured.tallies.iter().map(|tally| tally.led[at].iter().copied().collect()).collect()
    };
    leaders::why_invalid(Some(&leaders(0)), Some(&leaders(1)), measured.regions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Tally;
    use flotilla_benches::machine::Shares;
    use flotilla_benches::processes::Usage;
    use std::time::Duration;

    /// Of five groups, in the end the last of `last`.
    fn measured(last: u64, errors: u64) -> Measured {
        let tally = |before: &[u64], after: &[u64]| Tally {
            ops: 1_000,
            errors,
            error: Some("busy".to_owned()),
            latency_us: vec![(100, 990), (5_000, 10)],
            led: [before.to_vec(), after.to_vec()],
        };
        let usage = |name: &&str| Usage { name: (*name).to_owned(), cpu_s: 1.0, rss_mib: 1 };
        Measured {
            tallies: vec![tally(&[1, 2], &[1, 2]), tally(&[3, 4], &[3, 4]), tally(&[5], &[last])],
            window: Duration::from_secs(2),
            processes: OURS.iter().map(usage).collect(),
            shares: Shares { busy_percent: 1.0, steal_percent: 0.0 },
            load_average: 1.0,
            regions: 5,
            keys: 10,
            file_system: None,
        }
    }

    #[test]
    fn tallies_add_up() {
        let row = row("r", Work::Puts, 4_000, Storage::Memory, measured(5, 0));
        assert_eq!((row.ops, row.errors, row.ops_per_s), (3_000, 0, 1_500.0));
        assert_eq!((row.latency.p50_us, row.latency.p99_us), (100, 100));
        assert!((5_000..5_010).contains(&row.latency.max_us));
        assert_eq!(row.invalid, None);
        assert_eq!((row.sent.rpc.as_str(), row.sent.keys.as_str()), ("none", "spread:10"));
        assert_eq!(row.storage(), "memory");
    }

    #[test]
    fn rows_with_errors_or_moved_leaders_do_not_count() {
        let invalid = |last, errors| {
            row("r", Work::Barriers, 512, Storage::Memory, measured(last, errors)).invalid
        };
        assert!(invalid(5, 1).is_none());
        assert!(invalid(5, 4).unwrap().contains("busy"));
        assert!(invalid(6, 0).unwrap().contains("1 of 5 groups changed"));
        let mut lost = measured(5, 0);
        lost.processes.pop();
        let reason = row("r", Work::Puts, 512, Storage::Memory, lost).invalid.unwrap();
        assert!(reason.contains("store-3"), "{reason}");
    }
}
