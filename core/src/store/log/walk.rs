//! The records of one segment, as far as they follow one another.

use super::record::{self, Body, Record, Seed};

/// Records in order. It ends at the first that can't be read, or that does not come next: batches are numbered without
/// gaps, and a group ends in a seal.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    seed: Seed,
    at: usize,
    /// The batch of the record before.
    number: u64,
    /// Whether records have come since the last seal.
    open: bool,
}

impl<'a> Walk<'a> {
    /// Of what stands behind a segment's header, which says that batch `first` comes first.
    pub(super) fn new(bytes: &'a [u8], seed: Seed, first: u64) -> Self {
        Self { bytes, seed, at: 0, number: first.saturating_sub(1), open: false }
    }
}

impl<'a> Iterator for Walk<'a> {
    /// Where a record begins, and what it says.
    type Item = (usize, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let record = record::read(self.bytes.get(self.at..)?, self.seed)?;
        let goes_on = self.open && record.number == self.number;
        let follows = match record.body {
            Body::Change { .. } => goes_on || record.number == self.number + 1,
            Body::Seal { .. } => goes_on,
        };
        if !follows {
            return None;
        }
        let at = self.at;
        self.at += record.bytes;
        self.number = record.number;
        self.open = matches!(record.body, Body::Change { .. });
        Some((at, record))
    }
}
