//! Segments: the files that the log is written to, one after the other, and over again.
//!
//! A segment has a number that is never used again, not even if its opening was cut off: the upper half counts the
//! openings of the store, the lower half the segments of one. Its header is there twice, so that no single bad page
//! hides the records behind it, and says which batch comes first: everything before that one was durable when the
//! segment was begun.
//!
//! A segment that no opening needs any more is kept as long as rows have their values in it. Then its file waits to be
//! written over, which spares the file system a change of length at every sync; of many that wait some are removed.

use super::{needed::Needed, record::Seed, recovery::Tail};
use crate::env::{Disk, File, give_way};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where records begin.
pub(super) const RECORDS_AT: u64 = 8192;
const COPIES_AT: [u64; 2] = [0, 4096];
/// What the page cache reads and writes.
pub(super) const PAGE_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"rondlog1";
const HEADER_BYTES: usize = 44;
const PREFIX: &str = "log-";
/// Zeroes that are written at a time.
const ZEROES_BYTES: usize = 64 << 10;
/// What is read at a stretch.
const READ_BYTES: usize = 256 << 10;
/// Files that may wait; more are removed. Half of them are what a log of the default length has in use at most.
pub(in crate::store) const FREE_MAX: usize = 32;

/// What a segment's file says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Which log it belongs to.
    pub(super) log: u128,
    /// Its number, never used again.
    pub(super) number: u64,
    /// The batch that its first record is of.
    pub(super) first: u64,
}

impl Header {
    pub(super) fn seed(&self) -> Seed {
        Seed::new(self.log, self.number)
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..24].copy_from_slice(&self.log.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        let checksum = crc32fast::hash(&out[..40]);
        out[40..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (fields, checksum) = bytes.split_at(40);
        if fields[..8] != MAGIC || crc32fast::hash(fields).to_le_bytes() != *checksum {
            return None;
        }
        let log = u128::from_le_bytes(*fields[8..].first_chunk()?);
        let number = u64::from_le_bytes(*fields[24..].first_chunk()?);
        let first = u64::from_le_bytes(*fields[32..].first_chunk()?);
        Some(Self { log, number, first })
    }
}

/// A file that holds a segment, or waits to.
#[derive(Debug, Clone)]
pub(in crate::store) struct SegmentFile {
    pub(super) bytes: Arc<dyn File>,
    path: PathBuf,
}

impl SegmentFile {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self { bytes: disk.open(path, false)?, path: path.to_owned() })
    }

    fn into_kept(self) -> io::Result<KeptSegment> {
        Ok(KeptSegment { bytes: self.bytes.len()?.saturating_sub(RECORDS_AT), path: self.path })
    }

    /// Whether both are the same file.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }

    /// The header. Of two copies that differ (the machine died while one was written over) the newer one.
    pub(super) fn header(&self) -> io::Result<Option<Header>> {
        let mut newest: Option<Header> = None;
        for at in COPIES_AT {
            let mut bytes = [0; HEADER_BYTES];
            match self.bytes.read_at(at, &mut bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(error),
            }
            let copy = Header::decode(&bytes);
            if copy.map(|copy| copy.number) > newest.map(|newest| newest.number) {
                newest = copy;
            }
        }
        Ok(newest)
    }

    pub(super) fn write_header(&self, header: &Header) -> io::Result<()> {
        // Whole pages: of a part the page cache would have to read the rest.
        let mut page = [0; PAGE_BYTES];
        page[..HEADER_BYTES].copy_from_slice(&header.encode());
        COPIES_AT.iter().try_for_each(|at| self.bytes.write_at(*at, &page))
    }

    /// How many copies of the header are not one, nor empty.
    pub(super) fn damaged_headers(&self) -> io::Result<usize> {
        let len = self.bytes.len()?;
        let mut damaged = 0;
        for at in COPIES_AT.into_iter().filter(|at| at + HEADER_BYTES as u64 <= len) {
            let mut bytes = [0; HEADER_BYTES];
            self.bytes.read_at(at, &mut bytes)?;
            damaged += usize::from(bytes != [0; HEADER_BYTES] && Header::decode(&bytes).is_none());
        }
        Ok(damaged)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything behind the header.
    pub(super) fn records(&self) -> io::Result<Vec<u8>> {
        let len = self.bytes.len()?.saturating_sub(RECORDS_AT);
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        // A file that lost power while it grew may end within its header.
        for (number, piece) in bytes.chunks_mut(READ_BYTES).enumerate() {
            self.bytes.read_at(RECORDS_AT + (number * READ_BYTES) as u64, piece)?;
            give_way();
        }
        Ok(bytes)
    }

    /// Fills it with zeroes, which the disk takes bit by bit: a sync of the log waits behind all that it has been given.
    fn fill(&self, len: u64) -> io::Result<()> {
        let zeroes = vec![0; ZEROES_BYTES];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(ZEROES_BYTES as u64);
            self.bytes.write_at(at, &zeroes[..usize::try_from(step).unwrap_or(ZEROES_BYTES)])?;
            self.bytes.write_back()?;
            at += step;
        }
        self.bytes.sync()
    }
}

/// A segment whose records may still be needed.
#[derive(Debug)]
struct Live {
    number: u64,
    first: u64,
    bytes: u64,
    /// Its header is certainly there.
    is_durable: bool,
    file: SegmentFile,
}

/// A segment that is not needed any more but for the values in it.
#[derive(Debug, Clone)]
pub(in crate::store) struct KeptSegment {
    /// Its file, which is opened by whoever reads it: there may be more of them than files a process may have open.
    pub(in crate::store) path: PathBuf,
    /// Bytes of records in it, about.
    pub(in crate::store) bytes: u64,
}

/// Bytes of records that rows have their values in, by segment.
pub(in crate::store) type LiveValues = BTreeMap<u64, u64>;

/// The files of a log: those in use, oldest first, and those that wait.
#[derive(Debug)]
pub(in crate::store) struct Segments {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    segment_bytes: u64,
    log: u128,
    next_number: u64,
    next_file: u32,
    live: VecDeque<Live>,
    kept: BTreeMap<u64, KeptSegment>,
    free: Vec<SegmentFile>,
    /// What the store's files say.
    needed: Needed,
}

impl Segments {
    /// Finds the files of the log in a directory. But for those that are to be kept none is in use yet; which numbers they
    /// get, [`Segments::set_opening`] says.
    pub(super) fn find(
        disk: Arc<dyn Disk>,
        directory: &Path,
        segment_bytes: u64,
        log: u128,
        is_kept: impl Fn(u64) -> bool,
        is_named: impl Fn(u64) -> bool,
    ) -> io::Result<Self> {
        let (mut free, mut kept) = (Vec::new(), BTreeMap::new());
        let mut next_file = 0;
        for path in disk.list(directory)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(number) = name.strip_prefix(PREFIX).and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            next_file = next_file.max(number + 1);
            let file = SegmentFile { bytes: disk.open(&path, false)?, path };
            match file.header()?.filter(|header| header.log == log) {
                Some(header) if is_kept(header.number) => {
                    kept.insert(header.number, file.into_kept()?);
                }
                Some(header) if is_named(header.number) => free.push(file),
                // More would be more than a process may have open.
                _ if free.len() >= FREE_MAX => remove(&*disk, &file.path)?,
                _ => free.push(file),
            }
        }
        let (live, directory, needed) = (VecDeque::new(), directory.to_owned(), Needed::from(0));
        Ok(Self { disk, directory, segment_bytes, log, next_number: 0, next_file, live, kept, free, needed })
    }

    /// Numbers are those of this opening, which has to be one that no segment is of.
    pub(super) fn set_opening(&mut self, opening: u64) {
        self.next_number = opening << 32;
    }

    /// Keeps those of some files that rows have their values in. The others wait; if something was lost they are kept for
    /// whoever wants to know what was in them, under names that are not the log's.
    pub(super) fn sort_out(
        &mut self,
        files: Vec<SegmentFile>,
        live: &LiveValues,
        is_lost: bool,
    ) -> io::Result<()> {
        for file in files {
            let own = file.header()?.filter(|header| header.log == self.log);
            match own.filter(|header| live.contains_key(&header.number)) {
                Some(header) => drop(self.kept.insert(header.number, file.into_kept()?)),
                None if is_lost => self.disk.rename(&file.path, &file.path.with_added_extension("lost"))?,
                None => self.free.push(file),
            }
        }
        if is_lost { self.disk.sync_dir(&self.directory) } else { Ok(()) }
    }

    /// The segments that are kept for the values in them, by number.
    pub(in crate::store) fn kept(&self) -> &BTreeMap<u64, KeptSegment> {
        &self.kept
    }

    /// Where a segment can be read: one that is needed, or one that is kept.
    pub(super) fn find_segment(&self, number: u64) -> Option<Result<SegmentFile, PathBuf>> {
        let live = || self.live.iter().rev().find(|live| live.number == number);
        match self.kept.get(&number) {
            Some(kept) => Some(Err(kept.path.clone())),
            None => live().map(|live| Ok(live.file.clone())),
        }
    }

    pub(super) fn free(&self) -> &[SegmentFile] {
        &self.free
    }

    /// Sets files aside whose records may be needed: none of them is written over before [`Segments::give_back`].
    pub(super) fn set_aside(&mut self, needed: impl Fn(&SegmentFile) -> bool) -> Vec<SegmentFile> {
        let (aside, free) = std::mem::take(&mut self.free).into_iter().partition(needed);
        self.free = free;
        aside
    }

    pub(in crate::store) fn give_back(&mut self, files: Vec<SegmentFile>) {
        self.free.extend(files);
    }

    /// Begins the next segment, whose first record will be of batch `first`. Its header is written, not synced.
    /// A file is made on the spot if none waits: slower than one that has been prepared, but the log never stands.
    pub(super) fn begin(&mut self, first: u64) -> io::Result<(Header, SegmentFile)> {
        let prepared = self.free.iter().rposition(|file| self.has_its_length(file));
        let file = match prepared.map(|index| self.free.swap_remove(index)).or_else(|| self.free.pop()) {
            Some(file) => file,
            None => self.make()?,
        };
        if file.bytes.len()? > self.segment_bytes {
            // It has held a group larger than a segment.
            file.bytes.set_len(self.segment_bytes)?;
        }
        let header = Header { log: self.log, number: self.next_number, first };
        self.next_number += 1;
        file.write_header(&header)?;
        let live = Live { number: header.number, first, bytes: 0, is_durable: false, file: file.clone() };
        self.live.push_back(live);
        Ok((header, file))
    }

    /// Goes on in a segment of an earlier opening: what [`Mutant::AppendToCut`](super::mutant::Mutant) does.
    pub(super) fn adopt(&mut self, tail: Tail) -> Tail {
        self.next_number = tail.header.number + 1;
        self.keep(&tail);
        tail
    }

    /// Takes a segment of an earlier opening for one that is needed.
    pub(super) fn keep(&mut self, read: &Tail) {
        let Header { number, first, .. } = read.header;
        let (bytes, file) = (read.at - RECORDS_AT, read.file.clone());
        self.live.push_back(Live { number, first, bytes, is_durable: true, file });
    }

    /// Notes what the store's files say.
    pub(super) fn set_needed(&mut self, needed: Needed) {
        self.needed = needed;
    }

    /// What the store's files are to say once the segments before `first_needed` are not needed any more.
    pub(in crate::store) fn mark_from(&self, first_needed: u64) -> u128 {
        self.needed.without_before(first_needed).mark()
    }

    /// Notes how much has been written to the newest segment, and synced.
    pub(super) fn note_written(&mut self, bytes: u64) {
        if let Some(newest) = self.live.back_mut() {
            newest.bytes += bytes;
            newest.is_durable = true;
        }
    }

    /// The oldest segment that is needed once everything up to `applied` is in the tables. Never one that a crash may
    /// leave without its header: an opening would miss it.
    pub(in crate::store) fn first_needed(&self, applied: u64) -> u64 {
        let follows = |next: &&Live| next.first <= applied + 1 && next.is_durable;
        let unneeded = self.live.iter().skip(1).take_while(follows).count();
        self.live.get(unneeded).map_or(self.next_number, |segment| segment.number)
    }

    /// Lets the segments before `first_needed` be written over, but for those that rows have their values in; gives the
    /// files that are more than `free_max`, to be removed with [`remove`].
    pub(in crate::store) fn trim(
        &mut self,
        first_needed: u64,
        live: &LiveValues,
        free_max: usize,
    ) -> io::Result<Vec<PathBuf>> {
        while let Some(oldest) = self.live.front()
            && oldest.number < first_needed
            && let Some(oldest) = self.live.pop_front()
        {
            if live.contains_key(&oldest.number) {
                self.kept.insert(oldest.number, KeptSegment { path: oldest.file.path, bytes: oldest.bytes });
            } else {
                self.free.push(oldest.file);
            }
        }
        let dead: Vec<u64> = self.kept.keys().filter(|number| !live.contains_key(number)).copied().collect();
        let surplus = self.free.split_off(self.free.len().min(free_max));
        let mut too_many: Vec<_> = surplus.into_iter().map(|file| file.path).collect();
        for number in dead {
            let Some(KeptSegment { path, .. }) = self.kept.remove(&number) else { continue };
            if self.free.len() < free_max {
                self.free.push(SegmentFile::open(&*self.disk, &path)?);
            } else {
                too_many.push(path);
            }
        }
        Ok(too_many)
    }

    /// Bytes of records that an opening would read.
    pub(in crate::store) fn live_bytes(&self) -> u64 {
        self.live.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether a file should be made before it is needed.
    pub(in crate::store) fn wants_spare(&self) -> bool {
        !self.free.iter().any(|file| self.has_its_length(file))
    }

    /// Whether no write to the file changes its length, which would make each sync wait for the file system's journal.
    pub(super) fn has_its_length(&self, file: &SegmentFile) -> bool {
        file.bytes.len().is_ok_and(|len| len >= self.segment_bytes)
    }

    /// Takes the name of a new file, or of one that waits and is too short: make it with [`NewFile::make`], away from the
    /// log, and give it back.
    pub(in crate::store) fn reserve(&mut self) -> NewFile {
        let short = self.free.iter().position(|file| !self.has_its_length(file));
        let path = match short.map(|index| self.free.swap_remove(index)) {
            Some(short) => short.path,
            None => {
                self.next_file += 1;
                self.directory.join(format!("{PREFIX}{:06}", self.next_file - 1))
            }
        };
        NewFile { disk: Arc::clone(&self.disk), path, bytes: self.segment_bytes }
    }

    fn make(&mut self) -> io::Result<SegmentFile> {
        let new = self.reserve();
        let file = SegmentFile { bytes: new.disk.open(&new.path, true)?, path: new.path };
        self.disk.sync_dir(&self.directory)?;
        Ok(file)
    }
}

/// Removes a file of the log. Its room is given back though a reader has it open still.
pub(in crate::store) fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.open(path, false)?.set_len(0)?;
    disk.remove(path)
}

/// A segment file to be made.
pub(in crate::store) struct NewFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
}

impl NewFile {
    /// Makes the file in its full length, so that no later sync has to change it.
    pub(in crate::store) fn make(self) -> io::Result<SegmentFile> {
        let file = SegmentFile { bytes: self.disk.open(&self.path, true)?, path: self.path };
        file.fill(self.bytes)?;
        self.disk.sync_dir(file.path.parent().unwrap_or(Path::new(".")))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_decodes_to_itself_and_nothing_else_does() {
        let header = Header { log: 7, number: (3 << 32) | 9, first: 1234 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), None, "bit {bit}");
        }
    }
}
