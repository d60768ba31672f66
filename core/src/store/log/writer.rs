//! The end of the log: groups of batches go to the newest segment, one sync each.

use super::{
    LogConfig, Mutant, record,
    recovery::{Tail, seed},
    segment::{RECORDS_AT, Segments},
};
use crate::store::memtable::Change;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// A batch on its way to the log.
pub(in crate::store) struct Batch {
    pub(in crate::store) number: u64,
    pub(in crate::store) changes: Vec<Change>,
}

/// Appends groups. One per log.
pub(in crate::store) struct Writer {
    segments: Arc<Mutex<Segments>>,
    config: LogConfig,
    tail: Tail,
    /// The last batch that is durable.
    durable: u64,
    buffer: Vec<u8>,
}

/// What a group came to.
pub(in crate::store) struct Written {
    pub(in crate::store) bytes: u64,
    /// Whether a segment was begun for it.
    pub(in crate::store) rolled: bool,
    /// Whether it brought its segment past the middle: the next one will be wanted.
    pub(in crate::store) past_middle: bool,
}

impl Writer {
    pub(in crate::store) fn new(
        segments: Arc<Mutex<Segments>>,
        config: LogConfig,
        tail: Tail,
        durable: u64,
    ) -> Self {
        Self { segments, config, tail, durable, buffer: Vec::new() }
    }

    /// Makes a group of batches durable, whole. Blocks.
    pub(in crate::store) fn append(&mut self, group: &[Batch]) -> io::Result<Written> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(Written { bytes: 0, rolled: false, past_middle: false });
        };
        let bytes = record::group_bytes(group.iter().map(|batch| batch.changes.as_slice()));
        // A group larger than a segment gets one to itself, whose file grows.
        let rolled = self.tail.at > RECORDS_AT && self.tail.at + bytes > self.config.segment_bytes;
        if rolled {
            let (header, file) = self.lock().begin(first.number)?;
            self.tail = Tail { header, file, at: RECORDS_AT };
        }
        let seed = seed(&self.tail.header, &self.config);
        self.buffer.clear();
        for batch in group {
            record::write_batch(&mut self.buffer, seed, batch.number, &batch.changes);
        }
        record::write_seal(&mut self.buffer, seed, last.number, self.durable);
        self.tail.file.bytes.write_at(self.tail.at, &self.buffer)?;
        if !self.config.breaks(Mutant::SkippedSync) {
            self.tail.file.bytes.sync()?;
        }
        let middle = self.config.segment_bytes / 2;
        let past_middle = self.tail.at < middle && self.tail.at + bytes >= middle;
        self.tail.at += bytes;
        self.durable = last.number;
        self.lock().note_written(bytes);
        Ok(Written { bytes, rolled, past_middle })
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
