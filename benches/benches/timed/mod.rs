//! A case under criterion.

use criterion::{BatchSize, Criterion, Throughput};
use flotilla_benches::cases::Case;
use std::time::Duration;

/// Few samples and short times: what is compared here differs by more than their noise, and all
/// of them together are to take minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// Measures the time of a run.
pub fn time<I: 'static>(criterion: &mut Criterion, case: Case<I>) {
    let Case { name, operations, mut input, mut run } = case;
    let (group, what) = name.split_once('/').expect("names are `subject/what`");
    let mut benches = criterion.benchmark_group(group);
    benches.throughput(Throughput::Elements(operations));
    benches.bench_function(what, |bencher| {
        bencher.iter_batched(&mut input, &mut run, BatchSize::PerIteration);
    });
    benches.finish();
}
