//! Rows that are visible and not yet in the tables.

use super::{
    Lsn,
    files::{file_of, first_key_of_file},
    stored::{Encoded, Stored, encode_value},
};
use bytes::Bytes;
use std::{cmp::Ordering, collections::BTreeMap, ops::Bound};

/// What an entry costs besides its key and value.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// A changed row: its encoded key, and its bytes or `None` if it was removed.
pub(super) type Change = (Bytes, Option<Bytes>);

/// What a memtable has of a row.
pub(super) trait Entry {
    /// Bytes that it takes besides its key and what every entry takes.
    fn bytes(&self) -> u64;

    /// The row; nothing if it was removed.
    fn stored(&self) -> Option<Stored>;

    /// What a store file is to hold under an encoded key; nothing of a removed row.
    fn encode(&self, key: &[u8]) -> Option<Encoded<'_>>;
}

/// A row's newest version, whole.
#[derive(Debug)]
pub(super) struct Whole {
    /// `None` is a removed row.
    pub(super) value: Option<Bytes>,
    /// How many bytes of records have been queued for the log before this one, since the store was opened.
    pub(super) queued: u64,
}

impl Entry for Whole {
    fn bytes(&self) -> u64 {
        self.value.as_ref().map_or(0, |value| value.len() as u64)
    }

    fn stored(&self) -> Option<Stored> {
        self.value.clone().map(Stored::Here)
    }

    fn encode(&self, key: &[u8]) -> Option<Encoded<'_>> {
        self.value.as_ref().map(|value| encode_value(key, value))
    }
}

/// What is left of a row's newest version in memory once the log has it; `None` is a removed row.
impl Entry for Option<Stored> {
    fn bytes(&self) -> u64 {
        self.as_ref().map_or(0, Stored::bytes)
    }

    fn stored(&self) -> Option<Stored> {
        self.clone()
    }

    fn encode(&self, key: &[u8]) -> Option<Encoded<'_>> {
        self.as_ref().map(|stored| stored.encode(key))
    }
}

/// Rows as they were applied.
pub(super) type Fresh = Memtable<Whole>;
/// Rows that the log has made durable.
pub(super) type Folded = Memtable<Option<Stored>>;

/// The newest version of every row changed by some batches in a row, in order.
#[derive(Debug)]
pub(super) struct Memtable<E> {
    rows: BTreeMap<Bytes, E>,
    /// Of the newest batch in it.
    pub(super) last: Lsn,
    /// How many batches it holds.
    pub(super) batches: u64,
    /// What it costs, bookkeeping included.
    pub(super) bytes: u64,
}

impl<E> Default for Memtable<E> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), last: Lsn(0), batches: 0, bytes: 0 }
    }
}

impl<E: Entry> Memtable<E> {
    /// Puts a row in, in the place of its older version.
    pub(super) fn put(&mut self, key: Bytes, entry: E) {
        let key_bytes = key.len() as u64;
        self.bytes += key_bytes + ENTRY_OVERHEAD_BYTES + entry.bytes();
        if let Some(replaced) = self.rows.insert(key, entry) {
            self.bytes -= key_bytes + ENTRY_OVERHEAD_BYTES + replaced.bytes();
        }
    }

    /// It has all rows of so many more batches, up to this one.
    pub(super) fn reaches(&mut self, last: Lsn, batches: u64) {
        self.last = last;
        self.batches += batches;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&E> {
        self.rows.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &E)> {
        self.rows.iter()
    }

    /// The rows after a key that stand in one of so many store files, in order.
    pub(super) fn of_file(
        &self,
        number: usize,
        files: usize,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, &E)> {
        let mut rows =
            self.rows.range::<[u8], _>((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        // In each table they stand together: what is before and behind them is skipped.
        std::iter::from_fn(move || {
            loop {
                let (key, entry) = rows.next()?;
                let table = u32::from_be_bytes(*key.first_chunk()?);
                let table = match file_of(key, files).cmp(&number) {
                    Ordering::Equal => return Some((key, entry)),
                    Ordering::Less => table,
                    Ordering::Greater => table.checked_add(1)?,
                };
                let first = first_key_of_file(table, number, files);
                rows = self.rows.range::<[u8], _>((Bound::Included(first.as_slice()), Bound::Unbounded));
            }
        })
    }

    /// What a store file is to hold of them, in order.
    pub(super) fn encoded(&self) -> impl Iterator<Item = (&Bytes, Option<Encoded<'_>>)> {
        self.iter().map(|(key, entry)| (key, entry.encode(key)))
    }

    /// The rows between the bounds, in order.
    ///
    /// # Panics
    /// If the bounds are in the wrong order.
    pub(super) fn range(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, &E)> {
        self.rows.range::<[u8], _>((lower, upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RowKey, TableId, key, stored::Place};
    use proptest::prelude::*;
    use rondel_proto::id::Position;

    proptest! {
        #[test]
        fn each_row_is_in_its_file_once_and_in_order(
            places in proptest::collection::vec((0..4_u32, any::<u64>()), 0..60),
            bits in 0..5_u32,
            after in any::<prop::sample::Index>(),
        ) {
            let mut table = Folded::default();
            for (number, position) in places {
                let key = Bytes::from_static(b"key");
                let at = RowKey { table: TableId(number * 16), position: Position(position), key };
                table.put(key::encode(&at), None);
            }
            let all: Vec<_> = table.iter().map(|(key, _)| key).collect();
            let after = after.index(all.len() + 1).checked_sub(1).map(|index| &**all[index]);
            for number in 0..1 << bits {
                let found: Vec<_> = table.of_file(number, 1 << bits, after).map(|(key, _)| key).collect();
                let is_of_file =
                    |key: &&Bytes| file_of(key, 1 << bits) == number && after.is_none_or(|after| ***key > *after);
                let expected: Vec<_> = all.iter().copied().filter(is_of_file).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn its_cost_is_that_of_the_rows_it_holds() {
        let key = Bytes::from_static(b"key");
        let here = |value| Some(Stored::Here(Bytes::from_static(value)));
        let mut table = Folded::default();
        table.put(key.clone(), here(b"a longer value"));
        table.put(key.clone(), here(b"v"));
        assert_eq!(table.bytes, 4 + ENTRY_OVERHEAD_BYTES);
        table.put(key.clone(), Some(Stored::There(Place { segment: 1, offset: 2, bytes: 3 })));
        table.put(key, None);
        assert_eq!(table.bytes, 3 + ENTRY_OVERHEAD_BYTES);
        table.reaches(Lsn(2), 2);
        table.reaches(Lsn(3), 1);
        assert_eq!((table.last, table.batches), (Lsn(3), 3));
    }
}
