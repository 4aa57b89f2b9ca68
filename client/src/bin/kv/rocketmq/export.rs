//! `kv export rocketmq`: scans the queue cluster's records and writes the files back.

use std::time::Instant;

use flotilla_client::Client;
use serde_json::json;

use super::import::progress_bar;
use super::{Entry, counts, files, in_json, in_words, join, keys};
use crate::args::Foreign;
use crate::failure::Failure;
use crate::output::Output;

/// Attempts of one page after the client itself has given up.
const ATTEMPTS_MAX: u32 = 6;

pub async fn export(client: &Client, args: &Foreign, out: &mut Output) -> Result<(), Failure> {
    let started = Instant::now();
    let entries = read(client, &args.cluster, out.json).await?;
    if entries.is_empty() {
        if !out.json {
            eprintln!("kv: there is nothing under {}", keys::prefix(&args.cluster));
        }
        return Err(Failure::NotFound);
    }
    let files = join::join(&args.cluster, &entries).map_err(Failure::Usage)?;
    files::write(&args.dir, &files)?;
    let counts = counts(&entries);
    let (seconds, records) = (started.elapsed().as_secs_f64(), entries.len());
    if out.json {
        return Ok(out.object(&json!({
            "cluster": args.cluster,
            "records": records,
            "files": files.keys().collect::<Vec<_>>(),
            "seconds": seconds,
            "counts": in_json(&counts),
        }))?);
    }
    Ok(out.line(&format!(
        "exported {records} records of queue cluster {} into {} files in {seconds:.1} s: {}",
        args.cluster,
        files.len(),
        in_words(&counts)
    ))?)
}

/// Every record of the queue cluster, in key order.
async fn read(client: &Client, cluster: &str, json: bool) -> Result<Vec<Entry>, Failure> {
    let prefix = keys::prefix(cluster);
    let progress = progress_bar(0, "exporting", json);
    progress.unset_length();
    let mut scanner = client.scanner(prefix.clone(), keys::prefix_end(&prefix));
    let mut entries = Vec::new();
    let mut attempt = 1;
    loop {
        let page = match scanner.page().await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(_) if attempt < ATTEMPTS_MAX => {
                attempt += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        attempt = 1;
        progress.inc(page.records.len() as u64);
        for record in page.records {
            let (kind, _) = keys::decode(&prefix, &record.key).ok_or_else(|| {
                let key = crate::escape::escape(&record.key);
                Failure::Usage(format!("{key} is not a key of this layout; delete or move it"))
            })?;
            entries.push(Entry { kind, key: record.key, value: record.value });
        }
    }
    progress.finish_and_clear();
    Ok(entries)
}
