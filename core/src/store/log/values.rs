//! Values that rows have in the log.

use super::{
    LogConfig,
    record::{self, Body},
    recovery::{io_error, seed},
    segment::{Header, RECORDS_AT, SegmentFile, Segments},
    walk::Walk,
};
use crate::{
    env::{Disk, File, give_way},
    store::{
        StoreError,
        memtable::Change,
        stored::{Place, is_of_rows},
    },
};
use bytes::Bytes;
use quick_cache::{
    OptionsBuilder, UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use rustc_hash::FxBuildHasher;
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Records that are looked at at a stretch, some tens of microseconds.
const RECORDS_PER_TURN: usize = 64;
/// Files of kept segments that are open at once.
const OPEN_MAX: usize = 128;

/// Reads values where they were written first.
pub(in crate::store) struct Values {
    disk: Arc<dyn Disk>,
    segments: Arc<Mutex<Segments>>,
    log: u128,
    config: LogConfig,
    open: Cache<u64, Arc<dyn File>, UnitWeighter, FxBuildHasher>,
}

impl fmt::Debug for Values {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Values").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Values {
    pub(in crate::store) fn new(
        disk: Arc<dyn Disk>,
        segments: Arc<Mutex<Segments>>,
        log: u128,
        config: LogConfig,
    ) -> Self {
        // One shard: what is evicted must not follow the machine's cores.
        let options = OptionsBuilder::new()
            .shards(1)
            .weight_capacity(OPEN_MAX as u64)
            .estimated_items_capacity(OPEN_MAX)
            .build()
            .expect("every required option is set");
        let open = Cache::with_options(options, UnitWeighter, FxBuildHasher, DefaultLifecycle::default());
        Self { disk, segments, log, config, open }
    }

    /// Those of a log that no node writes.
    pub(in crate::store) fn of_stopped(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        log: u128,
    ) -> Result<Self, StoreError> {
        let segments =
            Segments::find(Arc::clone(disk), directory, 0, log, |_| true, |_| true).map_err(io_error)?;
        Ok(Self::new(Arc::clone(disk), Arc::new(Mutex::new(segments)), log, LogConfig::default()))
    }

    /// The value that stands in a place under an encoded key; none if something else does, or nothing that can be read.
    ///
    /// # Errors
    /// Those of the disk. A file that is not there, or too short, is none.
    pub(in crate::store) fn read(&self, key: &[u8], place: Place) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = self.file(place.segment)? else { return Ok(None) };
        let mut bytes = vec![0; place.bytes as usize];
        match file.read_at(u64::from(place.offset), &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(io_error)?,
        }
        let header = Header { log: self.log, number: place.segment, first: 0 };
        let Some(found) = record::read(&bytes, seed(&header, &self.config)) else { return Ok(None) };
        let Body::Change { key: own, value: Some(value) } = found.body else { return Ok(None) };
        if own != key || found.bytes != bytes.len() {
            return Ok(None);
        }
        let at = bytes.len() - value.len();
        Ok(Some(Bytes::from(bytes).slice(at..)))
    }

    fn file(&self, segment: u64) -> Result<Option<Arc<dyn File>>, StoreError> {
        let found = self.segments.lock().unwrap_or_else(PoisonError::into_inner).find_segment(segment);
        let path = match found {
            None => return Ok(None),
            Some(Ok(file)) => return Ok(Some(file.bytes)),
            Some(Err(path)) => path,
        };
        if let Some(open) = self.open.get(&segment) {
            return Ok(Some(open));
        }
        match self.disk.open(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => {
                let file = opened.map_err(io_error)?;
                self.open.insert(segment, Arc::clone(&file));
                Ok(Some(file))
            }
        }
    }
}

/// All values of a kept segment that rows may have there, in the order of their keys, and what its file holds.
#[derive(Default)]
pub(in crate::store) struct Content {
    bytes: Bytes,
    /// Keys, and where in `bytes` each has its value.
    values: Vec<(Bytes, Place, std::ops::Range<usize>)>,
}

impl Content {
    /// Of a segment that should be in a file; of one that is not there any more it is nothing. Blocks.
    ///
    /// # Errors
    /// Those of the disk. What can't be read on ends the content: the rows behind it keep the segment.
    pub(in crate::store) fn read(
        disk: &dyn Disk,
        path: &Path,
        segment: u64,
        config: &LogConfig,
    ) -> Result<Self, StoreError> {
        let read = SegmentFile::open(disk, path).and_then(|file| {
            let header = file.header()?.filter(|header| header.number == segment);
            header.map(|header| Ok((header, Bytes::from(file.records()?)))).transpose()
        });
        let (header, bytes) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Self::default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(io_error(error)),
        };
        let mut values = Vec::new();
        for (number, (at, found)) in Walk::new(&bytes, seed(&header, config), header.first).enumerate() {
            if number % RECORDS_PER_TURN == 0 {
                give_way();
            }
            let Body::Change { key, value: Some(value) } = found.body else { continue };
            let Some(place) = place(&header, at, found.bytes) else { continue };
            if is_of_rows(key) {
                let end = at + found.bytes;
                values.push((bytes.slice_ref(key), place, end - value.len()..end));
            }
        }
        values
            .sort_unstable_by(|(one, of_one, _), (other, of_other, _)| (one, of_one).cmp(&(other, of_other)));
        Ok(Self { bytes, values })
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.values.len()
    }

    /// A key, and where it has its value.
    ///
    /// # Panics
    /// If there are not so many.
    pub(in crate::store) fn place(&self, index: usize) -> (Bytes, Place) {
        let (key, place, _) = &self.values[index];
        (key.clone(), *place)
    }

    /// The first of some rows, up to the one that brings them to so many bytes, and those behind it.
    pub(in crate::store) fn split_at_bytes<'a>(
        &self,
        rows: &'a [usize],
        bytes: u64,
    ) -> (&'a [usize], &'a [usize]) {
        let mut before = 0;
        let fits = |row: &&usize| {
            let is_room = before < bytes;
            before += self.bytes_of(std::slice::from_ref(*row));
            is_room
        };
        rows.split_at(rows.iter().take_while(fits).count())
    }

    /// Bytes of the records of some rows.
    pub(in crate::store) fn bytes_of(&self, rows: &[usize]) -> u64 {
        rows.iter().map(|row| u64::from(self.values[*row].1.bytes)).sum()
    }

    /// A key and its value: copies, as slices would keep all of the segment in memory.
    ///
    /// # Panics
    /// If there are not so many.
    pub(in crate::store) fn copy(&self, index: usize) -> Change {
        let (key, _, value) = &self.values[index];
        (Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(&self.bytes[value.clone()])))
    }
}

/// The place of a record among those of a segment; none if it is too far behind to be named.
pub(super) fn place(header: &Header, at: usize, bytes: usize) -> Option<Place> {
    let offset = u32::try_from(RECORDS_AT + at as u64).ok()?;
    Some(Place { segment: header.number, offset, bytes: u32::try_from(bytes).ok()? })
}

impl LogConfig {
    /// Whether a row's value is left in the log. Tables of other things than rows have small values, which are looked at
    /// in order.
    pub(in crate::store) fn keeps_in_log(&self, key: &[u8], value_bytes: usize) -> bool {
        value_bytes >= self.value_bytes_min && is_of_rows(key)
    }
}
