//! The state machine's answer to a command: equal on every replica, so it holds nothing local.
//!
//! One byte says which answer it is, then one number (u64, little endian).

use bytes::{BufMut, BytesMut};

const WRITTEN: u8 = 0;
const EPOCH: u8 = 1;
const RANGE: u8 = 2;
const MALFORMED: u8 = 3;

/// Bytes of an encoded answer.
pub const ANSWER_BYTES: usize = 9;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Written; the revision of the batch's last write.
    Written(u64),
    /// Nothing written, no revision counted.
    Refused(Refusal),
}

/// Why a command or a read was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The region has another epoch now.
    EpochNotMatch,
    /// The key of this number in the batch is outside the region.
    OutOfRange(u64),
    /// The bytes are no command: this byte is wrong.
    Malformed(u64),
}

impl Answer {
    /// Appends the answer's bytes.
    pub fn put(self, out: &mut BytesMut) {
        let (tag, number) = match self {
            Answer::Written(revision) => (WRITTEN, revision),
            Answer::Refused(Refusal::EpochNotMatch) => (EPOCH, 0),
            Answer::Refused(Refusal::OutOfRange(number)) => (RANGE, number),
            Answer::Refused(Refusal::Malformed(at)) => (MALFORMED, at),
        };
        out.put_u8(tag);
        out.put_u64_le(number);
    }

    /// Reads an answer back; `None` when the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let (&tag, number) = bytes.split_first()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        match tag {
            WRITTEN => Some(Answer::Written(number)),
            EPOCH => Some(Answer::Refused(Refusal::EpochNotMatch)),
            RANGE => Some(Answer::Refused(Refusal::OutOfRange(number))),
            MALFORMED => Some(Answer::Refused(Refusal::Malformed(number))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_encoding() {
        for answer in [
            Answer::Written(u64::MAX),
            Answer::Refused(Refusal::EpochNotMatch),
            Answer::Refused(Refusal::OutOfRange(3)),
            Answer::Refused(Refusal::Malformed(12)),
        ] {
            let mut bytes = BytesMut::new();
            answer.put(&mut bytes);
            assert_eq!(bytes.len(), ANSWER_BYTES);
            assert_eq!(Answer::decode(&bytes), Some(answer));
            assert_eq!(Answer::decode(&bytes[..8]), None);
        }
        assert_eq!(Answer::decode(&[]), None);
        assert_eq!(Answer::decode(&[9; ANSWER_BYTES]), None);
    }
}
