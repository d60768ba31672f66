//! What is on a simulated disk, and what of it a power cut leaves.
//!
//! Every change that is not durable yet stands in one list, in order. A sync takes the changes of its file out of it
//! and makes them durable; a power cut decides for each of the rest whether it reached the platter. What is durable
//! is changed in no other way.

use super::{
    CrashMode, Spoil,
    image::{Image, PAGE_BYTES},
};
use crate::env::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

/// The numbers of files start here.
const FIRST_FILE: u64 = 1;

/// The errno of a medium that fails.
const EIO: i32 = 5;

/// The smallest piece that a disk writes as a whole.
const SMALL_SECTOR_BYTES: usize = 512;

/// A file: as running processes see it, and as a power cut would leave it.
#[derive(Debug, Clone, Default)]
struct Content {
    seen: Image,
    durable: Image,
}

/// A change that is not durable yet.
#[derive(Debug)]
enum Change {
    Write { file: u64, offset: usize, bytes: Vec<u8> },
    SetLen { file: u64, len: usize },
    Name(NameChange),
}

#[derive(Debug)]
enum NameChange {
    Link { path: PathBuf, file: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

impl Change {
    fn is_of(&self, file: u64) -> bool {
        match self {
            Self::Write { file: of, .. } | Self::SetLen { file: of, .. } => *of == file,
            Self::Name(_) => false,
        }
    }

    fn is_name_in(&self, directory: &Path) -> bool {
        let within = |path: &Path| path.parent() == Some(directory);
        match self {
            Self::Write { .. } | Self::SetLen { .. } => false,
            Self::Name(NameChange::Link { path, .. } | NameChange::Unlink { path }) => within(path),
            Self::Name(NameChange::Rename { from, to, .. }) => within(from) || within(to),
        }
    }
}

/// What goes wrong on purpose.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    pub(super) write_error_chance: f64,
    pub(super) read_error_chance: f64,
    pub(super) ignore_sync: bool,
    pub(super) capacity: u64,
    pub(super) slowness: f64,
    /// Operations until the power goes, and what it then leaves.
    pub(super) cut_after: Option<(u64, CrashMode)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            write_error_chance: 0.0,
            read_error_chance: 0.0,
            ignore_sync: false,
            capacity: 1 << 40,
            slowness: 1.0,
            cut_after: None,
        }
    }
}

/// A copy of everything on a disk.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    images: BTreeMap<u64, Image>,
    next: u64,
}

/// Everything on a disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    contents: BTreeMap<u64, Content>,
    pending: Vec<Change>,
    /// Which process has which directory.
    pub(super) locks: BTreeMap<PathBuf, u64>,
    next: u64,
    /// The power is gone: nothing works until the crash has been dealt with.
    pub(super) off: Option<CrashMode>,
    pub(super) operations: u64,
    pub(super) syncs: u64,
}

impl State {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            rng,
            faults: Faults::default(),
            directories: BTreeSet::from([PathBuf::from("/")]),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            contents: BTreeMap::new(),
            pending: Vec::new(),
            locks: BTreeMap::new(),
            next: FIRST_FILE,
            off: None,
            operations: 0,
            syncs: 0,
        }
    }

    // What processes do.

    /// Counts an operation that changes something, and says whether it may go on.
    pub(super) fn begin(&mut self) -> Result<(), Refusal> {
        if self.off.is_some() {
            return Err(Refusal::PowerCut);
        }
        self.operations += 1;
        match &mut self.faults.cut_after {
            Some((0, mode)) => {
                self.off = Some(*mode);
                self.faults.cut_after = None;
                return Err(Refusal::PowerCut);
            }
            Some((left, _)) => *left -= 1,
            None => (),
        }
        if self.rng.chance(self.faults.write_error_chance) { Err(Refusal::Broken) } else { Ok(()) }
    }

    /// Says whether a read may go on.
    pub(super) fn begin_read(&mut self) -> io::Result<()> {
        match self.off.is_some() {
            true => Err(Refusal::PowerCut.into()),
            false if self.rng.chance(self.faults.read_error_chance) => Err(Refusal::Broken.into()),
            false => Ok(()),
        }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        if !path.parent().is_some_and(|parent| self.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.directories.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let file = self.next;
        self.next += 1;
        self.contents.insert(file, Content::default());
        self.names.insert(path.to_owned(), file);
        self.pending.push(Change::Name(NameChange::Link { path: path.to_owned(), file }));
        Ok(file)
    }

    /// Makes directories. They are durable at once: no store makes one after it has begun to promise things.
    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        for directory in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            if self.names.contains_key(directory) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        self.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    pub(super) fn has_directory(&self, path: &Path) -> io::Result<()> {
        if self.directories.contains(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.has_directory(directory)?;
        Ok(self.names.keys().filter(|path| path.parent() == Some(directory)).cloned().collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file(from)?;
        if !to.parent().is_some_and(|parent| self.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.names.remove(from);
        self.names.insert(to.to_owned(), file);
        self.pending.push(Change::Name(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        }));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.names.remove(path);
        self.pending.push(Change::Name(NameChange::Unlink { path: path.to_owned() }));
        Ok(())
    }

    pub(super) fn len(&self, file: u64) -> io::Result<u64> {
        Ok(self.opened(file)?.seen.len() as u64)
    }

    pub(super) fn read(&self, file: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.opened(file)?.seen.read(offset, out)
    }

    pub(super) fn write(&mut self, file: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.make_room(file, offset.saturating_add(bytes.len()))?;
        self.content_mut(file).seen.write(offset, bytes);
        self.pending.push(Change::Write { file, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, file: u64, len: usize) -> io::Result<()> {
        self.make_room(file, len)?;
        self.content_mut(file).seen.set_len(len);
        self.pending.push(Change::SetLen { file, len });
        Ok(())
    }

    fn make_room(&self, file: u64, len: usize) -> io::Result<()> {
        let growth = (len as u64).saturating_sub(self.len(file)?);
        if growth > self.free_bytes() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let used = self.names.values().map(|file| self.content(*file).seen.len() as u64).sum();
        self.faults.capacity.saturating_sub(used)
    }

    pub(super) fn sync(&mut self, file: u64) -> io::Result<()> {
        self.opened(file)?;
        self.syncs += 1;
        if self.faults.ignore_sync {
            return Ok(());
        }
        let changes: Vec<_> = self.pending.extract_if(.., |change| change.is_of(file)).collect();
        let content = self.content_mut(file);
        for change in changes {
            match change {
                Change::Write { offset, bytes, .. } => {
                    content.durable.share(&content.seen, offset, bytes.len())
                }
                Change::SetLen { len, .. } => content.durable.set_len(len),
                Change::Name(_) => unreachable!("names belong to directories"),
            }
        }
        Ok(())
    }

    /// What a failed sync does: the kernel reports the error once, takes the pages for clean and forgets them.
    pub(super) fn fail_sync(&mut self, file: u64) {
        if self.rng.chance(0.5) {
            self.pending.retain(|change| !change.is_of(file));
        }
    }

    pub(super) fn sync_names(&mut self, directory: &Path) {
        self.syncs += 1;
        if self.faults.ignore_sync {
            return;
        }
        let changes: Vec<_> = self.pending.extract_if(.., |change| change.is_name_in(directory)).collect();
        changes.into_iter().for_each(|change| self.keep(change));
    }

    /// A file that a process has opened. It is gone if the disk was exchanged under that process.
    fn opened(&self, file: u64) -> io::Result<&Content> {
        self.contents.get(&file).ok_or_else(|| Refusal::Broken.into())
    }

    /// A file that has a name or a pending change.
    fn content(&self, file: u64) -> &Content {
        self.contents.get(&file).expect("names and changes are of files that are there")
    }

    fn content_mut(&mut self, file: u64) -> &mut Content {
        self.contents.get_mut(&file).expect("names and changes are of files that are there")
    }

    // What faults do.

    /// Whether and how much of what is not durable a power cut would decide on.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The power goes and comes back.
    pub(super) fn crash(&mut self, mode: CrashMode) {
        let pending = std::mem::take(&mut self.pending);
        let keep_chance = 0.05 + 0.009 * self.rng.below(101) as f64;
        let whole = match mode {
            CrashMode::LoseAll => 0,
            CrashMode::KeepAll => pending.len(),
            CrashMode::KeepSome | CrashMode::Sectors | CrashMode::TornSectors => {
                self.rng.index(pending.len() + 1)
            }
        };
        for (at, change) in pending.into_iter().enumerate() {
            match (mode, change) {
                // File systems journal names in order: of those, a prefix is kept in every mode.
                (CrashMode::Sectors, Change::Write { file, offset, bytes }) => {
                    self.tear(file, offset, &bytes, PAGE_BYTES, keep_chance);
                }
                (CrashMode::TornSectors, Change::Write { file, offset, bytes }) => {
                    self.tear(file, offset, &bytes, SMALL_SECTOR_BYTES, keep_chance);
                }
                (CrashMode::Sectors | CrashMode::TornSectors, Change::SetLen { file, len }) => {
                    let kept = self.rng.chance(keep_chance);
                    let durable = &mut self.content_mut(file).durable;
                    // A file that grew is found grown: its writes could not be there otherwise.
                    if kept || len > durable.len() {
                        durable.set_len(len);
                    }
                }
                (_, change) if at < whole => self.keep(change),
                _ => (),
            }
        }
        self.reload();
    }

    /// Each sector of a write reaches the platter or does not.
    fn tear(&mut self, file: u64, offset: usize, bytes: &[u8], sector: usize, keep_chance: f64) {
        let mut at = 0;
        while at < bytes.len() {
            let step = (sector - (offset + at) % sector).min(bytes.len() - at);
            if self.rng.chance(keep_chance) {
                self.content_mut(file).durable.write(offset + at, &bytes[at..at + step]);
            }
            at += step;
        }
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Write { file, offset, bytes } => self.content_mut(file).durable.write(offset, &bytes),
            Change::SetLen { file, len } => self.content_mut(file).durable.set_len(len),
            Change::Name(NameChange::Link { path, file }) => {
                self.durable_names.insert(path, file);
            }
            Change::Name(NameChange::Unlink { path }) => {
                self.durable_names.remove(&path);
            }
            Change::Name(NameChange::Rename { from, to, file }) => {
                self.durable_names.remove(&from);
                self.durable_names.insert(to, file);
            }
        }
    }

    /// Starts over from what is durable.
    fn reload(&mut self) {
        self.off = None;
        self.faults.cut_after = None;
        self.locks.clear();
        self.pending.clear();
        self.names.clone_from(&self.durable_names);
        let named: BTreeSet<_> = self.names.values().copied().collect();
        self.contents.retain(|file, _| named.contains(file));
        for content in self.contents.values_mut() {
            content.seen = content.durable.clone();
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let images = self.names.values().map(|file| (*file, self.content(*file).seen.clone())).collect();
        Snapshot { directories: self.directories.clone(), names: self.names.clone(), images, next: self.next }
    }

    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        let Snapshot { directories, names, images, next } = snapshot.clone();
        (self.directories, self.durable_names) = (directories, names);
        self.next = self.next.max(next);
        let content = |(file, image): (u64, Image)| (file, Content { seen: image.clone(), durable: image });
        self.contents = images.into_iter().map(content).collect();
        self.reload();
    }

    pub(super) fn wipe(&mut self) {
        self.durable_names.clear();
        self.directories = BTreeSet::from([PathBuf::from("/")]);
        self.reload();
    }

    /// Flips one bit in a page that is used, in a file whose path passes the filter.
    pub(super) fn flip_bit(&mut self, filter: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let mut pages = Vec::new();
        for (path, file) in self.names.iter().filter(|(path, _)| filter(path)) {
            pages.extend(self.content(*file).seen.used_pages().map(|page| (path.clone(), *file, page)));
        }
        let (path, file, page) = self.rng.choose(&pages)?.clone();
        let end = self.content(file).seen.len();
        let first = page * PAGE_BYTES;
        let offset = first + self.rng.index(PAGE_BYTES.min(end - first));
        let bit = self.rng.u64().to_le_bytes()[0];
        let content = self.content_mut(file);
        content.seen.flip(offset, bit);
        if offset < content.durable.len() {
            content.durable.flip(offset, bit);
        }
        Some((path, offset as u64))
    }

    /// Flips one bit wherever these bytes stand, in files whose path passes the filter. Gives how many there were.
    pub(super) fn flip_bits_of(&mut self, bytes: &[u8], filter: impl Fn(&Path) -> bool) -> usize {
        let files: Vec<u64> =
            self.names.iter().filter(|(path, _)| filter(path)).map(|(_, file)| *file).collect();
        let mut flipped = 0;
        for file in files {
            for first in self.content(file).seen.places_of(bytes) {
                let offset = first + self.rng.index(bytes.len());
                let bit = self.rng.u64().to_le_bytes()[0];
                let content = self.content_mut(file);
                content.seen.flip(offset, bit);
                if offset < content.durable.len() {
                    content.durable.flip(offset, bit);
                }
                flipped += 1;
            }
        }
        flipped
    }

    /// Spoils the files whose path passes the filter, on the platter, too. Gives their paths.
    pub(super) fn spoil(&mut self, how: Spoil, filter: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let spoilt: Vec<_> = self.names.iter().filter(|(path, _)| filter(path)).collect();
        let spoilt: Vec<(PathBuf, u64)> =
            spoilt.into_iter().map(|(path, file)| (path.clone(), *file)).collect();
        for (path, file) in &spoilt {
            match how {
                Spoil::Remove => {
                    self.names.remove(path);
                    self.durable_names.remove(path);
                }
                Spoil::Cut => {
                    let half = self.content(*file).seen.len() / 2;
                    let content = self.content_mut(*file);
                    content.seen.set_len(half);
                    content.durable.set_len(half.min(content.durable.len()));
                }
                Spoil::Garble => self.garble(*file),
            }
        }
        spoilt.into_iter().map(|(path, _)| path).collect()
    }

    /// Writes noise over every page that holds anything.
    fn garble(&mut self, file: u64) {
        let pages: Vec<usize> = self.content(file).seen.used_pages().collect();
        for page in pages {
            let noise: Vec<u8> =
                std::iter::repeat_with(|| self.rng.u64().to_le_bytes()).flatten().take(PAGE_BYTES).collect();
            let content = self.content_mut(file);
            for image in [&mut content.seen, &mut content.durable] {
                let len = PAGE_BYTES.min(image.len().saturating_sub(page * PAGE_BYTES));
                image.write(page * PAGE_BYTES, &noise[..len]);
            }
        }
    }

    pub(super) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, file) in &self.durable_names {
            hasher.update(path.as_os_str().as_encoded_bytes());
            self.content(*file).durable.hash_into(&mut hasher);
        }
        hasher.finalize()
    }
}

/// Why an operation did not happen, or not as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The power went, now or before.
    PowerCut,
    /// The medium reports an error.
    Broken,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PowerCut => Self::other("the power is gone"),
            Refusal::Broken => Self::from_raw_os_error(EIO),
        }
    }
}
