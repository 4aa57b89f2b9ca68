//! `put`, `get`, `delete`, `scan`.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use flotilla_client::{Client, VALUE_BYTES_MAX};

use crate::args::{Common, Put};
use crate::failure::Failure;
use crate::output::Output;

/// The pair to put, checked as far as possible without the cluster.
pub fn put_input(common: &Common, args: &Put) -> Result<(Bytes, Bytes), Failure> {
    let key = key_input(common, &args.key)?;
    let value = match (&args.file, args.value.as_deref()) {
        (Some(path), _) => read_value(path)?,
        (None, Some("-")) => read_value(Path::new("/dev/stdin"))?,
        (None, Some(text)) => common.bytes(text)?,
        (None, None) => return Err(Failure::Usage("VALUE or --file is needed".to_owned())),
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::Usage(format!("the value has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok((key, value))
}

/// A key, checked before anything is sent.
pub fn key_input(common: &Common, text: &str) -> Result<Bytes, Failure> {
    let key = common.bytes(text)?;
    match key.len() {
        0 => Err(Failure::Usage("the key is empty".to_owned())),
        length if length > flotilla_client::KEY_BYTES_MAX => Err(Failure::Usage(format!(
            "the key has {length} bytes, at most {} are allowed",
            flotilla_client::KEY_BYTES_MAX
        ))),
        _ => Ok(key),
    }
}

/// Reads no more than what shows that it is too much.
fn read_value(path: &Path) -> Result<Bytes, Failure> {
    let limit = VALUE_BYTES_MAX as u64 + 1;
    let mut value = Vec::new();
    let result = if path == Path::new("/dev/stdin") {
        std::io::stdin().lock().take(limit).read_to_end(&mut value)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut value))
    };
    result.map_err(|error| Failure::file(path, &error))?;
    Ok(value.into())
}

pub async fn put(
    client: &Client,
    (key, value): (Bytes, Bytes),
    out: &mut Output,
) -> Result<(), Failure> {
    Ok(out.written(client.put(key, value).await?)?)
}

pub async fn get(client: &Client, key: Bytes, out: &mut Output) -> Result<(), Failure> {
    let got = client.get(key.clone()).await?;
    out.got(&key, &got)?;
    if got.found() { Ok(()) } else { Err(Failure::NotFound) }
}

pub async fn delete(client: &Client, key: Bytes, out: &mut Output) -> Result<(), Failure> {
    Ok(out.written(client.delete(key).await?)?)
}

pub async fn scan(
    client: &Client,
    (start, end): (Bytes, Bytes),
    limit: Option<usize>,
    out: &mut Output,
) -> Result<(), Failure> {
    // The library takes 0 for no limit.
    if limit == Some(0) {
        return Ok(());
    }
    let mut scanner = client.scanner(start, end).limit(limit.unwrap_or(0));
    while let Some(page) = scanner.page().await? {
        for record in &page.records {
            out.record(record)?;
        }
        out.flush()?;
    }
    Ok(())
}
