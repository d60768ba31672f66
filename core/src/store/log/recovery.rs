//! Opening a log: what the tables do not have yet is read.
//!
//! Whole groups are taken, in order, from the oldest segment that is needed. At the first record that can't be read
//! the segment ends. If anything later says that a batch beyond it was durable (a seal behind it in the segment, or
//! a later segment, which is only begun when everything before it is durable), acknowledged batches are gone:
//! that is a [`Loss`], and the store is behind its replicas. Otherwise it is the torn tail of a write that nobody was
//! told of.
//!
//! Either way the segment is never written to again before its number is forgotten, because the opening begins a
//! segment with a number of its own. The rows are left to the flush, which takes them for the oldest memtable; what was
//! read stays needed until it has moved them. Where that can't be (they are too many, the opening before has left its
//! own and was cut off before their flush, or something is lost) they go into the tables before the store opens.
//! Both end in one transaction per store file. Until the last of them, nothing that any file names has been written over:
//! an opening that is cut off is followed by one that finds no less than it did. The segment that it has begun may be
//! named by some files and not by others, or by none; so the next opening's number is above all that have been used.

use super::{
    LogConfig,
    mutant::Mutant,
    needed::{self, Needed},
    record::{self, Body, Seed},
    segment::{Header, LiveValues, RECORDS_AT, SegmentFile, Segments},
    values,
    walk::Walk,
};
use crate::{
    env::Disk,
    store::{
        StoreConfig, StoreError,
        files::StoreFiles,
        gaps::GAPS_MARK,
        memtable::Folded,
        stored::Stored,
        tables::{APPLIED_MARK, Tables, make_directory},
    },
};
use bytes::Bytes;
use std::{io, iter::successors, path::Path, sync::Arc};

/// Which segments are needed. In every store file, as they can be lost: what names the oldest counts, since each brings
/// itself up to date before it names newer ones.
pub(in crate::store) const FIRST_MARK: &str = "log first";
/// Which log it is; in every store file.
pub(in crate::store) const LOG_MARK: &str = "log";
/// A loss is known at every opening from then on; in every store file.
const LOST_FROM_MARK: &str = "lost from";
const LOST_DURABLE_MARK: &str = "lost durable";

/// What a store file keeps of the log that replaces another, where these are left.
pub(in crate::store) fn marks_of<'a>(
    files: impl Iterator<Item = &'a Tables> + Clone,
) -> Result<Vec<(&'static str, u128)>, StoreError> {
    let kept = |name| {
        let marks = files.clone().map(move |file| file.mark(name));
        marks.filter_map(Result::transpose).collect::<Result<Vec<u128>, _>>()
    };
    let needed = Needed::oldest(&Needed::of_marks(kept(FIRST_MARK)?)?);
    let marks = [
        (LOG_MARK, kept(LOG_MARK)?.first().copied()),
        (FIRST_MARK, needed.map(Needed::mark)),
        (LOST_FROM_MARK, kept(LOST_FROM_MARK)?.into_iter().min()),
        (LOST_DURABLE_MARK, kept(LOST_DURABLE_MARK)?.into_iter().max()),
    ];
    Ok(marks.into_iter().filter_map(|(name, mark)| Some((name, mark?))).collect())
}

/// What an opening found in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Batches that came from the log.
    pub batches: u64,
    /// Segments that were read.
    pub segments: u64,
    /// What was acknowledged and is gone, if anything: found now, or at an earlier opening.
    pub loss: Option<Loss>,
    /// Segments that are not there though rows have their values in them: each of these rows is damaged.
    pub lost_values: u64,
}

/// Acknowledged batches that are gone: the store is behind its replicas and must be filled from them. It says so at
/// every opening, and keeps the segments in which the loss was found, with `.lost` at the end of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The first batch that is gone, as numbered over all openings.
    pub from: u64,
    /// The last batch that is known to have been acknowledged; 0 if nothing tells.
    pub durable: u64,
}

/// A log that is ready to be written to.
pub(in crate::store) struct Recovered {
    pub(in crate::store) recovery: Recovery,
    /// The last batch of the earlier openings: the next one has the number after it.
    pub(in crate::store) last: u64,
    /// What the tables do not have of them, durable before this opening's first batch.
    pub(in crate::store) rows: Folded,
    pub(in crate::store) segments: Segments,
    /// Which log it is.
    pub(in crate::store) log: u128,
    /// The segment that comes next, and where in it.
    pub(in crate::store) tail: Tail,
}

/// Where the log goes on, or has ended.
#[derive(Clone)]
pub(in crate::store) struct Tail {
    pub(super) header: Header,
    pub(super) file: SegmentFile,
    pub(super) at: u64,
}

/// Opens the log in `directory`. `new_log` identifies it if it is new. Blocks.
pub(in crate::store) fn recover(
    disk: Arc<dyn Disk>,
    directory: &Path,
    files: &StoreFiles,
    config: &StoreConfig,
    new_log: u128,
) -> Result<Recovered, StoreError> {
    make_directory(&*disk, directory).map_err(io_error)?;
    // A process that was killed may have made files whose names are not durable yet.
    disk.sync_dir(directory).map_err(io_error)?;
    let log = files.marks(LOG_MARK)?.first().copied().unwrap_or(new_log);
    let named = Needed::of_marks(files.marks(FIRST_MARK)?)?;
    let needed = Needed::oldest(&named);
    let is_named = |number| named.iter().any(|needed| needed.has(number));
    let is_needed = |number| needed.is_some_and(|needed| needed.has(number));
    let live = files.live_values();
    let is_kept = |number| live.contains_key(&number) && !is_named(number);
    let segments = Segments::find(disk, directory, config.log.segment_bytes, log, is_kept, is_named);
    let mut segments = segments.map_err(io_error)?;
    let lost_values = lost_values(&live, &segments, is_kept);
    let present = present(&segments, log)?;
    let used = present.iter().map(|(header, _)| header.number).chain(live.keys().copied());
    segments.set_opening(next_opening(&named, used));
    let aside =
        segments.set_aside(|file| present.iter().any(|(of, other)| other.is(file) && is_named(of.number)));
    let chain: Vec<_> = present.into_iter().filter(|(header, _)| is_needed(header.number)).collect();

    // A file that has just been made takes all that the log has.
    let oldest = chain.first().map_or(1, |(header, _)| header.first);
    let applied = files.all().iter().map(|file| applied(file, oldest)).collect::<Result<Vec<_>, _>>()?;
    let mut opening = Opening { files, applied: &applied, log, segments };
    let mut found = Found::new(files, &applied, config);
    if let Some(needed) = needed {
        found.read(needed, &chain)?;
        // The store files take it one by one: what some of them have must not be gone from the log.
        if !config.log.breaks(Mutant::UnprovenTail) {
            found.prove().map_err(io_error)?;
        }
    }
    let last = found.next - 1;
    let waiting = needed.filter(|needed| found.can_wait(*needed));
    let (rows, tail) = match waiting {
        Some(needed) => opening.leave(&mut found, needed, aside, last)?,
        None => (Folded::default(), opening.settle(&mut found, aside, last)?),
    };
    let loss = known_loss(files)?;
    if let Some(loss) = loss {
        tracing::error!(
            from = loss.from,
            durable = loss.durable,
            "acknowledged writes are missing from the store's log: it must be filled from its replicas"
        );
    }
    let recovery = Recovery { loss, lost_values, ..found.recovery };
    Ok(Recovered { recovery, last, rows, segments: opening.segments, log, tail })
}

/// The end of an opening: it begins a segment of its own and says so.
struct Opening<'a> {
    files: &'a StoreFiles,
    applied: &'a [u64],
    log: u128,
    segments: Segments,
}

impl Opening<'_> {
    /// Leaves the rows to the flush: the segments that were read stay needed, and the new one comes behind them.
    fn leave(
        &mut self,
        found: &mut Found<'_>,
        needed: Needed,
        aside: Vec<SegmentFile>,
        last: u64,
    ) -> Result<(Folded, Tail), StoreError> {
        let (read, config) = (&found.read, &found.config.log);
        read.iter().for_each(|read| self.segments.keep(read));
        let tail = self.begin(last + 1)?;
        let behind = read.last().and_then(|read| needed.joined(read.header.number, tail.header.number));
        let mut needed = behind.expect("what can wait has been read, and had no joint");
        self.segments.set_needed(needed);
        if config.breaks(Mutant::HastyOpening) {
            needed = Needed::from(tail.header.number);
        }
        if !config.breaks(Mutant::ForgottenJoint) {
            for file in self.files.all() {
                let transaction = file.begin()?;
                transaction.mark(LOG_MARK, self.log)?;
                transaction.mark(FIRST_MARK, needed.mark())?;
                transaction.commit()?;
            }
        }
        // Nothing was in the others: only an opening that was cut off had named them.
        let others = aside.into_iter().filter(|file| !read.iter().any(|read| read.file.is(file)));
        self.segments.sort_out(others.collect(), &self.files.live_values(), false).map_err(io_error)?;
        Ok((std::mem::take(&mut found.rows), tail))
    }

    /// Puts the rows into the tables: only the new segment is needed then.
    fn settle(
        &mut self,
        found: &mut Found<'_>,
        aside: Vec<SegmentFile>,
        last: u64,
    ) -> Result<Tail, StoreError> {
        let cut = found.read.pop().filter(|_| found.config.log.breaks(Mutant::AppendToCut));
        let tail = match cut {
            Some(cut) => self.segments.adopt(cut),
            None => self.begin(last + 1)?,
        };
        found.move_rows()?;
        let loss = found.loss_to_keep(known_loss(self.files)?);
        // With the last of them the opening is done: before it the old segments are needed, after it the new one.
        for (number, file) in self.files.all().iter().enumerate().rev() {
            let transaction = file.begin()?;
            if self.applied[number] != last || file.mark(APPLIED_MARK)?.is_none() {
                transaction.mark_applied(u128::from(last))?;
            }
            transaction.mark(LOG_MARK, self.log)?;
            transaction.mark(FIRST_MARK, Needed::from(tail.header.number).mark())?;
            if let Some(loss) = loss {
                transaction.mark(LOST_FROM_MARK, u128::from(loss.from))?;
                transaction.mark(LOST_DURABLE_MARK, u128::from(loss.durable))?;
            }
            transaction.commit()?;
        }
        let aside: Vec<_> = aside.into_iter().filter(|file| !file.is(&tail.file)).collect();
        let (live, is_lost) = (self.files.live_values(), found.recovery.loss.is_some());
        self.segments.sort_out(aside, &live, is_lost).map_err(io_error)?;
        Ok(tail)
    }

    fn begin(&mut self, first: u64) -> Result<Tail, StoreError> {
        let (header, file) = self.segments.begin(first).map_err(io_error)?;
        // Durable before the tables say that it is needed.
        file.bytes.sync().map_err(io_error)?;
        self.segments.note_written(0);
        Ok(Tail { header, file, at: RECORDS_AT })
    }
}

/// The log's segments that are there, in order.
fn present(segments: &Segments, log: u128) -> Result<Vec<(Header, SegmentFile)>, StoreError> {
    let mut present = Vec::new();
    for file in segments.free() {
        if let Some(header) = file.header().map_err(io_error)?
            && header.log == log
        {
            present.push((header, file.clone()));
        }
    }
    present.sort_unstable_by_key(|(header, _)| header.number);
    Ok(present)
}

/// An opening that no segment is of. One that was cut off may have told no store file of its segment, and what a store
/// file names may be gone: both count.
fn next_opening(named: &[Needed], used: impl Iterator<Item = u64>) -> u64 {
    let named = named.iter().map(|needed| needed.newest());
    named.chain(used).max().map_or(0, needed::opening) + 1
}

/// What has been read from the log so far.
struct Found<'a> {
    files: &'a StoreFiles,
    /// By store file, the batch up to which it has everything.
    applied: &'a [u64],
    config: &'a StoreConfig,
    rows: Folded,
    /// Some rows are on their way into the tables, and durable there with the next transaction of their file.
    moved: bool,
    recovery: Recovery,
    /// The batch that comes next.
    next: u64,
    /// The segments, and where each has ended.
    read: Vec<Tail>,
    /// The newest group of the last one, and where it begins.
    unproven: Option<(u64, Vec<u8>)>,
}

/// The whole groups of a segment, as offsets among its records.
struct Groups {
    /// Where the newest begins.
    newest: usize,
    end: usize,
}

impl<'a> Found<'a> {
    fn new(files: &'a StoreFiles, applied: &'a [u64], config: &'a StoreConfig) -> Self {
        Self {
            files,
            applied,
            config,
            rows: Folded::default(),
            moved: false,
            recovery: Recovery::default(),
            next: applied.iter().min().map_or(1, |applied| applied + 1),
            read: Vec::new(),
            unproven: None,
        }
    }

    /// Reads segments, which should be those that are needed.
    fn read(&mut self, needed: Needed, chain: &[(Header, SegmentFile)]) -> Result<(), StoreError> {
        let numbers = successors(Some(needed.first()), |number| Some(needed.after(*number)));
        for (number, (header, file)) in numbers.zip(chain) {
            if header.number != number || header.first > self.next {
                self.lose(header.first.saturating_sub(1));
                break;
            }
            // This segment proves the ones before it durable: their rows may go into the tables.
            if self.rows.bytes > self.config.backlog_bytes_max {
                self.move_rows()?;
            }
            let bytes = file.records().map_err(io_error)?;
            let seed = seed(header, &self.config.log);
            let Groups { newest, end } = self.read_segment(header, &bytes, seed);
            self.recovery.segments += 1;
            self.read.push(Tail { header: *header, file: file.clone(), at: RECORDS_AT + end as u64 });
            // A later segment proves this one durable, and will replace this.
            self.unproven = Some((RECORDS_AT + newest as u64, bytes[newest..end].to_vec()));
            if let Some(durable) =
                record::greatest_claim(&bytes[end..], seed).filter(|claim| *claim >= self.next)
            {
                self.lose(durable);
                break;
            }
        }
        if self.recovery.loss.is_none() && !chain.iter().any(|(header, _)| header.number == needed.newest()) {
            self.lose(0);
        }
        Ok(())
    }

    /// Takes the whole groups of a segment.
    fn read_segment(&mut self, header: &Header, bytes: &[u8], seed: Seed) -> Groups {
        let mut groups = Groups { newest: 0, end: 0 };
        let mut group: Vec<(u64, Bytes, Option<Stored>)> = Vec::new();
        for (at, record) in Walk::new(bytes, seed, header.first) {
            match record.body {
                Body::Change { key, value } => {
                    let stored = value.map(|value| {
                        let place = values::place(header, at, record.bytes);
                        match place.filter(|_| self.config.log.keeps_in_log(key, value.len())) {
                            Some(place) => Stored::There(place),
                            None => Stored::Here(Bytes::copy_from_slice(value)),
                        }
                    });
                    group.push((record.number, Bytes::copy_from_slice(key), stored));
                }
                Body::Seal { .. } => {
                    groups = Groups { newest: groups.end, end: at + record.bytes };
                    self.take(std::mem::take(&mut group));
                }
            }
        }
        if self.config.log.breaks(Mutant::UnsealedGroup) {
            self.take(group);
        }
        groups
    }

    /// Makes the newest group durable. It may have been read from the memory of the operating system only: its sync
    /// may have been cut short when the process was killed, or have failed, after which another sync would succeed
    /// and do nothing. Every older group is durable, or this one would not have been written.
    fn prove(&self) -> io::Result<()> {
        if let (Some(tail), Some((at, group))) = (self.read.last(), &self.unproven) {
            tail.file.write_header(&tail.header)?;
            tail.file.bytes.write_at(*at, group)?;
            tail.file.bytes.sync()?;
        }
        Ok(())
    }

    /// Takes a group that is whole, but for what the store files have already.
    fn take(&mut self, group: Vec<(u64, Bytes, Option<Stored>)>) {
        for (number, key, stored) in group {
            if number >= self.next {
                self.recovery.batches += 1;
                self.next = number + 1;
            }
            if number > self.applied[self.files.of(&key)] {
                self.rows.put(key, stored);
            }
        }
    }

    /// Whether the rows may be left to the flush. A second joint is not: openings that are cut off one after the other
    /// would pile up segments.
    fn can_wait(&self, needed: Needed) -> bool {
        let is_whole = self.recovery.loss.is_none() && !self.moved;
        let fits = !self.rows.is_empty() && self.rows.bytes <= self.config.backlog_bytes_max;
        is_whole && fits && !needed.is_joined() && !self.config.log.breaks(Mutant::AppendToCut)
    }

    /// Puts the rows on their way into the tables.
    fn move_rows(&mut self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.rows);
        self.moved |= !rows.is_empty();
        for (number, file) in self.files.all().iter().enumerate().rev() {
            file.change_in_parts(rows.of_file(number, self.files.all().len(), None), self.files.part_rows())?;
        }
        Ok(())
    }

    /// Batches from the next one on are gone, though all up to `durable` were acknowledged.
    fn lose(&mut self, durable: u64) {
        self.recovery.loss = Some(Loss { from: self.next, durable });
        // Numbers that a store file has seen are not given out again.
        self.next = self.next.max(self.applied.iter().max().map_or(0, |applied| applied + 1));
    }

    /// What is to be known of losses from now on: this one, and what an earlier opening has found.
    fn loss_to_keep(&self, known: Option<Loss>) -> Option<Loss> {
        match (known, self.recovery.loss) {
            (Some(known), Some(new)) => {
                Some(Loss { from: known.from, durable: known.durable.max(new.durable) })
            }
            (known, new) => known.or(new),
        }
    }
}

/// Counts the segments that are to be kept and are not there.
fn lost_values(live: &LiveValues, segments: &Segments, is_kept: impl Fn(u64) -> bool) -> u64 {
    let is_lost = |number: &&u64| is_kept(**number) && !segments.kept().contains_key(number);
    let lost = live.keys().filter(is_lost).count() as u64;
    if lost > 0 {
        tracing::error!(
            segments = lost,
            "files of the log are missing in which rows have their values: the rows are damaged, and come back from the \
             other replicas as they are found"
        );
    }
    lost
}

/// What an earlier opening found to be gone.
fn known_loss(files: &StoreFiles) -> Result<Option<Loss>, StoreError> {
    let Some(from) = files.marks(LOST_FROM_MARK)?.into_iter().min() else { return Ok(None) };
    let durable = files.marks(LOST_DURABLE_MARK)?.into_iter().max().unwrap_or(0);
    Ok(Some(Loss { from: as_u64(from)?, durable: as_u64(durable)? }))
}

/// The batch up to which a file has everything that it can have, where the log begins with batch `oldest`.
fn applied(file: &Tables, oldest: u64) -> Result<u64, StoreError> {
    match file.mark(APPLIED_MARK)? {
        Some(applied) => as_u64(applied),
        None if file.mark(GAPS_MARK)?.is_some() => Ok(oldest.saturating_sub(1)),
        None => Ok(0),
    }
}

pub(super) fn seed(header: &Header, config: &LogConfig) -> Seed {
    if config.breaks(Mutant::UnseededChecksum) { Seed(0) } else { header.seed() }
}

fn as_u64(mark: u128) -> Result<u64, StoreError> {
    u64::try_from(mark).map_err(|_| StoreError::Damaged("a mark of the log makes no sense".to_owned()))
}

pub(in crate::store) fn io_error(error: io::Error) -> StoreError {
    StoreError::Io(Arc::new(error))
}

#[cfg(test)]
mod tests;
