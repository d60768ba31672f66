//! The operating system's files. Errors pass through as they come: what they mean is the store's to decide.

use crate::env::{Disk, File};
use std::{
    fs::{self, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The file that marks a directory as taken. It stays when the lock is released: removing it would let two
/// processes lock two different files of that name.
const LOCK_FILE: &str = "LOCK";

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OpenFile(open(path, create)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // A data directory holds the node's private key.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                files.push(entry.path());
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // The directory of a name without one is the working directory.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        fs4::available_space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = open(&path.join(LOCK_FILE), true)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<fs::File> {
    // Private even in a directory that somebody else has made: one of the files holds the node's key.
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

/// Writes what the page cache holds of a file, without having the disk empty its own cache, for which the log would wait.
/// Where that is not known or not allowed, nothing is done: the sync does it.
#[cfg(target_os = "linux")]
fn write_back(file: &fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let how =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it reads and writes no memory of this process, and the descriptor is open as long as `file` is borrowed.
    #[expect(unsafe_code, reason = "no library has a safe function for it")]
    let failed = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) };
    if failed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_unknown = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL));
    if is_unknown { Ok(()) } else { Err(error) }
}

#[derive(Debug)]
struct OpenFile(fs::File);

impl File for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn write_back(&self) -> io::Result<()> {
        write_back(&self.0)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_directory_of_a_bare_name_can_be_synced() {
        FileSystem.sync_dir(Path::new("store.redb").parent().unwrap()).unwrap();
    }

    #[test]
    fn files_and_directories_are_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path().join("data"), folder.path().join("identity"));
        FileSystem.create_dir_all(&dir).unwrap();
        FileSystem.open(&file, true).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
    }
}
