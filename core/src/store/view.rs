//! What readers see: memtables on top of the cache on top of the tables. Both stores on disk read through it.
//!
//! Rows are applied to the active memtable, which is frozen when it is full. What has been frozen goes into the tables; or
//! it is folded first, once the log has it: its keys, and the places of its values, go to the memtable of what is folded,
//! and the values themselves only to the cache.
//!
//! One lock guards the memtables and the snapshot of the tables, and a memtable leaves in the same step in which a
//! snapshot that holds its rows comes. So whoever takes the lock sees every batch applied so far, whole. The cache holds
//! a row only in the newest version that has been folded or has left the memtables: [`View::fill`] refuses a row that was
//! changed since its reading began.
//!
//! A place that somebody has read from a memtable or the tables may be written over before the value is read there. It is
//! not what the row has any more, then: the row is looked up again.

use super::{
    Lsn, Peek, RangeQuery, RowKey, Slice, StoreError, Write,
    cache::RowCache,
    files::Snapshots,
    key,
    log::{change_bytes, values::Values},
    memtable::{Change, Entry, Folded, Fresh, Memtable, Whole},
    merge::{self, Captured},
    row::Row,
    scrub::{self, Scrubbed},
    stored::{InFile, Place, Stored},
};
use crate::env::give_way;
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
/// in the cache, or a look into memtables that do not have it.
const TOUCHED_GROUPS: usize = 1 << 16;
/// Rows of each memtable that changes copied for one slice: a bound on how long a range holds the lock.
const CAPTURED_ROWS_MAX: usize = 1024;
/// Rows that are looked up at a stretch.
const ROWS_PER_TURN: usize = 16;
/// Rows folded at a time: a bound on how long that holds the lock.
const FOLDED_ROWS: usize = 64;

/// The readable state of a store.
pub(super) struct View {
    state: RwLock<State>,
    cache: RowCache,
    /// Where values are that are in neither; none in a store without a log.
    values: Option<Values>,
    /// Bytes of the memtables, to be asked for without the lock.
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
    folded_bytes: AtomicU64,
    moving_bytes: AtomicU64,
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
    /// Bytes of records that the batches so far make.
    queued: u64,
    active: Fresh,
    /// Oldest first.
    frozen: Vec<Arc<Fresh>>,
    folded: Folded,
    /// On their way into the tables; oldest first.
    moving: Vec<Arc<Folded>>,
    /// `None` once the store is closed.
    tables: Option<Arc<Snapshots>>,
    /// By group of rows, the last batch that changed one of them.
    touched: Vec<Lsn>,
    /// The last batch of which nothing is in `active` or `frozen`.
    settled: Lsn,
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
    pub(super) fn new(tables: Snapshots, cache_bytes: u64, values: Option<Values>) -> Self {
        let state = State {
            last: Lsn(0),
            queued: 0,
            active: Fresh::default(),
            frozen: Vec::new(),
            folded: Folded::default(),
            moving: Vec::new(),
            tables: Some(Arc::new(tables)),
            touched: vec![Lsn(0); TOUCHED_GROUPS],
            settled: Lsn(0),
            taking: Taking::Yes,
        };
        Self {
            state: RwLock::new(state),
            cache: RowCache::new(cache_bytes),
            values,
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
            folded_bytes: AtomicU64::new(0),
            moving_bytes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            vain_reads: AtomicU64::new(0),
        }
    }

    /// Makes a batch visible. `queue` is called with its number, the bytes of records queued before it, and its changes
    /// while no other batch can come between.
    pub(super) fn apply(
        &self,
        batch: Vec<Write>,
        queue: impl FnOnce(Lsn, u64, &[Change]),
    ) -> Result<Lsn, StoreError> {
        let changes = batch.into_iter().map(|write| (key::encode(&write.at), write.value)).collect();
        self.apply_to(&mut self.write(), changes, queue)
    }

    /// Writes rows anew as they were when `since` was the newest batch, but for those that may have changed since; gives
    /// the others.
    pub(super) fn apply_unchanged(
        &self,
        rows: Vec<Change>,
        since: Lsn,
        queue: impl FnOnce(Lsn, u64, &[Change]),
    ) -> Result<Vec<Change>, StoreError> {
        let mut state = self.write();
        let is_unchanged = |(key, _): &Change| state.touched[group(key)] <= since;
        let (unchanged, others) = rows.into_iter().partition(is_unchanged);
        self.apply_to(&mut state, unchanged, queue)?;
        Ok(others)
    }

    fn apply_to(
        &self,
        state: &mut State,
        changes: Vec<Change>,
        queue: impl FnOnce(Lsn, u64, &[Change]),
    ) -> Result<Lsn, StoreError> {
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
        queue(lsn, state.queued, &changes);
        for change in changes {
            let bytes = change_bytes(&change);
            let (key, value) = change;
            state.active.put(key, Whole { value, queued: state.queued });
            state.queued += bytes;
        }
        state.active.reaches(lsn, 1);
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
    pub(super) fn freeze(&self) -> Option<Arc<Fresh>> {
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

    /// Shows what an earlier opening has left: before any batch is taken.
    pub(super) fn take_back(&self, left: Folded) -> Arc<Folded> {
        let left = Arc::new(left);
        self.moving_bytes.fetch_add(left.bytes, Relaxed);
        self.write().moving.push(Arc::clone(&left));
        left
    }

    /// Lets go of the values of the oldest frozen memtable. `stored` says what is to be kept of a row; one fold at a time.
    pub(super) fn fold(&self, frozen: &Arc<Fresh>, stored: impl Fn(&[u8], &Whole) -> Option<Stored>) {
        // Into the cache before they leave the frozen memtable, which is looked at first.
        let mut rows = frozen.iter();
        loop {
            let some: Vec<_> = rows.by_ref().take(FOLDED_ROWS).collect();
            if some.is_empty() {
                break;
            }
            for (key, Whole { value, .. }) in &some {
                self.cache.put((*key).clone(), value.clone());
            }
            let folded: Vec<_> =
                some.into_iter().map(|(key, whole)| (key.clone(), stored(key, whole))).collect();
            give_way();
            let mut state = self.write();
            for (key, stored) in folded {
                state.folded.put(key, stored);
            }
            self.folded_bytes.store(state.folded.bytes, Relaxed);
        }
        let mut state = self.write();
        state.folded.reaches(frozen.last, frozen.batches);
        state.settle(frozen);
        self.frozen_bytes.fetch_sub(frozen.bytes, Relaxed);
    }

    /// Takes everything folded so far off its memtable; it stays visible. `None` if there is nothing. Not during a fold.
    pub(super) fn freeze_folded(&self) -> Option<Arc<Folded>> {
        let mut state = self.write();
        if state.folded.is_empty() {
            return None;
        }
        let moving = Arc::new(std::mem::take(&mut state.folded));
        self.folded_bytes.store(0, Relaxed);
        self.moving_bytes.fetch_add(moving.bytes, Relaxed);
        state.moving.push(Arc::clone(&moving));
        Some(moving)
    }

    /// Lets go of the oldest frozen memtable, whose rows `tables` now holds.
    pub(super) fn retire(&self, frozen: &Arc<Fresh>, tables: Snapshots) {
        // Into the cache before they leave the memtables: in between they are found in both, and never in neither.
        for (key, Whole { value, .. }) in frozen.iter() {
            self.cache.put(key.clone(), value.clone());
        }
        self.replace_tables(tables, |state| {
            state.settle(frozen);
            self.frozen_bytes.fetch_sub(frozen.bytes, Relaxed);
        });
    }

    /// Lets go of the oldest memtable on its way into the tables: `tables` now holds its rows.
    pub(super) fn retire_folded(&self, moved: &Arc<Folded>, tables: Snapshots) {
        self.replace_tables(tables, |state| {
            state.moving.retain(|other| !Arc::ptr_eq(other, moved));
            self.moving_bytes.fetch_sub(moved.bytes, Relaxed);
        });
    }

    /// Reads from other files, which hold the same.
    pub(super) fn exchange_tables(&self, tables: Snapshots) {
        self.replace_tables(tables, |_| {});
    }

    /// Reads from these tables from the moment on in which `leave` lets go of what they hold.
    fn replace_tables(&self, tables: Snapshots, leave: impl FnOnce(&mut State)) {
        let tables = Arc::new(tables);
        let mut state = self.write();
        leave(&mut state);
        let before = state.tables.replace(tables);
        drop(state);
        // Closing a file waits for the disk: not under the lock.
        drop(before);
    }

    /// Tries the checksums of some rows of the tables. Blocks.
    pub(super) fn scrub(&self, place: scrub::Place) -> Result<Scrubbed, StoreError> {
        let tables = self.read_state().tables.clone().ok_or(StoreError::Closed)?;
        let mut scrubbed = scrub::scrub(&tables, place, &|key, place| self.value_at(key, place))?;
        // What has been repaired gets into the tables with the next flush; and a value may have moved meanwhile.
        let mut damaged = Vec::new();
        for key in std::mem::take(&mut scrubbed.damaged) {
            let in_memory = self.read_state().memtables(&key).is_some();
            if !in_memory && !self.stored_row(&key)?.is_none_or(|(_, row)| scrub::is_sound(&key, &row)) {
                damaged.push(key);
            }
        }
        scrubbed.damaged = damaged;
        Ok(scrubbed)
    }

    /// Which of some rows still have their values in these places, as of the batch that comes with them. Blocks.
    pub(super) fn still_there(&self, rows: &[(Bytes, Place)]) -> Result<(Vec<usize>, Lsn), StoreError> {
        // All as of one moment: what leaves the memtables after it is not in these tables.
        let (in_memtables, tables, since) = {
            let state = self.read_state();
            let in_memtables: Vec<_> = rows.iter().map(|(key, _)| state.memtables(key)).collect();
            (in_memtables, state.tables.clone().ok_or(StoreError::Closed)?, state.last)
        };
        let mut there = Vec::new();
        for (index, ((key, place), in_memtables)) in rows.iter().zip(in_memtables).enumerate() {
            if index % ROWS_PER_TURN == ROWS_PER_TURN - 1 {
                give_way();
            }
            let own = match in_memtables {
                Some(InMemory::Elsewhere(place)) => Some(place),
                Some(InMemory::Row(_)) => None,
                None => tables.get(key)?.and_then(|stored| InFile::decode(key, &stored).place()),
            };
            if own == Some(*place) {
                there.push(index);
            }
        }
        Ok((there, since))
    }

    pub(super) fn peek(&self, at: &RowKey) -> Peek {
        // In this order: a row that is folded is in the cache before, one that leaves the memtables in the filter too.
        let known = key::with_encoded(at, |key| {
            let fresh = self.read_state().fresh(key).map(|whole| whole.value.clone());
            fresh.or_else(|| self.cached(key)).or_else(|| {
                let in_memtables = self.read_state().memtables(key);
                match in_memtables {
                    Some(InMemory::Row(row)) => Some(row),
                    Some(InMemory::Elsewhere(_)) => None,
                    None => self.denies(key).then_some(None),
                }
            })
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
        if let Some(InMemory::Row(row)) = self.read_state().memtables(&key) {
            return Ok(row);
        }
        if let Some(row) = self.cache.get(&key) {
            return Ok(row);
        }
        let Some((since, row)) = self.stored_row(&key)? else { return Ok(None) };
        // What memory holds is trusted. A damaged row is read anew each time, and fails each time.
        if !at.table.holds_rows() || Row::is_sound(at, &row) {
            self.fill(key, &Some(row.clone()), since);
        }
        Ok(Some(row))
    }

    /// The row as of now, wherever it is, and a batch since which it has not changed. Blocks.
    fn stored_row(&self, key: &Bytes) -> Result<Option<(Lsn, Bytes)>, StoreError> {
        let mut before = None;
        // Each turn but the first means that the row has been written anew meanwhile.
        loop {
            let (found, tables, since) = {
                let state = self.read_state();
                (state.memtables(key), state.tables.clone().ok_or(StoreError::Closed)?, state.last)
            };
            let place = match found {
                Some(InMemory::Row(row)) => return Ok(row.map(|row| (since, row))),
                Some(InMemory::Elsewhere(place)) => place,
                None => {
                    if tables.deny(key) {
                        return Ok(None);
                    }
                    let Some(stored) = self.look_up(&tables, key)? else {
                        self.fill(key.clone(), &None, since);
                        return Ok(None);
                    };
                    match InFile::decode(key, &stored) {
                        InFile::Here(value) => return Ok(Some((since, stored.slice_ref(value)))),
                        InFile::There(place) => place,
                    }
                }
            };
            if let Some(value) = self.value_at(key, place)? {
                return Ok(Some((since, value)));
            }
            if before == Some(place) {
                return Ok(Some((since, UNREADABLE)));
            }
            before = Some(place);
        }
    }

    /// The value that a row had in a place; none if it is not there any more.
    fn value_of_captured(&self, key: &Bytes, place: Place) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.value_at(key, place)? {
            return Ok(Some(value));
        }
        let (there, _) = self.still_there(&[(key.clone(), place)])?;
        Ok((!there.is_empty()).then_some(UNREADABLE))
    }

    fn look_up(&self, tables: &Snapshots, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let stored = tables.get(key)?;
        self.vain_reads.fetch_add(u64::from(stored.is_none()), Relaxed);
        Ok(stored)
    }

    fn value_at(&self, key: &[u8], place: Place) -> Result<Option<Bytes>, StoreError> {
        self.values.as_ref().map_or(Ok(None), |values| values.read(key, place))
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
            let resolve = |key: &Bytes, place| self.value_of_captured(key, place);
            let slice = merge::slice(captured, lower.as_ref().map(Bytes::as_ref), upper, query, &resolve)?;
            let Some(slice) = slice else { continue };
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
        let active = rows_of(&state.active, lower, upper);
        let folded = rows_of(&state.folded, lower, upper);
        let stop = [&active, &folded]
            .into_iter()
            .filter(|rows| rows.len() == CAPTURED_ROWS_MAX)
            .filter_map(|rows| rows.last().map(|(key, _)| key.clone()))
            .min();
        let (frozen, moving) = (state.frozen.clone(), state.moving.clone());
        Ok(Captured { active, frozen, folded, moving, tables, stop })
    }

    /// Bytes of rows in memtables.
    pub(super) fn memtable_bytes(&self) -> u64 {
        self.active_bytes()
            + self.frozen_bytes.load(Relaxed)
            + self.folded_bytes()
            + self.moving_bytes.load(Relaxed)
    }

    /// Bytes of rows in the memtables that are on their way into the tables.
    pub(super) fn frozen_bytes(&self) -> u64 {
        self.frozen_bytes.load(Relaxed) + self.moving_bytes.load(Relaxed)
    }

    /// Bytes of rows that the log has, and that are not yet on their way into the tables.
    pub(super) fn folded_bytes(&self) -> u64 {
        self.folded_bytes.load(Relaxed)
    }

    /// Bytes of rows in the memtable that takes batches.
    pub(super) fn active_bytes(&self) -> u64 {
        self.active_bytes.load(Relaxed)
    }

    /// The newest batch.
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

/// What a row is answered with whose value can't be read: it is there, and no checksum is right for it.
const UNREADABLE: Bytes = Bytes::from_static(b"");

/// What the memtables have of a row.
enum InMemory {
    /// The row, or that it has been removed.
    Row(Option<Bytes>),
    /// Where its value is.
    Elsewhere(Place),
}

impl State {
    /// The row, if the newest of its versions is in a memtable that has not been folded.
    fn fresh(&self, key: &[u8]) -> Option<&Whole> {
        if self.touched[group(key)] <= self.settled {
            return None;
        }
        let frozen = || self.frozen.iter().rev().find_map(|table| table.get(key));
        self.active.get(key).or_else(frozen)
    }

    /// Lets go of the oldest frozen memtable.
    fn settle(&mut self, frozen: &Arc<Fresh>) {
        self.frozen.retain(|other| !Arc::ptr_eq(other, frozen));
        self.settled = frozen.last;
    }

    fn memtables(&self, key: &[u8]) -> Option<InMemory> {
        if let Some(whole) = self.fresh(key) {
            return Some(InMemory::Row(whole.value.clone()));
        }
        let moving = || self.moving.iter().rev().find_map(|table| table.get(key));
        let stored = self.folded.get(key).or_else(moving)?;
        Some(match stored {
            None => InMemory::Row(None),
            Some(Stored::Here(value)) => InMemory::Row(Some(value.clone())),
            Some(Stored::There(place)) => InMemory::Elsewhere(*place),
        })
    }
}

/// The first rows of a memtable between the bounds.
fn rows_of<E: Entry>(
    table: &Memtable<E>,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
) -> Vec<(Bytes, Option<Stored>)> {
    let rows = table.range(lower, upper).take(CAPTURED_ROWS_MAX);
    rows.map(|(key, entry)| (key.clone(), entry.stored())).collect()
}

fn group(key: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(key);
    // The remainder is below the number of groups, whatever the width of `usize`.
    usize::try_from(hasher.finish() % TOUCHED_GROUPS as u64).unwrap_or(0)
}
