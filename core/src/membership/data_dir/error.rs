//! Why a data directory is refused, in words that say what to do.

use crate::{durable::DurableError, store::KEEP_DOWN};
use rondel_proto::id::StoreId;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a data directory can't be used. Unless it says otherwise, nothing in the directory was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{path} is in use by another process: stop that one, or give this node a directory of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system does not let this user in.
    #[error("{path} may not be read and written by this user: change its owner or permissions")]
    NoAccess {
        /// The directory.
        path: PathBuf,
    },
    /// The file system takes no writes.
    #[error("{path} is on a read-only file system: remount it for writing, or choose another directory")]
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// There is no room.
    #[error("{path} is on a full disk: free some space and start again")]
    Full {
        /// The directory.
        path: PathBuf,
    },
    /// The name is taken by something that is no directory.
    #[error("{path} is not a directory: choose another path")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It holds somebody else's files.
    #[error(
        "{path} is not empty and not a data directory of Rondel (it holds `{file}`): choose an empty or a new directory"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files in it.
        file: String,
    },
    /// It holds data of a node, but not who that was.
    #[error(
        "{path} holds data (`{file}`) but its file `identity` is missing: put its files back as they were when the node \
         last ran{KEEP_DOWN}"
    )]
    NoIdentity {
        /// The directory.
        path: PathBuf,
        /// One of the files in it.
        file: String,
    },
    /// Files of two nodes, or of a node before and after its disk was wiped.
    #[error(
        "{path} belongs to another data directory (store {found}, where {expected} is expected): put back the files that \
         belong together{KEEP_DOWN}"
    )]
    Mixed {
        /// The file.
        path: PathBuf,
        /// The store that the file names.
        found: StoreId,
        /// The store of the directory.
        expected: StoreId,
    },
    /// The rows are gone.
    #[error(
        "the store of {path} is missing or was emptied: put its files back as they were when the node last ran{KEEP_DOWN}"
    )]
    StoreMissing {
        /// The directory.
        path: PathBuf,
    },
    /// What the cluster had decided is gone, and with it what this node has promised.
    #[error(
        "{path} is missing: put the directory's files back as they were when the node last ran{KEEP_DOWN}"
    )]
    DecidedMissing {
        /// The file.
        path: PathBuf,
    },
    /// The directory is of another cluster than the one asked for.
    #[error(
        "{path} belongs to the cluster {found}, not to {expected}: start it without a join token to return to its own \
         cluster, or choose an empty directory to join the other one"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it belongs to.
        found: String,
        /// The cluster asked for.
        expected: String,
    },
    /// Another release wrote it.
    #[error(
        "{path} was written by another release in a form that this one does not read: start the release that wrote it, or a newer one"
    )]
    OtherRelease {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what was written.
    #[error(
        "{path} is damaged ({what}): put the directory's files back as they were when the node last ran{KEEP_DOWN}"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operating system reports something else.
    #[error("{path}: {source}; check the disk and the system log")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl DataDirError {
    /// What an error of the operating system means for a directory.
    pub(super) fn of_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NoAccess { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Self::NotADirectory { path },
            _ => Self::Io { path, source },
        }
    }

    /// What an error of one of a directory's durable files means.
    pub fn of_file(dir: &Path, error: DurableError) -> Self {
        match error {
            DurableError::Io { path, source } => match Self::of_io(dir, source) {
                Self::Io { source, .. } => Self::Io { path, source },
                named => named,
            },
            DurableError::NotOurs { path } => {
                Self::Damaged { path, what: "it is something else than a file of Rondel".to_owned() }
            }
            DurableError::OtherRelease { path } => Self::OtherRelease { path },
            DurableError::Damaged { path, what } => Self::Damaged { path, what },
            DurableError::Stopped { path } => {
                Self::Io { path, source: io::Error::other("an earlier write to it failed") }
            }
        }
    }
}
