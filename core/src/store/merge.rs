//! Ranges: memtables and tables merged in order, the newest version of each row.

use super::{
    RangeQuery, Slice, StoreError,
    files::{FileRows, Snapshots},
    key,
    memtable::{Change, Memtable},
    tables::Value,
};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// Everything that a slice is made of, as of one moment.
pub(super) struct Captured {
    /// Rows of the active memtable between the bounds, in order.
    pub(super) active: Vec<Change>,
    /// Oldest first.
    pub(super) frozen: Vec<Arc<Memtable>>,
    pub(super) tables: Arc<Snapshots>,
    /// If `active` is not all there is: its last key, beyond which nothing is known.
    pub(super) stop: Option<Bytes>,
}

/// Merges up to the query's budget. Shows no row beyond `captured.stop`, and is never the end then.
pub(super) fn slice(
    captured: Captured,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    query: &RangeQuery,
) -> Result<Slice, StoreError> {
    // Newest first: at equal keys the first source wins.
    let mut sources = vec![Source::memory(captured.active.iter().map(|(key, value)| (key, value)))?];
    for frozen in captured.frozen.iter().rev() {
        sources.push(Source::memory(frozen.range(lower, upper))?);
    }
    sources.push(Source::new(Rest::Tables(Box::new(captured.tables.rows(lower, upper))))?);
    let mut slice = Slice::default();
    let mut bytes = 0;
    while slice.rows.len() < query.rows_max.max(1) && bytes < query.bytes_max.max(1) {
        let Some((key, found)) = next(&mut sources)? else {
            slice.end = captured.stop.is_none();
            break;
        };
        if captured.stop.as_ref().is_some_and(|stop| key > *stop) {
            break;
        }
        let Some(value) = found.into_bytes() else { continue };
        let at = key::decode(&key).ok_or_else(|| captured.tables.blame(&key, "a key is too short"))?;
        bytes += key.len() + value.len();
        slice.rows.push((at, value));
    }
    Ok(slice)
}

/// The next row in order, in its newest version.
fn next<'a>(sources: &mut [Source<'a>]) -> Result<Option<(Bytes, Found<'a>)>, StoreError> {
    let Some(key) = sources.iter().filter_map(|source| source.head.as_ref()).map(|(key, _)| key).min() else {
        return Ok(None);
    };
    let key = key.clone();
    let mut newest = None;
    for source in sources {
        if source.head.as_ref().is_some_and(|(head, _)| *head == key) {
            let (_, found) = source.take()?;
            newest = newest.or(found);
        }
    }
    Ok(newest.map(|found| (key, found)))
}

/// A row's value where it was found; `None` is a removed row.
enum Found<'a> {
    Memory(&'a Option<Bytes>),
    Tables(Value<'a>),
}

impl Found<'_> {
    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Memory(value) => value.clone(),
            Self::Tables(value) => Some(value.copy()),
        }
    }
}

/// One sorted source of rows, its first row at hand.
struct Source<'a> {
    head: Option<(Bytes, Found<'a>)>,
    rest: Rest<'a>,
}

enum Rest<'a> {
    Memory(Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a>),
    Tables(Box<FileRows<'a>>),
}

impl<'a> Source<'a> {
    fn memory(rows: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a) -> Result<Self, StoreError> {
        Self::new(Rest::Memory(Box::new(rows)))
    }

    fn new(rest: Rest<'a>) -> Result<Self, StoreError> {
        let mut source = Self { head: None, rest };
        source.take()?;
        Ok(source)
    }

    /// The head's value, and the source moves on.
    fn take(&mut self) -> Result<(Option<Bytes>, Option<Found<'a>>), StoreError> {
        let next = match &mut self.rest {
            Rest::Memory(rows) => rows.next().map(|(key, value)| (key.clone(), Found::Memory(value))),
            Rest::Tables(rows) => rows.next()?.map(|(key, value)| (key, Found::Tables(value))),
        };
        Ok(std::mem::replace(&mut self.head, next).unzip())
    }
}
