//! `load` and `dump`: records as JSON lines.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bytes::Bytes;
use flotilla_client::{Client, Written};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::args::Load;
use crate::failure::Failure;
use crate::output::{self, Output};

pub async fn dump(
    client: &Client,
    (start, end): (Bytes, Bytes),
    out: &mut Output,
) -> Result<(), Failure> {
    let mut scanner = client.scanner(start, end);
    while let Some(page) = scanner.page().await? {
        for record in &page.records {
            out.record_object(record)?;
        }
        out.flush()?;
    }
    Ok(())
}

pub async fn load(client: &Client, args: &Load, out: &mut Output) -> Result<(), Failure> {
    let mut loaded = 0u64;
    for path in &args.files {
        let (count, result) = load_file(client, path, args.in_flight).await;
        loaded += count;
        if let Err(failure) = result {
            // People want to know how far it came; programs find it in the error's message.
            if !out.json {
                eprintln!("kv: {loaded} records were loaded before the error");
            }
            return Err(failure);
        }
    }
    if out.json {
        return Ok(out.object(&json!({ "loaded": loaded }))?);
    }
    Ok(out.line(&format!("loaded {loaded} records"))?)
}

/// Puts the file's lines, many in flight; lines of one key one after the other. Returns how many
/// were put, also when a line failed: then the ones in flight are still waited for.
async fn load_file(client: &Client, path: &Path, in_flight: usize) -> (u64, Result<(), Failure>) {
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        match File::open(path) {
            Ok(file) => Box::new(BufReader::new(file)),
            Err(error) => return (0, Err(Failure::file(path, &error))),
        }
    };
    let mut progress = Progress::default();
    for (index, line) in reader.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let parsed = line
            .map_err(|error| error.to_string())
            .and_then(|line| parse(&line))
            .map_err(|reason| Failure::Usage(format!("{}: {reason}", place())));
        let (key, value) = match parsed {
            Ok(Some(pair)) => pair,
            Ok(None) => continue,
            Err(failure) => {
                progress.failed.get_or_insert(failure);
                break;
            }
        };
        while progress.puts.len() >= in_flight || progress.busy.contains(&key) {
            progress.next().await;
        }
        if progress.failed.is_some() {
            break;
        }
        progress.busy.insert(key.clone());
        let place = place();
        progress.puts.push(Box::pin(async move {
            let result = client.put(key.clone(), value).await;
            (key, place, result)
        }));
    }
    while !progress.puts.is_empty() {
        progress.next().await;
    }
    (progress.loaded, progress.failed.map_or(Ok(()), Err))
}

type Put<'a> =
    std::pin::Pin<Box<dyn Future<Output = (Bytes, String, flotilla_client::Result<Written>)> + 'a>>;

#[derive(Default)]
struct Progress<'a> {
    puts: FuturesUnordered<Put<'a>>,
    /// Keys of the puts in flight.
    busy: HashSet<Bytes>,
    loaded: u64,
    failed: Option<Failure>,
}

impl Progress<'_> {
    async fn next(&mut self) {
        let Some((key, place, result)) = self.puts.next().await else { return };
        self.busy.remove(&key);
        match result {
            Ok(_) => self.loaded += 1,
            Err(error) => {
                self.failed.get_or_insert(Failure::During(place, error));
            }
        }
    }
}

/// `None` for an empty line.
fn parse(line: &str) -> Result<Option<(Bytes, Bytes)>, String> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(object) = value else { return Err("not an object".to_owned()) };
    let key = output::extract_bytes(&object, "key")?;
    let value = output::extract_bytes(&object, "value")?;
    Ok(Some((key.into(), value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_text_or_base64() {
        let pair = |key: &'static [u8], value: &'static [u8]| {
            Ok(Some((Bytes::from_static(key), Bytes::from_static(value))))
        };
        assert_eq!(parse(r#"{"key":"a","value":"b","mod_revision":3}"#), pair(b"a", b"b"));
        assert_eq!(parse(r#"{"key_b64":"/w==","value_b64":""}"#), pair(b"\xff", b""));
        assert_eq!(parse("  "), Ok(None));
        for bad in ["x", "[]", r#"{"key":"a"}"#, r#"{"key":1,"value":""}"#, r#"{"key_b64":"?"}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
