//! The client's own work on an operation, without tasks and network.

use super::Case;
use crate::keys::spread_key;
use bytes::Bytes;
use flotilla_client::bench::Packing;
use flotilla_client::pb;
use std::hint::black_box;

const REGIONS: u8 = 24;
const OPS: u64 = 100;

fn packing() -> Packing {
    let bound = |number: u8| match number {
        0 | REGIONS => Bytes::new(),
        number => {
            let byte = u32::from(number) * 256 / u32::from(REGIONS);
            Bytes::copy_from_slice(&[u8::try_from(byte).expect("below 256")])
        }
    };
    let region = |number: u8| pb::Region {
        region: u64::from(number) + 1,
        group: u64::from(number) + 1,
        start: bound(number),
        end: bound(number + 1),
        epoch: Some(pb::Epoch { version: 1, members: 1 }),
        leader_store: 1,
        ..Default::default()
    };
    let regions: Vec<pb::Region> = (0..REGIONS).map(region).collect();
    Packing::new(&regions, OPS as usize)
}

/// Key to region.
#[must_use]
pub fn route() -> Case<()> {
    let packing = packing();
    let keys: Vec<Bytes> = (0..OPS).map(spread_key).collect();
    let run = move |()| {
        black_box(keys.iter().map(|key| packing.route(key)).sum::<u64>());
    };
    Case::new("client/route", OPS, || (), run)
}

/// 100 puts over 24 regions: routed, packed into one frame, answered.
#[must_use]
pub fn pack() -> Case<()> {
    let mut packing = packing();
    let value = Bytes::from_static(b"sixteen bytes...");
    let puts: Vec<(Bytes, Bytes)> = (0..OPS).map(|i| (spread_key(i), value.clone())).collect();
    let run = move |()| {
        let frames = packing.pack(&puts);
        assert_eq!(packing.answer(&frames), puts.len(), "every put is answered");
    };
    Case::new("client/pack and answer a frame of 100 puts", OPS, || (), run)
}
