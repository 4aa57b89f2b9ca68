//! The write-ahead format as bytes; real files are tested in `rocks/damage_test.rs`.

use super::*;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const RECYCLABLE: u8 = 4;

/// Writes records as RocksDB does.
struct Writer {
    data: Vec<u8>,
    /// The file's number, when it may be recycled.
    recyclable: Option<u32>,
}

impl Writer {
    fn new(recyclable: Option<u32>) -> Self {
        Writer { data: Vec::new(), recyclable }
    }

    fn fragment(&mut self, kind: u8, payload: &[u8]) {
        let mut checked = vec![kind];
        if let Some(number) = self.recyclable {
            checked[0] += RECYCLABLE;
            checked.extend(number.to_le_bytes());
        }
        checked.extend(payload);
        let crc = crc32c::crc32c(&checked).rotate_right(15).wrapping_add(0xa282_ead8);
        self.data.extend(crc.to_le_bytes());
        self.data.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
        self.data.extend(checked);
    }

    fn record(&mut self, mut payload: &[u8]) -> usize {
        let begin = self.data.len();
        let header = if self.recyclable.is_some() { 11 } else { 7 };
        let mut first = true;
        loop {
            let left = BLOCK_BYTES - self.data.len() % BLOCK_BYTES;
            if left < header {
                self.data.resize(self.data.len() + left, 0);
                continue;
            }
            let (now, later) = payload.split_at(payload.len().min(left - header));
            let kind = match (first, later.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            self.fragment(kind, now);
            if later.is_empty() {
                return begin;
            }
            (payload, first) = (later, false);
        }
    }
}

fn records(recyclable: Option<u32>, lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let mut writer = Writer::new(recyclable);
    let begins = lengths.iter().map(|&bytes| writer.record(&vec![b'x'; bytes])).collect();
    (writer.data, begins)
}

fn torn_at(data: &[u8], number: u64) -> Option<usize> {
    match scan(data, number) {
        Verdict::Torn { cut, .. } => Some(cut),
        _ => None,
    }
}

#[test]
fn records_of_every_length_around_the_blocks_are_whole() {
    for recyclable in [None, Some(9)] {
        for slack in 0..40 {
            let (data, _) = records(recyclable, &[BLOCK_BYTES - slack, 100, 3 * BLOCK_BYTES, 0, 1]);
            assert_eq!(scan(&data, 9), Verdict::Whole, "{slack} bytes before the block's end");
        }
    }
    assert_eq!(scan(&[], 1), Verdict::Whole);
}

#[test]
fn a_cut_record_is_torn_at_its_beginning() {
    for recyclable in [None, Some(9)] {
        let (data, begins) = records(recyclable, &[50, 2 * BLOCK_BYTES, 70]);
        for end in begins[2] + 1..data.len() {
            assert_eq!(torn_at(&data[..end], 9), Some(begins[2]), "cut at {end}");
        }
        for end in (begins[1] + 1..begins[2]).step_by(97) {
            assert_eq!(torn_at(&data[..end], 9), Some(begins[1]), "cut at {end}");
        }
    }
}

#[test]
fn pages_of_the_last_record_may_arrive_in_any_order() {
    let (data, begins) = records(None, &[50, 5 * BLOCK_BYTES]);
    for page in (begins[1] / 4096..data.len() / 4096).map(|n| n * 4096) {
        let mut torn = data.clone();
        torn[page.max(begins[1])..page + 4096].fill(0);
        assert_eq!(torn_at(&torn, 1), Some(begins[1]), "page at {page}");
    }
}

#[test]
fn damage_before_a_valid_record_is_told_from_a_torn_end() {
    let (data, begins) = records(None, &[50, 600, 70]);
    for bit in 0..data.len() * 8 {
        let mut bad = data.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let hit = begins.iter().rposition(|begin| *begin <= bit / 8).unwrap();
        match scan(&bad, 1) {
            Verdict::Damaged { bad, next, .. } => {
                assert_eq!((bad, next), (begins[hit], begins[hit + 1]), "bit {bit}");
            }
            Verdict::Torn { cut, .. } => assert_eq!((hit, cut), (2, begins[2]), "bit {bit}"),
            Verdict::Whole => panic!("bit {bit} is not seen"),
        }
    }
    // A zeroed middle, which RocksDB skips without a word.
    let mut bad = data.clone();
    bad[begins[1]..begins[2]].fill(0);
    assert!(matches!(scan(&bad, 1), Verdict::Damaged { .. }));
    // The same across a block's end.
    let (mut bad, begins) = records(None, &[50, 3 * BLOCK_BYTES, 70]);
    bad[BLOCK_BYTES..2 * BLOCK_BYTES].fill(0);
    assert!(matches!(scan(&bad, 1), Verdict::Damaged { next, .. } if next == begins[2]));
}

#[test]
fn what_an_earlier_use_of_the_file_left_is_no_damage() {
    let (mut data, _) = records(Some(9), &[50, 70]);
    data.extend(records(Some(3), &[200]).0);
    assert_eq!(scan(&data, 9), Verdict::Whole);
}

#[test]
fn only_the_last_file_may_be_torn_and_a_folder_without_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = repair(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no write-ahead file"), "{error}");

    let (data, begins) = records(None, &[50, 70]);
    let (old, new) = (dir.path().join("000009.log"), dir.path().join("000010.log"));
    fs::write(&old, &data).unwrap();
    fs::write(&new, &data[..data.len() - 1]).unwrap();
    repair(dir.path()).unwrap();
    assert_eq!(fs::read(&new).unwrap(), data[..begins[1]]);

    fs::write(&old, &data[..data.len() - 1]).unwrap();
    let error = repair(dir.path()).unwrap_err().to_string();
    assert!(error.contains("000009.log is damaged at byte"), "{error}");
    assert_eq!(fs::read(&old).unwrap(), data[..data.len() - 1], "nothing was changed");
}
