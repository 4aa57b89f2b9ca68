//! The key layout.
//!
//! Everything of a queue cluster lies under one prefix, `/mq/CLUSTER/`, and is sorted by kind:
//!
//! ```text
//! /mq/CLUSTER/acl/SUBJECT                       the subject's policies without their entries (JSON)
//! /mq/CLUSTER/acl/SUBJECT/POLICY/ENTRY          one rule (JSON); POLICY and ENTRY count from 0
//! /mq/CLUSTER/delay/LEVEL                       delay offset (i64)
//! /mq/CLUSTER/file/NAME/PART                    that the file exists, and what of it no table holds
//! /mq/CLUSTER/filter/TOPIC                      a topic's filter data without the filters (JSON)
//! /mq/CLUSTER/filter/TOPIC/GROUP                one filter (JSON)
//! /mq/CLUSTER/forbidden/GROUP/TOPIC             forbidden bits (i64)
//! /mq/CLUSTER/group/GROUP                       subscription group (JSON)
//! /mq/CLUSTER/group-topics/GROUP                the group's topics, in order (JSON)
//! /mq/CLUSTER/kv/NAMESPACE/KEY                  name server's KV config (the text itself)
//! /mq/CLUSTER/offset/GROUP/TOPIC/QUEUE          consumer offset (i64)
//! /mq/CLUSTER/order/GROUP/TOPIC/QUEUE           orderly consumption state (JSON)
//! /mq/CLUSTER/pull/GROUP/TOPIC/QUEUE            pull offset (i64)
//! /mq/CLUSTER/request-mode/TOPIC/GROUP          POP or PULL (JSON)
//! /mq/CLUSTER/static/TOPIC                      a static topic's mapping without its queues (JSON)
//! /mq/CLUSTER/static/TOPIC/QUEUE                one queue's mapping, in order (JSON)
//! /mq/CLUSTER/topic/TOPIC                       topic config (JSON)
//! /mq/CLUSTER/transaction/TOPIC                 transaction metrics (JSON)
//! /mq/CLUSTER/user/NAME                         user (JSON)
//! /mq/CLUSTER/version/FILE                      the file's data version (JSON)
//! ```
//!
//! An i64 is 8 bytes, big-endian. Numbers in keys (queues, levels, places) have 10 digits, so that
//! they sort as numbers.
//!
//! Names are UTF-8 and stand as they are, except that `.` is written `.0` and `/` is written `.1`.
//! So a name never holds a `/`: all offsets of a group are the keys that start with
//! `/mq/CLUSTER/offset/GROUP/`, and nothing else starts with that. Both escapes sort where the
//! character itself would, between `-` and `0`: names keep their order. Only where one name is the
//! beginning of another (`a` and `a-b`), what follows the first may sort behind the second, because
//! `-` and a few others sort before `/`; their records never mix.

use super::tables::{Kind, Part};

/// Digits of a number in a key.
const DIGITS: usize = 10;

/// What every key of the queue cluster starts with.
pub fn prefix(cluster: &str) -> String {
    format!("/mq/{}/", escape(cluster))
}

/// The first key behind all keys with this prefix.
pub fn prefix_end(prefix: &str) -> String {
    let body = prefix.strip_suffix('/').expect("invariant: a prefix ends with a slash");
    // `0` is the character behind `/`.
    format!("{body}0")
}

/// The key of a record. Numbers are given as text without leading zeros.
pub fn encode(prefix: &str, kind: Kind, parts: &[&str]) -> String {
    assert_eq!(parts.len(), kind.parts().len(), "a {kind:?} key has other pieces: {parts:?}");
    let mut key = format!("{prefix}{}", kind.word());
    for (part, text) in kind.parts().iter().zip(parts) {
        key.push('/');
        match part {
            Part::Name => key.push_str(&escape(text)),
            Part::Number => key.push_str(&format!("{text:0>DIGITS$}")),
        }
    }
    key
}

/// The kind and pieces of a key; `None` if it is not of this layout.
pub fn decode(prefix: &str, key: &[u8]) -> Option<(Kind, Vec<String>)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let mut pieces = rest.split('/');
    let word = pieces.next()?;
    let pieces: Vec<&str> = pieces.collect();
    let kind = Kind::find(word, pieces.len())?;
    let read = |(part, text): (&Part, &&str)| match part {
        Part::Name => unescape(text),
        Part::Number if text.len() == DIGITS => {
            let number: u64 =
                text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())??;
            Some(number.to_string())
        }
        Part::Number => None,
    };
    let parts = kind.parts().iter().zip(&pieces).map(read).collect::<Option<Vec<String>>>()?;
    Some((kind, parts))
}

/// Whether the text is a number as keys hold it: canonical, at most ten digits.
pub fn is_number(text: &str) -> bool {
    let digits = text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || (!text.is_empty() && !text.starts_with('0')))
}

fn escape(name: &str) -> String {
    name.replace('.', ".0").replace('/', ".1")
}

fn unescape(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => name.push(match characters.next()? {
                '0' => '.',
                '1' => '/',
                _ => return None,
            }),
            character => name.push(character),
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let prefix = prefix("prod/a.b");
        assert_eq!(prefix, "/mq/prod.1a.0b/");
        for (kind, parts) in [
            (Kind::Offset, vec!["%RETRY%g", "tenant-017%x/y.z", "12"]),
            (Kind::DelayOffset, vec!["0"]),
            (Kind::Topic, vec![""]),
            (Kind::Topic, vec!["\u{0}文"]),
            (Kind::AclSubject, vec!["User:a"]),
            (Kind::AclEntry, vec!["User:a", "0", "4294967295"]),
        ] {
            let key = encode(&prefix, kind, &parts);
            let read = decode(&prefix, key.as_bytes()).unwrap();
            assert_eq!((read.0, read.1), (kind, parts.into_iter().map(String::from).collect()));
        }
    }

    #[test]
    fn other_keys_are_not_of_the_layout() {
        let prefix = prefix("default");
        for key in [
            "/mq/defaul",
            "/mq/default/nothing/x",
            "/mq/default/topic",
            "/mq/default/delay/1",
            "/mq/default/topic/.",
            "/mq/default/topic/.2",
            "/mq/default/delay/000000000x",
        ] {
            assert_eq!(decode(&prefix, key.as_bytes()), None, "{key}");
        }
        assert_eq!(decode(&prefix, b"/mq/default/topic/\xff"), None);
    }

    #[test]
    fn names_and_numbers_keep_their_order() {
        let mut names = ["a", "a-", "a.", "a.b", "a/", "a/b", "a0", "a文", "b", "%", "|", "A_"];
        names.sort_unstable();
        let mut escaped = names.map(escape);
        escaped.sort_unstable();
        assert_eq!(escaped, names.map(escape));
        let key = |queue: &str| encode("/", Kind::Offset, &["g", "t", queue]);
        assert!(key("2") < key("10") && key("999") < key("1000"));
    }

    #[test]
    fn a_groups_offsets_are_exactly_the_keys_with_its_prefix() {
        let prefix = prefix("default");
        let groups = ["a", "a-b", "a/b", "a.b", "a%", "ab", "a "];
        let mut keys: Vec<(String, &str)> = Vec::new();
        for group in groups {
            for topic in ["x", "x-y", "/"] {
                keys.push((encode(&prefix, Kind::Offset, &[group, topic, "0"]), group));
            }
        }
        keys.sort_unstable();
        for group in groups {
            let start = format!("{prefix}offset/{}/", escape(group));
            let end = prefix_end(&start);
            let within: Vec<&str> = keys
                .iter()
                .filter(|(key, _)| *key >= start && *key < end)
                .map(|(_, owner)| *owner)
                .collect();
            assert_eq!(within, [group; 3]);
        }
    }

    #[test]
    fn only_canonical_numbers_become_numbers() {
        for good in ["0", "7", "10", "4294967295"] {
            assert!(is_number(good), "{good}");
        }
        for bad in ["", "00", "-1", "+1", "01", "1.0", "12345678901", "x"] {
            assert!(!is_number(bad), "{bad}");
        }
    }
}
