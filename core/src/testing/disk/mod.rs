//! The disk of a simulated machine: volatile until synced, and as unkind as real ones.
//!
//! Writes are seen at once and durable after a sync of their file; names are durable after a sync of their directory.
//! A killed process loses nothing that it wrote; a power cut loses what was not durable, wholly or in parts (see
//! [`CrashMode`]). Operations have a cost in virtual time, which [`Env::block`](crate::env::Env::block) waits for.

mod image;
mod mount;
mod state;

use super::{
    clock::Clock,
    lock,
    process::Process,
    trace::{Event, Trace},
};
use crate::env::Rng;
use mount::Mount;
use state::{Snapshot, State};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// What a power cut leaves of writes, lengths and names that were not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashMode {
    /// Nothing.
    LoseAll,
    /// Everything, as if it had been synced.
    KeepAll,
    /// What came first, up to some point.
    KeepSome,
    /// Each sector of 4096 bytes or not, in any order.
    Sectors,
    /// Each sector of 512 bytes or not: pages are torn.
    TornSectors,
}

impl CrashMode {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::LoseAll, Self::KeepAll, Self::KeepSome, Self::Sectors, Self::TornSectors];
}

/// What can become of a file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spoil {
    /// It is half as long.
    Cut,
    /// Everything in it is noise.
    Garble,
    /// It is gone. Who has it open goes on with it.
    Remove,
}

impl Spoil {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cut, Self::Garble, Self::Remove];
}

/// A copy of a disk: to roll it back later, or to give it to another machine.
#[derive(Debug, Clone)]
pub struct DiskImage(Snapshot);

/// The disk of a simulated machine, to be tampered with. Cheap to clone.
#[derive(Clone)]
pub struct SimDisk(Arc<Inner>);

struct Inner {
    node: u32,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
    state: Mutex<State>,
    /// The power went in the middle of an operation: the machine is to be stopped.
    cut: AtomicBool,
}

impl SimDisk {
    pub(super) fn new(node: u32, rng: Rng, clock: Arc<Clock>, trace: Arc<Trace>) -> Self {
        Self(Arc::new(Inner {
            node,
            clock,
            trace,
            state: Mutex::new(State::new(rng)),
            cut: AtomicBool::new(false),
        }))
    }

    /// How likely each operation that changes something fails with `EIO` (0 to 1).
    pub fn set_write_error_chance(&self, chance: f64) {
        lock(&self.0.state).faults.write_error_chance = chance;
    }

    /// How likely each read fails with `EIO` (0 to 1).
    pub fn set_read_error_chance(&self, chance: f64) {
        lock(&self.0.state).faults.read_error_chance = chance;
    }

    /// Bytes that fit (1 TiB until set). Beyond that, writes fail with `StorageFull`; removing still works.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.0.state).faults.capacity = bytes;
    }

    /// How many times slower than usual operations are.
    pub fn set_slowness(&self, factor: f64) {
        lock(&self.0.state).faults.slowness = factor;
    }

    /// Makes syncs succeed and do nothing, as a lying controller does. A test of durability that passes then tests
    /// nothing.
    pub fn set_ignore_sync(&self, ignore: bool) {
        lock(&self.0.state).faults.ignore_sync = ignore;
    }

    /// Flips one bit of what is stored, in a random used page. Gives the file and the offset; `None` if nothing is
    /// stored.
    #[must_use]
    pub fn flip_bit(&self) -> Option<(PathBuf, u64)> {
        self.flip_bit_where(|_| true)
    }

    /// As [`SimDisk::flip_bit`], in one of the files whose path passes the filter.
    #[must_use]
    pub fn flip_bit_where(&self, filter: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let flipped = lock(&self.0.state).flip_bit(filter);
        self.fault("flip bit", flipped.as_ref().map_or(0, |(_, offset)| *offset));
        flipped
    }

    /// Flips one bit wherever these bytes, at least eight, stand in the files whose path passes the filter. Gives how
    /// many places that were.
    pub fn flip_bits_of(&self, bytes: &[u8], filter: impl Fn(&Path) -> bool) -> usize {
        let flipped = lock(&self.0.state).flip_bits_of(bytes, filter);
        self.fault("flip bits", flipped as u64);
        flipped
    }

    /// Spoils the files whose path passes the filter. Gives their paths.
    pub fn spoil(&self, how: Spoil, filter: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let spoilt = lock(&self.0.state).spoil(how, filter);
        self.fault("spoil", spoilt.len() as u64);
        spoilt
    }

    /// A copy of everything that processes see, as if the machine had been shut down in order.
    #[must_use]
    pub fn snapshot(&self) -> DiskImage {
        DiskImage(lock(&self.0.state).snapshot())
    }

    /// Puts a copy back: of this disk (rolled back to an old state) or of another (a cloned machine).
    ///
    /// Stop the machine first, unless the disk is to be exchanged under a running process: files that it has open
    /// and that the copy does not have fail with `EIO`.
    pub fn restore(&self, image: &DiskImage) {
        lock(&self.0.state).restore(&image.0);
        self.fault("restore", 0);
    }

    /// Removes everything. Files that a running process has open fail with `EIO` from then on.
    pub fn wipe(&self) {
        lock(&self.0.state).wipe();
        self.fault("wipe", 0);
    }

    /// A hash of all names and bytes that a power cut would surely leave.
    #[must_use]
    pub fn image_hash(&self) -> [u8; 32] {
        *lock(&self.0.state).hash().as_bytes()
    }

    /// Operations so far that changed something: what [`Control::cut_power_after`](super::Control::cut_power_after)
    /// counts.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.0.state).operations
    }

    /// Syncs so far, of files and of directories.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.0.state).syncs
    }

    /// Changes that are not durable: those that a power cut would decide on.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        lock(&self.0.state).pending()
    }

    /// The disk as a process sees it.
    pub(super) fn mount(&self, process: Arc<Process>) -> Mount {
        Mount::new(self.clone(), process)
    }

    pub(super) fn cut_after(&self, operations: u64, mode: CrashMode) {
        lock(&self.0.state).faults.cut_after = Some((operations, mode));
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Relaxed)
    }

    /// The mode of a power cut that happened in the middle of an operation and is not dealt with yet.
    pub(super) fn cut_mode(&self) -> Option<CrashMode> {
        lock(&self.0.state).off
    }

    /// The power goes, and comes back.
    pub(super) fn crash(&self, mode: CrashMode) {
        let mut state = lock(&self.0.state);
        let unsynced = state.pending() as u64;
        state.crash(mode);
        drop(state);
        self.0.cut.store(false, Ordering::Relaxed);
        self.fault("power cut", unsynced);
    }

    /// A process is gone, and its locks with it.
    pub(super) fn release(&self, process: u64) {
        lock(&self.0.state).locks.retain(|_, owner| *owner != process);
    }

    fn fault(&self, fault: &'static str, amount: u64) {
        let event = Event::DiskFault { node: self.0.node, fault, amount };
        self.0.trace.record(self.0.clock.nanos(), &event);
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SimDisk").field("node", &self.0.node).finish_non_exhaustive()
    }
}
