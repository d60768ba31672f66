//! Small records that are replaced whole: who this node is, how often it started, what was decided.
//!
//! A file has two slots; a write goes into one, is synced, and then into the other, and counts when both are. So a
//! crash in the middle of a write leaves a whole record, and a slot that rots takes nothing with it: without the second copy
//! the record before it would be read as after a crash, and whoever had promised something would not know of it. What
//! reads back is the valid slot with the highest serial number; opening brings the other one up to it.
//!
//! ```text
//! header  at 0              magic [8] | layout u32 | 0 u32 | capacity u64 | check [16]
//! slot 0  at 4096           serial u64 | schema u64 | length u32 | 0 u32 | check [16] | archive
//! slot 1  at 4096+capacity  the same
//! ```
//!
//! Numbers are little-endian; `check` is the first half of the BLAKE3 of everything before it (and the archive). A
//! record that outgrows its slot gets a new file of larger slots under the same name.

#[cfg(test)]
pub(crate) mod test_disk;

use crate::env::{Disk, File};
use bytes::Bytes;
use rondel_proto::{Msg, Schema, Wire};
use std::{
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
};

const MAGIC: &[u8; 8] = b"RONDEL2S";
const LAYOUT: u32 = 1;
const HEADER_BYTES: usize = 40;
const SLOTS_AT: u64 = 4096;
const SLOTS: u64 = 2;
const SLOT_HEADER_BYTES: usize = 40;
const CAPACITY_MIN: u64 = 64 << 10;
/// No record is longer: a longer length is damage.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Why a small durable file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The operating system refused. After a failed write, what the file holds is either record, whole.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a file of Rondel")]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The record has a form that this release does not read.
    #[error("{path} was written by another release, in a form that this one does not read")]
    OtherRelease {
        /// The file.
        path: PathBuf,
    },
    /// Neither slot holds a whole record.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An earlier write failed: nothing is written any more.
    #[error("{path}: an earlier write failed, so nothing more is written")]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

/// A durable record of type `T`, replaced whole.
#[derive(Debug)]
pub struct Durable<T: Wire> {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    capacity: u64,
    serial: u64,
    failed: bool,
    of: PhantomData<fn() -> T>,
}

impl<T: Wire> Durable<T> {
    /// Makes the file with its first record, durably; a file of that name is replaced in one step.
    ///
    /// # Errors
    /// [`DurableError::Io`]: the name holds what it held before, or the whole new file.
    pub fn create(disk: Arc<dyn Disk>, path: &Path, record: &T) -> Result<Self, DurableError> {
        let archive = record.encode();
        let capacity = capacity_for(archive.len());
        let file =
            write_anew(&disk, path, capacity, 1, &slot_bytes::<T>(1, &archive)).map_err(io_at(path))?;
        Ok(Self { disk, path: path.to_owned(), file, capacity, serial: 1, failed: false, of: PhantomData })
    }

    /// The file and its current record; `None` if there is no such file.
    ///
    /// # Errors
    /// [`DurableError`]; what the file holds is the same as before.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Option<(Self, T)>, DurableError> {
        let file = match disk.open(path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_at(path)(error)),
        };
        let capacity = read_header(&*file, path)?;
        let slots = [read_slot(&*file, path, capacity, 0)?, read_slot(&*file, path, capacity, 1)?];
        let current = usize::from(serial_of(&slots[1]) > serial_of(&slots[0]));
        let Some(slot) = &slots[current] else {
            return Err(damaged(path, "neither of its two records is whole"));
        };
        if slot.schema != T::HASH {
            return Err(DurableError::OtherRelease { path: path.to_owned() });
        }
        let record =
            Msg::<T>::from_bytes(slot.archive.clone()).map_err(|error| damaged(path, error))?.to_owned();
        let (serial, path) = (slot.serial, path.to_owned());
        if serial_of(&slots[1 - current]) != serial {
            // A crash has come between the two, or one has rotted.
            let bytes = slot_bytes::<T>(serial, &slot.archive);
            write_slot(&*file, capacity, 1 - current as u64, &bytes).map_err(io_at(&path))?;
        }
        Ok(Some((Self { disk, path, file, capacity, serial, failed: false, of: PhantomData }, record)))
    }

    /// Replaces the record; it is durable when this returns.
    ///
    /// # Errors
    /// [`DurableError::Io`]: after a restart it is either record, and until then nothing more is written
    /// ([`DurableError::Stopped`]), because a later success would say nothing about this one.
    pub fn write(&mut self, record: &T) -> Result<(), DurableError> {
        if self.failed {
            return Err(DurableError::Stopped { path: self.path.clone() });
        }
        self.failed = true;
        self.try_write(&record.encode()).map_err(io_at(&self.path))?;
        self.failed = false;
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn try_write(&mut self, archive: &[u8]) -> io::Result<()> {
        let serial = self.serial + 1;
        let bytes = slot_bytes::<T>(serial, archive);
        if bytes.len() as u64 > self.capacity {
            let capacity = capacity_for(archive.len());
            self.file = write_anew(&self.disk, &self.path, capacity, serial, &bytes)?;
            (self.capacity, self.serial) = (capacity, serial);
            return Ok(());
        }
        for slot in 0..SLOTS {
            write_slot(&*self.file, self.capacity, slot, &bytes)?;
        }
        self.serial = serial;
        Ok(())
    }
}

/// Writes a slot, durably.
fn write_slot(file: &dyn File, capacity: u64, slot: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(SLOTS_AT + slot * capacity, bytes)?;
    file.sync()
}

/// A whole file with one record under a temporary name, then renamed: there is never half a file.
fn write_anew(
    disk: &Arc<dyn Disk>,
    path: &Path,
    capacity: u64,
    serial: u64,
    slot: &[u8],
) -> io::Result<Arc<dyn File>> {
    debug_assert!(serial > 0, "0 is the serial of no record");
    let draft = draft_of(path);
    let file = disk.open(&draft, true)?;
    file.set_len(0)?;
    file.set_len(SLOTS_AT + SLOTS * capacity)?;
    file.write_at(0, &header_bytes(capacity))?;
    for number in 0..SLOTS {
        file.write_at(SLOTS_AT + number * capacity, slot)?;
    }
    file.sync()?;
    disk.rename(&draft, path)?;
    if let Some(parent) = path.parent() {
        disk.sync_dir(parent)?;
    }
    disk.open(path, false)
}

/// The name under which a file is prepared before it takes its own.
pub(crate) fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn capacity_for(archive_len: usize) -> u64 {
    (2 * (archive_len + SLOT_HEADER_BYTES) as u64).next_power_of_two().max(CAPACITY_MIN)
}

fn header_bytes(capacity: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&LAYOUT.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&capacity.to_le_bytes());
    let check = check_of(&out, &[]);
    out.extend_from_slice(&check);
    out
}

fn slot_bytes<T: Schema>(serial: u64, archive: &[u8]) -> Vec<u8> {
    let len = u32::try_from(archive.len()).expect("records are far below the bound of a slot");
    let mut out = Vec::with_capacity(SLOT_HEADER_BYTES + archive.len());
    out.extend_from_slice(&serial.to_le_bytes());
    out.extend_from_slice(&T::HASH.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    let check = check_of(&out, archive);
    out.extend_from_slice(&check);
    out.extend_from_slice(archive);
    out
}

fn check_of(head: &[u8], archive: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(archive);
    let mut check = [0; 16];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn read_header(file: &dyn File, path: &Path) -> Result<u64, DurableError> {
    let len = file.len().map_err(io_at(path))?;
    let mut header = [0; HEADER_BYTES];
    if len < SLOTS_AT {
        let mut magic = [0; MAGIC.len()];
        let ours = file.read_at(0, &mut magic).is_ok() && &magic == MAGIC;
        return Err(if ours || len == 0 {
            damaged(path, format_args!("it was cut to {len} bytes"))
        } else {
            DurableError::NotOurs { path: path.to_owned() }
        });
    }
    file.read_at(0, &mut header).map_err(io_at(path))?;
    if header[..8] != *MAGIC {
        return Err(DurableError::NotOurs { path: path.to_owned() });
    }
    if header[24..] != check_of(&header[..24], &[]) {
        return Err(damaged(path, "its header fails the checksum"));
    }
    if u32_at(&header, 8) != LAYOUT {
        return Err(DurableError::OtherRelease { path: path.to_owned() });
    }
    let capacity = u64_at(&header, 16);
    if len < SLOTS_AT + SLOTS * capacity {
        return Err(damaged(path, format_args!("it was cut to {len} bytes")));
    }
    Ok(capacity)
}

struct Slot {
    serial: u64,
    schema: u64,
    archive: Bytes,
}

fn serial_of(slot: &Option<Slot>) -> u64 {
    slot.as_ref().map_or(0, |slot| slot.serial)
}

/// The slot's record if it is whole: a torn one is what a crash in the middle of a write leaves.
fn read_slot(file: &dyn File, path: &Path, capacity: u64, slot: u64) -> Result<Option<Slot>, DurableError> {
    let at = SLOTS_AT + slot * capacity;
    let mut head = [0; SLOT_HEADER_BYTES];
    file.read_at(at, &mut head).map_err(io_at(path))?;
    let len = u64::from(u32_at(&head, 16));
    if len > RECORD_BYTES_MAX || len + SLOT_HEADER_BYTES as u64 > capacity {
        return Ok(None);
    }
    let mut archive = vec![0; usize::try_from(len).expect("bounded above")];
    file.read_at(at + SLOT_HEADER_BYTES as u64, &mut archive).map_err(io_at(path))?;
    let (serial, schema) = (u64_at(&head, 0), u64_at(&head, 8));
    let whole = serial > 0 && head[24..] == check_of(&head[..24], &archive);
    Ok(whole.then(|| Slot { serial, schema, archive: Bytes::from(archive) }))
}

fn u32_at(bytes: &[u8; 40], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; 40], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> DurableError {
    let path = path.to_owned();
    move |source| DurableError::Io { path: path.clone(), source }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> DurableError {
    DurableError::Damaged { path: path.to_owned(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{test_disk::TestDisk, *};
    use rondel_proto::wire;

    #[wire(crate = rondel_proto)]
    #[derive(PartialEq)]
    struct Note {
        number: u64,
        text: String,
    }

    #[wire(crate = rondel_proto)]
    struct Other {
        number: u32,
    }

    fn note(number: u64) -> Note {
        Note { number, text: "x".repeat(usize::try_from(number % 7).unwrap() * 10) }
    }

    fn path() -> &'static Path {
        Path::new("/d/note")
    }

    fn read(disk: &TestDisk) -> Result<Option<Note>, DurableError> {
        Ok(Durable::open(disk.arc(), path())?.map(|(_, note)| note))
    }

    #[test]
    fn the_last_record_written_reads_back() {
        let disk = TestDisk::new();
        assert!(read(&disk).unwrap().is_none());
        let mut file = Durable::create(disk.arc(), path(), &note(1)).unwrap();
        for number in 2..9 {
            file.write(&note(number)).unwrap();
            assert_eq!(read(&disk).unwrap(), Some(note(number)));
        }
        let (mut again, _) = Durable::<Note>::open(disk.arc(), path()).unwrap().unwrap();
        again.write(&note(9)).unwrap();
        assert_eq!(read(&disk).unwrap(), Some(note(9)));
    }

    #[test]
    fn a_crash_at_any_byte_of_any_operation_leaves_one_record_or_the_other() {
        for budget in 0..2_000 {
            let disk = TestDisk::new();
            let mut file = Durable::create(disk.arc(), path(), &note(4)).unwrap();
            file.write(&note(5)).unwrap();
            disk.crash_after_bytes(budget);
            let done = file.write(&note(6)).is_ok();
            disk.restart();
            let found = read(&disk).unwrap().unwrap();
            assert!(found == note(6) || (!done && found == note(5)), "budget {budget}: {found:?}");
            if done {
                return;
            }
        }
        panic!("the write never completed");
    }

    #[test]
    fn a_crash_while_the_file_grows_leaves_one_record_or_the_other() {
        let large = Note { number: 7, text: "y".repeat(100_000) };
        for budget in (0..).step_by(997) {
            let disk = TestDisk::new();
            let mut file = Durable::create(disk.arc(), path(), &note(6)).unwrap();
            disk.crash_after_bytes(budget);
            let done = file.write(&large).is_ok();
            disk.restart();
            let found = read(&disk).unwrap().unwrap();
            assert!(found == large || (!done && found == note(6)), "budget {budget}");
            if done {
                return;
            }
        }
    }

    #[test]
    fn after_a_failed_write_nothing_more_is_written() {
        let disk = TestDisk::new();
        let mut file = Durable::create(disk.arc(), path(), &note(1)).unwrap();
        disk.crash_after_bytes(3);
        assert!(matches!(file.write(&note(2)), Err(DurableError::Io { .. })));
        disk.restart();
        assert!(matches!(file.write(&note(3)), Err(DurableError::Stopped { .. })));
    }

    #[test]
    fn a_flipped_byte_anywhere_leaves_the_last_record_or_is_told() {
        let disk = TestDisk::new();
        let mut file = Durable::create(disk.arc(), path(), &note(4)).unwrap();
        file.write(&note(5)).unwrap();
        let whole = disk.content(path());
        let second = 4096 + usize::try_from(CAPACITY_MIN).unwrap();
        for at in (0..HEADER_BYTES).chain(4096..4300).chain(second..second + 200) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            disk.set_content(path(), bytes);
            match read(&disk) {
                Ok(found) => assert_eq!(found, Some(note(5)), "byte {at}"),
                Err(error) => assert!(
                    matches!(error, DurableError::Damaged { .. } | DurableError::NotOurs { .. }),
                    "byte {at}: {error}"
                ),
            }
        }
    }

    #[test]
    fn a_record_that_is_there_once_is_there_twice_after_opening() {
        let second = 4096 + usize::try_from(CAPACITY_MIN).unwrap();
        for budget in 0..2_000 {
            let disk = TestDisk::new();
            let mut file = Durable::create(disk.arc(), path(), &note(4)).unwrap();
            disk.crash_after_bytes(budget);
            let done = file.write(&note(5)).is_ok();
            disk.restart();
            let found = read(&disk).unwrap();
            // Whoever has read it may have promised something by it.
            for at in [4096 + 50, second + 50] {
                let whole = disk.content(path());
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                disk.set_content(path(), bytes);
                assert_eq!(read(&disk).unwrap(), found, "budget {budget}, byte {at}");
                disk.set_content(path(), whole);
            }
            if done {
                return;
            }
        }
        panic!("the write never completed");
    }

    #[test]
    fn a_cut_file_a_strange_file_and_another_form_are_told_apart() {
        let disk = TestDisk::new();
        Durable::create(disk.arc(), path(), &note(1)).unwrap();
        assert!(matches!(Durable::<Other>::open(disk.arc(), path()), Err(DurableError::OtherRelease { .. })));
        let whole = disk.content(path());
        for len in [0, 8, 100, 4096, 5000, whole.len() - 1] {
            disk.set_content(path(), whole[..len].to_vec());
            assert!(matches!(read(&disk), Err(DurableError::Damaged { .. })), "cut to {len}");
        }
        disk.set_content(path(), b"hello".to_vec());
        assert!(matches!(read(&disk), Err(DurableError::NotOurs { .. })));
        disk.set_content(path(), vec![b'z'; 9000]);
        assert!(matches!(read(&disk), Err(DurableError::NotOurs { .. })));
    }

    #[test]
    fn the_bytes_on_disk_never_change_their_meaning() {
        let disk = TestDisk::new();
        Durable::create(disk.arc(), path(), &note(1)).unwrap();
        let bytes = disk.content(path());
        let hex = |range: std::ops::Range<usize>| {
            bytes[range].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        assert_eq!(
            hex(0..40),
            "524f4e44454c3253010000000000000000000100000000008a34d4c1ad39075626796f123af5c618"
        );
        assert_eq!(hex(4096..4104), "0100000000000000");
        assert_eq!(hex(4112..4120), "1a00000000000000");
        assert_eq!(hex(4136..4162), "7878787878787878787801000000000000008a000000eeffffff");
    }
}
