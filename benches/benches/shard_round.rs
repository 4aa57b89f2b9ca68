//! Rounds of three shards in lockstep: writes until they are applied everywhere, read barriers.

mod timed;

use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_benches::cases::shard;
use flotilla_raftstore::ReadMode;
use timed::time;

fn rounds(criterion: &mut Criterion) {
    time(criterion, shard::writes(1, 24));
    time(criterion, shard::writes(24, 24));
    time(criterion, shard::writes(1_000, 1_000));
    time(criterion, shard::barriers(1, 24, ReadMode::Linearizable));
    time(criterion, shard::barriers(20, 24, ReadMode::Linearizable));
    time(criterion, shard::barriers(20, 24, ReadMode::Lease));
    time(criterion, shard::idle(24));
}

criterion_group! { name = benches; config = timed::criterion(); targets = rounds }
criterion_main!(benches);
