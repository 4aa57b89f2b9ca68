//! `kv import rocketmq`: puts the records, many in flight.
//!
//! Nobody else may write these keys meanwhile. Only on that condition may a put whose outcome is
//! unknown be repeated: the record is read first, and put again only if it is not there as it should
//! be; the late twin of such a put would write the same value.

use std::time::{Duration, Instant};

use flotilla_client::{Client, Error};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Entry, counts, files, in_json, in_words, split};
use crate::args::Foreign;
use crate::failure::Failure;
use crate::output::Output;

/// Attempts of one record after the client itself has given up: half a minute without a leader.
const ATTEMPTS_MAX: u32 = 6;

/// Reads the folder before anything is sent: a file that cannot be read changes nothing.
pub fn read(args: &Foreign) -> Result<Vec<Entry>, Failure> {
    if args.cluster.is_empty() {
        return Err(Failure::Usage("--cluster must not be empty".to_owned()));
    }
    let files = files::read(&args.dir)?;
    if files.is_empty() {
        return Err(Failure::Usage(format!("{}: no files", args.dir.display())));
    }
    let place = |reason| Failure::Usage(format!("{}: {reason}", args.dir.display()));
    split::split(&args.cluster, &files).map_err(place)
}

pub async fn import(
    client: &Client,
    args: &Foreign,
    entries: Vec<Entry>,
    out: &mut Output,
) -> Result<(), Failure> {
    let counts = counts(&entries);
    let total = entries.len() as u64;
    let progress = progress_bar(total, "importing", out.json);
    let started = Instant::now();
    let puts = entries.into_iter().map(|entry| put(client, entry));
    let mut puts = stream::iter(puts).buffer_unordered(args.in_flight);
    let mut reread = 0;
    while let Some(result) = puts.next().await {
        match result {
            Ok(unknowns) => reread += unknowns,
            Err(failure) => {
                progress.abandon();
                return Err(failure);
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    if out.json {
        return Ok(out.object(&json!({
            "cluster": args.cluster,
            "records": total,
            "seconds": seconds,
            "unknown_resolved": reread,
            "counts": in_json(&counts),
        }))?);
    }
    let resolved = match reread {
        0 => String::new(),
        count => format!("; {count} unknown outcomes settled by reading"),
    };
    let rate = total as f64 / seconds.max(1e-9);
    Ok(out.line(&format!(
        "imported {total} records of queue cluster {} in {seconds:.1} s ({rate:.0}/s): {}{resolved}",
        args.cluster,
        in_words(&counts)
    ))?)
}

/// Puts one record until it is certain. Returns how often the outcome was unknown.
async fn put(client: &Client, entry: Entry) -> Result<u64, Failure> {
    let mut unknowns = 0;
    let mut attempt = 1;
    loop {
        let error = match client.put(entry.key.clone(), entry.value.clone()).await {
            Ok(_) => return Ok(unknowns),
            Err(error) => error,
        };
        if let Error::Unknown { .. } = error {
            unknowns += 1;
            if read(client, &entry).await? {
                return Ok(unknowns);
            }
        }
        if attempt == ATTEMPTS_MAX || matches!(error, Error::Invalid { .. }) {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            return Err(Failure::During(key, error));
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Whether the record is there as it should be.
    async fn read(client: &Client, entry: &Entry) -> Result<bool, Failure> {
        let mut attempt = 1;
        loop {
            match client.get(entry.key.clone()).await {
                Ok(got) => return Ok(got.value.as_ref() == Some(&entry.value)),
                Err(error) if attempt == ATTEMPTS_MAX => {
                    let key = String::from_utf8_lossy(&entry.key).into_owned();
                    return Err(Failure::During(key, error));
                }
                Err(_) => attempt += 1,
            }
        }
    }
}

/// On standard error, for people at a terminal only.
pub fn progress_bar(total: u64, word: &'static str, json: bool) -> ProgressBar {
    let target = match json {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let template = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(word)
}
