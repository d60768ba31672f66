//! The durable record of the sequence on a node's disk.
//!
//! One two-slot file in the data directory, synced at each write: a crash in the middle of a write leaves the vote
//! before it, whose reply has left, and never half of one. What is read back is checked against its own root.

use super::acceptor::Record;
use crate::{durable::Durable, env::Disk, membership::DataDirError, ring::Occupant};
use std::{path::Path, sync::Arc};

/// The open file.
#[derive(Debug)]
pub struct DecidedFile(Durable<Record>);

impl DecidedFile {
    /// Makes the file of a node that has just founded or joined a cluster.
    ///
    /// # Errors
    /// [`DataDirError`]; the file is not there, or whole.
    pub fn create(disk: Arc<dyn Disk>, path: &Path, record: &Record) -> Result<Self, DataDirError> {
        Durable::create(disk, path, record).map(Self).map_err(|error| DataDirError::of_file(path, error))
    }

    /// Opens the file of this node and store; `None` if it belongs to no cluster yet.
    ///
    /// # Errors
    /// [`DataDirError`] if the file is another store's or not whole. Nothing was changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        me: Occupant,
    ) -> Result<Option<(Self, Record)>, DataDirError> {
        let opened =
            Durable::<Record>::open(disk, path).map_err(|error| DataDirError::of_file(path, error))?;
        let Some((file, record)) = opened else { return Ok(None) };
        let path = path.to_owned();
        if record.owner != me {
            return Err(DataDirError::Mixed { path, found: record.owner.store, expected: me.store });
        }
        if record.state.root() != record.root {
            return Err(DataDirError::Damaged {
                path,
                what: "its state does not have the root it names".to_owned(),
            });
        }
        if let Some(Err(error)) = record.state.topology.placement.as_ref().map(crate::ring::Placement::check)
        {
            return Err(DataDirError::Damaged { path, what: error.to_string() });
        }
        Ok(Some((Self(file), record)))
    }

    /// Replaces the record. It is durable when this returns. Waits for the disk.
    ///
    /// # Errors
    /// [`DataDirError`]; final: the replica must not be used any more.
    pub fn write(&mut self, record: &Record) -> Result<(), DataDirError> {
        let Self(file) = self;
        file.write(record).map_err(|error| DataDirError::of_file(file.path(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        durable::test_disk::TestDisk,
        sequence::{Accepted, Ballot, ChangeId, Delta, state::tests::genesis},
    };
    use rondel_proto::{
        Wire as _,
        id::{NodeId, StoreId},
    };

    fn path() -> &'static Path {
        Path::new("/data/decided")
    }

    fn record(round: u64) -> Record {
        let state = genesis(1);
        let ballot = Ballot { round, node: NodeId(1), nonce: 5 };
        let (entry, _) = state.next(ChangeId(9), &[Delta::RaiseFormat(2)]).unwrap();
        let accepted = round.is_multiple_of(2).then_some(Accepted { ballot, entry });
        Record { promised: Some(ballot), accepted, ..Record::new(state.voters[0], state) }
    }

    fn open(disk: &TestDisk) -> Result<Option<Record>, DataDirError> {
        let opened = DecidedFile::open(disk.arc(), path(), record(1).owner)?;
        Ok(opened.map(|(_, record)| record))
    }

    #[test]
    fn a_vote_survives_a_crash_in_the_middle_of_the_next_one() {
        for budget in (0..).step_by(61) {
            let disk = TestDisk::new();
            assert!(open(&disk).unwrap().is_none());
            let mut file = DecidedFile::create(disk.arc(), path(), &record(1)).unwrap();
            file.write(&record(2)).unwrap();
            disk.crash_after_bytes(budget);
            let done = file.write(&record(3)).is_ok();
            disk.restart();
            let found = open(&disk).unwrap().unwrap();
            assert!(found == record(3) || (!done && found == record(2)), "budget {budget}");
            if done {
                return;
            }
        }
    }

    #[test]
    fn the_record_of_another_store_is_refused() {
        let disk = TestDisk::new();
        let mut other = record(1);
        other.owner.store = StoreId(77);
        DecidedFile::create(disk.arc(), path(), &other).unwrap();
        assert!(matches!(open(&disk), Err(DataDirError::Mixed { found: StoreId(77), .. })));
    }

    #[test]
    fn a_state_that_is_not_what_its_root_says_is_refused() {
        let disk = TestDisk::new();
        let mut wrong = record(1);
        wrong.state.format += 1;
        DecidedFile::create(disk.arc(), path(), &wrong).unwrap();
        assert!(matches!(open(&disk), Err(DataDirError::Damaged { .. })));
    }

    #[test]
    fn the_bytes_of_a_record_never_change_over_releases() {
        let archive = record(2).encode();
        assert_eq!(
            (archive.len(), blake3::hash(&archive).to_hex().as_str()),
            (635, "9eeb5d41d638537a3e0d83036c277503a62853e798e1ec7fc96578e3506e819f")
        );
    }
}
