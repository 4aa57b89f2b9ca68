//! Files → records. Pure.
//!
//! Each known file is taken apart table by table; a row that fits becomes a record and leaves the
//! document, anything else stays. What is left of the document is the file's own record.

use bytes::Bytes;
use flotilla_client::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde_json::{Map, Value};

use super::files::Files;
use super::tables::{ACLS, Codec, Kind, Layout, TABLES, Table, USERS, is_known};
use super::{Entry, json, keys};

/// A file's own record is cut into pieces of this size.
const FILE_PART_BYTES: usize = 512 << 10;

/// The records of all files, in key order. Errors name the file.
pub fn split(cluster: &str, files: &Files) -> Result<Vec<Entry>, String> {
    let mut rows = Rows { prefix: keys::prefix(cluster), entries: Vec::new() };
    for (name, contents) in files {
        let rest = match is_known(name) && !contents.is_empty() {
            true => {
                known(name, contents, &mut rows).map_err(|reason| format!("{name}: {reason}"))?
            }
            false => contents.clone(),
        };
        rows.add_file(name, &rest)?;
    }
    rows.entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(rows.entries)
}

/// Takes a known file apart; returns what stays of it.
fn known(name: &str, contents: &[u8], rows: &mut Rows) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(contents).map_err(|error| error.to_string())?;
    let mut document = json::parse(text)?;
    match name {
        USERS => list(&mut document, |item| user(item, rows)),
        ACLS => list(&mut document, |item| subject(item, rows)),
        _ => {
            for table in TABLES.iter().filter(|table| table.file == name) {
                take_table(&mut document, table, rows);
            }
        }
    }
    Ok(document.to_string().into_bytes())
}

/// The records so far.
struct Rows {
    prefix: String,
    entries: Vec<Entry>,
}

impl Rows {
    /// Adds a record; gives the value back if it does not fit.
    fn add(&mut self, kind: Kind, parts: &[&str], value: Value, codec: Codec) -> Option<Value> {
        let Some(bytes) = encode(&value, codec) else { return Some(value) };
        let key = keys::encode(&self.prefix, kind, parts);
        if key.len() > KEY_BYTES_MAX || bytes.len() > VALUE_BYTES_MAX {
            return Some(value);
        }
        self.entries.push(Entry { kind, key: key.into(), value: bytes.into() });
        None
    }

    fn add_file(&mut self, name: &str, contents: &[u8]) -> Result<(), String> {
        let mut parts: Vec<&[u8]> = contents.chunks(FILE_PART_BYTES).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for (number, part) in parts.into_iter().enumerate() {
            let key = keys::encode(&self.prefix, Kind::File, &[name, &number.to_string()]);
            if key.len() > KEY_BYTES_MAX {
                return Err(format!("{name}: the cluster's and the file's names are too long"));
            }
            let value = Bytes::copy_from_slice(part);
            self.entries.push(Entry { kind: Kind::File, key: key.into(), value });
        }
        Ok(())
    }
}

fn encode(value: &Value, codec: Codec) -> Option<Vec<u8>> {
    match codec {
        Codec::Json => Some(value.to_string().into_bytes()),
        Codec::Integer => value.as_i64().map(|number| number.to_be_bytes().to_vec()),
        Codec::Text => value.as_str().map(|text| text.as_bytes().to_vec()),
    }
}

/// Lets `take` have every member of an object; what it gives back stays. `true` if the object had
/// members and has none any more.
fn drain(value: &mut Value, mut take: impl FnMut(&str, Value) -> Option<Value>) -> bool {
    let Value::Object(map) = value else { return false };
    let members = std::mem::take(map);
    let had_members = !members.is_empty();
    for (name, member) in members {
        if let Some(kept) = take(&name, member) {
            map.insert(name, kept);
        }
    }
    had_members && map.is_empty()
}

fn take_table(document: &mut Value, table: &Table, rows: &mut Rows) {
    let Some(value) = document.get_mut(table.field) else { return };
    let (kind, codec) = (table.kind, table.codec);
    let emptied = match table.layout {
        Layout::Whole => {
            let kept = rows.add(kind, &[table.file], value.take(), codec);
            let taken = kept.is_none();
            *value = kept.unwrap_or_default();
            taken
        }
        Layout::Names if kind.parts().len() == 1 => {
            drain(value, |name, row| rows.add(kind, &[name], row, codec))
        }
        Layout::Names => drain(value, |first, mut inner| {
            let emptied =
                drain(&mut inner, |second, row| rows.add(kind, &[first, second], row, codec));
            (!emptied).then_some(inner)
        }),
        Layout::Level => drain(value, |level, row| match keys::is_number(level) {
            true => rows.add(kind, &[level], row, codec),
            false => Some(row),
        }),
        Layout::Queues => drain(value, |name, mut queues| {
            let emptied = take_queues(name, &mut queues, table, rows);
            (!emptied).then_some(queues)
        }),
        Layout::Headed { head, inner } => {
            drain(value, |topic, object| take_headed(topic, object, head, inner, table, rows))
        }
    };
    if emptied && let Value::Object(document) = document {
        document.shift_remove(table.field);
    }
}

/// `"TOPIC@GROUP": {queue: row}`; names with no `@` or several stay as they are.
fn take_queues(name: &str, queues: &mut Value, table: &Table, rows: &mut Rows) -> bool {
    let Some((topic, group)) = name.split_once('@') else { return false };
    if group.contains('@') {
        return false;
    }
    drain(queues, |queue, row| match keys::is_number(queue) {
        true => rows.add(table.kind, &[group, topic, queue], row, table.codec),
        false => Some(row),
    })
}

/// A topic's object: the rows of its inner table, then the rest as a record of its own. All or
/// nothing: a rest without its record would leave the rows without a place.
fn take_headed(
    topic: &str,
    mut object: Value,
    head: Kind,
    inner: &str,
    table: &Table,
    rows: &mut Rows,
) -> Option<Value> {
    if !object.is_object() {
        return Some(object);
    }
    let original = object.clone();
    let before = rows.entries.len();
    if let Some(members) = object.get_mut(inner) {
        let numbered = table.kind.parts()[1] == super::tables::Part::Number;
        let emptied = drain(members, |name, row| match !numbered || keys::is_number(name) {
            true => rows.add(table.kind, &[topic, name], row, table.codec),
            false => Some(row),
        });
        if emptied && let Value::Object(map) = &mut object {
            map.shift_remove(inner);
        }
    }
    if rows.add(head, &[topic], object, Codec::Json).is_some() {
        rows.entries.truncate(before);
        return Some(original);
    }
    None
}

/// A list of named objects keeps its order: each item that became records leaves its name, each
/// other item stays, wrapped in a list of one (so that a text in the list is not taken for a name).
fn list(document: &mut Value, mut take: impl FnMut(&Value) -> Option<String>) {
    let Value::Array(items) = document else { return };
    let mut seen = std::collections::HashSet::new();
    for item in items.iter_mut() {
        let named = match name_of(item) {
            // A second item of the same name has no key of its own.
            Some(name) if seen.insert(name.to_owned()) => take(item),
            _ => None,
        };
        *item = match named {
            Some(name) => Value::String(name),
            None => Value::Array(vec![item.take()]),
        };
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("username").or_else(|| item.get("subject"))?.as_str()
}

fn user(item: &Value, rows: &mut Rows) -> Option<String> {
    let name = item.get("username")?.as_str()?;
    let kept = rows.add(Kind::User, &[name], item.clone(), Codec::Json);
    kept.is_none().then(|| name.to_owned())
}

/// An acl subject: every entry of its policies, in order, then the rest of the subject. All or
/// nothing.
fn subject(item: &Value, rows: &mut Rows) -> Option<String> {
    let name = item.get("subject")?.as_str()?;
    let before = rows.entries.len();
    let mut rest = item.clone();
    let policies = rest.get_mut("policies").and_then(Value::as_array_mut);
    let mut fits = true;
    for (place, policy) in policies.into_iter().flatten().enumerate() {
        let Some(policy) = policy.as_object_mut() else { continue };
        fits &= take_entries(name, place, policy, rows);
    }
    fits = fits && rows.add(Kind::AclSubject, &[name], rest, Codec::Json).is_none();
    if !fits {
        rows.entries.truncate(before);
    }
    fits.then(|| name.to_owned())
}

fn take_entries(
    name: &str,
    place: usize,
    policy: &mut Map<String, Value>,
    rows: &mut Rows,
) -> bool {
    match policy.get("entries") {
        Some(Value::Array(entries)) if !entries.is_empty() => {}
        _ => return true,
    }
    let Some(Value::Array(entries)) = policy.shift_remove("entries") else { return true };
    let place = place.to_string();
    entries.into_iter().enumerate().all(|(number, entry)| {
        let parts = [name, &place, &number.to_string()];
        rows.add(Kind::AclEntry, &parts, entry, Codec::Json).is_none()
    })
}
