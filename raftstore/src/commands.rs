//! How the commands of one round share one log entry.
//!
//! Layout: one version byte, then for each command its length (u32, little endian) and bytes.
//! An empty payload is a leader's first entry. Unpacking gives slices, never copies.

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
/// Bytes that packing adds to a command.
pub const COMMAND_OVERHEAD: usize = 4;

/// Packs `commands` into one entry's data.
pub fn pack<'a>(commands: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let size: usize = commands.clone().map(|c| c.len() + COMMAND_OVERHEAD).sum();
    let mut data = BytesMut::with_capacity(size + 1);
    data.put_u8(VERSION);
    for command in commands {
        let len = u32::try_from(command.len()).expect("a command is limited to far below 4 GiB");
        data.put_u32_le(len);
        data.put_slice(command);
    }
    data.freeze()
}

/// The commands in `data`, in order; the error names what is wrong with the bytes.
pub fn unpack(data: &Bytes) -> Result<Vec<Bytes>, String> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    if data[0] != VERSION {
        return Err(format!(
            "entry format {} is not {VERSION}: written by a newer version",
            data[0]
        ));
    }
    // Checked and counted first, so that the list is made in its size.
    let (mut at, mut count) = (1, 0);
    while at < data.len() {
        let Some(head) = data.get(at..at + COMMAND_OVERHEAD) else {
            return Err(format!("length of a command is cut at byte {at} of {}", data.len()));
        };
        let len = length(head);
        at += COMMAND_OVERHEAD;
        if data.len() - at < len {
            return Err(format!("a command of {len} bytes is cut at byte {at} of {}", data.len()));
        }
        at += len;
        count += 1;
    }
    let mut commands = Vec::with_capacity(count);
    let mut at = 1;
    while at < data.len() {
        let begin = at + COMMAND_OVERHEAD;
        at = begin + length(&data[at..begin]);
        commands.push(data.slice(begin..at));
    }
    Ok(commands)
}

fn length(head: &[u8]) -> usize {
    u32::from_le_bytes(head.try_into().expect("four bytes")) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let commands = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 70_000])];
        assert_eq!(unpack(&pack(commands.iter())).unwrap(), commands);
        assert_eq!(unpack(&Bytes::new()).unwrap(), Vec::<Bytes>::new());
    }

    #[test]
    fn cut_or_foreign_bytes_are_refused() {
        let data = pack([Bytes::from_static(b"command")].iter());
        for end in 2..data.len() {
            assert!(unpack(&data.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(unpack(&Bytes::from_static(b"\x09abc")).unwrap_err().contains("format 9"));
    }
}
