//! Disks: what the store and the small durable files of a node rest on.
//!
//! All calls are synchronous and may wait: they are made from [`Env::block`](super::Env::block) only (or before the
//! node serves). What was written is durable after [`File::sync`]; names are durable after [`Disk::sync_dir`].

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file system as a node sees it.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a file for reading and writing. With `create` it is made if it is not there.
    ///
    /// # Errors
    /// `NotFound` without `create`; else those of the operating system.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>>;

    /// Makes a directory and its parents; no error if it is there.
    ///
    /// # Errors
    /// Those of the operating system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The files directly in a directory, sorted by name.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Moves a file, replacing what was there.
    ///
    /// # Errors
    /// Those of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` if it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of the operating system.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written below this path.
    ///
    /// # Errors
    /// Those of the operating system.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Takes a directory for this process until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Writes are visible at once and durable after a sync.
pub trait File: Send + Sync + Debug + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// Those of the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file if it must.
    ///
    /// # Errors
    /// Those of the operating system; what was written then is unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or grows (with zeroes) the file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Has the disk take what has been written, and waits until it has, as far as the operating system can do that without
    /// a sync. It is not durable by that; a sync after it has less to do.
    ///
    /// # Errors
    /// As of [`File::sync`].
    fn write_back(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes everything written before it durable (fdatasync).
    ///
    /// # Errors
    /// Those of the operating system. An error is final: what was written before may be lost, and a later success
    /// says nothing about it.
    fn sync(&self) -> io::Result<()>;
}
