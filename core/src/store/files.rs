//! The store files of a node: the rows, spread over one or more redb files by position prefix.
//!
//! The number of files is fixed when the store is made. Each file keeps it, and its own number, and whatever else must
//! be known of the store as a whole: so any one of them can be lost. A file that is missing or damaged at an opening
//! ([`finding`]), or turns out to be damaged later, is set aside under another name, and an empty one takes its place,
//! all of which is a gap ([`gaps`](super::gaps)). Only a store with a file that is whole goes on like this: what has
//! lost everything is no owner of anything (PROTOCOLS §4).

use super::{
    OpenError, StoreConfig, StoreError,
    gaps::GAPS_MARK,
    key::position_bits,
    redb_file::Writing,
    tables::{self, Rows, Snapshot, Tables, Value},
};
use crate::env::Disk;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

const COUNT_MARK: &str = "files";
const NUMBER_MARK: &str = "number";
/// As many as a byte of position tells apart.
pub(super) const FILES_MAX: u32 = 256;
/// What is at the end of the name of a file that was set aside.
const ASIDE: &str = "damaged";

/// A page of redb's.
const PAGE_BYTES: usize = 4096;
/// A smaller part of a transaction would cost more than the pages that it spares.
const PART_ROWS_MIN: usize = 64;

/// Open store files, by position prefix.
#[derive(Clone)]
pub(super) struct StoreFiles {
    files: Vec<Arc<Tables>>,
    directory: PathBuf,
    page_cache_bytes: usize,
    filter_bytes: usize,
    part_rows: usize,
    writing: Writing,
    set_aside: Vec<PathBuf>,
}

impl StoreFiles {
    fn unopened(directory: &Path, count: u32, config: &StoreConfig) -> Self {
        let [page_cache_bytes, filter_bytes] =
            [config.page_cache_bytes, config.filter_bytes].map(|bytes| bytes / count as usize);
        let part_rows = (page_cache_bytes / 4 / PAGE_BYTES).max(PART_ROWS_MIN);
        let directory = directory.to_owned();
        let (files, writing, set_aside) = (Vec::new(), Writing::default(), Vec::new());
        Self { files, directory, page_cache_bytes, filter_bytes, part_rows, writing, set_aside }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("rows-{number:03}.redb"))
    }

    fn open_file(&self, disk: &dyn Disk, path: &Path) -> Result<Tables, OpenError> {
        Tables::open(disk, path, self.page_cache_bytes, self.filter_bytes, &self.writing)
    }

    /// What a compaction that did not come to its end has left.
    pub(super) fn remove_unfinished(&self, disk: &dyn Disk, number: usize) -> Result<(), OpenError> {
        let path = self.successor_path(number);
        for path in [path.with_added_extension("new"), path] {
            match disk.remove(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::Io { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn successor_path(&self, number: usize) -> PathBuf {
        self.path(number).with_added_extension("compact")
    }

    /// Room that can still be written to. Blocks.
    pub(super) fn free_bytes(&self, disk: &dyn Disk) -> Result<u64, OpenError> {
        let failed = |source| OpenError::Io { path: self.directory.clone(), source };
        disk.free_bytes(&self.directory).map_err(failed)
    }

    /// The file that is to take the place of another: made, or opened. Blocks.
    pub(super) fn successor(&self, disk: &dyn Disk, number: usize) -> Result<Tables, OpenError> {
        self.open_file(disk, &self.successor_path(number))
    }

    /// Whether a file has turned out to be damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.files.iter().any(|file| file.is_damaged())
    }

    /// A file that has turned out to be damaged, if that leaves one that is whole. Blocks.
    pub(super) fn lost(&self) -> Option<usize> {
        let lost = self.files.iter().position(|file| file.is_damaged())?;
        let is_whole = |file: &Arc<Tables>| {
            !file.is_damaged() && matches!(file.mark(GAPS_MARK), Ok(gaps) if gaps.unwrap_or(0) == 0)
        };
        self.files.iter().any(is_whole).then_some(lost)
    }

    /// Goes on without a file that is damaged: see [`StoreFiles::open`]. Blocks.
    pub(super) fn lose(&self, disk: &dyn Disk, number: usize, why: &StoreError) -> Result<Self, OpenError> {
        let mut files = self.clone();
        let others = self.files.iter().filter(|file| !file.is_damaged()).map(|file| &**file);
        let identity = finding::identity_beside(number, self.files.len(), others)
            .map_err(|error| OpenError::from_store(&self.directory, error))?;
        let new = files.replace(disk, number, identity, why)?;
        files.files[number] = Arc::new(new);
        Ok(files)
    }

    /// Puts the successor, which has everything that the file has, in its place, durably. Blocks.
    pub(super) fn succeed(
        &self,
        disk: &dyn Disk,
        number: usize,
        successor: Tables,
    ) -> Result<Self, io::Error> {
        disk.rename(&self.successor_path(number), &self.path(number))?;
        // Before anything is trimmed from the log that only the successor has.
        disk.sync_dir(&self.directory)?;
        let mut files = self.clone();
        files.files[number] = Arc::new(successor);
        Ok(files)
    }

    /// Rows that a part of a transaction has at most. Each may change a page of its own, and they should fit into the
    /// half of the page cache that redb writes from.
    pub(super) fn part_rows(&self) -> usize {
        self.part_rows
    }

    /// What the files keep under a name that all of them have; those that have just been made do not.
    pub(super) fn marks(&self, name: &str) -> Result<Vec<u128>, StoreError> {
        let marks = self.files.iter().map(|file| file.mark(name));
        marks.filter_map(Result::transpose).collect()
    }

    /// What each file keeps of its gaps.
    pub(super) fn gaps(&self) -> Result<Vec<u128>, StoreError> {
        self.files.iter().map(|file| Ok(file.mark(GAPS_MARK)?.unwrap_or(0))).collect()
    }

    /// The files that were set aside in this directory, and are still there.
    pub(super) fn aside(&self) -> &[PathBuf] {
        &self.set_aside
    }

    pub(super) fn all(&self) -> &[Arc<Tables>] {
        &self.files
    }

    /// The file that holds a key.
    pub(super) fn of(&self, key: &[u8]) -> usize {
        file_of(key, self.files.len())
    }

    /// The rows of all files as of their last commits.
    pub(super) fn snapshots(&self) -> Result<Snapshots, StoreError> {
        self.files.iter().map(FileSnapshot::of).collect::<Result<_, _>>().map(Snapshots)
    }

    /// By segment of the log, the bytes of records in it that rows are kept in.
    pub(super) fn live_values(&self) -> BTreeMap<u64, u64> {
        let mut live = BTreeMap::new();
        self.files.iter().for_each(|file| file.add_live_values(&mut live));
        live
    }

    /// Bytes of the files' filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.filter()).map(|filter| filter.bytes()).sum()
    }

    /// What has been written to them since they were opened, those included that have been replaced.
    pub(super) fn writing(&self) -> &Writing {
        &self.writing
    }

    /// Bytes that the files occupy.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file_bytes()).sum()
    }
}

/// The rows of all files, each as of one commit.
pub(super) struct Snapshots(Vec<FileSnapshot>);

/// Of one file, which stays open as long: another may take its place meanwhile.
struct FileSnapshot {
    // Goes first: it reads from the file.
    rows: Snapshot,
    file: Arc<Tables>,
}

impl FileSnapshot {
    fn of(file: &Arc<Tables>) -> Result<Self, StoreError> {
        Ok(Self { rows: file.snapshot()?, file: Arc::clone(file) })
    }
}

impl Snapshots {
    pub(super) fn one(file: &Arc<Tables>) -> Result<Self, StoreError> {
        Ok(Self(vec![FileSnapshot::of(file)?]))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let of = &self.0[file_of(key, self.0.len())];
        of.file.noted(tables::get(&of.rows, key))
    }

    /// Whether there is certainly no row of this key, not even one that came after these snapshots.
    pub(super) fn deny(&self, key: &[u8]) -> bool {
        self.0[file_of(key, self.0.len())].file.filter().is_some_and(|filter| filter.denies(key))
    }

    /// Remembers that a file is damaged, as a key found in it shows.
    pub(super) fn blame(&self, key: &[u8], what: &str) -> StoreError {
        let error = StoreError::Damaged(what.to_owned());
        let _ = self.0[file_of(key, self.0.len())].file.noted::<()>(Err(error.clone()));
        error
    }

    /// The rows of one file behind a key, in order; none if there is no such file.
    pub(super) fn rows_of_file<'a>(
        &'a self,
        number: usize,
        after: Option<&'a [u8]>,
    ) -> Result<Option<FileRows<'a>>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let Some(file) = self.0.get(number) else { return Ok(None) };
        let mut rows = FileRows {
            lower,
            upper: Bound::Unbounded,
            rows: None,
            waiting: std::slice::from_ref(file).iter(),
        };
        rows.begin_next()?;
        Ok(Some(rows))
    }

    /// The rows of one table between the bounds, in order.
    pub(super) fn rows<'a>(&'a self, lower: Bound<&'a [u8]>, upper: Bound<&'a [u8]>) -> FileRows<'a> {
        let (Bound::Included(from) | Bound::Excluded(from)) = lower else {
            return FileRows { lower, upper, rows: None, waiting: self.0.iter() };
        };
        let last = match upper {
            Bound::Included(to) | Bound::Excluded(to) if to.get(..4) == from.get(..4) => {
                file_of(to, self.0.len())
            }
            // It ends with the table, or with all of them.
            _ => self.0.len() - 1,
        };
        FileRows { lower, upper, rows: None, waiting: self.0[file_of(from, self.0.len())..=last].iter() }
    }
}

/// Rows in order, file by file.
pub(super) struct FileRows<'a> {
    lower: Bound<&'a [u8]>,
    upper: Bound<&'a [u8]>,
    rows: Option<(&'a Tables, Rows<'a>)>,
    waiting: std::slice::Iter<'a, FileSnapshot>,
}

impl<'a> FileRows<'a> {
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Value<'a>)>, StoreError> {
        loop {
            if let Some((file, rows)) = &mut self.rows
                && let Some(row) = file.noted(rows.next())?
            {
                return Ok(Some(row));
            }
            if !self.begin_next()? {
                return Ok(None);
            }
        }
    }

    /// Goes on with the next file, if there is one.
    fn begin_next(&mut self) -> Result<bool, StoreError> {
        let Some(next) = self.waiting.next() else { return Ok(false) };
        let rows = next.file.noted(Rows::new(&next.rows, self.lower, self.upper))?;
        self.rows = Some((&*next.file, rows));
        Ok(true)
    }
}

/// Which of so many files holds a key.
pub(super) fn file_of(key: &[u8], files: usize) -> usize {
    // Both fit: there are at most 256 files, a power of two.
    let bits = files.trailing_zeros();
    usize::try_from(position_bits(key, bits)).unwrap_or(0)
}

/// Before all keys of a table that one of so many files holds, and behind those of the files before it.
pub(super) fn first_key_of_file(table: u32, number: usize, files: usize) -> [u8; 12] {
    let position = (number as u64).checked_shl(u64::BITS - files.trailing_zeros()).unwrap_or(0);
    let mut key = [0; 12];
    key[..4].copy_from_slice(&table.to_be_bytes());
    key[4..].copy_from_slice(&position.to_be_bytes());
    key
}

mod finding;

pub(super) use finding::number_of;
