//! `load` and `dump`: records as JSON lines.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use flotilla_client::{Client, Written};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::mpsc;

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
    let mut lines = match read_lines(path) {
        Ok(lines) => lines,
        Err(error) => return (0, Err(Failure::file(path, &error))),
    };
    let mut loading = Loading::default();
    let mut number = 0u64;
    let mut over = false;
    // Read, but its key is in flight.
    let mut held: Option<(Bytes, Bytes, String)> = None;
    loop {
        if loading.failed.is_some() {
            over = true;
            held = None;
        }
        let room = loading.puts.len() < in_flight;
        if let Some((key, value, place)) =
            held.take_if(|(key, ..)| room && !loading.busy.contains(key))
        {
            loading.start(client, key, value, place);
            continue;
        }
        if over && held.is_none() && loading.puts.is_empty() {
            return (loading.loaded, loading.failed.map_or(Ok(()), Err));
        }
        tokio::select! {
            done = loading.puts.next(), if !loading.puts.is_empty() => loading.finish(done),
            line = lines.recv(), if !over && held.is_none() && room => {
                let Some(line) = line else {
                    over = true;
                    continue;
                };
                number += 1;
                let place = format!("{}:{number}", path.display());
                match line.map_err(|error| error.to_string()).and_then(|line| parse(&line)) {
                    Ok(Some((key, value))) => held = Some((key, value, place)),
                    Ok(None) => {}
                    Err(reason) => {
                        loading.failed = Some(Failure::Usage(format!("{place}: {reason}")));
                    }
                }
            }
        }
    }
}

/// Lines from a thread of their own: a slow pipe must not hold up the puts in flight. The thread is
/// not waited for; it ends with the file or the program.
fn read_lines(path: &Path) -> io::Result<mpsc::Receiver<io::Result<String>>> {
    let reader: Box<dyn BufRead + Send> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path)?))
    };
    let (lines, receiver) = mpsc::channel(LINES_READ_AHEAD);
    std::thread::spawn(move || {
        for line in reader.lines() {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

const LINES_READ_AHEAD: usize = 1024;

/// A put's key, its line, and how it ended.
type Done = (Bytes, String, flotilla_client::Result<Written>);

#[derive(Default)]
struct Loading<'a> {
    puts: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + 'a>>>,
    /// Keys of the puts in flight.
    busy: HashSet<Bytes>,
    loaded: u64,
    failed: Option<Failure>,
}

impl<'a> Loading<'a> {
    fn start(&mut self, client: &'a Client, key: Bytes, value: Bytes, place: String) {
        self.busy.insert(key.clone());
        self.puts.push(Box::pin(async move {
            let result = client.put(key.clone(), value).await;
            (key, place, result)
        }));
    }

    fn finish(&mut self, done: Option<Done>) {
        let Some((key, place, result)) = done else { return };
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
