//! Compaction: the rows of a store file that is mostly free go to a new one, which then takes its place.
//!
//! redb reuses the pages of removed rows and seldom gives them back. The rows are copied in slices, in order, between two
//! flushes; a flush that comes in between changes the old file as always, and of the new one what has been copied. When
//! all rows have been, the new file has what the old one has, is made durable and renamed over it. Until then nothing
//! rests on it: what a crash leaves of it is removed by the next opening.

use super::{
    OpenError, StoreError,
    files::StoreFiles,
    memtable::Folded,
    stored::Encoded,
    tables::{Rows, Tables},
};
use crate::env::Disk;
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// Rows take at most twice their bytes: leaves are half full at least, and pages are powers of two.
const PAGES_PER_BYTE_MAX: u64 = 2;

/// A store file whose rows are on their way to a new one.
pub(super) struct Compaction {
    /// Which file.
    pub(super) number: usize,
    old: Arc<Tables>,
    new: Tables,
    /// The last row that the new file has.
    copied: Option<Bytes>,
}

/// Why a compaction was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompactionError {
    /// The new file can't be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether surely more than half of so large a file is free, and it is not small.
pub(super) fn is_sparse(file: &Tables, file_bytes_min: u64) -> bool {
    let sparse = |live: u64| file.file_bytes() > 2 * PAGES_PER_BYTE_MAX * live;
    file.file_bytes() >= file_bytes_min && file.live_bytes().is_some_and(sparse)
}

impl Compaction {
    /// Makes the new file; none if there is no room for it beside what is reserved. Blocks.
    pub(super) fn begin(
        disk: &dyn Disk,
        files: &StoreFiles,
        number: usize,
        reserve_bytes: u64,
    ) -> Result<Option<Self>, CompactionError> {
        let old = Arc::clone(&files.all()[number]);
        // redb doubles a file that it makes larger.
        let pages = 2 * PAGES_PER_BYTE_MAX * old.live_bytes().unwrap_or(0);
        if files.free_bytes(disk)? < pages.saturating_add(reserve_bytes) {
            return Ok(None);
        }
        files.remove_unfinished(disk, number)?;
        let new = files.successor(disk, number)?;
        Ok(Some(Self { number, old, new, copied: None }))
    }

    /// Copies some rows; whether there may be more. Blocks.
    pub(super) fn copy(&mut self, rows_max: usize, bytes_max: u64) -> Result<bool, StoreError> {
        let snapshot = self.old.snapshot()?;
        let after = self.copied.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = Rows::new(&snapshot, after, Bound::Unbounded)?;
        let (mut slice, mut bytes) = (Vec::new(), 0);
        while slice.len() < rows_max && bytes < bytes_max {
            let Some((key, value)) = rows.next()? else { break };
            bytes += (key.len() + value.len()) as u64;
            slice.push((key, value.copy()));
        }
        let Some((last, _)) = slice.last() else { return Ok(false) };
        let last = last.clone();
        let part = self.new.begin_part()?;
        // As it stands: where a value is does not change.
        part.change(slice.iter().map(|(key, stored)| (key, Some(Encoded::Plain(stored)))))?;
        part.commit()?;
        self.copied = Some(last);
        Ok(true)
    }

    /// Changes what has been copied as a flush has changed the old file. Blocks.
    pub(super) fn follow(&self, files: &StoreFiles, moved: &Folded) -> Result<(), StoreError> {
        let Some(copied) = &self.copied else { return Ok(()) };
        let moved = moved.of_file(self.number, files.all().len(), None);
        self.new.change_in_parts(moved.take_while(|(key, _)| *key <= copied), files.part_rows())
    }

    /// Makes the new file durable, without the room that it does not need; all rows have been copied. Blocks.
    pub(super) fn finish(self, disk: &dyn Disk, files: &StoreFiles) -> Result<Tables, CompactionError> {
        self.new.take_marks(&self.old)?;
        // Closing it cuts off what is free at its end.
        drop(self.new);
        Ok(files.successor(disk, self.number)?)
    }
}
