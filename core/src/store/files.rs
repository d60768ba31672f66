//! The store files of a node: the rows, spread over one or more redb files by position prefix.
//!
//! The number of files is fixed when the store is made and kept in its first file.

use super::{
    OpenError, StoreConfig, StoreError,
    filter::KeptFilter,
    key::position_bits,
    tables::{self, Rows, Snapshot, Tables, Value},
};
use crate::env::Disk;
use bytes::Bytes;
use std::{ops::Bound, path::Path, sync::Arc};

const COUNT_MARK: &str = "files";
/// As many as a byte of position tells apart.
const FILES_MAX: u32 = 256;

/// A page of redb's.
const PAGE_BYTES: usize = 4096;
/// A smaller part of a transaction would cost more than the pages that it spares.
const PART_ROWS_MIN: usize = 64;

/// Open store files, by position prefix.
pub(super) struct StoreFiles {
    files: Vec<Arc<Tables>>,
    part_rows: usize,
}

impl StoreFiles {
    /// Opens the files in a directory, or makes as many as configured (rounded up to a power of two). Blocks.
    pub(super) fn open(disk: &dyn Disk, directory: &Path, config: &StoreConfig) -> Result<Self, OpenError> {
        let path = |number: u32| directory.join(format!("rows-{number:03}.redb"));
        let count = config.log.store_files.clamp(1, FILES_MAX).next_power_of_two();
        let open = |number, count| {
            let [page_cache_bytes, filter_bytes] =
                [config.page_cache_bytes, config.filter_bytes].map(|bytes| bytes / count as usize);
            Tables::open(disk, &path(number), page_cache_bytes, filter_bytes)
        };
        let first = open(0, count)?;
        let count = kept_count(&first, count).map_err(|error| OpenError::from_store(&path(0), error))?;
        let mut files = vec![Arc::new(first)];
        for number in 1..count {
            files.push(Arc::new(open(number, count)?));
        }
        let part_rows = (config.page_cache_bytes / count as usize / 4 / PAGE_BYTES).max(PART_ROWS_MIN);
        Ok(Self { files, part_rows })
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
        let snapshot = |file: &Arc<Tables>| Ok((file.snapshot()?, file.filter().cloned()));
        self.files.iter().map(snapshot).collect::<Result<_, _>>().map(Snapshots)
    }

    /// Bytes of the files' filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.filter()).map(|filter| filter.bytes()).sum()
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
pub(super) struct Snapshots(Vec<(Snapshot, Option<Arc<KeptFilter>>)>);

impl Snapshots {
    pub(super) fn one(snapshot: Snapshot) -> Self {
        Self(vec![(snapshot, None)])
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        tables::get(&self.0[file_of(key, self.0.len())].0, key)
    }

    /// Whether there is certainly no row of this key, not even one that came after these snapshots.
    pub(super) fn deny(&self, key: &[u8]) -> bool {
        self.0[file_of(key, self.0.len())].1.as_ref().is_some_and(|filter| filter.denies(key))
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
    waiting: std::slice::Iter<'a, (Snapshot, Option<Arc<KeptFilter>>)>,
}

impl<'a> FileRows<'a> {
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Value<'a>)>, StoreError> {
        loop {
            if let Some(rows) = &mut self.rows
                && let Some(row) = rows.next()?
            {
                return Ok(Some(row));
            }
            let Some((file, _)) = self.waiting.next() else { return Ok(None) };
            self.rows = Some(Rows::new(file, self.lower, self.upper)?);
        }
    }
}

/// Which of so many files holds a key.
pub(super) fn file_of(key: &[u8], files: usize) -> usize {
    // Both fit: there are at most 256 files, a power of two.
    let bits = files.trailing_zeros();
    usize::try_from(position_bits(key, bits)).unwrap_or(0)
}
