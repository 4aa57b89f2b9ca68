//! Records → files. Pure; the reverse of `split`.
//!
//! A file is written if its own record exists or any row of it does. Rows without a place in the
//! file's record (put by hand, or by a live system) are added.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::files::Files;
use super::tables::{ACLS, Codec, Kind, Layout, TABLES, Table, USERS, is_known};
use super::{Entry, json, keys};

/// Rows of the lists, by name.
type Named = BTreeMap<String, Value>;

/// The files that the records describe. Errors name the key.
pub fn join(cluster: &str, entries: &[Entry]) -> Result<Files, String> {
    let prefix = keys::prefix(cluster);
    let mut rests: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut rows: Vec<(Kind, Vec<String>, Value)> = Vec::new();
    // Key order: parts of a file in order, a topic's head before its rows, rules in order.
    for entry in entries {
        let shown = || String::from_utf8_lossy(&entry.key).into_owned();
        let (kind, parts) = keys::decode(&prefix, &entry.key)
            .ok_or_else(|| format!("{}: not a key of this layout", shown()))?;
        if kind == Kind::File {
            rests.entry(parts[0].clone()).or_default().extend_from_slice(&entry.value);
            continue;
        }
        let value =
            decode(&entry.value, codec(kind)).map_err(|reason| format!("{}: {reason}", shown()))?;
        rows.push((kind, parts, value));
    }
    let mut documents = Documents::new(rests)?;
    for (kind, parts, value) in rows {
        documents.add(kind, parts, value)?;
    }
    Ok(documents.into_files())
}

fn codec(kind: Kind) -> Codec {
    let table = TABLES.iter().find(|table| table.kind == kind);
    table.map_or(Codec::Json, |table| table.codec)
}

fn decode(bytes: &[u8], codec: Codec) -> Result<Value, String> {
    match codec {
        Codec::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        Codec::Integer => <[u8; 8]>::try_from(bytes)
            .map(|bytes| i64::from_be_bytes(bytes).into())
            .map_err(|_| format!("{} bytes are no i64", bytes.len())),
        Codec::Text => std::str::from_utf8(bytes)
            .map(Value::from)
            .map_err(|error| format!("not UTF-8: {error}")),
    }
}

/// The files while they are put together.
struct Documents {
    /// Files that are kept as they are.
    raw: Files,
    /// Known files.
    known: HashMap<String, Value>,
    users: Named,
    subjects: Named,
}

impl Documents {
    fn new(rests: BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let mut documents = Documents {
            raw: Files::new(),
            known: HashMap::new(),
            users: Named::new(),
            subjects: Named::new(),
        };
        for (name, contents) in rests {
            if is_known(&name) && !contents.is_empty() {
                let rest = serde_json::from_slice(&contents)
                    .map_err(|error| format!("the record of file {name}: {error}"))?;
                documents.known.insert(name, rest);
            } else {
                documents.raw.insert(name, contents);
            }
        }
        Ok(documents)
    }

    fn add(&mut self, kind: Kind, parts: Vec<String>, value: Value) -> Result<(), String> {
        match kind {
            Kind::User => {
                self.users.insert(take_first(parts), value);
            }
            Kind::AclSubject => {
                self.subjects.insert(take_first(parts), value);
            }
            Kind::AclEntry => add_rule(&mut self.subjects, &parts, value)?,
            _ => {
                let table = table_of(kind, &parts)
                    .ok_or_else(|| format!("{} {parts:?} belongs to no file", kind.word()))?;
                add_row(self.object(table.file)?, table, kind, parts, value)?;
            }
        }
        Ok(())
    }

    /// The known file's object, made if it is not there.
    fn object(&mut self, file: &str) -> Result<&mut Map<String, Value>, String> {
        let document =
            self.known.entry(file.to_owned()).or_insert_with(|| Value::Object(Map::new()));
        document
            .as_object_mut()
            .ok_or_else(|| format!("{file}: rows for a file that has no tables"))
    }

    fn into_files(mut self) -> Files {
        for (file, rows) in [(USERS, self.users), (ACLS, self.subjects)] {
            let order = self.known.remove(file);
            if order.is_some() || !rows.is_empty() {
                self.known.insert(file.to_owned(), in_order(order, rows));
            }
        }
        let mut files = self.raw;
        for (name, document) in self.known {
            files.insert(name, json::write(&document));
        }
        files
    }
}

fn take_first(parts: Vec<String>) -> String {
    parts.into_iter().next().expect("invariant: every kind has at least one piece")
}

/// The table that a record belongs to, by its own kind or as the head of a topic.
fn table_of(kind: Kind, parts: &[String]) -> Option<&'static Table> {
    TABLES.iter().find(|table| match table.layout {
        Layout::Whole => kind == Kind::Version && parts[0] == table.file,
        Layout::Headed { head, .. } => kind == table.kind || kind == head,
        _ => kind == table.kind,
    })
}

fn add_row(
    document: &mut Map<String, Value>,
    table: &Table,
    kind: Kind,
    parts: Vec<String>,
    value: Value,
) -> Result<(), String> {
    let path: Vec<String> = match table.layout {
        Layout::Whole => Vec::new(),
        Layout::Names | Layout::Level => parts,
        Layout::Queues => vec![format!("{}@{}", parts[1], parts[0]), parts[2].clone()],
        Layout::Headed { .. } if kind != table.kind => parts,
        Layout::Headed { inner, .. } => vec![parts[0].clone(), inner.to_owned(), parts[1].clone()],
    };
    let mut at = document;
    let mut name = table.field.to_owned();
    for next in path {
        let inner = at.entry(name).or_insert_with(|| Value::Object(Map::new()));
        at = inner
            .as_object_mut()
            .ok_or_else(|| format!("{}: {next} has no object to be in", table.file))?;
        name = next;
    }
    at.insert(name, value);
    Ok(())
}

/// Adds a rule behind those of the same policy that came before it.
fn add_rule(subjects: &mut Named, parts: &[String], value: Value) -> Result<(), String> {
    let misplaced = || format!("acl {parts:?}: the subject's record has no such policy");
    let policy: usize = parts[1].parse().map_err(|_| misplaced())?;
    let entries = subjects
        .get_mut(&parts[0])
        .and_then(|subject| subject.get_mut("policies")?.get_mut(policy)?.as_object_mut())
        .map(|policy| policy.entry("entries").or_insert_with(|| Value::Array(Vec::new())))
        .and_then(Value::as_array_mut);
    entries.ok_or_else(misplaced)?.push(value);
    Ok(())
}

/// The list as it was: names are replaced by their rows, wrapped items unwrapped; new rows follow.
fn in_order(order: Option<Value>, mut rows: Named) -> Value {
    let places = match order {
        Some(Value::Array(places)) => places,
        Some(other) if rows.is_empty() => return other,
        _ => Vec::new(),
    };
    let mut items = Vec::with_capacity(places.len());
    for place in places {
        match place {
            Value::String(name) => items.extend(rows.remove(&name)),
            Value::Array(kept) => items.extend(kept),
            other => items.push(other),
        }
    }
    items.extend(rows.into_values());
    Value::Array(items)
}
