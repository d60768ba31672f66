//! Rows that are visible and not yet in the tables.

use super::Lsn;
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound};

/// What an entry costs besides its key and value.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// A changed row: its encoded key, and its bytes or `None` if it was removed.
pub(super) type Change = (Bytes, Option<Bytes>);

/// The newest version of every row changed by the batches `first ..= last`, in order. `None` is a removed row.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    rows: BTreeMap<Bytes, Option<Bytes>>,
    /// Of the newest batch in it.
    pub(super) last: Lsn,
    /// How many batches it holds.
    pub(super) batches: u64,
    /// What it costs, bookkeeping included.
    pub(super) bytes: u64,
}

impl Memtable {
    /// Puts a batch on top.
    pub(super) fn apply(&mut self, lsn: Lsn, changes: impl IntoIterator<Item = Change>) {
        for (key, value) in changes {
            let key_bytes = key.len() as u64;
            self.bytes += key_bytes + ENTRY_OVERHEAD_BYTES + value_bytes(&value);
            if let Some(replaced) = self.rows.insert(key, value) {
                self.bytes -= key_bytes + ENTRY_OVERHEAD_BYTES + value_bytes(&replaced);
            }
        }
        self.last = lsn;
        self.batches += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.rows.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.rows.iter()
    }

    /// The rows after a key, in order.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.range(key.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }

    /// The rows between the bounds, in order.
    ///
    /// # Panics
    /// If the bounds are in the wrong order.
    pub(super) fn range(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.rows.range::<[u8], _>((lower, upper))
    }
}

fn value_bytes(value: &Option<Bytes>) -> u64 {
    value.as_ref().map_or(0, |value| value.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_cost_is_that_of_the_rows_it_holds() {
        let key = Bytes::from_static(b"key");
        let mut table = Memtable::default();
        table.apply(Lsn(1), [(key.clone(), Some(Bytes::from_static(b"a longer value")))]);
        table.apply(Lsn(2), [(key.clone(), Some(Bytes::from_static(b"v")))]);
        assert_eq!(table.bytes, 4 + ENTRY_OVERHEAD_BYTES);
        table.apply(Lsn(3), [(key, None)]);
        assert_eq!(table.bytes, 3 + ENTRY_OVERHEAD_BYTES);
        assert_eq!((table.last, table.batches), (Lsn(3), 3));
    }
}
