//! One store file: redb with the rows of a range of positions.
//!
//! A commit is durable and leaves the file ready to open at once after a crash (redb's quick repair), unless it is a
//! part ([`Tables::begin_part`]): those become durable with the next commit that is none, all at once. redb does not
//! check what it reads: rows carry checksums of their own. What redb reports as damaged, or panics over, is
//! [`StoreError::Damaged`].

mod live_values;

use super::{
    OpenError, StoreError,
    filter::KeptFilter,
    memtable::Entry,
    redb_file::{RedbFile, Untouched, Writing},
    stored::{Encoded, InFile},
};
use crate::env::{Disk, File, give_way};
use bytes::Bytes;
use live_values::LiveValues;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, TableDefinition,
};
use std::{
    collections::BTreeMap,
    io::{
        self,
        ErrorKind::{InvalidData, UnexpectedEof, Unsupported},
    },
    ops::{Bound, Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
};

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<'static, &str, u128> = TableDefinition::new("meta");
/// Rows that are changed at a stretch, some tens of microseconds.
const ROWS_PER_TURN: usize = 16;
/// The layout of the file. An unknown one is refused.
const FORMAT_KEY: &str = "format";
const FORMAT: u128 = 2;
/// Without values that are kept in the log: read as it is.
const FORMAT_OF_VALUES_ONLY: u128 = 1;
/// Every batch up to this number is in the file.
pub(super) const APPLIED_MARK: &str = "applied";
/// Bytes of keys and values, and in the upper half the batch up to which they are counted.
const LIVE_MARK: &str = "live";

/// An open store file.
pub(super) struct Tables {
    database: Closing<Database>,
    /// None while it is only looked at.
    file: Option<RedbFile>,
    filter: Option<Arc<KeptFilter>>,
    /// Bytes of keys and values, about: what was not counted is taken in by the walk that makes the filter anew.
    live_bytes: Arc<AtomicI64>,
    /// Whether they have been counted.
    is_counted: AtomicBool,
    live_values: Arc<Mutex<LiveValues>>,
    flaw: Arc<Flaw>,
}

/// Whether a file has turned out to be damaged.
#[derive(Default)]
struct Flaw(AtomicBool);

impl Flaw {
    /// Passes a result on, and remembers what it tells of the file.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Damaged(_))) {
            self.0.store(true, Relaxed);
        }
        result
    }
}

/// The rows as of one commit. Holding it keeps that commit's pages from reuse.
pub(super) type Snapshot = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Tables {
    /// Opens the file, or makes it. Without bytes for a filter it has none. What is written to it counts as `writing`.
    /// Blocks.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        page_cache_bytes: usize,
        filter_bytes: usize,
        writing: &Writing,
    ) -> Result<Self, OpenError> {
        if let Some(found) = Self::open_existing(disk, path, page_cache_bytes, filter_bytes, writing)? {
            return Ok(found);
        }
        Self::make(disk, path, &[], writing)?;
        let made = Self::open_existing(disk, path, page_cache_bytes, filter_bytes, writing)?;
        made.ok_or_else(|| OpenError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() })
    }

    /// Opens the file, if it is there. Blocks.
    pub(super) fn open_existing(
        disk: &dyn Disk,
        path: &Path,
        page_cache_bytes: usize,
        filter_bytes: usize,
        writing: &Writing,
    ) -> Result<Option<Self>, OpenError> {
        let file = match disk.open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|source| OpenError::Io { path: path.to_owned(), source })?,
        };
        let opened = guarded(|| Self::open_file(file, page_cache_bytes, writing)).and_then(|tables| {
            tables.check_layout()?;
            *tables.live_values() = guarded(|| LiveValues::load(&tables.database))?;
            if filter_bytes == 0 { Ok(tables) } else { guarded(|| tables.with_filter(filter_bytes)) }
        });
        opened.map(Some).map_err(|error| OpenError::from_store(path, error))
    }

    /// Makes the file, with these numbers beside its rows from the beginning. Blocks.
    pub(super) fn make(
        disk: &dyn Disk,
        path: &Path,
        marks: &[(&str, u128)],
        writing: &Writing,
    ) -> Result<(), OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let new = make(disk, path).map_err(failed)?;
        guarded(|| Self::format(&new, marks, writing)).map_err(|error| OpenError::from_store(path, error))?;
        publish(disk, path).map_err(failed)
    }

    /// Opens a file to look at it. Blocks.
    pub(super) fn inspect(file: Untouched) -> Result<Self, StoreError> {
        guarded(|| {
            // redb would make a new database of an empty file.
            if redb::StorageBackend::len(&file)? == 0 {
                return Err(redb::Error::Corrupted("it is empty".to_owned()));
            }
            let tables = Self::of(redb::Builder::new().create_with_backend(file)?, None);
            *tables.live_values() = LiveValues::load(&tables.database)?;
            Ok(tables)
        })
    }

    /// Whether the checksums of all pages are right. Blocks for long.
    pub(super) fn check_pages(mut self) -> Result<bool, StoreError> {
        guarded(|| Ok(self.database.check_integrity()?))
    }

    fn format(file: &Arc<dyn File>, marks: &[(&str, u128)], writing: &Writing) -> Result<(), redb::Error> {
        let tables = Self::with_cache(Arc::clone(file), 0, writing)?;
        let transaction = tables.transaction()?;
        transaction.open_table(ROWS)?;
        for (name, mark) in marks.iter().chain(&[(FORMAT_KEY, FORMAT)]) {
            transaction.open_table(META)?.insert(name, mark)?;
        }
        transaction.commit()?;
        drop(tables);
        Ok(file.sync()?)
    }

    fn open_file(
        file: Arc<dyn File>,
        page_cache_bytes: usize,
        writing: &Writing,
    ) -> Result<Self, redb::Error> {
        // redb would make a new database of it.
        if file.len()? == 0 {
            return Err(redb::Error::Corrupted("it is empty".to_owned()));
        }
        Self::with_cache(file, page_cache_bytes, writing)
    }

    /// What another release wrote is not damaged: it must not be set aside.
    fn check_layout(&self) -> Result<(), StoreError> {
        match self.mark(FORMAT_KEY)? {
            Some(FORMAT) => Ok(()),
            Some(FORMAT_OF_VALUES_ONLY) => {
                // Before anything is written that a release that knows that one only could not read.
                let transaction = self.begin()?;
                transaction.mark(FORMAT_KEY, FORMAT)?;
                transaction.commit()
            }
            Some(other) => Err(unreadable(format!(
                "its layout is {other}, and this release knows {FORMAT} only: run the release that wrote it"
            ))),
            None => Err(StoreError::Damaged("it is no store of Rondel".to_owned())),
        }
    }

    fn with_cache(
        file: Arc<dyn File>,
        page_cache_bytes: usize,
        writing: &Writing,
    ) -> Result<Self, redb::Error> {
        let mut builder = redb::Builder::new();
        let file = RedbFile::new(file, writing.clone());
        let database = builder.set_cache_size(page_cache_bytes).create_with_backend(file.clone())?;
        Ok(Self::of(database, Some(file)))
    }

    fn of(database: Database, file: Option<RedbFile>) -> Self {
        let database = Closing::new(database);
        let is_counted = AtomicBool::new(false);
        let (live_bytes, live_values, flaw) = (Arc::default(), Arc::default(), Arc::default());
        Self { database, file, filter: None, live_bytes, is_counted, live_values, flaw }
    }

    fn live_values(&self) -> MutexGuard<'_, LiveValues> {
        self.live_values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds, by segment of the log, the bytes of records that rows of this file are kept in.
    pub(super) fn add_live_values(&self, to: &mut BTreeMap<u64, u64>) {
        for (segment, bytes) in self.live_values().iter() {
            *to.entry(*segment).or_default() += bytes;
        }
    }

    fn with_filter(mut self, bytes: usize) -> Result<Self, redb::Error> {
        let applied = self.meta(APPLIED_MARK)?.and_then(|applied| u64::try_from(applied).ok()).unwrap_or(0);
        let mark = self.meta(KeptFilter::MARK)?;
        let is_empty = self.database.begin_read()?.open_table(ROWS)?.is_empty()?;
        let live = self.meta(LIVE_MARK)?.filter(|live| live >> 64 == u128::from(applied));
        // Of a file without rows they are none, and known; else the walk counts them.
        let counted = live.map(|live| i64::try_from(live & u128::from(u64::MAX)).unwrap_or(0));
        let counted = counted.or(is_empty.then_some(0));
        self.live_bytes.store(counted.unwrap_or(0), Relaxed);
        self.is_counted.store(counted.is_some(), Relaxed);
        let mark = mark.filter(|_| counted.is_some());
        let filter = KeptFilter::open(&self.database, bytes, applied, mark, is_empty)?;
        self.filter = Some(Arc::new(filter));
        Ok(self)
    }

    /// Makes changes durable, in one transaction. Blocks.
    pub(super) fn commit<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a Bytes, Option<Encoded<'a>>)>,
    ) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        transaction.change(changes)?;
        transaction.commit()
    }

    /// Begins a transaction; there can be one at a time.
    pub(super) fn begin(&self) -> Result<Transaction, StoreError> {
        let redb = self.noted(guarded(|| self.transaction()))?;
        Ok(self.begun(redb))
    }

    fn begun(&self, redb: redb::WriteTransaction) -> Transaction {
        let redb = Closing::new(redb);
        Transaction {
            redb,
            filter: self.filter.clone(),
            live_bytes: Arc::clone(&self.live_bytes),
            live_values: Arc::clone(&self.live_values),
            is_part: false,
            flaw: Arc::clone(&self.flaw),
        }
    }

    /// Begins a part of a transaction that is too large for redb to hold in memory: it is durable once the next
    /// transaction of [`Tables::begin`] is, and lost with it.
    ///
    /// redb writes a page that it has no room for, and once more when its transaction ends.
    pub(super) fn begin_part(&self) -> Result<Transaction, StoreError> {
        let redb = self.noted(guarded(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            Ok(transaction)
        }))?;
        Ok(Transaction { is_part: true, ..self.begun(redb) })
    }

    /// Puts rows of a memtable on their way into the file, in parts of so many rows: see [`Tables::begin_part`]. Blocks.
    pub(super) fn change_in_parts<'a, E: Entry + 'a>(
        &self,
        rows: impl Iterator<Item = (&'a Bytes, &'a E)>,
        rows_max: usize,
    ) -> Result<(), StoreError> {
        let mut rows = rows.map(|(key, entry)| (key, entry.encode(key))).peekable();
        while rows.peek().is_some() {
            let part = self.begin_part()?;
            part.change(rows.by_ref().take(rows_max))?;
            part.commit()?;
        }
        Ok(())
    }

    /// A number kept beside the rows.
    pub(super) fn mark(&self, name: &str) -> Result<Option<u128>, StoreError> {
        self.noted(guarded(|| self.meta(name)))
    }

    /// The rows as of the last commit.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.noted(guarded(|| self.snapshot_table()))
    }

    /// Passes on what was read from a snapshot of the file, and remembers if it shows damage.
    pub(super) fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.flaw.noted(result)
    }

    /// Whether anything has shown that the file is damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.flaw.0.load(Relaxed)
    }

    /// What knows which rows the file does not have.
    pub(super) fn filter(&self) -> Option<&Arc<KeptFilter>> {
        self.filter.as_ref()
    }

    /// Adds the keys of the next rows behind `after` to the filter; gives the last of them, or none at the end. Blocks.
    pub(super) fn add_to_filter(
        &self,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(filter) = &self.filter else { return Ok(None) };
        let snapshot = self.snapshot()?;
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.noted(Rows::new(&snapshot, lower, Bound::Unbounded))?;
        let mut last = None;
        for _ in 0..rows_max {
            let Some((key, value)) = self.noted(rows.next())? else { return Ok(None) };
            filter.add(&key);
            if !self.is_counted.load(Relaxed) {
                self.live_bytes.fetch_add(row_bytes(&key, value.len()), Relaxed);
            }
            last = Some(key);
        }
        Ok(last)
    }

    /// The filter has all keys: it answers from now on, and is kept. Blocks.
    pub(super) fn finish_filter(&self) -> Result<(), StoreError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        filter.finish();
        self.is_counted.store(true, Relaxed);
        if let Some(applied) = self.mark(APPLIED_MARK)? {
            let transaction = self.begin()?;
            transaction.mark_applied(applied)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Gives the filter up, to be made anew, if it is dense with keys of rows that are gone. Blocks.
    pub(super) fn review_filter(&self) -> Result<(), StoreError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let rows = self.noted(guarded(|| Ok(self.snapshot_table()?.len()?)))?;
        filter.give_up_if_stale(rows);
        Ok(())
    }

    /// Bytes of keys and values, if they have been counted.
    pub(super) fn live_bytes(&self) -> Option<u64> {
        let counted = self.filter.is_some() && self.is_counted.load(Relaxed);
        counted.then(|| u64::try_from(self.live_bytes.load(Relaxed)).unwrap_or(0))
    }

    /// Takes over what the other file keeps beside its rows, once all of these are here, too. Blocks.
    pub(super) fn take_marks(&self, other: &Self) -> Result<(), StoreError> {
        let marks = other.noted(guarded(|| {
            let mut marks = Vec::new();
            for mark in other.database.begin_read()?.open_table(META)?.iter()? {
                let (name, value) = mark?;
                marks.push((name.value().to_owned(), value.value()));
            }
            Ok(marks)
        }))?;
        let transaction = self.begin()?;
        for (name, value) in marks {
            match name.as_str() {
                FORMAT_KEY | LIVE_MARK | KeptFilter::MARK => {}
                APPLIED_MARK => transaction.mark_applied(value)?,
                name => transaction.mark(name, value)?,
            }
        }
        transaction.commit()
    }

    /// Bytes that the file occupies.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file.as_ref().and_then(|file| redb::StorageBackend::len(file).ok()).unwrap_or(0)
    }

    fn snapshot_table(&self) -> Result<Snapshot, redb::Error> {
        Ok(self.database.begin_read()?.open_table(ROWS)?)
    }

    fn transaction(&self) -> Result<redb::WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn meta(&self, key: &str) -> Result<Option<u128>, redb::Error> {
        match self.database.begin_read()?.open_table(META) {
            Ok(table) => Ok(table.get(key)?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A new file, not yet under its name: redb does not open one whose making was cut short.
fn make(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn File>> {
    make_directory(disk, path.parent().unwrap_or(Path::new(".")))?;
    let file = disk.open(&unfinished(path), true)?;
    file.set_len(0)?;
    Ok(file)
}

/// Gives a new file its name.
fn publish(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.rename(&unfinished(path), path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Makes a directory that is there after a power cut, too.
pub(super) fn make_directory(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    disk.create_dir_all(directory)?;
    directory.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}

/// Changes of one store file that become durable together, or not at all.
pub(super) struct Transaction {
    redb: Closing<redb::WriteTransaction>,
    filter: Option<Arc<KeptFilter>>,
    live_bytes: Arc<AtomicI64>,
    live_values: Arc<Mutex<LiveValues>>,
    is_part: bool,
    flaw: Arc<Flaw>,
}

impl Transaction {
    pub(super) fn change<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a Bytes, Option<Encoded<'a>>)>,
    ) -> Result<(), StoreError> {
        self.flaw.noted(guarded(|| {
            let mut rows = self.redb.open_table(ROWS)?;
            let mut growth = 0;
            let mut values = BTreeMap::<u64, i64>::new();
            let mut count = |key: &[u8], stored: &[u8], sign: i64| {
                growth += sign * row_bytes(key, stored.len());
                if let Some(place) = InFile::decode(key, stored).place() {
                    *values.entry(place.segment).or_default() += sign * i64::from(place.bytes);
                }
            };
            for (number, (key, value)) in changes.into_iter().enumerate() {
                if number % ROWS_PER_TURN == 0 {
                    give_way();
                }
                let before = match value {
                    Some(value) => {
                        if let Some(filter) = &self.filter {
                            filter.add(key);
                        }
                        count(key, value.as_ref(), 1);
                        rows.insert(key.as_ref(), value.as_ref())?
                    }
                    None => rows.remove(key.as_ref())?,
                };
                if let Some(before) = before {
                    count(key, before.value(), -1);
                }
            }
            self.live_bytes.fetch_add(growth, Relaxed);
            let mut live = self.live_values();
            values.into_iter().for_each(|(segment, growth)| live.change(segment, growth));
            Ok(())
        }))
    }

    fn live_values(&self) -> MutexGuard<'_, LiveValues> {
        self.live_values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this batch is in the file from this transaction on; so is what the filter knows of it.
    pub(super) fn mark_applied(&self, applied: u128) -> Result<(), StoreError> {
        self.mark(APPLIED_MARK, applied)?;
        let (Some(filter), Ok(applied)) = (&self.filter, u64::try_from(applied)) else { return Ok(()) };
        let live_bytes = u64::try_from(self.live_bytes.load(Relaxed)).unwrap_or(0);
        self.mark(LIVE_MARK, u128::from(applied) << 64 | u128::from(live_bytes))?;
        match self.flaw.noted(guarded(|| filter.keep(&self.redb, applied)))? {
            Some(mark) => self.mark(KeptFilter::MARK, mark),
            None => Ok(()),
        }
    }

    /// Loses what was added to the filter: what a broken flush would do.
    pub(super) fn forget_added(&self) {
        if let Some(filter) = &self.filter {
            filter.forget_added();
        }
    }

    /// Sets a number kept beside the rows.
    pub(super) fn mark(&self, name: &str, value: u128) -> Result<(), StoreError> {
        self.flaw.noted(guarded(|| {
            self.redb.open_table(META)?.insert(name, value)?;
            Ok(())
        }))
    }

    /// Makes the changes durable. Blocks.
    pub(super) fn commit(self) -> Result<(), StoreError> {
        self.flaw.noted(guarded(|| match self.is_part {
            false => self.live_values().keep(&self.redb),
            true => self.live_values().keep_of_part(&self.redb),
        }))?;
        let Self { redb, flaw, .. } = self;
        flaw.noted(guarded(|| Ok(redb.into_inner().commit()?)))
    }
}

fn row_bytes(key: &[u8], value_bytes: usize) -> i64 {
    i64::try_from(key.len() + value_bytes).unwrap_or(i64::MAX)
}

/// The row, if there is one.
pub(super) fn get(snapshot: &Snapshot, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    guarded(|| Ok(snapshot.get(key)?.map(|value| Bytes::copy_from_slice(value.value()))))
}

/// Rows in order. Values are copied out only when asked for.
pub(super) struct Rows<'a>(redb::Range<'a, &'static [u8], &'static [u8]>);

/// A row's value, still in its page.
pub(super) struct Value<'a>(redb::AccessGuard<'a, &'static [u8]>);

impl Value<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.value().len()
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(self.0.value())
    }

    pub(super) fn copy(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.value())
    }
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Result<Self, StoreError> {
        guarded(|| Ok(Self(snapshot.range::<&[u8]>((lower, upper))?)))
    }

    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Value<'a>)>, StoreError> {
        guarded(|| {
            let Some(row) = self.0.next() else { return Ok(None) };
            let (key, value) = row?;
            Ok(Some((Bytes::copy_from_slice(key.value()), Value(value))))
        })
    }
}

/// What of redb's is let go as it is used: redb may panic over a damaged file then, too.
struct Closing<T>(Option<T>);

impl<T> Closing<T> {
    fn new(held: T) -> Self {
        Self(Some(held))
    }

    /// For what ends it by itself.
    fn into_inner(mut self) -> T {
        self.0.take().expect(HELD)
    }
}

const HELD: &str = "it is held until it is dropped";

impl<T> Deref for Closing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for Closing<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        if let Err(StoreError::Damaged(what)) = guarded(|| {
            drop(held);
            Ok(())
        }) {
            tracing::error!(
                what,
                "a damaged file of rows did not close cleanly; nothing that is durable is lost by it"
            );
        }
    }
}

/// Runs redb, which may panic over a damaged file.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| match error {
            // redb's words for a file that is not one of its own, or that is too short.
            redb::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
                StoreError::Damaged(error.to_string())
            }
            redb::Error::Io(error) => StoreError::Io(Arc::new(error)),
            redb::Error::PreviousIo => StoreError::Stopped,
            error @ redb::Error::UpgradeRequired(_) => unreadable(error.to_string()),
            other => StoreError::Damaged(other.to_string()),
        }),
        Err(panic) => Err(StoreError::Damaged(panic_text(panic.as_ref()))),
    }
}

/// What this release can't read, though nothing is wrong with it.
fn unreadable(why: String) -> StoreError {
    StoreError::Io(Arc::new(io::Error::new(Unsupported, why)))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("redb can't make sense of it: {}", text.unwrap_or("it does not say why"))
}

#[cfg(test)]
mod tests;
