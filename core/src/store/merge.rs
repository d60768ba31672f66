//! Ranges: memtables and tables merged in order, the newest version of each row.

use super::{
    RangeQuery, Slice, StoreError,
    files::{FileRows, Snapshots},
    key,
    memtable::{Entry, Folded, Fresh},
    stored::{InFile, Place, Stored},
    tables::Value,
};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// Everything that a slice is made of, as of one moment.
pub(super) struct Captured {
    /// Rows of the active memtable between the bounds, in order.
    pub(super) active: Vec<(Bytes, Option<Stored>)>,
    /// Oldest first.
    pub(super) frozen: Vec<Arc<Fresh>>,
    /// As `active`, of those that are folded.
    pub(super) folded: Vec<(Bytes, Option<Stored>)>,
    /// Oldest first.
    pub(super) moving: Vec<Arc<Folded>>,
    pub(super) tables: Arc<Snapshots>,
    /// If `active` or `folded` are not all there is: the last key up to which they are.
    pub(super) stop: Option<Bytes>,
}

/// The value of a row that has it in a place; none if it is not there any more.
pub(super) type Resolve<'a> = &'a dyn Fn(&Bytes, Place) -> Result<Option<Bytes>, StoreError>;

/// Merges up to the query's budget. Shows no row beyond `captured.stop`, and is never the end then. None if what was
/// captured is too old: a value has been written over meanwhile.
pub(super) fn slice(
    captured: Captured,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    query: &RangeQuery,
    resolve: Resolve<'_>,
) -> Result<Option<Slice>, StoreError> {
    // Newest first: at equal keys the first source wins.
    let mut sources = vec![Source::captured(&captured.active)?];
    for frozen in captured.frozen.iter().rev() {
        sources.push(Source::memtable(frozen.range(lower, upper))?);
    }
    sources.push(Source::captured(&captured.folded)?);
    for moving in captured.moving.iter().rev() {
        sources.push(Source::memtable(moving.range(lower, upper))?);
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
        let value = match found {
            Found::Memory(None) => continue,
            Found::Memory(Some(stored)) => value_of(&key, stored, resolve)?,
            Found::Tables(stored) => {
                value_of(&key, stored.with(|stored| InFile::decode(&key, stored).copy()), resolve)?
            }
        };
        let Some(value) = value else { return Ok(None) };
        let at = key::decode(&key).ok_or_else(|| captured.tables.blame(&key, "a key is too short"))?;
        bytes += key.len() + value.len();
        slice.rows.push((at, value));
    }
    Ok(Some(slice))
}

fn value_of(key: &Bytes, stored: Stored, resolve: Resolve<'_>) -> Result<Option<Bytes>, StoreError> {
    match stored {
        Stored::Here(value) => Ok(Some(value)),
        Stored::There(place) => resolve(key, place),
    }
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
    Memory(Option<Stored>),
    Tables(Value<'a>),
}

/// One sorted source of rows, its first row at hand.
struct Source<'a> {
    head: Option<(Bytes, Found<'a>)>,
    rest: Rest<'a>,
}

enum Rest<'a> {
    Memory(Box<dyn Iterator<Item = (&'a Bytes, Option<Stored>)> + 'a>),
    Tables(Box<FileRows<'a>>),
}

impl<'a> Source<'a> {
    fn captured(rows: &'a [(Bytes, Option<Stored>)]) -> Result<Self, StoreError> {
        Self::new(Rest::Memory(Box::new(rows.iter().map(|(key, stored)| (key, stored.clone())))))
    }

    fn memtable<E: Entry + 'a>(
        rows: impl Iterator<Item = (&'a Bytes, &'a E)> + 'a,
    ) -> Result<Self, StoreError> {
        Self::new(Rest::Memory(Box::new(rows.map(|(key, entry)| (key, entry.stored())))))
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
