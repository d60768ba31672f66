//! What readers see: memtables on top of the cache on top of the tables. Both stores on disk read through it.
//!
//! One lock guards the memtables and the snapshot of the tables, and a memtable leaves in the same step in which a
//! snapshot that holds its rows comes. So whoever takes the lock sees every batch applied so far, whole. The cache
//! is below the memtables, and holds a row only in the newest version that has left them: [`View::fill`] refuses a
//! row that was changed since its reading began.

use super::{
    Lsn, Peek, RangeQuery, RowKey, Slice, StoreError, Write,
    cache::RowCache,
    files::Snapshots,
    key,
    memtable::{Change, Memtable},
    merge::{self, Captured},
    row::Row,
    scrub::{self, Place, Scrubbed},
};
use bytes::Bytes;
use rustc_hash::FxHasher;
use std::{
    hash::Hasher as _,
    ops::Bound,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// How many groups of rows remember when they were last changed. A group shared by chance only costs a row its place
/// in the cache.
const TOUCHED_GROUPS: usize = 8192;
/// Rows of the active memtable copied for one slice: a bound on how long a range holds the lock.
const CAPTURED_ROWS_MAX: usize = 1024;

/// The readable state of a store.
pub(super) struct View {
    state: RwLock<State>,
    cache: RowCache,
    /// Bytes of the active memtable, and of the frozen ones, to be asked for without the lock.
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
    hits: AtomicU64,
    cache_hits: AtomicU64,
    denied: AtomicU64,
    misses: AtomicU64,
    vain_reads: AtomicU64,
}

/// What the view has answered with.
pub(super) struct Figures {
    /// Bytes in the cache.
    pub(super) cache_bytes: u64,
    /// Peeks that memory answered.
    pub(super) hits: u64,
    /// Those of them that the cache answered.
    pub(super) cache_hits: u64,
    /// Those of them that the filter answered.
    pub(super) denied: u64,
    /// Peeks that memory did not answer.
    pub(super) misses: u64,
    /// Reads of the disk that found no row.
    pub(super) vain_reads: u64,
}

struct State {
    /// Of the newest batch.
    last: Lsn,
    active: Memtable,
    /// Oldest first.
    frozen: Vec<Arc<Memtable>>,
    /// `None` once the store is closed.
    tables: Option<Arc<Snapshots>>,
    /// By group of rows, the last batch that changed one of them.
    touched: Vec<Lsn>,
    taking: Taking,
}

/// Whether batches are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    Yes,
    Closed,
    Stopped,
}

impl View {
    pub(super) fn new(tables: Snapshots, cache_bytes: u64) -> Self {
        let state = State {
            last: Lsn(0),
            active: Memtable::default(),
            frozen: Vec::new(),
            tables: Some(Arc::new(tables)),
            touched: vec![Lsn(0); TOUCHED_GROUPS],
            taking: Taking::Yes,
        };
        Self {
            state: RwLock::new(state),
            cache: RowCache::new(cache_bytes),
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            vain_reads: AtomicU64::new(0),
        }
    }

    /// Makes a batch visible. `queued` is called with its number and changes while no other batch can come between.
    pub(super) fn apply(
        &self,
        batch: Vec<Write>,
        queued: impl FnOnce(Lsn, &[Change]),
    ) -> Result<Lsn, StoreError> {
        let changes: Vec<Change> =
            batch.into_iter().map(|write| (key::encode(&write.at), write.value)).collect();
        let mut state = self.write();
        match state.taking {
            Taking::Yes => {}
            Taking::Closed => return Err(StoreError::Closed),
            Taking::Stopped => return Err(StoreError::Stopped),
        }
        if changes.is_empty() {
            return Ok(state.last);
        }
        let lsn = Lsn(state.last.0 + 1);
        state.last = lsn;
        for (key, _) in &changes {
            state.touched[group(key)] = lsn;
        }
        queued(lsn, &changes);
        state.active.apply(lsn, changes);
        self.active_bytes.store(state.active.bytes, Relaxed);
        Ok(lsn)
    }

    /// Whether batches are taken.
    pub(super) fn taking(&self) -> Taking {
        self.read_state().taking
    }

    /// Takes no more batches.
    pub(super) fn close(&self) {
        let mut state = self.write();
        if state.taking == Taking::Yes {
            state.taking = Taking::Closed;
        }
    }

    /// Takes no more batches, after an error.
    pub(super) fn stop(&self) {
        self.write().taking = Taking::Stopped;
    }

    /// Lets go of the tables, which are about to be closed. Rows on disk only can't be read any more.
    pub(super) fn release_tables(&self) {
        let released = self.write().tables.take();
        drop(released);
    }

    /// Takes everything applied so far off the active memtable; it stays visible. `None` if there is nothing.
    pub(super) fn freeze(&self) -> Option<Arc<Memtable>> {
        let mut state = self.write();
        if state.active.is_empty() {
            return None;
        }
        let frozen = Arc::new(std::mem::take(&mut state.active));
        self.active_bytes.store(0, Relaxed);
        self.frozen_bytes.fetch_add(frozen.bytes, Relaxed);
        state.frozen.push(Arc::clone(&frozen));
        Some(frozen)
    }

    /// Shows what an earlier opening has left: as the oldest memtable, before any batch is taken.
    pub(super) fn take_back(&self, left: Memtable) -> Arc<Memtable> {
        let left = Arc::new(left);
        self.frozen_bytes.fetch_add(left.bytes, Relaxed);
        self.write().frozen.insert(0, Arc::clone(&left));
        left
    }

    /// Lets go of the oldest frozen memtable, whose rows `tables` now holds.
    pub(super) fn retire(&self, frozen: &Arc<Memtable>, tables: Snapshots) {
        // Into the cache before they leave the memtables: in between they are found in both, and never in neither.
        for (key, value) in frozen.iter() {
            self.cache.put(key.clone(), value.clone());
        }
        let tables = Arc::new(tables);
        let mut state = self.write();
        state.frozen.retain(|other| !Arc::ptr_eq(other, frozen));
        self.frozen_bytes.fetch_sub(frozen.bytes, Relaxed);
        let before = state.tables.replace(tables);
        drop(state);
        drop(before);
    }

    /// Tries the checksums of some rows of the tables. Blocks.
    pub(super) fn scrub(&self, place: Place) -> Result<Scrubbed, StoreError> {
        let tables = self.read_state().tables.clone().ok_or(StoreError::Closed)?;
        let mut scrubbed = scrub::scrub(&tables, place)?;
        if !scrubbed.damaged.is_empty() {
            // What has been repaired gets into the tables with the next flush.
            let state = self.read_state();
            scrubbed.damaged.retain(|key| state.memtables(key).is_none());
        }
        Ok(scrubbed)
    }

    /// Reads from other files, which hold the same.
    pub(super) fn exchange_tables(&self, tables: Snapshots) {
        let tables = Arc::new(tables);
        let before = self.write().tables.replace(tables);
        // Closing a file waits for the disk: not under the lock.
        drop(before);
    }

    pub(super) fn peek(&self, at: &RowKey) -> Peek {
        let known = key::with_encoded(at, |key| {
            let in_memtables = self.read_state().memtables(key).cloned();
            // In this order: a row that leaves the memtables is in the cache and the filter before.
            in_memtables.or_else(|| self.cached(key)).or_else(|| self.denies(key).then_some(None))
        });
        match known {
            Some(row) => {
                self.hits.fetch_add(1, Relaxed);
                Peek::Known(row)
            }
            None => {
                self.misses.fetch_add(1, Relaxed);
                Peek::Unknown
            }
        }
    }

    fn cached(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let cached = self.cache.get(key);
        self.cache_hits.fetch_add(u64::from(cached.is_some()), Relaxed);
        cached
    }

    /// Whether the tables certainly have no such row. Asked after the memtables.
    fn denies(&self, key: &[u8]) -> bool {
        let denied = self.read_state().tables.as_ref().is_some_and(|tables| tables.deny(key));
        self.denied.fetch_add(u64::from(denied), Relaxed);
        denied
    }

    /// The rows as of now, from the disk if need be. Blocks.
    pub(super) fn read(&self, rows: &[RowKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        rows.iter().map(|at| self.read_one(at)).collect()
    }

    fn read_one(&self, at: &RowKey) -> Result<Option<Bytes>, StoreError> {
        let key = key::encode(at);
        let (tables, since) = {
            let state = self.read_state();
            if let Some(row) = state.memtables(&key) {
                return Ok(row.clone());
            }
            (state.tables.clone().ok_or(StoreError::Closed)?, state.last)
        };
        if let Some(row) = self.cache.get(&key) {
            return Ok(row);
        }
        if tables.deny(&key) {
            return Ok(None);
        }
        let row = tables.get(&key)?;
        self.vain_reads.fetch_add(u64::from(row.is_none()), Relaxed);
        // What memory holds is trusted. A damaged row is read anew each time, and fails each time.
        let sound = row.as_ref().is_none_or(|row| !at.table.holds_rows() || Row::is_sound(at, row));
        if sound {
            self.fill(key, &row, since);
        }
        Ok(row)
    }

    /// Caches a row as it was when `since` was the newest batch, unless it may have changed.
    pub(super) fn fill(&self, key: Bytes, row: &Option<Bytes>, since: Lsn) {
        // The lock is held over the insertion: no batch can be applied, and then retired, in between.
        let state = self.read_state();
        if state.touched[group(&key)] <= since {
            self.cache.put(key, row.clone());
        }
    }

    /// A slice of rows, as of some moment of the call. Blocks.
    pub(super) fn range(&self, query: &RangeQuery) -> Result<Slice, StoreError> {
        let Some((mut lower, upper)) = key::bounds(query) else {
            return Ok(Slice { rows: Vec::new(), end: true });
        };
        let upper = upper.as_ref().map_or(Bound::Unbounded, |upper| Bound::Excluded(upper.as_ref()));
        loop {
            let captured = self.capture(lower.as_ref().map(Bytes::as_ref), upper)?;
            let stop = captured.stop.clone();
            let slice = merge::slice(captured, lower.as_ref().map(Bytes::as_ref), upper, query)?;
            match stop {
                // Only removed rows so far: the caller could not tell where to go on.
                Some(stop) if slice.rows.is_empty() && !slice.end => lower = Bound::Excluded(stop),
                _ => return Ok(slice),
            }
        }
    }

    fn capture(&self, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<Captured, StoreError> {
        let state = self.read_state();
        if state.taking == Taking::Stopped {
            return Err(StoreError::Stopped);
        }
        let tables = state.tables.clone().ok_or(StoreError::Closed)?;
        let active: Vec<Change> = state
            .active
            .range(lower, upper)
            .take(CAPTURED_ROWS_MAX)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let stop = (active.len() == CAPTURED_ROWS_MAX).then(|| active.last().map(|(key, _)| key.clone()));
        Ok(Captured { active, frozen: state.frozen.clone(), tables, stop: stop.flatten() })
    }

    /// Bytes of rows in memtables.
    pub(super) fn memtable_bytes(&self) -> u64 {
        self.active_bytes() + self.frozen_bytes()
    }

    /// Bytes of rows in the memtables that are on their way into the tables.
    pub(super) fn frozen_bytes(&self) -> u64 {
        self.frozen_bytes.load(Relaxed)
    }

    /// Bytes of rows in the memtable that takes batches.
    pub(super) fn active_bytes(&self) -> u64 {
        self.active_bytes.load(Relaxed)
    }

    /// The newest batch.
    #[cfg(test)]
    pub(super) fn last(&self) -> Lsn {
        self.read_state().last
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            cache_bytes: self.cache.bytes(),
            hits: self.hits.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            denied: self.denied.load(Relaxed),
            misses: self.misses.load(Relaxed),
            vain_reads: self.vain_reads.load(Relaxed),
        }
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing that holds this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("nothing that holds this lock panics")
    }
}

impl State {
    fn memtables(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        let frozen = || self.frozen.iter().rev().find_map(|table| table.get(key));
        self.active.get(key).or_else(frozen)
    }
}

fn group(key: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(key);
    // The remainder is below the number of groups, whatever the width of `usize`.
    usize::try_from(hasher.finish() % TOUCHED_GROUPS as u64).unwrap_or(0)
}
