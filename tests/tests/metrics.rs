//! `docs/metrics.md` names what running processes say, all of it, and what kind it is.

use flotilla_tests::cluster::{Cluster, Options};
use flotilla_tests::playground::http_get;
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../docs/metrics.md");

/// Name and kind of every metric at an address.
fn said(address: &str) -> BTreeMap<String, String> {
    let (code, text) = http_get(address, "/metrics");
    assert_eq!(code, 200, "{address}");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|rest| rest.split_once(' ')).map(|(n, k)| (n.into(), k.into())).collect()
}

fn page() -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let kind = match cells.next()? {
            "c" => "counter",
            "g" => "gauge",
            "h" => "histogram",
            other => panic!("{name}: kind {other}"),
        };
        Some((name, kind.to_owned()))
    };
    PAGE.lines().filter_map(row).collect()
}

#[tokio::test]
async fn the_page_of_metrics_names_what_processes_say() {
    let cluster = Cluster::start(Options { stores: 1, regions: 2, ..Options::default() }).await;
    let mut all = said(&cluster.store_address(0));
    all.extend(said(&cluster.placement_address()));
    assert_eq!(all, page());
}
