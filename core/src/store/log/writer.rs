//! The end of the log: groups of batches go to the newest segment, one sync each.

use super::{
    LogConfig, Mutant, record,
    recovery::{Tail, seed},
    segment::{PAGE_BYTES, RECORDS_AT, Segments},
};
use crate::{env::Env, store::memtable::Change};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A batch on its way to the log.
pub(in crate::store) struct Batch {
    pub(in crate::store) number: u64,
    /// How many bytes of records have been queued before it, since the store was opened.
    pub(in crate::store) queued: u64,
    pub(in crate::store) changes: Vec<Change>,
}

/// A segment whose file grows is left for one that has been prepared, once so much of it is written: a share of its
/// length.
const GROWING_SHARE: u64 = 32;

/// Appends groups. One per log.
pub(in crate::store) struct Writer {
    env: Env,
    segments: Arc<Mutex<Segments>>,
    config: LogConfig,
    tail: Tail,
    /// The tail's file has been made on the spot.
    growing: bool,
    /// The last batch that is durable.
    durable: u64,
    buffer: Vec<u8>,
}

/// Records that stand in a segment one behind the other, as they were queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Run {
    /// Bytes of records that have been queued before the first of them.
    pub(in crate::store) queued: u64,
    /// The segment's number.
    pub(in crate::store) segment: u64,
    /// Where in its file the first of them begins.
    pub(in crate::store) at: u64,
}

/// What a group came to.
pub(in crate::store) struct Written {
    /// What it took, the rest of its last page included.
    pub(in crate::store) bytes: u64,
    /// Where its records stand.
    pub(in crate::store) run: Run,
    /// How long its sync took.
    pub(in crate::store) sync: Duration,
    /// Whether a segment was begun for it.
    pub(in crate::store) rolled: bool,
    /// Whether it brought its segment to where the next one should be made ready.
    pub(in crate::store) next_wanted: bool,
}

impl Writer {
    pub(in crate::store) fn new(
        env: Env,
        segments: Arc<Mutex<Segments>>,
        config: LogConfig,
        tail: Tail,
        durable: u64,
    ) -> Self {
        let growing = is_growing(&segments, &tail);
        Self { env, segments, config, tail, growing, durable, buffer: Vec::new() }
    }

    /// Makes a group of batches durable, whole. Blocks.
    pub(in crate::store) fn append(&mut self, group: &[Batch]) -> io::Result<Written> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Err(io::Error::other("an empty group has no place in the log"));
        };
        let bytes = record::group_bytes(group.iter().map(|batch| batch.changes.as_slice()));
        // A group larger than a segment gets one to itself, whose file grows.
        let is_full = self.tail.at > RECORDS_AT && self.tail.at + bytes > self.config.segment_bytes;
        let rolled = is_full || self.can_leave_growing();
        if rolled {
            let (header, file) = self.lock().begin(first.number)?;
            self.tail = Tail { header, file, at: RECORDS_AT };
            self.growing = is_growing(&self.segments, &self.tail);
        }
        let seed = seed(&self.tail.header, &self.config);
        self.buffer.clear();
        for batch in group {
            record::write_batch(&mut self.buffer, seed, batch.number, &batch.changes);
        }
        record::write_seal(&mut self.buffer, seed, last.number, self.durable);
        self.fill_last_page();
        self.tail.file.bytes.write_at(self.tail.at, &self.buffer)?;
        let began = self.env.now();
        if !self.config.breaks(Mutant::SkippedSync) {
            self.tail.file.bytes.sync()?;
        }
        let sync = self.env.now() - began;
        let want_at = self.next_wanted_at();
        let next_wanted = self.tail.at < want_at && self.tail.at + bytes >= want_at;
        let run = Run { queued: first.queued, segment: self.tail.header.number, at: self.tail.at };
        self.tail.at += bytes;
        self.durable = last.number;
        self.lock().note_written(bytes);
        Ok(Written { bytes: self.buffer.len() as u64, run, sync, rolled, next_wanted })
    }

    /// A page that a group is the first to write to is written whole: of a part the page cache would have to read the rest,
    /// where it does not hold it.
    fn fill_last_page(&mut self) {
        let begun = usize::try_from(self.tail.at % PAGE_BYTES as u64).unwrap_or(0);
        let end = begun + self.buffer.len();
        if end > begun.next_multiple_of(PAGE_BYTES) {
            self.buffer.resize(end.next_multiple_of(PAGE_BYTES) - begun, 0);
        }
    }

    /// Where in a segment the next one should be made ready.
    fn next_wanted_at(&self) -> u64 {
        let share = if self.growing { GROWING_SHARE } else { 2 };
        RECORDS_AT + self.config.segment_bytes / share
    }

    fn can_leave_growing(&self) -> bool {
        self.growing && self.tail.at >= self.next_wanted_at() && !self.lock().wants_spare()
    }

    /// Where the next group goes, unless it needs a segment of its own.
    #[cfg(test)]
    pub(super) fn position(&self) -> u64 {
        self.tail.at
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_growing(segments: &Mutex<Segments>, tail: &Tail) -> bool {
    let segments = segments.lock().unwrap_or_else(PoisonError::into_inner);
    !segments.has_its_length(&tail.file)
}
