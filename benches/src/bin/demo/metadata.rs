//! Whether two folders of RocketMQ metadata hold the same data.
//!
//! The files are JSON in the broker's own dialect (integer map keys without quotes), and the order
//! of their maps is hash order. So they are compared as values: maps by key, lists in order, but
//! lists that stand for sets (the topics of a group, the results of a listing) without it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Tables whose lists are sets.
const SETS: [&str; 1] = ["groupTopicMap"];

/// The first difference between what two folders hold, or the number of equal files.
pub fn compare(input: &Path, output: &Path) -> Result<usize, String> {
    let (before, after) = (read(input)?, read(output)?);
    for (name, value) in &before {
        let Some(exported) = after.get(name) else {
            return Err(format!("{name} is missing in the export"));
        };
        if let Some(place) = difference(value, exported, name) {
            return Err(format!("the export differs at {place}"));
        }
    }
    if before.is_empty() {
        return Err(format!("{} holds no metadata", input.display()));
    }
    Ok(before.len())
}

/// Every file of metadata in `folder`, by name.
fn read(folder: &Path) -> Result<BTreeMap<String, Value>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_file() || name.ends_with(".md") || name.starts_with('.') {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).map_err(|e| format!("{name}: {e}"))?;
        let value = serde_json::from_str(&quote_integer_keys(&text));
        files.insert(name.clone(), value.map_err(|e| format!("{name}: {e}"))?);
    }
    Ok(files)
}

/// Where `a` and `b` differ first, as a path.
fn difference(a: &Value, b: &Value, path: &str) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().find(|key| !a.contains_key(*key));
            if let Some(key) = missing {
                return Some(format!("{path}/{key}, which the input does not have"));
            }
            a.iter().find_map(|(key, value)| match b.get(key) {
                None => Some(format!("{path}/{key}, which it does not have")),
                Some(other) if SETS.contains(&key.as_str()) => {
                    difference(&sorted_lists(value), &sorted_lists(other), &format!("{path}/{key}"))
                }
                Some(other) => difference(value, other, &format!("{path}/{key}")),
            })
        }
        (Value::Array(a), Value::Array(b)) if is_listing(path) => {
            (sorted(a) != sorted(b)).then(|| path.to_owned())
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| difference(a, b, &format!("{path}/{i}"))),
        _ => (a != b).then(|| path.to_owned()),
    }
}

/// A file that is one list, the result of an administrator's listing.
fn is_listing(path: &str) -> bool {
    !path.contains('/')
}

fn sorted_lists(table: &Value) -> Value {
    match table {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value {
                Value::Array(list) => (key.clone(), Value::Array(sorted(list))),
                other => (key.clone(), other.clone()),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn sorted(list: &[Value]) -> Vec<Value> {
    let mut list = list.to_vec();
    // Keys of objects keep their order; equal objects of different order are told apart here, so
    // order them first.
    list.sort_by_cached_key(canonical);
    list
}

/// Text that is equal for equal values.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.iter().map(|(k, v)| (k, canonical(v))).collect();
            format!("{ordered:?}")
        }
        Value::Array(list) => format!("{:?}", list.iter().map(canonical).collect::<Vec<_>>()),
        other => other.to_string(),
    }
}

/// `{0:1}` as `{"0":1}`.
fn quote_integer_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let number =
            rest.len() - rest.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit()).len();
        if !in_string && number > 0 {
            let (digits, after) = rest.split_at(number);
            if after.trim_start().starts_with(':') {
                out.extend(["\"", digits, "\""]);
            } else {
                out.push_str(digits);
            }
            rest = after;
            continue;
        }
        let mut taken = c.len_utf8();
        match c {
            '"' => in_string = !in_string,
            '\\' if in_string => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(a: &str, b: &str) -> Option<String> {
        let parse = |text: &str| serde_json::from_str::<Value>(&quote_integer_keys(text)).unwrap();
        difference(&parse(a), &parse(b), "f")
    }

    #[test]
    fn integer_keys_are_quoted_outside_strings_only() {
        let text = r#"{0:12,-1 :3,"a\"{5:":"1:2","l":[1,2.5,-3e4]}"#;
        let quoted = r#"{"0":12,"-1" :3,"a\"{5:":"1:2","l":[1,2.5,-3e4]}"#;
        assert_eq!(quote_integer_keys(text), quoted);
    }

    #[test]
    fn order_of_maps_and_sets_does_not_count() {
        assert_eq!(differ(r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#), None);
        let (a, b) =
            (r#"{"groupTopicMap":{"g":["t","u"]}}"#, r#"{"groupTopicMap":{"g":["u","t"]}}"#);
        assert_eq!(differ(a, b), None);
        assert_eq!(differ(r#"[{"u":1,"v":2},{"u":0}]"#, r#"[{"u":0},{"v":2,"u":1}]"#), None);
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        assert_eq!(differ(r#"{"t":{0:5}}"#, r#"{"t":{0:6}}"#).unwrap(), "f/t/0");
        assert!(differ(r#"{"t":{0:5}}"#, r#"{"t":{}}"#).unwrap().contains("f/t/0"));
        assert!(differ("{}", r#"{"x":1}"#).unwrap().contains("f/x"));
        assert_eq!(differ(r#"{"l":[1,2]}"#, r#"{"l":[2,1]}"#).unwrap(), "f/l/0");
    }
}
