//! The client's messages: 100 operations in one request, and in 100 requests of one frame.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flotilla_benches::keys::spread_key;
use flotilla_client::pb;
use prost::Message;

const OPS: u64 = 100;

fn writes(range: std::ops::Range<u64>) -> Bytes {
    let value = Some(Bytes::from_static(b"sixteen bytes..."));
    let put = |i| pb::Write { key: spread_key(i), value: value.clone() };
    Bytes::from(pb::WriteBatch { writes: range.map(put).collect() }.encode_to_vec())
}

fn request(id: u64, writes: Bytes) -> pb::Request {
    let epoch = Some(pb::Epoch { version: 1, members: 1 });
    pb::Request { id, region: 7, epoch, writes, ..Default::default() }
}

fn frames(criterion: &mut Criterion) {
    let batched = vec![request(1, writes(0..OPS))];
    let single = (0..OPS).map(|i| request(i, writes(i..i + 1))).collect();
    let mut benches = criterion.benchmark_group("frame");
    benches.throughput(Throughput::Elements(OPS));
    for (name, requests) in [("one request", batched), ("a request each", single)] {
        let frame = pb::RequestFrame { requests };
        let bytes = Bytes::from(frame.encode_to_vec());
        benches.bench_function(format!("encode/{name}"), |bencher| {
            bencher.iter(|| frame.encode_to_vec());
        });
        benches.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| pb::RequestFrame::decode(bytes.clone()).expect("it was encoded here"));
        });
    }
    benches.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
