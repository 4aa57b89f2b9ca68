//! Bytes as text on the command line: `\n \t \\ \xNN`, or hexadecimal.

use std::fmt::Write;

/// Reads escapes. Errors name the place.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes.get(at + 1) {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let digits = bytes.get(at + 2..at + 4).and_then(|pair| hex_pair(pair[0], pair[1]));
                out.push(
                    digits.ok_or_else(|| wrong(text, at, "\\x needs two hexadecimal digits"))?,
                );
                at += 2;
            }
            _ => return Err(wrong(text, at, "known escapes are \\n \\t \\\\ \\xNN")),
        }
        at += 2;
    }
    Ok(out)
}

fn wrong(text: &str, at: usize, what: &str) -> String {
    format!("{what}: {text:?}, byte {at}")
}

/// Writes bytes so that [`unescape`] reads them back: printable characters as they are.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                character if is_printable(character) => out.push(character),
                character => {
                    let mut buffer = [0; 4];
                    escape_bytes(character.encode_utf8(&mut buffer).as_bytes(), &mut out);
                }
            }
        }
        escape_bytes(chunk.invalid(), &mut out);
    }
    out
}

/// Not controls, and not the characters that change how others are shown.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

fn escape_bytes(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("a String takes everything");
    }
}

/// Reads hexadecimal digits, two a byte, of either case.
pub fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(format!("hexadecimal needs an even number of digits: {text:?}"));
    }
    let pairs = digits.chunks_exact(2).map(|pair| hex_pair(pair[0], pair[1]));
    pairs.collect::<Option<_>>().ok_or_else(|| format!("not hexadecimal: {text:?}"))
}

/// Two lower-case digits a byte.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(out, "{byte:02x}").expect("a String takes everything");
    }
    out
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescape("a\\n\\t\\\\\\x00\\xfF").unwrap(), b"a\n\t\\\x00\xff");
        assert_eq!(unescape("").unwrap(), b"");
        assert_eq!(unescape("文字").unwrap(), "文字".as_bytes());
    }

    #[test]
    fn wrong_escapes_are_refused() {
        for bad in ["\\", "a\\q", "\\x", "\\x1", "\\xg0", "\\x+1", "\\x文"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_byte_string_survives_both_ways() {
        let all: Vec<u8> = (0..=255).collect();
        let samples: [&[u8]; 5] =
            [&all, "文 café — \u{feff}\u{2028}".as_bytes(), b"\\x41", b"", b"\xe6\x96"];
        for sample in samples {
            assert_eq!(unescape(&escape(sample)).unwrap(), sample);
            assert_eq!(from_hex(&to_hex(sample)).unwrap(), sample);
        }
        assert_eq!(escape(b"a\r\x7f\xff\\"), "a\\x0d\\x7f\\xff\\\\");
    }

    #[test]
    fn wrong_hexadecimal_is_refused() {
        for bad in ["1", "0g", "0x10", "文文"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
        assert_eq!(from_hex("00FFa0").unwrap(), [0, 255, 160]);
    }
}
