//! Keys on the command line and in JSON.
//!
//! Text form: `\n`, `\t`, `\\` and `\xNN` stand for bytes, every other character for its UTF-8.
//! JSON form of the state: hexadecimal digits ([`hex`], a serde module).

use bytes::Bytes;

/// Longest key of the store's contract, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// The bytes that `text` stands for; the error names the part that is wrong.
pub fn parse(text: &str) -> Result<Bytes, String> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            key.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match rest.next() {
            Some('n') => key.push(b'\n'),
            Some('t') => key.push(b'\t'),
            Some('\\') => key.push(b'\\'),
            Some('x') => {
                let high = rest.next().and_then(|c| c.to_digit(16));
                let low = rest.next().and_then(|c| c.to_digit(16));
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(format!("{text:?}: \\x needs two hexadecimal digits"));
                };
                key.push((high * 16 + low) as u8);
            }
            Some(c) => {
                return Err(format!("{text:?}: unknown escape \\{c}: use \\n \\t \\\\ \\xNN"));
            }
            None => return Err(format!("{text:?}: ends in a single \\: write \\\\")),
        }
    }
    Ok(key.into())
}

/// The text form of `key`: what [`parse`] reads back.
#[must_use]
pub fn display(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for &byte in key {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// Keys as hexadecimal digits: `#[serde(with = "hex")]`.
pub mod hex {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes two digits a byte.
    pub fn serialize<S: Serializer>(key: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{key:x}"))
    }

    /// Reads what `serialize` wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err(D::Error::custom(format!("{text:?}: odd number of digits")));
        }
        let byte = |pair: &[u8]| {
            let digit = |c: u8| (c as char).to_digit(16);
            Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
        };
        digits
            .chunks(2)
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .map(Bytes::from)
            .ok_or_else(|| D::Error::custom(format!("{text:?}: not hexadecimal")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_written_back() {
        let key = parse(r"a\x00\xfF\n\t\\z").unwrap();
        assert_eq!(&key[..], b"a\x00\xff\n\t\\z");
        assert_eq!(parse(&display(&key)).unwrap(), key);
        assert_eq!(&parse("é").unwrap()[..], "é".as_bytes());
    }

    #[test]
    fn wrong_escapes_are_named() {
        assert!(parse(r"a\q").unwrap_err().contains(r"\q"));
        assert!(parse(r"a\x4").unwrap_err().contains("two hexadecimal digits"));
        assert!(parse("a\\").unwrap_err().contains("single"));
    }

    #[test]
    fn json_form_round_trips() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Holder {
            #[serde(with = "hex")]
            key: Bytes,
        }
        for key in [&b""[..], b"\x00", b"abc\xff\x10"] {
            let holder = Holder { key: Bytes::copy_from_slice(key) };
            let json = serde_json::to_string(&holder).unwrap();
            assert_eq!(serde_json::from_str::<Holder>(&json).unwrap(), holder, "{json}");
        }
        assert!(serde_json::from_str::<Holder>(r#"{"key":"abc"}"#).is_err());
        assert!(serde_json::from_str::<Holder>(r#"{"key":"zz"}"#).is_err());
    }
}
