//! Looking at a store that no node runs on: what its log says, and whether every checksum of its files is right.
//!
//! Nothing is changed: what redb would write while it opens a file that a crash has left stays in memory. The data
//! directory is taken for the time, so that no node begins to run on it meanwhile.

mod log;
mod rows;

pub(super) use log::place;
pub use log::{LogRecord, LogSummary, Recorded};

use super::{Backend, StoreError, files::number_of};
use crate::env::Disk;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Findings of one file that are described; further ones are only counted.
pub const FINDINGS_MAX: usize = 100;

/// Why a store can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no store.
    #[error("there is no store in {}: name a node's data directory", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A node runs on it.
    #[error("a node runs on {}: stop it first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory's store has no log.
    #[error("the store in {} is one redb file, which has no log", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// The disk reported an error.
    #[error("can't read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A store that is being looked at.
pub struct Inspection {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    backend: Backend,
    _lock: Box<dyn Send + Sync>,
}

/// What a file of a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment of the log whose records an opening would read.
    Log,
    /// A segment that waits to be written over, or to be written to for the first time.
    SpareLog,
    /// A segment that no opening would read, in which rows have their values.
    Values,
    /// Rows.
    Rows,
}

/// What was found in one file.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its length.
    pub bytes: u64,
    /// Records or rows whose checksums were tried.
    pub checked: u64,
    /// What is wrong with it: the first [`FINDINGS_MAX`].
    pub findings: Vec<String>,
    /// How many more there are.
    pub more_findings: u64,
}

impl FileReport {
    fn new(path: &Path, kind: FileKind, bytes: u64) -> Self {
        Self { path: path.to_owned(), kind, bytes, checked: 0, findings: Vec::new(), more_findings: 0 }
    }

    fn find(&mut self, finding: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding.into());
        } else {
            self.more_findings += 1;
        }
    }

    /// Whether nothing is wrong with it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Inspection {
    /// Takes a data directory.
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn open(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Self, InspectError> {
        // Before the lock, whose file would be left behind in somebody else's directory.
        let backend = Backend::found_in(&*disk, data_dir)
            .ok_or_else(|| InspectError::NoStore { path: data_dir.to_owned() })?;
        let lock = disk.lock(data_dir).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => InspectError::InUse { path: data_dir.to_owned() },
            _ => InspectError::Io { path: data_dir.to_owned(), source },
        })?;
        Ok(Self { disk, data_dir: data_dir.to_owned(), backend, _lock: lock })
    }

    /// Shows the records of the log that an opening would read, oldest first, until `seen` breaks off.
    ///
    /// # Errors
    /// [`InspectError`]. A log that is damaged is no error: the summary says where it ends.
    pub fn log(
        &self,
        mut seen: impl FnMut(LogRecord) -> std::ops::ControlFlow<()>,
    ) -> Result<LogSummary, InspectError> {
        if self.backend != Backend::Log {
            return Err(InspectError::NoLog { path: self.data_dir.clone() });
        }
        let at = self.store();
        log::Log::find(&self.disk, &at)
            .and_then(|log| log.walk(&mut |_, record| seen(record)))
            .map_err(|error| self.failed(&at, error))
    }

    /// Tries every checksum of every file, and reports each file when it is done.
    ///
    /// # Errors
    /// [`InspectError`]: a file could not be read at all. Files that are damaged are no error.
    pub fn verify(&self, mut done: impl FnMut(FileReport)) -> Result<(), InspectError> {
        let at = self.store();
        if self.backend == Backend::Redb {
            let report =
                rows::verify(&*self.disk, &at, None, None).map_err(|error| self.failed(&at, error))?;
            done(report);
            return Ok(());
        }
        let log = log::Log::find(&self.disk, &at).map_err(|error| self.failed(&at, error))?;
        log.verify(&mut done).map_err(|error| self.failed(&at, error))?;
        let values = log.values(&self.disk, &at).map_err(|error| self.failed(&at, error))?;
        let numbered = |path: PathBuf| Some((number_of(&path)?, path));
        let mut files: Vec<_> = self.list(&at)?.into_iter().filter_map(numbered).collect();
        files.sort_unstable();
        let count = files.last().map_or(1, |(last, _)| (last + 1).next_power_of_two());
        for (number, path) in &files {
            let place = Some((*number as usize, count as usize));
            let report = rows::verify(&*self.disk, path, place, values.as_ref());
            done(report.map_err(|error| self.failed(path, error))?);
        }
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.data_dir.join(self.backend.name_in_directory())
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, InspectError> {
        let failed = |source| InspectError::Io { path: directory.to_owned(), source };
        self.disk.list(directory).map_err(failed)
    }

    fn failed(&self, path: &Path, error: StoreError) -> InspectError {
        let source = match error {
            StoreError::Io(source) => Arc::try_unwrap(source).unwrap_or_else(io::Error::other),
            other => io::Error::other(other),
        };
        InspectError::Io { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
