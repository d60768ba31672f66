//! A redb file on the node's disk.

use crate::env::File;
use redb::StorageBackend;
use std::{io, sync::Arc};

/// Passes redb's accesses to a file. The node's directory lock keeps other processes out, so redb's own is not needed.
#[derive(Debug)]
pub(super) struct RedbFile(pub(super) Arc<dyn File>);

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
