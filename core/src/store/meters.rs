//! What a store reports as it happens; what it can be asked for is in [`StoreStats`](super::StoreStats).

use metrics::Histogram;
use std::time::Duration;

/// Where a store reports each group of batches that it makes durable. The default reports nowhere.
#[derive(Debug, Clone)]
pub struct StoreMeters {
    /// How many batches the group has.
    pub group_batches: Histogram,
    /// The bytes that were written for it.
    pub group_bytes: Histogram,
    /// How long the sync (of plain redb: the whole transaction) took, in seconds.
    pub sync_seconds: Histogram,
}

impl Default for StoreMeters {
    fn default() -> Self {
        let [group_batches, group_bytes, sync_seconds] = [(); 3].map(|()| Histogram::noop());
        Self { group_batches, group_bytes, sync_seconds }
    }
}

impl StoreMeters {
    /// A group is durable.
    pub(super) fn group(&self, batches: u64, bytes: u64, sync: Duration) {
        self.group_batches.record(batches as f64);
        self.group_bytes.record(bytes as f64);
        self.sync_seconds.record(sync.as_secs_f64());
    }
}
