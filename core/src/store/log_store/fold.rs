//! The fold task: what the log has durably leaves memory, but for keys and places.

use super::{Log, Taking};
use crate::store::{
    Lsn, StoreError,
    log::{record_bytes, writer::Run},
    memtable::Folded,
    stored::{Place, Stored},
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Memtables are folded when they are so much of the bound: two of them, and two of what is moved into the tables at a
/// time, fit below the point where writes are slowed down.
const FRESH_SHARE: u64 = 16;

impl Log {
    pub(super) async fn fold(self: Arc<Self>) {
        loop {
            if self.serving.view.taking() != Taking::Yes {
                // What is left is folded by the flush.
                return;
            }
            if !self.is_fold_due() {
                self.fold.notified().await;
                continue;
            }
            let folding = self.folding.lock().await;
            if let Err(error) = self.fold_active().await {
                self.serving.fail(error);
                return;
            }
            drop(folding);
            if self.is_flush_due() {
                self.flush.notify_one();
            }
        }
    }

    pub(super) fn is_fold_due(&self) -> bool {
        self.serving.view.active_bytes() >= (self.serving.config.backlog_bytes_max / FRESH_SHARE).max(1)
    }

    /// Everything applied so far, folded.
    pub(super) async fn take_folded(&self) -> Result<Option<Arc<Folded>>, StoreError> {
        let _folding = self.folding.lock().await;
        // A fold that was cut off has left rows that must not be passed over.
        if self.serving.view.taking() == Taking::Stopped {
            return Err(StoreError::Stopped);
        }
        self.flush_asked.store(false, Relaxed);
        self.fold_active().await?;
        Ok(self.serving.view.freeze_folded())
    }

    /// Folds everything applied so far.
    async fn fold_active(&self) -> Result<(), StoreError> {
        let Some(frozen) = self.serving.view.freeze() else { return Ok(()) };
        self.hurry();
        self.until_durable(frozen.last).await?;
        let (view, config, runs) =
            (Arc::clone(&self.serving.view), self.serving.config.log.clone(), self.runs().clone());
        let fold = move || {
            view.fold(&frozen, |key, whole| {
                let value = whole.value.as_ref()?;
                let place = place_in(&runs, key, value, whole.queued)
                    .filter(|_| config.keeps_in_log(key, value.len()));
                Some(place.map_or_else(|| Stored::Here(value.clone()), Stored::There))
            });
            Ok(frozen.iter().map(|(_, whole)| whole.queued).max())
        };
        let last = self.serving.block(fold).await?;
        let mut runs = self.runs();
        // The last run of these rows may hold others, which came after.
        while runs.get(1).zip(last).is_some_and(|(next, last)| next.queued <= last) {
            runs.pop_front();
        }
        Ok(())
    }

    /// Waits for the log. Not on the progress that others watch: whom that wakes first differs from run to run.
    pub(super) async fn until_durable(&self, lsn: Lsn) -> Result<(), StoreError> {
        loop {
            let written = self.written.notified();
            if self.serving.progress.borrow().durable >= lsn {
                return Ok(());
            }
            if self.serving.view.taking() == Taking::Stopped {
                return Err(StoreError::Stopped);
            }
            written.await;
        }
    }
}

/// Where the log has a row of which it is known how much had been queued before it.
fn place_in(runs: &VecDeque<Run>, key: &[u8], value: &Bytes, queued: u64) -> Option<Place> {
    let run = runs.get(runs.partition_point(|run| run.queued <= queued).checked_sub(1)?)?;
    let offset = u32::try_from(run.at + (queued - run.queued)).ok()?;
    let bytes = u32::try_from(record_bytes(key.len(), value.len())).ok()?;
    Some(Place { segment: run.segment, offset, bytes })
}
