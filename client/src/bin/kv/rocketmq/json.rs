//! RocketMQ's dialect of JSON: fastjson leaves the integer keys of maps unquoted (`{0:12}`), which
//! strict parsers refuse.

use serde_json::Value;

/// Reads the dialect. Errors say where.
pub fn parse(text: &str) -> Result<Value, String> {
    check_integers(text)?;
    serde_json::from_str(&quote_integer_keys(text)).map_err(|error| error.to_string())
}

/// Strict JSON, indented by tabs.
pub fn write(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a Vec takes every JSON value");
    out
}

/// Puts quotes around integer keys: a number between `{` or `,` and `:`, outside of strings.
pub fn quote_integer_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut copied = 0;
    for number in numbers(text) {
        if text[number.end..].trim_start().starts_with(':') {
            out.push_str(&text[copied..number.start]);
            out.push('"');
            out.push_str(&text[number.clone()]);
            out.push('"');
            copied = number.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// serde_json would silently turn integers beyond 64 bits into rounded floats.
fn check_integers(text: &str) -> Result<(), String> {
    for number in numbers(text) {
        let digits = &text[number];
        let integer = !digits.contains(['.', 'e', 'E']);
        if integer && digits.parse::<i64>().is_err() && digits.parse::<u64>().is_err() {
            return Err(format!("the number {digits} has more than 64 bits"));
        }
    }
    Ok(())
}

/// The places of all numbers outside of strings.
fn numbers(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match bytes[at] {
                b'"' => at = string_end(bytes, at),
                b'-' | b'0'..=b'9' => {
                    let start = at;
                    while at < bytes.len()
                        && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                    {
                        at += 1;
                    }
                    return Some(start..at);
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// The place behind the string that starts at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integer_keys_are_quoted_outside_of_strings_only() {
        let text = "{\n\t0:12,\n\t-1 : {3:[4,5]},\"s\":\"{0:1, 2:3}\",\"e\\\"{7:1\":8}";
        let value = parse(text).unwrap();
        let expected = json!({"0": 12, "-1": {"3": [4, 5]}, "s": "{0:1, 2:3}", "e\"{7:1": 8});
        assert_eq!(value, expected);
    }

    #[test]
    fn strict_json_stays_as_it_is() {
        let text = r#"{"a":[1,-2.5e3,"x:1"],"1":{"b":null}}"#;
        assert_eq!(quote_integer_keys(text), text);
    }

    #[test]
    fn what_would_be_rounded_or_cut_is_refused() {
        assert!(parse("[18446744073709551616]").is_err());
        assert!(parse("[18446744073709551615,-9223372036854775808]").is_ok());
        for bad in ["", "{", "{\"a", "{\"a\\", "{0:}", "nope"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn written_json_is_read_back() {
        let value = json!({"b": [1, {"c": "文\n"}], "a": {}, "0": -3});
        assert_eq!(parse(std::str::from_utf8(&write(&value)).unwrap()).unwrap(), value);
    }
}
