//! Ranges, page by page through the regions.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::client::{Client, mismatch};
use crate::operation::{Answer, Operation, Range};
use crate::{Result, pb};

/// A record of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Bytes,
    /// Its value; may be empty.
    pub value: Bytes,
    /// The region's revision that wrote it.
    pub mod_revision: u64,
    /// The region that holds it.
    pub region: u64,
}

/// Some consecutive records of one region, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order; may be empty.
    pub records: Vec<Record>,
    /// The region that they lie in.
    pub region: u64,
    /// The region's revision at the moment of the read.
    pub revision: u64,
}

/// Walks through a range. Each page is a read by itself; the walk is not one moment: a record
/// that is written behind it is not seen, one that is written before it is.
pub struct Scanner {
    client: Client,
    /// Where the next page starts; `None` when the range is through.
    position: Option<Bytes>,
    end: Bytes,
    left: Option<usize>,
}

impl Scanner {
    pub(crate) fn new(client: Client, start: Bytes, end: Bytes) -> Self {
        let empty = !end.is_empty() && start >= end;
        Scanner { client, position: (!empty).then_some(start), end, left: None }
    }

    /// Records in all at most; 0 = no limit.
    pub fn limit(mut self, limit: usize) -> Self {
        self.left = (limit > 0).then_some(limit);
        self
    }

    /// The next page, `None` after the last. After an error the same page may be asked for again.
    ///
    /// # Errors
    /// Every variant of [`Error`](crate::Error) but `Unknown`.
    pub async fn page(&mut self) -> Result<Option<Page>> {
        self.page_within(self.client.timeout()).await
    }

    pub(crate) async fn page_within(&mut self, timeout: Duration) -> Result<Option<Page>> {
        let Some(start) = self.position.clone() else { return Ok(None) };
        let limit = u32::try_from(self.left.unwrap_or(0)).unwrap_or(u32::MAX);
        let range = Range {
            start: start.clone(),
            end: self.end.clone(),
            until: self.end.clone(),
            limit,
            consistency: self.client.consistency(),
        };
        let operation = Operation::Scan(Box::new(range));
        let answer = self.client.execute(operation, timeout).await?;
        let Answer::Page { region, revision, records, more, region_end } = answer else {
            return Err(mismatch(&answer));
        };
        self.advance(start, &records, more, region_end);
        let records = records
            .into_iter()
            .map(|pb::Record { key, value, mod_revision, .. }| Record {
                key,
                value,
                mod_revision,
                region,
            })
            .collect();
        Ok(Some(Page { records, region, revision }))
    }

    /// Moves behind the page: within the region while it has more, otherwise into the next one.
    fn advance(&mut self, start: Bytes, records: &[pb::Record], more: bool, region_end: Bytes) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(records.len());
            if *left == 0 {
                self.position = None;
                return;
            }
        }
        self.position = match records.last() {
            Some(last) if more => Some(successor(&last.key)),
            // A page without records cannot tell where it stopped: ask the same again.
            None if more => Some(start),
            _ if region_end.is_empty() => None,
            _ if !self.end.is_empty() && region_end >= self.end => None,
            _ => Some(region_end),
        };
        if self.position.as_ref().is_some_and(|next| !self.end.is_empty() && *next >= self.end) {
            self.position = None;
        }
    }
}

/// The smallest key behind `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.extend_from_slice(&[0]);
    next.freeze()
}
