//! The store files of a node: the rows, spread over one or more redb files by position prefix.
//!
//! The number of files is fixed when the store is made and kept in its first file.

use super::{
    OpenError, StoreConfig, StoreError,
    key::position_bits,
    redb_file::Written,
    tables::{self, Rows, Snapshot, Tables, Value},
};
use crate::env::Disk;
use bytes::Bytes;
use std::{
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

const COUNT_MARK: &str = "files";
/// As many as a byte of position tells apart.
const FILES_MAX: u32 = 256;

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
    written: Written,
}

impl StoreFiles {
    /// Opens the files in a directory, or makes as many as configured (rounded up to a power of two). Blocks.
    pub(super) fn open(disk: &dyn Disk, directory: &Path, config: &StoreConfig) -> Result<Self, OpenError> {
        let count = config.log.store_files.clamp(1, FILES_MAX).next_power_of_two();
        let mut files = Self::unopened(directory, count, config);
        let first = files.open_file(disk, &files.path(0))?;
        let kept = kept_count(&first, count).map_err(|error| OpenError::from_store(&files.path(0), error))?;
        if kept == count {
            files.files.push(Arc::new(first));
        } else {
            drop(first);
            files = Self::unopened(directory, kept, config);
        }
        for number in files.files.len()..kept as usize {
            files.files.push(Arc::new(files.open_file(disk, &files.path(number))?));
        }
        for number in 0..files.files.len() {
            files.remove_unfinished(disk, number)?;
        }
        Ok(files)
    }

    fn unopened(directory: &Path, count: u32, config: &StoreConfig) -> Self {
        let [page_cache_bytes, filter_bytes] =
            [config.page_cache_bytes, config.filter_bytes].map(|bytes| bytes / count as usize);
        let part_rows = (page_cache_bytes / 4 / PAGE_BYTES).max(PART_ROWS_MIN);
        let directory = directory.to_owned();
        let (files, written) = (Vec::new(), Written::default());
        Self { files, directory, page_cache_bytes, filter_bytes, part_rows, written }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("rows-{number:03}.redb"))
    }

    fn open_file(&self, disk: &dyn Disk, path: &Path) -> Result<Tables, OpenError> {
        Tables::open(disk, path, self.page_cache_bytes, self.filter_bytes, &self.written)
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

    pub(super) fn first(&self) -> &Arc<Tables> {
        &self.files[0]
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

    /// Bytes of the files' filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.filter()).map(|filter| filter.bytes()).sum()
    }

    /// What has been written to them since they were opened, those included that have been replaced.
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    /// Bytes that the files occupy.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file_bytes()).sum()
    }
}

/// The number of files of this store, which is `count` for a new one.
fn kept_count(first: &Tables, count: u32) -> Result<u32, StoreError> {
    if let Some(kept) = first.mark(COUNT_MARK)? {
        let kept = u32::try_from(kept).ok().filter(|kept| kept.is_power_of_two() && *kept <= FILES_MAX);
        return kept.ok_or_else(|| StoreError::Damaged("its number of files makes no sense".to_owned()));
    }
    let transaction = first.begin()?;
    transaction.mark(COUNT_MARK, u128::from(count))?;
    transaction.commit()?;
    Ok(count)
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
        tables::get(&self.0[file_of(key, self.0.len())].rows, key)
    }

    /// Whether there is certainly no row of this key, not even one that came after these snapshots.
    pub(super) fn deny(&self, key: &[u8]) -> bool {
        self.0[file_of(key, self.0.len())].file.filter().is_some_and(|filter| filter.denies(key))
    }

    /// The rows of one file behind a key, in order; none if there is no such file.
    pub(super) fn rows_of_file(
        &self,
        number: usize,
        after: Option<&[u8]>,
    ) -> Result<Option<Rows<'_>>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.get(number).map(|file| Rows::new(&file.rows, lower, Bound::Unbounded)).transpose()
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

/// Rows of one table in order, file by file.
pub(super) struct FileRows<'a> {
    lower: Bound<&'a [u8]>,
    upper: Bound<&'a [u8]>,
    rows: Option<Rows<'a>>,
    waiting: std::slice::Iter<'a, FileSnapshot>,
}

impl<'a> FileRows<'a> {
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Value<'a>)>, StoreError> {
        loop {
            if let Some(rows) = &mut self.rows
                && let Some(row) = rows.next()?
            {
                return Ok(Some(row));
            }
            let Some(file) = self.waiting.next() else { return Ok(None) };
            self.rows = Some(Rows::new(&file.rows, self.lower, self.upper)?);
        }
    }
}

/// Which of so many files holds a key.
pub(super) fn file_of(key: &[u8], files: usize) -> usize {
    // Both fit: there are at most 256 files, a power of two.
    let bits = files.trailing_zeros();
    usize::try_from(position_bits(key, bits)).unwrap_or(0)
}
