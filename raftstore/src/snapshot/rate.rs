//! How fast bytes may go, for all who share it.

use crate::types::Nanos;
use parking_lot::Mutex;
use std::time::Duration;

/// A limit in bytes a second. Whoever takes a block waits first until those before it are paid for.
pub(crate) struct Rate {
    bytes_per_second: u64,
    free_at: Mutex<Nanos>,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Rate { bytes_per_second, free_at: Mutex::default() }
    }

    /// Counts `bytes` at the moment `now`; how long to wait before they may go.
    pub(crate) fn take(&self, now: Nanos, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let mut free_at = self.free_at.lock();
        let begin = free_at.0.max(now.0);
        *free_at = Nanos(begin.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)));
        Duration::from_nanos(begin - now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_by_all_keeps_to_the_rate_and_nothing_is_saved_up() {
        let rate = Rate::new(1_000);
        let wait = |now: u64, bytes| rate.take(Nanos(now * 1_000_000), bytes).as_millis();
        assert_eq!(wait(0, 500), 0);
        assert_eq!(wait(0, 100), 500);
        assert_eq!(wait(200, 100), 400, "the work itself took time");
        assert_eq!(wait(9_000, 100), 0, "a rest");
        assert_eq!(wait(9_000, 100), 100, "does not allow more later");
    }
}
