//! A simulated disk as a process sees it: the [`Disk`] and [`File`] of its `Env`.
//!
//! Every call first asks whether the process is still alive, then whether a fault is due, and leaves a trace and a
//! cost in virtual time.

use super::{
    SimDisk,
    state::{Refusal, State},
};
use crate::{
    env::{Disk, File},
    testing::{lock, process::Process, trace::Event},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, atomic::Ordering},
    time::Duration,
};

const READ_COST: Duration = Duration::from_micros(2);
const WRITE_COST: Duration = Duration::from_micros(8);
/// A sync of a good disk, and of one that is busy now and then.
const SYNC_COST: (Duration, Duration) = (Duration::from_micros(80), Duration::from_micros(1500));
const STALL_COST: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(60));
const STALL_CHANCE: f64 = 0.01;

/// The disk of a machine, in use by a process of it.
#[derive(Debug, Clone)]
pub(in crate::testing) struct Mount {
    disk: SimDisk,
    process: Arc<Process>,
}

/// What an operation costs.
#[derive(Clone, Copy)]
enum Cost {
    Read,
    Write,
    Sync,
}

/// An operation that changes something, as the trace shows it.
#[derive(Clone, Copy)]
struct Operation {
    name: &'static str,
    file: u64,
    offset: u64,
    bytes: usize,
    cost: Cost,
}

impl Operation {
    fn on_names(name: &'static str, cost: Cost) -> Self {
        Self { name, file: 0, offset: 0, bytes: 0, cost }
    }
}

impl Mount {
    pub(super) fn new(disk: SimDisk, process: Arc<Process>) -> Self {
        Self { disk, process }
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.process.is_alive() {
            true => Ok(lock(&self.disk.0.state)),
            false => Err(io::Error::other("the process has been killed")),
        }
    }

    fn charge(&self, state: &mut State, cost: Cost) {
        let usual = match cost {
            Cost::Read => READ_COST,
            Cost::Write => WRITE_COST,
            Cost::Sync if state.rng.chance(STALL_CHANCE) => state.rng.between(STALL_COST.0, STALL_COST.1),
            Cost::Sync => state.rng.between(SYNC_COST.0, SYNC_COST.1),
        };
        self.process.owe(usual.mul_f64(state.faults.slowness));
    }

    /// Asks for the disk in order to read from it.
    fn reading(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        self.charge(&mut state, Cost::Read);
        state.begin_read()?;
        Ok(state)
    }

    /// Does something that changes the disk, or `otherwise` if a fault is due.
    fn change<T>(
        &self,
        operation: Operation,
        apply: impl FnOnce(&mut State) -> io::Result<T>,
        otherwise: impl FnOnce(&mut State, Refusal),
    ) -> io::Result<T> {
        let mut state = self.state()?;
        self.charge(&mut state, operation.cost);
        let result = match state.begin() {
            Ok(()) => apply(&mut state),
            Err(refusal) => {
                otherwise(&mut state, refusal);
                Err(refusal.into())
            }
        };
        let inner = &*self.disk.0;
        if state.off.is_some() {
            // The executor stops the machine when this poll returns; until then it must not reach anyone.
            inner.cut.store(true, Ordering::Relaxed);
            self.process.end();
        }
        drop(state);
        let Operation { name: operation, file, offset, bytes, .. } = operation;
        let failed = result.is_err();
        inner.trace.record(
            inner.clock.nanos(),
            &Event::Disk { node: inner.node, operation, file, offset, bytes, failed },
        );
        result
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let found = self.reading()?.file(path);
        let file = match found {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => self.change(
                Operation::on_names("create", Cost::Write),
                |state| state.create(path),
                |_, _| (),
            )?,
            found => found?,
        };
        Ok(Arc::new(OpenFile { mount: self.clone(), file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let operation = Operation::on_names("create directories", Cost::Write);
        self.change(operation, |state| state.create_directories(path), |_, _| ())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.reading()?.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::on_names("rename", Cost::Write), |state| state.rename(from, to), |_, _| ())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::on_names("remove", Cost::Write), |state| state.remove(path), |_, _| ())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let apply = |state: &mut State| {
            state.has_directory(path)?;
            state.sync_names(path);
            Ok(())
        };
        self.change(Operation::on_names("sync directory", Cost::Sync), apply, |_, _| ())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let state = self.reading()?;
        state.has_directory(path)?;
        Ok(state.free_bytes())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state()?;
        state.has_directory(path)?;
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.insert(path.to_owned(), self.process.id);
        Ok(Box::new(Guard { mount: self.clone(), path: path.to_owned() }))
    }
}

/// A directory that a process has for itself.
struct Guard {
    mount: Mount,
    path: PathBuf,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = lock(&self.mount.disk.0.state);
        // The lock of a killed process is gone already, and may be another's by now.
        if state.locks.get(&self.path) == Some(&self.mount.process.id) {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct OpenFile {
    mount: Mount,
    file: u64,
}

impl OpenFile {
    fn operation(&self, name: &'static str, offset: u64, bytes: usize, cost: Cost) -> Operation {
        Operation { name, file: self.file, offset, bytes, cost }
    }
}

impl File for OpenFile {
    fn len(&self) -> io::Result<u64> {
        self.mount.reading()?.len(self.file)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.mount.reading()?.read(self.file, position(offset)?, out)
    }

    /// A write that a fault interrupts may be there, wholly or in part: its caller must not rely on either.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = (self.file, position(offset)?);
        let interrupted = |state: &mut State, refusal| {
            let written = match refusal {
                Refusal::PowerCut => bytes.len(),
                Refusal::Broken => state.rng.index(bytes.len() + 1),
            };
            // No room: then nothing of it is there.
            let _ = state.write(file, at, &bytes[..written]);
        };
        let operation = self.operation("write", offset, bytes.len(), Cost::Write);
        self.mount.change(operation, |state| state.write(file, at, bytes), interrupted)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (file, to) = (self.file, position(len)?);
        let operation = self.operation("set length", len, 0, Cost::Write);
        self.mount.change(operation, |state| state.set_len(file, to), |_, _| ())
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.file;
        let failed = |state: &mut State, refusal| {
            if refusal == Refusal::Broken {
                state.fail_sync(file);
            }
        };
        self.mount.change(self.operation("sync", 0, 0, Cost::Sync), |state| state.sync(file), failed)
    }
}

/// An offset in the memory that stands for the file.
fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
