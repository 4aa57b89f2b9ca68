//! A group's records in memory, as the bytes of its dump: never changed, only followed by others.
//!
//! ```text
//! "FLOTDUMP" | format u32 | group u64
//! then a record: column (1 = data, 2 = system) u8 | key length u32 | value length u32 | key | value
//! at the end: 0 u8 | records u64 | CRC-32C u32 of everything before it
//! ```
//!
//! Numbers are little endian. Records are written ascending by column and key. Earlier versions
//! wrote them in no order, so what is read is put in order if need be.
//!
//! A hash index beside them spares a get the way through the order, where every step misses the
//! processor's cache.

use super::table::{Pace, Records, Sorted, hash_of};
use super::{Column, OpenError};
use flotilla_raftstore::GroupId;
use hashbrown::HashTable;
use std::ops::Range;
use std::path::Path;

/// Records between two looks at the clock.
const STEP: usize = 64;
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"FLOTDUMP";
const HEAD_BYTES: usize = 8 + 4 + 8;
const RECORD_HEAD_BYTES: usize = 1 + 4 + 4;
const TAIL_BYTES: usize = 1 + 8 + 4;
const DATA: u8 = 1;
const SYSTEM: u8 = 2;
const END: u8 = 0;

/// See the module.
pub struct Content {
    group: GroupId,
    bytes: Vec<u8>,
    /// Where the records of `Column::Data` begin, ascending by key.
    data: Vec<usize>,
    /// The same of `Column::System`: a few.
    system: Vec<usize>,
    /// All of `data`.
    index: HashTable<usize>,
}

impl Content {
    /// Without a record.
    pub fn empty(group: GroupId) -> Content {
        let mut content = Content::begin(group, 0);
        content.finish();
        content
    }

    /// What is here with the changes on top. Works in steps of `pace`.
    pub fn merge(&self, data: &Records, system: &Records, pace: &Pace<'_>) -> Content {
        let room = self.bytes.len() + data.bytes() + system.bytes();
        let mut next = Content::begin(self.group, room);
        next.push_merged(self, Column::Data, data.sorted(pace), pace);
        next.push_merged(self, Column::System, system.sorted(pace), pace);
        next.finish();
        next.make_index(pace);
        next
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The whole dump.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the column has no record.
    pub fn is_empty(&self, column: Column) -> bool {
        self.places(column).is_empty()
    }

    /// The value of `key`.
    pub fn get(&self, column: Column, key: &[u8]) -> Option<&[u8]> {
        let same = |place: &&usize| self.key(**place) == key;
        let place = match column {
            Column::Data => self.index.find(hash_of(key), |place| same(&place)),
            Column::System => self.system.iter().find(same),
        };
        place.map(|place| &self.bytes[self.value_range(*place)])
    }

    /// The records from `start` on, ascending.
    pub fn scan(&self, column: Column, start: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let places = self.places(column);
        let from = places.partition_point(|place| self.key(*place) < start);
        places[from..].iter().map(|place| (self.key(*place), &self.bytes[self.value_range(*place)]))
    }

    /// Checks the bytes of the dump at `path` and takes them.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Content, OpenError> {
        let damaged = |reason: &str| OpenError::damaged(path, reason);
        if bytes.len() < HEAD_BYTES + TAIL_BYTES || &bytes[..8] != MAGIC {
            return Err(damaged("it is too short, or does not begin as a dump"));
        }
        let format = u32_at(&bytes, 8);
        if format > FORMAT {
            let (dir, found) = (path.to_owned(), format.to_string());
            return Err(OpenError::NewerFormat { dir, found, known: FORMAT });
        }
        let crc_at = bytes.len() - 4;
        if crc32c::crc32c(&bytes[..crc_at]) != u32_at(&bytes, crc_at) {
            return Err(damaged("its checksum does not match"));
        }

        // The checksum holds, so what follows was written by this code; a slice still never panics.
        let group = GroupId(u64_at(&bytes, 12));
        let mut content = Content { bytes, ..Content::begin(group, 0) };
        let mut ordered = true;
        let mut at = HEAD_BYTES;
        while at < crc_at && content.bytes[at] != END {
            let column = match content.bytes[at] {
                DATA => Column::Data,
                SYSTEM => Column::System,
                _ => return Err(damaged("it holds an unknown column")),
            };
            let Some(end) = record_end(&content.bytes[..crc_at], at) else {
                return Err(damaged("a record is cut"));
            };
            ordered &= column == Column::System || content.system.is_empty();
            content.places_mut(column).push(at);
            at = end;
        }
        let records = content.data.len() + content.system.len();
        let whole = at + TAIL_BYTES == content.bytes.len();
        if !whole || records as u64 != u64_at(&content.bytes, at + 1) {
            return Err(damaged("records are missing"));
        }
        if !ordered || !content.is_ordered() {
            content = content.in_order();
            if !content.is_ordered() {
                return Err(damaged("it holds a key twice"));
            }
        }
        content.make_index(&Pace::full());
        Ok(content)
    }

    fn begin(group: GroupId, room: usize) -> Content {
        let mut bytes = Vec::with_capacity(room.max(HEAD_BYTES + TAIL_BYTES));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&group.0.to_le_bytes());
        Content { group, bytes, data: Vec::new(), system: Vec::new(), index: HashTable::new() }
    }

    fn finish(&mut self) {
        let records = self.data.len() + self.system.len();
        self.bytes.push(END);
        self.bytes.extend_from_slice(&(records as u64).to_le_bytes());
        self.bytes.extend_from_slice(&crc32c::crc32c(&self.bytes).to_le_bytes());
    }

    fn make_index(&mut self, pace: &Pace<'_>) {
        let hash = |place: &usize| hash_of(self.key(*place));
        let mut index = HashTable::with_capacity(self.data.len());
        for places in self.data.chunks(STEP) {
            for place in places {
                index.insert_unique(hash(place), *place, hash);
            }
            pace.step();
        }
        self.index = index;
    }

    /// Pushes the column's records of `old` with the changes: what lies between two of these is
    /// copied at once.
    fn push_merged(&mut self, old: &Content, column: Column, changes: Sorted<'_>, pace: &Pace<'_>) {
        let places = old.places(column);
        self.places_mut(column).reserve_exact(places.len() + changes.size_hint().0);
        let mut copied = 0;
        for (i, (key, value)) in changes.enumerate() {
            if i % STEP == 0 {
                pace.step();
            }
            let at = old.seek(column, copied, key);
            self.push_range(old, column, copied..at);
            if let Some(value) = value {
                self.push(column, key, value);
            }
            copied = at + usize::from(places.get(at).is_some_and(|place| old.key(*place) == key));
        }
        self.push_range(old, column, copied..places.len());
    }

    fn push(&mut self, column: Column, key: &[u8], value: &[u8]) {
        let place = self.bytes.len();
        self.places_mut(column).push(place);
        self.bytes.push(match column {
            Column::Data => DATA,
            Column::System => SYSTEM,
        });
        self.bytes.extend_from_slice(&length(key).to_le_bytes());
        self.bytes.extend_from_slice(&length(value).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    /// Records that follow each other in `old` do so in its bytes, too.
    fn push_range(&mut self, old: &Content, column: Column, range: Range<usize>) {
        let places = &old.places(column)[range];
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&old.bytes[*first..old.value_range(*last).end]);
        self.places_mut(column).extend(places.iter().map(|place| place - first + begin));
    }

    /// The first of the records from `from` on whose key is not below `key`; next to `from` it is
    /// found fast.
    fn seek(&self, column: Column, from: usize, key: &[u8]) -> usize {
        let places = &self.places(column)[from..];
        let below = |place: &usize| self.key(*place) < key;
        let mut step = 1;
        while places.get(step - 1).is_some_and(below) {
            step *= 2;
        }
        let (low, high) = (step / 2, places.len().min(step - 1));
        from + low + places[low..high].partition_point(below)
    }

    fn is_ordered(&self) -> bool {
        let ascending = |places: &[usize]| places.is_sorted_by(|a, b| self.key(*a) < self.key(*b));
        ascending(&self.data) && ascending(&self.system)
    }

    fn in_order(&self) -> Content {
        let mut next = Content::begin(self.group, self.bytes.len());
        for column in [Column::Data, Column::System] {
            let mut places = self.places(column).to_vec();
            places.sort_by_key(|place| self.key(*place));
            for place in places {
                next.push(column, self.key(place), &self.bytes[self.value_range(place)]);
            }
        }
        next.finish();
        next
    }

    fn places(&self, column: Column) -> &[usize] {
        match column {
            Column::Data => &self.data,
            Column::System => &self.system,
        }
    }

    fn places_mut(&mut self, column: Column) -> &mut Vec<usize> {
        match column {
            Column::Data => &mut self.data,
            Column::System => &mut self.system,
        }
    }

    fn key(&self, place: usize) -> &[u8] {
        let begin = place + RECORD_HEAD_BYTES;
        &self.bytes[begin..begin + u32_at(&self.bytes, place + 1) as usize]
    }

    fn value_range(&self, place: usize) -> Range<usize> {
        let begin = place + RECORD_HEAD_BYTES + u32_at(&self.bytes, place + 1) as usize;
        begin..begin + u32_at(&self.bytes, place + 5) as usize
    }
}

/// The end of the record at `at`, unless `bytes` end before it.
fn record_end(bytes: &[u8], at: usize) -> Option<usize> {
    let head = bytes.get(at..at + RECORD_HEAD_BYTES)?;
    let end = at + RECORD_HEAD_BYTES + u32_at(head, 1) as usize + u32_at(head, 5) as usize;
    (end <= bytes.len()).then_some(end)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are limited to far below 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    const GROUP: GroupId = GroupId(7);
    const COLUMNS: [Column; 2] = [Column::Data, Column::System];

    type Model = BTreeMap<(Column, Vec<u8>), Vec<u8>>;

    fn parse(bytes: Vec<u8>) -> Result<Content, OpenError> {
        Content::parse(Path::new("some.dump"), bytes)
    }

    fn all(content: &Content) -> Model {
        let of = |column| {
            let records = content.scan(column, b"");
            records.map(move |(key, value)| ((column, key.to_vec()), value.to_vec()))
        };
        COLUMNS.into_iter().flat_map(of).collect()
    }

    #[test]
    fn merges_behave_like_ordered_maps_and_their_bytes_are_dumps() {
        let mut rng = SmallRng::seed_from_u64(4);
        for round in 0..60 {
            let (mut content, mut model) = (Content::empty(GROUP), Model::new());
            let keys = [3, 100, 5_000][round % 3];
            for _ in 0..8 {
                let mut changes = [Records::default(), Records::default()];
                for _ in 0..[0, 1, 30, 3_000][rng.random_range(0..4)] {
                    let at = rng.random_range(0..COLUMNS.len());
                    let key = rng.random_range(0..keys).to_string().into_bytes();
                    let value = vec![rng.random(); rng.random_range(0..4)];
                    let value = rng.random_bool(0.6).then_some(value);
                    changes[at].set(&key, value.as_deref());
                    match value {
                        Some(value) => model.insert((COLUMNS[at], key), value),
                        None => model.remove(&(COLUMNS[at], key)),
                    };
                }
                content = content.merge(&changes[0], &changes[1], &Pace::full());
                assert_eq!(all(&content), model);
                assert_eq!(all(&parse(content.bytes.clone()).unwrap()), model);
                for column in COLUMNS {
                    let key = rng.random_range(0..keys).to_string().into_bytes();
                    let from = content.scan(column, &key).next().map(|(key, _)| key);
                    let mut expected = model.range((column, key.clone())..);
                    let expected = expected.next().filter(|((of, _), _)| *of == column);
                    assert_eq!(from, expected.map(|((_, key), _)| &key[..]));
                    let found = content.get(column, &key);
                    assert_eq!(found, model.get(&(column, key)).map(|value| &value[..]));
                }
            }
        }
    }

    #[test]
    fn records_in_no_order_are_put_in_order_and_none_is_there_twice() {
        let mut content = Content::begin(GROUP, 0);
        for (column, key) in
            [(Column::System, "c"), (Column::Data, "b"), (Column::Data, "a"), (Column::System, "b")]
        {
            content.push(column, key.as_bytes(), b"value");
        }
        content.finish();
        let content = parse(content.bytes).unwrap();
        let [data, system] =
            COLUMNS.map(|column| content.scan(column, b"").map(|(key, _)| key).collect::<Vec<_>>());
        assert_eq!((data, system), (vec![&b"a"[..], b"b"], vec![&b"b"[..], b"c"]));
        assert_eq!(
            content.bytes,
            content.merge(&Records::default(), &Records::default(), &Pace::full()).bytes
        );

        let mut twice = Content::begin(GROUP, 0);
        twice.push(Column::Data, b"a", b"1");
        twice.push(Column::Data, b"a", b"2");
        twice.finish();
        let error = parse(twice.bytes).err().unwrap().to_string();
        assert!(error.contains("twice"), "{error}");
    }
}
