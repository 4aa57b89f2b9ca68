//! The walker against the generated code, limits at their edges, and seeded rubbish.

use super::*;
use flotilla_client::pb;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

type Pairs = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn encode(pairs: &Pairs) -> Vec<u8> {
    let writes = pairs
        .iter()
        .map(|(key, value)| pb::Write {
            key: Bytes::copy_from_slice(key),
            value: value.as_ref().map(|value| Bytes::copy_from_slice(value)),
        })
        .collect();
    pb::WriteBatch { writes }.encode_to_vec()
}

fn walk(batch: &[u8]) -> Result<Pairs, Malformed> {
    writes(batch)
        .map(|write| {
            let write = write?;
            Ok((batch[write.key].to_vec(), write.value.map(|value| batch[value].to_vec())))
        })
        .collect()
}

fn one(key_bytes: usize, value_bytes: usize) -> Vec<u8> {
    encode(&vec![(vec![b'k'; key_bytes], Some(vec![b'v'; value_bytes]))])
}

#[test]
fn the_walk_gives_what_the_generated_code_gives() {
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..500 {
        let pairs: Pairs = (0..rng.random_range(0..20))
            .map(|_| {
                let key = vec![rng.random(); rng.random_range(0..200)];
                (key, rng.random_bool(0.7).then(|| vec![rng.random(); rng.random_range(0..300)]))
            })
            .collect();
        assert_eq!(walk(&encode(&pairs)).unwrap(), pairs);
    }
}

#[test]
fn unknown_fields_are_skipped_and_the_last_key_wins() {
    // Field 9 as varint, as fixed 64, as bytes; then a write with two keys and a field 7.
    let batch =
        b"\x48\x05\x49\x01\x02\x03\x04\x05\x06\x07\x08\x4a\x01x\x0a\x08\x0a\x01a\x38\x01\x0a\x01b";
    assert_eq!(walk(batch).unwrap(), vec![(b"b".to_vec(), None)]);
    let generated = pb::WriteBatch::decode(&batch[..]).unwrap();
    assert_eq!(generated.writes[0].key, "b");
}

#[test]
fn rubbish_never_panics_and_agrees_with_the_generated_code() {
    let mut rng = SmallRng::seed_from_u64(2);
    for _ in 0..20_000 {
        let mut batch =
            encode(&vec![(b"first".to_vec(), Some(b"value".to_vec())), (b"second".to_vec(), None)]);
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..batch.len());
            batch[at] = rng.random();
        }
        batch.truncate(rng.random_range(0..=batch.len()));
        let walked = walk(&batch);
        if let Ok(generated) = pb::WriteBatch::decode(&batch[..]) {
            let pairs: Pairs = generated
                .writes
                .into_iter()
                .map(|write| (write.key.to_vec(), write.value.map(|value| value.to_vec())))
                .collect();
            // Groups are skipped by the generated code and refused by the walk: both are safe.
            assert!(walked.is_err() || walked == Ok(pairs), "{batch:x?}");
        }
        let _ = Command::decode(&Bytes::from(batch));
    }
}

#[test]
fn commands_survive_encoding() {
    let batch = Bytes::from(one(3, 4));
    for region in [1, 127, 128, u64::MAX] {
        let epoch = Epoch { version: region, members: 300 };
        let command = Command { region, epoch, batch: batch.clone() };
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).unwrap(), command);
        assert!(Command::decode(&bytes.slice(..2)).is_err());
    }
    assert!(Command::decode(&Bytes::from_static(b"\x02\x01\x01\x01")).is_err());
    assert!(Command::decode(&Bytes::from(vec![0xff; 40])).is_err());
}

#[test]
fn limits_hold_at_their_edges() {
    for (key, accepted) in [(0, false), (1, true), (4095, true), (4096, true), (4097, false)] {
        assert_eq!(check_batch(&one(key, 1)).is_ok(), accepted, "key of {key} bytes");
        assert_eq!(check_key("key", &vec![0; key]).is_ok(), accepted, "key of {key} bytes");
    }
    let mebi = 1 << 20;
    for (value, accepted) in
        [(0, true), (mebi - 1, true), (mebi, true), (mebi + 1, false), (2 * mebi, false)]
    {
        assert_eq!(check_batch(&one(1, value)).is_ok(), accepted, "value of {value} bytes");
    }
    let full = vec![(b"key".to_vec(), Some(vec![0; mebi - 1024])); 4];
    let room = 4 * mebi - encode(&full).len();
    for (bytes, accepted) in [(4 * mebi - 1, true), (4 * mebi, true), (4 * mebi + 1, false)] {
        // A write of so many bytes: tag and length take 3, the key 3, tag and length of the value 3.
        let mut pairs = full.clone();
        pairs.push((b"k".to_vec(), Some(vec![0; room + bytes - 4 * mebi - 9])));
        let batch = encode(&pairs);
        assert_eq!(batch.len(), bytes);
        assert_eq!(check_batch(&batch).is_ok(), accepted, "batch of {bytes} bytes");
    }
}

#[test]
fn puts_are_counted() {
    let (put, delete) = ((b"a".to_vec(), Some(Vec::new())), (b"b".to_vec(), None));
    for (writes, puts) in [
        (vec![], 0),
        (vec![delete.clone(), delete.clone()], 0),
        (vec![delete, put.clone(), put], 2),
    ] {
        assert_eq!(check_batch(&encode(&writes)), Ok(puts));
    }
}

#[test]
fn errors_name_field_value_and_limit() {
    assert_eq!(check_batch(&one(0, 1)).unwrap_err(), "writes[0].key: empty, at least 1 byte");
    assert_eq!(check_batch(&one(5000, 1)).unwrap_err(), "writes[0].key: 5000 bytes, at most 4096");
    let error = check_batch(&one(1, 2 << 20)).unwrap_err();
    assert_eq!(error, "writes[0].value: 2097152 bytes, at most 1048576");
    assert!(check_batch(b"\xff").unwrap_err().starts_with("writes: not a WriteBatch"));
}
