//! A region: a key range with an epoch, served by one group.

use bytes::Bytes;
use flotilla_raftstore::{Fatal, GroupDesc, GroupId, ReplicaDesc};
use serde::{Deserialize, Serialize};

/// Which version of a region a request means. A request with another `version` is refused: its keys
/// may be elsewhere. The members do not matter to that: who asks the wrong store is told who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows with every change of the key range.
    pub version: u64,
    /// Grows with every change of the members.
    pub members: u64,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.version, self.members)
    }
}

/// What this store knows of a region that it has a replica of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionMeta {
    /// The region's id. Never 0.
    pub region: u64,
    /// The group that serves it.
    pub group: GroupId,
    /// First key.
    #[serde(with = "hex")]
    pub start: Bytes,
    /// The key after the last; empty = to the end of all keys.
    #[serde(with = "hex")]
    pub end: Bytes,
    /// Version of range and members.
    pub epoch: Epoch,
    /// The members.
    pub replicas: Vec<ReplicaDesc>,
}

impl RegionMeta {
    /// Whether `key` is inside the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether `[start, end)` (`end` empty = to the end of all keys) shares a key with the range.
    #[must_use]
    pub fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        (end.is_empty() || &self.start[..] < end) && (self.end.is_empty() || start < &self.end[..])
    }

    /// The group with its members.
    #[must_use]
    pub fn desc(&self) -> GroupDesc {
        GroupDesc::new(self.group, self.replicas.clone())
    }

    /// The region after its group's members have become those of `desc`.
    #[must_use]
    pub fn with_members(&self, desc: &GroupDesc) -> RegionMeta {
        // As created it is 1, and every membership entry adds one.
        let members = desc.membership.version + 1;
        let epoch = Epoch { members, ..self.epoch };
        RegionMeta { epoch, replicas: desc.replicas.clone(), ..self.clone() }
    }

    /// The record's bytes: JSON.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a region has a JSON form").into()
    }

    /// Reads the record of `group` back.
    pub fn decode(group: GroupId, text: &[u8]) -> Result<RegionMeta, Fatal> {
        serde_json::from_slice(text)
            .map_err(|e| Fatal::new(format!("read the region of group {group}"), e))
    }
}

/// Bytes as hexadecimal text, so that a stored record stays readable.
mod hex {
    use bytes::Bytes;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use std::fmt::Write;

    pub fn serialize<S: Serializer>(bytes: &Bytes, out: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
        }
        out.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        let odd = || D::Error::custom(format!("{text:?} is not hexadecimal"));
        if !text.is_ascii() || text.len() % 2 == 1 {
            return Err(odd());
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| odd()))
            .collect::<Result<Vec<u8>, _>>()
            .map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: &'static [u8], end: &'static [u8]) -> RegionMeta {
        RegionMeta {
            region: 3,
            group: GroupId(3),
            start: Bytes::from_static(start),
            end: Bytes::from_static(end),
            epoch: Epoch { version: 1, members: 2 },
            replicas: Vec::new(),
        }
    }

    #[test]
    fn range_is_half_open_and_empty_end_is_infinite() {
        let middle = region(b"b", b"d");
        assert!(!middle.contains(b"a") && middle.contains(b"b") && middle.contains(b"c\xff"));
        assert!(!middle.contains(b"d"));
        assert!(region(b"", b"").contains(b"\xff\xff"));
        assert!(middle.overlaps(b"", b"") && middle.overlaps(b"c", b"z"));
        assert!(!middle.overlaps(b"", b"b") && !middle.overlaps(b"d", b""));
    }

    #[test]
    fn meta_survives_its_text_form() {
        let meta = region(b"\x00\xff", b"");
        let text = serde_json::to_string(&meta).unwrap();
        assert_eq!(serde_json::from_str::<RegionMeta>(&text).unwrap(), meta);
        assert!(serde_json::from_str::<RegionMeta>(&text.replace("00ff", "0g")).is_err());
        assert!(serde_json::from_str::<RegionMeta>(&text.replace("00ff", "00f")).is_err());
    }
}
