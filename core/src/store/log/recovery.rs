//! Opening a log: what the tables do not have yet is read and put into them.
//!
//! Whole groups are taken, in order, from the oldest segment that is needed. At the first record that can't be read
//! the segment ends. If anything later says that a batch beyond it was durable (a seal behind it in the segment, or
//! a later segment, which is only begun when everything before it is durable), acknowledged batches are gone:
//! that is a [`Loss`], and the store is behind its replicas. Otherwise it is the torn tail of a write that nobody was
//! told of. Either way the segment is never written to again before its number is forgotten, because the opening
//! ends by putting everything into the tables and beginning a segment with a number of its own, in one transaction.
//! Until then nothing that it read has been changed: a crash during an opening is followed by the same opening.

use super::{
    LogConfig,
    mutant::Mutant,
    record::{self, Body, Seed},
    segment::{Header, RECORDS_AT, SegmentFile, Segments},
    walk::Walk,
};
use crate::{
    env::Disk,
    store::{
        Lsn, StoreError,
        files::StoreFiles,
        memtable::{Change, Memtable},
        tables::{APPLIED_MARK, Tables, make_directory},
    },
};
use bytes::Bytes;
use std::{io, path::Path, sync::Arc};

/// The oldest segment whose records are needed; in the first store file.
pub(in crate::store) const FIRST_MARK: &str = "log first";
pub(in crate::store) const LOG_MARK: &str = "log";
/// A loss is known at every opening from then on; in the first store file.
const LOST_FROM_MARK: &str = "lost from";
const LOST_DURABLE_MARK: &str = "lost durable";

/// What an opening found in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Batches that came from the log.
    pub batches: u64,
    /// Segments that were read.
    pub segments: u64,
    /// What was acknowledged and is gone, if anything: found now, or at an earlier opening.
    pub loss: Option<Loss>,
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
    /// The last batch that the tables hold: the next one has the number after it.
    pub(in crate::store) last: u64,
    pub(in crate::store) segments: Segments,
    /// The segment that comes next, and where in it.
    pub(in crate::store) tail: Tail,
}

/// Where the log goes on.
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
    config: &LogConfig,
    new_log: u128,
) -> Result<Recovered, StoreError> {
    make_directory(&*disk, directory).map_err(io_error)?;
    let log = files.first().mark(LOG_MARK)?.unwrap_or(new_log);
    let first = files.first().mark(FIRST_MARK)?.map(as_u64).transpose()?;
    let applied = files.all().iter().map(|file| applied(file)).collect::<Result<Vec<_>, _>>()?;
    let opening = first.map_or(0, |first| first >> 32) + 1;
    let next_number = opening << 32;
    let mut segments =
        Segments::find(disk, directory, config.segment_bytes, log, next_number).map_err(io_error)?;

    let mut found = Found::new(files, &applied, config);
    let mut needed = Vec::new();
    if let Some(first) = first {
        needed = chain(&segments, log, first)?;
        found.read(first, &needed)?;
        // The store files take it one by one: what some of them have must not be gone from the log.
        if !config.breaks(Mutant::UnprovenTail) {
            found.prove().map_err(io_error)?;
        }
    }
    let last = found.next - 1;
    let aside = segments.set_aside(|file| needed.iter().any(|(_, other)| other.is(file)));
    let tail = match found.cut.take().filter(|_| config.breaks(Mutant::AppendToCut)) {
        Some(cut) => segments.adopt(cut),
        None => begin(&mut segments, last + 1)?,
    };
    let found = found;
    let loss = match (known_loss(files.first())?, found.recovery.loss) {
        (Some(known), Some(new)) => Some(Loss { from: known.from, durable: known.durable.max(new.durable) }),
        (known, new) => known.or(new),
    };
    for (number, file) in files.all().iter().enumerate().rev() {
        let rows: Vec<_> = found.rows.iter().filter(|(key, _)| files.of(key) == number).collect();
        for part in rows.chunks(files.part_rows()) {
            let transaction = file.begin_part()?;
            transaction.change(part.iter().copied())?;
            transaction.commit()?;
        }
        let transaction = file.begin()?;
        transaction.mark_applied(u128::from(last))?;
        if number == 0 {
            // The last step of the opening: before it the old segments are needed, after it the new one.
            transaction.mark(LOG_MARK, log)?;
            transaction.mark(FIRST_MARK, u128::from(tail.header.number))?;
            if let Some(loss) = loss {
                transaction.mark(LOST_FROM_MARK, u128::from(loss.from))?;
                transaction.mark(LOST_DURABLE_MARK, u128::from(loss.durable))?;
            }
        }
        transaction.commit()?;
    }
    if found.recovery.loss.is_some() {
        segments.keep_as_evidence(&aside).map_err(io_error)?;
    } else {
        segments.give_back(aside.into_iter().filter(|file| !file.is(&tail.file)).collect());
    }
    if let Some(loss) = loss {
        tracing::error!(
            from = loss.from,
            durable = loss.durable,
            "acknowledged writes are missing from the store's log: it must be filled from its replicas"
        );
    }
    Ok(Recovered { recovery: Recovery { loss, ..found.recovery }, last, segments, tail })
}

fn begin(segments: &mut Segments, first: u64) -> Result<Tail, StoreError> {
    let (header, file) = segments.begin(first).map_err(io_error)?;
    // Durable before the tables say that it is needed.
    file.bytes.sync().map_err(io_error)?;
    Ok(Tail { header, file, at: RECORDS_AT })
}

/// The segments from `first` on that the last opening wrote, in order. What an opening that did not finish has begun
/// is not among them.
fn chain(segments: &Segments, log: u128, first: u64) -> Result<Vec<(Header, SegmentFile)>, StoreError> {
    let mut chain = Vec::new();
    for file in segments.free() {
        if let Some(header) = file.header().map_err(io_error)?
            && header.log == log
            && header.number >= first
            && header.number >> 32 == first >> 32
        {
            chain.push((header, file.clone()));
        }
    }
    chain.sort_unstable_by_key(|(header, _)| header.number);
    Ok(chain)
}

/// What has been read from the log so far.
struct Found<'a> {
    files: &'a StoreFiles,
    /// By store file, the batch up to which it has everything.
    applied: &'a [u64],
    config: &'a LogConfig,
    rows: Memtable,
    recovery: Recovery,
    /// The batch that comes next.
    next: u64,
    /// Where the last segment ended.
    cut: Option<Tail>,
    /// Its newest group, and where it begins.
    unproven: Option<(u64, Vec<u8>)>,
}

/// The whole groups of a segment, as offsets among its records.
struct Groups {
    /// Where the newest begins.
    newest: usize,
    end: usize,
}

impl<'a> Found<'a> {
    fn new(files: &'a StoreFiles, applied: &'a [u64], config: &'a LogConfig) -> Self {
        let next = applied.iter().min().map_or(1, |applied| applied + 1);
        let (rows, recovery) = (Memtable::default(), Recovery::default());
        Self { files, applied, config, rows, recovery, next, cut: None, unproven: None }
    }

    /// Reads segments that should begin with number `first` and have no gap.
    fn read(&mut self, first: u64, chain: &[(Header, SegmentFile)]) -> Result<(), StoreError> {
        for (number, (header, file)) in (first..).zip(chain) {
            if header.number != number || header.first > self.next {
                self.lose(header.first.saturating_sub(1));
                break;
            }
            let bytes = file.records().map_err(io_error)?;
            let seed = seed(header, self.config);
            let Groups { newest, end } = self.read_segment(header.first, &bytes, seed);
            self.recovery.segments += 1;
            self.cut = Some(Tail { header: *header, file: file.clone(), at: RECORDS_AT + end as u64 });
            // A later segment proves this one durable, and will replace this.
            self.unproven = Some((RECORDS_AT + newest as u64, bytes[newest..end].to_vec()));
            if let Some(durable) =
                record::greatest_claim(&bytes[end..], seed).filter(|claim| *claim >= self.next)
            {
                self.lose(durable);
                break;
            }
        }
        if chain.is_empty() {
            self.lose(0);
        }
        Ok(())
    }

    /// Takes the whole groups of a segment.
    fn read_segment(&mut self, first: u64, bytes: &[u8], seed: Seed) -> Groups {
        let mut groups = Groups { newest: 0, end: 0 };
        let mut group: Vec<(u64, Change)> = Vec::new();
        for (at, record) in Walk::new(bytes, seed, first) {
            match record.body {
                Body::Change { key, value } => {
                    let change = (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
                    group.push((record.number, change));
                }
                Body::Seal { .. } => {
                    groups = Groups { newest: groups.end, end: at + record.bytes };
                    self.take(std::mem::take(&mut group));
                }
            }
        }
        if self.config.breaks(Mutant::UnsealedGroup) {
            self.take(group);
        }
        groups
    }

    /// Makes the newest group durable. It may have been read from the memory of the operating system only: its sync
    /// may have been cut short when the process was killed, or have failed, after which another sync would succeed
    /// and do nothing. Every older group is durable, or this one would not have been written.
    fn prove(&self) -> io::Result<()> {
        if let (Some(tail), Some((at, group))) = (&self.cut, &self.unproven) {
            tail.file.write_header(&tail.header)?;
            tail.file.bytes.write_at(*at, group)?;
            tail.file.bytes.sync()?;
        }
        Ok(())
    }

    /// Takes a group that is whole, but for what the store files have already.
    fn take(&mut self, group: Vec<(u64, Change)>) {
        for (number, change) in group {
            if number >= self.next {
                self.recovery.batches += 1;
                self.next = number + 1;
            }
            if number > self.applied[self.files.of(&change.0)] {
                self.rows.apply(Lsn(number), [change]);
            }
        }
    }

    /// Batches from the next one on are gone, though all up to `durable` were acknowledged.
    fn lose(&mut self, durable: u64) {
        self.recovery.loss = Some(Loss { from: self.next, durable });
        // Numbers that a store file has seen are not given out again.
        self.next = self.next.max(self.applied.iter().max().map_or(0, |applied| applied + 1));
    }
}

/// What an earlier opening found to be gone.
fn known_loss(first: &Tables) -> Result<Option<Loss>, StoreError> {
    let Some(from) = first.mark(LOST_FROM_MARK)? else { return Ok(None) };
    let durable = first.mark(LOST_DURABLE_MARK)?.unwrap_or(0);
    Ok(Some(Loss { from: as_u64(from)?, durable: as_u64(durable)? }))
}

fn applied(file: &Tables) -> Result<u64, StoreError> {
    file.mark(APPLIED_MARK)?.map_or(Ok(0), as_u64)
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
