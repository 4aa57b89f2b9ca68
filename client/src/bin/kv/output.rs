//! What goes to standard output: texts for people, objects for programs.

use std::io::{self, BufWriter, StdoutLock, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_client::{Got, Record, Written};
use serde_json::{Map, Value, json};

use crate::args::Common;
use crate::escape;

/// Standard output, buffered. Its errors are values: a closed pipe is no panic.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    pub json: bool,
    hex: bool,
}

impl Output {
    pub fn new(common: &Common) -> Self {
        let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        Output { out, json: common.json, hex: common.hex }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn object(&mut self, object: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, object)?;
        self.out.write_all(b"\n")
    }

    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// The receipt of a put or delete.
    pub fn written(&mut self, written: Written) -> io::Result<()> {
        let Written { region, revision } = written;
        if self.json {
            return self.object(&json!({"region": region, "revision": revision}));
        }
        writeln!(self.out, "ok region={region} revision={revision}")
    }

    /// The answer to a get. Without `--json` an absent key prints nothing here.
    pub fn got(&mut self, key: &[u8], got: &Got) -> io::Result<()> {
        if self.json {
            let mut object = Map::new();
            object.insert("found".into(), json!(got.found()));
            insert_bytes(&mut object, "key", key);
            if let Some(value) = &got.value {
                insert_bytes(&mut object, "value", value);
                object.insert("mod_revision".into(), json!(got.mod_revision));
            }
            object.insert("region".into(), json!(got.region));
            object.insert("revision".into(), json!(got.revision));
            return self.object(&Value::Object(object));
        }
        let Some(value) = &got.value else { return Ok(()) };
        if self.hex {
            return writeln!(self.out, "{}", escape::to_hex(value));
        }
        self.out.write_all(value)?;
        self.out.write_all(b"\n")
    }

    /// A record of a scan.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        if self.json {
            return self.record_object(record);
        }
        let show = |bytes: &[u8]| match self.hex {
            true => escape::to_hex(bytes),
            false => escape::escape(bytes),
        };
        let (key, value) = (show(&record.key), show(&record.value));
        writeln!(self.out, "{key}\t{value}")
    }

    /// A record as JSON, whatever the flags say.
    pub fn record_object(&mut self, record: &Record) -> io::Result<()> {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", &record.key);
        insert_bytes(&mut object, "value", &record.value);
        object.insert("mod_revision".into(), json!(record.mod_revision));
        object.insert("region".into(), json!(record.region));
        self.object(&Value::Object(object))
    }
}

/// Bytes as text where they are UTF-8, and always in base64.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        object.insert(name.to_owned(), json!(text));
    }
    object.insert(format!("{name}_b64"), json!(BASE64.encode(bytes)));
}

/// The reverse: base64 where it is given, otherwise the text.
pub fn extract_bytes(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let in_base64 = format!("{name}_b64");
    match (object.get(&in_base64), object.get(name)) {
        (Some(Value::String(text)), _) => {
            BASE64.decode(text).map_err(|error| format!("`{in_base64}` is not base64: {error}"))
        }
        (None, Some(Value::String(text))) => Ok(text.as_bytes().to_vec()),
        (Some(_), _) => Err(format!("`{in_base64}` is not a text")),
        (None, Some(_)) => Err(format!("`{name}` is not a text")),
        (None, None) => Err(format!("neither `{name}` nor `{in_base64}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_through_json() {
        for sample in [&b"text"[..], b"", b"\xff\x00", "文".as_bytes()] {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", sample);
            assert_eq!(object.contains_key("key"), std::str::from_utf8(sample).is_ok());
            assert_eq!(extract_bytes(&object, "key").unwrap(), sample);
            object.remove("key_b64");
            assert_eq!(extract_bytes(&object, "key").ok(), {
                std::str::from_utf8(sample).ok().map(|text| text.as_bytes().to_vec())
            });
        }
    }
}
