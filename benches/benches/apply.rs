//! The KV state machine: 24 groups with one command of 100 puts each, as one batch.

mod timed;

use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_benches::cases::apply;
use timed::time;

fn applies(criterion: &mut Criterion) {
    time(criterion, apply::memory_large());
    time(criterion, apply::rocksdb("rocksdb", 128 << 20));
    time(criterion, apply::rocksdb("rocksdb without a table", 0));
}

criterion_group! { name = benches; config = timed::criterion(); targets = applies }
criterion_main!(benches);
