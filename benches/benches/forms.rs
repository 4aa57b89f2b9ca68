//! What travels: the client's frames, the log's commands, the frames between stores; and the
//! client's routing and packing.

mod timed;

use criterion::{Criterion, criterion_group, criterion_main};
use flotilla_benches::cases::{client, frames};
use timed::time;

fn forms(criterion: &mut Criterion) {
    for one_request in [true, false] {
        time(criterion, frames::encode_requests(one_request));
        time(criterion, frames::decode_requests(one_request));
    }
    time(criterion, frames::commands());
    time(criterion, frames::envelopes());
    time(criterion, client::route());
    time(criterion, client::pack());
}

criterion_group! { name = benches; config = timed::criterion(); targets = forms }
criterion_main!(benches);
