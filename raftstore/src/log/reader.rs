//! Reads of old entries for followers that lag behind the cache, away from the shards.

use super::LogStore;
use crate::message::{FetchTask, Fetched};

/// Does the reads; the answers are grouped by shard. Blocks on the disk.
pub fn fetch(log: &dyn LogStore, tasks: Vec<FetchTask>) -> Vec<(usize, Vec<Fetched>)> {
    let mut out: Vec<(usize, Vec<Fetched>)> = Vec::new();
    for task in tasks {
        let mut entries = Vec::new();
        let entries = log
            .entries(task.group, task.low, task.high, task.bytes_max, &mut entries)
            .map(|()| entries);
        let FetchTask { group, replica, low, .. } = task;
        let fetched = Fetched { group, replica, low, entries };
        match out.iter_mut().find(|(shard, _)| *shard == task.shard) {
            Some((_, list)) => list.push(fetched),
            None => out.push((task.shard, vec![fetched])),
        }
    }
    out
}
